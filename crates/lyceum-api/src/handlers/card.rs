//! `GET /v1/models/{id}/card` and `POST /v1/models/{id}/card/verify`

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::card::{Form, VerificationBody, VerifyBody};
use crate::wire::documents::CardDocument;
use crate::wire::path_model_ref;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lyceum_service::card;

/// What is known of a version, how it is known, and what is not: signed. As JSON, Markdown or a page, by `Accept`.
#[utoipa::path(get, path = "/v1/models/{id}/card", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = CardDocument),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::of_accept(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()))?;
    let signed = card::create(&api.service, &caller.project, &path_model_ref(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, form.media_type()), (header::VARY, "Accept")], form.write(&signed))
        .into_response())
}

/// Checks a card (the one that was issued last, where none is sent) against the version's files, and computes again
/// what is cheap: hashes, probes, calibration, validation accuracy, ε.
#[utoipa::path(post, path = "/v1/models/{id}/card/verify", tag = "lyceum", params(("id" = String, Path)),
    request_body = VerifyBody, responses(
    (status = 200, body = VerificationBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn verify(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<VerificationBody>, ApiError> {
    let sent = body::read_json(request).await?;
    // Every field may be left out, and so may all of them together.
    let card = if sent.is_empty() { None } else { body::parse::<VerifyBody>(&sent)?.card };
    let found = card::verify(&api.service, &caller.project, &path_model_ref(&id)?, card).await?;
    Ok(Json(found.into()))
}
