//! Who asks: a key in the `Authorization` header, and a scope that the matched route wants.

use crate::Api;
use crate::error::ApiError;
use crate::observe::RequestId;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use lyceum_service::{Payer, ServiceError, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};

/// Whose the key is, for handlers.
#[derive(Clone, Debug)]
pub struct Caller {
    pub project: Project,
    /// Who pays for what this request makes a model do.
    pub payer: Payer,
}

/// Lets a request pass whose key covers `needed`.
pub async fn require(
    State((api, needed)): State<(Api, KeyScope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let secret = bearer(&request)?;
    let key = keys::authorize(&api.service, secret, needed, Timestamp::now()).await?;
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    let id = request.extensions().get::<RequestId>().map_or_else(RequestId::new, RequestId::clone);
    let payer = Payer::of_request(key.project.clone(), key.id, route, id.0);
    request.extensions_mut().insert(Caller { project: key.project, payer });
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
