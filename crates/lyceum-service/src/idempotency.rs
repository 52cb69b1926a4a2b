//! The same request twice has one effect and one answer.

use crate::receipts::{self, Place};
use crate::{Service, ServiceError};
use lyceum_store::idempotency;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use sha2::{Digest, Sha256};

pub use lyceum_store::idempotency::{Answer, Held};

/// What a key leads to, when it leads anywhere.
#[derive(Debug)]
pub enum Begun {
    New(Held),
    Answered(Answer),
}

/// Takes a key for one request, or finds the answer that was given to the same request.
pub async fn begin(
    service: &Service,
    project: &Project,
    key: &str,
    route: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<Begun, ServiceError> {
    crate::retention::require_kept(service, project, "Idempotency-Key", "the answer to give it again")
        .await?;
    let body_sha256 = Sha256::digest(body).into();
    match idempotency::begin(service.store(), project, key, route, body_sha256, now).await? {
        idempotency::Begun::New(held) => Ok(Begun::New(held)),
        idempotency::Begun::Answered(answer) => Ok(Begun::Answered(answer)),
        idempotency::Begun::UnderWay => Err(ServiceError::IdempotencyUnderWay),
        idempotency::Begun::Conflict => Err(ServiceError::IdempotencyConflict),
    }
}

pub async fn complete(
    service: &Service,
    held: Held,
    answer: &Answer,
    now: Timestamp,
) -> Result<(), ServiceError> {
    idempotency::complete(service.store(), held, answer, now).await?;
    receipts::kept(
        "answer_for_idempotency_key",
        "",
        Place::Database,
        Some(now.plus(limits::IDEMPOTENCY_KEPT)),
    );
    Ok(())
}

pub async fn release(service: &Service, held: Held) -> Result<(), ServiceError> {
    Ok(idempotency::release(service.store(), held).await?)
}
