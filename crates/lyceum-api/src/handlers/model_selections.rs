//! `POST /v1/model_selections`, `GET /v1/model_selections[/{id}]`, `POST /v1/model_selections/{id}/cancel`

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::documents::{SelectionDocument, SelectionsDocument};
use crate::wire::selections::SelectionRequest;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::selections;
use serde_json::{Map, Value, json};

/// Puts a choice into the queue: the document of `lyceum choose`, with ids of files in the place of paths. It runs in
/// a process of its own, one at a time; the winner becomes a version that is served.
#[utoipa::path(post, path = "/v1/model_selections", tag = "trust", request_body = SelectionRequest, responses(
    (status = 200, body = SelectionDocument), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 501, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(selections::create(&api.service, &caller.payer, body).await?))
}

/// Asks a choice to end. One that waits is `cancelled` at once; one that runs says `cancel_requested` until it ends.
#[utoipa::path(post, path = "/v1/model_selections/{id}/cancel", tag = "trust", params(("id" = String, Path)), responses(
    (status = 200, body = SelectionDocument), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(selections::cancel(&api.service, &caller.project, &id).await?))
}

/// What choices found: measured rows, ties, the front, the recommendation; newest first.
#[utoipa::path(get, path = "/v1/model_selections", tag = "trust", responses(
    (status = 200, body = SelectionsDocument), (status = 401, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    let found = selections::list(&api.service, &caller.project).await?;
    Ok(Json(json!({ "object": "list", "data": found })))
}

/// What one choice found, or how far it is: `status` is queued, running, done, failed or cancelled.
#[utoipa::path(get, path = "/v1/model_selections/{id}", tag = "trust", params(("id" = String, Path)), responses(
    (status = 200, body = SelectionDocument), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(selections::find(&api.service, &caller.project, &id).await?))
}
