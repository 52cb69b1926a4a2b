//! `GET /v1/organization/usage/{completions,embeddings,predictions,explanations}` and `/v1/organization/costs`

use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::usage::{Asked, Page, costs_page, usage_page};
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::{Extension, Json, extract::Query};
use lyceum_service::usage::{self, Kind};
use lyceum_types::clock::Timestamp;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Tokens of completions, chats and responses, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/completions", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("models" = Option<Vec<String>>, Query), ("batch" = Option<bool>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn completions(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &caller, query, Kind::Completions).await
}

/// Tokens of embeddings, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/embeddings", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("models" = Option<Vec<String>>, Query), ("group_by" = Option<Vec<String>>, Query),
    ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn embeddings(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &caller, query, Kind::Embeddings).await
}

/// Tokens and rows of decisions, predictions, tensors and rankings, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/predictions", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("models" = Option<Vec<String>>, Query), ("group_by" = Option<Vec<String>>, Query),
    ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn predictions(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &caller, query, Kind::Predictions).await
}

/// Passes of explanations and robustness runs, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/explanations", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("models" = Option<Vec<String>>, Query), ("group_by" = Option<Vec<String>>, Query),
    ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn explanations(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &caller, query, Kind::Explanations).await
}

async fn page(api: &Api, caller: &Caller, query: Pairs, kind: Kind) -> Result<Json<Page>, ApiError> {
    let asked = Asked::usage(pairs(query)?, kind, Timestamp::now())?;
    let (sums, _) = sums(api, caller, &asked).await?;
    Ok(Json(usage_page(&asked, kind, &sums)))
}

/// What all work cost, in days.
#[utoipa::path(get, path = "/v1/organization/costs", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn costs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Pairs,
) -> Result<Json<Page>, ApiError> {
    let asked = Asked::costs(pairs(query)?, Timestamp::now())?;
    let (sums, prices) = sums(&api, &caller, &asked).await?;
    Ok(Json(costs_page(&asked, &sums, &prices)))
}

fn pairs(query: Pairs) -> Result<Vec<(String, String)>, ApiError> {
    let Query(pairs) = query.map_err(|error| ApiError::unreadable("invalid_query", error.body_text()))?;
    Ok(pairs)
}

async fn sums(
    api: &Api,
    caller: &Caller,
    asked: &Asked,
) -> Result<(Vec<usage::Sum>, usage::PriceList), ApiError> {
    Ok(usage::sums(&api.service, &caller.project.tenant, asked.span(), asked.width_ms()).await?)
}
