//! `/v1/organization/[projects/{id}/]data_retention`

use super::{found, project};
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::projects::{DataRetention, UpdateRetention};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::tenancy::projects;

const OF_ORGANIZATION: &str = "organization.data_retention";
const OF_PROJECT: &str = "project.data_retention";

/// What projects keep that say nothing themselves. `modified_abuse_monitoring`: what a request asks to keep is kept, and
/// no log holds content. `zero_data_retention`: nothing of a request or answer is written anywhere.
#[utoipa::path(get, path = "/v1/organization/data_retention", tag = "administration",
    responses((status = 200, body = DataRetention), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
) -> Result<Json<DataRetention>, ApiError> {
    let found = projects::organization(api.service.store(), by.tenant()).await.map_err(ServiceError::from)?;
    Ok(Json(DataRetention { object: OF_ORGANIZATION, kind: found.retention.as_str() }))
}

#[utoipa::path(post, path = "/v1/organization/data_retention", tag = "administration", request_body = UpdateRetention,
    responses((status = 200, body = DataRetention), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn modify(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<UpdateRetention>,
) -> Result<Json<DataRetention>, ApiError> {
    let retention = body.of_organization()?;
    let set =
        projects::set_organization_retention(api.service.store(), by.tenant(), retention, &by.act()).await;
    set.map_err(ServiceError::from)?;
    Ok(Json(DataRetention { object: OF_ORGANIZATION, kind: retention.as_str() }))
}

#[utoipa::path(get, path = "/v1/organization/projects/{id}/data_retention", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = DataRetention), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find_of_project(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<DataRetention>, ApiError> {
    let retention = project(&api, &by, &id).await?.retention;
    Ok(Json(DataRetention { object: OF_PROJECT, kind: retention.as_str() }))
}

/// Says what the project keeps: its own word stands above the organisation's.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/data_retention", tag = "administration",
    params(("id" = String, Path)), request_body = UpdateRetention,
    responses((status = 200, body = DataRetention), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn modify_of_project(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdateRetention>,
) -> Result<Json<DataRetention>, ApiError> {
    let retention = body.of_project()?;
    let at = found(&api, &by, &id).await?;
    let set = projects::set_retention(api.service.store(), &at, retention, &by.act()).await;
    set.map_err(ServiceError::from)?;
    Ok(Json(DataRetention { object: OF_PROJECT, kind: retention.as_str() }))
}
