//! `DELETE /v1/models/{id}`, `/v1/models/{id}/{aliases,history,approve,promote,calibrate,lineage}`: what changes asks a key that
//! may change what the project has.

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::path_model_ref;
use crate::wire::registry::{
    AliasBody, AliasList, AliasRequest, ApprovalBody, CalibratedBody, DeletedBody, EventBody, EventList,
    LineageBody, NoteRequest, PromotionBody,
};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::ServiceError;
use lyceum_service::registry::{self, Act, Actor, Doomed};
use lyceum_service::robustness::calibrated;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{Alias, ModelName, ModelRef, VersionRef};

/// What the key does now.
fn act(caller: &Caller, note: String) -> Act {
    Act { actor: Actor::Key(caller.key.clone()), note, now: Timestamp::now() }
}

/// A reference in the path whose name the project may ask.
async fn known(api: &Api, caller: &Caller, id: &str) -> Result<ModelRef, ApiError> {
    let reference = path_model_ref(id)?;
    registry::visible(&api.service, &caller.project, &reference.name).await?;
    Ok(reference)
}

async fn known_name(api: &Api, caller: &Caller, id: &str) -> Result<ModelName, ApiError> {
    Ok(registry::bare(&known(api, caller, id).await?)?)
}

/// The alias of a path; what cannot be one is not found.
fn path_alias(name: &ModelName, text: &str) -> Result<Alias, ApiError> {
    let id = || format!("{name}@{}", text.chars().take(64).collect::<String>());
    text.parse().map_err(|_| ServiceError::NotFound { what: "alias", id: id() }.into())
}

/// Deletes one version (`name@3`), or all of a name. Refused while an alias points at one, or an adapter adds to it.
#[utoipa::path(delete, path = "/v1/models/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = DeletedBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<DeletedBody>, ApiError> {
    let reference = known(&api, &caller, &id).await?;
    let id = reference.to_string();
    let doomed = match &reference.version {
        VersionRef::Latest => Doomed::Name(reference.name),
        _ => Doomed::Version(reference),
    };
    let act = act(&caller, String::new());
    let deleted = registry::delete(api.service.store(), &caller.project, &doomed, &act).await?;
    api.service.forget(&deleted);
    Ok(Json(DeletedBody { id, object: "model", deleted: true }))
}

/// Deletes all versions of a model that is called as the route that pulls is.
#[utoipa::path(delete, path = "/v1/models/pull", tag = "openai", responses(
    (status = 200, body = DeletedBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete_pull(api: State<Api>, caller: Extension<Caller>) -> Result<Json<DeletedBody>, ApiError> {
    delete(api, caller, Path("pull".into())).await
}

/// The aliases of a name, by alphabet.
#[utoipa::path(get, path = "/v1/models/{id}/aliases", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = AliasList), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 400, body = ErrorBody)))]
pub async fn aliases(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<AliasList>, ApiError> {
    let name = known_name(&api, &caller, &id).await?;
    let aliases =
        registry::aliases(api.service.store(), &caller.project, &name).await.map_err(ServiceError::from)?;
    let data = aliases.iter().map(|pointer| AliasBody::new(&name, pointer)).collect();
    Ok(Json(AliasList { object: "list", data }))
}

/// Points an alias at the version of the path (`name@3`).
#[utoipa::path(post, path = "/v1/models/{id}/aliases", tag = "lyceum", params(("id" = String, Path)),
    request_body = AliasRequest, responses(
    (status = 200, body = AliasBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn set_alias(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body::Json(body): body::Json<AliasRequest>,
) -> Result<Json<AliasBody>, ApiError> {
    let (name, number) = registry::numbered(&known(&api, &caller, &id).await?)?;
    let alias: Alias = body
        .alias
        .parse()
        .map_err(|error| ApiError::field("alias", "invalid_value", format!("alias: {error}")))?;
    let (store, act) = (api.service.store(), act(&caller, body.note));
    let to = (number, body.protected);
    let before = registry::set_alias(store, &caller.project, (&name, &alias), to, &act)
        .await
        .map_err(ServiceError::from)?;
    Ok(Json(AliasBody::moved(&name, alias.as_str(), before, number)))
}

/// Takes an alias away.
#[utoipa::path(delete, path = "/v1/models/{id}/aliases/{alias}", tag = "lyceum",
    params(("id" = String, Path), ("alias" = String, Path)), responses(
    (status = 200, body = DeletedBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 400, body = ErrorBody)))]
pub async fn delete_alias(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, alias)): Path<(String, String)>,
) -> Result<Json<DeletedBody>, ApiError> {
    let name = known_name(&api, &caller, &id).await?;
    let alias = path_alias(&name, &alias)?;
    let act = act(&caller, String::new());
    registry::remove_alias(api.service.store(), &caller.project, &name, &alias, &act)
        .await
        .map_err(ServiceError::from)?;
    Ok(Json(DeletedBody { id: format!("{name}@{alias}"), object: "model.alias", deleted: true }))
}

