//! Who asks: a key in the `Authorization` header, and a scope that the matched route wants.

use crate::Api;
use crate::error::ApiError;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use lyceum_service::{ServiceError, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};

/// The project of the key, for handlers.
#[derive(Clone, Debug)]
pub struct Caller {
    pub project: Project,
}

/// Lets a request pass whose key covers `needed`.
pub async fn require(
    State((api, needed)): State<(Api, KeyScope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let secret = bearer(&request)?;
    let project = keys::authorize(&api.service, secret, needed, Timestamp::now()).await?;
    request.extensions_mut().insert(Caller { project });
    Ok(next.run(request).await)
}

fn bearer(request: &Request) -> Result<&str, ServiceError> {
    let value = request.headers().get(header::AUTHORIZATION).ok_or(ServiceError::KeyMissing)?;
    let text = value.to_str().map_err(|_| ServiceError::KeyRefused { code: "invalid_api_key" })?;
    match text.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => Ok(secret.trim()),
        _ => Err(ServiceError::KeyMissing),
    }
}
