//! Batches: a file of requests that are answered within a day, when nobody else waits, into files.
//!
//! `validating → in_progress → finalizing → completed | expired`, `failed` where the file is wrong, `cancelling →
//! cancelled`. A batch is a row (how far it is) and a folder (what it asks, what is answered); [`work`] answers it, with
//! whatever the door gives it to ask ([`Answers`]): the functions that its own routes call.
//!
//! **A line has one answer and one bill, whenever the process dies.** Its answer is durable when it stands in
//! `done.jsonl` (flushed in groups), and a line that stands there is not asked again. Its bill is the ledger's entry of a
//! request whose id is made of the batch and the line, so a line has one entry however often it is asked. The order is
//! *work, settle, answer to the disk*:
//! - dies before the settlement: what was under way of a batch is not charged (`ledger/recovery`), and the line is asked
//!   again;
//! - dies between settlement and answer: the spool or the ledger has the entry. Whoever takes the batch up reads the
//!   ledger first, asks the line again, and finds it paid for ([`crate::meter::Attempt`]): its work has no second bill;
//! - dies behind the answer: the line is done.
//!
//! The other order would lose bills: an answer on the disk whose settlement never came would be delivered unpaid.
//! The files of the answers have ids that are written down before they are made; one that is there is not made again.

mod ask;
pub mod lines;
#[cfg(test)]
mod tests;
mod work;

pub use work::{Answered, Answers, Asking, run};

use crate::{Service, ServiceError, files};
use lyceum_store::{StoreError, batches};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BatchId, KeyId, Project};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a batch may ask: a route that answers whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl Endpoint {
    const ALL: [Endpoint; 4] =
        [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses];

    pub fn as_str(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Responses => "/v1/responses",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == text)
    }

    /// In words, for errors.
    pub fn all() -> String {
        Self::ALL.map(Endpoint::as_str).join(", ")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Validating => "validating",
            Status::Failed => "failed",
            Status::InProgress => "in_progress",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Expired => "expired",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
        }
    }
}

/// Something that is wrong with the file of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: String,
    pub message: String,
    /// A JSON pointer within the line, or a field of the request.
    pub param: Option<String>,
    pub line: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
}

/// Tokens of the answers, as they tell them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
}

/// A batch as its row has it. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub id: String,
    /// Who asked, and who pays.
    pub api_key: String,
    pub endpoint: Endpoint,
    pub input_file_id: String,
    pub metadata: Option<BTreeMap<String, String>>,
    /// How long its files are kept, in seconds.
    pub output_expires_after: Option<u64>,
    /// Whether each line of its files has a privacy receipt.
    #[serde(default)]
    pub receipts: bool,
    pub status: Status,
    /// How it ends when its files are made.
    pub ends_as: Option<Status>,
    pub errors: Vec<Problem>,
    /// The model, where all lines name one.
    pub model: Option<String>,
    pub output_file_id: Option<String>,
    pub error_file_id: Option<String>,
    pub request_counts: RequestCounts,
    pub usage: Usage,
    pub created_at: i64,
    pub expires_at: i64,
    pub in_progress_at: Option<i64>,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
}

impl Batch {
    fn row(&self, project: &Project) -> Result<batches::Row, ServiceError> {
        Ok(batches::Row {
            id: self.id.parse().map_err(StoreError::from)?,
            project: project.clone(),
            status: self.status.as_str().into(),
            document: serde_json::to_string(self).expect("a batch is plain data: bug"),
        })
    }
}

