//! Open Inference Protocol v2.

use crate::Api;
use crate::auth::Caller;
use crate::body::{self, Raw};
use crate::error::{ApiError, ErrorBody};
use crate::wire::infer::{Body, ModelMetadata, Response, ServerMetadata};
use crate::wire::{binary, path_model_ref};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use lyceum_service::{Payer, infer};
use lyceum_types::ids::{ModelRef, Project};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelReady {
    pub name: String,
    pub ready: bool,
}

#[utoipa::path(get, path = "/v2", tag = "open inference protocol", responses(
    (status = 200, body = ServerMetadata), (status = 401, body = ErrorBody)))]
pub async fn server() -> axum::Json<ServerMetadata> {
    axum::Json(ServerMetadata {
        name: "lyceum",
        version: env!("CARGO_PKG_VERSION"),
        extensions: vec!["binary_tensor_data"],
    })
}

/// Names, types and sizes of a model's tensors.
#[utoipa::path(get, path = "/v2/models/{id}", tag = "open inference protocol", params(("id" = String, Path)),
    responses((status = 200, body = ModelMetadata), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn metadata(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<ModelMetadata>, ApiError> {
    describe(&api, &caller.project, &path_model_ref(&id)?).await
}

#[utoipa::path(get, path = "/v2/models/{id}/versions/{version}", tag = "open inference protocol",
    params(("id" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ModelMetadata), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn version_metadata(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, version)): Path<(String, String)>,
) -> Result<axum::Json<ModelMetadata>, ApiError> {
    describe(&api, &caller.project, &path_model_ref(&format!("{id}@{version}"))?).await
}

async fn describe(
    api: &Api,
    project: &Project,
    model: &ModelRef,
) -> Result<axum::Json<ModelMetadata>, ApiError> {
    Ok(axum::Json(infer::metadata(&api.service, project, model).await?.into()))
}

/// Loads the model when it is not loaded yet.
#[utoipa::path(get, path = "/v2/models/{id}/ready", tag = "open inference protocol", params(("id" = String, Path)),
    responses((status = 200, body = ModelReady), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn ready(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<ModelReady>, ApiError> {
    load(&api, &caller.project, &path_model_ref(&id)?).await
}

#[utoipa::path(get, path = "/v2/models/{id}/versions/{version}/ready", tag = "open inference protocol",
    params(("id" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ModelReady), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn version_ready(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, version)): Path<(String, String)>,
) -> Result<axum::Json<ModelReady>, ApiError> {
    load(&api, &caller.project, &path_model_ref(&format!("{id}@{version}"))?).await
}

async fn load(api: &Api, project: &Project, model: &ModelRef) -> Result<axum::Json<ModelReady>, ApiError> {
    let resident = api.service.resident(project, model).await?;
    Ok(axum::Json(ModelReady { name: resident.version.name.to_string(), ready: true }))
}

/// Tensors in, tensors out.
#[utoipa::path(post, path = "/v2/models/{id}/infer", tag = "open inference protocol", params(("id" = String, Path)),
    request_body = Body, responses(
    (status = 200, body = Response), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<axum::response::Response, ApiError> {
    run(&api, &caller.payer, &path_model_ref(&id)?, &headers, &body).await
}

#[utoipa::path(post, path = "/v2/models/{id}/versions/{version}/infer", tag = "open inference protocol",
    params(("id" = String, Path), ("version" = String, Path)), request_body = Body, responses(
    (status = 200, body = Response), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn version_create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, version)): Path<(String, String)>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<axum::response::Response, ApiError> {
    run(&api, &caller.payer, &path_model_ref(&format!("{id}@{version}"))?, &headers, &body).await
}

async fn run(
    api: &Api,
    payer: &Payer,
    model: &ModelRef,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<axum::response::Response, ApiError> {
    let (json, raw) = binary::part(headers, body)?;
    let (request, reply) = body::parse::<Body>(json)?.parse(raw)?;
    let answer = infer::create(&api.service, payer, model, request).await?;
    let (answer, raw) = Response::new(answer, reply);
    if raw.is_empty() {
        return Ok(axum::Json(answer).into_response());
    }
    let mut bytes = serde_json::to_vec(&answer).expect("an answer is plain data: bug");
    let length = bytes.len();
    bytes.extend_from_slice(&raw);
    Ok(with_raw_bytes(length, bytes))
}

/// An answer whose first `length` bytes are JSON. The type says the length too, so that an answer that was
/// kept under an idempotency key can be given again with its header.
pub fn with_raw_bytes(length: usize, bytes: Vec<u8>) -> axum::response::Response {
    let content_type = format!("{OCTETS}{length}");
    let headers = [(header::CONTENT_TYPE.as_str(), content_type), (binary::HEADER, length.to_string())];
    (headers, bytes).into_response()
}

/// The type of such an answer, up to its number.
pub const OCTETS: &str = "application/octet-stream; json-bytes=";
