//! What there is to ask.

use crate::{Service, ServiceError};
use lyceum_store::models::{self, Version};
use lyceum_types::ids::{ModelRef, Project, VersionRef};

/// A version under one of the ids that name it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// `name` for the version that it serves, `name@number` for each.
    pub id: String,
    pub owner: String,
    pub version: Version,
}

/// Every name (its newest version that is not held) and every version, by name and number.
pub async fn list(service: &Service, project: &Project) -> Result<Vec<Listed>, ServiceError> {
    let mut versions = models::list(service.store(), project).await?;
    let standing = service.standing(project).await?;
    if let Some(allowed) = &standing.decided.models {
        versions.retain(|version| allowed.allows(&version.name, version.number));
    }
    let mut listed = Vec::with_capacity(2 * versions.len());
    for (i, version) in versions.iter().enumerate() {
        listed.push(Listed { id: version.id(), owner: project.tenant.clone(), version: version.clone() });
        let mut newer = versions[i + 1..].iter().take_while(|next| next.name == version.name);
        let is_served = version.held.is_none() && newer.all(|next| next.held.is_some());
        if is_served {
            let id = version.name.to_string();
            listed.push(Listed { id, owner: project.tenant.clone(), version: version.clone() });
        }
    }
    Ok(listed)
}

pub async fn find(
    service: &Service,
    project: &Project,
    reference: &ModelRef,
) -> Result<Listed, ServiceError> {
    let version = service.resolve(project, reference).await.map_err(|error| match error {
        // What is not listed is not found either.
        ServiceError::ModelForbidden { id, .. } => ServiceError::ModelNotFound { id },
        other => other,
    })?;
    Ok(Listed { id: reference.to_string(), owner: project.tenant.clone(), version })
}

/// Loads the newest version of every model, so that readiness proves them and first answers are quick.
/// Returns those that cannot be loaded, each with its reason.
pub async fn load_newest(
    service: &Service,
    project: &Project,
) -> Result<Vec<(String, ServiceError)>, ServiceError> {
    let mut failed = Vec::new();
    for listed in list(service, project).await? {
        // Imported models are large: they are loaded when somebody asks.
        if listed.id != listed.version.name.as_str() || crate::language::is_imported(&listed.version) {
            continue;
        }
        let reference = ModelRef { name: listed.version.name, version: VersionRef::Latest };
        if let Err(error) = service.resident(project, &reference).await {
            failed.push((listed.id, error));
        }
    }
    Ok(failed)
}
