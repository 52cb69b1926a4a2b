//! `train` and `jobs` through a server: the data is brought, the job is asked for and followed until it ends.

use super::brought::{Brought, unless_refused};
use super::trust::{document, id_of};
use crate::commands::jobs::{Command as JobsCommand, Jobs};
use crate::commands::train::Train;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use crate::training::refuse_held;
use crate::{gate, output};
use lyceum_types::spec::GateSpec;
use lyceum_types::spec::parse::tunes;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const JOBS: &str = "/v1/fine_tuning/jobs";
/// What a spec names by their paths and a request by their ids, and the request's own field of it.
const FILES: [(&str, &str, &str); 5] = [
    ("data", "train", "training_file"),
    ("data", "valid", "validation_file"),
    ("data", "test", ""),
    ("gate", "data", ""),
    ("gate", "texts", ""),
];
/// Of a job spec that says none.
const SEED_UNSAID: u64 = 0;
/// Between two looks at a job.
const LOOK: Duration = Duration::from_secs(1);

impl Train {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let mut spec = document(&self.spec)?;
        if let Some(flag) = &self.gate {
            spec["gate"] = written(&gate::from_flag(flag)?);
        }
        let folder = self.spec.parent().unwrap_or(Path::new("."));
        if let Some(name) = &self.name {
            spec["name"] = json!(name);
        }
        if let Some(seed) = self.seed {
            spec["seed"] = json!(seed);
        }
        let mut brought = Vec::new();
        let purpose = if tunes(&spec) { of_chats } else { of_rows };
        let request = request(client, spec, folder, purpose, &mut brought);
        brought.iter().for_each(|(name, file)| output::note(format!("{name} is {} there", file.id)));
        let asked = request.and_then(|request| client.post(JOBS, &request));
        let started = unless_refused(asked, client, brought.into_iter().map(|(_, file)| file))?;
        output::note(format!("{} is under way", id_of(&started)?));
        follow(context, client, started).await
    }
}

/// The purpose of a file of a job that reads chats, which are judged as they arrive; its texts are none.
fn of_chats(part: &str) -> &'static str {
    if part == "texts" { "user_data" } else { "fine-tune" }
}

/// The purpose of a file whose rows mean what a spec says: the job that reads them judges them.
pub(super) fn of_rows(_: &str) -> &'static str {
    "user_data"
}

/// The request for a training by this spec, whose files are brought, each for the `purpose` of its part of the spec: their
/// names, and what they are there.
pub(super) fn request(
    client: &Client,
    mut spec: Value,
    folder: &Path,
    purpose: fn(&str) -> &'static str,
    brought: &mut Vec<(String, Brought)>,
) -> Result<Value, Failure> {
    let family = spec["model"]["family"].as_str().unwrap_or_default().to_owned();
    if spec["data"]["train"].as_str().is_none() || family.is_empty() {
        let why = "a job needs rows and a family";
        let fix = "write train = \"FILE\" under [data] and family under [model]";
        return Err(Failure::usage("the spec has no data.train or no model.family", why, fix));
    }
    if spec["seed"].is_null() {
        // A request without one has one drawn, and a job spec has this one.
        spec["seed"] = json!(SEED_UNSAID);
    }
    let mut request = json!({ "model": family, "method": { "type": "train" } });
    for (table, part, field) in FILES {
        let Some(name) = spec[table][part].as_str().map(str::to_owned) else { continue };
        let file = Brought::bring(client, (folder, &name), purpose(part))?;
        spec[table][part] = json!(file.id);
        if !field.is_empty() {
            request[field] = json!(file.id);
        }
        brought.push((name, file));
    }
    request["method"]["train"] = json!({ "spec": spec });
    Ok(request)
}

/// A gate as a spec has it.
fn written(gate: &GateSpec) -> Value {
    let mut table = serde_json::to_value(gate).expect("a gate is plain data: bug");
    if let Some(table) = table.as_object_mut() {
        table.retain(|_, value| !value.is_null());
    }
    table
}

