//! Who asks: a key in the `Authorization` header, and a scope that the matched route wants.

use crate::Api;
use crate::error::ApiError;
use crate::observe::RequestId;
use crate::routes::called;
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use lyceum_service::tenancy::admin_keys::AdminKey;
use lyceum_service::tenancy::{Act, Actor};
use lyceum_service::{Payer, ServiceError, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, KeyScope, Project};
use std::sync::Arc;

/// The project of the key, for handlers, and which key it is.
#[derive(Clone, Debug)]
pub struct Caller {
    pub project: Project,
    pub key: KeyId,
    /// Who pays for what this request makes a model do.
    pub payer: Payer,
}

impl Caller {
    /// What is done with the key now.
    pub fn act(&self) -> Act {
        Act { actor: Actor::ProjectKey(self.key.clone()), now: Timestamp::now() }
    }
}

/// The organisation of the key, for handlers.
#[derive(Clone, Debug)]
pub struct Administrator(Arc<AdminKey>);

impl Administrator {
    pub fn tenant(&self) -> &str {
        &self.0.tenant
    }

    pub fn key(&self) -> &AdminKey {
        &self.0
    }

    /// A project of the organisation, which need not be there.
    pub fn project(&self, id: &str) -> Project {
        Project { tenant: self.0.tenant.clone(), id: id.to_owned() }
    }

    /// What is done with the key now.
    pub fn act(&self) -> Act {
        self.0.act(Timestamp::now())
    }
}

/// Lets a request pass whose key covers `needed`.
pub async fn require(
    State((api, needed)): State<(Api, KeyScope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let secret = bearer(&request)?;
    let key = keys::authorize(&api.service, secret, needed, Timestamp::now()).await?;
    let route = called(&request);
    let id = request.extensions().get::<RequestId>().map_or_else(RequestId::new, RequestId::clone);
    let payer = Payer::of_request(key.project.clone(), key.id.clone(), &route, id.0);
    request.extensions_mut().insert(Caller { project: key.project.clone(), key: key.id.clone(), payer });
    Ok(next.run(request).await)
}

/// Lets a request pass whose key belongs to an organisation: one that reads with any, one that changes with one that
/// may. What is changed counts for the next request of this process.
pub async fn require_administrator(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let needed = if reads { KeyScope::OrganizationRead } else { KeyScope::OrganizationWrite };
    let secret = bearer(&request)?;
    let key = keys::authorize_organization(&api.service, secret, needed, Timestamp::now()).await?;
    request.extensions_mut().insert(Administrator(key));
    let changed = Changed { api: &api, reads };
    let response = next.run(request).await;
    drop(changed);
    Ok(response)
}

/// Makes the process read standings again when it is dropped: also where the client left before the answer.
struct Changed<'a> {
    api: &'a Api,
    reads: bool,
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if !self.reads {
            self.api.service.standings_changed();
        }
    }
}

fn bearer(request: &Request) -> Result<&str, ServiceError> {
    let value = request.headers().get(header::AUTHORIZATION).ok_or(ServiceError::KeyMissing)?;
    let text = value.to_str().map_err(|_| ServiceError::KeyRefused { code: "invalid_api_key" })?;
    match text.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => Ok(secret.trim()),
        _ => Err(ServiceError::KeyMissing),
    }
}
