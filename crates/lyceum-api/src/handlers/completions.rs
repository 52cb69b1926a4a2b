//! `POST /v1/completions`, whole or as a stream.

use super::created;
use crate::Api;
use crate::auth::Caller;
use crate::body::Json;
use crate::error::{ApiError, ErrorBody};
use crate::sse;
use crate::wire::completions::{
    Body, Choice, Completion, Delivery, Logprobs, PromptLogprob, PromptLogprobs, PromptTokensDetails, Usage,
    UsageField, Why,
};
use crate::wire::explanation::explanation;
use crate::wire::new_id;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use lyceum_service::completions::{self, Alternative, Piece, PromptToken, Running, Token};
use lyceum_service::explain::{self, What};
use lyceum_service::{Payer, guard};
use lyceum_types::ids::ModelRef;
use serde_json::Value;
use std::collections::HashSet;

/// Continues a text, or answers one with a sequence-to-sequence model.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = Body, responses(
    (status = 200, body = Completion, description = "With stream: true, events whose data is one such object each"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Body>,
) -> Result<Response, ApiError> {
    let wants_ids = body.return_token_ids.unwrap_or(false);
    let (mut request, delivery, why) = body.parse()?;
    request.priority = caller.payer.priority(request.priority);
    let asked = request.model.clone();
    let wants_logprobs = request.logprobs.is_some();
    let wants_prompt = request.prompt_logprobs.is_some();
    let n_choices = request.n * request.prompts.len();
    if let Some(why) = &why {
        guard::require_unchanged_answers(&api.service, &caller.project, "explain").await?;
        let of = (&asked, why.prompt.as_str());
        explain::require_readable(&api.service, &caller.project, of, &why.options).await?;
    }
    let running = completions::create(&api.service, &caller.payer, request).await?;
    if wants_ids {
        running.require_own_tokens("return_token_ids")?;
    }
    let head = Head {
        id: new_id("cmpl-"),
        created: created(),
        model: running.model(),
        fingerprint: running.fingerprint(),
        wants_logprobs,
        wants_prompt,
        wants_ids,
    };
    let asker = why.map(|why| Asker { api: api.clone(), payer: caller.payer.clone(), model: asked, why });
    match delivery {
        Delivery::Whole => {
            let mut completion = whole(head, running, n_choices).await?;
            if let Some(asker) = asker {
                let said = completion.choices.first().map(|choice| choice.text.clone()).unwrap_or_default();
                completion.explanation = Some(asker.explain(said).await?);
            }
            Ok(axum::Json(completion).into_response())
        }
        Delivery::Stream { include_usage } => Ok(sse::stream(events(head, running, include_usage, asker))),
    }
}

/// Who wants to know why.
struct Asker {
    api: Api,
    payer: Payer,
    model: ModelRef,
    why: Why,
}

impl Asker {
    /// Null where nothing was said.
    async fn explain(self, completion: String) -> Result<Value, ApiError> {
        if completion.is_empty() {
            return Ok(Value::Null);
        }
        let Why { prompt, options, extras } = self.why;
        let what = What::Continuation { prompt, completion };
        let request = explain::Request { model: self.model, what, options };
        let explained = explain::create(&self.api.service, &self.payer, request).await?;
        Ok(explanation(&explained, extras))
    }
}

/// What every event of one completion shares.
struct Head {
    id: String,
    created: i64,
    model: String,
    fingerprint: String,
    wants_logprobs: bool,
    wants_prompt: bool,
    wants_ids: bool,
}

impl Head {
    fn completion(&self, choices: Vec<Choice>, usage: UsageField) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices,
            usage,
            explanation: None,
        }
    }
}

