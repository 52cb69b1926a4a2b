//! `lyceum batches create|ls|get|cancel|output`: requests of a file that a server answers when it has room.

use crate::commands::files::fetch;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Batches {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a file of requests, one JSON object a line, and have them answered
    Create {
        file: PathBuf,
        /// The route that every line is for, as /v1/chat/completions
        #[arg(long, value_name = "PATH")]
        endpoint: String,
    },
    /// Show the batches
    Ls,
    /// Show one batch
    Get { id: String },
    /// Let a batch end early; what was answered is kept
    Cancel { id: String },
    /// Fetch the answers
    Output {
        id: String,
        /// The lines that failed in their place
        #[arg(long)]
        errors: bool,
        /// Where they go; without it to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl Batches {
    pub fn run(self) -> Result<(), Failure> {
        let why = "a batch is answered by a server when it has room; lyceum predict answers a file here";
        Err(Failure::usage("lyceum batches asks a server", why, "add --url https://HOST:8317"))
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let one = |id: &str| format!("/v1/batches/{}", path_of(id));
        match self.command {
            Command::Create { file, endpoint } => {
                let kept = client.upload(&file, "batch")?;
                let body =
                    json!({"input_file_id": kept["id"], "endpoint": endpoint, "completion_window": "24h"});
                shown(context, &client.post("/v1/batches", &body)?);
            }
            Command::Ls => list(context, client)?,
            Command::Get { id } => shown(context, &client.get(&one(&id))?),
            Command::Cancel { id } => {
                shown(context, &client.post(&format!("{}/cancel", one(&id)), &json!({}))?);
            }
            Command::Output { id, errors, out } => {
                let batch = client.get(&one(&id))?;
                let field = if errors { "error_file_id" } else { "output_file_id" };
                let Some(file) = batch[field].as_str() else {
                    let message = format!("{id} has no {}", if errors { "errors" } else { "answers" });
                    let why = format!("it is {}", batch["status"].as_str().unwrap_or_default());
                    let fix = "lyceum batches get shows how far it is";
                    return Err(Failure::new(Exit::NotFound, "no_output", message, why, fix));
                };
                fetch(context, client, file, out)?;
            }
        }
        Ok(())
    }
}

/// Its id first, so that a script has it; for people, how far it is.
fn shown(context: &Context, batch: &Value) {
    if context.is_json() {
        output::json_line(batch);
        return;
    }
    let text = |field: &str| batch[field].as_str().unwrap_or_default();
    output::text(format!("{}  {}  {}", text("id"), text("status"), counted(batch)));
    for error in batch["errors"]["data"].as_array().into_iter().flatten() {
        let line = error["line"].as_u64().map_or_else(String::new, |line| format!("line {line}: "));
        output::text(format!("{line}{}", error["message"].as_str().unwrap_or_default()));
    }
}

/// `12 of 40, 1 failed`
fn counted(batch: &Value) -> String {
    let n = |field: &str| batch["request_counts"][field].as_u64().unwrap_or_default();
    format!("{} of {}, {} failed", n("completed"), n("total"), n("failed"))
}

fn list(context: &Context, client: &Client) -> Result<(), Failure> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/batches?limit=100{after}"))?;
        let data = page["data"].as_array().cloned().unwrap_or_default();
        let last = data.last().and_then(|batch| batch["id"].as_str()).map(path_of);
        all.extend(data);
        match last {
            Some(last) if page["has_more"] == true => after = format!("&after={last}"),
            _ => break,
        }
    }
    if context.is_json() {
        output::json_line(&json!({ "batches": all }));
        return Ok(());
    }
    let row = |batch: &Value| {
        let text = |field: &str| batch[field].as_str().unwrap_or_default().to_owned();
        let created = Timestamp::from_millis(batch["created_at"].as_i64().unwrap_or_default() * 1000);
        vec![text("id"), text("endpoint"), text("status"), counted(batch), time::for_people(created)]
    };
    let header = ["batch", "endpoint", "status", "answered", "created"];
    output::table(&header, &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
