//! `/v1/organization/budgets[/{id}]`

use super::Pairs;
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::money::{BudgetBody, CreateBudget, UpdateBudget};
use crate::wire::organization::{AskedPage, Deleted, List, paged};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_service::spending;

/// The organisation's budgets and where they stand. A key of the organisation that runs the installation reads those of
/// all.
#[utoipa::path(get, path = "/v1/organization/budgets", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = List<BudgetBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<BudgetBody>>, ApiError> {
    let page = AskedPage::only(query)?;
    let all = spending::budgets(&api.service, by.tenant()).await?;
    Ok(Json(paged(all.into_iter().map(BudgetBody::from).collect(), &page)))
}

/// Sets the most that may be spent, or the limit of the budget that is there; a request whose worst cost is not covered
/// is refused. What the organisation as a whole may spend is for the one that runs the installation to set.
#[utoipa::path(post, path = "/v1/organization/budgets", tag = "administration", request_body = CreateBudget,
    responses((status = 200, body = BudgetBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<CreateBudget>,
) -> Result<Json<BudgetBody>, ApiError> {
    let (place, period, limit) = body.parse(by.tenant())?;
    let set = spending::set_budget(&api.service, by.tenant(), (&place, period), limit, &by.act()).await?;
    Ok(Json(set.into()))
}

#[utoipa::path(get, path = "/v1/organization/budgets/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 200, body = BudgetBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<BudgetBody>, ApiError> {
    Ok(Json(spending::budget(&api.service, by.tenant(), &id).await?.into()))
}

/// Sets the limit.
#[utoipa::path(post, path = "/v1/organization/budgets/{id}", tag = "administration", params(("id" = String, Path)),
    request_body = UpdateBudget, responses((status = 200, body = BudgetBody), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn modify(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
    Body(body): Body<UpdateBudget>,
) -> Result<Json<BudgetBody>, ApiError> {
    let limit = body.parse()?;
    let budget = spending::budget(&api.service, by.tenant(), &id).await?.budget;
    let of = (&budget.place, budget.period);
    let set = spending::set_budget(&api.service, by.tenant(), of, limit, &by.act()).await?;
    Ok(Json(set.into()))
}

/// Takes the budget away: nothing is refused for it any more.
#[utoipa::path(delete, path = "/v1/organization/budgets/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 200, body = Deleted), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let removed = spending::remove_budget(&api.service, by.tenant(), &id, &by.act()).await?;
    Ok(Json(Deleted::new("organization.budget.deleted", removed.id)))
}
