//! Checkpoints and logs of jobs in an object store: a job whose machine is gone goes on from there on another.
//!
//! A checkpoint is brought when it is complete, and never changes; the log comes with it, as far as it was written then.
//! Training does not wait for either. So what another machine begins with is whole, and may be older than what was on
//! the disk that is gone: the steps in between are done again, with the same numbers.
//!
//! ```text
//! jobs/ID/checkpoints/NAME   owner of a checkpoint's files
//! jobs/ID                    owner of the log
//! ```

use super::{Claim, fenced};
use crate::blobs::loose::{self, Copy};
use crate::blobs::{self, Coming};
use crate::{Layout, Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::JobId;
use std::io::ErrorKind;

/// A job's log, in its folder.
pub const LOG: &str = "log.jsonl";

/// Brings what a job has on the disk now: the checkpoints of these names, and its log. Others of its checkpoints go. Nothing
/// where there is no object store.
///
/// # Errors
/// [`StoreError::Fenced`]; the object store; a checkpoint that was removed on the way.
pub async fn keep(
    store: &Store,
    claim: &Claim,
    checkpoints: &[String],
    now: Timestamp,
) -> Result<(), StoreError> {
    if store.blobs().is_none() {
        return Ok(());
    }
    let id = claim.id();
    let known = blobs::owners(store, &folder(id)).await?;
    let wanted: Vec<String> = checkpoints.iter().map(|name| format!("{}/{name}", folder(id))).collect();
    let mut coming: Vec<(&String, Coming)> = Vec::new();
    for owner in wanted.iter().filter(|owner| !known.contains(owner)) {
        let path = store.layout().root().join(owner);
        coming.extend(blobs::bring(store, &claim.project, &path, now).await?.map(|come| (owner, come)));
    }
    // Behind the checkpoints: it tells of each of them.
    let log = loose::bring(store, &claim.project, (&store.layout().job_dir(id), &[LOG]), now).await?;
    let mut transaction = store.write().await?;
    let owned: Option<(i64,)> =
        sqlx::query_as("SELECT attempt FROM jobs WHERE id = $1 AND attempt = $2 AND state = 'running'")
            .bind(id.as_str())
            .bind(i64::from(claim.attempt))
            .fetch_optional(&mut *transaction)
            .await?;
    if owned.is_none() {
        return Err(fenced(claim));
    }
    let mut hashes = Vec::new();
    for (owner, come) in &coming {
        come.hold(&mut transaction, owner).await?;
    }
    if let Some(log) = &log {
        hashes.extend(loose::join(&mut transaction, log, &Layout::job_path(id)).await?);
    }
    for owner in known.iter().filter(|owner| !wanted.contains(owner)) {
        hashes.extend(blobs::forget(&mut transaction, owner).await?);
    }
    transaction.commit().await?;
    blobs::release(store, hashes).await;
    Ok(())
}

/// Before a claim's work begins: where the object store has a newer checkpoint than this machine, it is fetched with the log
/// that tells of it, in the place of what lies here.
///
/// # Errors
/// The object store does not give them, or other bytes than were written; [`StoreError::NoObjects`].
pub async fn bring_back(store: &Store, claim: &Claim) -> Result<(), StoreError> {
    if fetch(store, claim.id()).await? {
        let log = |name: &str| (name == LOG).then_some(Copy::Last);
        loose::have(store, &Layout::job_path(claim.id()), log).await?;
    }
    Ok(())
}

/// For readers: the log of a job as far as it is known, and the checkpoints that it left.
///
/// # Errors
/// As [`bring_back`].
pub async fn have(store: &Store, id: &JobId) -> Result<(), StoreError> {
    fetch(store, id).await?;
    have_log(store, id).await
}

/// As [`have`], without the checkpoints.
///
/// # Errors
/// As [`bring_back`].
pub async fn have_log(store: &Store, id: &JobId) -> Result<(), StoreError> {
    if store.blobs().is_none() && store.layout().job_dir(id).join(LOG).exists() {
        return Ok(());
    }
    let log = |name: &str| (name == LOG).then_some(Copy::Growing);
    loose::have(store, &Layout::job_path(id), log).await
}

/// Fetches the checkpoints where the newest of them is newer than all of this machine; whether it was.
async fn fetch(store: &Store, id: &JobId) -> Result<bool, StoreError> {
    let known = blobs::owners(store, &folder(id)).await?;
    let newest = known.last().and_then(|owner| owner.rsplit('/').next()).unwrap_or_default();
    // Of one job their names sort by their steps.
    if newest <= here(store, id)?.as_str() {
        return Ok(false);
    }
    for owner in &known {
        blobs::have(store, owner).await?;
    }
    Ok(true)
}

/// The name of the newest complete checkpoint on this machine; empty where there is none.
fn here(store: &Store, id: &JobId) -> Result<String, StoreError> {
    let path = store.layout().checkpoints_dir(id);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(StoreError::file("list", &path, error)),
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // What is half written begins with a dot.
    Ok(names.filter(|name| !name.starts_with('.')).max().unwrap_or_default())
}

fn folder(id: &JobId) -> String {
    format!("{}/checkpoints", Layout::job_path(id))
}
