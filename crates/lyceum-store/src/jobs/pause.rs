//! Jobs that stop so that they go on later: from their last checkpoint, as if they had never stopped.

use super::{Claim, Job, State, end, find, sealed};
use crate::ledger::{Outcome, bills};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};

/// Asks a job to stop: a queued one is paused at once, a running one at its owner's next report.
///
/// # Errors
/// It has ended, or is to be cancelled.
pub async fn pause(store: &Store, project: &Project, id: &JobId, now: Timestamp) -> Result<Job, StoreError> {
    let change = "UPDATE jobs SET wish = 'pause', \
         finished_at = CASE WHEN state = 'queued' THEN $4 ELSE finished_at END, \
         state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END \
         WHERE tenant = $1 AND project = $2 AND id = $3 AND cancel_requested = 0 AND \
         (state IN ('queued', 'running') OR (state = 'cancelled' AND wish = 'pause')) RETURNING state";
    changed(store, project, id, (change, "pause", now)).await
}

/// Lets a paused job wait for its owner again; one that was asked to pause and has not yet goes on.
///
/// # Errors
/// It is not paused; a budget does not cover what it may still cost.
pub async fn resume(store: &Store, project: &Project, id: &JobId, now: Timestamp) -> Result<Job, StoreError> {
    let change = "UPDATE jobs SET wish = 'run', \
         finished_at = CASE WHEN state = 'cancelled' AND $4 > 0 THEN NULL ELSE finished_at END, \
         state = CASE WHEN state = 'cancelled' THEN 'queued' ELSE state END \
         WHERE tenant = $1 AND project = $2 AND id = $3 AND cancel_requested = 0 AND wish = 'pause' AND \
         state IN ('running', 'cancelled') RETURNING state";
    changed(store, project, id, (change, "resume", now)).await
}

async fn changed(
    store: &Store,
    project: &Project,
    id: &JobId,
    (change, operation, now): (&'static str, &'static str, Timestamp),
) -> Result<Job, StoreError> {
    let mut transaction = store.write().await?;
    let state: Option<(String,)> = sqlx::query_as(change)
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .bind(now.millis())
        .fetch_optional(&mut *transaction)
        .await?;
    // A running job holds what it may cost until it has stopped.
    match state.as_ref().map(|(state,)| state.as_str()) {
        Some("cancelled") => bills::pause(&mut transaction, id).await?,
        Some("queued") => bills::resume(&mut transaction, id).await?,
        _ => {}
    }
    transaction.commit().await?;
    let job = find(store, project, id).await?;
    if state.is_none() {
        let state = job.state.as_str().into();
        return Err(StoreError::JobState { id: id.to_string(), operation, state });
    }
    Ok(job)
}

/// Stops a job because somebody asked for it to go on later. Where that was taken back, or made a wish to cancel, while
/// it stopped, the job waits or is cancelled instead.
pub async fn finish_paused(
    store: &Store,
    claim: &Claim,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let message = sealed::message(store, &claim.project, claim.id(), message)?;
    let mut transaction = store.write().await?;
    end(&mut transaction, claim, State::Cancelled, &message, now).await?;
    if let Some(done) = claim.counted() {
        bills::note(&mut transaction, claim.id(), &done).await?;
    }
    let (cancel_requested, state): (i64, String) = sqlx::query_as(
        "UPDATE jobs SET finished_at = CASE WHEN wish = 'run' AND cancel_requested = 0 THEN NULL ELSE finished_at END, \
         state = CASE WHEN wish = 'run' AND cancel_requested = 0 THEN 'queued' ELSE state END \
         WHERE id = $1 RETURNING cancel_requested, state",
    )
    .bind(claim.id().as_str())
    .fetch_one(&mut *transaction)
    .await?;
    if cancel_requested != 0 {
        bills::settle(&mut transaction, claim.id(), Outcome::Cancelled, None, now).await?;
    } else if state == State::Cancelled.as_str() {
        bills::pause(&mut transaction, claim.id()).await?;
    }
    transaction.commit().await?;
    Ok(())
}
