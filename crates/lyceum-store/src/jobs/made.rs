//! Versions that jobs make, with their entries in the audit log. Knows rows; not what was trained.

use super::Claim;
use crate::db::Transaction;
use crate::files::Staging;
use crate::models::{self, Made, NewVersion, Version};
use crate::tenancy::audit;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;

/// Publishes a version that a job makes while it goes on: a checkpoint, or what a choice took.
///
/// # Errors
/// As [`models::publish`].
pub async fn publish(
    store: &Store,
    claim: &Claim,
    new: NewVersion,
    staging: Staging,
    manifest: impl FnOnce(u32) -> Vec<u8>,
    now: Timestamp,
) -> Result<Version, StoreError> {
    let ready = models::ready(store, &claim.project, &staging, now).await?;
    let mut transaction = store.write().await?;
    let version =
        models::publish_in(&mut transaction, store, &claim.project, new, &ready, manifest, now).await?;
    tell(&mut transaction, claim, &version, &staging, now).await?;
    models::commit_or_take_back(transaction, &version, &staging).await?;
    Ok(version)
}

/// The entry of a job's version. What was asked for over HTTP the server makes; the job says who asked.
pub(super) async fn tell(
    transaction: &mut Transaction,
    claim: &Claim,
    version: &Version,
    staging: &Staging,
    now: Timestamp,
) -> Result<(), StoreError> {
    let found: Result<Option<(i64,)>, _> =
        sqlx::query_as("SELECT 1 FROM jobs WHERE id = $1 AND request IS NOT NULL")
            .bind(claim.id().as_str())
            .fetch_optional(&mut **transaction)
            .await;
    let act = match found {
        Ok(Some(_)) => audit::Act::of_server(now),
        Ok(None) => audit::Act::of_command_line(now),
        Err(error) => {
            models::take_back(version, staging);
            return Err(error.into());
        }
    };
    let made = Made::Trained { job: claim.id().clone() };
    models::tell(transaction, version, staging, (&made, &act)).await
}
