//! `lyceum card MODEL`: what is known of a version, how, and what is not; signed. And whether a card holds.

mod language;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::{Args, ValueEnum};
use lyceum_api::cards::{Form, VerificationBody};
use lyceum_choose::serve::{Bench, Quantile, Samples};
use lyceum_kernels::{cpu, pool};
use lyceum_models::bundle;
use lyceum_service::card::measured::{self, Cost};
use lyceum_service::card::{self, State, Verification};
use lyceum_service::{Resident, Service, ServiceError};
use lyceum_store::models;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use lyceum_types::spec::Task;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Clients of the second measurement, and how long each takes.
const CLIENTS: usize = 8;
const MEASURED: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Card {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// How the card is written (default: md on a terminal; --json prints the JSON on one line)
    #[arg(long, value_enum)]
    pub(in crate::commands) format: Option<Format>,
    /// Write it to a file instead
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) out: Option<PathBuf>,
    /// First measure what an answer costs on this machine (a second), so that the card says it
    #[arg(long, conflicts_with = "verify")]
    pub(in crate::commands) measure: bool,
    /// Check a card against the version's files and compute again what is cheap: the JSON card in FILE, or the one
    /// that was issued last. Exit 1 where something does not hold
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "out"])]
    pub(in crate::commands) verify: Option<Option<PathBuf>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::commands) enum Format {
    Json,
    Md,
    Html,
}

impl Card {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        if let Err(error) = models::resolve(&store, &context.project, &reference).await {
            return Err(context.explain(&store, error).await);
        }
        let service = crate::assemble::service(&context.config, store)?;
        if let Some(file) = &self.verify {
            let given = file.as_deref().map(read).transpose()?;
            return verify(context, &service, &reference, given).await;
        }
        if self.measure {
            self::measure_one(context, &service, &reference).await?;
        }
        let signed = card::create(&service, &context.project, &reference).await?;
        let form = match self.format {
            Some(Format::Json) => Form::Json,
            Some(Format::Md) => Form::Markdown,
            Some(Format::Html) => Form::Html,
            None if self.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == "html")) => {
                Form::Html
            }
            None if self.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == "json")) => {
                Form::Json
            }
            None => Form::Markdown,
        };
        if let Some(path) = &self.out {
            std::fs::write(path, form.write(&signed))
                .map_err(|error| Failure::file("write", path, &error))?;
            if context.is_json() {
                output::json_line(&json!({ "event": "done", "model": signed.card.model, "path": path }));
            } else {
                output::note(format!("wrote {}", path.display()));
            }
            return Ok(());
        }
        match (context.is_json(), form) {
            // One line of JSON holds whatever was asked for.
            (true, Form::Json | Form::Markdown) if self.format.is_none_or(|f| matches!(f, Format::Json)) => {
                output::json_line(signed.document());
            }
            (true, form) => {
                let text = form.write(&signed);
                output::json_line(
                    &json!({ "model": signed.card.model, "media_type": form.media_type(), "text": text }),
                );
            }
            (false, form) => output::write_stdout(&form.write(&signed)),
        }
        Ok(())
    }
}

async fn measure_one(context: &Context, service: &Arc<Service>, reference: &ModelRef) -> Result<(), Failure> {
    let version = models::resolve(service.store(), &context.project, reference).await?;
    let broken = |error| Failure::internal("the measurement broke off", &error);
    let (store, machine) = (service.store(), machine());
    let again = format!("lyceum card {} --measure", version.id());
    if lyceum_service::language::is_imported(&version) {
        let language = service.language(&context.project, reference).await?;
        let (of, asked) = (service.clone(), language.clone());
        let measured = tokio::task::spawn_blocking(move || language::measure(&of, &asked)).await;
        let found = measured.map_err(broken)??;
        return Ok(measured::keep_costs(store, &*language, &found, &machine, &again).await?);
    }
    let resident = service.resident(&context.project, reference).await?;
    let asked = resident.clone();
    let measured = tokio::task::spawn_blocking(move || measure(&asked)).await;
    let found = measured.map_err(broken)??;
    Ok(measured::keep_costs(store, &*resident, &found, &machine, &again).await?)
}

