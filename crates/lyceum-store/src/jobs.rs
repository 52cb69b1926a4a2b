//! Jobs: `queued → running(attempt, lease, worker) → done | failed | cancelled`, and `paused` on the way.
//!
//! Two things say who works on a job. On this machine the operating system's lock ([`JobLock`](crate::files::JobLock)) tells a
//! living owner from a dead one at once. Across machines the lease does, which its worker renews: a row names the worker
//! with its machine, and nobody takes a job from another machine before its lease is over. Each claim
//! begins a new attempt, and every later write names its attempt: a worker that was overtaken cannot write
//! any more ([`StoreError::Fenced`]), so a job runs at least once and has its effects exactly once.
//!
//! Of an encrypted project what is asked, said and found is sealed in the row; who works on the job needs the project's key.

mod claim;
pub mod kept;
pub mod made;
mod pause;
mod sealed;
pub(crate) mod stop;

pub use claim::{
    Claim, claim, claim_next, claim_waiting, create_claimed, is_broken_off, next_waiting, renew,
};
pub use pause::{finish_paused, pause, resume};

use crate::files::{JobLock, Staging};
use crate::ledger::{NewBill, Outcome, bills};
use crate::models::{self, NewVersion, Version};
use crate::vault::ProjectKey;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use sealed::Column;
use sqlx::Row;
use sqlx::any::AnyRow;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Queued,
    Running,
    /// Somebody asked for it to stop so that it goes on later.
    Paused,
    Done,
    Failed,
    Cancelled,
}

impl State {
    /// As the column has them: a paused job is a cancelled one with the wish to go on later.
    const STORED: [State; 5] = [State::Queued, State::Running, State::Done, State::Failed, State::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Paused => "paused",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Trains one model; what it publishes is a version.
    Train,
    /// Chooses among several; what it writes is a document.
    Choose,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Train, Kind::Choose];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Train => "train",
            Kind::Choose => "choose",
        }
    }
}

/// A job as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub project: Project,
    pub kind: Kind,
    pub state: State,
    /// How many times it was begun.
    pub attempt: u32,
    pub worker: Option<String>,
    pub lease_expires_at: Option<Timestamp>,
    pub cancel_requested: bool,
    /// It runs and is to stop so that it goes on later.
    pub pause_requested: bool,
    /// The specification as JSON.
    pub spec: String,
    /// What was asked over HTTP, as JSON; None: at the command line.
    pub request: Option<String>,
    /// The name of the model that it makes.
    pub model: String,
    pub step: u64,
    /// 0 while it is not known.
    pub steps: u64,
    pub message: String,
    /// What a finished job answers when it is asked again: JSON.
    pub outcome: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct NewJob {
    pub kind: Kind,
    /// The specification as JSON.
    pub spec: String,
    /// What was asked over HTTP, as JSON: then the server's worker takes it, whatever its kind.
    pub request: Option<String>,
    /// The name of the model that it makes.
    pub model: String,
    pub steps: u64,
    /// Who pays for it; None: nobody's key.
    pub bill: Option<NewBill>,
}

/// What the owner of a job must know after each report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Continue,
    /// Somebody asked for the job to end.
    Cancel,
    /// Somebody asked for the job to stop so that it goes on later.
    Pause,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub step: u64,
    pub steps: u64,
    pub message: String,
}

/// Puts a job into the queue.
///
/// # Errors
/// A budget does not cover the most that it can cost.
pub async fn create(
    store: &Store,
    project: &Project,
    new: NewJob,
    now: Timestamp,
) -> Result<JobId, StoreError> {
    let id = JobId::from_bits(uuid::Uuid::now_v7().as_u128());
    insert(store, project, &id, new, now).await?;
    Ok(id)
}

/// As [`create`], under an id that was drawn before: what the job makes may be named after it.
pub async fn create_as(
    store: &Store,
    project: &Project,
    id: &JobId,
    new: NewJob,
    now: Timestamp,
) -> Result<(), StoreError> {
    insert(store, project, id, new, now).await
}

