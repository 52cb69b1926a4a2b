//! An answer that nobody waits for: it is queued, made by a task of its own, and told to whoever asks.

use super::making::Keep;
use crate::error::ApiError;
use crate::handlers::why::Said;
use crate::sse;
use crate::wire::responses::answer::Answer;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use lyceum_service::chat::{Ready, Running, Usage};
use lyceum_service::receipts::{self, Later};
use lyceum_service::responses::Record;
use lyceum_service::responses::live::{self, Followed, Maker};
use lyceum_service::{ServiceError, rates};
use lyceum_types::limits;
use serde_json::Value;
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// What makes an answer, and tells how many tokens that took.
type Work = Box<
    dyn for<'a> FnOnce(&'a Maker, &'a mut Answer, &'a mut Usage) -> BoxFuture<'a, Result<(), ServiceError>>
        + Send,
>;

/// Queues an answer; the reply is the answer as it stands in the queue, or the events of all that happens.
pub async fn create(
    place: Keep,
    ready: Ready,
    (mut answer, said): (Answer, Option<Said>),
    is_stream: bool,
) -> Result<Response, ApiError> {
    let early = told(&mut answer);
    let queued = answer.response().clone();
    let events = if is_stream { early } else { Vec::new() };
    let record = Record { response: queued.clone(), input: place.input, events, receipt: None };
    let maker = live::begin(&place.service, &place.project, place.id, record).await?;
    let reply = match is_stream {
        true => stream(maker.follow()),
        false => axum::Json(queued).into_response(),
    };
    let work: Work = Box::new(move |maker, answer, usage| {
        Box::pin(async move { work(maker, (&ready, said), answer, usage).await })
    });
    let making = make(maker, answer, work, receipts::later());
    tokio::spawn(rates::carried(making));
    Ok(reply)
}

/// The events as their followers read them.
pub fn stream(followed: Followed) -> Response {
    let steps = stream::unfold(followed, |mut followed| async move {
        let events = followed.next().await?;
        Some((stream::iter(events), followed))
    });
    sse::typed(steps.flatten().map(named))
}

/// An event under its name.
pub fn named(event: Value) -> (Cow<'static, str>, Value) {
    let name = event["type"].as_str().unwrap_or_default().to_owned();
    (name.into(), event)
}

fn told(answer: &mut Answer) -> Vec<Value> {
    answer.take_events().into_iter().map(|event| event.data).collect()
}

/// Makes the answer; with its receipt where its request wanted one.
async fn make(maker: Maker, answer: Answer, work: Work, later: Option<Later>) {
    match later {
        Some(later) => receipts::scope(later.witness(), make_with(maker, answer, work, Some(&later))).await,
        None => make_with(maker, answer, work, None).await,
    }
}

/// Makes the answer until it ends, breaks off or is ended. Whoever follows it is told of each, a panic too.
async fn make_with(maker: Maker, mut answer: Answer, work: Work, later: Option<&Later>) {
    let mut usage = Usage::default();
    let made = tokio::select! {
        biased;
        () = maker.ended() => None,
        made = AssertUnwindSafe(work(&maker, &mut answer, &mut usage)).catch_unwind() => Some(made),
    };
    // The panic has told its own words where it happened.
    let panicked = |_| Err(ServiceError::internal("an answer of the background panicked", "bug"));
    let made = made.map(|made| made.unwrap_or_else(panicked));
    match made {
        None => answer.cancel(usage),
        Some(Ok(())) => {}
        Some(Err(error)) => {
            let error = ApiError::from(error);
            answer.fail(&error.detail, usage);
        }
    }
    let events = told(&mut answer);
    let receipt = match later {
        Some(later) => maker.receipt(later, answer.response()).await,
        None => None,
    };
    if let Err(error) = maker.end(events, answer.response(), receipt).await {
        // What lies on the disk is an answer that broke off.
        let error = ApiError::from(error);
        tracing::error!(error = error.detail.message, "an answer of the background was not kept");
        answer.fail(&error.detail, usage);
        maker.last_words(told(&mut answer), answer.response());
    }
}

