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
    /// The version that an adapter adds to.
    pub parent: Option<String>,
}

/// Every name (its newest version that is not held) and every version, by name and number.
pub async fn list(service: &Service, project: &Project) -> Result<Vec<Listed>, ServiceError> {
    let mut versions = models::shares::visible(service.store(), project).await?;
    let standing = service.standing(project).await?;
    if let Some(allowed) = &standing.decided.models {
        versions.retain(|version| allowed.allows(&version.name, version.number));
    }
    let mut listed = Vec::with_capacity(2 * versions.len());
    for (i, version) in versions.iter().enumerate() {
        if crate::language::adapter::is_adapter(version)
            && let Err(error) = models::have(service.store(), version).await
        {
            tracing::warn!(%error, id = version.id(), "an adapter's manifest, which names its parent, is not here");
        }
        let of = |id: String| Listed {
            id,
            owner: version.owner.tenant.clone(),
            version: version.clone(),
            parent: parent(version),
        };
        listed.push(of(version.id()));
        let mut newer = versions[i + 1..].iter().take_while(|next| next.name == version.name);
        let is_served = version.held.is_none() && newer.all(|next| next.held.is_some());
        if is_served {
            listed.push(of(version.name.to_string()));
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
    let parent = parent(&version);
    Ok(Listed { id: reference.to_string(), owner: version.owner.tenant.clone(), version, parent })
}

/// What an adapter's manifest says of its base; None for all others, and where the manifest cannot be read: asking
/// the adapter says why.
fn parent(version: &Version) -> Option<String> {
    if !crate::language::adapter::is_adapter(version) {
        return None;
    }
    crate::language::read_manifest(version).ok()?.base.map(|base| base.model)
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
        let has_own_weights =
            !crate::language::is_imported(&listed.version) && !crate::cascades::is_cascade(&listed.version);
        if listed.id != listed.version.name.as_str() || !has_own_weights {
            continue;
        }
        let reference = ModelRef { name: listed.version.name, version: VersionRef::Latest };
        if let Err(error) = service.resident(project, &reference).await {
            failed.push((listed.id, error));
        }
    }
    Ok(failed)
}
