//! `/v1/responses`: answers that can be kept and gone on from, whole or as a stream.

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::sse;
use crate::wire::responses::answer::{Answer, Event, Head};
use crate::wire::responses::{Asked, Body, Deleted, InputItems, InputItemsQuery, items};
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use lyceum_service::chat::{self, Ending, Running};
use lyceum_service::responses::{self, Record, ResponseId};
use lyceum_service::{Service, ServiceError};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Answers an input.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = Body, responses(
    (status = 200, body = Object, description = "A Response; with stream: true, typed events that end with \
     response.completed, response.incomplete or response.failed"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<Response, ApiError> {
    let Asked { mut request, instructions, input, previous_response_id, store, stream, mut echo } =
        body.parse()?;
    let mut all = match &previous_response_id {
        None => Vec::new(),
        Some(id) => said_before(&api.service, &caller.project, id).await?,
    };
    all.extend(input);
    if all.len() > limits::MESSAGES_MAX {
        let message =
            format!("input: {} items with those before are more than {}", all.len(), limits::MESSAGES_MAX);
        return Err(ApiError::field("input", "invalid_value", message));
    }
    request.messages = items::messages(instructions.as_deref(), &all)?;
    let n_top = request.logprobs;
    let running = chat::create(&api.service, &caller.payer, request).await.map_err(in_own_words)?;
    let defaults = running.defaults();
    for (name, own) in [("temperature", defaults.temperature), ("top_p", defaults.top_p)] {
        if echo.get(name).is_none_or(Value::is_null) {
            echo.insert(name.into(), shortest(own.unwrap_or(1.0)));
        }
    }
    let id = ResponseId::new();
    let head = Head {
        id: id.as_str().to_owned(),
        created_at: super::created(),
        model: running.model(),
        echo,
        n_top,
    };
    let keep = store.then(|| Keep { service: api.service.clone(), project: caller.project, id, input: all });
    let making = Making { running, answer: Answer::begin(head), keep };
    match stream {
        false => Ok(axum::Json(making.whole().await?).into_response()),
        true => Ok(sse::typed(events(making).map(|event| (event.name, event.data)))),
    }
}

/// The number as its file has it: 0.7, not the nearest f32 in f64's digits.
fn shortest(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Everything that a kept answer answered, and what it said.
async fn said_before(service: &Arc<Service>, project: &Project, id: &str) -> Result<Vec<Value>, ApiError> {
    let record = responses::find(service, project, id).await.map_err(|error| match error {
        ServiceError::NotFound { .. } => {
            let id: String = id.chars().take(64).collect();
            let message = format!("the response `{id}` does not exist, or it was not kept");
            ServiceError::invalid("previous_response_id", "previous_response_not_found", message)
        }
        other => other,
    })?;
    let mut all = record.input;
    all.extend(record.response["output"].as_array().into_iter().flatten().cloned());
    Ok(all)
}

/// Fields of a chat under the names that they have here.
fn in_own_words(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid { param, code, message } => {
            let param = match param.as_str() {
                "messages" => "input".to_owned(),
                "response_format" => "text.format".to_owned(),
                _ => param,
            };
            let message = message.replace("response_format", "text.format");
            ServiceError::Invalid { param, code, message }
        }
        other => other,
    }
}

/// An answer that is being made. Dropping it ends it, and nothing of it is kept.
struct Making {
    running: Running,
    answer: Answer,
    keep: Option<Keep>,
}

/// Where an answer goes when it has ended.
struct Keep {
    service: Arc<Service>,
    project: Project,
    id: ResponseId,
    input: Vec<Value>,
}

impl Making {
    async fn whole(mut self) -> Result<Value, ApiError> {
        while !self.step().await? {}
        self.keep().await?;
        Ok(self.answer.into_response())
    }

    /// True when the answer has ended.
    async fn step(&mut self) -> Result<bool, ApiError> {
        let Some(delta) = self.running.next().await? else {
            let error = ServiceError::internal("an answer ended without saying so", "bug");
            return Err(error.into());
        };
        let finish: Option<Ending> = delta.finish;
        self.answer.push(delta);
        if let Some(ending) = finish {
            self.answer.end(ending, self.running.usage());
        }
        Ok(finish.is_some())
    }

    async fn keep(&mut self) -> Result<(), ApiError> {
        let Some(Keep { service, project, id, input }) = self.keep.take() else { return Ok(()) };
        let record = Record { response: self.answer.response().clone(), input };
        Ok(responses::save(&service, &project, id, record).await?)
    }

    /// The events of the next step; `true` with the last ones. An answer is kept before its end is told, so that
    /// whoever reads the end can go on from it.
    async fn next_events(&mut self) -> (Vec<Event>, bool) {
        let early = self.answer.take_events();
        if !early.is_empty() {
            return (early, false);
        }
        let stepped = self.step().await;
        let ended = match stepped {
            Ok(false) => return (self.answer.take_events(), false),
            Ok(true) => {
                let mut events = self.answer.take_events();
                match self.keep().await {
                    Ok(()) => return (events, true),
                    Err(error) => {
                        events.pop();
                        self.answer.fail(&error.detail, self.running.usage());
                        events.extend(self.answer.take_events());
                        return (events, true);
                    }
                }
            }
            Err(error) => error,
        };
        self.answer.fail(&ended.detail, self.running.usage());
        if let Err(error) = self.keep().await {
            tracing::error!(error = error.detail.message, "an answer that failed was not kept");
        }
        (self.answer.take_events(), true)
    }
}

fn events(making: Making) -> impl Stream<Item = Event> + Send {
    let steps = stream::unfold(Some(making), |making| async move {
        let mut making = making?;
        let (events, has_ended) = making.next_events().await;
        Some((stream::iter(events), (!has_ended).then_some(making)))
    });
    steps.flatten()
}

/// An answer that was kept.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = Object), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<axum::Json<Value>, ApiError> {
    // An answer is kept when it has ended: there is nothing to follow, and it has all that it was asked for.
    if let Some((name, _)) = query.iter().find(|(name, value)| *name != "stream" || *value != "false") {
        return Err(crate::wire::unsupported(name, "a kept answer is given whole"));
    }
    Ok(axum::Json(responses::find(&api.service, &caller.project, &id).await?.response))
}

/// Removes a kept answer. Those that went on from it stay whole.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = Deleted), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Deleted>, ApiError> {
    responses::delete(&api.service, &caller.project, &id).await?;
    Ok(axum::Json(Deleted { id, object: "response", deleted: true }))
}

/// Refuses: only an answer of the background can be cancelled, and a kept answer has ended.
#[utoipa::path(post, path = "/v1/responses/{id}/cancel", tag = "openai", params(("id" = String, Path)), responses(
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    responses::find(&api.service, &caller.project, &id).await?;
    let message = "only a response that was asked for with background: true can be cancelled; close the connection of \
                   one that is being made";
    Err(ApiError::unreadable("not_cancellable", message))
}

/// What an answer answered: the whole conversation before it, newest first unless `order=asc`.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", tag = "openai", params(("id" = String, Path),
    ("after" = Option<String>, Query), ("limit" = Option<usize>, Query), ("order" = Option<String>, Query)), responses(
    (status = 200, body = InputItems), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn input_items(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<InputItemsQuery>, QueryRejection>,
) -> Result<axum::Json<InputItems>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::unreadable("invalid_query", error.body_text()))?;
    let record = responses::find(&api.service, &caller.project, &id).await?;
    Ok(axum::Json(query.page(record.input)?))
}
