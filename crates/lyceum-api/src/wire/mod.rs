//! JSON shapes, and their way into requests that cannot be wrong. A field that no shape names is refused.

pub mod audits;
pub mod batches;
pub mod binary;
pub mod card;
pub mod cascades;
pub mod chat;
pub mod completions;
pub mod decisions;
pub mod documents;
pub mod drift;
pub mod embeddings;
pub mod evaluations;
pub mod explain;
pub mod explanation;
pub mod export;
pub mod files;
pub mod fine_tuning;
pub mod imports;
pub mod infer;
pub mod models;
pub mod moderations;
pub mod organization;
pub mod pii;
pub mod predict;
pub mod preview;
pub mod privacy;
pub mod promises;
pub mod registry;
pub mod rerank;
pub mod residents;
pub mod responses;
pub mod robust_language;
pub mod robustness;
pub mod sampling;
pub mod selections;
pub mod tokens;
pub mod uploads;
pub mod usage;

use crate::error::ApiError;
use lyceum_service::background::Record;
use lyceum_service::completions::Priority;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde_json::Value;
use std::collections::BTreeMap;

/// `prefix` and a UUID, which sorts by time.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::now_v7().simple())
}

/// The reference in a `model` field.
pub fn model_ref(text: &str) -> Result<ModelRef, ApiError> {
    if text.len() > limits::MODEL_REF_CHARS_MAX {
        return Err(ApiError::field("model", "invalid_value", "model: longer than any name"));
    }
    text.parse().map_err(|error| ApiError::field("model", "invalid_value", format!("model: {error}")))
}

/// `value` if it lies within the bounds, both included.
pub fn within<T: PartialOrd + std::fmt::Display + Copy>(
    param: &str,
    value: T,
    min: T,
    max: T,
) -> Result<T, ApiError> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(ApiError::field(param, "invalid_value", format!("{param}: {value} is not between {min} and {max}")))
}

/// Refuses a field that would change the answer and that nothing implements.
pub fn unsupported(param: &str, hint: &str) -> ApiError {
    ApiError::field(param, "unsupported_parameter", format!("{param}: not supported; {hint}"))
}

/// How soon an answer is wanted, in OpenAI's words: the class of the work, and the tier that its answer names, which is how
/// it is served. `priority` is served as `default` is.
pub fn tier(service_tier: Option<&str>) -> Result<(Priority, &'static str), ApiError> {
    match service_tier {
        None | Some("auto" | "default" | "priority") => Ok((Priority::Interactive, "default")),
        Some("flex") => Ok((Priority::Batch, "flex")),
        Some(_) => Err(unsupported("service_tier", "there are auto, default, priority and flex")),
    }
}

/// The same in vLLM's words, where the lower number comes first: here there are two classes.
pub fn priority(number: Option<i64>) -> Result<Priority, ApiError> {
    match number {
        None | Some(0) => Ok(Priority::Interactive),
        Some(1) => Ok(Priority::Batch),
        Some(_) => {
            Err(unsupported("priority", "there are 0 (at once) and 1 (when nobody waits for an answer)"))
        }
    }
}

/// How much a model is to think, in OpenAI's words: here it thinks or does not.
pub fn thinking(param: &str, effort: Option<&str>) -> Result<Option<bool>, ApiError> {
    match effort {
        None => Ok(None),
        Some("none") => Ok(Some(false)),
        Some("medium") => Ok(Some(true)),
        Some(_) => Err(unsupported(param, "there are none and medium")),
    }
}

/// How long answers are to be.
pub fn verbosity(param: &str, word: Option<&str>) -> Result<(), ApiError> {
    match word {
        None | Some("medium") => Ok(()),
        Some(_) => Err(unsupported(param, "say in the input how long the answer is to be")),
    }
}

/// How long kept beginnings of prompts last.
pub fn cache_retention(word: Option<&str>) -> Result<(), ApiError> {
    match word {
        // OpenAI's documents have both.
        None | Some("in_memory" | "in-memory") => Ok(()),
        Some(_) => {
            Err(unsupported("prompt_cache_retention", "beginnings are kept in memory: send in_memory"))
        }
    }
}

/// Pairs that a caller keeps with an object: OpenAI's bounds.
pub fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), ApiError> {
    let Some(metadata) = metadata else { return Ok(()) };
    let wrong =
        |message: String| Err(ApiError::field("metadata", "invalid_value", format!("metadata: {message}")));
    if metadata.len() > limits::METADATA_PAIRS_MAX {
        return wrong(format!("{} pairs are more than {}", metadata.len(), limits::METADATA_PAIRS_MAX));
    }
    for (key, value) in metadata {
        if key.chars().count() > limits::METADATA_KEY_CHARS_MAX {
            return wrong(format!("a key is longer than {} characters", limits::METADATA_KEY_CHARS_MAX));
        }
        if value.chars().count() > limits::METADATA_VALUE_CHARS_MAX {
            return wrong(format!("a value is longer than {} characters", limits::METADATA_VALUE_CHARS_MAX));
        }
    }
    Ok(())
}

/// Checks a text that is accepted and has no effect on the answer.
pub fn advisory(param: &str, text: Option<&str>) -> Result<(), ApiError> {
    match text {
        Some(text) if text.chars().count() > limits::ADVISORY_CHARS_MAX => {
            let message = format!("{param}: longer than {} characters", limits::ADVISORY_CHARS_MAX);
            Err(ApiError::field(param, "invalid_value", message))
        }
        _ => Ok(()),
    }
}

/// The reference in a path, which is percent-decoded already: what cannot be a name is not found.
pub fn path_model_ref(text: &str) -> Result<ModelRef, ApiError> {
    let id = || text.chars().take(limits::MODEL_REF_CHARS_MAX).collect();
    text.parse().map_err(|_| lyceum_service::ServiceError::ModelNotFound { id: id() }.into())
}

/// An id in a path or body of administration: what cannot be one is not found.
pub fn organization_id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, ApiError> {
    let id = || text.chars().take(64).collect();
    text.parse().map_err(|_| lyceum_service::ServiceError::NotFound { what, id: id() }.into())
}

/// What a record of the background is told as: these fields, over them what was asked, and what was found.
pub fn with_documents(mut body: Value, record: &Record) -> Value {
    if let Some(all) = body.as_object_mut() {
        for part in [&record.request, &record.result] {
            let fields = part.as_object().into_iter().flatten();
            all.extend(fields.map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    body
}
