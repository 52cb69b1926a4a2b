//! Work that a client asks for and fetches later: robustness runs and background explanations.
//!
//! A run is a document in the store: `queued → in_progress → completed | failed | cancelled`. A few work at once, a
//! bounded number waits, and cancelling one drops its future, which ends it at its next pass on the device. Doors say
//! what the document holds; this module knows no shape of it. Where the process that worked on a run is gone, the run
//! is `failed` with the code `interrupted`: it is not begun again by itself. The next server of its machine says so to
//! every machine, or whoever asks there before.

use crate::receipts::{self, Place};
use crate::{Service, ServiceError};
use lyceum_store::WorkLock;
use lyceum_store::runs::{self, Kind, RunId};
use lyceum_store::tenancy::{Page, projects};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    fn has_ended(self) -> bool {
        !matches!(self, Status::Queued | Status::InProgress)
    }
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub code: String,
    pub message: String,
}

/// A run as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    /// Seconds since 1970.
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub status: Status,
    pub error: Option<Failed>,
    /// What was asked, as the door shows it again.
    pub request: Value,
    /// What was found, as the door shows it; null before.
    pub result: Value,
}

/// What a run found.
pub struct Found {
    pub result: Value,
    /// Rows, a JSON document a line.
    pub lines: Option<Vec<u8>>,
}

/// The runs of this process.
pub struct Background {
    live: Mutex<HashMap<String, Arc<Notify>>>,
    places: Arc<Semaphore>,
}

impl Default for Background {
    fn default() -> Self {
        Background {
            live: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::BACKGROUND_RUNS_AT_ONCE)),
        }
    }
}

impl Background {
    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.live.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Puts a run into the queue and returns it as it stands there.
///
/// # Errors
/// Too many runs wait already; the disk.
pub async fn start<W>(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    request: Value,
    work: W,
) -> Result<Record, ServiceError>
where
    W: Future<Output = Result<Found, ServiceError>> + Send + 'static,
{
    crate::retention::require_kept(service, project, "background", "what is asked and what is found").await?;
    let id = RunId::new(kind);
    let cancel = Arc::new(Notify::new());
    {
        let mut live = service.background.live();
        if live.len() >= limits::BACKGROUND_RUNS_MAX {
            return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(10) });
        }
        live.insert(id.as_str().to_owned(), cancel.clone());
    }
    let record = Record {
        id: id.as_str().to_owned(),
        created_at: Timestamp::now().seconds(),
        started_at: None,
        finished_at: None,
        status: Status::Queued,
        error: None,
        request,
        result: Value::Null,
    };
    let run = Run { service: service.clone(), project: project.clone(), id, _lock: None, record };
    runs::trim(service.store(), project, kind, limits::BACKGROUND_RUNS_KEPT - 1).await?;
    let run = tokio::task::spawn_blocking(move || run.begin()).await;
    let run = run.map_err(|error| ServiceError::internal("writing a run broke off", error))??;
    let queued = run.record.clone();
    receipts::kept("run", &queued.id, Place::DataFolder, None);
    tokio::spawn(crate::rates::carried(run.until_the_end(cancel, work)));
    Ok(queued)
}

/// A run that this process works on; gone from the list when it is dropped.
struct Run {
    service: Arc<Service>,
    project: Project,
    id: RunId,
    _lock: Option<WorkLock>,
    record: Record,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.service.background.live().remove(self.id.as_str());
    }
}

impl Run {
    fn begin(mut self) -> Result<Self, ServiceError> {
        let store = self.service.store();
        self._lock = runs::own(store, &self.project, &self.id)?;
        save(&self.service, &self.project, &self.id, &self.record)?;
        Ok(self)
    }

    async fn until_the_end<W>(mut self, cancel: Arc<Notify>, work: W)
    where
        W: Future<Output = Result<Found, ServiceError>>,
    {
        let places = self.service.background.places.clone();
        let place = tokio::select! {
            biased;
            () = cancel.notified() => None,
            place = places.acquire_owned() => place.ok(),
        };
        let ended = match place {
            None => None,
            Some(_place) => {
                self.record.status = Status::InProgress;
                self.record.started_at = Some(Timestamp::now().seconds());
                self.save_or_log(None).await;
                let limit = tokio::time::sleep(limits::BACKGROUND_RUN_TIMEOUT);
                tokio::select! {
                    biased;
                    () = cancel.notified() => None,
                    () = limit => Some(Err(ServiceError::DeadlinePassed)),
                    found = work => Some(found),
                }
            }
        };
        self.end(ended).await;
    }

