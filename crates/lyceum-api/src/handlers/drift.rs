//! `GET /v1/models/{id}/drift`, `POST /v1/models/{id}/drift/reference`

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::drift::{DriftBody, ReferenceBody};
use crate::wire::path_model_ref;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::drift;

/// Whether the rows that a loaded table or text model was asked still look like its training rows: a test a feature
/// beside the manifest's sketches, corrected for their number. Of an imported language model: whether lengths, sureness,
/// ends and guard of the newest answers are those of a reference window of this project. Only counts are kept.
#[utoipa::path(get, path = "/v1/models/{id}/drift", tag = "robustness", params(("id" = String, Path)), responses(
    (status = 200, body = DriftBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<DriftBody>, ApiError> {
    let report = drift::report(&api.service, &caller.project, &path_model_ref(&id)?).await?;
    Ok(Json(report.into()))
}

/// Begins a new reference window of a language model: what this project is answered next is what later answers are
/// compared with. What was counted before is forgotten.
#[utoipa::path(post, path = "/v1/models/{id}/drift/reference", tag = "robustness", params(("id" = String, Path)),
    request_body = ReferenceBody, responses((status = 200, body = DriftBody), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn reference(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body::Json(body): body::Json<ReferenceBody>,
) -> Result<Json<DriftBody>, ApiError> {
    let model = path_model_ref(&id)?;
    let act = caller.act();
    let report = drift::language::begin(&api.service, &caller.project, &model, body.answers, &act).await?;
    Ok(Json(report.into()))
}
