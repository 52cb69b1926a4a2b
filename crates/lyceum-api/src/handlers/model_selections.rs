//! `POST /v1/model_selections`, `GET /v1/model_selections[/{id}]`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::selections;
use serde_json::{Value, json};

/// Not in this version: the answer says why and what to do instead.
#[utoipa::path(post, path = "/v1/model_selections", tag = "trust", request_body = Object, responses(
    (status = 401, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn create() -> ApiError {
    selections::create().into()
}

/// What choices found: measured rows, ties, the front, the recommendation; newest first.
#[utoipa::path(get, path = "/v1/model_selections", tag = "trust", responses(
    (status = 200, body = Object), (status = 401, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    let found = selections::list(&api.service, &caller.project).await?;
    Ok(Json(json!({ "object": "list", "data": found })))
}

/// What one choice found.
#[utoipa::path(get, path = "/v1/model_selections/{id}", tag = "trust", params(("id" = String, Path)), responses(
    (status = 200, body = Object), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(selections::find(&api.service, &caller.project, &id).await?))
}
