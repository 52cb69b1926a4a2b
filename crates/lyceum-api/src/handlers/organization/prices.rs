//! `/v1/organization/prices`

use super::Pairs;
use crate::Api;
use crate::auth::Administrator;
use crate::body::Json as Body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::money::{CreatePrice, PriceBody};
use crate::wire::organization::{AskedPage, List, paged};
use axum::extract::State;
use axum::{Extension, Json};
use lyceum_service::spending;

/// Every price that there ever was for the organisation, its own and everybody's, the newest first. A key of the
/// organisation that runs the installation reads those of all.
#[utoipa::path(get, path = "/v1/organization/prices", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = List<PriceBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<PriceBody>>, ApiError> {
    let page = AskedPage::only(query)?;
    let all = spending::prices(&api.service, by.tenant()).await?;
    Ok(Json(paged(all.into_iter().map(PriceBody::from).collect(), &page)))
}

/// Adds a price, which holds for requests from now on; older ones stay in the list. Only a key of the organisation that
/// runs the installation may.
#[utoipa::path(post, path = "/v1/organization/prices", tag = "administration", request_body = CreatePrice,
    responses((status = 200, body = PriceBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Body(body): Body<CreatePrice>,
) -> Result<Json<PriceBody>, ApiError> {
    let ((tenant, project, model), rates) = body.parse(by.tenant())?;
    let place = (tenant.as_str(), project.as_str(), model.as_str());
    let price = spending::set_price(&api.service, by.tenant(), place, rates, &by.act()).await?;
    Ok(Json(price.into()))
}
