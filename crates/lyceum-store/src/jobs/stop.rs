//! The end of every job of a project that is erased.

use super::{JobLock, State};
use crate::ledger::{Outcome, bills};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};

/// Cancels what waits or is paused, and asks what runs to end. How many all are; those that run or whose owner died.
///
/// # Errors
/// The database.
pub(crate) async fn ask_all(
    store: &Store,
    project: &Project,
    now: Timestamp,
) -> Result<(u64, Vec<JobId>), StoreError> {
    let mut transaction = store.write().await?;
    let rows: Vec<(String, String)> = sqlx::query_as(
        "UPDATE jobs SET cancel_requested = 1, wish = 'run', \
         finished_at = CASE WHEN state = 'queued' THEN $3 ELSE finished_at END, \
         state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END \
         WHERE tenant = $1 AND project = $2 AND \
         (state IN ('queued', 'running') OR (state = 'cancelled' AND wish = 'pause')) RETURNING id, state",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(now.millis())
    .fetch_all(&mut *transaction)
    .await?;
    let (n, mut running) = (rows.len() as u64, Vec::new());
    for (id, state) in rows {
        let id: JobId = id.parse().map_err(|_| StoreError::Damaged { table: "jobs", value: id.clone() })?;
        if state == State::Running.as_str() {
            running.push(id);
        } else {
            bills::settle(&mut transaction, &id, Outcome::Cancelled, None, now).await?;
        }
    }
    transaction.commit().await?;
    Ok((n, running))
}

/// Writes the end of a job whose owner is gone; false: a process of this machine still works on it.
///
/// # Errors
/// The database, the disk.
pub(crate) async fn end_orphan(
    store: &Store,
    project: &Project,
    id: &JobId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(_lock) = JobLock::try_acquire(store.layout(), id)? else { return Ok(false) };
    let mut transaction = store.write().await?;
    // The attempt is over with it: a worker elsewhere whose report comes now is fenced.
    let done = sqlx::query(
        "UPDATE jobs SET state = 'cancelled', attempt = attempt + 1, finished_at = $4, worker = NULL, \
         lease_expires_at = NULL WHERE tenant = $1 AND project = $2 AND id = $3 AND state = 'running'",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(now.millis())
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() > 0 {
        bills::settle(&mut transaction, id, Outcome::Cancelled, None, now).await?;
    }
    transaction.commit().await?;
    Ok(true)
}
