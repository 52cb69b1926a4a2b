//! How much a project, or one of its keys, may ask. What was asked is counted in memory by whoever serves.

use super::audit::{self, Act, Event};
use super::full;
use super::projects::require_active;
use crate::{Store, StoreError};
use lyceum_types::ids::{KeyId, ModelName, Project};
use lyceum_types::limits;
use lyceum_types::tenancy::{RateLimit, RateSubject};
use serde_json::json;
use std::collections::BTreeMap;

/// Sets the limit of one subject; one without any bound is forgotten.
///
/// # Errors
/// The project or key is not there, or the project is archived.
pub async fn set(
    store: &Store,
    project: &Project,
    subject: &RateSubject,
    limit: RateLimit,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let key = subject.key.as_ref().map_or("", KeyId::as_str);
    let model = subject.model.as_ref().map_or("", ModelName::as_str);
    if let Some(id) = &subject.key {
        let (found,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM api_keys WHERE tenant = $1 AND project = $2 AND id = $3 AND revoked_at IS NULL",
        )
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        if found == 0 {
            return Err(StoreError::NotFound { what: "key", id: id.to_string() });
        }
    }
    let (n_limits,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM rate_limits WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_one(&mut *transaction)
            .await?;
    if n_limits >= limits::RATE_LIMITS_MAX && !limit.is_unlimited() {
        return Err(full("rate limits", limits::RATE_LIMITS_MAX));
    }
    sqlx::query("DELETE FROM rate_limits WHERE tenant = $1 AND project = $2 AND api_key = $3 AND model = $4")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(key)
        .bind(model)
        .execute(&mut *transaction)
        .await?;
    let number = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    if !limit.is_unlimited() {
        sqlx::query(
            "INSERT INTO rate_limits (tenant, project, api_key, model, requests_per_minute, tokens_per_minute, \
             requests_per_day, concurrent_requests) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(key)
        .bind(model)
        .bind(number(limit.requests_per_minute))
        .bind(number(limit.tokens_per_minute))
        .bind(number(limit.requests_per_day))
        .bind(number(limit.concurrent_requests))
        .execute(&mut *transaction)
        .await?;
    }
    let changes = json!({
        "max_requests_per_1_minute": limit.requests_per_minute,
        "max_tokens_per_1_minute": limit.tokens_per_minute,
        "max_requests_per_1_day": limit.requests_per_day,
        "max_concurrent_requests": limit.concurrent_requests,
    });
    let resource = id_of(subject);
    let (kind, data) = match limit.is_unlimited() {
        true => ("rate_limit.deleted", json!({})),
        false => ("rate_limit.updated", json!({"changes_requested": changes})),
    };
    let event = Event { kind, project: Some(&project.id), resource: &resource, data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// `rl-MODEL`, `rl-*` for all models together, with `@key_…` for one key.
pub fn id_of(subject: &RateSubject) -> String {
    let model = subject.model.as_ref().map_or("*", ModelName::as_str);
    match &subject.key {
        None => format!("rl-{model}"),
        Some(key) => format!("rl-{model}@{key}"),
    }
}

/// The subject that an id names.
pub fn subject_of(id: &str) -> Option<RateSubject> {
    let id = id.strip_prefix("rl-")?;
    let (model, key) = match id.split_once('@') {
        Some((model, key)) => (model, Some(key.parse().ok()?)),
        None => (id, None),
    };
    let model = match model {
        "*" => None,
        model => Some(model.parse().ok()?),
    };
    Some(RateSubject { key, model })
}

/// Every limit that was set in a project.
pub async fn list(store: &Store, project: &Project) -> Result<BTreeMap<RateSubject, RateLimit>, StoreError> {
    type Row = (String, String, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT api_key, model, requests_per_minute, tokens_per_minute, requests_per_day, concurrent_requests \
         FROM rate_limits WHERE tenant = $1 AND project = $2",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    let number = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok());
    rows.into_iter()
        .map(|(key, model, requests, tokens, day, concurrent)| {
            let damaged = |value: &str| StoreError::Damaged { table: "rate_limits", value: value.into() };
            let subject = RateSubject {
                key: Some(&key)
                    .filter(|key| !key.is_empty())
                    .map(|key| key.parse().map_err(|_| damaged(key)))
                    .transpose()?,
                model: Some(&model)
                    .filter(|model| !model.is_empty())
                    .map(|model| model.parse().map_err(|_| damaged(model)))
                    .transpose()?,
            };
            let limit = RateLimit {
                requests_per_minute: number(requests),
                tokens_per_minute: number(tokens),
                requests_per_day: number(day),
                concurrent_requests: number(concurrent),
            };
            Ok((subject, limit))
        })
        .collect()
}
