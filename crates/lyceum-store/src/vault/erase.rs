//! Erasing what an encrypted project keeps, by destroying its key.

use super::Destroyed;
use crate::files::write_durably;
use crate::jobs::stop;
use crate::tenancy::audit::{self, Act, Event};
use crate::tenancy::projects;
use crate::{Store, StoreError};
use lyceum_types::ids::Project;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// What was sealed when the key was destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub files: u64,
    /// Of the files, plain.
    pub file_bytes: u64,
    pub responses: u64,
    pub runs: u64,
    pub batches: u64,
    pub uploads: u64,
    pub choices: u64,
    /// With their folders: what they were asked, their checkpoints and logs.
    pub jobs: u64,
    /// Of models, whose files were sealed.
    pub versions: u64,
    /// Jobs that waited, were paused or ran.
    pub jobs_stopped: u64,
}

/// How long an erasure waits for the processes of running jobs to end.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Archives a project, so that its keys open nothing, destroys its key, and waits until no process of this machine works
/// on a job of it, for such a process has the key in its memory. Told again, it says what was destroyed.
///
/// # Errors
/// The project is not encrypted, or is the default one; the disk, the database; a job's process does not end (`jobs_running`). What was begun is finished by the next
/// call.
pub async fn erase(store: &Store, project: &Project, act: &Act) -> Result<(Destroyed, Kept), StoreError> {
    projects::find(store, project).await?;
    if !store.keyring().is_encrypted(project)? {
        let message = format!("the project {} is not encrypted: there is no key to destroy", project.id);
        return Err(StoreError::Refused { code: "not_encrypted", message });
    }
    projects::archive(store, project, act).await?;
    let mut kept = kept(store, project).await?;
    let destroyed = store.keyring().destroy(project, act.now)?;
    kept.jobs_stopped = stop_jobs(store, project, act).await?;
    let mut transaction = store.write().await?;
    let data = json!({"key_id": destroyed.key_id, "destroyed_at": destroyed.destroyed_at});
    let event = Event { kind: "project.erased", project: Some(&project.id), resource: &project.id, data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok((destroyed, kept))
}

async fn stop_jobs(store: &Store, project: &Project, act: &Act) -> Result<u64, StoreError> {
    let (n_stopped, mut running) = stop::ask_all(store, project, act.now).await?;
    let began = Instant::now();
    loop {
        let mut left = Vec::new();
        for id in running {
            if !stop::end_orphan(store, project, &id, act.now).await? {
                left.push(id);
            }
        }
        if left.is_empty() {
            return Ok(n_stopped);
        }
        if began.elapsed() > STOPS_WITHIN {
            let message = format!(
                "the key is destroyed, and {} still works with it in its memory: ask again when it has ended",
                left[0]
            );
            return Err(StoreError::Refused { code: "jobs_running", message });
        }
        running = left;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn kept(store: &Store, project: &Project) -> Result<Kept, StoreError> {
    let (files, bytes): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM data_files WHERE tenant = $1 AND project = $2",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_one(&store.reader)
    .await?;
    let mine = async |sql: &'static str| -> Result<i64, StoreError> {
        let query = sqlx::query_as(sql).bind(&project.tenant).bind(&project.id);
        let (n,): (i64,) = query.fetch_one(&store.reader).await?;
        Ok(n)
    };
    let batches = mine("SELECT COUNT(*) FROM batches WHERE tenant = $1 AND project = $2").await?;
    let jobs = mine("SELECT COUNT(*) FROM jobs WHERE tenant = $1 AND project = $2").await?;
    let versions = mine(
        "SELECT COUNT(*) FROM model_versions WHERE tenant = $1 AND project = $2 AND state = 'ready' AND sealed = 1",
    )
    .await?;
    let layout = store.layout();
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Kept {
        files: count(files),
        file_bytes: count(bytes),
        responses: n_named(&layout.responses(project), ".json")?,
        runs: n_named(&layout.runs(project), ".json")?,
        batches: count(batches),
        uploads: n_named(&layout.uploads(project), "")?,
        choices: n_named(&layout.selections(project), ".json")?,
        jobs: count(jobs),
        versions: count(versions),
        jobs_stopped: 0,
    })
}

/// Entries of a folder whose names end so.
fn n_named(folder: &Path, end: &str) -> Result<u64, StoreError> {
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(end);
            Ok(entries.flatten().filter(named).count() as u64)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::file("list", folder, error)),
    }
}

/// Keeps the receipt of an erasure beside the mark of the key.
///
/// # Errors
/// The disk.
pub fn keep_receipt(store: &Store, project: &Project, receipt: &[u8]) -> Result<(), StoreError> {
    write_durably(&path(store, project), receipt)
}

/// # Errors
/// The disk. `Ok(None)`: nothing was erased.
pub fn receipt(store: &Store, project: &Project) -> Result<Option<Vec<u8>>, StoreError> {
    let path = path(store, project);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("read", &path, error)),
    }
}

fn path(store: &Store, project: &Project) -> std::path::PathBuf {
    store.layout().project_key(project).with_extension("receipt")
}
