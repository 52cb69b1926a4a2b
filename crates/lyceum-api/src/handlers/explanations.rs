//! `POST /v1/explanations`, `GET /v1/explanations/{id}` and `GET /v1/models/{id}/explanation_methods`.

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::explain::{Body, Extras};
use crate::wire::explanation::{ExplanationBody, MethodList, explanation};
use crate::wire::path_model_ref;
use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use lyceum_service::explain;
use serde_json::Value;

/// Says why a model answers an input as it does, or why it continues a text so.
#[utoipa::path(post, path = "/v1/explanations", tag = "lyceum", request_body = Body, responses(
    (status = 200, body = ExplanationBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 501, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (request, extras) = Body::parse(&body::read_json(request).await?)?;
    let explained = explain::create(&api.service, &caller.project, request).await?;
    Ok(Json(explanation(&explained, extras)))
}

/// An explanation by its id: a process keeps its newest ones.
#[utoipa::path(get, path = "/v1/explanations/{id}", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = ExplanationBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let explained = explain::find(&api.service, &caller.project, &id)?;
    Ok(Json(explanation(&explained, Extras::default())))
}

/// Every method, what it costs, and why it cannot explain this model where it cannot.
#[utoipa::path(get, path = "/v1/models/{id}/explanation_methods", tag = "lyceum", params(("id" = String, Path)),
    responses((status = 200, body = MethodList), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn methods(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<MethodList>, ApiError> {
    let model = path_model_ref(&id)?;
    let (resident, infos) = explain::methods(&api.service, &caller.project, &model).await?;
    let data = infos.into_iter().map(Into::into).collect();
    Ok(Json(MethodList { object: "list", model: resident.version.id(), data }))
}