async fn work(
    maker: &Maker,
    (ready, mut said): (&Ready, Option<Said>),
    answer: &mut Answer,
    usage: &mut Usage,
) -> Result<(), ServiceError> {
    let _place = maker.place().await?;
    let mut running = start(maker, ready).await?;
    answer.start();
    maker.tell(told(answer), answer.response());
    maker.save().await?;
    loop {
        let Some(delta) = running.next().await? else {
            return Err(ServiceError::internal("an answer ended without saying so", "bug"));
        };
        let finish = delta.finish;
        if let Some(said) = &mut said {
            said.hear(&delta);
        }
        answer.push(delta);
        *usage = running.usage();
        if let Some(ending) = finish {
            if let Some(said) = said.take() {
                // What was said is told before it is explained, and lies on the disk should this process end.
                maker.tell(told(answer), answer.response());
                maker.save().await?;
                let deadline = tokio::time::Instant::now() + limits::BACKGROUND_RESPONSE_TIMEOUT;
                answer.explain(said.explain_by(deadline).await);
            }
            answer.end(ending, *usage);
            return Ok(());
        }
        maker.tell(told(answer), answer.response());
    }
}

/// How long until what refuses now may pass.
fn wait(error: &ServiceError) -> Option<Duration> {
    match error {
        ServiceError::Overloaded { retry_after } => Some(*retry_after),
        ServiceError::RateLimited(reached) => reached.retry_after,
        _ => None,
    }
}

/// Begins when the engine has room: nobody waits who could come again.
async fn start(maker: &Maker, ready: &Ready) -> Result<Running, ServiceError> {
    let deadline = tokio::time::Instant::now() + limits::BACKGROUND_RESPONSE_TIMEOUT;
    loop {
        match ready.start(maker.service()).await {
            Err(error) if wait(&error).is_some() => {
                let retry_after = wait(&error).unwrap_or_default();
                if tokio::time::Instant::now() + retry_after > deadline {
                    return Err(ServiceError::DeadlinePassed);
                }
                tokio::time::sleep(retry_after).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::responses::answer::Head;
    use lyceum_engine::{Engine, EngineLimits};
    use lyceum_service::Service;
    use lyceum_service::responses::{self, ResponseId, Story};
    use lyceum_store::{Layout, Store};
    use lyceum_types::clock::Timestamp;
    use lyceum_types::ids::Project;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_panic_is_told_as_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
        let service = Arc::new(Service::new(store, Engine::start(EngineLimits::default()).unwrap()));
        let (project, id) = (Project::default_project(), ResponseId::new());
        let mut answer = Answer::begin(Head {
            id: id.as_str().to_owned(),
            created_at: 0,
            model: "a".into(),
            background: true,
            echo: serde_json::Map::new(),
            n_top: None,
        });
        let events = told(&mut answer);
        let record = Record { response: answer.response().clone(), input: Vec::new(), events, receipt: None };
        let maker = live::begin(&service, &project, id.clone(), record).await.unwrap();
        let mut followed = maker.follow();
        let work: Work = Box::new(|maker, answer, usage| {
            Box::pin(async move {
                answer.start();
                usage.prompt_tokens = 3;
                maker.tell(told(answer), answer.response());
                panic!("an answer that panics, as the test wants it")
            })
        });
        make(maker, answer, work, None).await;
        let mut names = Vec::new();
        while let Some(events) = followed.next().await {
            names.extend(events.into_iter().map(|event| named(event).0));
        }
        assert_eq!(names, ["response.created", "response.queued", "response.in_progress", "response.failed"]);
        let kept = responses::find(&service, &project, id.as_str()).await.unwrap();
        assert_eq!(kept.response["status"], "failed");
        assert_eq!(kept.response["error"]["code"], "server_error");
        assert_eq!(kept.response["usage"]["input_tokens"], 3);
        let Story::Ended(again) = responses::follow(&service, &project, id.as_str(), Some(2)).await.unwrap()
        else {
            panic!("it has ended")
        };
        assert_eq!(again.len(), 1, "{again:?}");
    }
}
