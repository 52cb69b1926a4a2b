//! Files of an owner that come one by one and later than the rest: what is measured of a version and its card, runs, and
//! the log of a job. Each lies at `DATA_DIR/OWNER/NAME`, and comes here as it lies there.

use super::{Coming, bring_these, release, rows};
use crate::backup::{Content, blocking, hex};
use crate::db::Transaction;
use crate::files::{Staging, create_private_dir, rename_durably};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use sha2::{Digest, Sha256};
use std::path::Path;

/// How often what was replaced meanwhile is looked for anew.
const TRIES: usize = 3;

/// Brings files of a folder, before the transaction that [`join`]s them to their owner. None: there is no object store.
pub(crate) async fn bring(
    store: &Store,
    project: &Project,
    (folder, names): (&Path, &[&str]),
    now: Timestamp,
) -> Result<Option<Coming>, StoreError> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    bring_these(store, project, (folder, names), now).await
}

/// Gives what was brought to its owner; those files of it that have the same names go. The hashes that may have lost their
/// last row are for [`release`], after the commit.
pub(crate) async fn join(
    transaction: &mut Transaction,
    coming: &Coming,
    owner: &str,
) -> Result<Vec<String>, StoreError> {
    coming.join(transaction, owner).await
}

/// Whether an owner has files in an object store.
pub(crate) async fn is_held(store: &Store, owner: &str) -> Result<bool, StoreError> {
    Ok(!rows::of(store, owner).await?.is_empty())
}

/// As [`is_held`], while nobody else writes.
pub(crate) async fn is_held_now(transaction: &mut Transaction, owner: &str) -> Result<bool, StoreError> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT bytes FROM blobs WHERE owner = $1 LIMIT 1")
        .bind(owner)
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(row.is_some())
}

/// The names of an owner's files in the object store, in order.
pub(crate) async fn names(store: &Store, owner: &str) -> Result<Vec<String>, StoreError> {
    Ok(rows::of(store, owner).await?.into_iter().map(|(path, _)| path).collect())
}

/// Takes files of an owner away, rows and then objects.
pub(crate) async fn remove(store: &Store, owner: &str, names: &[String]) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let mut hashes = Vec::new();
    for name in names {
        hashes.extend(rows::forget_one(&mut transaction, owner, name).await?);
    }
    transaction.commit().await?;
    release(store, hashes).await;
    Ok(())
}

/// What is to be compared with the copy on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    /// It never changes: one that is here is right.
    Constant,
    /// Whoever wrote it last is right.
    Last,
    /// It only grows: the longer one is newer.
    Growing,
}

/// Sees to it that those files of an owner are on this machine of which `wanted` says how they change.
///
/// # Errors
/// [`StoreError::DamagedFile`] names an object that is gone or not what was written; [`StoreError::NoObjects`]: this
/// process was told of no object store.
pub(crate) async fn have(
    store: &Store,
    owner: &str,
    wanted: impl Fn(&str) -> Option<Copy>,
) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        match have_once(store, owner, &wanted).await {
            // One that was replaced while it was fetched is gone, and another is there.
            Err(StoreError::DamagedFile { .. }) => {}
            done => return done,
        }
    }
    have_once(store, owner, &wanted).await
}

async fn have_once(
    store: &Store,
    owner: &str,
    wanted: &impl Fn(&str) -> Option<Copy>,
) -> Result<(), StoreError> {
    let folder = store.layout().root().join(owner);
    for (path, content) in rows::of(store, owner).await? {
        let Some(copy) = wanted(&path) else { continue };
        let local = folder.join(&path);
        if is_right(&local, copy, &content).await? {
            continue;
        }
        let Some(blobs) = store.blobs() else { return Err(StoreError::NoObjects { path: owner.into() }) };
        let _turn = blobs.turn(owner).lock().await;
        if is_right(&local, copy, &content).await? {
            continue;
        }
        let staging = Staging::create(store.layout())?;
        blobs.fetch_below(staging.path(), &path, &content).await?;
        create_private_dir(local.parent().unwrap_or(&folder))?;
        rename_durably(&staging.path().join(&path), &local)?;
    }
    Ok(())
}

async fn is_right(local: &Path, copy: Copy, content: &Content) -> Result<bool, StoreError> {
    let (local, content) = (local.to_owned(), content.clone());
    blocking(move || {
        let bytes = match std::fs::metadata(&local) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::file("inspect", &local, error)),
        };
        match copy {
            Copy::Constant => Ok(true),
            Copy::Growing => Ok(bytes >= content.bytes),
            Copy::Last if bytes != content.bytes => Ok(false),
            Copy::Last => {
                let found = std::fs::read(&local).map_err(|e| StoreError::file("read", &local, e))?;
                Ok(hex(&Sha256::digest(found)) == content.sha256)
            }
        }
    })
    .await
}
