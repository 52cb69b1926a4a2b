//! `/v1/organization/projects/{id}/api_keys[/{key}[/rotate]]`

use super::{Pairs, found};
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::keys::{Owner, ProjectKey, RotateKey};
use crate::wire::organization::{Asked, Deleted, List};
use crate::wire::organization_id;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::keys::{self, Key, KeyOwner};
use lyceum_service::tenancy::{people, service_accounts};
use lyceum_types::ids::{KeyId, Project};

/// The project's keys that were not deleted, without their secrets.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/api_keys", tag = "administration",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("owner_project_access" = Option<String>, Query)),
    responses((status = 200, body = List<ProjectKey>), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Pairs(query): Pairs,
) -> Result<Json<List<ProjectKey>>, ApiError> {
    let mut asked = Asked::new(query);
    let access = asked.one("owner_project_access")?;
    let page = asked.page()?;
    asked.done()?;
    let project = found(&api, &by, &id).await?;
    match access.as_deref() {
        None | Some("active" | "any") => {}
        // Whoever leaves a project loses the keys for it, so there are none.
        Some("inactive") => return Ok(Json(List::new(Vec::new(), false))),
        Some(_) => {
            let message = "owner_project_access: must be active, inactive or any";
            return Err(ApiError::field("owner_project_access", "invalid_value", message));
        }
    }
    let listed = keys::page(api.service.store(), &project, page.page()).await.map_err(ServiceError::from)?;
    let mut data = Vec::with_capacity(listed.data.len());
    for key in listed.data {
        data.push(told(&api, &project, key).await?);
    }
    Ok(Json(List::new(data, listed.has_more)))
}

/// A key with whom it belongs to.
async fn told(api: &Api, project: &Project, key: Key) -> Result<ProjectKey, ApiError> {
    let store = api.service.store();
    let owner = match &key.owner {
        KeyOwner::Nobody => Owner::Nobody,
        KeyOwner::User(id) => {
            let member = people::find_member(store, project, id).await.map_err(ServiceError::from)?;
            Owner::User(member.user, member.role)
        }
        KeyOwner::ServiceAccount(id) => {
            let account = service_accounts::find(store, project, id).await.map_err(ServiceError::from)?;
            Owner::ServiceAccount(account)
        }
    };
    Ok(ProjectKey::new(key, owner))
}

async fn key_of(
    api: &Api,
    by: &Administrator,
    (project, key): &(String, String),
) -> Result<(Project, Key), ApiError> {
    let project = found(api, by, project).await?;
    let id: KeyId = organization_id("key", key)?;
    let key = keys::find(api.service.store(), &project, &id).await.map_err(ServiceError::from)?;
    Ok((project, key))
}

#[utoipa::path(get, path = "/v1/organization/projects/{id}/api_keys/{key}", tag = "administration",
    params(("id" = String, Path), ("key" = String, Path)), responses((status = 200, body = ProjectKey),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(path): Path<(String, String)>,
) -> Result<Json<ProjectKey>, ApiError> {
    let (project, key) = key_of(&api, &by, &path).await?;
    Ok(Json(told(&api, &project, key).await?))
}

/// Ends a key at once. A service account's keys go with it, or are rotated.
#[utoipa::path(delete, path = "/v1/organization/projects/{id}/api_keys/{key}", tag = "administration",
    params(("id" = String, Path), ("key" = String, Path)), responses((status = 200, body = Deleted),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(path): Path<(String, String)>,
) -> Result<Json<Deleted>, ApiError> {
    let (project, key) = key_of(&api, &by, &path).await?;
    if matches!(key.owner, KeyOwner::ServiceAccount(_)) {
        let message = "the key belongs to a service account: delete the account, or rotate the key";
        return Err(ApiError::unreadable("service_account_key", message));
    }
    let done = keys::revoke_by(api.service.store(), &project, &key.id, &by.act()).await;
    done.map_err(ServiceError::from)?;
    Ok(Json(Deleted::new("organization.project.api_key.deleted", key.id.to_string())))
}

/// Makes a successor with the same rights, owner and limits, whose secret is shown this once; the key itself lives on for
/// `overlap_seconds`.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/api_keys/{key}/rotate", tag = "administration",
    params(("id" = String, Path), ("key" = String, Path)), request_body = RotateKey,
    responses((status = 200, body = ProjectKey), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn rotate(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(path): Path<(String, String)>,
    Body(body): Body<RotateKey>,
) -> Result<Json<ProjectKey>, ApiError> {
    let overlap = body.parse()?;
    let (project, key) = key_of(&api, &by, &path).await?;
    let made = keys::rotate(api.service.store(), &project, &key.id, overlap, &by.act()).await;
    let (key, secret) = made.map_err(ServiceError::from)?;
    Ok(Json(ProjectKey { value: Some(secret.reveal().to_owned()), ..told(&api, &project, key).await? }))
}
