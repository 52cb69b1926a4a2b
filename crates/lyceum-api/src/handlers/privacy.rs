//! `POST /v1/privacy/{epsilon,sigma,saw,receipts/verify}`, `POST|GET /v1/privacy/budgets`, `GET /v1/models/{m}/privacy`

use crate::Api;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, ErrorBody};
use crate::wire::path_model_ref;
use crate::wire::privacy::{
    BudgetBody, BudgetList, BudgetRequest, EpsilonBody, EpsilonRequest, ModelPrivacy, ReceiptBody,
    ReceiptRequest, SawBody, SawRequest, SigmaBody, SigmaRequest,
};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use lyceum_privacy::calibrate::Target;
use lyceum_service::{privacy, receipts, saw};

/// What a run costs.
#[utoipa::path(post, path = "/v1/privacy/epsilon", tag = "privacy", request_body = EpsilonRequest, responses(
    (status = 200, body = EpsilonBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn epsilon(body::Json(body): body::Json<EpsilonRequest>) -> Result<Json<EpsilonBody>, ApiError> {
    let guarantee = privacy::cost(body.event()?, body.delta, body.accountant.into()).await?;
    Ok(Json(guarantee.into()))
}

/// The noise for a cost.
#[utoipa::path(post, path = "/v1/privacy/sigma", tag = "privacy", request_body = SigmaRequest, responses(
    (status = 200, body = SigmaBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn sigma(body::Json(body): body::Json<SigmaRequest>) -> Result<Json<SigmaBody>, ApiError> {
    let target = Target { epsilon: body.epsilon, delta: body.delta };
    let sigma = privacy::noise(target, body.q, body.steps, body.accountant.into()).await?;
    Ok(Json(SigmaBody { sigma }))
}

/// Sets what may be learnt from a data set; a job that would pass it does not start.
#[utoipa::path(post, path = "/v1/privacy/budgets", tag = "privacy", request_body = BudgetRequest, responses(
    (status = 200, body = BudgetBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn set_budget(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<BudgetRequest>,
) -> Result<Json<BudgetBody>, ApiError> {
    let (service, budget, act) = (&api.service, (body.target()?, body.accountant.into()), caller.act());
    let account = privacy::set_budget(service, &caller.project, body.data_sha256, budget, &act).await?;
    Ok(Json(account.into()))
}

/// Every data set that has a budget or was trained on privately, with its ledger.
#[utoipa::path(get, path = "/v1/privacy/budgets", tag = "privacy", responses(
    (status = 200, body = BudgetList), (status = 401, body = ErrorBody)))]
pub async fn budgets(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<BudgetList>, ApiError> {
    let accounts = privacy::accounts(&api.service, &caller.project).await?;
    Ok(Json(BudgetList { object: "list", data: accounts.into_iter().map(BudgetBody::from).collect() }))
}

/// What a model promises about the rows that it was trained on.
#[utoipa::path(get, path = "/v1/models/{id}/privacy", tag = "privacy", params(("id" = String, Path)), responses(
    (status = 200, body = ModelPrivacy), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn model(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ModelPrivacy>, ApiError> {
    let report = privacy::of_model(&api.service, &caller.project, &path_model_ref(&id)?).await?;
    Ok(Json(report.into()))
}

/// Which models saw a row of a file: trained on it, validated on it, or stand on one that did.
#[utoipa::path(post, path = "/v1/privacy/saw", tag = "privacy", request_body = SawRequest, responses(
    (status = 200, body = SawBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn saw(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<SawRequest>,
) -> Result<Json<SawBody>, ApiError> {
    let wanted = body.wanted()?;
    Ok(Json(saw::of_file(&api.service, &caller.project, &body.file, wanted).await?.into()))
}

/// Whether a receipt of an answer (`X-Privacy-Receipt`) is what was signed, and whether this server's key signed it.
#[utoipa::path(post, path = "/v1/privacy/receipts/verify", tag = "privacy", request_body = ReceiptRequest, responses(
    (status = 200, body = ReceiptBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn verify_receipt(
    State(api): State<Api>,
    body::Json(body): body::Json<ReceiptRequest>,
) -> Result<Json<ReceiptBody>, ApiError> {
    let (holds, signed_by_this_server) = receipts::verify(&api.service, &body.receipt)?;
    let object = "privacy_receipt.verification";
    let (holds, why) = (holds.is_ok(), holds.err());
    Ok(Json(ReceiptBody { object, holds, why, signed_by_this_server }))
}
