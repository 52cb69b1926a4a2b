//! Where the counts of language models' answers lie: in memory, and of projects that keep what they are told in the data
//! folder too ([`kept`](super::kept)).
//!
//! No request waits for the disk of another: counts of a model are read when it is first asked and written every few
//! seconds, on threads that may block, while no lock is held that a request takes. One process of a data folder has the
//! counts of a model, the first that was asked; another counts for itself, in memory. Under zero data retention there is
//! neither file nor lock, and what lay there is removed.

use super::language::Windows;
use crate::{Service, ServiceError};
use lyceum_store::models::{self, Version};
use lyceum_store::{Store, StoreError, WorkLock, drift};
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use lyceum_types::limits;
use lyceum_types::tenancy::Retention;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Models of projects that stay counted; beyond them those leave, at the next writing, that were asked longest ago.
const WATCHED_MAX: usize = 4096;

type Key = (Project, String);

/// The counts of all imported models, of each project by itself.
pub(crate) struct Watches {
    store: Store,
    all: Mutex<HashMap<Key, Arc<Entry>>>,
    tick: AtomicU64,
}

/// The counts of one model in one project.
pub(crate) struct Entry {
    project: Project,
    version: Version,
    /// Whether the project's retention lets counts lie on the disk.
    is_kept: bool,
    used: AtomicU64,
    has_begun: AtomicBool,
    /// Held for as long as it takes to count; inside of `disk` where both are.
    windows: Mutex<Windows>,
    /// Held while the disk works: by threads that may block.
    disk: Mutex<Disk>,
}

#[derive(Default)]
struct Disk {
    /// There while this process has the counts on the disk.
    lock: Option<WorkLock>,
    /// What was counted before under the same name, and leaves the disk first.
    before: Option<Arc<Entry>>,
}

/// What becomes of counts that the disk does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Written,
    /// The model is gone, or the project keeps nothing any more.
    Forgotten,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Entry {
    /// The counts of a model in a project, read where they lie on the disk.
    ///
    /// # Errors
    /// What the project lets be kept is not known; the runtime is ending.
    pub(super) async fn of(
        service: &Service,
        project: &Project,
        version: &Version,
    ) -> Result<Arc<Entry>, ServiceError> {
        let is_kept = service.retention(project).await? == Retention::Kept;
        service.language_drift.entry(project, version, is_kept).await
    }

    fn new(project: &Project, version: &Version, is_kept: bool, before: Option<Arc<Entry>>) -> Self {
        Entry {
            project: project.clone(),
            version: version.clone(),
            is_kept,
            used: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            windows: Mutex::new(Windows::new(limits::LANGUAGE_DRIFT_WINDOW)),
            disk: Mutex::new(Disk { lock: None, before }),
        }
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Windows) -> T) -> T {
        work(&mut hold(&self.windows))
    }

    /// Reads what the disk has, once; what cannot be read is told and begun anew. Blocks on the disk.
    fn begin(&self, store: &Store) {
        let mut disk = hold(&self.disk);
        if self.has_begun.load(Ordering::Acquire) {
            return;
        }
        if let Some(before) = disk.before.take() {
            before.leave();
        }
        let read = match self.is_kept {
            true => self.read(store, &mut disk),
            false => drift::remove(store, &self.project, &self.version.id()),
        };
        if let Err(error) = read {
            disk.lock = None;
            tracing::warn!(%error, model = self.version.id(), "counts of answers are in memory alone");
        }
        self.has_begun.store(true, Ordering::Release);
    }

    fn read(&self, store: &Store, disk: &mut Disk) -> Result<(), StoreError> {
        let model = self.version.id();
        disk.lock = drift::own(store, &self.project, &model)?;
        if disk.lock.is_none() {
            return Ok(());
        }
        let Some(json) = drift::read(store, &self.project, &model)? else { return Ok(()) };
        match super::kept::read(&json, &self.version.sha256) {
            Some(read) => *hold(&self.windows) = read,
            None => tracing::warn!(model, "counts of answers of another form begin anew"),
        }
        Ok(())
    }

    /// Has nothing on the disk from now on.
    fn leave(&self) {
        self.leave_held(&mut hold(&self.disk));
    }

    /// Leaves nothing on the disk either.
    fn forget(&self, store: &Store) -> Result<(), StoreError> {
        let mut disk = hold(&self.disk);
        let removed = drift::remove(store, &self.project, &self.version.id());
        self.leave_held(&mut disk);
        removed
    }

    fn leave_held(&self, disk: &mut Disk) {
        if let Some(before) = disk.before.take() {
            before.leave();
        }
        disk.lock = None;
        self.has_begun.store(true, Ordering::Release);
    }

    /// Writes what the disk does not have. Blocks on the disk.
    fn write(&self, store: &Store) -> Result<(), StoreError> {
        let disk = hold(&self.disk);
        if disk.lock.is_none() {
            return Ok(());
        }
        let json = self.with(|windows| {
            std::mem::take(&mut windows.is_new).then(|| super::kept::write(windows, &self.version.sha256))
        });
        let Some(json) = json else { return Ok(()) };
        let saved = drift::save(store, &self.project, &self.version.id(), &json);
        if saved.is_err() {
            self.with(|windows| windows.is_new = true);
        }
        saved
    }

    /// Whether the next writing has something to do with it.
    fn is_unwritten(&self) -> bool {
        self.is_kept && self.with(|windows| windows.is_new)
    }
}

