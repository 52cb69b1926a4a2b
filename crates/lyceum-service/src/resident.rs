//! Models that are loaded: each version once, whoever asks (also those that a project shares with others), the least recently used one leaving first.

use crate::ServiceError;
use crate::drift::Watch;
use lyceum_models::Model;
use lyceum_models::bundle::Bundle;
use lyceum_models::prepare::Preparation;
use lyceum_store::layout::{MANIFEST, WEIGHTS};
use lyceum_store::models::{NewVersion, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::manifest::Manifest;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// A version in memory, with what turns words into its numbers and back.
pub struct Resident {
    pub version: Version,
    pub manifest: Manifest,
    pub preparation: Preparation,
    pub model: Arc<Model>,
    /// Counts of what was asked of it.
    pub(crate) watch: Watch,
}

impl Resident {
    /// Loads a version for this caller alone.
    ///
    /// # Errors
    /// Files that are missing or damaged, a version that was imported.
    pub fn open(version: Version) -> Result<Self, ServiceError> {
        if crate::cascades::is_cascade(&version) {
            return Err(crate::cascades::refused(&version));
        }
        if crate::language::is_imported(&version) {
            return Err(crate::imported(&version));
        }
        read(version)
    }

    /// A version that is about to be: it has files, and no number (0) yet.
    ///
    /// # Errors
    /// Weights that do not belong to the manifest.
    pub fn unpublished(
        new: &NewVersion,
        manifest: Manifest,
        weights: &[u8],
        dir: impl Into<KeyedPath>,
    ) -> Result<Self, ServiceError> {
        let version = Version {
            owner: Project::default_project(),
            name: new.name.clone(),
            number: 0,
            family: new.family.clone(),
            task: new.task.clone(),
            n_params: new.n_params,
            bytes: new.bytes,
            sha256: new.sha256.clone(),
            job: new.job.clone(),
            created_at: Timestamp::now(),
            held: new.held.clone(),
            dir: dir.into(),
        };
        bundle(version, manifest, weights)
    }
}

type Key = (Project, String, u32);

fn key(version: &Version) -> Key {
    (version.owner.clone(), version.name.to_string(), version.number)
}

/// A place that the first request fills and the others wait for.
type Cell<T> = Arc<OnceCell<Arc<T>>>;

/// What can be kept in memory: how much it takes.
pub(crate) trait Weighs: Send + Sync + 'static {
    fn bytes(&self) -> usize;

    /// The version without which it is of no use: it stays while this one does, and goes with it.
    fn leans_on(&self) -> Option<&Version> {
        None
    }
}

impl Weighs for Resident {
    fn bytes(&self) -> usize {
        self.model.params.bytes()
    }
}

/// Loaded versions of one kind, bounded in number and in bytes.
pub(crate) struct Residents<T> {
    bytes_max: usize,
    slots: Mutex<Slots<T>>,
}

struct Slots<T> {
    cells: HashMap<Key, Slot<T>>,
    tick: u64,
}

struct Slot<T> {
    cell: Cell<T>,
    /// The tick and the time of the last use.
    used: u64,
    at: Instant,
}

