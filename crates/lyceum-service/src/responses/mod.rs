//! Answers that are kept, so that a conversation can go on from them.
//!
//! A document is the answer as its door shows it, beside every item that it answered: those of the conversation
//! before it too, so that an earlier answer may be deleted. This module knows no shape of them.

use crate::{Service, ServiceError};
use lyceum_store::responses;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

pub use lyceum_store::responses::ResponseId;

/// An answer as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub response: Value,
    /// What it answered, oldest first.
    pub input: Vec<Value>,
}

/// Keeps an answer.
///
/// # Errors
/// The disk.
pub async fn save(
    service: &Arc<Service>,
    project: &Project,
    id: ResponseId,
    record: Record,
) -> Result<(), ServiceError> {
    let json = serde_json::to_vec(&record).expect("a record is plain data: bug");
    with_store(service, project, move |service, project| {
        Ok(responses::save(service.store(), project, &id, &json, Timestamp::now())?)
    })
    .await
}

/// # Errors
/// There is none of this id in the project (any more).
pub async fn find(service: &Arc<Service>, project: &Project, id: &str) -> Result<Record, ServiceError> {
    let id = parse(id)?;
    with_store(service, project, move |service, project| {
        let bytes = responses::read(service.store(), project, &id, Timestamp::now())?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ServiceError::Damaged { id: id.as_str().to_owned(), source: source.into() })
    })
    .await
}

/// # Errors
/// There is none of this id in the project (any more).
pub async fn delete(service: &Arc<Service>, project: &Project, id: &str) -> Result<(), ServiceError> {
    let id = parse(id)?;
    with_store(service, project, move |service, project| {
        Ok(responses::delete(service.store(), project, &id, Timestamp::now())?)
    })
    .await
}

fn parse(id: &str) -> Result<ResponseId, ServiceError> {
    let unknown = || ServiceError::NotFound { what: "response", id: id.chars().take(64).collect() };
    ResponseId::parse(id).ok_or_else(unknown)
}

/// Files are read and written off the server's threads.
async fn with_store<T: Send + 'static>(
    service: &Arc<Service>,
    project: &Project,
    work: impl FnOnce(&Service, &Project) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let (service, project) = (service.clone(), project.clone());
    let done = tokio::task::spawn_blocking(move || work(&service, &project)).await;
    done.map_err(|error| ServiceError::internal("a kept answer broke off", error))?
}
