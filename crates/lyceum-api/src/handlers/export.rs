//! `GET /v1/models/{id}/export`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::export::ExportQuery;
use crate::wire::path_model_ref;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use lyceum_service::export;
use lyceum_service::registry::{Act, Actor};
use lyceum_types::clock::Timestamp;

/// A version's files, as `lyceum export` writes them, in a tar archive. `format` is the form of the weights (of an
/// adapter: `peft`, or merged into its base as `safetensors` or `gguf`); without it, the one that they have.
#[utoipa::path(get, path = "/v1/models/{id}/export", tag = "lyceum",
    params(("id" = String, Path), ("format" = Option<String>, Query)), responses(
    (status = 200, body = Vec<u8>, content_type = "application/x-tar"), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 429, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let reference = path_model_ref(&id)?;
    let Query(query) = query.map_err(|error| ApiError::query(&error))?;
    let format = query.parse()?;
    let act = Act { actor: Actor::Key(caller.key.clone()), note: String::new(), now: Timestamp::now() };
    let export = export::create(&api.service, &caller.project, &reference, format, &act).await?;
    // No name of a model or format has a quote in it.
    let plain = export.version.id().replace(['/', '@'], "-");
    let disposition = format!("attachment; filename=\"{plain}.{}.tar\"", export.format);
    let (n_bytes, parts) = export::stream(export).await?;
    let mut response = Body::from_stream(parts).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n_bytes));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
