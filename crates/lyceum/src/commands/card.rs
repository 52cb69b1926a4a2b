//! `lyceum card MODEL`: what is known of a version, how, and what is not; signed. And whether a card holds.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::{Args, ValueEnum};
use lyceum_api::cards::{Form, VerificationBody};
use lyceum_service::card::{self, State, Verification};
use lyceum_service::{Service, ServiceError};
use lyceum_store::models;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Card {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
    /// How the card is written (default: md on a terminal; --json prints the JSON on one line)
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write it to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Check a card against the version's files and compute again what is cheap: the JSON card in FILE, or the one
    /// that was issued last. Exit 1 where something does not hold
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "out"])]
    verify: Option<Option<PathBuf>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
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
        let service = crate::assemble::service(store)?;
        if let Some(file) = &self.verify {
            let given = file.as_deref().map(read).transpose()?;
            return verify(context, &service, &reference, given).await;
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
