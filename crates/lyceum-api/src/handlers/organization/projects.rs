//! `/v1/organization/projects[/{id}[/archive]]` and the models that a project may ask.

use super::{Pairs, found, project};
use crate::Api;
use crate::auth::Administrator;
use crate::body::{self, Json as Body};
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::projects::{
    CreateProject, EraseProject, Permissions, PermissionsDeleted, ProjectBody, UpdatePermissions,
    UpdateProject,
};
use crate::wire::organization::{Asked, List};
use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use lyceum_service::tenancy::Listed;
use lyceum_service::tenancy::projects::{self, Described, Which};
use lyceum_service::{ServiceError, encryption};

/// The organisation's projects, in the order of their ids; `include_archived=true` lists archived ones too.
#[utoipa::path(get, path = "/v1/organization/projects", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("include_archived" = Option<bool>, Query)),
    responses((status = 200, body = List<ProjectBody>), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<ProjectBody>>, ApiError> {
    let mut asked = Asked::new(query);
    let archived = asked.parsed("include_archived", "true or false")?.unwrap_or(false);
    let page = asked.page()?;
    asked.done()?;
    let which = if archived { Which::All } else { Which::Active };
    let listed = projects::list(api.service.store(), by.tenant(), which, page.page()).await;
    let Listed { data, has_more } = listed.map_err(ServiceError::from)?;
    let data: Result<Vec<ProjectBody>, ApiError> = data.into_iter().map(|found| told(&api, found)).collect();
    Ok(Json(List::of(Listed { data: data?, has_more })))
}

/// Makes a project.
#[utoipa::path(post, path = "/v1/organization/projects", tag = "administration", request_body = CreateProject,
    responses((status = 200, body = ProjectBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<CreateProject>,
) -> Result<Json<ProjectBody>, ApiError> {
    let (name, master) = body.parse()?;
    if let Some(master) = &master {
        encryption::require_master(&api.service, master)?;
    }
    let (store, asked) = (api.service.store(), (by.tenant(), &*name));
    let created = encryption::create_project(store, asked, master.is_some(), &by.act()).await?;
    told(&api, created).map(Json)
}

#[utoipa::path(get, path = "/v1/organization/projects/{id}", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = ProjectBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<ProjectBody>, ApiError> {
    told(&api, project(&api, &by, &id).await?).map(Json)
}

/// Renames a project.
#[utoipa::path(post, path = "/v1/organization/projects/{id}", tag = "administration",
    params(("id" = String, Path)), request_body = UpdateProject,
    responses((status = 200, body = ProjectBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn modify(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdateProject>,
) -> Result<Json<ProjectBody>, ApiError> {
    let name = body.parse()?;
    let at = found(&api, &by, &id).await?;
    if let Some(name) = name {
        projects::rename(api.service.store(), &at, &name, &by.act()).await.map_err(ServiceError::from)?;
    }
    told(&api, project(&api, &by, &id).await?).map(Json)
}

/// Ends a project for good: its keys open nothing any more, and nothing of it can be changed.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/archive", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = ProjectBody), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn archive(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<ProjectBody>, ApiError> {
    let at = found(&api, &by, &id).await?;
    projects::archive(api.service.store(), &at, &by.act()).await.map_err(ServiceError::from)?;
    told(&api, project(&api, &by, &id).await?).map(Json)
}

/// A project with the master key that opens what it keeps.
fn told(api: &Api, found: Described) -> Result<ProjectBody, ApiError> {
    let keyring = api.service.store().keyring();
    let opened_by = keyring.opened_by(&found.project).map_err(ServiceError::from)?;
    Ok(ProjectBody::new(found, opened_by))
}

/// Ends an encrypted project and destroys its key: nothing that it kept can be read again. The answer is a signed receipt;
/// asked again, the same. A body may confirm the project's id; one that confirms another erases nothing.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/erase", tag = "administration",
    params(("id" = String, Path)), request_body = Option<EraseProject>, responses((status = 200, body = Object), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn erase(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<serde_json::Value>, ApiError> {
    let sent = body::read_json(request).await?;
    let asked = if sent.is_empty() { EraseProject::default() } else { body::parse(&sent)? };
    asked.parse(&id)?;
    let at = found(&api, &by, &id).await?;
    let receipt = encryption::erase(api.service.store(), &at, &by.act()).await;
    api.service.unload_project(&at);
    Ok(Json(receipt?))
}

/// Which models the project may ask.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/model_permissions", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = Permissions), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn permissions(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<Permissions>, ApiError> {
    let at = found(&api, &by, &id).await?;
    let standing = projects::standing(api.service.store(), &at).await.map_err(ServiceError::from)?;
    Ok(Json(standing.models.as_ref().into()))
}

/// Says which models the project may ask: these alone (`allow_list`), or all but these (`deny_list`).
#[utoipa::path(post, path = "/v1/organization/projects/{id}/model_permissions", tag = "administration",
    params(("id" = String, Path)), request_body = UpdatePermissions,
    responses((status = 200, body = Permissions), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn set_permissions(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdatePermissions>,
) -> Result<Json<Permissions>, ApiError> {
    let models = body.parse()?;
    let at = found(&api, &by, &id).await?;
    let set = projects::set_models(api.service.store(), &at, Some(&models), &by.act()).await;
    set.map_err(ServiceError::from)?;
    Ok(Json(Some(&models).into()))
}

/// Lets the project ask every model again.
#[utoipa::path(delete, path = "/v1/organization/projects/{id}/model_permissions", tag = "administration",
    params(("id" = String, Path)), responses((status = 200, body = PermissionsDeleted),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete_permissions(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<PermissionsDeleted>, ApiError> {
    let at = found(&api, &by, &id).await?;
    let set = projects::set_models(api.service.store(), &at, None, &by.act()).await;
    set.map_err(ServiceError::from)?;
    Ok(Json(PermissionsDeleted { object: "project.model_permissions.deleted", deleted: true }))
}
