//! `POST /v1/uploads`, and `/parts`, `/complete` and `/cancel` of one

use super::files::{bytes_of, in_time, twice};
use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::files::FileBody;
use crate::wire::uploads::{Body, CompleteBody, PartBody, PartForm, UploadBody};
use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, Path, State};
use axum::{Extension, Json};
use lyceum_service::{ServiceError, files, uploads};
use lyceum_types::limits;
use std::time::Duration;

/// Begins a file that comes in parts. What is not completed within an hour is gone (of the purpose `model`: a day; such a
/// file asks for a key that may change models).
#[utoipa::path(post, path = "/v1/uploads", tag = "openai", request_body = Body, responses(
    (status = 200, body = UploadBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<Body>,
) -> Result<Json<UploadBody>, ApiError> {
    let new = body.parse()?;
    files::require_scope(&api.service, (&caller.project, &caller.key), new.purpose).await?;
    Ok(Json(UploadBody::new(uploads::create(&api.service, &caller.project, new).await?, None)))
}

/// Adds a part of at most 64 MiB; parts may come in any order and beside each other.
#[utoipa::path(post, path = "/v1/uploads/{id}/parts", tag = "openai", params(("id" = String, Path)),
    request_body(content = PartForm, content_type = "multipart/form-data"), responses(
    (status = 200, body = PartBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn add_part(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<PartBody>, ApiError> {
    uploads::require_pending(&api.service, &caller.project, &id).await?;
    let mut form = form.map_err(|_| ApiError::not_a_form())?;
    let Ok(_place) = api.uploads.clone().try_acquire_owned() else {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(1) }.into());
    };
    let mut data = None;
    while let Some(field) = in_time(form.next_field()).await? {
        match field.name() {
            Some("data") => {
                let received =
                    bytes_of(&api, &caller.project, field, ("data", limits::UPLOAD_PART_BYTES_MAX)).await?;
                if data.replace(received).is_some() {
                    return Err(twice("data"));
                }
            }
            name => {
                let name: String = name.unwrap_or_default().chars().take(64).collect();
                let message = format!("unknown field `{name}`, expected data");
                return Err(ApiError::field(name, "unknown_parameter", message));
            }
        }
    }
    let missing =
        || ApiError::field("data", "missing_required_parameter", "data: the form has no such field");
    let received = data.ok_or_else(missing)?;
    Ok(Json(uploads::add_part(&api.service, &caller.project, &id, received).await?.into()))
}

/// Makes the parts one file of `/v1/files`, which is judged as one of its purpose.
#[utoipa::path(post, path = "/v1/uploads/{id}/complete", tag = "openai", params(("id" = String, Path)),
    request_body = CompleteBody, responses(
    (status = 200, body = UploadBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn complete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body::Json(CompleteBody { part_ids, md5 }): body::Json<CompleteBody>,
) -> Result<Json<UploadBody>, ApiError> {
    let (upload, file) = uploads::complete(&api.service, &caller.project, &id, (&part_ids, md5)).await?;
    Ok(Json(UploadBody::new(upload, Some(FileBody::from(file)))))
}

/// Ends an upload without a file.
#[utoipa::path(post, path = "/v1/uploads/{id}/cancel", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = UploadBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<UploadBody>, ApiError> {
    Ok(Json(UploadBody::new(uploads::cancel(&api.service, &caller.project, &id).await?, None)))
}
