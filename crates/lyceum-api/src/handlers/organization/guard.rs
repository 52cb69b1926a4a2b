//! `/v1/organization/projects/{id}/guard_policy`

use super::found;
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::guard::{GuardPolicy, UpdateGuardPolicy};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::{ServiceError, guard, tenancy};

/// What the project's texts are looked through for, on their way in and on their way out.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/guard_policy", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = GuardPolicy), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<GuardPolicy>, ApiError> {
    let at = found(&api, &by, &id).await?;
    let policy = tenancy::guards::policy(api.service.store(), &at).await.map_err(ServiceError::from)?;
    Ok(Json((&policy).into()))
}

#[utoipa::path(post, path = "/v1/organization/projects/{id}/guard_policy", tag = "administration",
    params(("id" = String, Path)), request_body = UpdateGuardPolicy,
    responses((status = 200, body = GuardPolicy), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn modify(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdateGuardPolicy>,
) -> Result<Json<GuardPolicy>, ApiError> {
    let at = found(&api, &by, &id).await?;
    let was = tenancy::guards::policy(api.service.store(), &at).await.map_err(ServiceError::from)?;
    let policy = body.parse(&was)?;
    guard::set_policy(&api.service, &at, &policy, &by.act()).await?;
    Ok(Json((&policy).into()))
}