impl Watches {
    pub(crate) fn new(store: Store) -> Self {
        Watches { store, all: Mutex::default(), tick: AtomicU64::new(0) }
    }

    /// # Errors
    /// The runtime is ending.
    pub(super) async fn entry(
        &self,
        project: &Project,
        version: &Version,
        is_kept: bool,
    ) -> Result<Arc<Entry>, ServiceError> {
        let entry = self.find(project, version, is_kept);
        entry.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if !entry.has_begun.load(Ordering::Acquire) {
            let (store, begun) = (self.store.clone(), entry.clone());
            let begun = tokio::task::spawn_blocking(move || begun.begin(&store)).await;
            begun.map_err(|error| ServiceError::internal("reading counts broke off", error))?;
        }
        Ok(entry)
    }

    /// Another retention or other weights of the same name count anew.
    fn find(&self, project: &Project, version: &Version, is_kept: bool) -> Arc<Entry> {
        let key = (project.clone(), version.id());
        let mut all = hold(&self.all);
        let is_its = |entry: &&Arc<Entry>| entry.is_kept == is_kept && entry.version.sha256 == version.sha256;
        if let Some(entry) = all.get(&key).filter(is_its) {
            return entry.clone();
        }
        let entry = Arc::new(Entry::new(project, version, is_kept, all.remove(&key)));
        all.insert(key, entry.clone());
        entry
    }

    pub(super) fn unwritten(&self) -> Vec<Arc<Entry>> {
        let all: Vec<Arc<Entry>> = hold(&self.all).values().cloned().collect();
        all.into_iter().filter(|entry| entry.is_unwritten()).collect()
    }

    /// Writes counts, or forgets them; then lets those go that are too many. Blocks on the disk.
    pub(super) fn settle(&self, entries: Vec<(Arc<Entry>, Fate)>) {
        for (entry, fate) in entries {
            let model = entry.version.id();
            let settled = match fate {
                Fate::Forgotten => self.forget(&entry),
                Fate::Written => match entry.write(&self.store) {
                    // Nobody reads them again.
                    Err(StoreError::Erased { .. }) => self.forget(&entry),
                    written => written,
                },
            };
            if let Err(error) = settled {
                tracing::warn!(%error, model, "counts of answers were not written");
            }
        }
        self.trim(WATCHED_MAX);
    }

    fn forget(&self, entry: &Arc<Entry>) -> Result<(), StoreError> {
        let key = (entry.project.clone(), entry.version.id());
        {
            let mut all = hold(&self.all);
            match all.get(&key) {
                Some(found) if Arc::ptr_eq(found, entry) => all.remove(&key),
                // Another counts under the name, and sees to the disk.
                _ => return Ok(()),
            };
        }
        entry.forget(&self.store)
    }

    /// Those that nobody counts in and that have nothing unwritten, the longest unasked first.
    fn trim(&self, kept: usize) {
        let mut all = hold(&self.all);
        let excess = all.len().saturating_sub(kept);
        if excess == 0 {
            return;
        }
        let is_idle = |entry: &Arc<Entry>| Arc::strong_count(entry) == 1 && !entry.is_unwritten();
        let mut idle: Vec<(u64, Key)> = all
            .iter()
            .filter(|(_, entry)| is_idle(entry))
            .map(|(key, entry)| (entry.used.load(Ordering::Relaxed), key.clone()))
            .collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in idle.into_iter().take(excess) {
            // Its lock is let go here: who asks next finds it free.
            all.remove(&key);
        }
    }

    /// Counts nothing of a project any more that was counted so far.
    pub(crate) fn unload_project(&self, project: &Project) {
        hold(&self.all).retain(|(of, _), _| of != project);
    }
}

impl Service {
    /// Writes what was counted of language models' answers and is not in the data folder yet, as far as projects keep
    /// what they are told and their models are there.
    ///
    /// # Errors
    /// The runtime is ending.
    pub async fn keep_drift(&self) -> Result<(), ServiceError> {
        let mut entries = Vec::new();
        for entry in self.language_drift.unwritten() {
            match self.fate(&entry).await {
                Ok(fate) => entries.push((entry, fate)),
                Err(error) => {
                    tracing::warn!(%error, model = entry.version.id(), "counts of answers were not written");
                }
            }
        }
        let watches = self.language_drift.clone();
        let kept = tokio::task::spawn_blocking(move || watches.settle(entries)).await;
        kept.map_err(|error| ServiceError::internal("writing counts broke off", error))
    }

    async fn fate(&self, entry: &Entry) -> Result<Fate, ServiceError> {
        if self.retention(&entry.project).await? == Retention::Nothing {
            return Ok(Fate::Forgotten);
        }
        let Version { owner, name, number, sha256, .. } = &entry.version;
        let reference = ModelRef { name: name.clone(), version: VersionRef::Number(*number) };
        match models::find(&self.store, owner, &reference).await {
            Ok(found) if found.sha256 == *sha256 => Ok(Fate::Written),
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(Fate::Forgotten),
            Err(error) => Err(error.into()),
        }
    }
}
