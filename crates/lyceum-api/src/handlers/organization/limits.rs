//! `/v1/organization/projects/{id}/rate_limits[/{limit}]`

use super::{Pairs, found};
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::limits::{Limit, UpdateLimit};
use crate::wire::organization::{Asked, Identified, List};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::tenancy::rates;
use lyceum_service::{ServiceError, models};
use lyceum_types::ids::Project;
use lyceum_types::limits::{ADMINISTRATION_LISTED_MAX, RATE_LIMITS_MAX};
use lyceum_types::tenancy::{RateLimit, RateSubject};
use std::collections::BTreeMap;

/// The limits of a project: of all models together (`rl-*`), of each model, and of keys that have their own; a number
/// that was not set is the largest that can be.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/rate_limits", tag = "administration",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("before" = Option<String>, Query)),
    responses((status = 200, body = List<Limit>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Pairs(query): Pairs,
) -> Result<Json<List<Limit>>, ApiError> {
    let mut asked = Asked::new(query);
    let n = asked.parsed("limit", "a whole number")?.unwrap_or(ADMINISTRATION_LISTED_MAX);
    let n = crate::wire::within("limit", n, 1, RATE_LIMITS_MAX as u32)? as usize;
    let (after, before) = (asked.one("after")?, asked.one("before")?);
    asked.done()?;
    let project = found(&api, &by, &id).await?;
    let all = limits_of(&api, &project).await?;
    let mut told: Vec<Limit> = all.iter().map(|(subject, limit)| Limit::new(subject, *limit)).collect();
    told.sort_by(|a, b| a.id.cmp(&b.id));
    told.retain(|limit| {
        after.as_deref().is_none_or(|after| limit.id() > after)
            && before.as_deref().is_none_or(|before| limit.id() < before)
    });
    let has_more = told.len() > n;
    if before.is_some() && after.is_none() {
        // The ones just before it.
        told.drain(..told.len().saturating_sub(n));
    }
    told.truncate(n);
    Ok(Json(List::new(told, has_more)))
}

/// Limits that were set, and those of models and of the project as a whole, where none was.
async fn limits_of(api: &Api, project: &Project) -> Result<BTreeMap<RateSubject, RateLimit>, ApiError> {
    let mut all = rates::list(api.service.store(), project).await.map_err(ServiceError::from)?;
    all.entry(RateSubject { key: None, model: None }).or_default();
    for listed in models::list(&api.service, project).await? {
        let model = Some(listed.version.name);
        all.entry(RateSubject { key: None, model }).or_default();
    }
    Ok(all)
}

/// Sets limits; what is not given stays as it is. They hold from the next request on.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/rate_limits/{limit}", tag = "administration",
    params(("id" = String, Path), ("limit" = String, Path, description = "rl-MODEL, rl-* or rl-*@key_…")),
    request_body = UpdateLimit,
    responses((status = 200, body = Limit), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn modify(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, limit)): Path<(String, String)>,
    Body(body): Body<UpdateLimit>,
) -> Result<Json<Limit>, ApiError> {
    let project = found(&api, &by, &id).await?;
    let missing = || ServiceError::NotFound { what: "rate limit", id: limit.chars().take(300).collect() };
    let subject = rates::subject_of(&limit).ok_or_else(missing)?;
    let all = limits_of(&api, &project).await?;
    // A key's first limit may be set here; a model has to be one of the project's.
    let of_project = RateSubject { key: None, model: subject.model.clone() };
    if !all.contains_key(&of_project) {
        return Err(missing().into());
    }
    let after = body.over(all.get(&subject).copied().unwrap_or_default())?;
    let set = rates::set(api.service.store(), &project, &subject, after, &by.act()).await;
    set.map_err(ServiceError::from)?;
    Ok(Json(Limit::new(&subject, after)))
}
