//! `/v1/organization/projects/{id}/model_shares[/{share}]`

use super::{Pairs, found};
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::shares::{CreateShare, ShareBody, share_of};
use crate::wire::organization::{AskedPage, Deleted, List, paged};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::shares::{self, Share};

/// The project's models that others may ask, and who.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/model_shares", tag = "administration",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = List<ShareBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Pairs(query): Pairs,
) -> Result<Json<List<ShareBody>>, ApiError> {
    let page = AskedPage::only(query)?;
    let owner = found(&api, &by, &id).await?;
    let all = shares::list(&api.service, &owner).await?;
    Ok(Json(paged(all.into_iter().map(ShareBody::from).collect(), &page)))
}

/// Lets others ask a model of the project: every version, also those to come. Sharing with every organisation is for the
/// one that runs the installation.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/model_shares", tag = "administration",
    params(("id" = String, Path)), request_body = CreateShare,
    responses((status = 200, body = ShareBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<CreateShare>,
) -> Result<Json<ShareBody>, ApiError> {
    let owner = found(&api, &by, &id).await?;
    let share = shares::create(&api.service, body.parse(owner)?, &by.act()).await?;
    Ok(Json(share.into()))
}

/// Takes a share back: the next request of the others does not find the model.
#[utoipa::path(delete, path = "/v1/organization/projects/{id}/model_shares/{share}", tag = "administration",
    params(("id" = String, Path), ("share" = String, Path)),
    responses((status = 200, body = Deleted), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, share)): Path<(String, String)>,
) -> Result<Json<Deleted>, ApiError> {
    let owner = found(&api, &by, &id).await?;
    let missing = || ServiceError::NotFound { what: "share", id: share.chars().take(300).collect() };
    let (name, with) = share_of(&share, &owner).ok_or_else(missing)?;
    shares::delete(&api.service, Share { owner, name, with }, &by.act()).await?;
    Ok(Json(Deleted::new("organization.project.model_share.deleted", share)))
}
