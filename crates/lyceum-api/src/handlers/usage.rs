//! `GET /v1/organization/usage/{completions,embeddings,moderations,predictions,explanations,trainings,requests}` and
//! `/v1/organization/costs`

use crate::Api;
use crate::auth::Administrator;
use crate::error::{ApiError, ErrorBody};
use crate::handlers::organization::Pairs;
use crate::wire::organization::List;
use crate::wire::organization::requests::{AskedRequests, RequestBody};
use crate::wire::usage::{Asked, Page, costs_page, usage_page};
use axum::extract::State;
use axum::{Extension, Json};
use lyceum_service::usage::{self, Kind};
use lyceum_types::clock::Timestamp;

/// Tokens of completions, chats and responses, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/completions", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("batch" = Option<bool>, Query), ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn completions(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Completions).await
}

/// Tokens of embeddings, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/embeddings", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn embeddings(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Embeddings).await
}

/// Tokens that a classifier of prompt injections read for moderations, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/moderations", tag = "openai", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn moderations(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Moderations).await
}

/// Tokens and rows of decisions, predictions, tensors and rankings, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/predictions", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn predictions(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Predictions).await
}

/// Passes of explanations and robustness runs, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/explanations", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn explanations(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Explanations).await
}

/// Jobs, trained tokens and rows, and seconds on a processor of trainings and choices, in buckets of time.
#[utoipa::path(get, path = "/v1/organization/usage/trainings", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("bucket_width" = Option<String>, Query),
    ("project_ids" = Option<Vec<String>>, Query), ("api_key_ids" = Option<Vec<String>>, Query),
    ("user_ids" = Option<Vec<String>>, Query), ("models" = Option<Vec<String>>, Query),
    ("group_by" = Option<Vec<String>>, Query), ("limit" = Option<u32>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn trainings(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    page(&api, &by, pairs, Kind::Trainings).await
}

/// Every entry of the ledger that was settled in the span, in the order of ids: what each request did and what it cost.
#[utoipa::path(get, path = "/v1/organization/usage/requests", tag = "lyceum", params(
    ("start_time" = i64, Query), ("end_time" = Option<i64>, Query), ("limit" = Option<u32>, Query),
    ("after" = Option<String>, Query)),
    responses((status = 200, body = List<RequestBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody)))]
pub async fn requests(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<List<RequestBody>>, ApiError> {
    let asked = AskedRequests::parse(pairs.0, Timestamp::now())?;
    let found = usage::entries(&api.service, by.tenant(), asked.span, &asked.after, asked.limit + 1).await?;
    let has_more = found.len() > asked.limit as usize;
    let data = found.into_iter().take(asked.limit as usize).map(RequestBody::from).collect();
    Ok(Json(List::new(data, has_more)))
}

async fn page(api: &Api, by: &Administrator, pairs: Pairs, kind: Kind) -> Result<Json<Page>, ApiError> {
    let mut asked = Asked::usage(pairs.0, kind, Timestamp::now())?;
    if asked.is_about_users() {
        asked = asked.with_owners(usage::owners(&api.service, by.tenant()).await?);
    }
    let (sums, _) = sums(api, by, &asked).await?;
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
    Extension(by): Extension<Administrator>,
    pairs: Pairs,
) -> Result<Json<Page>, ApiError> {
    let asked = Asked::costs(pairs.0, Timestamp::now())?;
    let (sums, prices) = sums(&api, &by, &asked).await?;
    Ok(Json(costs_page(&asked, &sums, &prices)))
}

async fn sums(
    api: &Api,
    by: &Administrator,
    asked: &Asked,
) -> Result<(Vec<usage::Sum>, usage::PriceList), ApiError> {
    Ok(usage::sums(&api.service, by.tenant(), asked.span(), asked.width_ms()).await?)
}
