//! `POST /v1/embeddings`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::embeddings::{Body, EmbeddingList};
use axum::Extension;
use axum::extract::State;
use lyceum_service::embeddings;

/// Makes a vector of each text with an imported encoder.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = Body, responses(
    (status = 200, body = EmbeddingList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<EmbeddingList>, ApiError> {
    let (request, format) = body.parse()?;
    let made = embeddings::create(&api.service, &caller.payer, request).await?;
    Ok(axum::Json(EmbeddingList::new(made, format)))
}
