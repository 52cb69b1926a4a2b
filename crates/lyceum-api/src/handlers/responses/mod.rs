//! `/v1/responses`: answers that can be kept and gone on from, whole, as a stream or in the background.
//!
//! [`making`]: somebody waits, and its end is theirs; [`background`]: nobody does.

mod background;
mod making;

use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::handlers::why::{Asker, Said};
use crate::wire::chat::Why;
use crate::wire::documents::ResponseDocument;
use crate::wire::responses::answer::{Answer, Head};
use crate::wire::responses::{Asked, Body, Deleted, FindQuery, InputItems, InputItemsQuery, items};
use crate::{receipts, sse};
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use lyceum_service::chat;
use lyceum_service::responses::{self, Record, ResponseId, Story};
use lyceum_service::retention;
use lyceum_service::{Service, ServiceError};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::tenancy::Retention;
use making::{Keep, Making};
use serde_json::Value;
use std::sync::Arc;

/// Answers an input.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = Body, responses(
    (status = 200, body = ResponseDocument, description = "A Response; with stream: true, typed events that end with \
     response.completed, response.incomplete or response.failed"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(mut body): Json<Body>,
) -> Result<Response, ApiError> {
    let why = body.why()?;
    let asks_to_keep = body.store == Some(true);
    let Asked {
        mut request,
        instructions,
        input,
        previous_response_id,
        mut store,
        background,
        stream,
        mut echo,
    } = body.parse()?;
    request.priority = caller.payer.priority(request.priority);
    for (param, is_asked) in [("store", asks_to_keep), ("background", background)] {
        if is_asked {
            let what = "the answer and what it answers";
            retention::require_kept(&api.service, &caller.project, param, what).await?;
        }
    }
    if api.service.retention(&caller.project).await? == Retention::Nothing {
        store = false;
        echo.insert("store".into(), Value::Bool(false));
    }
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
    let mut said = match why {
        None => None,
        Some((options, extras)) => {
            let why = Why { messages: request.messages.clone(), options, extras };
            Some(Said::new(Asker::new(&api, &caller, (request.model.clone(), request.frame()), why).await?))
        }
    };
    let n_top = request.logprobs;
    let admitted = match background {
        true => None,
        false => Some(chat::admit(&api.service, &caller.project, &request)?),
    };
    let ready = chat::prepare(&api.service, &caller.payer, request).await.map_err(in_own_words)?;
    if let Some(said) = &mut said {
        said.of(ready.reference());
    }
    let defaults = ready.defaults();
    for (name, own) in [("temperature", defaults.temperature), ("top_p", defaults.top_p)] {
        if echo.get(name).is_none_or(Value::is_null) {
            echo.insert(name.into(), shortest(own.unwrap_or(1.0)));
        }
    }
    let id = ResponseId::new();
    let head = Head {
        id: id.as_str().to_owned(),
        created_at: super::created(),
        model: ready.model(),
        background,
        echo,
        n_top,
    };
    if background {
        let place = Keep { service: api.service, project: caller.project, id, input: all };
        return background::create(place, ready, (Answer::begin(head), said), stream).await;
    }
    let running = match admitted {
        Some(admitted) => ready.start_in(admitted).await,
        None => ready.start(&api.service).await,
    };
    let running = running.map_err(in_own_words)?;
    let keep = store.then(|| Keep { service: api.service.clone(), project: caller.project, id, input: all });
    let making = Making { running, answer: Answer::begin(head), keep, said, ending: None };
    match stream {
        false => Ok(axum::Json(making.whole().await?).into_response()),
        true => Ok(sse::typed(making::events(making).map(|event| (event.name.into(), event.data)))),
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
        ServiceError::Invalid { param, code, message } if param == "messages" => {
            ServiceError::Invalid { param: "input".into(), code, message }
        }
        other => other,
    }
}

/// An answer that was kept, or is made in the background; with `stream=true` the events of one of the background that
/// was asked for as a stream, from the one after `starting_after` on.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "openai", params(("id" = String, Path),
    ("stream" = Option<bool>, Query), ("starting_after" = Option<usize>, Query),
    ("include_obfuscation" = Option<bool>, Query), ("X-Privacy-Receipt" = Option<String>, Header, description = "true: \
    the privacy receipt of an answer of the background that was asked for with one, in the header of this name")),
    responses((status = 200, body = ResponseDocument), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn find(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: Result<Query<FindQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::query(&error))?;
    let wants_receipt = receipts::wanted(&headers)?;
    if !query.parse()? {
        let record = responses::find(&api.service, &caller.project, &id).await?;
        let receipt = wants_receipt.then(|| receipt_of(&record)).transpose()?;
        let mut response = axum::Json(record.response).into_response();
        response.headers_mut().extend(receipt);
        return Ok(response);
    }
    if wants_receipt {
        let message = "X-Privacy-Receipt: a receipt is of the whole answer: leave stream out";
        return Err(ApiError::field("X-Privacy-Receipt", "unsupported_parameter", message));
    }
    Ok(match responses::follow(&api.service, &caller.project, &id, query.starting_after).await? {
        Story::Live(followed) => background::stream(followed),
        Story::Ended(events) => sse::typed(stream::iter(events).map(background::named)),
    })
}

/// The header with the receipt of an answer of the background.
fn receipt_of(record: &Record) -> Result<(HeaderName, HeaderValue), ApiError> {
    if matches!(record.response["status"].as_str(), Some("queued" | "in_progress")) {
        let message = "the response has not ended: its receipt is of its end";
        return Err(ServiceError::Conflict { code: "response_not_ended", message: message.into() }.into());
    }
    let Some(receipt) = &record.receipt else {
        let message = "X-Privacy-Receipt: there is none: it has one that was asked for with this header in the \
                       background and came to its end; of others it came with the answer";
        return Err(ApiError::field("X-Privacy-Receipt", "no_receipt", message));
    };
    Ok((receipts::HEADER, receipts::value(receipt)))
}

/// Removes a kept answer; one that is being made ends. Those that went on from it stay whole.
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

/// Ends an answer of the background; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/responses/{id}/cancel", tag = "openai", params(("id" = String, Path)), responses(
    (status = 200, body = ResponseDocument), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub async fn cancel(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(responses::cancel(&api.service, &caller.project, &id).await?.response))
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
    let Query(query) = query.map_err(|error| ApiError::query(&error))?;
    let record = responses::find(&api.service, &caller.project, &id).await?;
    Ok(axum::Json(query.page(record.input)?))
}
