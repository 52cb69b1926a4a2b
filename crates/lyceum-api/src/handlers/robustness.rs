//! `POST|GET /v1/robustness/runs[/{id}]`

use super::{created, new_id};
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::wire::predict::instances;
use crate::wire::robustness::{Body, RunBody, RunList};
use axum::Extension;
use axum::extract::{Path, State};
use lyceum_service::robustness::{self, Stored};

/// Attacks, certifies and damages up to 512 labelled rows, and answers when it is done (a run may take five minutes;
/// one runs at a time). Runs are remembered by the process that made them, the newest 64.
#[utoipa::path(post, path = "/v1/robustness/runs", tag = "robustness", request_body = Body, responses(
    (status = 200, body = RunBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody), (status = 501, body = ErrorBody), (status = 503, body = ErrorBody),
    (status = 504, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<axum::Json<RunBody>, ApiError> {
    let request = body.parse()?;
    let rows = instances(request.instances)?;
    let asked = robustness::Asked {
        model: request.model,
        rows,
        labels: request.labels,
        suite: request.suite,
        seed: request.seed,
        compare: request.compare,
    };
    let (run, gate) = robustness::create(&api.service, &caller.project, asked).await?;
    let stored = Stored { id: new_id("rob_"), created: created(), run, gate };
    let body = RunBody::new(&stored.id, stored.created, &stored.run, stored.gate.as_ref());
    api.service.robustness_runs().keep(&caller.project, stored);
    Ok(axum::Json(body))
}

/// The newest runs of this process, at most 64.
#[utoipa::path(get, path = "/v1/robustness/runs", tag = "robustness", responses(
    (status = 200, body = RunList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<axum::Json<RunList>, ApiError> {
    let runs = api.service.robustness_runs().list(&caller.project);
    let body = |run: &Stored| RunBody::new(&run.id, run.created, &run.run, run.gate.as_ref());
    Ok(axum::Json(RunList { object: "list", data: runs.iter().map(body).collect() }))
}

/// One run.
#[utoipa::path(get, path = "/v1/robustness/runs/{id}", tag = "robustness", params(("id" = String, Path)), responses(
    (status = 200, body = RunBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<RunBody>, ApiError> {
    let Some(run) = api.service.robustness_runs().find(&caller.project, &id) else {
        return Err(lyceum_service::ServiceError::NotFound { what: "robustness run", id }.into());
    };
    Ok(axum::Json(RunBody::new(&run.id, run.created, &run.run, run.gate.as_ref())))
}
