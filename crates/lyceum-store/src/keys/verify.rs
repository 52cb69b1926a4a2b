//! Whose a presented secret is: what every request asks first.

use super::secret::{SECRET_CHARS_MAX, digest};
use super::{Key, KeyRow, parse};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use subtle::ConstantTimeEq;

/// What is known about a presented secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid(Key),
    Expired(Key),
    Revoked(Key),
    Unknown,
}

/// Whose secret this is, and notes the use. The one call without a project: it is what finds the project.
pub async fn verify(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    let verdict = look(store, secret, now).await?;
    if let Verdict::Valid(key) = &verdict {
        note_use(store, key, now).await?;
    }
    Ok(verdict)
}

/// Whose secret this is. Reads the database every time, so a revocation by any process counts at once.
pub async fn look(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    if !secret.starts_with("sk-") || secret.len() > SECRET_CHARS_MAX {
        return Ok(Verdict::Unknown);
    }
    look_digest(store, &digest(secret), now).await
}

/// [`look`] for a secret that was seen before, of which only the digest is known.
///
/// # Errors
/// The database.
pub async fn look_digest(store: &Store, presented: &[u8; 32], now: Timestamp) -> Result<Verdict, StoreError> {
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, \
         owner_kind, owner_id, hint FROM api_keys WHERE digest = $1",
    )
    .bind(presented.to_vec())
    .fetch_optional(&store.reader)
    .await?;
    let Some(row) = row else { return Ok(Verdict::Unknown) };
    let (key, stored) = parse(row)?;
    // The index has compared digests of a 192-bit secret; the decision itself takes constant time.
    if !bool::from(stored.ct_eq(presented.as_slice())) {
        return Ok(Verdict::Unknown);
    }
    Ok(match (key.revoked_at, key.grant.expires_at) {
        (Some(_), _) => Verdict::Revoked(key),
        (None, Some(expires_at)) if expires_at <= now => Verdict::Expired(key),
        _ => Verdict::Valid(key),
    })
}

/// Notes that a key was used, at most once a minute.
pub async fn note_use(store: &Store, key: &Key, now: Timestamp) -> Result<(), StoreError> {
    let is_stale = |used: Timestamp| used.plus(limits::KEY_LAST_USED_STALE_MAX) <= now;
    if !key.last_used_at.is_none_or(is_stale) {
        return Ok(());
    }
    let mut transaction = store.write().await?;
    sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
        .bind(key.id.as_str())
        .bind(now.millis())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
