//! `lyceum run` with an imported language model: a conversation through the model's own template.

use super::Run;
use crate::context::Context;
use crate::failure::Failure;
use crate::{files, output};
use lyceum_service::Payer;
use lyceum_service::chat::{self, AskedForm, Calls, Constraint, Ending, Sampling};
use lyceum_service::{Language, Service};
use lyceum_types::ids::ModelRef;
use serde_json::{Map, Value, json};

const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// What has been said so far.
pub(super) struct Conversation {
    reference: ModelRef,
    messages: Vec<Value>,
    form: Option<AskedForm>,
}

impl Conversation {
    pub(super) fn new(run: &Run, reference: ModelRef, language: &Language) -> Result<Self, Failure> {
        if matches!(language.version.task.as_str(), "embedding" | "scoring") {
            return Err(super::no_conversation(&language.version.id()));
        }
        if language.words.template.is_none() {
            let message = format!("{} has no chat template", language.version.id());
            let why = "its files hold none: it continues texts";
            return Err(Failure::usage(message, why, "lyceum serve, and POST /v1/completions"));
        }
        let form = match &run.json_schema {
            None => None,
            Some(path) => {
                let text = files::read_text(path, SCHEMA_BYTES_MAX)?;
                let schema = serde_json::from_str(&text).map_err(|error| {
                    let why = "it is no JSON";
                    let mut failure = Failure::usage(error.to_string(), why, "write a JSON schema");
                    failure.place.file = Some(path.display().to_string());
                    failure
                })?;
                let constraint = Constraint::JsonSchema { schema, strict: false };
                Some(AskedForm { constraint, field: "--json-schema" })
            }
        };
        let system = run.system.iter().map(|text| json!({ "role": "system", "content": text }));
        Ok(Conversation { reference, messages: system.collect(), form })
    }

    /// Forgets what was said, but not what the model was told before.
    pub(super) fn clear(&mut self) {
        self.messages.retain(|message| message["role"] == "system");
    }

    /// One turn: people see the answer while it comes; it stays part of the conversation.
    pub(super) async fn say(
        &mut self,
        run: &Run,
        context: &Context,
        service: &Service,
        prompt: &str,
    ) -> Result<(), Failure> {
        if prompt.trim().is_empty() {
            return Err(super::empty_prompt());
        }
        let mut messages = self.messages.clone();
        messages.push(json!({ "role": "user", "content": prompt }));
        let request = chat::Request {
            thinking: None,
            model: self.reference.clone(),
            messages: messages.clone(),
            n: 1,
            max_tokens: run.max_tokens.map(|n| n as usize),
            in_background: false,
            sampling: Sampling { temperature: run.temperature, seed: Some(run.seed), ..Sampling::default() },
            stop: Vec::new(),
            stop_ids: Vec::new(),
            logprobs: run.logprobs.map(|n| n as usize),
            template_variables: Map::new(),
            tools: Vec::new(),
            tool_choice: None,
            calls: Calls::Any,
            form: self.form.clone(),
            ignore_eos: false,
            priority: chat::Priority::Interactive,
        };
        let mut running = chat::create(service, &Payer::local(&context.project), request).await?;
        let (mut text, mut thought, mut token_ids, mut logprobs) =
            (String::new(), String::new(), Vec::new(), Vec::new());
        let mut finish = Ending::Stop;
        while let Some(delta) = running.next().await? {
            if !context.is_json() {
                if !delta.reasoning.is_empty() {
                    output::write_stderr(&delta.reasoning);
                }
                output::write_stdout(&delta.content);
            }
            text.push_str(&delta.content);
            thought.push_str(&delta.reasoning);
            token_ids.extend(delta.token_ids);
            logprobs.extend(delta.tokens.iter().map(|token| {
                let top: Vec<Value> = token
                    .top
                    .iter()
                    .map(|likely| json!({ "token": likely.text, "logprob": likely.logprob }))
                    .collect();
                json!({ "token": token.text, "logprob": token.logprob, "top": top })
            }));
            finish = delta.finish.unwrap_or(finish);
            if context.control.check().is_err() {
                return Err(Failure::interrupted("what was written so far stands above"));
            }
        }
        let usage = running.usage();
        messages.push(json!({ "role": "assistant", "content": text }));
        self.messages = messages;
        if !context.is_json() {
            output::write_stdout("\n");
            super::show_logprobs(Some(&logprobs));
            return Ok(());
        }
        let mut line = json!({
            "text": text,
            "token_ids": token_ids,
            "finish_reason": finish.as_str(),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        });
        if !thought.is_empty() {
            line["reasoning"] = json!(thought);
        }
        if run.logprobs.is_some() {
            line["logprobs"] = Value::from(logprobs);
        }
        output::json_line(&line);
        Ok(())
    }
}
