//! `POST /v1/models/{model}:predict` (KServe v1). The verb is what follows the last `:`.

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::path_model_ref;
use crate::wire::predict::{Body, Response};
use crate::wire::robustness::promises;
use axum::Extension;
use axum::extract::{FromRequest, Path, Request, State};
use lyceum_service::predict;

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
) -> Result<axum::Json<Response>, ApiError> {
    let Some((model, "predict")) = id.rsplit_once(':') else {
        return Err(ApiError::unknown_route("POST", request.uri().path()));
    };
    let model = path_model_ref(model)?;
    let Json(body) = Json::<Body>::from_request(request, &api).await?;
    let promises = promises(body.certify, body.prediction_set, body.ood);
    let instances = body.parse()?;
    let (_, predictions, promised) =
        predict::create_promised(&api.service, &caller.project, &model, &instances, &promises).await?;
    Ok(axum::Json(Response::new(predictions, promised)))
}