async fn whole(head: Head, mut running: Running, n_choices: usize) -> Result<Completion, ApiError> {
    let mut choices: Vec<Choice> = (0..n_choices)
        .map(|index| Choice {
            text: String::new(),
            index,
            logprobs: head.wants_logprobs.then(Logprobs::default),
            finish_reason: None,
            prompt_logprobs: None,
            prompt_token_ids: head.wants_ids.then(|| running.prompt_ids(index).to_vec()),
            token_ids: head.wants_ids.then(Vec::new),
        })
        .collect();
    while let Some(piece) = running.next().await? {
        let choice = &mut choices[piece.choice];
        choice.text.push_str(&piece.text);
        if let Some(logprobs) = &mut choice.logprobs {
            piece.tokens.into_iter().for_each(|token| logprobs.push(token));
        }
        if let Some(ids) = &mut choice.token_ids {
            ids.extend(piece.token_ids);
        }
        choice.finish_reason = piece.finish.map(|finish| finish.as_str()).or(choice.finish_reason);
    }
    for choice in choices.iter_mut().filter(|_| head.wants_prompt) {
        let tokens = running.prompt_tokens(choice.index).iter();
        choice.prompt_logprobs = Some(tokens.map(prompt_logprobs).collect());
    }
    Ok(head.completion(choices, UsageField::Usage(usage(&running))))
}

/// One event a piece; with `include_usage`, `usage` is null in all of them and an event without choices has it.
fn events(
    head: Head,
    running: Running,
    include_usage: bool,
    asker: Option<Asker>,
) -> impl Stream<Item = Result<Completion, ApiError>> + Send {
    let no_usage = move || if include_usage { UsageField::Null(()) } else { UsageField::Absent };
    // Choices of which something was sent.
    let begun = HashSet::new();
    let start = Telling::Pieces { running: Box::new(running), asker, said: String::new(), begun };
    futures_util::stream::unfold(Some((head, start)), move |state| async move {
        let (head, telling) = state?;
        let (mut running, asker, mut said, mut begun) = match telling {
            Telling::Pieces { running, asker, said, begun } => (running, asker, said, begun),
            Telling::Why(asker, said) => return Some((why(&head, asker, said, no_usage()).await, None)),
        };
        match running.next().await {
            Ok(Some(piece)) => {
                said.push_str(&piece.text);
                let is_first = begun.insert(piece.choice);
                let prompt = (head.wants_ids && is_first).then(|| running.prompt_ids(piece.choice).to_vec());
                let event = head.completion(vec![choice(piece, &head, prompt)], no_usage());
                Some((Ok(event), Some((head, Telling::Pieces { running, asker, said, begun }))))
            }
            Ok(None) if include_usage => {
                let event = head.completion(vec![], UsageField::Usage(usage(&running)));
                Some((Ok(event), asker.map(|asker| (head, Telling::Why(asker, said)))))
            }
            Ok(None) => Some((why(&head, asker?, said, no_usage()).await, None)),
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

/// The event that says why.
async fn why(head: &Head, asker: Asker, said: String, usage: UsageField) -> Result<Completion, ApiError> {
    let explanation = Some(asker.explain(said).await?);
    Ok(Completion { explanation, ..head.completion(vec![], usage) })
}

/// Where a stream stands: pieces, then the explanation if it was asked for.
enum Telling {
    Pieces { running: Box<Running>, asker: Option<Asker>, said: String, begun: HashSet<usize> },
    Why(Asker, String),
}

fn choice(piece: Piece, head: &Head, prompt_token_ids: Option<Vec<u32>>) -> Choice {
    let logprobs = head.wants_logprobs.then(|| {
        let mut logprobs = Logprobs::default();
        piece.tokens.into_iter().for_each(|token| logprobs.push(token));
        logprobs
    });
    Choice {
        text: piece.text,
        index: piece.choice,
        logprobs,
        finish_reason: piece.finish.map(|finish| finish.as_str()),
        prompt_logprobs: None,
        prompt_token_ids,
        token_ids: head.wants_ids.then_some(piece.token_ids),
    }
}

/// vLLM's shape: `{"17": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}, …}`.
fn prompt_logprobs(token: &PromptToken) -> Option<PromptLogprobs> {
    let one = |alternative: &Alternative| {
        let Alternative { id, text, logprob, rank } = alternative.clone();
        (id, PromptLogprob { logprob, rank, decoded_token: text })
    };
    token.alternatives.as_ref().map(|alternatives| PromptLogprobs(alternatives.iter().map(one).collect()))
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

impl Logprobs {
    fn push(&mut self, token: Token) {
        self.tokens.push(token.text);
        self.token_logprobs.push(token.logprob);
        self.token_entropies.push(token.entropy);
        self.text_offset.push(token.offset);
        let top = token
            .logprob
            .map(|_| token.top.into_iter().map(|likely| (likely.text, likely.logprob)).collect());
        self.top_logprobs.push(top);
    }
}
