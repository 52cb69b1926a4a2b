//! `/v1/organization/admin_api_keys[/{id}[/rotate]]`

use super::Pairs;
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::keys::{AdminKeyBody, CreateAdminKey, RotateKey};
use crate::wire::organization::{Asked, Deleted, List};
use crate::wire::organization_id;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::keys::KeyGrant;
use lyceum_service::tenancy::admin_keys::{self, Order};
use lyceum_types::ids::AdminKeyId;

/// The organisation's keys that were not deleted, without their secrets.
#[utoipa::path(get, path = "/v1/organization/admin_api_keys", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query), ("order" = Option<String>, Query)),
    responses((status = 200, body = List<AdminKeyBody>), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<AdminKeyBody>>, ApiError> {
    let mut asked = Asked::new(query);
    let order = match asked.one("order")?.as_deref() {
        None | Some("asc") => Order::OldestFirst,
        Some("desc") => Order::NewestFirst,
        Some(_) => return Err(ApiError::field("order", "invalid_value", "order: must be asc or desc")),
    };
    let page = asked.page()?;
    asked.done()?;
    let listed = admin_keys::list(api.service.store(), by.tenant(), order, page.page()).await;
    Ok(Json(List::of(listed.map_err(ServiceError::from)?)))
}

/// Makes a key of the organisation for the user whose key asks. Its secret is shown this once.
#[utoipa::path(post, path = "/v1/organization/admin_api_keys", tag = "administration", request_body = CreateAdminKey,
    responses((status = 200, body = AdminKeyBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<CreateAdminKey>,
) -> Result<Json<AdminKeyBody>, ApiError> {
    let (name, lives_for, scopes) = body.parse()?;
    let act = by.act();
    let grant = KeyGrant { name, scopes, expires_at: lives_for.map(|lives_for| act.now.plus(lives_for)) };
    let owner = &by.key().owner.id;
    let made = admin_keys::create(api.service.store(), by.tenant(), owner, grant, &act).await;
    let (key, secret) = made.map_err(ServiceError::from)?;
    Ok(Json(AdminKeyBody { value: Some(secret.reveal().to_owned()), ..key.into() }))
}

#[utoipa::path(get, path = "/v1/organization/admin_api_keys/{id}", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = AdminKeyBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<AdminKeyBody>, ApiError> {
    let id: AdminKeyId = organization_id("admin key", &id)?;
    let found = admin_keys::find(api.service.store(), by.tenant(), &id).await.map_err(ServiceError::from)?;
    Ok(Json(found.into()))
}

/// Ends a key at once; it may be the one that asks.
#[utoipa::path(delete, path = "/v1/organization/admin_api_keys/{id}", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = Deleted), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let id: AdminKeyId = organization_id("admin key", &id)?;
    let done = admin_keys::revoke(api.service.store(), by.tenant(), &id, &by.act()).await;
    done.map_err(ServiceError::from)?;
    Ok(Json(Deleted::new("organization.admin_api_key.deleted", id.to_string())))
}

/// Makes a successor with the same rights, whose secret is shown this once; the key itself lives on for
/// `overlap_seconds`.
#[utoipa::path(post, path = "/v1/organization/admin_api_keys/{id}/rotate", tag = "administration",
    params(("id" = String, Path)), request_body = RotateKey,
    responses((status = 200, body = AdminKeyBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn rotate(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<RotateKey>,
) -> Result<Json<AdminKeyBody>, ApiError> {
    let overlap = body.parse()?;
    let id: AdminKeyId = organization_id("admin key", &id)?;
    let made = admin_keys::rotate(api.service.store(), by.tenant(), &id, overlap, &by.act()).await;
    let (key, secret) = made.map_err(ServiceError::from)?;
    Ok(Json(AdminKeyBody { value: Some(secret.reveal().to_owned()), ..key.into() }))
}
