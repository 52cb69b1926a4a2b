//! What was done and what it cost, summed up for those who pay.

use crate::{Service, ServiceError};
use lyceum_store::keys;
use lyceum_store::ledger::entries;
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use std::collections::BTreeMap;

pub use lyceum_store::ledger::entries::Sum;
pub use lyceum_store::ledger::{CURRENCY, Class, Counts, Entry, PriceList, Rates, UNIT, prices};

/// Which page of usage a piece of work is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens were made.
    Completions,
    Embeddings,
    /// Texts that a classifier of prompt injections read.
    Moderations,
    /// Rows and texts through a classifier, a regression or a ranking.
    Predictions,
    /// Explanations, robustness runs, privacy audits and evaluations.
    Explanations,
    /// Trainings and choices.
    Trainings,
}

impl Kind {
    /// Where work of this route belongs.
    pub fn of(route: &str) -> Self {
        match route {
            "/v1/completions" | "/v1/chat/completions" | "/v1/responses" => Kind::Completions,
            "/v1/embeddings" => Kind::Embeddings,
            "/v1/moderations" => Kind::Moderations,
            "/v1/fine_tuning/jobs" | "/v1/model_selections" => Kind::Trainings,
            "/v1/explanations" | "/v1/robustness/runs" | "/v1/privacy/audits" | "/v1/evaluations" => {
                Kind::Explanations
            }
            part if part.ends_with(crate::meter::EXPLAIN) => Kind::Explanations,
            _ => Kind::Predictions,
        }
    }
}

/// The users and service accounts that keys are of, by the key.
pub type Owners = BTreeMap<String, String>;

/// Whose the keys of a tenant are or were; those that are nobody's are not there.
pub async fn owners(service: &Service, tenant: &str) -> Result<Owners, ServiceError> {
    Ok(keys::owners(service.store(), tenant).await?.into_iter().collect())
}

/// Entries of a tenant's work that was settled in a span of time, in the order of their ids, after the one with this id.
pub async fn entries(
    service: &Service,
    tenant: &str,
    span: (Timestamp, Timestamp),
    after: &str,
    max: u32,
) -> Result<Vec<Entry>, ServiceError> {
    Ok(entries::list(service.store(), tenant, span, after, max).await?)
}

/// Sums of a tenant's work that was settled in a span of time, in buckets of `width` milliseconds since 1970, and the
/// prices that they name.
///
/// # Errors
/// There are too many sums: ask for less time at once.
pub async fn sums(
    service: &Service,
    tenant: &str,
    span: (Timestamp, Timestamp),
    width: i64,
) -> Result<(Vec<Sum>, PriceList), ServiceError> {
    let sums = entries::sums(service.store(), tenant, span, width, limits::USAGE_SUMS_MAX).await?;
    Ok((sums, prices::list(service.store()).await?))
}
