//! `POST|GET /v1/fine_tuning/jobs`, `POST /v1/fine_tuning/jobs/preview`, `GET /v1/fine_tuning/jobs/{id}[/events|/checkpoints|/privacy]`,
//! `POST /v1/fine_tuning/jobs/{id}/{cancel|pause|resume}`

use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::wire::fine_tuning::{
    CreateFineTuningJob, FineTuningCheckpointList, FineTuningEvent, FineTuningEventList, FineTuningJob,
    FineTuningJobList, SUITES, event_query, query,
};
use crate::wire::preview::{self, PreviewBody};
use crate::wire::privacy::JobPrivacyBody;
use crate::{Api, body, sse};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt, stream};
use lyceum_service::fine_tuning::{self, Change, events};

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

fn pairs(query: Pairs) -> Result<Vec<(String, String)>, ApiError> {
    let Query(pairs) = query.map_err(|error| ApiError::query(&error))?;
    Ok(pairs)
}

/// Judges every example of the files and puts a training into the queue. It runs in a process of its own; what it makes is
/// served at once under `fine_tuned_model`.
#[utoipa::path(post, path = "/v1/fine_tuning/jobs", tag = "openai", request_body = CreateFineTuningJob, responses(
    (status = 200, body = FineTuningJob), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body::Json(body): body::Json<CreateFineTuningJob>,
) -> Result<Json<FineTuningJob>, ApiError> {
    let made = fine_tuning::create(&api.service, &caller.payer, body.parse()?, SUITES).await?;
    Ok(Json(made.into()))
}

/// Judges the files of a request for a job as its creation does, and shows what training would read of a part of them: the
/// tokens with those that are learnt, or the prepared numbers, and what an epoch is. There is no job afterwards.
#[utoipa::path(post, path = "/v1/fine_tuning/jobs/preview", tag = "lyceum", request_body = CreateFineTuningJob,
    params(("part" = Option<String>, Query, description = "`train`, `valid` or `test`"),
    ("rows" = Option<usize>, Query, description = "How many examples (of one long text: windows), 4 where it is left out")),
    responses(
    (status = 200, body = PreviewBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody),
    (status = 504, body = ErrorBody)))]
pub async fn preview(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Pairs,
    body::Json(body): body::Json<CreateFineTuningJob>,
) -> Result<Json<PreviewBody>, ApiError> {
    let asked = preview::query(pairs(asked)?)?;
    let seen = fine_tuning::preview::create(&api.service, &caller.payer, body.parse()?, asked).await?;
    Ok(Json(PreviewBody::from(&seen)))
}

/// A page of trainings, newest first; `metadata[key]=value` leaves those that have it, `metadata=null` those
/// that have none.
#[utoipa::path(get, path = "/v1/fine_tuning/jobs", tag = "openai", params(
    ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)), responses(
    (status = 200, body = FineTuningJobList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Pairs,
) -> Result<Json<FineTuningJobList>, ApiError> {
    let found = fine_tuning::list(&api.service, &caller.project, &query(pairs(asked)?)?).await?;
    Ok(Json(FineTuningJobList::new(found)))
}

/// One training.
#[utoipa::path(get, path = "/v1/fine_tuning/jobs/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FineTuningJob), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FineTuningJob>, ApiError> {
    Ok(Json(fine_tuning::find(&api.service, &caller.project, &id).await?.into()))
}

/// Asks a training to end: what waits or is paused is `cancelled` at once, what runs within seconds.
#[utoipa::path(post, path = "/v1/fine_tuning/jobs/{id}/cancel", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FineTuningJob), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FineTuningJob>, ApiError> {
    Ok(Json(fine_tuning::change(&api.service, &caller.project, &id, Change::Cancel).await?.into()))
}

/// Asks a training to stop, with a checkpoint, until it is resumed.
#[utoipa::path(post, path = "/v1/fine_tuning/jobs/{id}/pause", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FineTuningJob), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn pause(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FineTuningJob>, ApiError> {
    Ok(Json(fine_tuning::change(&api.service, &caller.project, &id, Change::Pause).await?.into()))
}

/// Lets a paused training go on, as if it had never stopped.
#[utoipa::path(post, path = "/v1/fine_tuning/jobs/{id}/resume", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = FineTuningJob), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody)))]
pub async fn resume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FineTuningJob>, ApiError> {
    Ok(Json(fine_tuning::change(&api.service, &caller.project, &id, Change::Resume).await?.into()))
}

/// What happened to a training, newest first; with `stream=true` all of it as it comes, oldest first, until it ends or is
/// paused.
#[utoipa::path(get, path = "/v1/fine_tuning/jobs/{id}/events", tag = "openai", params(("id" = String, Path),
    ("after" = Option<String>, Query), ("limit" = Option<u32>, Query), ("stream" = Option<bool>, Query)), responses(
    (status = 200, body = FineTuningEventList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn list_events(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    asked: Pairs,
) -> Result<Response, ApiError> {
    let asked = event_query(pairs(asked)?, 20)?;
    if !asked.is_stream {
        let found = events::list(&api.service, &caller.project, &id, &asked.page).await?;
        return Ok(Json(FineTuningEventList::new(found)).into_response());
    }
    let after = asked.page.after.as_deref();
    let followed = events::follow(&api.service, &caller.project, &id, after).await?;
    let steps = stream::unfold(Some((followed, api)), |state| async move {
        let (mut followed, api) = state?;
        match followed.next(&api.service).await {
            Ok(None) => None,
            Ok(Some(events)) => {
                let job = &followed.job;
                let told: Vec<_> =
                    events.into_iter().map(|event| Ok(FineTuningEvent::new(job, event))).collect();
                Some((stream::iter(told), Some((followed, api))))
            }
            Err(error) => Some((stream::iter(vec![Err(ApiError::from(error))]), None)),
        }
    });
    Ok(sse::stream(steps.flatten()))
}

/// The checkpoints of a training that can be asked, newest first.
#[utoipa::path(get, path = "/v1/fine_tuning/jobs/{id}/checkpoints", tag = "openai", params(("id" = String, Path),
    ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)), responses(
    (status = 200, body = FineTuningCheckpointList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn list_checkpoints(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    asked: Pairs,
) -> Result<Json<FineTuningCheckpointList>, ApiError> {
    let asked = event_query(pairs(asked)?, 10)?;
    if asked.is_stream {
        let message = "stream: checkpoints are a list; events can be followed";
        return Err(ApiError::field("stream", "unknown_parameter", message));
    }
    let found = events::checkpoints(&api.service, &caller.project, &id, &asked.page).await?;
    Ok(Json(FineTuningCheckpointList::new(found)))
}

/// What a training costs its file in privacy: its quote, its ledger, and what is promised of the model that it made.
#[utoipa::path(get, path = "/v1/fine_tuning/jobs/{id}/privacy", tag = "privacy", params(("id" = String, Path)), responses(
    (status = 200, body = JobPrivacyBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn privacy(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<JobPrivacyBody>, ApiError> {
    Ok(Json(fine_tuning::privacy::of_job(&api.service, &caller.project, &id).await?.into()))
}