impl<T: Weighs> Residents<T> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Residents { bytes_max, slots: Mutex::new(Slots { cells: HashMap::new(), tick: 0 }) }
    }

    /// Loads the version by `read` unless it is there; requests that come meanwhile wait for the same load.
    pub(crate) async fn load(
        &self,
        version: Version,
        read: impl FnOnce(Version) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<Arc<T>, ServiceError> {
        let key = key(&version);
        let cell = self.cell(&key);
        let loaded = cell
            .get_or_try_init(|| async move {
                let loaded = tokio::task::spawn_blocking(move || read(version)).await;
                loaded.map_err(|error| ServiceError::internal("loading a model failed", error))?.map(Arc::new)
            })
            .await;
        match loaded {
            Ok(resident) => {
                self.make_room(&key);
                Ok(resident.clone())
            }
            Err(error) => {
                self.forget(&key);
                Err(error)
            }
        }
    }

    /// Bytes that could be loaded without a version having to leave.
    pub(crate) fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.lock().bytes())
    }

    pub(crate) fn loaded(&self) -> Vec<Arc<T>> {
        self.lock().cells.values().filter_map(|slot| slot.cell.get().cloned()).collect()
    }

    /// What a project has loaded, with the time since each was asked for.
    pub(crate) fn of_project(&self, project: &Project) -> Vec<(Arc<T>, Duration)> {
        let slots = self.lock();
        let own = slots.cells.iter().filter(|(key, _)| key.0 == *project);
        own.filter_map(|(_, slot)| Some((slot.cell.get()?.clone(), slot.at.elapsed()))).collect()
    }

    /// Lets go of what nobody asked for since `idle`; requests that are under way keep what they hold. How many
    /// went.
    pub(crate) fn unload_idle(&self, idle: Duration) -> usize {
        let mut slots = self.lock();
        let before = slots.cells.len();
        slots.cells.retain(|_, slot| slot.at.elapsed() < idle || Arc::strong_count(&slot.cell) > 1);
        slots.drop_orphans();
        before - slots.cells.len()
    }

    /// Lets one version go, and those that lean on it; false where it was not loaded.
    pub(crate) fn unload(&self, version: &Version) -> bool {
        let mut slots = self.lock();
        let was_there = slots.cells.remove(&key(version)).is_some();
        slots.drop_orphans();
        was_there
    }

    /// Lets every version of a project go, and those that lean on one.
    pub(crate) fn unload_project(&self, project: &Project) {
        let mut slots = self.lock();
        slots.cells.retain(|key, _| key.0 != *project);
        slots.drop_orphans();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots<T>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn cell(&self, key: &Key) -> Cell<T> {
        let mut slots = self.lock();
        slots.tick += 1;
        let tick = slots.tick;
        if !slots.cells.contains_key(key) && slots.cells.len() >= limits::RESIDENT_MODELS_MAX {
            slots.drop_oldest(key);
        }
        let slot = slots.cells.entry(key.clone()).or_insert_with(|| Slot {
            cell: Cell::default(),
            used: 0,
            at: Instant::now(),
        });
        (slot.used, slot.at) = (tick, Instant::now());
        slot.cell.clone()
    }

    /// Lets the least recently used ones go until the others fit; the one just loaded stays.
    fn make_room(&self, newest: &Key) {
        let mut slots = self.lock();
        while slots.bytes() > self.bytes_max && slots.drop_oldest(newest) {}
    }

    fn forget(&self, key: &Key) {
        let mut slots = self.lock();
        if slots.cells.get(key).is_some_and(|slot| !slot.cell.initialized()) {
            slots.cells.remove(key);
        }
    }
}

impl<T: Weighs> Slot<T> {
    /// What the loaded one leans on.
    fn base(&self) -> Option<Key> {
        self.cell.get()?.leans_on().map(key)
    }
}

impl<T: Weighs> Slots<T> {
    fn bytes(&self) -> usize {
        self.cells.values().filter_map(|slot| slot.cell.get()).map(|loaded| loaded.bytes()).sum()
    }

    /// False where only `except` and what it leans on are left.
    fn drop_oldest(&mut self, except: &Key) -> bool {
        let of_except = self.cells.get(except).and_then(|slot| slot.base());
        let others = self.cells.iter().filter(|(key, _)| *key != except && Some(*key) != of_except.as_ref());
        let oldest = others.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone());
        let gone = oldest.and_then(|key| self.cells.remove(&key)).is_some();
        self.drop_orphans();
        gone
    }

    /// Lets those go that lean on what is not there any more: they would keep it in memory.
    fn drop_orphans(&mut self) {
        let orphan = |(key, slot): (&Key, &Slot<T>)| {
            let base = slot.base()?;
            (!self.cells.contains_key(&base)).then(|| key.clone())
        };
        let orphans: Vec<Key> = self.cells.iter().filter_map(orphan).collect();
        orphans.iter().for_each(|key| drop(self.cells.remove(key)));
    }
}

/// Reads a version's folder; every byte of the weights is checked against the hash that was registered, and
/// the loaded model against the probes that training recorded.
pub(crate) fn read(version: Version) -> Result<Resident, ServiceError> {
    type Why = Box<dyn std::error::Error + Send + Sync>;
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let manifest = file(&version.dir.join(MANIFEST))?;
    lyceum_store::models::check_manifest(&version.dir, &manifest).map_err(|error| damaged(error.into()))?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| damaged(error.into()))?;
    let weights = file(&version.dir.join(WEIGHTS))?;
    let found = hexadecimal(&Sha256::digest(&weights));
    if found != version.sha256 {
        let path = version.dir.join(WEIGHTS);
        let why = format!("{}: its sha256 is {found}, registered was {}", path.display(), version.sha256);
        return Err(damaged(why.into()));
    }
    bundle(version, manifest, &weights)
}

fn bundle(version: Version, manifest: Manifest, weights: &[u8]) -> Result<Resident, ServiceError> {
    let damaged = |source| ServiceError::Damaged { id: version.id(), source };
    let Bundle { model, preparation } =
        lyceum_models::bundle::open(&manifest, weights).map_err(|error| damaged(Box::new(error)))?;
    Ok(Resident { version, manifest, preparation, model: Arc::new(model), watch: Watch::default() })
}

fn file(path: &KeyedPath) -> Result<Vec<u8>, ServiceError> {
    path.read().map_err(|error| {
        ServiceError::internal("reading a model failed", format!("{}: {error}", path.display()))
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
