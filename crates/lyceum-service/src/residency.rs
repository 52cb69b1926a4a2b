//! Which imported models are in memory, and letting them go.

use crate::resident::Weighs;
use crate::{Service, ServiceError};
use lyceum_store::StoreError;
use lyceum_store::models::{self, Version};
use lyceum_store::registry::{self, Deed};
use lyceum_store::tenancy::Act;
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// An imported model in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// `name@3`
    pub id: String,
    pub family: String,
    /// Its weights; of an adapter, what it adds.
    pub bytes: usize,
    /// The version that an adapter adds to.
    pub parent: Option<String>,
    /// Since it was last asked for.
    pub idle: Duration,
}

/// The project's imported models that are loaded now, by name.
pub fn list(service: &Service, project: &Project) -> Vec<Loaded> {
    let loaded = service.languages.of_project(project).into_iter();
    let mut all: Vec<Loaded> = loaded
        .map(|(language, idle)| Loaded {
            id: language.version.id(),
            family: language.version.family.clone(),
            bytes: language.bytes(),
            parent: language.leans_on().map(lyceum_store::models::Version::id),
            idle,
        })
        .collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Lets a model go, with the adapters that add to it: its id. Requests under way keep it until they end; the next one loads it
/// again. A version that another process deleted is let go by its own id.
///
/// # Errors
/// There is no such model, or it is not loaded.
pub async fn unload(
    service: &Service,
    project: &Project,
    reference: &ModelRef,
    act: &Act,
) -> Result<String, ServiceError> {
    let version = match service.own(project, reference).await {
        Err(gone @ ServiceError::ModelNotFound { .. }) => {
            let id = reference.to_string();
            let loaded = service.languages.of_project(project).into_iter();
            let of_id =
                loaded.map(|(language, _)| language.version.clone()).find(|version| version.id() == id);
            of_id.ok_or(gone)?
        }
        found => found?,
    };
    let mut loaded = service.languages.of_project(project).into_iter();
    if loaded.any(|(language, _)| language.version.id() == version.id()) {
        registry::note(service.store(), project, &version.id(), (Deed::Unloaded, act)).await?;
        // Where it went meanwhile, nothing is left to do.
        service.languages.unload(&version);
        return Ok(version.id());
    }
    Err(ServiceError::NotFound { what: "loaded model", id: version.id() })
}

/// Lets versions go that another process deleted, until the server stops.
pub async fn let_deleted_go(service: Arc<Service>, mut stopping: watch::Receiver<bool>) {
    while !*stopping.borrow() {
        tokio::select! {
            () = tokio::time::sleep(limits::DELETED_SOUGHT_EVERY) => {}
            changed = stopping.changed() => if changed.is_err() { return },
        }
        let languages = service.languages.loaded().into_iter().map(|language| language.version.clone());
        let trained = service.residents().into_iter().map(|resident| resident.version.clone());
        for version in languages.chain(trained) {
            match is_deleted(&service, &version).await {
                Ok(true) => service.forget(&[version]),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "whether a loaded model still exists was not read"),
            }
        }
    }
}

async fn is_deleted(service: &Service, version: &Version) -> Result<bool, StoreError> {
    let reference = ModelRef { name: version.name.clone(), version: VersionRef::Number(version.number) };
    match models::find(service.store(), &version.owner, &reference).await {
        Ok(found) => Ok(found.sha256 != version.sha256),
        Err(StoreError::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
