//! `/v1/organization/users[/{id}]`, `/v1/organization/projects/{id}/users[/{user}]` and
//! `/v1/organization/projects/{id}/service_accounts[/{account}[/api_keys]]`

use super::{Pairs, found};
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::keys::AccountKey;
use crate::wire::organization::people::{
    AccountBody, AccountCreated, CreateAccount, CreateAccountKey, CreateMember, CreateUser, MemberBody,
    UpdateAccount, UpdateMember, UpdateUser, UserBody, Whom,
};
use crate::wire::organization::{Asked, AskedPage, Deleted, List};
use crate::wire::organization_id;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::keys::{self, KeyGrant, KeyOwner};
use lyceum_service::tenancy::{Page, people, service_accounts};
use lyceum_types::ids::{Project, ServiceAccountId, UserId};

/// The organisation's users, in the order of their ids; with `emails[]`, those who have one of them.
#[utoipa::path(get, path = "/v1/organization/users", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query),
        ("emails[]" = Option<Vec<String>>, Query)),
    responses((status = 200, body = List<UserBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn list_users(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<UserBody>>, ApiError> {
    let mut asked = Asked::new(query);
    let emails = asked.many("emails");
    let page = asked.page()?;
    asked.done()?;
    let listed = people::users(api.service.store(), by.tenant(), &emails, page.page()).await;
    Ok(Json(List::of(listed.map_err(ServiceError::from)?)))
}

/// Adds a user. Nothing is sent to anybody: a key for the user is made with the user's own role.
#[utoipa::path(post, path = "/v1/organization/users", tag = "administration", request_body = CreateUser,
    responses((status = 200, body = UserBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn create_user(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<CreateUser>,
) -> Result<Json<UserBody>, ApiError> {
    let made = people::add_user(api.service.store(), by.tenant(), body.parse()?, &by.act()).await;
    Ok(Json(made.map_err(ServiceError::from)?.into()))
}

async fn user(api: &Api, by: &Administrator, id: &UserId) -> Result<Json<UserBody>, ApiError> {
    let found = people::find_user(api.service.store(), by.tenant(), id).await;
    Ok(Json(found.map_err(ServiceError::from)?.into()))
}

#[utoipa::path(get, path = "/v1/organization/users/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 200, body = UserBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find_user(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<UserBody>, ApiError> {
    user(&api, &by, &organization_id("user", &id)?).await
}

/// Gives a user another role in the organisation.
#[utoipa::path(post, path = "/v1/organization/users/{id}", tag = "administration", params(("id" = String, Path)),
    request_body = UpdateUser, responses((status = 200, body = UserBody), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 501, body = ErrorBody)))]
pub async fn modify_user(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdateUser>,
) -> Result<Json<UserBody>, ApiError> {
    let role = body.parse()?;
    let id = organization_id("user", &id)?;
    if let Some(role) = role {
        let done = people::set_user_role(api.service.store(), by.tenant(), &id, role, &by.act()).await;
        done.map_err(ServiceError::from)?;
    }
    user(&api, &by, &id).await
}

/// Removes a user from the organisation and every project; all keys of the user end.
#[utoipa::path(delete, path = "/v1/organization/users/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 200, body = Deleted), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn delete_user(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let id = organization_id("user", &id)?;
    let done = people::delete_user(api.service.store(), by.tenant(), &id, &by.act()).await;
    done.map_err(ServiceError::from)?;
    Ok(Json(Deleted::new("organization.user.deleted", id.to_string())))
}

/// The users of a project, in the order of their ids.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/users", tag = "administration",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = List<MemberBody>), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list_members(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Pairs(query): Pairs,
) -> Result<Json<List<MemberBody>>, ApiError> {
    let page = AskedPage::only(query)?;
    let project = found(&api, &by, &id).await?;
    let listed = people::members(api.service.store(), &project, page.page()).await;
    Ok(Json(List::of(listed.map_err(ServiceError::from)?)))
}

