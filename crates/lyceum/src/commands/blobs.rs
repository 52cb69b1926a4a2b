//! `lyceum blobs check|sweep|claim`: the object store beside a data folder.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand};
use lyceum_store::Store;
use lyceum_store::blobs::{self, Damaged, Depth};
use lyceum_types::clock::Timestamp;
use serde_json::json;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Blobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write, read and remove an object, and look whether every object that is referred to is there
    Check {
        /// Read every object, and hold its bytes to their hash
        #[arg(long)]
        read: bool,
    },
    /// Remove objects that nothing refers to any more
    Sweep {
        /// Objects younger than this stay
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        grace: u32,
    },
    /// Take the prefix over from a database that is gone for good (after a restore)
    Claim,
}

impl Blobs {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let Some(place) = store.blobs().map(|blobs| blobs.place().to_owned()) else {
            let why = "bytes lie in the data folder";
            let fix = "set blobs = \"s3://BUCKET/PREFIX\" in lyceum.toml";
            return Err(Failure::usage("no object store is configured", why, fix));
        };
        let (text, mut line) = match self.command {
            Command::Check { read } => {
                check(&store, if read { Depth::Bytes } else { Depth::Lengths }).await?
            }
            Command::Sweep { grace } => sweep(&store, grace).await?,
            Command::Claim => {
                blobs::take_over(&store).await?;
                ("is this database's from now on".to_owned(), json!({}))
            }
        };
        if context.is_json() {
            line["event"] = json!("done");
            line["place"] = json!(place);
            output::json_line(&line);
        } else {
            output::text(format!("{place}: {text}"));
        }
        Ok(())
    }
}

async fn check(store: &Store, depth: Depth) -> Result<(String, serde_json::Value), Failure> {
    if let Some(blobs) = store.blobs() {
        blobs.check().await?;
    }
    let compared = blobs::compare(store, depth).await?;
    if !compared.damaged.is_empty() {
        return Err(Failure::several(compared.damaged.into_iter().map(damaged)));
    }
    let size = output::bytes(compared.bytes);
    let how = match depth {
        Depth::Lengths => "each there in its length",
        Depth::Bytes => "each read and as it was written",
    };
    let text = format!("works; rows refer to {} objects, {size}, {how}", compared.n_objects);
    let read = depth == Depth::Bytes;
    Ok((text, json!({ "objects": compared.n_objects, "bytes": compared.bytes, "read": read })))
}

/// What is wrong with an object, and who can mend it.
pub fn damaged(found: Damaged) -> Failure {
    let Damaged { object, path, why } = found;
    let message = format!("{object}, which {path} needs, is not what was written: {why}");
    let mut failure = Failure::new(
        Exit::Failed,
        "damaged_object",
        message,
        "somebody or something has changed the bucket behind Lyceum",
        "put it back from the bucket's older versions or its copy, or restore a backup; or delete what needs it",
    );
    failure.place.file = Some(object);
    failure
}

async fn sweep(store: &Store, grace: u32) -> Result<(String, serde_json::Value), Failure> {
    let grace = Duration::from_secs(u64::from(grace) * 3600);
    let swept = blobs::sweep(store, grace, Timestamp::now()).await?;
    let size = output::bytes(swept.bytes_removed);
    let text = format!("{} objects stay, {} were removed ({size})", swept.n_kept, swept.n_removed);
    let line =
        json!({ "kept": swept.n_kept, "removed": swept.n_removed, "bytes_removed": swept.bytes_removed });
    Ok((text, line))
}
