//! `POST /v1/explanations`, `/v1/explanations/{id}[/cancel]` and `GET /v1/models/{id}/explanation_methods`.

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::explain::{Body, Extras, When};
use crate::wire::explanation::{ExplanationBody, MethodList, background_explanation, explanation};
use crate::wire::path_model_ref;
use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use lyceum_service::background::{self, Found};
use lyceum_service::explain;
use lyceum_service::runs::Kind;
use serde_json::{Value, json};

/// Says why a model answers an input as it does, or why it continues a text so; with `background`, later.
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
    let (request, extras, when) = Body::parse(&body::read_json(request).await?)?;
    explain::refuse_attacks(&api.service, &caller.payer, &request).await?;
    if when == When::Now {
        let explained = explain::create(&api.service, &caller.payer, request).await?;
        return Ok(Json(explanation(&explained, extras)));
    }
    let version = explain::check(&api.service, &caller.project, &request).await?;
    let shown = json!({"explained_model": format!("{}@sha256:{}", version.id(), version.sha256)});
    let (service, payer) = (api.service.clone(), caller.payer.clone());
    let work = async move {
        let explained = explain::create(&service, &payer, request).await?;
        Ok(Found { result: explanation(&explained, extras), lines: None })
    };
    let record = background::start(&api.service, &caller.project, Kind::Explanation, shown, work).await?;
    Ok(Json(background_explanation(&record)))
}

/// An explanation by its id: a process keeps its newest ones in memory; those that were asked for in the background
/// are kept on disk.
#[utoipa::path(get, path = "/v1/explanations/{id}", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = ExplanationBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if let Ok(explained) = explain::find(&api.service, &caller.project, &id) {
        return Ok(Json(explanation(&explained, Extras::default())));
    }
    let found = background::find(&api.service, &caller.project, Kind::Explanation, &id).await?;
    Ok(Json(background_explanation(&found)))
}

/// Ends an explanation of the background before its next pass; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/explanations/{id}/cancel", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = ExplanationBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let record = background::cancel(&api.service, &caller.project, Kind::Explanation, &id).await?;
    Ok(Json(background_explanation(&record)))
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
    let (version, infos) = explain::methods(&api.service, &caller.project, &model).await?;
    let data = infos.into_iter().map(Into::into).collect();
    Ok(Json(MethodList { object: "list", model: version.id(), data }))
}
