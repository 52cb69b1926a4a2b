//! How much may be asked: each request that works is counted before it does, and its answer says what is left, as
//! OpenAI's `x-ratelimit-*` headers do.

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use lyceum_service::rates::{self, Left, Meter};

pub async fn count(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Ok(next.run(request).await);
    };
    let standing = api.service.standing(&caller.project).await?;
    let meter = Meter::new(api.service.rates().clone(), caller.project, caller.key, standing);
    let response = match meter.admit() {
        Err(error) => ApiError::from(error).into_response(),
        Ok(()) => rates::scope(meter.clone(), next.run(request)).await,
    };
    let (mut parts, body) = response.into_parts();
    let (requests, tokens) = meter.left();
    for (of, left) in [("requests", requests), ("tokens", tokens)] {
        for (name, value) in headers(of, left) {
            parts.headers.insert(name, value);
        }
    }
    // A stream is under way until its last byte, or until its client leaves.
    if axum::body::HttpBody::size_hint(&body).exact().is_some() {
        return Ok(Response::from_parts(parts, body));
    }
    // What it still does is the request's work: what is explained at its end counts for the same limits.
    let body =
        futures_util::stream::unfold((body.into_data_stream(), meter), |(mut body, meter)| async move {
            let item = rates::scope(meter.clone(), body.next()).await?;
            Some((item, (body, meter)))
        });
    Ok(Response::from_parts(parts, Body::from_stream(body)))
}

fn headers(of: &str, left: Left) -> Vec<(HeaderName, HeaderValue)> {
    let named = [
        ("limit", left.limit.to_string()),
        ("remaining", left.remaining.to_string()),
        ("reset", rates::in_words(left.reset)),
    ];
    named
        .into_iter()
        .filter_map(|(what, value)| {
            let name = HeaderName::from_bytes(format!("x-ratelimit-{what}-{of}").as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(&value).ok()?))
        })
        .collect()
}
