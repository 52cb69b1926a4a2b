//! A bounded number of requests under way: the next one is told at the door to come again.

use crate::Api;
use crate::error::ApiError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use lyceum_service::ServiceError;
use std::time::Duration;

pub async fn take(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let Ok(place) = api.places.clone().try_acquire_owned() else {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(1) }.into());
    };
    let response = next.run(request).await;
    // A stream keeps its place until its last byte, or until its client leaves.
    let (parts, body) = response.into_parts();
    if axum::body::HttpBody::size_hint(&body).exact().is_some() {
        return Ok(Response::from_parts(parts, body));
    }
    let body = body.into_data_stream().map(move |item| {
        let _held = &place;
        item
    });
    Ok(Response::from_parts(parts, Body::from_stream(body)))
}
