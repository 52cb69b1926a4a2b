//! Liveness (open) and readiness (with a key: it makes the models work).

use crate::Api;
use crate::error::{ApiError, ErrorBody};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lyceum_service::{ServiceError, health};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`
    pub status: &'static str,
    pub version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`
    pub status: &'static str,
    /// Loaded models, each of which has just made a token or a prediction.
    pub models: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    pub live: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServerReady {
    pub ready: bool,
}

/// Whether the process lives and its device thread has not stopped.
#[utoipa::path(get, path = "/health", tag = "operations", security(()), responses(
    (status = 200, body = Health), (status = 503, body = ErrorBody)))]
pub async fn health(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    live_or_503(&api)?;
    Ok(Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") }))
}

/// The same as `/health`.
#[utoipa::path(get, path = "/health/live", tag = "operations", security(()), responses(
    (status = 200, body = Health), (status = 503, body = ErrorBody)))]
pub async fn live(api: State<Api>) -> Result<Json<Health>, ApiError> {
    health(api).await
}

/// Proves that the store can be written and that each loaded model makes a token or a prediction.
#[utoipa::path(get, path = "/ready", tag = "operations", responses(
    (status = 200, body = Readiness), (status = 401, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn ready(State(api): State<Api>) -> Result<Json<Readiness>, ApiError> {
    let ready = health::ready(&api.service).await?;
    Ok(Json(Readiness { status: "ready", models: ready.models }))
}

#[utoipa::path(get, path = "/v2/health/live", tag = "open inference protocol", responses(
    (status = 200, body = Live), (status = 401, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn v2_live(State(api): State<Api>) -> Result<Json<Live>, ApiError> {
    live_or_503(&api)?;
    Ok(Json(Live { live: true }))
}

#[utoipa::path(get, path = "/v2/health/ready", tag = "open inference protocol", responses(
    (status = 200, body = ServerReady), (status = 401, body = ErrorBody), (status = 503, body = ServerReady)))]
pub async fn v2_ready(State(api): State<Api>) -> Response {
    match health::ready(&api.service).await {
        Ok(_) => Json(ServerReady { ready: true }).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(ServerReady { ready: false })).into_response(),
    }
}

fn live_or_503(api: &Api) -> Result<(), ApiError> {
    if health::is_live(&api.service) {
        return Ok(());
    }
    Err(ServiceError::NotReady { message: "the engine has stopped: start the server again".into() }.into())
}
