//! Answers that are made while nobody waits for them: told to whoever asks, ended by whoever asks.
//!
//! A [`Maker`] is held by the task that makes an answer; it tells how far the answer is and what happened, in words
//! of its door. Followers read the same from the beginning, or from where they left. The answer lies on the disk from
//! the moment it is queued, beside a lock that says whether the process that makes it lives.

use super::{Record, ResponseId, is_open, with_store};
use crate::receipts::{self, Later, Place};
use crate::{Service, ServiceError};
use lyceum_store::{WorkLock, responses};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

type Key = (Project, ResponseId);

/// The answers that this process makes in the background. No project's answers hold up those of another: bounds are
/// each project's own.
#[derive(Default)]
pub struct Live {
    all: Mutex<HashMap<Key, Arc<Progress>>>,
    places: Mutex<HashMap<Project, Arc<Semaphore>>>,
}

impl Live {
    fn places(&self, project: &Project) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let new = || Arc::new(Semaphore::new(limits::BACKGROUND_RESPONSES_AT_ONCE));
        places.entry(project.clone()).or_insert_with(new).clone()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Progress>>> {
        self.all.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn find(&self, project: &Project, id: &ResponseId) -> Option<Arc<Progress>> {
        self.all().get(&(project.clone(), id.clone())).cloned()
    }
}

/// How a client ended an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It goes on.
    GoOn,
    /// It ends and is kept as far as it came.
    Cancel,
    /// It ends and is not kept.
    Delete,
}

/// How far an answer is.
#[derive(Debug)]
pub struct Progress {
    told: Mutex<Told>,
    changed: watch::Sender<()>,
    wish: watch::Sender<Wish>,
}

#[derive(Debug)]
struct Told {
    record: Record,
    has_ended: bool,
}

impl Progress {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn record(&self) -> Record {
        self.told().record.clone()
    }

    /// Asks it to end and waits until it has.
    pub(super) async fn end(&self, wish: Wish) -> Record {
        let mut changed = self.changed.subscribe();
        self.wish.send_replace(wish);
        let ended = async { while !self.told().has_ended && changed.changed().await.is_ok() {} };
        // The step that it is in takes no longer than this; what is told then is true as far as it goes.
        let _ = tokio::time::timeout(Duration::from_secs(10), ended).await;
        self.record()
    }

    pub(super) fn follow(self: Arc<Self>, next: usize) -> Followed {
        let changed = self.changed.subscribe();
        Followed { progress: self, changed, next }
    }
}

/// Reads what happens to an answer, from some event on.
pub struct Followed {
    progress: Arc<Progress>,
    changed: watch::Receiver<()>,
    next: usize,
}

impl Followed {
    /// The next events; `None` after the last.
    pub async fn next(&mut self) -> Option<Vec<Value>> {
        loop {
            {
                self.changed.mark_unchanged();
                let told = self.progress.told();
                let events = told.record.events.get(self.next..).unwrap_or_default();
                if !events.is_empty() {
                    self.next += events.len();
                    return Some(events.to_vec());
                }
                if told.has_ended {
                    return None;
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

/// Held by the task that makes an answer; the answer is no longer live when it is dropped.
pub struct Maker {
    service: Arc<Service>,
    project: Project,
    id: ResponseId,
    progress: Arc<Progress>,
    wish: watch::Receiver<Wish>,
    keeps_events: bool,
    disk: Arc<Mutex<Disk>>,
    _lock: Option<WorkLock>,
}

/// What may still be written of an answer. Held while something is: a write goes on where nobody waits for it any
/// more, and what is written after the end would undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Open,
    Closed,
}

/// Puts an answer into the queue: it lies on the disk when this returns. `keeps_events`: it can be followed.
///
/// # Errors
/// Too many of the project wait already; the disk.
pub async fn begin(
    service: &Arc<Service>,
    project: &Project,
    id: ResponseId,
    record: Record,
) -> Result<Maker, ServiceError> {
    let keeps_events = !record.events.is_empty();
    let (wish, wished) = watch::channel(Wish::GoOn);
    let told = Mutex::new(Told { record, has_ended: false });
    let progress = Arc::new(Progress { told, changed: watch::Sender::new(()), wish });
    {
        let mut all = service.live_responses.all();
        let n = all.keys().filter(|(other, _)| other == project).count();
        if n >= limits::BACKGROUND_RESPONSES_MAX {
            return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(10) });
        }
        all.insert((project.clone(), id.clone()), progress.clone());
    }
    let (service, project) = (service.clone(), project.clone());
    let disk = Arc::new(Mutex::new(Disk::Open));
    let mut maker = Maker { service, project, id, progress, wish: wished, keeps_events, disk, _lock: None };
    let id = maker.id.clone();
    let own = move |service: &Service, project: &Project| Ok(responses::own(service.store(), project, &id)?);
    maker._lock = with_store(&maker.service, &maker.project, own).await?;
    maker.save().await?;
    receipts::kept("response", maker.id.as_str(), Place::DataFolder, None);
    Ok(maker)
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.service.live_responses.all().remove(&(self.project.clone(), self.id.clone()));
        // Whoever follows an answer whose task went with the server reads no more.
        self.progress.told().has_ended = true;
        self.progress.changed.send_replace(());
    }
}

impl Maker {
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Reads all that will happen.
    pub fn follow(&self) -> Followed {
        self.progress.clone().follow(0)
    }

