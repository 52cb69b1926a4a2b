//! Who works on a job: claims, under the lock that proves that nobody living of this machine does.

use super::{Job, Kind, NewJob, State, find, insert, number};
use crate::files::JobLock;
use crate::ledger::{Counts, bills};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use std::sync::Mutex;

/// The right to work on a job, until another one claims it. Holds the lock on it.
#[derive(Debug)]
pub struct Claim {
    pub attempt: u32,
    pub project: Project,
    pub(super) lock: JobLock,
    pub(super) counted: Mutex<Option<Counts>>,
}

impl Claim {
    fn new(attempt: u32, project: Project, lock: JobLock) -> Self {
        Claim { attempt, project, lock, counted: Mutex::default() }
    }

    /// What was done for the job so far, by earlier attempts too: noted with the next report, paid for at its end. Passes
    /// are counted by themselves.
    pub fn count(&self, done: Counts) {
        let mut counted = self.counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let passes = counted.map_or(0, |counted| counted.passes);
        *counted = Some(Counts { passes, ..done });
    }

    /// Passes that this attempt's gate has made; those of one that died are made again, and paid for once.
    pub fn count_passes(&self, passes: u64) {
        let mut counted = self.counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *counted = Some(Counts { passes, ..counted.unwrap_or_default() });
    }

    /// What was last counted; None: nothing since the claim.
    pub fn counted(&self) -> Option<Counts> {
        *self.counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn id(&self) -> &JobId {
        self.lock.id()
    }
}

/// How a row names a worker: with its machine, whose locks say whether it lives.
fn named(store: &Store, worker: &str) -> String {
    format!("{worker}{ON}{}", store.machine())
}

const ON: &str = " on ";

/// Whether the lease of a running job is one of another machine, and holds: no lock of this one tells of its worker.
fn is_leased_elsewhere(
    store: &Store,
    worker: Option<&str>,
    lease: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    // Workers of older releases did not say where they were: they were here.
    let elsewhere =
        worker.and_then(|worker| worker.rsplit_once(ON)).is_some_and(|(_, at)| at != store.machine());
    elsewhere && lease.is_some_and(|lease| lease > now)
}

/// Whether a job is told to run and nobody works on it any more.
///
/// # Errors
/// The disk.
pub fn is_broken_off(store: &Store, job: &Job, now: Timestamp) -> Result<bool, StoreError> {
    if job.state != State::Running
        || is_leased_elsewhere(store, job.worker.as_deref(), job.lease_expires_at, now)
    {
        return Ok(false);
    }
    Ok(JobLock::try_acquire(store.layout(), &job.id)?.is_some())
}

/// Renews the lease of a worker that has nothing to report.
///
/// # Errors
/// Another one has taken the job.
pub async fn renew(store: &Store, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE jobs SET lease_expires_at = $3 WHERE id = $1 AND attempt = $2 AND state = 'running'",
    )
    .bind(claim.id().as_str())
    .bind(i64::from(claim.attempt))
    .bind(now.plus(limits::JOB_LEASE).millis())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    if done.rows_affected() == 0 {
        return Err(super::fenced(claim));
    }
    Ok(())
}

/// A job that this process works on from its first moment: no worker sees it wait.
pub async fn create_claimed(
    store: &Store,
    project: &Project,
    new: NewJob,
    worker: &str,
    now: Timestamp,
) -> Result<Claim, StoreError> {
    let id = JobId::from_bits(uuid::Uuid::now_v7().as_u128());
    let Some(lock) = JobLock::try_acquire(store.layout(), &id)? else {
        return Err(StoreError::JobOwned { id: id.to_string() });
    };
    insert(store, project, &id, new, now).await?;
    claim_locked(store, project, lock, worker, (ENDED_OR_WAITING, now)).await
}

/// States from which a job may be begun by somebody who names it, and by a worker.
const ENDED_OR_WAITING: &[&str] = &["queued", "running", "failed", "cancelled"];
const WAITING: &[&str] = &["queued", "running"];

/// Takes one job: a queued one, one that ended without success, or one whose owner is dead. The lock proves
/// that no living process of this machine works on it.
pub async fn claim(
    store: &Store,
    project: &Project,
    id: &JobId,
    worker: &str,
    now: Timestamp,
) -> Result<Claim, StoreError> {
    claim_from(store, project, id, worker, (ENDED_OR_WAITING, now)).await
}

/// As [`claim`], for a worker that nobody told to begin anew what has ended: a queued job, or one whose owner is
/// dead.
pub async fn claim_waiting(
    store: &Store,
    project: &Project,
    id: &JobId,
    worker: &str,
    now: Timestamp,
) -> Result<Claim, StoreError> {
    claim_from(store, project, id, worker, (WAITING, now)).await
}