    /// None: cancelled.
    async fn end(&mut self, ended: Option<Result<Found, ServiceError>>) {
        self.record.finished_at = Some(Timestamp::now().seconds());
        let mut lines = None;
        match ended {
            None => self.record.status = Status::Cancelled,
            Some(Ok(found)) => {
                self.record.status = Status::Completed;
                self.record.result = found.result;
                lines = found.lines;
            }
            Some(Err(error)) => {
                self.record.status = Status::Failed;
                self.record.error = Some(failed(&self.record.id, &error));
            }
        }
        self.save_or_log(lines).await;
    }

    /// A document that stays behind its run is found `interrupted` later, which is less than the truth and no lie.
    async fn save_or_log(&self, lines: Option<Vec<u8>>) {
        let (service, project) = (self.service.clone(), self.project.clone());
        let (id, record) = (self.id.clone(), self.record.clone());
        let work = move || {
            if let Some(lines) = lines {
                runs::save_lines(service.store(), &project, &id, &lines)?;
            }
            save(&service, &project, &id, &record)
        };
        let saved = tokio::task::spawn_blocking(work).await;
        let saved = saved.map_err(|error| ServiceError::internal("writing a run broke off", error));
        if let Err(error) = saved.and_then(|saved| saved) {
            tracing::error!(?error, id = self.record.id, "a background run was not written");
            return;
        }
        if self.record.status.has_ended() {
            keep(&self.service, &self.project, &self.id).await;
        }
    }
}

/// Gives a run that has ended to every machine.
async fn keep(service: &Service, project: &Project, id: &RunId) {
    if let Err(error) = runs::keep(service.store(), project, id).await {
        tracing::error!(%error, id = id.as_str(), "a background run is on this machine alone");
    }
}

/// What a client may read of an error; the rest is logged here.
fn failed(id: &str, error: &ServiceError) -> Failed {
    let code = match error {
        ServiceError::Invalid { code, .. } | ServiceError::Unsupported { code, .. } => code,
        ServiceError::NotImplemented { .. } => "not_implemented",
        ServiceError::Uncomputable { .. } => "not_computable",
        ServiceError::DeadlinePassed => "deadline_passed",
        ServiceError::Overloaded { .. } => "overloaded",
        ServiceError::BudgetExhausted { .. } => "insufficient_quota",
        ServiceError::NotReady { .. } => "not_ready",
        ServiceError::NotFound { .. }
        | ServiceError::ModelNotFound { .. }
        | ServiceError::ModelForbidden { .. } => "not_found",
        other => {
            tracing::error!(error = ?other, id, "a background run failed");
            let message = "the server failed; its log has the cause under this id";
            return Failed { code: "internal_error".into(), message: message.into() };
        }
    };
    Failed { code: code.to_owned(), message: error.to_string() }
}

fn save(service: &Service, project: &Project, id: &RunId, record: &Record) -> Result<(), ServiceError> {
    let json = serde_json::to_vec(record).expect("a record is plain data: bug");
    Ok(runs::save(service.store(), project, id, &json)?)
}

/// Runs `look` off the runtime: documents are read and, where their process is gone, written.
async fn off_runtime<T: Send + 'static>(
    service: &Arc<Service>,
    look: impl FnOnce(&Service) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let service = service.clone();
    let done = tokio::task::spawn_blocking(move || look(&service)).await;
    done.map_err(|error| ServiceError::internal("reading a run broke off", error))?
}

/// A run by its id.
///
/// # Errors
/// There is none of this kind; the disk; the object store.
pub async fn find(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    id: &str,
) -> Result<Record, ServiceError> {
    let unknown = || ServiceError::NotFound { what: kind.name(), id: id.to_owned() };
    let id = RunId::parse(kind, id).ok_or_else(unknown)?;
    runs::have(service.store(), project, &id).await?;
    let (of, this) = (project.clone(), id.clone());
    let look = move |service: &Service| {
        let record = read(service, &of, kind, &this)?;
        let left = if record.status.has_ended() { None } else { left_here(service, &of, kind, &this)? };
        Ok(left.map_or((record, None), |(record, lock)| (record, Some(lock))))
    };
    let (record, lock) = off_runtime(service, look).await?;
    if lock.is_some() {
        keep(service, project, &id).await;
    }
    Ok(record)
}

