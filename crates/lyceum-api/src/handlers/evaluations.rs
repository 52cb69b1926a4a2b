//! `POST /v1/evaluations`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::evaluations::{Body, EvaluationBody};
use axum::Extension;
use axum::extract::State;
use lyceum_service::evaluations;

/// Measures a model that was trained here on a file of `/v1/files` with rows and their answers, in the format of its training
/// data, beside the trivial method that was fitted on its training rows: what `lyceum eval` measures. Every row that goes
/// through the model is a pass; other clients have their turns between two of them. A client that leaves ends it.
#[utoipa::path(post, path = "/v1/evaluations", tag = "lyceum", request_body = Body, responses(
    (status = 200, body = EvaluationBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<EvaluationBody>, ApiError> {
    let asked = body.parse()?;
    let file = asked.file.clone();
    let (found, passes) = evaluations::create(&api.service, &caller.payer, asked).await?;
    Ok(axum::Json(EvaluationBody::new(found, file, passes)))
}
