//! `lyceum backup create|verify|restore`

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand};
use lyceum_store::backup::{self, Manifest};
use lyceum_store::blobs::s3::Place;
use lyceum_store::{Layout, StoreError};
use lyceum_types::clock::Timestamp;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Backup {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write all rows and files into a new folder, while the service goes on
    Create { folder: PathBuf },
    /// Read every byte of a backup again and compare
    Verify { folder: PathBuf },
    /// Fill an empty data folder (--data-dir) and an empty database from a backup
    Restore { folder: PathBuf },
}

impl Backup {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let now = Timestamp::now();
        match self.command {
            Command::Create { folder } => {
                let store = context.store().await?;
                let done = backup::create(&store, &folder, now).await;
                say(context, ("written to", false), &folder, done)
            }
            Command::Verify { folder } => {
                say(context, ("is whole:", false), &folder, backup::verify(&folder).await)
            }
            Command::Restore { folder } => {
                let config = &context.config;
                let layout = Layout::new(&config.data_dir.value);
                let done = backup::restore(&folder, layout, config.database.value.clone(), now).await;
                say(context, ("restored into", true), &config.data_dir.value, done)
            }
        }
    }
}

fn say(
    context: &Context,
    (verb, is_restored): (&str, bool),
    folder: &Path,
    done: Result<Manifest, StoreError>,
) -> Result<(), Failure> {
    let manifest = done.map_err(failure)?;
    let (n_rows, n_files, bytes) = (manifest.n_rows(), manifest.files.len(), manifest.bytes());
    let elsewhere = manifest.objects.as_ref();
    let objects = elsewhere.map(|o| json!({ "place": o.place, "objects": o.n_objects, "bytes": o.bytes }));
    if context.is_json() {
        output::json_line(&json!({
            "event": "done",
            "folder": folder.display().to_string(),
            "created_at": Timestamp::from_millis(manifest.created_at).seconds(),
            "schema_version": manifest.schema_version,
            "rows": n_rows,
            "files": n_files,
            "bytes": bytes,
            "objects_elsewhere": objects,
        }));
    } else {
        let size = output::bytes(bytes);
        output::text(format!("{verb} {}: {n_rows} rows, {n_files} files, {size}", folder.display()));
        if let Some(o) = elsewhere {
            let size = output::bytes(o.bytes);
            output::text(format!(
                "not in it: {} objects ({size}) in {}, but for copies that this machine had; that place needs a backup of its own",
                o.n_objects, o.place
            ));
            if is_restored
                && context.config.objects.blobs.value.as_ref().map(Place::to_string) != Some(o.place.clone())
            {
                output::text(format!(
                    "set blobs = {:?} in lyceum.toml (or where a copy of it lies) before it is served: without it they are not found",
                    o.place
                ));
            }
        }
    }
    Ok(())
}

fn failure(error: StoreError) -> Failure {
    let text = error.to_string();
    match error {
        StoreError::DamagedFile { path, why } => {
            let fix = "nothing was restored; use another backup";
            let mut failure = Failure::new(
                Exit::Failed,
                "damaged_backup",
                format!("{} is damaged", path.display()),
                why,
                fix,
            );
            failure.place.file = Some(path.display().to_string());
            failure
        }
        StoreError::NotEmpty { .. } => {
            let fix = "name a folder that is not there yet; nothing is ever overwritten";
            Failure::new(Exit::Conflict, "not_empty", text, "what is there would be lost or mixed", fix)
        }
        StoreError::Within { .. } => {
            let fix = "name a folder elsewhere, best on another disk";
            Failure::new(Exit::Usage, "within_data_dir", text, "a backup must outlive its data folder", fix)
        }
        other => other.into(),
    }
}
