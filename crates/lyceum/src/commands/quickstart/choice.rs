//! Which model is enough for the diagnosis: a short race of ordinary candidates, by the code of `lyceum choose`.

use crate::commands::choose::job;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::training::Takes;
use lyceum_service::selections::Plan;
use lyceum_store::Store;
use lyceum_store::jobs::{self, Kind, State};
use lyceum_types::spec::choose::ChooseSpec;
use serde_json::{Value, json};
use std::path::Path;

const SPEC: &str = include_str!("../../../starter/breast-cancer-choice.toml");

/// Shows which model the rule takes and why; what an earlier run found is not raced for again.
pub async fn show(context: &Context, store: &Store, folder: &Path) -> Result<(), Failure> {
    let spec = ChooseSpec::from_toml(SPEC, "breast-cancer-choice.toml")?;
    if !context.is_json() {
        output::text(format!(
            "\n{}: which model is enough? A race of {:.0} seconds at most, with three seeds each",
            spec.name,
            spec.budget_minutes * 60.0
        ));
    }
    let ours = |job: &&jobs::Job| job.kind == Kind::Choose && job.model == spec.name;
    let earlier = jobs::list(store, &context.project).await?;
    let done = earlier.iter().rev().filter(ours).find(|job| job.state == State::Done);
    if let Some(job) = done {
        return job::resume(context, store, job, Takes::Any).await;
    }
    // The race is for the sentence; the served diagnosis is the starter's.
    let plan = Plan { spec, base_dir: folder.to_owned(), registers: false };
    let claim = job::begin(context, store, &plan).await?;
    let chosen = job::carry_out(context, store, &claim, &plan).await?;
    say(context, &chosen.document);
    Ok(())
}

fn say(context: &Context, document: &Value) {
    let sentence = document["recommendation"]["sentence"].as_str().or(document["nothing_left"].as_str());
    if context.is_json() {
        output::json_line(&json!({
            "event": "choice", "id": document["id"], "taken": document["recommendation"]["candidate"],
            "best": document["recommendation"]["best"], "sentence": sentence,
            "minutes": document["budget"]["used_minutes"],
        }));
        return;
    }
    output::text(format!("  {}", sentence.unwrap_or_default()));
    for tie in document["ties"].as_array().into_iter().flatten() {
        output::text(format!("  {}", tie["sentence"].as_str().unwrap_or_default()));
    }
    output::note(format!(
        "every row: DATA_DIR/selections/{}.json; your own data: lyceum choose SPEC",
        document["id"].as_str().unwrap_or_default()
    ));
}
