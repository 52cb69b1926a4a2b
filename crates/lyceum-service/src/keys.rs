//! From a secret to the project it opens.

use crate::{Service, ServiceError};
use lyceum_store::keys::{self, Key, Verdict};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::KeyScope;

/// A key that is valid now and covers `needed`.
pub async fn authorize(
    service: &Service,
    secret: &str,
    needed: KeyScope,
    now: Timestamp,
) -> Result<Key, ServiceError> {
    match keys::verify(service.store(), secret, now).await? {
        Verdict::Valid(key) if key.allows(needed) => Ok(key),
        Verdict::Valid(_) => Err(ServiceError::ScopeMissing { needed }),
        Verdict::Expired => Err(ServiceError::KeyRefused { code: "expired_api_key" }),
        Verdict::Revoked => Err(ServiceError::KeyRefused { code: "revoked_api_key" }),
        Verdict::Unknown => Err(ServiceError::KeyRefused { code: "invalid_api_key" }),
    }
}
