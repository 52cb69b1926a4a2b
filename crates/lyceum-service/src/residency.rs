//! Which imported models are in memory, and letting them go.

use crate::resident::Weighs;
use crate::{Service, ServiceError};
use lyceum_types::ids::{ModelRef, Project};
use std::time::Duration;

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

/// Lets a model go, with the adapters that add to it: its id. Requests under way keep it until they end; the next one loads it again.
///
/// # Errors
/// There is no such model, or it is not loaded.
pub async fn unload(
    service: &Service,
    project: &Project,
    reference: &ModelRef,
) -> Result<String, ServiceError> {
    let version = service.own(project, reference).await?;
    if service.languages.unload(&version) {
        return Ok(version.id());
    }
    Err(ServiceError::NotFound { what: "loaded model", id: version.id() })
}
