//! `GET /v1/models/{id}/drift`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::drift::DriftBody;
use crate::wire::path_model_ref;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::drift;

/// Whether the rows that a loaded table or text model was asked still look like its training rows: a test a feature
/// beside the manifest's sketches, corrected for their number. Only counts are kept, in memory.
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
