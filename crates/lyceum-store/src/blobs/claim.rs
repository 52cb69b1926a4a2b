//! Whose a prefix is: two databases that swept one prefix would take each other's objects away.
//!
//! The object `PREFIX/owner` holds a random word, and the database the same. A database that was restored from a
//! backup knows no word: it reads, and may write only after the operator said that the other one is gone.

use super::Blobs;
use super::rows::BUCKET;
use crate::{Store, StoreError};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutMode, PutPayload};

/// Checks once in a process that the prefix is this database's; takes it when it is nobody's.
pub(super) async fn ensure(store: &Store, blobs: &Blobs) -> Result<(), StoreError> {
    blobs.claimed.get_or_try_init(|| check(store, blobs)).await.copied()
}

async fn check(store: &Store, blobs: &Blobs) -> Result<(), StoreError> {
    // The row first: a crash after it leaves a word that can still be written.
    let (word, is_new) = word(store, blobs).await?;
    let key = key(blobs);
    let create =
        blobs.objects.put_opts(&key, PutPayload::from(word.clone().into_bytes()), PutMode::Create.into());
    match create.await {
        Ok(_) => return Ok(()),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
        Err(error) => return Err(blobs.failed("write", &key, error)),
    }
    let found = async { blobs.objects.get(&key).await?.bytes().await }.await;
    if *found.map_err(|e| blobs.failed("read", &key, e))? == *word.as_bytes() {
        return Ok(());
    }
    if is_new {
        let mut transaction = store.write().await?;
        super::forget(&mut transaction, BUCKET).await?;
        transaction.commit().await?;
    }
    let message = format!(
        "{} belongs to another database: name another prefix or, if that database is gone for good, lyceum blobs claim",
        blobs.place()
    );
    Err(StoreError::Refused { code: "foreign_bucket", message })
}

/// Takes the prefix from whatever database had it.
pub async fn take_over(store: &Store) -> Result<(), StoreError> {
    let Some(blobs) = store.blobs() else { return Err(StoreError::NoObjects { path: "owner".into() }) };
    let (word, _) = word(store, blobs).await?;
    let key = key(blobs);
    let put = blobs.objects.put(&key, PutPayload::from(word.into_bytes())).await;
    put.map(drop).map_err(|e| blobs.failed("write", &key, e))
}

fn key(blobs: &Blobs) -> Key {
    blobs.prefix.clone().join("owner")
}

/// The database's word for this place, and whether it is new.
async fn word(store: &Store, blobs: &Blobs) -> Result<(String, bool), StoreError> {
    let mut transaction = store.write().await?;
    let known: Option<(String,)> = sqlx::query_as("SELECT sha256 FROM blobs WHERE owner = $1 AND path = $2")
        .bind(BUCKET)
        .bind(blobs.place())
        .fetch_optional(&mut *transaction)
        .await?;
    if let Some((word,)) = known {
        transaction.rollback().await?;
        return Ok((word, false));
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
    let word = crate::backup::hex(&bytes);
    sqlx::query(
        "INSERT INTO blobs (owner, path, tenant, project, bytes, sha256, created_at) \
         VALUES ($1, $2, 'default', 'default', 0, $3, 0)",
    )
    .bind(BUCKET)
    .bind(blobs.place())
    .bind(&word)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((word, true))
}
