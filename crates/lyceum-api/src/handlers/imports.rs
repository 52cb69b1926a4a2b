//! `POST /v1/models`, `POST /v1/models/pull`: models that come from elsewhere. A client that leaves ends what it asked for.

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::sse;
use crate::wire::imports::{ImportEvent, ImportRequest, ImportedBody, PullRequest};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lyceum_service::imports::underway::{Next, Underway};
use lyceum_service::imports::{brought, pulled};

/// Imports a model of files that were brought with the purpose `model` (`/v1/uploads`, or `/v1/files` for small ones): a
/// GGUF file, a folder in Hugging Face's layout, an adapter, or what an export gave. The files are deleted when the model is
/// there.
#[utoipa::path(post, path = "/v1/models", tag = "lyceum", request_body = ImportRequest, responses(
    (status = 200, body = ImportedBody, description = "With stream: true, events of how far it is; the last is the model"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<ImportRequest>,
) -> Result<Response, ApiError> {
    let is_stream = body.stream.unwrap_or(false);
    let new = body.parse()?;
    let act = caller.act();
    answer(brought::begin(api.service.clone(), caller.project, new, act).await?, is_stream).await
}

/// Fetches a model from the hub that the operator configured, with the operator's token, and imports it; only where the
/// operator allows it (`serve --allow-pull`). What was fetched stays in the server's cache: a pull that broke off goes on
/// where it was.
#[utoipa::path(post, path = "/v1/models/pull", tag = "lyceum", request_body = PullRequest, responses(
    (status = 200, body = ImportedBody, description = "With stream: true, events of how far it is; the last is the model"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn pull(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<PullRequest>,
) -> Result<Response, ApiError> {
    let is_stream = body.stream.unwrap_or(false);
    let new = body.parse()?;
    let act = caller.act();
    answer(pulled::begin(api.service.clone(), caller.project, new, act)?, is_stream).await
}

async fn answer(underway: Underway, is_stream: bool) -> Result<Response, ApiError> {
    if is_stream {
        return Ok(sse::stream(futures_util::stream::unfold(Some(underway), next)));
    }
    Ok(Json(ImportedBody::from(underway.end().await?)).into_response())
}

type Item = Result<ImportEvent, ApiError>;

async fn next(underway: Option<Underway>) -> Option<(Item, Option<Underway>)> {
    let mut underway = underway?;
    Some(match underway.next().await {
        Next::Stage(stage) => (Ok(ImportEvent::Progress(stage.into())), Some(underway)),
        Next::Ended(done) => {
            let done = done.map(|brought| ImportEvent::Model(Box::new(brought.into())));
            (done.map_err(ApiError::from), None)
        }
    })
}
