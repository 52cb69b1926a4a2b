//! `/v1/privacy/audits`

use super::records;
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::audits::{AuditBody, AuditList, Body, record_body, result_body};
use axum::Extension;
use axum::extract::{Path, State};
use lyceum_service::audits::Plan;
use lyceum_service::background::{self, Found};
use lyceum_service::runs::Kind;
use serde_json::{Value, json};

const LISTED_MAX: usize = 100;

/// Begins an audit in the background: how well losses tell rows that a model was trained on from others, and what canaries
/// of its private training proved. What the model or the files do not allow is refused here. Every row that goes through
/// a model is a pass; an audit takes turns with other clients.
#[utoipa::path(post, path = "/v1/privacy/audits", tag = "privacy", request_body = Body, responses(
    (status = 200, body = AuditBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Value>, ApiError> {
    let asked = body.parse()?;
    let (members, others) = (asked.members.clone(), asked.others.clone());
    let plan = Plan::new(&api.service, &caller.payer, asked).await?;
    let shown = json!({"model": plan.model(), "members": members, "others": others});
    let work = async move {
        let audit = plan.carry_out().await?;
        Ok(Found { result: result_body(&audit), lines: None })
    };
    let record = background::start(&api.service, &caller.project, Kind::Audit, shown, work).await?;
    Ok(axum::Json(record_body(&record)))
}

/// The newest audits, at most 100 of the 256 that are kept.
#[utoipa::path(get, path = "/v1/privacy/audits", tag = "privacy", responses(
    (status = 200, body = AuditList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<axum::Json<AuditList>, ApiError> {
    let found = records::newest(&api, caller, Kind::Audit, LISTED_MAX).await?;
    Ok(axum::Json(AuditList { object: "list", data: found.iter().map(record_body).collect() }))
}

/// One audit, as it stands.
#[utoipa::path(get, path = "/v1/privacy/audits/{id}", tag = "privacy", params(("id" = String, Path)), responses(
    (status = 200, body = AuditBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(record_body(&records::one(&api, caller, Kind::Audit, id).await?)))
}

/// Ends an audit at its next pass; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/privacy/audits/{id}/cancel", tag = "privacy", params(("id" = String, Path)),
    responses((status = 200, body = AuditBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    let record = background::cancel(&api.service, &caller.project, Kind::Audit, &id).await?;
    Ok(axum::Json(record_body(&record)))
}
