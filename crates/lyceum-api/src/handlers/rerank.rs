//! `POST /v1/rerank`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::new_id;
use crate::wire::rerank::{Body, Reranking};
use axum::Extension;
use axum::extract::State;
use lyceum_service::rerank;

/// Puts documents in the order of how well they answer a query, with an imported cross-encoder.
#[utoipa::path(post, path = "/v1/rerank", tag = "rerank", request_body = Body, responses(
    (status = 200, body = Reranking), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Reranking>, ApiError> {
    let (request, with_documents) = body.parse()?;
    let documents = with_documents.then(|| request.documents.clone());
    let ranked = rerank::create(&api.service, &caller.payer, request).await?;
    Ok(axum::Json(Reranking::new(new_id("rerank-"), ranked, documents.as_deref())))
}