/// Points an alias back at the version that it had before the last move that stands.
#[utoipa::path(post, path = "/v1/models/{id}/aliases/{alias}/rollback", tag = "lyceum",
    params(("id" = String, Path), ("alias" = String, Path)), request_body = NoteRequest, responses(
    (status = 200, body = AliasBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn roll_back(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, alias)): Path<(String, String)>,
    body::Json(body): body::Json<NoteRequest>,
) -> Result<Json<AliasBody>, ApiError> {
    let name = known_name(&api, &caller, &id).await?;
    let alias = path_alias(&name, &alias)?;
    let (store, act) = (api.service.store(), act(&caller, body.note));
    let (before, now) =
        registry::roll_back(store, &caller.project, &name, &alias, &act).await.map_err(ServiceError::from)?;
    Ok(Json(AliasBody::moved(&name, alias.as_str(), Some(before), now)))
}

/// What happened to a name, the oldest first, also to versions that are gone.
#[utoipa::path(get, path = "/v1/models/{id}/history", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = EventList), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 400, body = ErrorBody)))]
pub async fn history(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<EventList>, ApiError> {
    let name = known_name(&api, &caller, &id).await?;
    let events =
        registry::history(api.service.store(), &caller.project, &name).await.map_err(ServiceError::from)?;
    Ok(Json(EventList { object: "list", data: events.into_iter().map(EventBody::from).collect() }))
}

/// Says that the key takes responsibility for a version, as protected aliases ask for.
#[utoipa::path(post, path = "/v1/models/{id}/approve", tag = "lyceum", params(("id" = String, Path)),
    request_body = NoteRequest, responses(
    (status = 200, body = ApprovalBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn approve(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body::Json(body): body::Json<NoteRequest>,
) -> Result<Json<ApprovalBody>, ApiError> {
    let (name, number) = registry::numbered(&known(&api, &caller, &id).await?)?;
    let act = act(&caller, body.note);
    registry::approve(api.service.store(), &caller.project, &name, number, &act)
        .await
        .map_err(ServiceError::from)?;
    Ok(Json(ApprovalBody { id: format!("{name}@{number}"), object: "model.approval", approved: true }))
}

/// Lets the bare name serve a version that its gate held back.
#[utoipa::path(post, path = "/v1/models/{id}/promote", tag = "lyceum", params(("id" = String, Path)),
    request_body = NoteRequest, responses(
    (status = 200, body = PromotionBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn promote(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body::Json(body): body::Json<NoteRequest>,
) -> Result<Json<PromotionBody>, ApiError> {
    let (name, number) = registry::numbered(&known(&api, &caller, &id).await?)?;
    let act = act(&caller, body.note);
    let done = registry::promote(api.service.store(), &caller.project, &name, number, &act).await?;
    Ok(Json(done.into()))
}

/// Publishes a classifier once more with calibrated probabilities: the validation rows that it keeps choose one
/// temperature, and the next version has it in its weights.
#[utoipa::path(post, path = "/v1/models/{id}/calibrate", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = CalibratedBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn calibrate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<CalibratedBody>, ApiError> {
    let reference = known(&api, &caller, &id).await?;
    let act = caller.act();
    let (version, report) = calibrated::publish(&api.service, &caller.project, &reference, &act).await?;
    let calibration = serde_json::to_value(report).expect("a report is plain data: bug");
    Ok(Json(CalibratedBody { id: version.id(), object: "model", sha256: version.sha256, calibration }))
}

/// From the data's hashes over the job to the version, its approvals and its aliases.
#[utoipa::path(get, path = "/v1/models/{id}/lineage", tag = "lyceum", params(("id" = String, Path)), responses(
    (status = 200, body = LineageBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn lineage(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<LineageBody>, ApiError> {
    let reference = known(&api, &caller, &id).await?;
    let lineage = registry::lineage(api.service.store(), &caller.project, &reference).await?;
    Ok(Json(lineage.into()))
}
