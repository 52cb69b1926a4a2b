//! What a line of a batch asks: the handler of its route, with the same limits, without a socket.

use crate::Api;
use crate::auth::Caller;
use crate::body::{self, Json};
use crate::error::ApiError;
use crate::handlers::{chat, completions, embeddings, responses};
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lyceum_service::batches::{Answered, Answers, Asking, Endpoint};
use lyceum_service::rates::{self, Meter};
use lyceum_service::{ServiceError, keys, retention};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// The routes, for batches.
pub struct Routes(pub Api);

impl Answers for Routes {
    fn answer(&self, asking: Asking) -> BoxFuture<'static, Answered> {
        let api = self.0.clone();
        Box::pin(async move {
            let asked = AssertUnwindSafe(ask(api, asking)).catch_unwind().await;
            // The panic has told its own words where it happened.
            match asked.unwrap_or_else(|_| Err(ApiError::panicked())) {
                Ok(response) => whole(response, None).await,
                Err(error) => {
                    let retry_after = error.retry_after;
                    whole(error.into_response(), retry_after).await
                }
            }
        })
    }
}

/// Whatever a request would have to pass is passed again by each line: what changes while a batch is under way counts.
async fn ask(api: Api, asking: Asking) -> Result<Response, ApiError> {
    let Asking { project, key, payer, endpoint, body } = asking;
    let standing = api.service.standing(&project).await?;
    if standing.decided.archived_at.is_some() {
        return Err(ServiceError::ProjectArchived { id: project.id }.into());
    }
    match keys::find(api.service.store(), &project, &key).await.map_err(ServiceError::from) {
        // A key that expires was good when it asked; one that was revoked opens nothing any more.
        Ok(_) => {}
        Err(ServiceError::NotFound { .. }) => {
            return Err(ServiceError::KeyRefused { code: "revoked_api_key" }.into());
        }
        Err(error) => return Err(error.into()),
    }
    retention::require_kept(&api.service, &project, "input_file_id", "what is asked and what is answered")
        .await?;
    let meter = Meter::new(api.service.rates().clone(), project.clone(), key.clone(), standing);
    meter.admit()?;
    let caller = Caller { project, key, payer };
    rates::scope(meter, call(api, caller, endpoint, &body)).await
}

async fn call(api: Api, caller: Caller, endpoint: Endpoint, body: &[u8]) -> Result<Response, ApiError> {
    let (api, caller) = (State(api), Extension(caller));
    match endpoint {
        Endpoint::ChatCompletions => chat::create(api, caller, Json(body::parse(body)?)).await,
        Endpoint::Completions => completions::create(api, caller, Json(body::parse(body)?)).await,
        Endpoint::Responses => responses::create(api, caller, Json(body::parse(body)?)).await,
        Endpoint::Embeddings => {
            let made = embeddings::create(api, caller, Json(body::parse(body)?)).await?;
            Ok(made.into_response())
        }
    }
}

async fn whole(response: Response, retry_after: Option<Duration>) -> Answered {
    let status = response.status().as_u16();
    let read = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    match read.ok().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()) {
        Some(body) => Answered { status, body, retry_after },
        None => {
            let error = Box::pin(whole(ApiError::panicked().into_response(), None));
            error.await
        }
    }
}