/// A job that has ended or is paused as the last line of its command, as `lyceum train` ends: `model` is what came of it,
/// what it came from is `base`.
fn last_line(job: &Value) -> Value {
    let mut line = job.clone();
    line["event"] = json!(if job["status"] == "succeeded" { "done" } else { "paused" });
    line["job"] = job["id"].clone();
    line["base"] = job["model"].clone();
    line["model"] = job["fine_tuned_model"].clone();
    line
}

/// Looks until the job has ended or is paused; Ctrl-C leaves it running there.
async fn follow(context: &Context, client: &Client, mut job: Value) -> Result<(), Failure> {
    let path = format!("{JOBS}/{}", path_of(id_of(&job)?));
    let mut told = String::new();
    loop {
        let events = client.get(&format!("{path}/events?limit=1"))?;
        let last = events["data"][0]["message"].as_str().unwrap_or_default();
        if last != told {
            last.clone_into(&mut told);
            output::note(last);
        }
        match job["status"].as_str().unwrap_or_default() {
            "succeeded" | "paused" => break,
            status @ ("failed" | "cancelled") => {
                let why = job["error"]["message"].as_str().unwrap_or("it gives no reason").to_owned();
                let fix = format!("lyceum jobs logs {} --url … shows what it said", id_of(&job)?);
                let message = format!("the server's job ended: {status}");
                return Err(Failure::new(Exit::Failed, "work_failed", message, why, fix));
            }
            _ => {}
        }
        if context.control.check().is_err() {
            let id = id_of(&job)?;
            return Err(Failure::interrupted(format!("{id} goes on there; lyceum jobs cancel {id} ends it")));
        }
        tokio::time::sleep(LOOK).await;
        job = client.get(&path)?;
    }
    if context.is_json() {
        output::json_line(&last_line(&job));
    } else {
        output::text(match job["fine_tuned_model"].as_str() {
            Some(model) => format!("{model} is served there"),
            None => format!("{} is {}", id_of(&job)?, job["status"].as_str().unwrap_or_default()),
        });
    }
    refuse_held(&json!({ "model": job["fine_tuned_model"], "gate": job["lyceum"]["gate"] }))
}

impl Jobs {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        match self.command {
            JobsCommand::Ls => {
                let found = client.get(&format!("{JOBS}?limit=100"))?;
                if context.is_json() {
                    output::json_line(&found);
                    return Ok(());
                }
                let text = |job: &Value, field: &str| job[field].as_str().unwrap_or_default().to_owned();
                let row = |job: &Value| {
                    ["id", "status", "model", "fine_tuned_model"].map(|field| text(job, field)).to_vec()
                };
                let rows: Vec<Vec<String>> =
                    found["data"].as_array().into_iter().flatten().map(row).collect();
                output::table(&["job", "status", "base", "model"], &rows);
                if found["has_more"] == true {
                    output::note("these are the newest hundred");
                }
                Ok(())
            }
            JobsCommand::Logs { id } => {
                let events = client.get(&format!("{JOBS}/{}/events?limit=100", path_of(&id)))?;
                if context.is_json() {
                    output::json_line(&events);
                    return Ok(());
                }
                // The server gives the newest first.
                for event in events["data"].as_array().into_iter().flatten().rev() {
                    output::text(event["message"].as_str().unwrap_or_default());
                }
                if events["has_more"] == true {
                    output::note("these are the newest hundred");
                }
                Ok(())
            }
            JobsCommand::Pause { id } => told(context, client, &id, "pause"),
            JobsCommand::Cancel { id } => told(context, client, &id, "cancel"),
            JobsCommand::Resume { id, waiting: false, of: None, sealed: false } => {
                let path = format!("{JOBS}/{}/resume", path_of(&id));
                let job = client.post(&path, &json!({}))?;
                follow(context, client, job).await
            }
            JobsCommand::Resume { .. } => {
                let why = "it is the server that hands jobs to its processes";
                Err(Failure::usage("--waiting and --of do not go with --url", why, "leave them out"))
            }
        }
    }
}

fn told(context: &Context, client: &Client, id: &str, verb: &str) -> Result<(), Failure> {
    let job = client.post(&format!("{JOBS}/{}/{verb}", path_of(id)), &json!({}))?;
    if context.is_json() {
        output::json_line(&job);
    } else {
        output::text(format!("{id} is {}", job["status"].as_str().unwrap_or_default()));
    }
    Ok(())
}
