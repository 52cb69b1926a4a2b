//! `lyceum doctor`: what this machine has, whether the data folder works, and whether a server could start on it; with
//! `--url` how that server is seen from here.
//!
//! Each check is made alone and tells either what it found or what is wrong, where, and what mends it; what a broken
//! thing stands in the way of is said to be left out. Nothing is repaired here but what every opening of a data folder
//! does. [`machine`] looks at the machine, [`folder`] at what was kept, [`network`] at how it would be served,
//! [`server`] at a server elsewhere.

mod folder;
mod machine;
mod network;
mod server;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Doctor {}

/// What one look found.
struct Check {
    name: &'static str,
    found: Found,
}

enum Found {
    Well(String),
    Wrong(Vec<Failure>),
    /// Why nobody could look.
    LeftOut(&'static str),
}

impl From<Result<String, Failure>> for Found {
    fn from(result: Result<String, Failure>) -> Self {
        match result {
            Ok(text) => Found::Well(text),
            Err(failure) => Found::Wrong(vec![failure]),
        }
    }
}

impl From<Result<String, Vec<Failure>>> for Found {
    fn from(result: Result<String, Vec<Failure>>) -> Self {
        result.map_or_else(Found::Wrong, Found::Well)
    }
}

impl Check {
    fn new(name: &'static str, found: impl Into<Found>) -> Self {
        Check { name, found: found.into() }
    }
}

impl Doctor {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some((client, no_key)) = context.access.to_look_at()? {
            let looking = tokio::task::spawn_blocking(move || server::looked_at(&client, no_key)).await;
            let checks = looking.map_err(|error| Failure::internal("looking broke off", &error))?;
            return tell(context.is_json(), checks);
        }
        let config = &context.config;
        let mut checks = vec![
            Check::new("configuration", Ok::<_, Failure>(machine::configuration(config))),
            Check::new("processor", machine::processor()),
            Check::new("arithmetic", machine::arithmetic()),
            Check::new("memory", machine::memory(config)),
            Check::new("writing", folder::writing(config)),
            Check::new("permissions", folder::permissions(config)),
        ];
        checks.extend(folder::kept(context).await);
        checks.push(Check::new("certificate", network::certificate(config)));
        checks.push(Check::new("port", network::port(config)));
        tell(context.is_json(), checks)
    }
}

/// A slip in `LYCEUM_CPU` is an error of every command, and not only of those that compute.
pub fn chosen_processor() -> Result<(), Failure> {
    machine::chosen().map(drop)
}

/// What can be said where the configuration itself is wrong: nothing else can be looked for with it.
pub fn only_configuration(as_json: bool, failure: Failure) -> Failure {
    let mut all = failure;
    let others = std::mem::take(&mut all.others);
    let wrong = std::iter::once(all).chain(others).collect();
    let check = Check { name: "configuration", found: Found::Wrong(wrong) };
    tell(as_json, vec![check]).expect_err("it is wrong: bug")
}

/// # Errors
/// All that is wrong.
fn tell(as_json: bool, checks: Vec<Check>) -> Result<(), Failure> {
    if as_json {
        let checks: Vec<Value> = checks.iter().flat_map(lines).collect();
        output::json_line(&json!({ "checks": checks, "version": env!("CARGO_PKG_VERSION") }));
    } else {
        output::table(&["check", "", "found"], &checks.iter().flat_map(rows).collect::<Vec<_>>());
    }
    let wrong: Vec<Failure> = checks
        .into_iter()
        .flat_map(|check| match check.found {
            Found::Wrong(failures) => failures,
            Found::Well(_) | Found::LeftOut(_) => Vec::new(),
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(Failure::several(wrong.into_iter())) }
}

fn rows(check: &Check) -> Vec<Vec<String>> {
    let row = |mark: &str, text: String| vec![check.name.to_owned(), mark.to_owned(), text];
    match &check.found {
        Found::Well(text) => vec![row("ok", text.clone())],
        Found::LeftOut(why) => vec![row("left out", (*why).to_owned())],
        Found::Wrong(failures) => failures.iter().map(|wrong| row("wrong", wrong.message.clone())).collect(),
    }
}

fn lines(check: &Check) -> Vec<Value> {
    match &check.found {
        Found::Well(text) => vec![json!({ "name": check.name, "ok": true, "found": text })],
        Found::LeftOut(why) => vec![json!({ "name": check.name, "ok": null, "found": why })],
        Found::Wrong(failures) => failures.iter().map(|wrong| line(check.name, wrong)).collect(),
    }
}

fn line(name: &str, wrong: &Failure) -> Value {
    let mut line = json!({
        "name": name, "ok": false, "code": wrong.code, "found": wrong.message, "why": wrong.why, "fix": wrong.fix,
    });
    for (field, value) in [("file", &wrong.place.file), ("key", &wrong.place.key)] {
        if let Some(value) = value {
            line[field] = Value::from(value.as_str());
        }
    }
    if let Some(number) = wrong.place.line {
        line["line"] = Value::from(number);
    }
    line
}
