//! An imported language model: what it answers to one message, or how it goes on behind a text.

use super::{Explain, SAID_TOKENS, content, said};
use crate::context::Context;
use crate::failure::Failure;
use lyceum_service::chat::{self, Calls, Sampling};
use lyceum_service::explain::{Frame, Saying, What};
use lyceum_service::{Content, Language, Payer, Service};
use lyceum_types::ids::ModelRef;
use serde_json::{Map, Value, json};

/// The question in words: a message where the model has a chat template, else a text that goes on.
pub(super) async fn what(
    explain: &Explain,
    context: &Context,
    service: &Service,
    (reference, language): (&ModelRef, &Language),
) -> Result<What, Failure> {
    let Content::Text(prompt) = content(&explain.input)? else {
        let why = "a language model reads a text";
        return Err(Failure::usage("--input is no text", why, "give a text or a .txt file"));
    };
    if language.words.template.is_none() {
        let completion = match &explain.completion {
            Some(completion) => completion.clone(),
            None => said(context, service, reference, (&prompt, Some(SAID_TOKENS))).await?,
        };
        return Ok(What::Continuation { prompt, completion });
    }
    let messages = vec![json!({ "role": "user", "content": prompt })];
    let saying = match &explain.completion {
        Some(completion) => Saying::Text(completion.clone()),
        None => answer(context, service, (reference, &messages), explain.part.is_some()).await?,
    };
    Ok(What::Conversation { messages, frame: Frame::default(), saying })
}

/// The likeliest answer, or its beginning; its tokens where a part of it is named.
async fn answer(
    context: &Context,
    service: &Service,
    (model, messages): (&ModelRef, &[Value]),
    in_parts: bool,
) -> Result<Saying, Failure> {
    let request = chat::Request {
        model: model.clone(),
        messages: messages.to_vec(),
        thinking: None,
        n: 1,
        max_tokens: Some(2 * SAID_TOKENS),
        in_background: false,
        sampling: Sampling { seed: Some(0), ..Sampling::greedy() },
        stop: Vec::new(),
        stop_ids: Vec::new(),
        logprobs: None,
        template_variables: Map::new(),
        tools: Vec::new(),
        tool_choice: None,
        calls: Calls::Any,
        form: None,
        ignore_eos: false,
        priority: chat::Priority::Interactive,
    };
    let mut running = chat::create(service, &Payer::local(&context.project), request).await?;
    let (mut text, mut ids, mut is_plain) = (String::new(), Vec::new(), true);
    while let Some(delta) = running.next().await? {
        is_plain &= delta.reasoning.is_empty();
        text.push_str(&delta.content);
        ids.extend(delta.token_ids);
    }
    Ok(if is_plain && !in_parts { Saying::Text(text) } else { Saying::Tokens(ids) })
}
