//! `/v1/residents`: the imported models that are in memory.

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::path_model_ref;
use crate::wire::residents::{Resident, ResidentList, Unloaded};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::residency;

/// The project's imported models that are loaded now.
#[utoipa::path(get, path = "/v1/residents", tag = "lyceum", responses(
    (status = 200, body = ResidentList), (status = 401, body = ErrorBody)))]
pub async fn list(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Json<ResidentList> {
    let data = residency::list(&api.service, &caller.project).into_iter().map(Resident::from).collect();
    Json(ResidentList { object: "list", data })
}

/// Lets a model go from memory; the next request loads it again.
#[utoipa::path(delete, path = "/v1/residents/{id}", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = Unloaded), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn unload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Unloaded>, ApiError> {
    let id = residency::unload(&api.service, &caller.project, &path_model_ref(&id)?, &caller.act()).await?;
    Ok(Json(Unloaded { id, object: "resident", unloaded: true }))
}