/// A run that nobody works on any more, ended where it had not; held, so that nobody else gives it to every machine.
fn left_here(
    service: &Service,
    project: &Project,
    kind: Kind,
    id: &RunId,
) -> Result<Option<(Record, WorkLock)>, ServiceError> {
    if service.background.live().contains_key(id.as_str()) {
        return Ok(None);
    }
    // Nobody here works on it; the lock says whether another process does.
    let Some(lock) = runs::own(service.store(), project, id)? else { return Ok(None) };
    let mut record = read(service, project, kind, id)?;
    if !record.status.has_ended() {
        record.status = Status::Failed;
        let message = "the server ended before the run did; nothing was kept of it: ask again";
        record.error = Some(Failed { code: "interrupted".into(), message: message.into() });
        save(service, project, id, &record)?;
    }
    Ok(Some((record, lock)))
}

/// Ends the runs that processes of this machine left which are gone, and gives them to every machine, so that each says
/// what became of them. One that cannot be settled is told to whoever asks for it.
pub async fn settle(service: Arc<Service>) {
    if let Err(error) = settle_all(&service).await {
        tracing::warn!(%error, "runs that were interrupted are known to this machine alone");
    }
}

async fn settle_all(service: &Arc<Service>) -> Result<(), ServiceError> {
    let store = service.store();
    for organization in projects::organizations(store).await? {
        let listed = projects::list(store, &organization.id, projects::Which::All, Page::WHOLE).await?;
        for project in listed.data.into_iter().map(|described| described.project) {
            let of = project.clone();
            let owned = off_runtime(service, move |service| Ok(runs::owned(service.store(), &of)?)).await?;
            for (kind, id) in owned {
                if let Err(error) = settle_one(service, &project, kind, &id).await {
                    tracing::debug!(%error, id = id.as_str(), "an interrupted run was not settled");
                }
            }
        }
    }
    Ok(())
}

async fn settle_one(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    id: &RunId,
) -> Result<(), ServiceError> {
    let (of, this) = (project.clone(), id.clone());
    let left = off_runtime(service, move |service| left_here(service, &of, kind, &this)).await?;
    if left.is_some() {
        keep(service, project, id).await;
    }
    Ok(())
}

fn read(service: &Service, project: &Project, kind: Kind, id: &RunId) -> Result<Record, ServiceError> {
    let bytes = runs::read(service.store(), project, id).map_err(|error| match error {
        lyceum_store::StoreError::NotFound { id, .. } => ServiceError::NotFound { what: kind.name(), id },
        other => other.into(),
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ServiceError::Damaged { id: id.as_str().to_owned(), source: source.into() })
}

/// The rows that a run found.
///
/// # Errors
/// There is no such run, or it has none (yet).
pub async fn lines(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    id: &str,
) -> Result<Vec<u8>, ServiceError> {
    let record = find(service, project, kind, id).await?;
    let name = record.id.clone();
    let unknown = move || ServiceError::NotFound { what: "file of a completed run", id: name };
    let Some(id) = RunId::parse(kind, &record.id) else { return Err(unknown()) };
    let project = project.clone();
    let look = move |service: &Service| match runs::read_lines(service.store(), &project, &id) {
        Err(lyceum_store::StoreError::NotFound { .. }) => Err(unknown()),
        read => Ok(read?),
    };
    off_runtime(service, look).await
}

/// The newest runs, newest first.
///
/// # Errors
/// The disk.
pub async fn list(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    max: usize,
) -> Result<Vec<Record>, ServiceError> {
    let mut ids = runs::list(service.store(), project, kind).await?;
    ids.reverse();
    ids.truncate(max);
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match find(service, project, kind, id.as_str()).await {
            // One that was trimmed meanwhile is left out.
            Err(ServiceError::NotFound { .. }) => {}
            record => found.push(record?),
        }
    }
    Ok(found)
}

/// Asks a run to end. One that has ended stays as it is.
///
/// # Errors
/// There is no such run; another process works on it.
pub async fn cancel(
    service: &Arc<Service>,
    project: &Project,
    kind: Kind,
    id: &str,
) -> Result<Record, ServiceError> {
    let look = async || find(service, project, kind, id).await;
    let mut record = look().await?;
    if record.status.has_ended() {
        return Ok(record);
    }
    let notify = service.background.live().get(id).cloned();
    match notify {
        Some(notify) => notify.notify_one(),
        None => {
            let message = "another process works on this run: end it there";
            return Err(ServiceError::unsupported("id", "not_here", message));
        }
    }
    // What its last pass still takes on the device changes nothing of its document.
    for _ in 0..200 {
        record = look().await?;
        if record.status.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(record)
}
