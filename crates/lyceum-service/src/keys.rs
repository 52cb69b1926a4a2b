//! From a secret to what it opens: a project, or an organisation.

pub use lyceum_store::keys::{Key, KeyGrant, KeyOwner, KeySecret, create_for, find, page, revoke_by, rotate};

use crate::standing::{self, Identity};
use crate::{Service, ServiceError};
use lyceum_store::tenancy::admin_keys::AdminKey;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::KeyScope;
use std::sync::Arc;

/// The key of a project that lives, which is valid now and covers `needed`.
///
/// # Errors
/// The key is unknown, expired or revoked (all of which are counted); it may not do this; its project is archived.
pub async fn authorize(
    service: &Service,
    secret: &str,
    needed: KeyScope,
    now: Timestamp,
) -> Result<Arc<Key>, ServiceError> {
    match identify(service, secret, now).await? {
        Identity::Project(key) if key.allows(needed) => {
            if service.standing(&key.project).await?.decided.archived_at.is_some() {
                return Err(ServiceError::ProjectArchived { id: key.project.id.clone() });
            }
            Ok(key)
        }
        _ => Err(ServiceError::ScopeMissing { needed }),
    }
}

/// The key of an organisation that is valid now and covers `needed`.
///
/// # Errors
/// As [`authorize`]; a key of a project may not do this, whatever its scopes.
pub async fn authorize_organization(
    service: &Service,
    secret: &str,
    needed: KeyScope,
    now: Timestamp,
) -> Result<Arc<AdminKey>, ServiceError> {
    match identify(service, secret, now).await? {
        Identity::Organization(key) if key.allows(needed) => Ok(key),
        _ => Err(ServiceError::ScopeMissing { needed }),
    }
}

async fn identify(service: &Service, secret: &str, now: Timestamp) -> Result<Identity, ServiceError> {
    standing::identify_with_project(service, secret, now).await?.map_err(|refusal| {
        standing::login_failed(service, &refusal, now);
        ServiceError::KeyRefused { code: refusal.code }
    })
}
