//! Models that are loaded: each version once, whoever asks, the least recently used one leaving first.

use crate::ServiceError;
use crate::drift::Watch;
use lyceum_models::Model;
use lyceum_models::bundle::Bundle;
use lyceum_models::prepare::Preparation;
use lyceum_store::layout::{MANIFEST, WEIGHTS};
use lyceum_store::models::Version;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::manifest::Manifest;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
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

type Key = (Project, String, u32);

/// A place that the first request fills and the others wait for.
type Cell = Arc<OnceCell<Arc<Resident>>>;

#[derive(Default)]
pub(crate) struct Residents {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    /// With the tick of the last use.
    cells: HashMap<Key, (Cell, u64)>,
    tick: u64,
}

impl Residents {
    /// Loads the version unless it is there; requests that come meanwhile wait for the same load.
    pub(crate) async fn load(
        &self,
        project: &Project,
        version: Version,
    ) -> Result<Arc<Resident>, ServiceError> {
        let key = (project.clone(), version.name.to_string(), version.number);
        let cell = self.cell(&key);
        let loaded = cell
            .get_or_try_init(|| async move {
                let loaded = tokio::task::spawn_blocking(move || read(version)).await;
                loaded.map_err(|error| ServiceError::internal("loading a model failed", error))?.map(Arc::new)
            })
            .await;
        match loaded {
            Ok(resident) => Ok(resident.clone()),
            Err(error) => {
                self.forget(&key);
                Err(error)
            }
        }
    }

    pub(crate) fn loaded(&self) -> Vec<Arc<Resident>> {
        let slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.cells.values().filter_map(|(cell, _)| cell.get().cloned()).collect()
    }

    fn cell(&self, key: &Key) -> Cell {
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.tick += 1;
        let tick = slots.tick;
        if !slots.cells.contains_key(key) && slots.cells.len() >= limits::RESIDENT_MODELS_MAX {
            let oldest = slots.cells.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| slots.cells.remove(&key));
        }
        let (cell, used) = slots.cells.entry(key.clone()).or_default();
        *used = tick;
        cell.clone()
    }

    fn forget(&self, key: &Key) {
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slots.cells.get(key).is_some_and(|(cell, _)| !cell.initialized()) {
            slots.cells.remove(key);
        }
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
    let Bundle { model, preparation } =
        lyceum_models::bundle::open(&manifest, &weights).map_err(|error| damaged(error.into()))?;
    Ok(Resident { version, manifest, preparation, model: Arc::new(model), watch: Watch::default() })
}

fn file(path: &Path) -> Result<Vec<u8>, ServiceError> {
    std::fs::read(path).map_err(|error| {
        ServiceError::internal("reading a model failed", format!("{}: {error}", path.display()))
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
