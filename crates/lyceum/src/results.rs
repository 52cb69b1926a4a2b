//! What a training that was asked for over HTTP measured on its way, as OpenAI's results file: a row a step, and a column
//! for each number that was computed.

use crate::failure::Failure;
use lyceum_service::fine_tuning::events::of_training;
use lyceum_store::data_files::{self, Incoming, NewFile, Room};
use lyceum_store::jobs::kept::LOG;
use lyceum_store::jobs::{self, Claim};
use lyceum_store::{Store, StoreError, vault};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::FileId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "step_metrics.csv";
const PURPOSE: &str = "fine-tune-results";

/// Keeps the numbers in the log of a job as a file of its project: its id. None: the job was made at the command line, or
/// measured nothing.
pub async fn keep(store: &Store, claim: &Claim) -> Result<Option<String>, Failure> {
    let job = jobs::find(store, &claim.project, claim.id()).await?;
    if job.request.is_none() {
        return Ok(None);
    }
    let path = vault::job_folder(store, &claim.project, claim.id())?.join(LOG);
    let lines = vault::lines::read(&path, 0, u64::MAX);
    let lines = lines.map_err(|error| Failure::file("open", path.path(), &error))?;
    // Half a line is what a process left that was killed.
    let lines = lines.into_iter().filter_map(|(_, line)| serde_json::from_str(&line).ok());
    let Some(text) = table(lines) else { return Ok(None) };
    // The job's own: an attempt that died after this has made it already.
    let id = FileId::of_job(claim.id());
    let now = Timestamp::now();
    match data_files::find(store, &claim.project, &id, now).await {
        Ok(_) => return Ok(Some(id.to_string())),
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut incoming = Incoming::begin(store, &claim.project)?;
    incoming.write(text.as_bytes())?;
    let arrived = incoming.end()?;
    let new = NewFile { name: NAME.into(), purpose: PURPOSE.into(), expires_at: None };
    data_files::keep_as(store, &claim.project, (id.clone(), Room::Owed), new, (arrived, now)).await?;
    Ok(Some(id.to_string()))
}

/// `step,train_loss,valid_loss,…`; a step that was taken again has its last numbers. None: there are none.
fn table(lines: impl Iterator<Item = Value>) -> Option<String> {
    let mut rows: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
    for line in lines {
        let Some(step) = line["step"].as_u64() else { continue };
        let row = match line["event"].as_str() {
            Some("progress" | "eval") => rows.entry(step).or_default(),
            _ => continue,
        };
        // The loss of private rows is not told.
        if line["event"] == "progress" {
            row.extend(of_training(&line).map(|(name, value)| (name.to_owned(), value)));
        }
        for (name, metric) in line["metrics"].as_object().into_iter().flatten() {
            if let Some(value) = metric["value"].as_f64() {
                row.insert(name.clone(), value);
            }
        }
    }
    let names: BTreeSet<&String> = rows.values().flat_map(BTreeMap::keys).collect();
    if names.is_empty() {
        return None;
    }
    // OpenAI's order: the training's, then the validation's loss and what else it has.
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| (!name.starts_with("train_"), !name.ends_with("_loss"), name.to_owned()));
    let head: Vec<&str> = ["step"].into_iter().chain(names.iter().map(|name| name.as_str())).collect();
    let mut text = head.join(",") + "\n";
    for (step, row) in &rows {
        text += &step.to_string();
        for name in &names {
            text += ",";
            text += &row.get(*name).map_or_else(String::new, f64::to_string);
        }
        text += "\n";
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn a_row_a_step_with_the_numbers_that_there_are() {
        let lines = [
            json!({"event": "data", "train": 3}),
            json!({"event": "progress", "step": 1, "loss": 2.5}),
            json!({"event": "progress", "step": 2, "loss": 9.0}),
            json!({"event": "resumed", "step": 1}),
            json!({"event": "progress", "step": 2, "loss": 1.25, "token_accuracy": 0.75}),
            json!({"event": "eval", "step": 2,
                "metrics": {"valid_accuracy": {"value": 0.5}, "valid_loss": {"value": 1.5}}}),
            json!({"event": "checkpoint", "step": 2}),
        ];
        let expected = "step,train_loss,train_mean_token_accuracy,valid_loss,valid_accuracy\n1,2.5,,,\n2,1.25,0.75,1.5,0.5\n";
        assert_eq!(table(lines.into_iter()).unwrap(), expected);
        assert_eq!(table([json!({"event": "progress", "step": 1, "loss": null})].into_iter()), None);
    }
}
