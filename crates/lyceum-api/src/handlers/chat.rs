//! `POST /v1/chat/completions`, whole or as a stream.

use super::created;
use super::why::{Asker, Said};
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::sse;
use crate::wire::chat::{Body, Call, Choice, Chunk, ChunkChoice, Completion, Delta, Logprobs, Message};
use crate::wire::completions::{Delivery, PromptTokensDetails, Usage};
use crate::wire::{new_id, tier};
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use lyceum_service::chat::{self, Priority, Running};
use std::collections::HashSet;

/// Answers a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = Body, responses(
    (status = 200, body = Completion, description = "With stream: true, events whose data is a ChatCompletionChunk each"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(mut body): Json<Body>,
) -> Result<Response, ApiError> {
    let why = body.why()?;
    let (_, service_tier) = tier(body.service_tier.as_deref())?;
    let (mut request, delivery) = body.parse()?;
    request.priority = caller.payer.priority(request.priority);
    let (n, n_top, request_class) = (request.n, request.logprobs, request.priority);
    let mut said = match why {
        Some(why) => {
            let asked = (request.model.clone(), request.frame());
            Some(Said::new(Asker::new(&api, &caller, asked, why).await?))
        }
        None => None,
    };
    let running = chat::create(&api.service, &caller.payer, request).await?;
    if let Some(said) = &mut said {
        said.of(running.reference());
    }
    let head = Head {
        id: new_id("chatcmpl-"),
        created: created(),
        model: running.model(),
        fingerprint: running.fingerprint(),
        service_tier: match request_class {
            Priority::Batch => "flex",
            Priority::Interactive => service_tier,
        },
        n_top,
    };
    match delivery {
        Delivery::Whole => {
            let mut completion = whole(head, running, n, said.as_mut()).await?;
            if let Some(said) = said {
                completion.explanation = Some(said.explain().await);
            }
            Ok(axum::Json(completion).into_response())
        }
        Delivery::Stream { include_usage } => Ok(sse::stream(events(head, running, include_usage, said))),
    }
}

/// What every event of one answer shares.
struct Head {
    id: String,
    created: i64,
    model: String,
    fingerprint: String,
    service_tier: &'static str,
    /// Log-probabilities are given, with this many most likely tokens.
    n_top: Option<usize>,
}

impl Head {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            service_tier: self.service_tier,
            choices,
            usage,
            explanation: None,
        }
    }

    fn logprobs(&self, tokens: Vec<chat::Token>) -> Option<Logprobs> {
        self.n_top.map(|n_top| {
            let mut logprobs = Logprobs::default();
            logprobs.push(tokens, n_top);
            logprobs
        })
    }
}

async fn whole(
    head: Head,
    mut running: Running,
    n: usize,
    mut said: Option<&mut Said>,
) -> Result<Completion, ApiError> {
    let message = || Message { role: "assistant", content: Some(String::new()), ..Message::default() };
    let mut choices: Vec<Choice> = (0..n)
        .map(|index| Choice {
            index,
            message: message(),
            logprobs: head.logprobs(vec![]),
            finish_reason: None,
        })
        .collect();
    while let Some(delta) = running.next().await? {
        if let Some(said) = &mut said {
            said.hear(&delta);
        }
        let choice = &mut choices[delta.choice];
        choice.message.content.get_or_insert_default().push_str(&delta.content);
        if !delta.reasoning.is_empty() {
            choice.message.reasoning_content.get_or_insert_default().push_str(&delta.reasoning);
        }
        if !delta.calls.is_empty() {
            let calls = delta.calls.into_iter().map(|call| Call::of(call, None));
            choice.message.tool_calls.get_or_insert_default().extend(calls);
        }
        if let (Some(logprobs), Some(n_top)) = (&mut choice.logprobs, head.n_top) {
            logprobs.push(delta.tokens, n_top);
        }
        choice.finish_reason = delta.finish.map(|finish| finish.as_str()).or(choice.finish_reason);
    }
    for message in choices.iter_mut().map(|choice| &mut choice.message) {
        // An answer that only calls says nothing.
        if message.tool_calls.is_some() && message.content.as_deref() == Some("") {
            message.content = None;
        }
    }
    Ok(Completion {
        usage: usage(&running),
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: head.fingerprint,
        service_tier: head.service_tier,
        choices,
        explanation: None,
    })
}

/// The role first, then one event a part; with `include_usage`, `usage` is null in all of them and an event without
/// choices has it.
fn events(
    head: Head,
    running: Running,
    include_usage: bool,
    said: Option<Said>,
) -> impl Stream<Item = Result<Chunk, ApiError>> + Send {
    let no_usage = include_usage.then_some(None);
    let start = Telling::Parts { running: Box::new(running), begun: HashSet::new(), said };
    futures_util::stream::unfold(Some((head, start)), move |state| async move {
        let (head, telling) = state?;
        let (mut running, mut begun, mut said) = match telling {
            Telling::Parts { running, begun, said } => (running, begun, said),
            Telling::Why(said) => return Some((Ok(why(&head, said, no_usage).await), None)),
        };
        match running.next().await {
            Ok(Some(delta)) => {
                if let Some(said) = &mut said {
                    said.hear(&delta);
                }
                let role = begun.insert(delta.choice).then_some("assistant");
                let some = |text: String| (!text.is_empty()).then_some(text);
                let first = delta.first_call;
                let calls = delta.calls.into_iter().enumerate();
                let calls: Vec<Call> = calls.map(|(i, call)| Call::of(call, Some(first + i))).collect();
                let content = match (role, some(delta.content)) {
                    // The first event has a content, as OpenAI's has.
                    (Some(_), None) if calls.is_empty() => Some(String::new()),
                    (_, content) => content,
                };
                let choice = ChunkChoice {
                    index: delta.choice,
                    delta: Delta {
                        role,
                        content,
                        reasoning_content: some(delta.reasoning),
                        tool_calls: (!calls.is_empty()).then_some(calls),
                    },
                    logprobs: head.logprobs(delta.tokens),
                    finish_reason: delta.finish.map(|finish| finish.as_str()),
                };
                let chunk = head.chunk(vec![choice], no_usage);
                Some((Ok(chunk), Some((head, Telling::Parts { running, begun, said }))))
            }
            Ok(None) if include_usage => {
                let chunk = head.chunk(vec![], Some(Some(usage(&running))));
                Some((Ok(chunk), said.map(|said| (head, Telling::Why(said)))))
            }
            Ok(None) => Some((Ok(why(&head, said?, no_usage).await), None)),
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

/// Where a stream stands: parts, then the explanation if it was asked for.
enum Telling {
    Parts { running: Box<Running>, begun: HashSet<usize>, said: Option<Said> },
    Why(Said),
}

/// The event that says why.
async fn why(head: &Head, said: Said, no_usage: Option<Option<Usage>>) -> Chunk {
    let explanation = Some(said.explain().await);
    Chunk { explanation, ..head.chunk(vec![], no_usage) }
}

fn usage(running: &Running) -> Usage {
    let usage = running.usage();
    Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
    }
}