    /// Returns when a client wants the answer to end.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut wish = self.wish.clone();
        async move {
            // Without a sender nobody can want it any more.
            if wish.wait_for(|wish| *wish != Wish::GoOn).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// A place among those of the project that are made at once.
    pub async fn place(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let place = self.service.live_responses.places(&self.project).acquire_owned().await;
        place.map_err(|error| ServiceError::internal("no place is given any more", error))
    }

    /// How far the answer is, and what happened since.
    pub fn tell(&self, events: Vec<Value>, response: &Value) {
        let mut told = self.progress.told();
        told.record.response = response.clone();
        if self.keeps_events {
            told.record.events.extend(events);
        }
        drop(told);
        self.progress.changed.send_replace(());
    }

    /// Writes what was told last: that it began.
    pub async fn save(&self) -> Result<(), ServiceError> {
        self.write(Some(self.progress.record()), Disk::Open).await
    }

    /// Writes, unless the end was written before, and leaves the disk as `then` says.
    async fn write(&self, record: Option<Record>, then: Disk) -> Result<(), ServiceError> {
        let (id, disk) = (self.id.clone(), self.disk.clone());
        with_store(&self.service, &self.project, move |service, project| {
            let mut disk = disk.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if *disk == Disk::Open {
                if let Some(record) = &record {
                    super::write(service, project, &id, record)?;
                }
                *disk = then;
            }
            Ok(())
        })
        .await
    }

    /// The answer has ended: written before its end is told, so that whoever reads the end can go on from it.
    ///
    /// # Errors
    /// The disk: the end that `response` says was not told.
    pub async fn end(
        &self,
        events: Vec<Value>,
        response: &Value,
        receipt: Option<Value>,
    ) -> Result<(), ServiceError> {
        let is_kept = *self.wish.borrow() != Wish::Delete;
        let record = is_kept.then(|| {
            let mut record = self.progress.record();
            record.response = response.clone();
            record.receipt = receipt.clone();
            if self.keeps_events {
                record.events.extend(events.iter().cloned());
            }
            record
        });
        self.write(record, Disk::Closed).await?;
        self.progress.told().record.receipt = receipt;
        self.last_words(events, response);
        Ok(())
    }

    /// The receipt of the answer as it ends, and as it is kept. Within the scope of `later`.
    pub async fn receipt(&self, later: &Later, response: &Value) -> Option<Value> {
        if *self.wish.borrow() == Wish::Delete {
            return None;
        }
        receipts::kept("response", self.id.as_str(), Place::DataFolder, None);
        let bytes = serde_json::to_vec(response).expect("an answer is plain data: bug");
        match later.issue(&self.service, &bytes).await {
            Ok(receipt) => Some(receipt),
            Err(error) => {
                tracing::error!(%error, id = self.id.as_str(), "a response has no receipt");
                None
            }
        }
    }

    /// Tells an end that could not be written.
    pub fn last_words(&self, events: Vec<Value>, response: &Value) {
        self.progress.told().has_ended = true;
        self.tell(events, response);
    }
}

/// Says of an answer that is not being made by any process that it broke off; others stay as they are. Reads and
/// writes files.
pub(super) fn settle(
    service: &Service,
    project: &Project,
    id: &ResponseId,
    record: Record,
) -> Result<Record, ServiceError> {
    if !is_open(&record) {
        return Ok(record);
    }
    let Some(_lock) = responses::own(service.store(), project, id)? else { return Ok(record) };
    // It may have ended since it was read.
    let mut record = super::read(service, project, id)?;
    if is_open(&record) {
        let message = "the server ended before the answer did; nothing was kept of it: ask again";
        record.response["status"] = "failed".into();
        record.response["error"] = serde_json::json!({"code": "server_error", "message": message});
        record.events.clear();
        super::write(service, project, id, &record)?;
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_engine::{Engine, EngineLimits};
    use lyceum_store::{Layout, Store};
    use lyceum_types::clock::Timestamp;

    async fn begins(service: &Arc<Service>, project: &str) -> Result<Maker, ServiceError> {
        let record = Record { response: Value::Null, input: Vec::new(), events: Vec::new(), receipt: None };
        let project = Project { tenant: project.into(), id: project.into() };
        begin(service, &project, ResponseId::new(), record).await
    }

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_does_not_undo_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
        let service = Arc::new(Service::new(store, Engine::start(EngineLimits::default()).unwrap()));
        for _ in 0..50 {
            let maker = begins(&service, "p").await.unwrap();
            // Begun, and left.
            tokio::select! {
                biased;
                saved = maker.save() => saved.unwrap(),
                () = tokio::task::yield_now() => {}
            }
            maker.end(Vec::new(), &Value::from("end"), None).await.unwrap();
            maker.save().await.unwrap();
            let (id, project) = (maker.id.clone(), maker.project.clone());
            drop(maker);
            let kept = super::super::read(&service, &project, &id).unwrap();
            assert_eq!(kept.response, "end");
        }
    }

    #[tokio::test]
    async fn a_project_that_fills_its_bounds_leaves_others_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
        let service = Arc::new(Service::new(store, Engine::start(EngineLimits::default()).unwrap()));
        let mut makers = Vec::new();
        for _ in 0..limits::BACKGROUND_RESPONSES_MAX {
            makers.push(begins(&service, "loud").await.unwrap());
        }
        let refused = begins(&service, "loud").await.err();
        assert!(matches!(refused, Some(ServiceError::Overloaded { .. })), "{refused:?}");
        let mut held = Vec::new();
        for maker in &makers[..limits::BACKGROUND_RESPONSES_AT_ONCE] {
            held.push(maker.place().await.unwrap());
        }
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, makers[100].place()).await.is_err(), "one place too many");
        let quiet = begins(&service, "quiet").await.unwrap();
        let _place =
            tokio::time::timeout(soon, quiet.place()).await.expect("no other project waits").unwrap();
        drop(held);
        makers.pop();
        let _place = makers[100].place().await.unwrap();
        begins(&service, "loud").await.unwrap();
    }
}
