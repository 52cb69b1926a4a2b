//! Answers that are kept, so that a conversation can go on from them; [`live`] are those still being made in the
//! background.
//!
//! A document is the answer as its door shows it, beside every item that it answered: those of the conversation
//! before it too, so that an earlier answer may be deleted. This module knows of its shape only `status`, `background`
//! and `error`.

pub mod live;

use crate::receipts::{self, Place};
use crate::{Service, ServiceError};
use live::{Followed, Wish};
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
    /// What happened to it, of one in the background that was asked for as a stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Value>,
    /// The privacy receipt of one in the background that was asked for with one, when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Value>,
}

/// Whether it is still to end.
fn is_open(record: &Record) -> bool {
    matches!(record.response["status"].as_str(), Some("queued" | "in_progress"))
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
    let name = id.as_str().to_owned();
    with_store(service, project, move |service, project| write(service, project, &id, &record)).await?;
    receipts::kept("response", &name, Place::DataFolder, None);
    Ok(())
}

fn write(service: &Service, project: &Project, id: &ResponseId, record: &Record) -> Result<(), ServiceError> {
    let json = serde_json::to_vec(record).expect("a record is plain data: bug");
    Ok(responses::save(service.store(), project, id, &json, Timestamp::now())?)
}

/// An answer as far as it is; one whose process is gone has failed.
///
/// # Errors
/// There is none of this id in the project (any more).
pub async fn find(service: &Arc<Service>, project: &Project, id: &str) -> Result<Record, ServiceError> {
    let id = parse(id)?;
    if let Some(progress) = service.live_responses.find(project, &id) {
        return Ok(progress.record());
    }
    with_store(service, project, move |service, project| {
        let record = read(service, project, &id)?;
        live::settle(service, project, &id, record)
    })
    .await
}

/// What happened to an answer of the background since the event `after`, while it is made and when it has ended.
pub enum Story {
    Live(Followed),
    Ended(Vec<Value>),
}

/// # Errors
/// There is no such answer; it was not asked for as a stream of the background.
pub async fn follow(
    service: &Arc<Service>,
    project: &Project,
    id: &str,
    after: Option<usize>,
) -> Result<Story, ServiceError> {
    let record = find(service, project, id).await?;
    let id = parse(id)?;
    if record.events.is_empty() {
        let message = "only a response that was asked for with background: true and stream: true can be followed, \
                       and none that broke off: leave stream out";
        return Err(ServiceError::invalid("stream", "not_a_stream", message));
    }
    let next = after.map_or(0, |after| after.saturating_add(1));
    Ok(match service.live_responses.find(project, &id) {
        Some(progress) => Story::Live(progress.follow(next)),
        // It has ended, perhaps since it was found: what lies on the disk is whole.
        None => {
            let events = find(service, project, id.as_str()).await?.events;
            Story::Ended(events.into_iter().skip(next).collect())
        }
    })
}

/// Ends an answer of the background; one that has ended stays as it is.
///
/// # Errors
/// There is none of this id; it is none of the background; another process makes it.
pub async fn cancel(service: &Arc<Service>, project: &Project, id: &str) -> Result<Record, ServiceError> {
    let record = find(service, project, id).await?;
    if record.response["background"] != true {
        let message = "only a response that was asked for with background: true can be cancelled; close the \
                       connection of one that is being made";
        return Err(ServiceError::invalid("response_id", "not_cancellable", message));
    }
    if !is_open(&record) {
        return Ok(record);
    }
    match service.live_responses.find(project, &parse(id)?) {
        Some(progress) => Ok(progress.end(Wish::Cancel).await),
        None => {
            let record = find(service, project, id).await?;
            if is_open(&record) {
                let message = "another process makes this response: cancel it there";
                return Err(ServiceError::unsupported("response_id", "not_here", message));
            }
            Ok(record)
        }
    }
}

/// Removes an answer; one that is being made ends.
///
/// # Errors
/// There is none of this id in the project (any more).
pub async fn delete(service: &Arc<Service>, project: &Project, id: &str) -> Result<(), ServiceError> {
    let id = parse(id)?;
    if let Some(progress) = service.live_responses.find(project, &id) {
        progress.end(Wish::Delete).await;
    }
    with_store(service, project, move |service, project| {
        Ok(responses::delete(service.store(), project, &id, Timestamp::now())?)
    })
    .await
}

fn read(service: &Service, project: &Project, id: &ResponseId) -> Result<Record, ServiceError> {
    let bytes = responses::read(service.store(), project, id, Timestamp::now())?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ServiceError::Damaged { id: id.as_str().to_owned(), source: source.into() })
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
