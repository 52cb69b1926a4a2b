//! `POST /v1/pii/analyze`, `/v1/pii/anonymize` and `/v1/pii/deanonymize`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::pii::{
    AnalyzeBody, AnonymizeBody, AnonymizedBody, DeanonymizeBody, Deanonymized, FindingBody,
};
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lyceum_service::guard::pii;

/// Finds personal data and secrets in a text. A list of texts is answered with a list of lists.
#[utoipa::path(post, path = "/v1/pii/analyze", tag = "privacy", request_body = AnalyzeBody, responses(
    (status = 200, body = Vec<FindingBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub async fn analyze(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<AnalyzeBody>,
) -> Result<Response, ApiError> {
    let asked = body.parse()?;
    let found = pii::analyze(&api.service, &caller.payer, asked.texts, asked.looking).await?;
    let of_text = |found: &Vec<_>| -> Vec<FindingBody> {
        found.iter().map(|found| FindingBody::new(found, asked.explains)).collect()
    };
    let mut lists: Vec<Vec<FindingBody>> = found.iter().map(of_text).collect();
    Ok(match asked.is_list {
        true => axum::Json(lists).into_response(),
        false => axum::Json(lists.pop().expect("each text has its findings: bug")).into_response(),
    })
}

/// Puts something else in the place of what was found, or of what the caller says was found.
#[utoipa::path(post, path = "/v1/pii/anonymize", tag = "privacy", request_body = AnonymizeBody, responses(
    (status = 200, body = AnonymizedBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub async fn anonymize(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<AnonymizeBody>,
) -> Result<axum::Json<AnonymizedBody>, ApiError> {
    let request = body.parse()?;
    let made = pii::anonymize(&api.service, &caller.payer, request).await?;
    Ok(axum::Json(made.into()))
}

/// Brings back the values of placeholders, for the project that had them made.
#[utoipa::path(post, path = "/v1/pii/deanonymize", tag = "privacy", request_body = DeanonymizeBody, responses(
    (status = 200, body = Deanonymized), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn deanonymize(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<DeanonymizeBody>,
) -> Result<axum::Json<Deanonymized>, ApiError> {
    let text = pii::deanonymize(&api.service, &caller.project, &body.text, &body.restore).await?;
    Ok(axum::Json(Deanonymized { text }))
}