/// Takes a user of the organisation into a project.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/users", tag = "administration",
    params(("id" = String, Path)), request_body = CreateMember,
    responses((status = 200, body = MemberBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create_member(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<CreateMember>,
) -> Result<Json<MemberBody>, ApiError> {
    let (whom, role) = body.parse()?;
    let project = found(&api, &by, &id).await?;
    let store = api.service.store();
    let user = match whom {
        Whom::Id(id) => id,
        Whom::Email(email) => {
            let emails = [email];
            let with_it = people::users(store, by.tenant(), &emails, Page::WHOLE).await;
            let found = with_it.map_err(ServiceError::from)?.data.into_iter().next();
            let [email] = emails;
            found.ok_or(ServiceError::NotFound { what: "user", id: email })?.id
        }
    };
    people::set_member(store, &project, &user, role, &by.act()).await.map_err(ServiceError::from)?;
    member(&api, &project, &user).await
}

async fn member(api: &Api, project: &Project, user: &UserId) -> Result<Json<MemberBody>, ApiError> {
    let found = people::find_member(api.service.store(), project, user).await;
    Ok(Json(found.map_err(ServiceError::from)?.into()))
}

#[utoipa::path(get, path = "/v1/organization/projects/{id}/users/{user}", tag = "administration",
    params(("id" = String, Path), ("user" = String, Path)), responses((status = 200, body = MemberBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find_member(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, user)): Path<(String, String)>,
) -> Result<Json<MemberBody>, ApiError> {
    let project = found(&api, &by, &id).await?;
    member(&api, &project, &organization_id("user", &user)?).await
}

/// Gives a user another role in a project.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/users/{user}", tag = "administration",
    params(("id" = String, Path), ("user" = String, Path)), request_body = UpdateMember,
    responses((status = 200, body = MemberBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn modify_member(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, user)): Path<(String, String)>,
    Body(body): Body<UpdateMember>,
) -> Result<Json<MemberBody>, ApiError> {
    let role = body.parse()?;
    let project = found(&api, &by, &id).await?;
    let user = organization_id("user", &user)?;
    // Whoever is not there is not taken in.
    let before = member(&api, &project, &user).await?;
    let Some(role) = role else { return Ok(before) };
    let done = people::set_member(api.service.store(), &project, &user, role, &by.act()).await;
    done.map_err(ServiceError::from)?;
    member(&api, &project, &user).await
}

/// Takes a user out of a project; the user's keys for it end.
#[utoipa::path(delete, path = "/v1/organization/projects/{id}/users/{user}", tag = "administration",
    params(("id" = String, Path), ("user" = String, Path)), responses((status = 200, body = Deleted),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete_member(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, user)): Path<(String, String)>,
) -> Result<Json<Deleted>, ApiError> {
    let project = found(&api, &by, &id).await?;
    let user: UserId = organization_id("user", &user)?;
    let done = people::remove_member(api.service.store(), &project, &user, &by.act()).await;
    done.map_err(ServiceError::from)?;
    Ok(Json(Deleted::new("organization.project.user.deleted", user.to_string())))
}

/// The service accounts of a project, in the order of their ids.
#[utoipa::path(get, path = "/v1/organization/projects/{id}/service_accounts", tag = "administration",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = List<AccountBody>), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list_accounts(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Pairs(query): Pairs,
) -> Result<Json<List<AccountBody>>, ApiError> {
    let page = AskedPage::only(query)?;
    let project = found(&api, &by, &id).await?;
    let listed = service_accounts::list(api.service.store(), &project, page.page()).await;
    Ok(Json(List::of(listed.map_err(ServiceError::from)?)))
}

/// Makes a service account, and a key for it, whose secret is shown this once.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/service_accounts", tag = "administration",
    params(("id" = String, Path)), request_body = CreateAccount,
    responses((status = 200, body = AccountCreated), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create_account(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<CreateAccount>,
) -> Result<Json<AccountCreated>, ApiError> {
    let (name, first_key) = body.parse();
    let project = found(&api, &by, &id).await?;
    let made = service_accounts::create(api.service.store(), &project, &name, first_key, &by.act()).await;
    let (account, key) = made.map_err(ServiceError::from)?;
    Ok(Json(AccountCreated { account: account.into(), api_key: key.map(Into::into) }))
}

async fn account(api: &Api, project: &Project, id: &ServiceAccountId) -> Result<Json<AccountBody>, ApiError> {
    let found = service_accounts::find(api.service.store(), project, id).await;
    Ok(Json(found.map_err(ServiceError::from)?.into()))
}

#[utoipa::path(get, path = "/v1/organization/projects/{id}/service_accounts/{account}", tag = "administration",
    params(("id" = String, Path), ("account" = String, Path)), responses((status = 200, body = AccountBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find_account(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<AccountBody>, ApiError> {
    let project = found(&api, &by, &id).await?;
    account(&api, &project, &organization_id("service account", &name)?).await
}

/// Renames a service account or gives it another role.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/service_accounts/{account}", tag = "administration",
    params(("id" = String, Path), ("account" = String, Path)), request_body = UpdateAccount,
    responses((status = 200, body = AccountBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn modify_account(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, name)): Path<(String, String)>,
    Body(body): Body<UpdateAccount>,
) -> Result<Json<AccountBody>, ApiError> {
    let (new_name, role) = body.parse()?;
    let project = found(&api, &by, &id).await?;
    let id = organization_id("service account", &name)?;
    let changes = (new_name.as_deref(), role);
    let done = service_accounts::update(api.service.store(), &project, &id, changes, &by.act()).await;
    done.map_err(ServiceError::from)?;
    account(&api, &project, &id).await
}

/// Removes a service account; its keys end.
#[utoipa::path(delete, path = "/v1/organization/projects/{id}/service_accounts/{account}", tag = "administration",
    params(("id" = String, Path), ("account" = String, Path)), responses((status = 200, body = Deleted),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete_account(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<Deleted>, ApiError> {
    let project = found(&api, &by, &id).await?;
    let id: ServiceAccountId = organization_id("service account", &name)?;
    let done = service_accounts::delete(api.service.store(), &project, &id, &by.act()).await;
    done.map_err(ServiceError::from)?;
    Ok(Json(Deleted::new("organization.project.service_account.deleted", id.to_string())))
}

/// Makes a further key for a service account. Its secret is shown this once.
#[utoipa::path(post, path = "/v1/organization/projects/{id}/service_accounts/{account}/api_keys",
    tag = "administration", params(("id" = String, Path), ("account" = String, Path)),
    request_body = CreateAccountKey, responses((status = 200, body = AccountKey), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create_account_key(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path((id, name)): Path<(String, String)>,
    Body(body): Body<CreateAccountKey>,
) -> Result<Json<AccountKey>, ApiError> {
    let (key_name, scopes) = body.parse()?;
    let project = found(&api, &by, &id).await?;
    let owner = KeyOwner::ServiceAccount(organization_id("service account", &name)?);
    let grant = KeyGrant { name: key_name, scopes, expires_at: None };
    let made = keys::create_for(api.service.store(), &project, grant, owner, &by.act()).await;
    Ok(Json(made.map_err(ServiceError::from)?.into()))
}
