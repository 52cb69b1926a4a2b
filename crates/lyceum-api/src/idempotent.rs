//! `Idempotency-Key` around every POST that creates: the first answer is kept and given again.
//!
//! Answers of status 500 and above, 408 and 429 are not kept: trying again is what they ask for. A stream is
//! kept when it has ended; one that its client left is not.

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::handlers::infer;
use crate::sse;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use lyceum_service::idempotency::{self, Answer, Begun, Held};
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;

pub async fn idempotent(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Ok(next.run(request).await);
    };
    let route = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let body = crate::body::read(Request::new(body)).await?;
    let asked = Asked { caller: &caller, key: &key, route: &route, body: &body };
    let work = next.run(Request::from_parts(parts, Body::from(body.clone())));
    once(api, asked, work).await
}

/// The header's text.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().map_err(|_| {
        ApiError::field("Idempotency-Key", "invalid_value", "Idempotency-Key: must be plain ASCII")
    })?;
    Ok(Some(key.to_owned()))
}

/// A request with a key.
pub struct Asked<'a> {
    pub caller: &'a Caller,
    pub key: &'a str,
    pub route: &'a str,
    /// What the request asks, byte for byte.
    pub body: &'a [u8],
}

/// Does the work for the first request with this key; the same request again gets the first answer.
pub async fn once(
    api: Api,
    asked: Asked<'_>,
    work: impl Future<Output = Response>,
) -> Result<Response, ApiError> {
    let Asked { caller: Caller { project, .. }, key, route, body } = asked;
    let held = match idempotency::begin(&api.service, project, key, route, body, Timestamp::now()).await? {
        Begun::New(held) => held,
        Begun::Answered(answer) => return Ok(replay(answer)),
    };
    let guard = Guard { api, held: Some(held) };
    let response = work.await;
    keep(guard, response).await
}

fn replay(answer: Answer) -> Response {
    if let Some(length) = answer.content_type.strip_prefix(infer::OCTETS).and_then(|n| n.parse().ok()) {
        let mut response = infer::with_raw_bytes(length, answer.body);
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
        return response;
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body).into_response();
    if let Ok(value) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

async fn keep(guard: Guard, response: Response) -> Result<Response, ApiError> {
    let status = response.status();
    let asks_to_try_again = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT
        );
    if asks_to_try_again {
        // Dropping the guard frees the key.
        return Ok(response);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let answer = Answer { status: status.as_u16(), content_type, body: Vec::new() };
    let (parts, body) = response.into_parts();
    if answer.content_type.starts_with("text/event-stream") {
        let kept = Kept { inner: body.into_data_stream(), answer: Some(answer), guard: Some(guard) };
        let body = Body::from_stream(futures_util::stream::unfold(kept, Kept::next));
        return Ok(Response::from_parts(parts, body));
    }
    let bytes = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::unreadable("incomplete_answer", "the answer ended early"))?;
    guard.complete(Answer { body: bytes.to_vec(), ..answer }).await?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// Holds a key: completed once, or released when it is dropped.
struct Guard {
    api: Api,
    held: Option<Held>,
}

impl Guard {
    async fn complete(mut self, answer: Answer) -> Result<(), ApiError> {
        if let Some(held) = self.held.take() {
            idempotency::complete(&self.api.service, held, &answer, Timestamp::now()).await?;
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let service = self.api.service.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = idempotency::release(&service, held).await {
                tracing::warn!(%error, "an idempotency key stays taken until it expires");
            }
        });
    }
}

/// A stream that is kept while it passes. It ends for the client when it is kept, so that the same request
/// sent right after finds it.
struct Kept {
    inner: BodyDataStream,
    /// None once it has failed or grown beyond the bound.
    answer: Option<Answer>,
    guard: Option<Guard>,
}

impl Kept {
    async fn next(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        let Some(item) = self.inner.next().await else {
            // A stream that ended with an error is not an answer to give again.
            let answer = self.answer.take().filter(|answer| {
                !contains(&answer.body, sse::ERROR_PREFIX) && !contains(&answer.body, sse::FAILED_PREFIX)
            });
            if let (Some(answer), Some(guard)) = (answer, self.guard.take())
                && guard.complete(answer).await.is_err()
            {
                tracing::warn!("the answer to an idempotency key could not be kept");
            }
            return None;
        };
        match (&item, &mut self.answer) {
            (Ok(bytes), Some(answer))
                if answer.body.len() + bytes.len() <= limits::IDEMPOTENCY_BODY_BYTES_MAX =>
            {
                answer.body.extend_from_slice(bytes);
            }
            _ => self.answer = None,
        }
        Some((item, self))
    }
}

fn contains(body: &[u8], part: &str) -> bool {
    body.windows(part.len()).any(|window| window == part.as_bytes())
}
