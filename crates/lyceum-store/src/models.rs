//! Versions of models: a row and a folder that appear together and go together.

mod deletion;
pub mod shares;

pub use deletion::{delete, delete_all, withdraw};

use crate::db::Transaction;
use crate::files::{Staging, rename_durably, sync_tree};
use crate::layout::{MANIFEST, MANIFEST_SHA256};
use crate::registry::{self, Act, EventKind, NewEvent};
use crate::tenancy::audit;
use crate::vault::{KeyedPath, version_place, write_place};
use crate::{Layout, Store, StoreError, blobs};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, ModelName, ModelRef, Project, VersionRef};
use lyceum_types::limits;
use serde_json::json;
use sha2::{Digest, Sha256};

/// A version that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The project that has it; others may ask what is shared with them ([`shares`]).
    pub owner: Project,
    pub name: ModelName,
    pub number: u32,
    pub family: String,
    pub task: String,
    /// Trained numbers in it.
    pub n_params: u64,
    /// Bytes of the weight file.
    pub bytes: u64,
    /// sha256 of the weight file, hexadecimal.
    pub sha256: String,
    pub job: Option<JobId>,
    pub created_at: Timestamp,
    /// Why the bare name passes it over; None: it does not.
    pub held: Option<String>,
    /// Its folder: plain, or sealed with its owner's key.
    pub dir: KeyedPath,
}

impl Version {
    /// `name@number`
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.number)
    }
}

/// What a version will be, before it has a number.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub name: ModelName,
    pub family: String,
    pub task: String,
    pub n_params: u64,
    pub bytes: u64,
    pub sha256: String,
    pub job: Option<JobId>,
    /// Why the bare name is to pass it over, until it is promoted; None: it is not.
    pub held: Option<String>,
}

/// Gives the staged folder the next version number of its name, and makes it visible.
///
/// `manifest` writes `manifest.json` from that number; the folder holds everything else already. After a
/// crash or an error either the whole version is there or nothing of it.
pub async fn publish(
    store: &Store,
    project: &Project,
    new: NewVersion,
    staging: Staging,
    manifest: impl FnOnce(u32) -> Vec<u8>,
    now: Timestamp,
) -> Result<Version, StoreError> {
    let ready = ready(store, project, &staging, now).await?;
    let mut transaction = store.write().await?;
    let version = publish_in(&mut transaction, store, project, new, &ready, manifest, now).await?;
    commit_or_take_back(transaction, &version, &staging).await?;
    Ok(version)
}

/// How a version came about, as the audit log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Of a version with other probabilities.
    Calibrated { parent: String },
    /// Of two that are asked one after the other.
    Cascade { small: String, large: String },
    /// Of files that another program wrote, or another Lyceum; where they came from.
    Imported { source: String },
    /// By a job, at its end or on the way.
    Trained { job: JobId },
}

impl Made {
    fn kind(&self) -> &'static str {
        match self {
            Made::Calibrated { .. } => "model.calibrated",
            Made::Cascade { .. } => "cascade.created",
            Made::Imported { .. } => "model.imported",
            Made::Trained { .. } => "model.trained",
        }
    }

    fn data(&self, version: u32) -> serde_json::Value {
        match self {
            Made::Calibrated { parent } => json!({ "version": version, "parent": parent }),
            Made::Cascade { small, large } => json!({ "version": version, "small": small, "large": large }),
            Made::Imported { source } => json!({ "version": version, "source": source }),
            Made::Trained { job } => json!({ "version": version, "job": job.as_str() }),
        }
    }
}

/// [`publish`], with its entry in the audit log in the same transaction.
///
/// # Errors
/// As [`publish`].
pub async fn publish_made(
    store: &Store,
    project: &Project,
    new: NewVersion,
    staging: Staging,
    manifest: impl FnOnce(u32) -> Vec<u8>,
    (made, act): (Made, &audit::Act),
) -> Result<Version, StoreError> {
    let ready = ready(store, project, &staging, act.now).await?;
    let mut transaction = store.write().await?;
    let version = publish_in(&mut transaction, store, project, new, &ready, manifest, act.now).await?;
    tell(&mut transaction, &version, &staging, (&made, act)).await?;
    commit_or_take_back(transaction, &version, &staging).await?;
    Ok(version)
}

