//! Server-sent events as OpenAI's SDKs read them: `data: JSON` events, comments that keep the connection
//! alive, and `data: [DONE]` as the last event always, also after an error.

use crate::error::{ApiError, ErrorBody};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use lyceum_types::limits;
use serde::Serialize;
use std::borrow::Cow;
use std::convert::Infallible;

/// How an error event begins.
pub const ERROR_PREFIX: &str = "data: {\"error\":{";
/// How the event begins that says of a typed stream that it failed.
pub const FAILED_PREFIX: &str = "event: response.failed\n";

/// `items` as events; an error is the last but `[DONE]`.
pub fn stream<T: Serialize>(items: impl Stream<Item = Result<T, ApiError>> + Send + 'static) -> Response {
    let events = items.map(|item| match item {
        Ok(item) => json(&item),
        Err(error) => json(&ErrorBody { error: error.detail }),
    });
    let done = futures_util::stream::once(async { Event::default().data("[DONE]") });
    response(events.chain(done))
}

/// Events with a name each, the last of which says how it ended.
pub fn typed<T: Serialize>(events: impl Stream<Item = (Cow<'static, str>, T)> + Send + 'static) -> Response {
    response(events.map(|(name, data)| with_data(Event::default().event(name), &data)))
}

fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events.map(Ok::<Event, Infallible>);
    let keep_alive = KeepAlive::new().interval(limits::STREAM_KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

fn json<T: Serialize>(item: &T) -> Event {
    with_data(Event::default(), item)
}

fn with_data<T: Serialize>(event: Event, item: &T) -> Event {
    match serde_json::to_string(item) {
        Ok(text) => event.data(text),
        Err(error) => {
            tracing::error!(%error, "an event could not be written as JSON: bug");
            event.data("{\"error\":{\"message\":\"internal error\",\"type\":\"server_error\"}}")
        }
    }
}
