//! `lyceum files upload|ls|rm|get`: the files of a server.

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::remote::{Client, path_of};
use crate::time;
use clap::{Args, Subcommand};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Files {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a file: its id
    Upload {
        file: PathBuf,
        /// user_data, fine-tune or evals
        #[arg(long, default_value = "user_data")]
        purpose: String,
    },
    /// Show the files
    Ls,
    /// Delete a file
    Rm { id: String },
    /// Fetch a file's bytes
    Get {
        id: String,
        /// Where they go; without it to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl Files {
    pub fn run(self) -> Result<(), Failure> {
        let why = "files belong to a server; commands without one read them where they lie";
        Err(Failure::usage("lyceum files asks a server", why, "add --url https://HOST:8317"))
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        match self.command {
            Command::Upload { file, purpose } => {
                let kept = client.upload(&file, &purpose)?;
                match context.is_json() {
                    true => output::json_line(&kept),
                    false => output::text(kept["id"].as_str().unwrap_or_default()),
                }
            }
            Command::Ls => list(context, client)?,
            Command::Rm { id } => {
                let gone = client.delete(&format!("/v1/files/{}", path_of(&id)))?;
                match context.is_json() {
                    true => output::json_line(&gone),
                    false => output::text(format!("removed {id}")),
                }
            }
            Command::Get { id, out } => {
                fetch(context, client, &id, out)?;
            }
        }
        Ok(())
    }
}

/// A file's bytes, to a new file or to stdout.
pub(in crate::commands) fn fetch(
    context: &Context,
    client: &Client,
    id: &str,
    out: Option<PathBuf>,
) -> Result<(), Failure> {
    let path = format!("/v1/files/{}/content", path_of(id));
    let Some(out) = out else {
        client.download(&path, &mut std::io::stdout().lock())?;
        return Ok(());
    };
    let failed = |error: std::io::Error| Failure::file("write", &out, &error);
    // A name that is taken is refused before anything is fetched.
    let mut file = std::fs::File::create_new(&out).map_err(failed)?;
    let fetched = client.download(&path, &mut file);
    if fetched.is_err() {
        let _ = std::fs::remove_file(&out);
    }
    let bytes = fetched?;
    file.sync_all().map_err(failed)?;
    match context.is_json() {
        true => output::json_line(&json!({ "event": "done", "path": out, "bytes": bytes })),
        false => output::note(format!("wrote {} ({})", out.display(), output::bytes(bytes))),
    }
    Ok(())
}

fn list(context: &Context, client: &Client) -> Result<(), Failure> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/files?limit=1000{after}"))?;
        let data = page["data"].as_array().cloned().unwrap_or_default();
        let last = data.last().and_then(|file| file["id"].as_str()).map(path_of);
        all.extend(data);
        match last {
            Some(last) if page["has_more"] == true => after = format!("&after={last}"),
            _ => break,
        }
    }
    if context.is_json() {
        output::json_line(&json!({ "files": all }));
        return Ok(());
    }
    let row = |file: &Value| {
        let text = |field: &str| file[field].as_str().unwrap_or_default().to_owned();
        let created = Timestamp::from_millis(file["created_at"].as_i64().unwrap_or_default() * 1000);
        let bytes = output::bytes(file["bytes"].as_u64().unwrap_or_default());
        vec![text("id"), text("filename"), text("purpose"), bytes, time::for_people(created)]
    };
    output::table(&["file", "name", "purpose", "size", "created"], &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
