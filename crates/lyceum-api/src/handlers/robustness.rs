//! `/v1/robustness/runs[/{id}[/cancel, /failures]]`

use super::records;
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::robustness::{
    Body, RunRecordBody, RunRecordList, lines, record_body, request_body, result_body,
};
use crate::wire::{model_ref, robust_language};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lyceum_service::background::{self, Found};
use lyceum_service::robustness::{Asked, AskedRows, Plan, language};
use lyceum_service::runs::Kind;
use serde_json::Value;

/// Runs that one list gives: the newest.
const LISTED_MAX: usize = 100;

/// Puts a run into the queue that attacks, certifies and damages up to 4096 labelled rows, sent along or of a
/// file of `/v1/files`; of a language model, that compares environments and attacks a system prompt. What the model or the rows
/// do not allow is refused here, before the run begins. Two runs work at once, taking turns with other clients.
#[utoipa::path(post, path = "/v1/robustness/runs", tag = "robustness", request_body = Body, responses(
    (status = 200, body = RunRecordBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 501, body = ErrorBody), (status = 503, body = ErrorBody),
    (status = 504, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Value>, ApiError> {
    let project = &caller.project;
    if language::is_one(&api.service, project, &model_ref(&body.model)?).await? {
        let data = body.data.clone();
        let (asked, other, bounds) = body.parse_language()?;
        let seed = asked.seed;
        let trial = language::Trial::new(&api.service, &caller.payer, asked, (other, bounds)).await?;
        let shown = robust_language::request_body(&trial, data.as_deref(), seed);
        let work = async move {
            let tried = trial.carry_out().await?;
            Ok(Found {
                result: robust_language::result_body(&tried),
                lines: Some(robust_language::lines(&tried.ours)),
            })
        };
        let record = background::start(&api.service, project, Kind::Robustness, shown, work).await?;
        return Ok(axum::Json(record_body(&record)));
    }
    let request = body.parse()?;
    let asked = Asked {
        model: request.model,
        rows: request.rows,
        suite: request.suite,
        seed: request.seed,
        compare: request.compare,
    };
    let seed = asked.seed;
    let data = match &asked.rows {
        AskedRows::File { id, .. } => Some(id.clone()),
        AskedRows::Inline { .. } => None,
    };
    let plan = Plan::new(&api.service, &caller.payer, asked).await?;
    let shown = request_body(&plan, data.as_deref(), seed);
    let work = async move {
        let (run, gate) = plan.carry_out().await?;
        Ok(Found { result: result_body(&run, gate.as_ref()), lines: Some(lines(&run)) })
    };
    let record = background::start(&api.service, &caller.project, Kind::Robustness, shown, work).await?;
    Ok(axum::Json(record_body(&record)))
}

/// The newest runs, at most 100 of the 256 that are kept.
#[utoipa::path(get, path = "/v1/robustness/runs", tag = "robustness", responses(
    (status = 200, body = RunRecordList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<axum::Json<RunRecordList>, ApiError> {
    let records = records::newest(&api, caller, Kind::Robustness, LISTED_MAX).await?;
    let data = records.iter().map(record_body).collect();
    Ok(axum::Json(RunRecordList { object: "list", data }))
}

/// One run, as it stands. A run whose server ended before it is `failed` with the code `interrupted`.
#[utoipa::path(get, path = "/v1/robustness/runs/{id}", tag = "robustness", params(("id" = String, Path)), responses(
    (status = 200, body = RunRecordBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(record_body(&records::one(&api, caller, Kind::Robustness, id).await?)))
}

/// Ends a run at its next pass; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/robustness/runs/{id}/cancel", tag = "robustness", params(("id" = String, Path)),
    responses((status = 200, body = RunRecordBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    let record = background::cancel(&api.service, &caller.project, Kind::Robustness, &id).await?;
    Ok(axum::Json(record_body(&record)))
}

/// The rows that attacks of a completed run changed so that the answer changed, a JSON object a line; of a language model
/// the chats of the attacks that succeeded.
#[utoipa::path(get, path = "/v1/robustness/runs/{id}/failures", tag = "robustness", params(("id" = String, Path)),
    responses((status = 200, body = String, content_type = "application/jsonl"), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn failures(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let lines = background::lines(&api.service, &caller.project, Kind::Robustness, &id).await?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], lines).into_response())
}