/// The entry of a version in the audit log; where it cannot be written, the folder goes back.
pub(crate) async fn tell(
    transaction: &mut Transaction,
    version: &Version,
    staging: &Staging,
    (made, act): (&Made, &audit::Act),
) -> Result<(), StoreError> {
    let (kind, data, resource) = (made.kind(), made.data(version.number), version.id());
    let event = audit::Event { kind, project: Some(&version.owner.id), resource: &resource, data };
    let told = audit::append(transaction, &version.owner.tenant, act, event).await;
    if told.is_err() {
        take_back(version, staging);
    }
    told
}

/// A staged folder whose files are flushed and, where there is an object store, there.
pub(crate) struct Ready<'a> {
    staging: &'a Staging,
    coming: Option<blobs::Coming>,
}

/// Flushes the staged files and brings them where they belong: slow, so before the transaction that holds up other
/// writers.
pub(crate) async fn ready<'a>(
    store: &Store,
    project: &Project,
    staging: &'a Staging,
    now: Timestamp,
) -> Result<Ready<'a>, StoreError> {
    flush(staging).await?;
    Ok(Ready { staging, coming: blobs::bring(store, project, staging.path(), now).await? })
}

async fn flush(staging: &Staging) -> Result<(), StoreError> {
    let path = staging.path().to_owned();
    let joined = tokio::task::spawn_blocking({
        let path = path.clone();
        move || sync_tree(&path)
    });
    joined.await.map_err(|e| StoreError::file("flush", &path, std::io::Error::other(e)))?
}

