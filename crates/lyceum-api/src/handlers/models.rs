//! `GET /v1/models[/{id}]`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::models::{Model, ModelList};
use crate::wire::path_model_ref;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::models;

/// Every model: `name` is the newest version that no gate holds, `name@3` one version.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses(
    (status = 200, body = ModelList), (status = 401, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ModelList>, ApiError> {
    let listed = models::list(&api.service, &caller.project).await?;
    Ok(Json(ModelList { object: "list", data: listed.into_iter().map(Model::from).collect() }))
}

/// One model, by `name`, `name@3` or `name@alias`.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = Model), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let listed = models::find(&api.service, &caller.project, &path_model_ref(&id)?).await?;
    Ok(Json(listed.into()))
}

/// One model, that is called as the route that pulls is.
#[utoipa::path(get, path = "/v1/models/pull", tag = "openai", responses(
    (status = 200, body = Model), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find_pull(api: State<Api>, caller: Extension<Caller>) -> Result<Json<Model>, ApiError> {
    find(api, caller, Path("pull".into())).await
}
