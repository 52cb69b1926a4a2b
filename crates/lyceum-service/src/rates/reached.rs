//! What a client is told of limits: which one would be passed, by how much, and when to come again, in OpenAI's words.

use super::{Bucket, Counted, Limited, bound};
use crate::ServiceError;
use std::time::Duration;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    RequestsPerMinute,
    RequestsPerDay,
    TokensPerMinute,
    ConcurrentRequests,
}

impl What {
    /// OpenAI's `type` of the error.
    pub fn kind(self) -> &'static str {
        if self == What::TokensPerMinute { "tokens" } else { "requests" }
    }

    fn in_words(self) -> &'static str {
        match self {
            What::RequestsPerMinute => "requests per min (RPM)",
            What::RequestsPerDay => "requests per day (RPD)",
            What::TokensPerMinute => "tokens per min (TPM)",
            What::ConcurrentRequests => "requests at once",
        }
    }
}

/// A limit that a request would pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    pub what: What,
    pub message: String,
    /// None: it is larger than the limit, so it never passes.
    pub retry_after: Option<Duration>,
}

/// What is left of a limit, for the answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: u64,
    pub remaining: u64,
    /// Until nothing of it is used.
    pub reset: Duration,
}

/// Whether one more request fits.
///
/// # Errors
/// It does not.
pub(super) fn check_request(limited: &Limited, entry: &Counted) -> Result<(), ServiceError> {
    check(limited, What::RequestsPerMinute, &entry.requests, 1)?;
    check(limited, What::RequestsPerDay, &entry.day, 1)?;
    let most = bound(limited.limit.concurrent_requests);
    if entry.in_flight >= most {
        let message = format!(
            "Rate limit reached for {} on {}: Limit {most}, Used {}, Requested 1. Please try again when one of them has ended.",
            limited.in_words(),
            What::ConcurrentRequests.in_words(),
            entry.in_flight
        );
        let retry_after = Some(Duration::from_secs(1));
        let reached = Reached { what: What::ConcurrentRequests, message, retry_after };
        return Err(ServiceError::RateLimited(Box::new(reached)));
    }
    Ok(())
}

/// Whether `n` more of something fit.
///
/// # Errors
/// They do not.
pub(super) fn check(limited: &Limited, what: What, bucket: &Bucket, n: u64) -> Result<(), ServiceError> {
    let wait = bucket.wait(n);
    if wait == Some(Duration::ZERO) {
        return Ok(());
    }
    let limit = bound(match what {
        What::RequestsPerMinute => limited.limit.requests_per_minute,
        What::RequestsPerDay => limited.limit.requests_per_day,
        What::TokensPerMinute => limited.limit.tokens_per_minute,
        What::ConcurrentRequests => limited.limit.concurrent_requests,
    });
    let (whom, words) = (limited.in_words(), what.in_words());
    let message = match wait {
        None => format!("Request too large for {whom} on {words}: Limit {limit}, Requested {n}."),
        Some(wait) => {
            let used = limit.saturating_sub(bucket.remaining());
            let wait = in_words(wait);
            format!(
                "Rate limit reached for {whom} on {words}: Limit {limit}, Used {used}, Requested {n}. \
                 Please try again in {wait}."
            )
        }
    };
    Err(ServiceError::RateLimited(Box::new(Reached { what, message, retry_after: wait })))
}

/// A time as OpenAI's headers write it: `17ms`, `1.5s`, `6m0s`, `2h3m0s`.
pub fn in_words(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest_ms) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = match rest_ms % 1000 {
        0 => format!("{}s", rest_ms / 1000),
        part => format!("{}.{}s", rest_ms / 1000, format!("{part:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}
