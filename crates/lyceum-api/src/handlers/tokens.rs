//! `POST /tokenize` and `POST /detokenize`

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::tokens::{Detokenization, DetokenizeRequest, Tokenization, TokenizeRequest};
use axum::Extension;
use axum::extract::State;
use lyceum_service::tokens;

/// A text or a conversation as the model's tokens.
#[utoipa::path(post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest, responses(
    (status = 200, body = Tokenization), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn encode(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<TokenizeRequest>,
) -> Result<axum::Json<Tokenization>, ApiError> {
    let (request, with_texts) = body.parse()?;
    let tokens = tokens::encode(&api.service, &caller.project, request).await?;
    Ok(axum::Json(Tokenization::new(tokens, with_texts)))
}

/// Tokens as text.
#[utoipa::path(post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest, responses(
    (status = 200, body = Detokenization), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn decode(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<DetokenizeRequest>,
) -> Result<axum::Json<Detokenization>, ApiError> {
    let (model, ids) = body.parse()?;
    let prompt = tokens::decode(&api.service, &caller.project, &model, ids).await?;
    Ok(axum::Json(Detokenization { prompt }))
}
