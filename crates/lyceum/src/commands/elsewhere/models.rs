//! `ls`, `show`, `card` and `calibrate` of a server's models.

use crate::commands::calibrate::{Calibrate, for_people};
use crate::commands::card::{Card, Format};
use crate::commands::ls::Ls;
use crate::commands::show::Show;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use crate::{files, output, time};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use lyceum_types::manifest::CalibrationReport;
use serde_json::{Value, json};

impl Ls {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let found = client.get("/v1/models")?;
        // A version stands there under its number and, where it is served, under its name.
        let versions = found["data"].as_array().into_iter().flatten().filter(|m| m["id"] == m["root"]);
        if context.is_json() {
            let lines: Vec<Value> = versions.map(line).collect();
            output::json_line(&json!({ "models": lines }));
            return Ok(());
        }
        let row = |model: &Value| {
            let text = |field: &str| model[field].as_str().unwrap_or_default().to_owned();
            vec![
                text("id"),
                text("family"),
                text("task"),
                model["params"].to_string(),
                output::bytes(model["bytes"].as_u64().unwrap_or_default()),
                text("sha256").chars().take(12).collect(),
                created(model),
                model["held"].as_str().map_or_else(String::new, |_| "held".to_owned()),
            ]
        };
        let header = ["model", "family", "task", "params", "size", "sha256", "created", "gate"];
        output::table(&header, &versions.map(row).collect::<Vec<_>>());
        Ok(())
    }
}

/// A version in the words of `lyceum ls --json`.
fn line(model: &Value) -> Value {
    let (name, version) = model["id"].as_str().and_then(|id| id.split_once('@')).unwrap_or_default();
    json!({
        "name": name, "version": version.parse::<u32>().ok(), "family": model["family"], "task": model["task"],
        "params": model["params"], "bytes": model["bytes"], "sha256": model["sha256"],
        "created": model["created"], "held": model["held"],
    })
}

fn created(model: &Value) -> String {
    let seconds = model["created"].as_i64().unwrap_or_default();
    time::for_people(Timestamp::from_millis(seconds.saturating_mul(1000)))
}

impl Show {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let model = client.get(&format!("/v1/models/{}", path_of(&self.model)))?;
        if context.is_json() {
            output::json_line(&model);
            return Ok(());
        }
        let mut rows = vec![vec!["model".to_owned(), model["root"].as_str().unwrap_or_default().to_owned()]];
        for field in ["family", "task", "params", "sha256", "parent", "held"] {
            match &model[field] {
                Value::Null => {}
                Value::String(text) => rows.push(vec![field.to_owned(), text.clone()]),
                other => rows.push(vec![field.to_owned(), other.to_string()]),
            }
        }
        rows.push(vec!["size".into(), output::bytes(model["bytes"].as_u64().unwrap_or_default())]);
        rows.push(vec!["created".into(), created(&model)]);
        output::table(&["", ""], &rows);
        output::note("lyceum card says how good it is and what that rests on");
        Ok(())
    }
}

impl Calibrate {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let path = format!("/v1/models/{}/calibrate", path_of(&self.model));
        let made = client.post(&path, &json!({}))?;
        if context.is_json() {
            output::json_line(
                &json!({ "event": "done", "model": made["id"], "calibration": made["calibration"] }),
            );
            return Ok(());
        }
        output::text(made["id"].as_str().unwrap_or_default());
        if let Ok(report) = serde_json::from_value::<CalibrationReport>(made["calibration"].clone()) {
            for_people(&report);
        }
        Ok(())
    }
}

impl Card {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let path = format!("/v1/models/{}/card", path_of(&self.model));
        if self.measure {
            let why = "what an answer costs is measured on the machine that gives it";
            return Err(Failure::usage(
                "--measure does not go with --url",
                why,
                "run it on the server's machine",
            ));
        }
        if let Some(given) = &self.verify {
            return verify(context, client, &path, given.as_deref());
        }
        let is_named =
            |end: &str| self.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == end));
        let media_type = match self.format {
            Some(Format::Json) => "application/json",
            Some(Format::Html) => "text/html",
            Some(Format::Md) => "text/markdown",
            None if is_named("html") => "text/html",
            None if is_named("json") || (context.is_json() && self.out.is_none()) => "application/json",
            None => "text/markdown",
        };
        let text = client.text(&path, media_type)?;
        if let Some(out) = &self.out {
            std::fs::write(out, text).map_err(|error| Failure::file("write", out, &error))?;
            match context.is_json() {
                true => output::json_line(&json!({ "event": "done", "model": self.model, "path": out })),
                false => output::note(format!("wrote {}", out.display())),
            }
            return Ok(());
        }
        match (context.is_json(), serde_json::from_str::<Value>(&text)) {
            (true, Ok(card)) if media_type == "application/json" => output::json_line(&card),
            (true, _) => {
                output::json_line(&json!({ "model": self.model, "media_type": media_type, "text": text }));
            }
            (false, _) => output::write_stdout(&text),
        }
        Ok(())
    }
}

fn verify(
    context: &Context,
    client: &Client,
    path: &str,
    given: Option<&std::path::Path>,
) -> Result<(), Failure> {
    let card = match given {
        None => Value::Null,
        Some(file) => {
            let text = files::read_text(file, limits::BODY_BYTES_MAX as u64)?;
            serde_json::from_str(&text).map_err(|error| {
                let message = format!("{} is no JSON", file.display());
                let fix = "give a card that was saved as JSON";
                Failure::new(Exit::Failed, "not_a_card", message, error.to_string(), fix)
            })?
        }
    };
    let body = if card.is_null() { json!({}) } else { json!({ "card": card }) };
    let found = client.post(&format!("{path}/verify"), &body)?;
    let checks: Vec<&Value> = found["checks"].as_array().into_iter().flatten().collect();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    if context.is_json() {
        output::json_line(&found);
    } else {
        let row = |check: &&Value| ["name", "state", "detail"].map(|field| text(check, field)).to_vec();
        output::table(&["check", "", "found"], &checks.iter().map(row).collect::<Vec<_>>());
    }
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check["state"] == "failed")
        .map(|check| format!("{}: {}", text(check, "name"), text(check, "detail")))
        .collect();
    if found["verified"] == true {
        return Ok(());
    }
    let fix = "trust neither card nor files until you know who changed them";
    let message = "the card does not hold";
    Err(Failure::new(Exit::Failed, "card_refused", message, failed.join("; "), fix))
}
