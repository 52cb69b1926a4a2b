//! `POST /v1/moderations`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::moderations::{Answer, Body};
use crate::wire::new_id;
use axum::Extension;
use axum::extract::State;
use lyceum_service::moderations;

/// Says whether texts hold prompt injections, hidden characters, addresses that carry data away, personal data or
/// secrets, and where.
#[utoipa::path(post, path = "/v1/moderations", tag = "openai", request_body = Body, responses(
    (status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<Answer>, ApiError> {
    let moderation = moderations::create(&api.service, &caller.payer, body.parse()?).await?;
    Ok(axum::Json(Answer::new(new_id("modr-"), moderation)))
}