async fn claim_from(
    store: &Store,
    project: &Project,
    id: &JobId,
    worker: &str,
    (states, now): (&[&'static str], Timestamp),
) -> Result<Claim, StoreError> {
    // Before the lock: a job that is not there must leave no folder.
    find(store, project, id).await?;
    let Some(lock) = JobLock::try_acquire(store.layout(), id)? else {
        return Err(StoreError::JobOwned { id: id.to_string() });
    };
    claim_locked(store, project, lock, worker, (states, now)).await
}

async fn claim_locked(
    store: &Store,
    project: &Project,
    lock: JobLock,
    worker: &str,
    (states, now): (&[&'static str], Timestamp),
) -> Result<Claim, StoreError> {
    let id = lock.id();
    let mut transaction = store.write().await?;
    let of: Option<(String, Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT state, worker, lease_expires_at FROM jobs WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    let (state, owner, lease) = of.unwrap_or_default();
    let lease = lease.map(Timestamp::from_millis);
    if state == State::Running.as_str() && is_leased_elsewhere(store, owner.as_deref(), lease, now) {
        return Err(StoreError::JobOwned { id: id.to_string() });
    }
    if !states.contains(&state.as_str()) {
        return Err(StoreError::JobState { id: id.to_string(), operation: "resume", state });
    }
    if state == State::Cancelled.as_str() {
        // A paused one, of which only a part is put aside; the bill of any other is closed.
        bills::resume(&mut transaction, id).await?;
    }
    let (attempt,): (i64,) = sqlx::query_as(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = $2, lease_expires_at = $3, \
         cancel_requested = CASE WHEN $5 = 1 AND state = 'running' THEN cancel_requested ELSE 0 END, \
         wish = CASE WHEN $5 = 1 AND state = 'running' THEN wish ELSE 'run' END, message = '', finished_at = NULL, started_at = COALESCE(started_at, $4) \
         WHERE id = $1 RETURNING attempt",
    )
    .bind(id.as_str())
    .bind(named(store, worker))
    .bind(now.plus(limits::JOB_LEASE).millis())
    .bind(now.millis())
    // What was asked of an owner that died is asked of the next; somebody who names a job wants it to run.
    .bind(i64::from(states == WAITING))
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Claim::new(number(attempt)?, project.clone(), lock))
}

/// The oldest job of a kind that waits for a server's worker and that nobody works on: a choice, or a training that was
/// asked for over HTTP; queued, or with a dead owner: on this machine its lock says so, of another one its lease. Of the projects that have one, `after` comes last, so that no project waits behind all jobs of another.
pub async fn next_waiting(
    store: &Store,
    kind: Kind,
    after: Option<&Project>,
    now: Timestamp,
) -> Result<Option<Job>, StoreError> {
    type Row = (String, String, String, Option<String>, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT tenant, project, id, worker, lease_expires_at FROM jobs WHERE kind = $1 AND (kind = 'choose' OR request IS NOT NULL) AND \
         state IN ('queued', 'running') \
         ORDER BY CASE WHEN tenant = $2 AND project = $3 THEN 1 ELSE 0 END, created_at, id LIMIT 64",
    )
    .bind(kind.as_str())
    .bind(after.map_or("", |project| &project.tenant))
    .bind(after.map_or("", |project| &project.id))
    .fetch_all(&store.reader)
    .await?;
    for (tenant, project, id, worker, lease) in rows {
        // A queued job has no worker.
        if is_leased_elsewhere(store, worker.as_deref(), lease.map(Timestamp::from_millis), now) {
            continue;
        }
        let id: JobId = id.parse().map_err(|_| StoreError::Damaged { table: "jobs", value: id.clone() })?;
        if JobLock::try_acquire(store.layout(), &id)?.is_some() {
            match find(store, &Project { tenant, id: project }, &id).await {
                // It waits for a process that can open it, and others go on.
                Err(error @ (StoreError::Locked { .. } | StoreError::Erased { .. })) => {
                    tracing::debug!(%error, "a job stays as it is");
                }
                found => return found.map(Some),
            }
        }
    }
    Ok(None)
}

/// Takes the oldest training job that waits, of any project: a queued one, or a running one whose lease is over and
/// whose owner is dead. `None` when there is no work.
pub async fn claim_next(store: &Store, worker: &str, now: Timestamp) -> Result<Option<Claim>, StoreError> {
    let candidates: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT tenant, project, id FROM jobs \
         WHERE kind = 'train' AND (state = 'queued' OR (state = 'running' AND lease_expires_at <= $1)) \
         ORDER BY created_at, id LIMIT 16",
    )
    .bind(now.millis())
    .fetch_all(&store.reader)
    .await?;
    for (tenant, project, id) in candidates {
        let project = Project { tenant, id: project };
        let id: JobId = id.parse().map_err(|_| StoreError::Damaged { table: "jobs", value: id.clone() })?;
        let Some(lock) = JobLock::try_acquire(store.layout(), &id)? else { continue };
        let mut transaction = store.write().await?;
        let row: Option<(i64,)> = sqlx::query_as(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = $2, lease_expires_at = $3, \
             started_at = COALESCE(started_at, $4) \
             WHERE id = $1 AND (state = 'queued' OR (state = 'running' AND lease_expires_at <= $4)) \
             RETURNING attempt",
        )
        .bind(id.as_str())
        .bind(named(store, worker))
        .bind(now.plus(limits::JOB_LEASE).millis())
        .bind(now.millis())
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if let Some((attempt,)) = row {
            return Ok(Some(Claim::new(number(attempt)?, project, lock)));
        }
    }
    Ok(None)
}
