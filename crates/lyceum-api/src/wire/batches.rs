//! `/v1/batches`, as OpenAI's `Batch`.

use super::check_metadata;
use super::{advisory, within};
use crate::error::ApiError;
use lyceum_service::batches::{Batch, Endpoint, NewBatch, Problem};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateBatchRequest)]
pub struct Body {
    /// A file with the purpose `batch`: `{"custom_id", "method": "POST", "url", "body"}` a line.
    pub input_file_id: String,
    /// `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` or `/v1/responses`
    pub endpoint: String,
    /// `24h`
    pub completion_window: String,
    /// Up to 16 pairs, which the batch shows again.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, String>>,
    pub output_expires_after: Option<ExpiresAfter>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FileExpiresAfter)]
pub struct ExpiresAfter {
    /// `created_at`
    pub anchor: String,
    /// From 3600 (an hour) to 2592000 (30 days).
    pub seconds: u64,
}

impl ExpiresAfter {
    pub fn parse(self, param: &str) -> Result<Duration, ApiError> {
        if self.anchor != "created_at" {
            let param = format!("{param}.anchor");
            let message = format!("{param}: must be created_at");
            return Err(ApiError::field(param, "invalid_value", message));
        }
        let (min, max) = limits::FILE_EXPIRES_SECONDS;
        Ok(Duration::from_secs(within(&format!("{param}.seconds"), self.seconds, min, max)?))
    }
}

/// Endpoints of OpenAI's whose batches are not in this version.
const NOT_YET: [&str; 4] = ["/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"];

impl Body {
    /// `receipts`: the header asks for one a line.
    pub fn parse(self, receipts: bool) -> Result<NewBatch, ApiError> {
        let endpoint = Endpoint::parse(&self.endpoint).ok_or_else(|| {
            let known = Endpoint::all();
            if NOT_YET.contains(&self.endpoint.as_str()) {
                let message = format!("endpoint: there is no {} in this version: {known}", self.endpoint);
                return ApiError::not_implemented("endpoint", message);
            }
            ApiError::field("endpoint", "invalid_value", format!("endpoint: must be one of {known}"))
        })?;
        if self.completion_window != "24h" {
            let message = "completion_window: must be 24h";
            return Err(ApiError::field("completion_window", "invalid_value", message));
        }
        advisory("input_file_id", Some(&self.input_file_id))?;
        let metadata = self.metadata;
        check_metadata(metadata.as_ref())?;
        let after = self.output_expires_after.map(|after| after.parse("output_expires_after"));
        let (input_file_id, output_expires_after) = (self.input_file_id, after.transpose()?);
        Ok(NewBatch { endpoint, input_file_id, metadata, output_expires_after, receipts })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Batch)]
pub struct BatchBody {
    pub id: String,
    /// `batch`
    pub object: &'static str,
    pub endpoint: &'static str,
    /// The model, where all lines name one.
    pub model: Option<String>,
    pub errors: Option<BatchErrors>,
    pub input_file_id: String,
    /// `24h`
    pub completion_window: &'static str,
    /// `validating`, `failed`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling` or `cancelled`
    pub status: &'static str,
    /// Answers with a status of 2xx, a line each.
    pub output_file_id: Option<String>,
    /// The other lines.
    pub error_file_id: Option<String>,
    /// Seconds since 1970, as all times.
    pub created_at: i64,
    pub in_progress_at: Option<i64>,
    pub expires_at: i64,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
    #[schema(value_type = Object)]
    pub request_counts: Value,
    /// Tokens of all answers.
    #[schema(value_type = Object)]
    pub usage: Value,
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Each line of its files has a `privacy_receipt`; left out where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_receipts: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchErrors {
    /// `list`
    pub object: &'static str,
    pub data: Vec<BatchError>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    pub line: Option<u64>,
}

impl From<Problem> for BatchError {
    fn from(Problem { code, message, param, line }: Problem) -> Self {
        Self { code, message, param, line }
    }
}

impl From<Batch> for BatchBody {
    fn from(batch: Batch) -> Self {
        let data: Vec<BatchError> = batch.errors.into_iter().map(BatchError::from).collect();
        let (counts, usage) = (batch.request_counts, batch.usage);
        let is_made =
            !matches!(batch.status.as_str(), "validating" | "in_progress" | "cancelling" | "finalizing");
        Self {
            object: "batch",
            endpoint: batch.endpoint.as_str(),
            model: batch.model,
            errors: (!data.is_empty()).then_some(BatchErrors { object: "list", data }),
            input_file_id: batch.input_file_id,
            completion_window: "24h",
            status: batch.status.as_str(),
            // Their ids are drawn before they are made.
            output_file_id: batch.output_file_id.filter(|_| is_made),
            error_file_id: batch.error_file_id.filter(|_| is_made),
            created_at: batch.created_at,
            in_progress_at: batch.in_progress_at,
            expires_at: batch.expires_at,
            finalizing_at: batch.finalizing_at,
            completed_at: batch.completed_at,
            failed_at: batch.failed_at,
            expired_at: batch.expired_at,
            cancelling_at: batch.cancelling_at,
            cancelled_at: batch.cancelled_at,
            request_counts: json!({ "total": counts.total, "completed": counts.completed, "failed": counts.failed }),
            usage: json!({
                "input_tokens": usage.input_tokens,
                "input_tokens_details": { "cached_tokens": usage.cached_tokens },
                "output_tokens": usage.output_tokens,
                "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }),
            metadata: batch.metadata,
            privacy_receipts: batch.receipts.then_some(true),
            id: batch.id,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<BatchBody>,
    /// Null where the list is empty.
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

impl BatchList {
    pub fn new((batches, has_more): (Vec<Batch>, bool)) -> Self {
        let data: Vec<BatchBody> = batches.into_iter().map(BatchBody::from).collect();
        let id = |batch: Option<&BatchBody>| batch.map(|batch| batch.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    pub after: Option<String>,
    pub limit: Option<u32>,
}

impl ListQuery {
    pub fn limit(&self) -> Result<u32, ApiError> {
        within("limit", self.limit.unwrap_or(limits::BATCHES_LISTED_DEFAULT), 1, limits::BATCHES_LISTED_MAX)
    }
}