/// Asks for the recorded inputs one by one through an engine of its own: what that costs.
fn measure(resident: &Resident) -> Result<Vec<Cost>, Failure> {
    if matches!(resident.manifest.spec.task, Task::LanguageModeling | Task::SequenceToSequence) {
        let why = "an answer is as many steps as its text has tokens, and no length is the usual one";
        let message = "no time of an answer is measured of models that write texts in this version";
        return Err(Failure::new(Exit::Failed, "not_implemented", message, why, "leave --measure out"));
    }
    let rows = bundle::probe_rows(&resident.manifest)
        .map_err(|error| Failure::internal("the recorded inputs cannot be read", &error))?;
    if rows.is_empty() {
        let why = "it was written before inputs were recorded";
        let fix = "train it again";
        return Err(Failure::new(
            Exit::Failed,
            "no_probes",
            "this version has no inputs to ask with",
            why,
            fix,
        ));
    }
    let mut samples = Samples::default();
    Bench::start(CLIENTS)?.measure(&resident.model, &rows, MEASURED, &mut samples)?;
    let mut found = Vec::new();
    let one = format!("one client, {} recorded inputs in turn", rows.len());
    let many = format!("{CLIENTS} clients at once, {} recorded inputs in turn", rows.len());
    for (name, quantile, method) in [
        (measured::MEDIAN_TIME, samples.alone(0.5), &one),
        ("time of an answer, 95th percentile", samples.alone(0.95), &one),
        ("time of an answer, median", samples.together(0.5), &many),
        ("time of an answer, 95th percentile", samples.together(0.95), &many),
    ] {
        let Some(Quantile { ms, ci95, n }) = quantile else { continue };
        let method = method.clone();
        let interval = "order statistics, 95 %";
        found.push(Cost { name, value: ms, unit: "ms", ci95: Some(ci95), interval, n: n as u64, method });
    }
    if let Some(serving) = samples.serving(CLIENTS) {
        let n = serving.together.n as u64;
        let of = |name, value, unit| Cost {
            name,
            value,
            unit,
            ci95: None,
            interval: "none",
            n,
            method: many.clone(),
        };
        found.push(of("answers", serving.answers_per_s, "per second"));
        found.extend(serving.cpu_seconds_per_1k.map(|s| of("processor time of 1,000 answers", s, "s")));
    }
    Ok(found)
}

/// What times depend on.
fn machine() -> String {
    let path = format!("{:?}", cpu::path()).to_lowercase();
    format!("{} threads, {path} kernels, {}", pool::threads(), std::env::consts::ARCH)
}

fn read(path: &std::path::Path) -> Result<Value, Failure> {
    let text = files::read_text(path, limits::BODY_BYTES_MAX as u64)?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("{} is no JSON", path.display());
        Failure::new(
            Exit::Failed,
            "not_a_card",
            message,
            error.to_string(),
            "give a card that was saved as JSON",
        )
    })
}

async fn verify(
    context: &Context,
    service: &Arc<Service>,
    model: &ModelRef,
    given: Option<Value>,
) -> Result<(), Failure> {
    let first = card::verify(service, &context.project, model, given).await;
    let found = match first {
        // Nothing was issued yet: what would be said now is checked.
        Err(ServiceError::NotFound { what: "card", .. }) => {
            card::create(service, &context.project, model).await?;
            card::verify(service, &context.project, model, None).await?
        }
        other => other?,
    };
    let holds = found.holds();
    if context.is_json() {
        let body = serde_json::to_value(VerificationBody::from(found.clone()))
            .map_err(|error| Failure::internal("the checks cannot be written", &error))?;
        output::json_line(&body);
    } else {
        for_people(&found);
    }
    if holds {
        return Ok(());
    }
    let failed = found.checks.iter().filter(|check| check.state == State::Failed);
    let why: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    let message = format!("the card of {} does not hold", found.model);
    let fix =
        "trust neither card nor files until you know who changed them; lyceum card MODEL issues a new card";
    Err(Failure::new(Exit::Failed, "card_refused", message, why.join("; "), fix))
}

fn for_people(found: &Verification) {
    let row = |check: &card::Check| {
        let state = match check.state {
            State::Passed => "passed",
            State::Failed => "FAILED",
            State::NotEvaluated => "not evaluated",
        };
        vec![check.name.to_owned(), state.to_owned(), check.detail.clone()]
    };
    output::table(&["check", "", "found"], &found.checks.iter().map(row).collect::<Vec<_>>());
}
