//! `POST|GET /v1/files`, `GET|DELETE /v1/files/{id}`, `GET /v1/files/{id}/content`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::idempotent;
use crate::wire::files::{CreateFile, FileBody, FileDeleted, FileList, ListQuery};
use crate::wire::within;
use axum::body::Body;
use axum::extract::multipart::{Field, MultipartRejection};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Multipart, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lyceum_service::files::{self, Described, Received, Receiving};
use lyceum_service::{ServiceError, retention};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use serde_json::json;
use std::time::Duration;

/// The longest value of a form's field that is no file.
const FIELD_BYTES_MAX: usize = 1024;

/// Keeps a file, up to 512 MiB, for whatever reads `file_…`. One for `batch`, `fine-tune` (chat examples) or `vision` is
/// judged before it is kept, with every error of it told. The same form under the same
/// `Idempotency-Key` (the bytes by their sha256) is one file.
#[utoipa::path(post, path = "/v1/files", tag = "openai",
    request_body(content = CreateFile, content_type = "multipart/form-data"), responses(
    (status = 200, body = FileBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 408, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 501, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|e| *e != "identity") {
        return Err(ApiError::compressed(&String::from_utf8_lossy(encoding.as_bytes())));
    }
    retention::require_kept(&api.service, &caller.project, "file", "its bytes").await?;
    let key = idempotent::key(&headers)?;
    let form = form.map_err(|_| ApiError::not_a_form())?;
    let Ok(_place) = api.uploads.clone().try_acquire_owned() else {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(1) }.into());
    };
    let read = tokio::time::timeout(limits::FILE_TIMEOUT, read(&api, &caller.project, form));
    let (described, received) = read.await.map_err(|_| ApiError::too_slow())??;
    files::require_scope(&api.service, (&caller.project, &caller.key), described.purpose).await?;
    let Some(key) = key else { return Ok(keep(&api, &caller, described, received).await) };
    // A form has another boundary each time that it is sent; what it says is the same.
    let asked = json!({
        "name": described.name, "purpose": described.purpose,
        "expires_after": described.expires_after.map(|after| after.as_secs()), "sha256": received.sha256(),
    })
    .to_string();
    let asked = idempotent::Asked { caller: &caller, key: &key, route: "/v1/files", body: asked.as_bytes() };
    idempotent::once(api.clone(), asked, keep(&api, &caller, described, received)).await
}

