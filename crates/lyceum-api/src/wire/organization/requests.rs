//! Entries of the ledger: what one request did, and what it cost.

use super::{Asked, Identified};
use crate::error::ApiError;
use lyceum_service::usage::{Entry, UNIT};
use lyceum_types::clock::Timestamp;
use lyceum_types::limits::{ADMINISTRATION_LISTED_MAX, USAGE_ENTRIES_LISTED_MAX};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageRequest)]
pub struct RequestBody {
    /// `organization.usage.request`
    pub object: &'static str,
    /// Of the request, or of the job.
    pub id: String,
    pub project_id: String,
    pub api_key_id: String,
    pub model: String,
    pub model_version: u32,
    /// As the table of routes has it.
    pub route: String,
    /// `interactive` or `batch`
    pub class: &'static str,
    /// `completed`, `cancelled`, `timed_out`, `failed` or `interrupted`
    pub outcome: &'static str,
    pub input_tokens: u64,
    /// Of the input.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub training_tokens: u64,
    pub training_rows: u64,
    pub cpu_seconds: u64,
    pub passes: u64,
    /// The version of the price; 0: there was none.
    pub price: i64,
    pub cost_usd: f64,
    pub started_at: i64,
    pub settled_at: i64,
    /// As `settled_at`, in milliseconds.
    pub settled_at_ms: i64,
}

impl Identified for RequestBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<Entry> for RequestBody {
    fn from(entry: Entry) -> Self {
        let Entry { request, outcome, counts, price, cost, settled_at } = entry;
        Self {
            object: "organization.usage.request",
            id: request.id,
            project_id: request.project,
            api_key_id: request.api_key,
            model: request.model,
            model_version: request.model_version,
            route: request.route,
            class: request.class.as_str(),
            outcome: outcome.as_str(),
            input_tokens: counts.input_tokens,
            cached_tokens: counts.cached_tokens,
            output_tokens: counts.output_tokens,
            training_tokens: counts.training_tokens,
            training_rows: counts.training_rows,
            cpu_seconds: counts.cpu_seconds,
            passes: counts.passes,
            price,
            cost_usd: cost as f64 / UNIT as f64,
            started_at: request.started_at.seconds(),
            settled_at: settled_at.seconds(),
            settled_at_ms: settled_at.millis(),
        }
    }
}

/// Which entries are asked for.
pub struct AskedRequests {
    pub span: (Timestamp, Timestamp),
    pub after: String,
    pub limit: u32,
}

impl AskedRequests {
    pub fn parse(query: Vec<(String, String)>, now: Timestamp) -> Result<Self, ApiError> {
        let mut asked = Asked::new(query);
        let start = asked.parsed::<i64>("start_time", "seconds since 1970")?;
        let end = asked.parsed::<i64>("end_time", "seconds since 1970")?.unwrap_or(now.seconds() + 1);
        let limit = asked.parsed("limit", "a whole number")?.unwrap_or(ADMINISTRATION_LISTED_MAX);
        let limit = crate::wire::within("limit", limit, 1, USAGE_ENTRIES_LISTED_MAX)?;
        let after = asked.one("after")?.unwrap_or_default();
        asked.done()?;
        let missing =
            || ApiError::field("start_time", "missing_required_parameter", "start_time: it is required");
        let start = start.ok_or_else(missing)?;
        if end <= start {
            return Err(ApiError::field(
                "end_time",
                "invalid_value",
                "end_time: must be later than start_time",
            ));
        }
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
        Ok(Self { span: (at(start), at(end)), after, limit })
    }
}
