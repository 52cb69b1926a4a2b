//! One file a resource: parse, call the use case, write the answer.

pub mod audits;
pub mod batches;
pub mod card;
pub mod cascades;
pub mod chat;
pub mod completions;
pub mod decisions;
pub mod docs;
pub mod drift;
pub mod embeddings;
pub mod evaluations;
pub mod explanations;
pub mod export;
pub mod files;
pub mod fine_tuning;
pub mod health;
pub mod imports;
pub mod infer;
pub mod metrics;
pub mod model_selections;
pub mod models;
pub mod moderations;
pub mod openapi;
pub mod organization;
pub mod pii;
pub mod predict;
pub mod privacy;
mod records;
pub mod registry;
pub mod rerank;
pub mod residents;
pub mod responses;
pub mod robustness;
pub mod tokens;
pub mod uploads;
pub mod usage;
pub(crate) mod why;

use lyceum_types::clock::Timestamp;

/// Seconds since 1970.
fn created() -> i64 {
    Timestamp::now().seconds()
}