fn of_row(row: &batches::Row) -> Result<Batch, ServiceError> {
    let damaged =
        |source: serde_json::Error| ServiceError::Damaged { id: row.id.to_string(), source: source.into() };
    serde_json::from_str(&row.document).map_err(damaged)
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct NewBatch {
    pub endpoint: Endpoint,
    pub input_file_id: String,
    pub metadata: Option<BTreeMap<String, String>>,
    pub output_expires_after: Option<Duration>,
    pub receipts: bool,
}

/// Puts a batch into the queue; its file is looked at there.
///
/// # Errors
/// There is no such file, or it is for something else; as many batches of the project are not over as may.
pub async fn create(
    service: &Service,
    (project, key): (&Project, &KeyId),
    new: NewBatch,
) -> Result<Batch, ServiceError> {
    let what = "what is asked and what is answered";
    crate::retention::require_kept(service, project, "input_file_id", what).await?;
    let param = "input_file_id";
    let file = files::named(service.store(), project, param, &new.input_file_id).await?;
    if file.purpose != "batch" {
        let message = format!("the file's purpose is {}: bring it with the purpose batch", file.purpose);
        return Err(ServiceError::invalid(param, "invalid_purpose", message));
    }
    if file.bytes > limits::BATCH_BYTES_MAX {
        return Err(ServiceError::TooLarge { bytes_max: limits::BATCH_BYTES_MAX });
    }
    let unfinished = batches::unfinished(service.store()).await?;
    let n = unfinished.iter().filter(|row| row.project == *project).count() as u64;
    if n >= limits::BATCHES_UNFINISHED_MAX {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(60) });
    }
    let now = Timestamp::now();
    let id = BatchId::from_bits(uuid::Uuid::now_v7().as_u128());
    let batch = Batch {
        id: id.to_string(),
        api_key: key.as_str().to_owned(),
        endpoint: new.endpoint,
        input_file_id: new.input_file_id,
        metadata: new.metadata,
        output_expires_after: new.output_expires_after.map(|after| after.as_secs()),
        receipts: new.receipts,
        status: Status::Validating,
        ends_as: None,
        errors: Vec::new(),
        model: None,
        output_file_id: None,
        error_file_id: None,
        request_counts: RequestCounts::default(),
        usage: Usage::default(),
        created_at: now.seconds(),
        expires_at: now.plus(limits::BATCH_WINDOW).seconds(),
        in_progress_at: None,
        finalizing_at: None,
        completed_at: None,
        failed_at: None,
        expired_at: None,
        cancelling_at: None,
        cancelled_at: None,
    };
    let (store, whose) = (service.store().clone(), project.clone());
    let kept =
        tokio::task::spawn_blocking(move || batches::keep_input(&store, &whose, &id, &file.path)).await;
    kept.map_err(|error| ServiceError::internal("keeping a batch broke off", error))??;
    batches::insert(service.store(), &batch.row(project)?).await?;
    service.batches_wanted.notify_one();
    Ok(batch)
}

fn parse(id: &str) -> Result<BatchId, ServiceError> {
    let shown = || id.chars().take(64).collect();
    id.parse().map_err(|_| ServiceError::NotFound { what: "batch", id: shown() })
}

/// One batch.
///
/// # Errors
/// The project has none of this id.
pub async fn find(service: &Service, project: &Project, id: &str) -> Result<Batch, ServiceError> {
    of_row(&batches::find(service.store(), project, &parse(id)?).await?)
}

/// One page of batches, newest first, and whether there are more behind it.
pub async fn list(
    service: &Service,
    project: &Project,
    after: Option<&str>,
    limit: u32,
) -> Result<(Vec<Batch>, bool), ServiceError> {
    let after = after.map(parse).transpose()?;
    let (rows, has_more) = batches::list(service.store(), project, after.as_ref(), limit).await?;
    Ok((rows.iter().map(of_row).collect::<Result<_, _>>()?, has_more))
}

/// Asks a batch to end: no further line of it is asked, and what is answered becomes its files.
///
/// # Errors
/// It is over.
pub async fn cancel(service: &Service, project: &Project, id: &str) -> Result<Batch, ServiceError> {
    loop {
        let mut batch = find(service, project, id).await?;
        let from = batch.status;
        match from {
            Status::Cancelling => return Ok(batch),
            Status::Validating | Status::InProgress => {}
            _ => {
                let message = format!("the batch is {}: there is nothing to cancel", from.as_str());
                return Err(ServiceError::Conflict { code: "batch_over", message });
            }
        }
        batch.status = Status::Cancelling;
        batch.cancelling_at = Some(Timestamp::now().seconds());
        if batches::replace(service.store(), &batch.row(project)?, from.as_str()).await? {
            service.batches_wanted.notify_waiters();
            return Ok(batch);
        }
    }
}
