//! How much a project may ask of each model.

use super::Identified;
use crate::error::ApiError;
use lyceum_service::tenancy::rates;
use lyceum_types::limits::RATE_MAX;
use lyceum_types::tenancy::{RateLimit, RateSubject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The limits of one model, of all together (`rl-*`), or of one key (`rl-*@key_…`). Where nothing was set, the largest
/// number that can be set holds and is told.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectRateLimit)]
pub struct Limit {
    /// `project.rate_limit`
    pub object: &'static str,
    pub id: String,
    /// `*`: all models together.
    pub model: String,
    pub max_requests_per_1_minute: u64,
    /// Read and made.
    pub max_tokens_per_1_minute: u64,
    pub max_requests_per_1_day: u64,
    /// Under way at once.
    pub max_concurrent_requests: u64,
    /// The key whose limit it is; absent: the project's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_id: Option<String>,
}

impl Identified for Limit {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Limit {
    pub fn new(subject: &RateSubject, limit: RateLimit) -> Self {
        let told = |limit: Option<u64>| limit.unwrap_or(RATE_MAX);
        Self {
            object: "project.rate_limit",
            id: rates::id_of(subject),
            model: subject.model.as_ref().map_or_else(|| "*".into(), ToString::to_string),
            max_requests_per_1_minute: told(limit.requests_per_minute),
            max_tokens_per_1_minute: told(limit.tokens_per_minute),
            max_requests_per_1_day: told(limit.requests_per_day),
            max_concurrent_requests: told(limit.concurrent_requests),
            api_key_id: subject.key.as_ref().map(ToString::to_string),
        }
    }
}

/// What is not given stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectRateLimitUpdateRequest)]
pub struct UpdateLimit {
    pub max_requests_per_1_minute: Option<u64>,
    pub max_tokens_per_1_minute: Option<u64>,
    pub max_requests_per_1_day: Option<u64>,
    pub max_concurrent_requests: Option<u64>,
    pub max_images_per_1_minute: Option<u64>,
    pub max_audio_megabytes_per_1_minute: Option<u64>,
    pub batch_1_day_max_input_tokens: Option<u64>,
}

impl UpdateLimit {
    /// The limit that holds after it.
    pub fn over(&self, before: RateLimit) -> Result<RateLimit, ApiError> {
        for (name, value) in [
            ("max_images_per_1_minute", self.max_images_per_1_minute),
            ("max_audio_megabytes_per_1_minute", self.max_audio_megabytes_per_1_minute),
            ("batch_1_day_max_input_tokens", self.batch_1_day_max_input_tokens),
        ] {
            super::says_nothing(name, value.as_ref(), "limit requests and tokens")?;
        }
        let value = |name, asked: Option<u64>, before: Option<u64>| match asked {
            None => Ok(before),
            Some(limit) => crate::wire::within(name, limit, 0, RATE_MAX)
                .map(|limit| Some(limit).filter(|limit| *limit < RATE_MAX)),
        };
        Ok(RateLimit {
            requests_per_minute: value(
                "max_requests_per_1_minute",
                self.max_requests_per_1_minute,
                before.requests_per_minute,
            )?,
            tokens_per_minute: value(
                "max_tokens_per_1_minute",
                self.max_tokens_per_1_minute,
                before.tokens_per_minute,
            )?,
            requests_per_day: value(
                "max_requests_per_1_day",
                self.max_requests_per_1_day,
                before.requests_per_day,
            )?,
            concurrent_requests: value(
                "max_concurrent_requests",
                self.max_concurrent_requests,
                before.concurrent_requests,
            )?,
        })
    }
}
