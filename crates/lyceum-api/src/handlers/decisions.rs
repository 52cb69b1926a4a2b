//! `POST /v1/decisions`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::decisions::{Body, Decision};
use axum::Extension;
use axum::extract::State;
use lyceum_service::decisions;

/// Answers typed questions about a text, a picture or a row of a table: with a trained classifier, or about a text with
/// a language model, from its probabilities.
#[utoipa::path(post, path = "/v1/decisions", tag = "openai", request_body = Body, responses(
    (status = 200, body = Decision), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Decision>, ApiError> {
    let (request, extras) = body.parse()?;
    let decision = decisions::create(&api.service, &caller.payer, request).await?;
    Ok(axum::Json(Decision::new(decision, extras)))
}