async fn keep(api: &Api, caller: &Caller, described: Described, received: Received) -> Response {
    match files::create(&api.service, &caller.project, described, received).await {
        Ok(file) => Json(FileBody::from(file)).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// The form's fields, in any order; the file streams to the disk.
async fn read(api: &Api, project: &Project, mut form: Multipart) -> Result<(Described, Received), ApiError> {
    let (mut file, mut purpose, mut anchor, mut seconds) = (None, None, None, None);
    while let Some(field) = in_time(form.next_field()).await? {
        let name = field.name().unwrap_or_default().to_owned();
        let place = match name.as_str() {
            "file" => {
                if file.replace(receive(api, project, field).await?).is_some() {
                    return Err(twice(&name));
                }
                continue;
            }
            "purpose" => &mut purpose,
            "expires_after[anchor]" => &mut anchor,
            "expires_after[seconds]" => &mut seconds,
            _ => {
                let name: String = name.chars().take(64).collect();
                let message = format!("unknown field `{name}`, expected file, purpose or expires_after");
                return Err(ApiError::field(name, "unknown_parameter", message));
            }
        };
        if place.replace(text(&name, field).await?).is_some() {
            return Err(twice(&name));
        }
    }
    let missing = |name: &str| {
        ApiError::field(name, "missing_required_parameter", format!("{name}: the form has no such field"))
    };
    let purpose = files::purpose(&purpose.ok_or_else(|| missing("purpose"))?)?;
    let expires_after = expires_after(anchor, seconds)?;
    let (name, received) = file.ok_or_else(|| missing("file"))?;
    Ok((Described { name, purpose, expires_after }, received))
}

/// A file's name and its bytes.
async fn receive(api: &Api, project: &Project, field: Field<'_>) -> Result<(String, Received), ApiError> {
    let wrong = |message: &str| ApiError::field("file", "invalid_value", format!("file: {message}"));
    let name = field.file_name().unwrap_or_default().to_owned();
    if name.trim().is_empty() {
        return Err(wrong("has no file name, which says the format of its bytes"));
    }
    if name.chars().count() > limits::FILE_NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(wrong("its name is too long or has control characters"));
    }
    Ok((name, bytes_of(api, project, field, ("file", limits::FILE_BYTES_MAX)).await?))
}

/// The bytes of a field, on the disk.
pub(super) async fn bytes_of(
    api: &Api,
    project: &Project,
    mut field: Field<'_>,
    (param, bytes_max): (&str, u64),
) -> Result<Received, ApiError> {
    let mut receiving = Receiving::begin(&api.service, project, bytes_max);
    let mut is_empty = true;
    while let Some(part) = in_time(field.chunk()).await? {
        is_empty &= part.is_empty();
        receiving.write(&part).await?;
    }
    if is_empty {
        return Err(ApiError::field(param, "invalid_value", format!("{param}: is empty")));
    }
    Ok(receiving.end().await?)
}

/// A short text.
async fn text(name: &str, mut field: Field<'_>) -> Result<String, ApiError> {
    let wrong = || ApiError::field(name, "invalid_value", format!("{name}: is no short text"));
    let mut bytes = Vec::new();
    while let Some(part) = in_time(field.chunk()).await? {
        bytes.extend_from_slice(&part);
        if bytes.len() > FIELD_BYTES_MAX {
            return Err(wrong());
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

pub(super) async fn in_time<T>(
    next: impl Future<Output = Result<Option<T>, axum::extract::multipart::MultipartError>>,
) -> Result<Option<T>, ApiError> {
    match tokio::time::timeout(limits::BODY_TIMEOUT, next).await {
        Err(_) => Err(ApiError::too_slow()),
        Ok(Ok(next)) => Ok(next),
        Ok(Err(_)) => Err(ApiError::unreadable("invalid_form", "the form is damaged or ended early")),
    }
}

fn expires_after(anchor: Option<String>, seconds: Option<String>) -> Result<Option<Duration>, ApiError> {
    let missing = |name: &str| {
        ApiError::field(name, "missing_required_parameter", format!("{name}: expires_after has both"))
    };
    let (anchor, seconds) = match (anchor, seconds) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(missing("expires_after.anchor")),
        (Some(_), None) => return Err(missing("expires_after.seconds")),
        (Some(anchor), Some(seconds)) => (anchor, seconds),
    };
    if anchor != "created_at" {
        let message = "expires_after.anchor: must be created_at";
        return Err(ApiError::field("expires_after.anchor", "invalid_value", message));
    }
    let param = "expires_after.seconds";
    let seconds = seconds
        .parse()
        .map_err(|_| ApiError::field(param, "invalid_type", format!("{param}: must be a whole number")))?;
    let (min, max) = limits::FILE_EXPIRES_SECONDS;
    Ok(Some(Duration::from_secs(within(param, seconds, min, max)?)))
}

pub(super) fn twice(name: &str) -> ApiError {
    ApiError::field(name, "duplicate_parameter", format!("{name}: stands twice in the form"))
}

/// A page of files, newest first unless `order=asc`.
#[utoipa::path(get, path = "/v1/files", tag = "openai", params(
    ("purpose" = Option<String>, Query), ("after" = Option<String>, Query),
    ("limit" = Option<u32>, Query), ("order" = Option<String>, Query)), responses(
    (status = 200, body = FileList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<FileList>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::query(&error))?;
    Ok(Json(FileList::new(files::list(&api.service, &caller.project, &query.parse()?).await?)))
}

/// One file.
#[utoipa::path(get, path = "/v1/files/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FileBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileBody>, ApiError> {
    Ok(Json(files::find(&api.service, &caller.project, &id).await?.into()))
}

/// The bytes of a file.
#[utoipa::path(get, path = "/v1/files/{id}/content", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn content(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let found = files::have(&api.service, &caller.project, &id).await?;
    let parts = files::contents(&api.service, &caller.project, &found).await?;
    let mut response = Body::from_stream(parts).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(found.bytes));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Removes a file and its bytes, which no job that has not ended reads.
#[utoipa::path(delete, path = "/v1/files/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FileDeleted), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileDeleted>, ApiError> {
    let id = files::delete(&api.service, &caller.project, &id).await?.to_string();
    Ok(Json(FileDeleted { id, object: "file", deleted: true }))
}
