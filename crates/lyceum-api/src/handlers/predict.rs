//! `POST /v1/models/{model}:predict` and `:explain` (KServe v1). The verb is what follows the last `:`.

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::explain::InstancesBody;
use crate::wire::explanation::{InstancesResponse, explanation};
use crate::wire::path_model_ref;
use crate::wire::predict::{Body, Response, instances};
use crate::wire::promises::promises;
use axum::Extension;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::IntoResponse;
use lyceum_service::predict;
use lyceum_types::ids::ModelRef;

/// Where models are asked by a verb, which stands behind the id.
pub(crate) const PATH: &str = "/v1/models/{id}";

/// The verbs.
pub(crate) const VERBS: [&str; 2] = ["predict", "explain"];

/// Predicts labels with probabilities, or numbers, for rows, series, pictures, sounds or texts.
#[utoipa::path(post, path = "/v1/models/{model}:predict", tag = "kserve", params(("model" = String, Path)),
    request_body = Body, responses(
    (status = 200, body = Response), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn verb(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<axum::response::Response, ApiError> {
    match id.rsplit_once(':') {
        Some((model, "predict")) => {
            let model = path_model_ref(model)?;
            let Json(body) = Json::<Body>::from_request(request, &api).await?;
            Ok(axum::Json(answer(&api, &caller, &model, body).await?).into_response())
        }
        Some((model, "explain")) => {
            let model = path_model_ref(model)?;
            let Json(body) = Json::<InstancesBody>::from_request(request, &api).await?;
            Ok(axum::Json(explain(&api, &caller, &model, body).await?).into_response())
        }
        _ => Err(ApiError::unknown_route("POST", request.uri().path())),
    }
}

async fn answer(api: &Api, caller: &Caller, model: &ModelRef, body: Body) -> Result<Response, ApiError> {
    let options = body.explain.clone().map(|options| options.parse("explain.")).transpose()?;
    let promises = promises(body.certify, body.prediction_set, body.ood);
    let instances = body.parse()?;
    let (service, payer) = (&api.service, &caller.payer);
    let (_, predictions, promised) =
        predict::create_promised(service, payer, model, &instances, &promises).await?;
    let mut response = Response::new(predictions, promised);
    if let Some((options, extras)) = options {
        let pairs = predict::create_explained(service, payer, model, &instances, &options).await?;
        response.explanations = Some(pairs.iter().map(|(_, e)| explanation(e, extras)).collect());
    }
    Ok(response)
}

async fn explain(
    api: &Api,
    caller: &Caller,
    model: &ModelRef,
    body: InstancesBody,
) -> Result<InstancesResponse, ApiError> {
    let (options, extras) = body.explain.unwrap_or_default().parse("explain.")?;
    let instances = instances(body.instances)?;
    let pairs = predict::create_explained(&api.service, &caller.payer, model, &instances, &options).await?;
    Ok(InstancesResponse { explanations: pairs.iter().map(|(_, e)| explanation(e, extras)).collect() })
}

/// Says why for rows, series, pictures, sounds or texts, beside `:predict`.
#[utoipa::path(post, path = "/v1/models/{model}:explain", tag = "kserve", params(("model" = String, Path)),
    request_body = InstancesBody, responses(
    (status = 200, body = InstancesResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 501, body = ErrorBody), (status = 503, body = ErrorBody)))]
#[allow(dead_code, reason = "documents a verb of the route above")]
pub fn explain_document() {}
