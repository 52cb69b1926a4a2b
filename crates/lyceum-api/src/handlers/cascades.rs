//! `/v1/cascades[/{id}[/cancel]]`

use super::records;
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::cascades::{Body, CascadeList, CascadeRecordBody, record_body, request_body, result_body};
use axum::Extension;
use axum::extract::{Path, State};
use lyceum_service::background::{self, Found};
use lyceum_service::cascades::Plan;
use lyceum_service::runs::Kind;
use lyceum_types::control::Control;
use serde_json::Value;

/// Cascades that one list gives: the newest.
const LISTED_MAX: usize = 100;

/// Puts a cascade into the queue that is made of two models and a file of labelled rows: thresholds are fitted on one part
/// of them and the rest is measured. What the members or the rows do not allow is refused here. When it is `completed`,
/// `model` is a version that `/v1/decisions` asks.
#[utoipa::path(post, path = "/v1/cascades", tag = "cascades", request_body = Body, responses(
    (status = 200, body = CascadeRecordBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Value>, ApiError> {
    let asked = body.parse()?;
    let shown = asked.files();
    let ask = asked.open(&api.service, &caller.project).await?;
    let request = request_body(&ask, shown);
    let plan = Plan::new(&api.service, &caller.payer, ask).await?;
    let request = crate::wire::cascades::planned(request, &plan);
    let service = api.service.clone();
    let work = async move {
        // Cancelled, the future is dropped.
        let created = plan.carry_out(&service, &Control::new()).await?;
        Ok(Found { result: result_body(&created), lines: None })
    };
    let record = background::start(&api.service, &caller.project, Kind::Cascade, request, work).await?;
    Ok(axum::Json(record_body(&record)))
}

/// The newest that were asked for, at most 100 of the 256 that are kept.
#[utoipa::path(get, path = "/v1/cascades", tag = "cascades", responses(
    (status = 200, body = CascadeList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<axum::Json<CascadeList>, ApiError> {
    let records = records::newest(&api, caller, Kind::Cascade, LISTED_MAX).await?;
    let data = records.iter().map(record_body).collect();
    Ok(axum::Json(CascadeList { object: "list", data }))
}

/// One of them, as it stands. One whose server ended before it is `failed` with the code `interrupted`.
#[utoipa::path(get, path = "/v1/cascades/{id}", tag = "cascades", params(("id" = String, Path)), responses(
    (status = 200, body = CascadeRecordBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(record_body(&records::one(&api, caller, Kind::Cascade, id).await?)))
}

/// Ends the making of one; what has ended stays as it is.
#[utoipa::path(post, path = "/v1/cascades/{id}/cancel", tag = "cascades", params(("id" = String, Path)),
    responses((status = 200, body = CascadeRecordBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    let record = background::cancel(&api.service, &caller.project, Kind::Cascade, &id).await?;
    Ok(axum::Json(record_body(&record)))
}
