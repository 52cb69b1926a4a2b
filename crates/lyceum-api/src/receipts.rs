//! `X-Privacy-Receipt`: on request, an answer comes with a signed receipt ([`lyceum_service::receipts`]).
//!
//! A whole answer has it in the header of that name, as base64 of JSON. A stream has it as one event before its end:
//! before `data: [DONE]`, or as the last event where there is no such line. Its hash is of the bytes before that event.
//! An answer of the background has it when it has ended, for who asks for the answer with the header; a line of a batch
//! that was asked for with it in its file.

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::observe::RequestId;
use crate::routes::called;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use lyceum_service::receipts::{self, Ended, Hash, Origin, Witness};
use serde_json::{Value, json};
use std::sync::Arc;

pub const HEADER: HeaderName = HeaderName::from_static("x-privacy-receipt");
/// How the event begins.
pub const EVENT: &str = "event: privacy_receipt\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A receipt as the header has it.
pub fn value(receipt: &Value) -> HeaderValue {
    HeaderValue::from_str(&STANDARD.encode(receipt.to_string())).expect("base64 can be a header: bug")
}

/// Whether the request wants one.
pub fn wanted(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(&HEADER).map(HeaderValue::as_bytes) {
        None => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => {
            let message = "X-Privacy-Receipt: must be true, or left out";
            Err(ApiError::field("X-Privacy-Receipt", "invalid_value", message))
        }
    }
}

/// Routes whose answers have none say so.
pub async fn refuse(request: Request, next: Next) -> Result<Response, ApiError> {
    if wanted(request.headers())? {
        let message =
            "X-Privacy-Receipt: receipts are of answers; this route makes an object, which has its own life";
        return Err(ApiError::field("X-Privacy-Receipt", "unsupported_parameter", message));
    }
    Ok(next.run(request).await)
}

/// Adds the receipt where it is wanted.
pub async fn receipt(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = request.extensions().get::<Caller>().cloned();
    let (true, Some(caller)) = (wanted(request.headers())?, caller) else {
        return Ok(next.run(request).await);
    };
    let route = called(&request);
    let id = request.extensions().get::<RequestId>().map_or_else(RequestId::new, RequestId::clone);
    let (parts, body) = request.into_parts();
    let body = crate::body::read(Request::new(body)).await?;
    let origin = Origin { request: id.0, route, asked: Hash::of(&body) };
    let witness = Witness::new(caller.project, origin);
    let mut ended = Ended { status: 0, answered: Hash::default(), replayed: false };
    let work = next.run(Request::from_parts(parts, Body::from(body)));
    let (mut parts, body) = receipts::scope(witness.clone(), work).await.into_parts();
    ended.status = parts.status.as_u16();
    ended.replayed = parts.headers.contains_key("idempotent-replayed");
    let kind = parts.headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        parts.headers.remove(header::CONTENT_LENGTH);
        let inner = body.into_data_stream();
        let told = Told { api, witness, ended, inner: Some(inner), waits: None };
        let body = Body::from_stream(futures_util::stream::unfold(told, Told::next));
        return Ok(Response::from_parts(parts, body));
    }
    let bytes = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::unreadable("incomplete_answer", "the answer ended early"))?;
    ended.answered.update(&bytes);
    let receipt = receipts::issue(&api.service, &witness, ended).await?;
    parts.headers.insert(HEADER, value(&receipt));
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// A stream that is hashed while it passes.
struct Told {
    api: Api,
    witness: Arc<Witness>,
    ended: Ended,
    /// None: it has ended.
    inner: Option<BodyDataStream>,
    /// What comes behind what was given last.
    waits: Option<Bytes>,
}

impl Told {
    async fn next(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        if let Some(bytes) = self.waits.take() {
            return Some((Ok(bytes), self));
        }
        let item = receipts::scope(self.witness.clone(), self.inner.as_mut()?.next()).await;
        match item {
            Some(Ok(bytes)) if bytes.ends_with(DONE) => {
                self.inner = None;
                let before = bytes.slice(..bytes.len() - DONE.len());
                self.ended.answered.update(&before);
                let end = [self.event().await.as_bytes(), DONE].concat();
                if before.is_empty() {
                    return Some((Ok(end.into()), self));
                }
                self.waits = Some(end.into());
                Some((Ok(before), self))
            }
            Some(Ok(bytes)) => {
                self.ended.answered.update(&bytes);
                Some((Ok(bytes), self))
            }
            Some(Err(error)) => {
                self.inner = None;
                Some((Err(error), self))
            }
            None => {
                self.inner = None;
                let end = self.event().await;
                Some((Ok(end.into()), self))
            }
        }
    }

    /// The receipt as an event: of no choices for who reads chunks, and of a type for who reads types.
    async fn event(&mut self) -> String {
        let made = receipts::issue(&self.api.service, &self.witness, self.ended.clone()).await;
        match made {
            Ok(receipt) => format!("{EVENT}data: {}\n\n", event(receipt)),
            Err(error) => {
                let body = ErrorBody { error: ApiError::from(error).detail };
                format!("data: {}\n\n", serde_json::to_string(&body).expect("an error can be written: bug"))
            }
        }
    }
}

fn event(receipt: Value) -> Value {
    json!({"type": "privacy_receipt", "object": "privacy_receipt.event", "choices": [], "privacy_receipt": receipt})
}
