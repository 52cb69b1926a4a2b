//! What a client still sends when it has been answered: a refusal needs only the head of a request, and a connection that
//! is closed while bytes arrive is reset, by which the client loses the answer (RFC 9112, section 9.6). So the rest is
//! read and dropped for a while.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use lyceum_types::limits::{UNREAD_BYTES_MAX, UNREAD_TIMEOUT};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Answers as the rest does; a body that was left unread is read to its end, within bounds, while the answer leaves.
pub async fn linger(request: Request, next: Next) -> Response {
    // Who waits to be asked for the body sends none, and reading would ask.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    let left = Left::default();
    let request = request.map(|body| Body::new(Handed { body, left: left.clone() }));
    let response = next.run(request).await;
    if let Some(rest) = left.take() {
        tokio::spawn(async { tokio::time::timeout(UNREAD_TIMEOUT, drop_all(rest)).await });
    }
    response
}

/// Reads and drops, until the end or the bound.
async fn drop_all(mut body: Body) {
    let mut n_read = 0;
    while n_read < UNREAD_BYTES_MAX
        && let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        n_read += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Where a body is put that is dropped before its end.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Body>>>);

impl Left {
    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body in the hands of a handler.
struct Handed {
    body: Body,
    left: Left,
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