async fn insert(
    store: &Store,
    project: &Project,
    id: &JobId,
    new: NewJob,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = store.keyring().of(project)?;
    let spec = sealed::seal(key.as_ref(), id, Column::Spec, &new.spec)?;
    let request = new.request.as_deref().map(|text| sealed::seal(key.as_ref(), id, Column::Request, text));
    let request = request.transpose()?;
    let price = match &new.bill {
        Some(bill) => bills::price(store, project, bill).await?,
        None => None,
    };
    let mut transaction = store.write().await?;
    sqlx::query(
        "INSERT INTO jobs (tenant, project, id, state, attempt, cancel_requested, spec, model, step, steps, \
         message, created_at, kind, request) VALUES ($1, $2, $3, 'queued', 0, 0, $4, $5, 0, $6, '', $7, $8, $9)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(spec)
    .bind(new.model)
    .bind(saturate(new.steps))
    .bind(now.millis())
    .bind(new.kind.as_str())
    .bind(request)
    .execute(&mut *transaction)
    .await?;
    if let Some(bill) = &new.bill {
        bills::open(&mut transaction, (project, id), bill, price.as_ref(), now).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// How many jobs of a kind a project has that have not ended.
pub async fn count_unfinished(store: &Store, project: &Project, kind: Kind) -> Result<u64, StoreError> {
    let (n,): (i64,) = sqlx::query_as(
        "SELECT COUNT(*) FROM jobs \
         WHERE tenant = $1 AND project = $2 AND kind = $3 AND \
         (state IN ('queued', 'running') OR (state = 'cancelled' AND wish = 'pause'))",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(kind.as_str())
    .fetch_one(&store.reader)
    .await?;
    number(n)
}

/// The jobs of a project that have not ended, oldest first.
pub async fn unfinished(store: &Store, project: &Project) -> Result<Vec<Job>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, state, attempt, worker, lease_expires_at, cancel_requested, spec, model, step, steps, message, \
         outcome, created_at, started_at, finished_at, kind, request, wish FROM jobs WHERE tenant = $1 AND project = $2 \
         AND (state IN ('queued', 'running') OR (state = 'cancelled' AND wish = 'pause')) ORDER BY created_at, id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    let key = store.keyring().of(project)?;
    rows.iter().map(|row| parse(row, project, key.as_ref())).collect()
}

/// Writes how far the job is and what its claim counted, and renews its lease.
pub async fn report(
    store: &Store,
    claim: &Claim,
    progress: &Progress,
    now: Timestamp,
) -> Result<Signal, StoreError> {
    let mut transaction = store.write().await?;
    let row: Option<(i64, String)> = sqlx::query_as(
        "UPDATE jobs SET step = $3, steps = $4, message = $5, lease_expires_at = $6 \
         WHERE id = $1 AND attempt = $2 AND state = 'running' RETURNING cancel_requested, wish",
    )
    .bind(claim.id().as_str())
    .bind(i64::from(claim.attempt))
    .bind(saturate(progress.step))
    .bind(saturate(progress.steps))
    .bind(sealed::message(store, &claim.project, claim.id(), &progress.message)?)
    .bind(now.plus(limits::JOB_LEASE).millis())
    .fetch_optional(&mut *transaction)
    .await?;
    noted(transaction, claim, row).await
}

/// As [`report`], of work behind the last step.
pub async fn report_counted(store: &Store, claim: &Claim, now: Timestamp) -> Result<Signal, StoreError> {
    let mut transaction = store.write().await?;
    let row: Option<(i64, String)> = sqlx::query_as(
        "UPDATE jobs SET lease_expires_at = $3 WHERE id = $1 AND attempt = $2 AND state = 'running' \
         RETURNING cancel_requested, wish",
    )
    .bind(claim.id().as_str())
    .bind(i64::from(claim.attempt))
    .bind(now.plus(limits::JOB_LEASE).millis())
    .fetch_optional(&mut *transaction)
    .await?;
    noted(transaction, claim, row).await
}

/// Notes what a claim counted; `row` says what its owner must know.
async fn noted(
    mut transaction: crate::db::Transaction,
    claim: &Claim,
    row: Option<(i64, String)>,
) -> Result<Signal, StoreError> {
    let (cancel_requested, wish) = row.ok_or_else(|| fenced(claim))?;
    if let Some(done) = claim.counted() {
        bills::note(&mut transaction, claim.id(), &done).await?;
    }
    transaction.commit().await?;
    Ok(match (cancel_requested, wish.as_str()) {
        (0, "pause") => Signal::Pause,
        (0, _) => Signal::Continue,
        _ => Signal::Cancel,
    })
}

/// Ends the job with success: its version is published and its row is written in one transaction.
///
/// `manifest` and `outcome` are made from the number that the version gets. Checkpoints that waited for its gate are let go,
/// or held as it is.
pub async fn finish_done(
    store: &Store,
    claim: &Claim,
    new: NewVersion,
    staging: Staging,
    manifest: impl FnOnce(u32) -> Vec<u8>,
    outcome: impl FnOnce(&Version) -> String,
    now: Timestamp,
) -> Result<Version, StoreError> {
    let key = store.keyring().of(&claim.project)?;
    let ready = models::ready(store, &claim.project, &staging, now).await?;
    let mut transaction = store.write().await?;
    // The fence first: an overtaken attempt must not publish.
    end(&mut transaction, claim, State::Done, "", now).await?;
    settle(&mut transaction, claim, Outcome::Completed, now).await?;
    // Before its version, which has its own word.
    models::judge_held_of_job(&mut transaction, &claim.project, claim.id(), new.held.as_deref()).await?;
    let version =
        models::publish_in(&mut transaction, store, &claim.project, new, &ready, manifest, now).await?;
    let outcome = sealed::seal(key.as_ref(), claim.id(), Column::Outcome, &outcome(&version))?;
    let written = sqlx::query(
        "UPDATE jobs SET outcome = $2, step = CASE WHEN steps > step THEN steps ELSE step END WHERE id = $1",
    )
    .bind(claim.id().as_str())
    .bind(outcome)
    .execute(&mut *transaction)
    .await;
    if let Err(error) = written {
        // As when the commit fails: the folder goes back to staging and with it.
        let _ = crate::files::rename_durably(version.dir.path(), staging.path());
        return Err(error.into());
    }
    made::tell(&mut transaction, claim, &version, &staging, now).await?;
    models::commit_or_take_back(transaction, &version, &staging).await?;
    Ok(version)
}

/// Ends a job that makes no version with success. `outcome` is what it answers when it is asked again.
pub async fn finish_done_with(
    store: &Store,
    claim: &Claim,
    outcome: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = store.keyring().of(&claim.project)?;
    let outcome = sealed::seal(key.as_ref(), claim.id(), Column::Outcome, outcome)?;
    let mut transaction = store.write().await?;
    end(&mut transaction, claim, State::Done, "", now).await?;
    settle(&mut transaction, claim, Outcome::Completed, now).await?;
    sqlx::query("UPDATE jobs SET outcome = $2 WHERE id = $1")
        .bind(claim.id().as_str())
        .bind(outcome)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends the job without a result, so that it can be resumed later.
pub async fn finish_failed(
    store: &Store,
    claim: &Claim,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    finish_without_result(store, claim, (State::Failed, Outcome::Failed), message, now).await
}

/// Ends the job because somebody asked for it, so that it can be resumed later.
pub async fn finish_cancelled(
    store: &Store,
    claim: &Claim,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    finish_without_result(store, claim, (State::Cancelled, Outcome::Cancelled), message, now).await
}

async fn finish_without_result(
    store: &Store,
    claim: &Claim,
    (state, outcome): (State, Outcome),
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let message = sealed::message(store, &claim.project, claim.id(), message)?;
    let mut transaction = store.write().await?;
    end(&mut transaction, claim, state, &message, now).await?;
    settle(&mut transaction, claim, outcome, now).await?;
    transaction.commit().await?;
    Ok(())
}

/// Who pays for the job pays what was done.
async fn settle(
    transaction: &mut crate::db::Transaction,
    claim: &Claim,
    outcome: Outcome,
    now: Timestamp,
) -> Result<(), StoreError> {
    bills::settle(transaction, claim.id(), outcome, claim.counted(), now).await
}

async fn end(
    transaction: &mut crate::db::Transaction,
    claim: &Claim,
    state: State,
    message: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE jobs SET state = $3, message = $4, finished_at = $5, worker = NULL, lease_expires_at = NULL \
         WHERE id = $1 AND attempt = $2 AND state = 'running'",
    )
    .bind(claim.id().as_str())
    .bind(i64::from(claim.attempt))
    .bind(state.as_str())
    .bind(message)
    .bind(now.millis())
    .execute(&mut **transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(fenced(claim));
    }
    Ok(())
}

/// Asks a job to end: a queued one ends at once, a running one at its owner's next report.
pub async fn cancel(
    store: &Store,
    project: &Project,
    id: &JobId,
    now: Timestamp,
) -> Result<State, StoreError> {
    let mut transaction = store.write().await?;
    let row: Option<(String,)> = sqlx::query_as(
        "UPDATE jobs SET cancel_requested = 1, wish = 'run', \
         finished_at = CASE WHEN state = 'queued' THEN $4 ELSE finished_at END, \
         state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END \
         WHERE tenant = $1 AND project = $2 AND id = $3 AND \
         (state IN ('queued', 'running') OR (state = 'cancelled' AND wish = 'pause')) RETURNING state",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(now.millis())
    .fetch_optional(&mut *transaction)
    .await?;
    if row.as_ref().is_some_and(|(state,)| state == State::Cancelled.as_str()) {
        // Nobody works on it: what a paused one noted is all.
        bills::settle(&mut transaction, id, Outcome::Cancelled, None, now).await?;
    }
    transaction.commit().await?;
    let Some((state,)) = row else {
        let state = find(store, project, id).await?.state;
        return Err(StoreError::JobState {
            id: id.to_string(),
            operation: "cancel",
            state: state.as_str().into(),
        });
    };
    parse_state(&state)
}

pub async fn find(store: &Store, project: &Project, id: &JobId) -> Result<Job, StoreError> {
    let row = sqlx::query(
        "SELECT id, state, attempt, worker, lease_expires_at, cancel_requested, spec, model, step, steps, message, \
         outcome, created_at, started_at, finished_at, kind, request, wish FROM jobs WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .fetch_optional(&store.reader)
    .await?;
    let row = row.ok_or_else(|| StoreError::NotFound { what: "job", id: id.to_string() })?;
    parse(&row, project, store.keyring().of(project)?.as_ref())
}

/// Which of a project's jobs that were asked for over HTTP a page has: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The job before the page.
    pub after: Option<JobId>,
    pub limit: u32,
}

/// The trainings that were asked for over HTTP, newest first, and whether there are more behind them. Ids sort by
/// creation.
pub async fn list_requested(
    store: &Store,
    project: &Project,
    page: &Page,
) -> Result<(Vec<Job>, bool), StoreError> {
    let rows = sqlx::query(
        "SELECT id, state, attempt, worker, lease_expires_at, cancel_requested, spec, model, step, steps, message, \
         outcome, created_at, started_at, finished_at, kind, request, wish FROM jobs \
         WHERE tenant = $1 AND project = $2 AND kind = 'train' AND request IS NOT NULL AND ($3 = '' OR id < $3) \
         ORDER BY id DESC LIMIT $4",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(page.after.as_ref().map_or("", JobId::as_str))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(&store.reader)
    .await?;
    let has_more = rows.len() > page.limit as usize;
    let page = rows.iter().take(page.limit as usize);
    let key = store.keyring().of(project)?;
    Ok((page.map(|row| parse(row, project, key.as_ref())).collect::<Result<_, _>>()?, has_more))
}

/// Every job of the project, oldest first.
pub async fn list(store: &Store, project: &Project) -> Result<Vec<Job>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, state, attempt, worker, lease_expires_at, cancel_requested, spec, model, step, steps, message, \
         outcome, created_at, started_at, finished_at, kind, request, wish FROM jobs WHERE tenant = $1 AND project = $2 \
         ORDER BY created_at, id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    let key = store.keyring().of(project)?;
    rows.iter().map(|row| parse(row, project, key.as_ref())).collect()
}

fn fenced(claim: &Claim) -> StoreError {
    StoreError::Fenced { id: claim.id().to_string(), attempt: claim.attempt }
}

fn saturate(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number<T: TryFrom<i64>>(value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::Damaged { table: "jobs", value: value.to_string() })
}

fn parse_state(text: &str) -> Result<State, StoreError> {
    let found = State::STORED.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| StoreError::Damaged { table: "jobs", value: text.into() })
}

fn parse(row: &AnyRow, project: &Project, key: Option<&ProjectKey>) -> Result<Job, StoreError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let moment = |column: &str| {
        let millis: Option<i64> = row.try_get(column)?;
        Ok::<_, StoreError>(millis.map(Timestamp::from_millis))
    };
    let damaged = |value: String| StoreError::Damaged { table: "jobs", value };
    let (id, kind, wishes_pause) = (text("id")?, text("kind")?, text("wish")? == "pause");
    let opened = |column, text| sealed::open(key, &id, column, text);
    let (request, outcome): (Option<String>, Option<String>) =
        (row.try_get("request")?, row.try_get("outcome")?);
    let state = match parse_state(&text("state")?)? {
        State::Cancelled if wishes_pause => State::Paused,
        state => state,
    };
    Ok(Job {
        id: id.parse().map_err(|_| damaged(id.clone()))?,
        project: project.clone(),
        kind: Kind::ALL.into_iter().find(|one| one.as_str() == kind).ok_or_else(|| damaged(kind))?,
        state,
        attempt: number(row.try_get("attempt")?)?,
        worker: row.try_get("worker")?,
        lease_expires_at: moment("lease_expires_at")?,
        cancel_requested: row.try_get::<i64, _>("cancel_requested")? != 0,
        pause_requested: state == State::Running && wishes_pause,
        spec: opened(Column::Spec, text("spec")?)?,
        request: request.map(|text| opened(Column::Request, text)).transpose()?,
        model: text("model")?,
        step: number(row.try_get("step")?)?,
        steps: number(row.try_get("steps")?)?,
        message: opened(Column::Message, text("message")?)?,
        outcome: outcome.map(|text| opened(Column::Outcome, text)).transpose()?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        started_at: moment("started_at")?,
        finished_at: moment("finished_at")?,
    })
}

#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;