/// The rows and the rename. Under the write lock no other process gives the same number, so a folder that
/// lies at the new place without a row is what a crash left there.
pub(crate) async fn publish_in(
    transaction: &mut Transaction,
    store: &Store,
    project: &Project,
    new: NewVersion,
    ready: &Ready<'_>,
    manifest: impl FnOnce(u32) -> Vec<u8>,
    now: Timestamp,
) -> Result<Version, StoreError> {
    let (number,): (i64,) = sqlx::query_as(
        "INSERT INTO models (tenant, project, name, next_version) VALUES ($1, $2, $3, 2) \
         ON CONFLICT (tenant, project, name) DO UPDATE SET next_version = models.next_version + 1 \
         RETURNING next_version - 1",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(new.name.as_str())
    .fetch_one(&mut **transaction)
    .await?;
    let number = u32::try_from(number)
        .map_err(|_| StoreError::Damaged { table: "models", value: number.to_string() })?;
    let path = Layout::version_path(project, &new.name, number);
    sqlx::query(
        "INSERT INTO model_versions \
         (tenant, project, name, version, state, family, task, n_params, bytes, sha256, path, job, created_at, held, sealed) \
         VALUES ($1, $2, $3, $4, 'ready', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(new.name.as_str())
    .bind(i64::from(number))
    .bind(&new.family)
    .bind(&new.task)
    .bind(saturate(new.n_params))
    .bind(saturate(new.bytes))
    .bind(&new.sha256)
    .bind(&path)
    .bind(new.job.as_ref().map(|job| job.as_str().to_owned()))
    .bind(now.millis())
    .bind(&new.held)
    .bind(i64::from(ready.staging.place().is_sealed()))
    .execute(&mut **transaction)
    .await?;

    let (layout, staging) = (store.layout(), ready.staging);
    let manifest = manifest(number);
    let hash = format!("{}  {MANIFEST}\n", sha256(&manifest));
    let own = [(MANIFEST, &manifest[..]), (MANIFEST_SHA256, hash.as_bytes())];
    for (name, content) in own {
        write_place(&staging.place().join(name), content)?;
    }
    if let Some(coming) = &ready.coming {
        coming.hold(transaction, &path).await?;
        for (name, _) in own {
            let from = staging.path().join(name);
            // As it lies there: an object store sees what the disk does.
            let form = std::fs::read(&from).map_err(|e| StoreError::file("read", &from, e))?;
            coming.add(transaction, store, (&path, name), &form, now).await?;
        }
    }
    let dir = layout.root().join(path);
    let parent = dir.parent().unwrap_or(layout.root());
    crate::files::create_private_dir(parent)?;
    crate::files::sync_dir(parent.parent().unwrap_or(layout.root()))?;
    if dir.exists() {
        tracing::warn!(?dir, "removing an unregistered folder that a crash left");
        std::fs::remove_dir_all(&dir).map_err(|e| StoreError::file("remove", &dir, e))?;
    }
    rename_durably(staging.path(), &dir)?;
    let dir = version_place(store, project, dir, staging.place().is_sealed())?;
    let NewVersion { name, family, task, n_params, bytes, sha256, job, held } = new;
    let owner = project.clone();
    Ok(Version {
        owner,
        name,
        number,
        family,
        task,
        n_params,
        bytes,
        sha256,
        job,
        created_at: now,
        held,
        dir,
    })
}

/// Says of what a job made on the way and held what its end says: let go, or `held` for the same reason. What somebody
/// promoted meanwhile stays so.
pub(crate) async fn judge_held_of_job(
    transaction: &mut Transaction,
    project: &Project,
    job: &JobId,
    held: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE model_versions SET held = $4 \
         WHERE tenant = $1 AND project = $2 AND job = $3 AND held IS NOT NULL AND state = 'ready'",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(job.as_str())
    .bind(held.map(|why| format!("the gate of its job holds what the job made: {why}")))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Holds a version's manifest to the hash that stands beside it; versions of older releases have none.
pub fn check_manifest(dir: impl Into<KeyedPath>, manifest: &[u8]) -> Result<(), StoreError> {
    let dir = dir.into();
    let place = dir.join(MANIFEST_SHA256);
    let recorded = match place.read_to_string() {
        Ok(recorded) => recorded,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::file("read", place.path(), error)),
    };
    let (found, recorded) = (sha256(manifest), recorded.split_whitespace().next().unwrap_or_default());
    if found == recorded {
        return Ok(());
    }
    let why = format!("its sha256 is {found}, {MANIFEST_SHA256} says {recorded}");
    Err(StoreError::DamagedFile { path: dir.join(MANIFEST).lies(), why })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Commits; when the database refuses, the folder goes back into staging, whose owner removes it.
pub(crate) async fn commit_or_take_back(
    transaction: Transaction,
    version: &Version,
    staging: &Staging,
) -> Result<(), StoreError> {
    transaction.commit().await.map_err(|error| {
        take_back(version, staging);
        error.into()
    })
}

pub(crate) fn take_back(version: &Version, staging: &Staging) {
    if let Err(also) = rename_durably(version.dir.path(), staging.path()) {
        tracing::warn!(%also, dir = ?version.dir, "an unregistered folder stays until its number is given again");
    }
}

/// The version that a reference means, with its folder on this machine; a bare name the newest that is not held.
///
/// # Errors
/// There is none; its files lie in an object store that does not give them.
pub async fn resolve(store: &Store, project: &Project, reference: &ModelRef) -> Result<Version, StoreError> {
    let version = find(store, project, reference).await?;
    have(store, &version).await?;
    Ok(version)
}

/// Sees to it that a version's folder is on this machine.
///
/// # Errors
/// Its files lie in an object store that does not give them, or other bytes than were written; they are sealed with a key
/// that cannot be opened.
pub async fn have(store: &Store, version: &Version) -> Result<(), StoreError> {
    if version.dir.is_sealed() {
        store.keyring().of(&version.owner)?;
    }
    blobs::have(store, &Layout::version_path(&version.owner, &version.name, version.number)).await
}

/// As [`resolve`], for whom the row is enough: the folder may be elsewhere.
pub async fn find(store: &Store, project: &Project, reference: &ModelRef) -> Result<Version, StoreError> {
    // One statement with static text for the three kinds of reference: exactly one of $4 and $5 is set, or none.
    let (number, alias) = match &reference.version {
        VersionRef::Latest => (None, None),
        VersionRef::Number(number) => (Some(i64::from(*number)), None),
        VersionRef::Alias(alias) => (None, Some(alias.as_str())),
    };
    let row: Option<VersionRow> = sqlx::query_as(
        "SELECT v.name, v.version, v.family, v.task, v.n_params, v.bytes, v.sha256, v.path, v.job, v.created_at, \
         v.held, v.sealed FROM model_versions v \
         WHERE v.tenant = $1 AND v.project = $2 AND v.name = $3 AND v.state = 'ready' \
         AND ($4 IS NULL OR v.version = $4) \
         AND ($5 IS NULL OR v.version = (SELECT a.version FROM model_aliases a \
              WHERE a.tenant = $1 AND a.project = $2 AND a.name = $3 AND a.alias = $5)) \
         AND (v.held IS NULL OR $4 IS NOT NULL OR $5 IS NOT NULL) \
         ORDER BY v.version DESC LIMIT 1",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(reference.name.as_str())
    .bind(number)
    .bind(alias)
    .fetch_optional(&store.reader)
    .await?;
    let row = row.ok_or_else(|| StoreError::NotFound { what: "model", id: reference.to_string() })?;
    parse(row, store, project)
}

/// Every version that can be served, by name and number.
pub async fn list(store: &Store, project: &Project) -> Result<Vec<Version>, StoreError> {
    let rows: Vec<VersionRow> = sqlx::query_as(
        "SELECT name, version, family, task, n_params, bytes, sha256, path, job, created_at, held, sealed \
         FROM model_versions WHERE tenant = $1 AND project = $2 AND state = 'ready' ORDER BY name, version",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(|row| parse(row, store, project)).collect()
}

/// Lets the bare name serve a version that was held back. Returns the version as it was before.
pub async fn promote(
    store: &Store,
    project: &Project,
    name: &ModelName,
    number: u32,
    act: &Act,
) -> Result<Version, StoreError> {
    let reference = ModelRef { name: name.clone(), version: VersionRef::Number(number) };
    let before = find(store, project, &reference).await?;
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE model_versions SET held = NULL \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND state = 'ready'",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .bind(i64::from(number))
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "model", id: reference.to_string() });
    }
    let event = NewEvent { kind: EventKind::Promoted, version: number, alias: None, before: None };
    let mut act = act.clone();
    if let (Some(why), true) = (&before.held, act.note.is_empty()) {
        act.note = format!("it was held: {why}").chars().take(limits::NOTE_CHARS_MAX).collect();
    }
    registry::record(&mut transaction, project, name, event, &act).await?;
    transaction.commit().await?;
    Ok(before)
}

fn saturate(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

type VersionRow =
    (String, i64, String, String, i64, i64, String, String, Option<String>, i64, Option<String>, i64);

fn parse(row: VersionRow, store: &Store, owner: &Project) -> Result<Version, StoreError> {
    let (name, number, family, task, n_params, bytes, sha256, path, job, created_at, held, sealed) = row;
    let damaged = |value: String| StoreError::Damaged { table: "model_versions", value };
    Ok(Version {
        owner: owner.clone(),
        name: name.parse().map_err(|_| damaged(name))?,
        number: u32::try_from(number).map_err(|_| damaged(number.to_string()))?,
        family,
        task,
        n_params: u64::try_from(n_params).map_err(|_| damaged(n_params.to_string()))?,
        bytes: u64::try_from(bytes).map_err(|_| damaged(bytes.to_string()))?,
        sha256,
        job: job.map(|job| job.parse().map_err(|_| damaged(job))).transpose()?,
        created_at: Timestamp::from_millis(created_at),
        held,
        dir: version_place(store, owner, store.layout().root().join(path), sealed != 0)?,
    })
}

#[cfg(test)]
pub(crate) async fn publish_for_tests(store: &Store, name: &str) -> Version {
    tests::publish_as(store, &Project::default_project(), name).await
}

#[cfg(test)]
mod tests;
