//! Mark and sweep: objects that no row holds go, after a time of grace.
//!
//! Objects are removed under the write lock, which everybody holds who writes a row: a row that is not there now
//! was not written before the object is gone, and who brings the same bytes afterwards writes them again.

use super::{Blobs, HASTE, claim, rows};
use crate::{Store, StoreError};
use futures_util::TryStreamExt;
use lyceum_types::clock::Timestamp;
use object_store::ObjectStoreExt;
use std::time::Duration;

/// Objects that are removed in one turn of the writer.
const AT_ONCE: usize = 64;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that rows hold, or that are too young to be judged.
    pub n_kept: u64,
    pub n_removed: u64,
    pub bytes_removed: u64,
}

/// Removes the objects that no row holds and that are older than `grace`, and rows whose bytes never came.
///
/// # Errors
/// No object store; it fails; the prefix is another database's.
pub async fn sweep(store: &Store, grace: Duration, now: Timestamp) -> Result<Swept, StoreError> {
    let Some(blobs) = store.blobs() else { return Err(StoreError::NoObjects { path: "sha256".into() }) };
    claim::ensure(store, blobs).await?;
    let oldest = now.millis() - i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let mut transaction = store.write().await?;
    sqlx::query("DELETE FROM blobs WHERE owner LIKE $1 AND created_at < $2")
        .bind(format!("{}%", rows::COMING))
        .bind(oldest)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let below = blobs.prefix.clone().join("sha256");
    let (mut swept, mut doomed) = (Swept::default(), Vec::new());
    let mut listed = blobs.objects.list(Some(&below));
    while let Some(object) = listed.try_next().await.map_err(|e| blobs.failed("list", &below, e))? {
        let sha256 = object.location.filename().unwrap_or_default().to_owned();
        // What has another name was not written here.
        let is_ours = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_ours || object.last_modified.timestamp_millis() >= oldest {
            swept.n_kept += 1;
            continue;
        }
        doomed.push((sha256, object.size));
        if doomed.len() == AT_ONCE {
            remove(store, blobs, std::mem::take(&mut doomed), &mut swept).await?;
        }
    }
    remove(store, blobs, doomed, &mut swept).await?;
    Ok(swept)
}

/// Removes objects whose rows have just gone, if those were the last ones; what fails is the sweep's.
pub(crate) async fn release(store: &Store, hashes: Vec<String>) {
    let Some(blobs) = store.blobs() else { return };
    if hashes.is_empty() {
        return;
    }
    let released = async {
        claim::ensure(store, blobs).await?;
        let hashes = hashes.into_iter().map(|sha256| (sha256, 0)).collect();
        remove(store, blobs, hashes, &mut Swept::default()).await
    };
    if let Err(error) = released.await {
        tracing::warn!(%error, "objects of something deleted stay until the next sweep");
    }
}

async fn remove(
    store: &Store,
    blobs: &Blobs,
    hashes: Vec<(String, u64)>,
    swept: &mut Swept,
) -> Result<(), StoreError> {
    if hashes.is_empty() {
        return Ok(());
    }
    let mut turn = store.write().await?;
    for (sha256, bytes) in hashes {
        let held: Option<(i64,)> = sqlx::query_as("SELECT bytes FROM blobs WHERE sha256 = $1 LIMIT 1")
            .bind(&sha256)
            .fetch_optional(&mut *turn)
            .await?;
        if held.is_some() {
            swept.n_kept += 1;
            continue;
        }
        let key = blobs.key(&sha256);
        match tokio::time::timeout(HASTE, blobs.objects.delete(&key)).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => {
                swept.n_removed += 1;
                swept.bytes_removed += bytes;
            }
            Ok(Err(error)) => return Err(blobs.failed("remove", &key, error)),
            Err(_) => return Err(blobs.slow("remove", &key)),
        }
    }
    turn.rollback().await?;
    Ok(())
}
