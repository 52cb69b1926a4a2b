//! `POST|GET /v1/batches`, `GET /v1/batches/{id}`, `POST /v1/batches/{id}/cancel`

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::receipts;
use crate::wire::batches::{BatchBody, BatchList, Body, ListQuery};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use lyceum_service::batches;

/// Asks a file of requests within a day, when nobody else waits, and writes the answers into files.
#[utoipa::path(post, path = "/v1/batches", tag = "openai", request_body = Body, params(("X-Privacy-Receipt" = Option<String>,
    Header, description = "true: each line of the output and error files has a signed privacy_receipt")), responses(
    (status = 200, body = BatchBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body::Json(body): body::Json<Body>,
) -> Result<Json<BatchBody>, ApiError> {
    let new = body.parse(receipts::wanted(&headers)?)?;
    Ok(Json(batches::create(&api.service, (&caller.project, &caller.key), new).await?.into()))
}

/// A page of batches, newest first.
#[utoipa::path(get, path = "/v1/batches", tag = "openai", params(
    ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)), responses(
    (status = 200, body = BatchList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<BatchList>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::query(&error))?;
    let (after, limit) = (query.after.as_deref(), query.limit()?);
    Ok(Json(BatchList::new(batches::list(&api.service, &caller.project, after, limit).await?)))
}

/// One batch: how far it is, and its files when it is over.
#[utoipa::path(get, path = "/v1/batches/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = BatchBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchBody>, ApiError> {
    Ok(Json(batches::find(&api.service, &caller.project, &id).await?.into()))
}

/// Asks a batch to end: lines under way end, no other is begun, and what is answered becomes its files.
#[utoipa::path(post, path = "/v1/batches/{id}/cancel", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = BatchBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchBody>, ApiError> {
    Ok(Json(batches::cancel(&api.service, &caller.project, &id).await?.into()))
}
