//! `lyceum run MODEL [PROMPT]`: one question, or a conversation on a terminal.

mod converse;
mod piped;
mod typed;

pub use piped::{prompt, text};
pub use typed::{Typed, greet, next as next_typed};

use crate::commands::predict;
use crate::context::{Context, Speaker};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use converse::Conversation;
use lyceum_engine::{Event, Finish, Flow, GenerateRequest, Sampling, TokenEvent};
use lyceum_models::InputShape;
use lyceum_models::answer::{Bounds, Question};
use lyceum_models::prepare::text::TextStream;
use lyceum_models::prepare::{OutputPreparation, PreparedValue, Raw};
use lyceum_nn::Workspace;
use lyceum_service::{Content, Resident, Service};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Run {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// What to continue or answer; what is piped in follows it after an empty line. Without either, a conversation
    pub(in crate::commands) prompt: Option<String>,
    /// Tokens to write at most: 256, or what the context of an imported model has room for
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(in crate::commands) max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time: the default but for imported models, whose files may recommend one
    #[arg(long)]
    pub(in crate::commands) temperature: Option<f32>,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub(in crate::commands) seed: u64,
    /// Also the log-probability of each token, beside this many of the likeliest
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0", value_parser = clap::value_parser!(u32).range(0..=5))]
    pub(in crate::commands) logprobs: Option<u32>,
    /// Imported language models: what the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(in crate::commands) system: Option<String>,
    /// Imported language models: every answer is JSON of the schema in this file
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) json_schema: Option<std::path::PathBuf>,
}

/// Tokens that a trained model writes unless it is told otherwise.
pub const MAX_TOKENS: u32 = 256;

impl Run {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(temperature) = self.temperature.filter(|t| !(0.0..=2.0).contains(t)) {
            let message = format!("--temperature {temperature} is not between 0 and 2");
            return Err(Failure::usage(message, "it scales the logits", "write as in --temperature 0.8"));
        }
        let prompt = prompt(context, self.prompt.as_deref())?;
        match context.speaker(&self.model).await? {
            (service, Speaker::Language(reference, language)) => {
                let mut conversation = Conversation::new(&self, reference, &language)?;
                match prompt {
                    Some(prompt) => conversation.say(&self, context, &service, &prompt).await,
                    None => {
                        greet(&self.model);
                        loop {
                            match next_typed(context)? {
                                Typed::End => return Ok(()),
                                Typed::Clear => conversation.clear(),
                                Typed::Text(line) => {
                                    told(context, conversation.say(&self, context, &service, &line).await)?;
                                }
                            }
                        }
                    }
                }
            }
            (service, Speaker::Trained(resident)) => {
                if self.system.is_some() || self.json_schema.is_some() {
                    let why = "a model that Lyceum trained has no chat template";
                    return Err(Failure::usage(
                        "--system and --json-schema do not go with it",
                        why,
                        "leave them out",
                    ));
                }
                match prompt {
                    Some(prompt) => self.ask(context, &service, &resident, &prompt).await,
                    None => self.talk(context, &service, &resident).await,
                }
            }
        }
    }

    /// Until the end of stdin or Ctrl-C.
    async fn talk(&self, context: &Context, service: &Service, resident: &Resident) -> Result<(), Failure> {
        greet(&self.model);
        loop {
            match next_typed(context)? {
                Typed::End => return Ok(()),
                // Each text is a question of its own.
                Typed::Clear => {}
                Typed::Text(line) => told(context, self.ask(context, service, resident, &line).await)?,
            }
        }
    }

    async fn ask(
        &self,
        context: &Context,
        service: &Service,
        resident: &Resident,
        prompt: &str,
    ) -> Result<(), Failure> {
        if resident.preparation.output != OutputPreparation::Tokens {
            let answer = predict::one(context, service, resident, content(prompt)).await?;
            if context.is_json() {
                output::json_line(&answer);
            } else {
                predict_for_people(&answer);
            }
            return Ok(());
        }
        let written = self.write(context, service, resident, prompt).await?;
        if context.is_json() {
            output::json_line(&written);
        } else {
            output::write_stdout("\n");
            show_logprobs(written["logprobs"].as_array());
        }
        Ok(())
    }

    /// The continuation; people see it while it comes.
    async fn write(
        &self,
        context: &Context,
        service: &Service,
        resident: &Resident,
        prompt: &str,
    ) -> Result<Value, Failure> {
        let refused =
            |message: String, why: &str, fix: &str| Failure::new(Exit::Failed, "prompt", message, why, fix);
        let tokenizer = resident.preparation.tokenizer();
        let tokenizer = tokenizer.ok_or_else(|| {
            refused(
                format!("{} reads no text", resident.version.id()),
                "it has no tokenizer",
                "lyceum predict",
            )
        })?;
        let (source, ids) = if prompt.is_empty() {
            let first = tokenizer.bos().or(tokenizer.eos());
            let is_pair = matches!(resident.model.shape.input, InputShape::Pair { .. });
            let first = first.filter(|_| !is_pair).ok_or_else(empty_prompt)?;
            (None, vec![first])
        } else {
            let example = resident.preparation.example(Raw::Text(prompt));
            let prepared = example
                .map_err(|error| refused(error.message.clone(), "the prompt cannot be read", &error.fix))?;
            if prepared.n_truncated > 0 {
                let message = format!("the prompt is {} tokens too long", prepared.n_truncated);
                return Err(refused(message, "the model reads no more", "shorten the prompt"));
            }
            match prepared.value {
                PreparedValue::Tokens(ids) => (None, ids),
                PreparedValue::Pair { source, target } => (Some(source), target),
                PreparedValue::Dense(_) => unreachable!("a tokenizer makes tokens: bug"),
            }
        };
        let max_tokens = self.max_tokens.unwrap_or(MAX_TOKENS) as usize;
        let n_prompt = source.as_ref().map_or(ids.len(), Vec::len);
        let mut text = TextStream::default();
        let (mut whole, mut token_ids, mut logprobs) = (String::new(), Vec::new(), Vec::new());
        let mut show = |piece: &str| {
            whole.push_str(piece);
            if !context.is_json() {
                output::write_stdout(piece);
            }
        };
        let finish;
        if resident.model.answers_at_once() {
            if self.temperature.unwrap_or(0.0) != 0.0 || self.logprobs.is_some() {
                let why = "this model says its whole answer in one pass";
                return Err(refused("no temperature or logprobs here".into(), why, "leave them out"));
            }
            let begin = tokenizer.bos().unwrap_or(0);
            let questions = [Question::Source { source: source.as_deref().unwrap_or(&ids), begin }];
            let n_max = max_tokens;
            let never = tokenizer.never_said();
            let bounds = Bounds { end: tokenizer.eos(), never: &never, n_tokens_max: n_max };
            let answers = resident.model.answers(&mut Workspace::new(), &questions, bounds);
            let answers = answers.map_err(|error| Failure::internal("the model does not answer", &error))?;
            token_ids = answers.into_iter().next().unwrap_or_default();
            finish = if token_ids.len() < n_max { Finish::Stop } else { Finish::Length };
            token_ids.iter().for_each(|id| show(&text.push(tokenizer, *id)));
        } else {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(max_tokens + 2);
            let control = context.control.clone();
            let sink = Box::new(move |event| {
                let heard = control.check().is_ok() && sender.try_send(event).is_ok();
                if heard { Flow::Continue } else { Flow::Stop }
            });
            let sampling = Sampling {
                temperature: self.temperature.unwrap_or(0.0),
                seed: self.seed,
                ..Sampling::default()
            };
            let request = GenerateRequest {
                source,
                end_tokens: tokenizer.eos().into_iter().collect(),
                never_tokens: tokenizer.never_said(),
                sampling,
                logprobs: self.logprobs.map(|n| n as usize),
                ..GenerateRequest::new(resident.model.clone(), ids, max_tokens, sink)
            };
            let failed = |error: lyceum_engine::EngineError| Failure::internal("the engine failed", &error);
            service.engine().generate(request).map_err(failed)?;
            finish = loop {
                match receiver.recv().await {
                    Some(Event::Token(token)) => {
                        show(&text.push(tokenizer, token.id));
                        logprobs.extend(logprob(tokenizer, &token));
                        token_ids.push(token.id);
                    }
                    Some(Event::Prompt(_)) => {}
                    Some(Event::Done(finish)) => break finish,
                    Some(Event::Failed(error)) => return Err(failed(error)),
                    None => return Err(Failure::interrupted("what was written so far stands above")),
                }
            };
        }
        show(&text.finish());
        let mut line = json!({
            "text": whole,
            "token_ids": token_ids,
            "finish_reason": match finish { Finish::Stop => "stop", Finish::Length => "length" },
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": token_ids.len(),
                "total_tokens": n_prompt + token_ids.len(),
            },
        });
        if self.logprobs.is_some() {
            line["logprobs"] = Value::from(logprobs);
        }
        Ok(line)
    }
}

/// A turn that failed is told and the conversation goes on; Ctrl-C ends both.
pub fn told(context: &Context, turn: Result<(), Failure>) -> Result<(), Failure> {
    match turn {
        Err(failure) if context.control.check().is_err() => Err(failure),
        Err(failure) => {
            failure.print(context.is_json());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A model that makes numbers of texts.
pub fn no_conversation(model: &str) -> Failure {
    let why = "it makes numbers of texts and continues none";
    let fix = "lyceum embed makes vectors; POST /v1/rerank gives scores";
    Failure::usage(format!("{model} does not converse"), why, fix)
}

pub fn empty_prompt() -> Failure {
    let fix = "write it behind the model's name, or send a text on stdin";
    Failure::usage("the prompt is empty", "there is nothing to answer", fix)
}

/// What each token was worth, below the answer.
pub fn show_logprobs(tokens: Option<&Vec<Value>>) {
    let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) else { return };
    let number = |value: &Value| value.as_f64().map_or_else(String::new, |x| format!("{x:.4}"));
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            let top = token.get("top").or_else(|| token.get("top_logprobs")).and_then(Value::as_array);
            let likely = top.into_iter().flatten();
            let likely: Vec<String> =
                likely.map(|one| format!("{} {}", one["token"], number(&one["logprob"]))).collect();
            vec![token["token"].to_string(), number(&token["logprob"]), likely.join("  ")]
        })
        .collect();
    output::table(&["token", "logprob", "likeliest"], &rows);
}

fn logprob(tokenizer: &lyceum_models::prepare::text::Tokenizer, token: &TokenEvent) -> Option<Value> {
    let logprobs = token.logprobs.as_ref()?;
    let top: Vec<Value> = logprobs
        .top
        .iter()
        .map(|(id, logprob)| json!({ "id": id, "token": tokenizer.token_text(*id), "logprob": logprob }))
        .collect();
    Some(json!({
        "id": token.id, "token": tokenizer.token_text(token.id), "logprob": logprobs.chosen, "top": top
    }))
}

/// A row written as JSON, or a text.
fn content(prompt: &str) -> Content {
    match serde_json::from_str(prompt) {
        Ok(Value::Object(row)) => Content::Row(row),
        Ok(Value::Array(values)) => Content::Values(values),
        _ => Content::Text(prompt.to_owned()),
    }
}

pub fn predict_for_people(answer: &Value) {
    let text = match &answer["output"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    output::text(text);
    let Some(probabilities) = answer["probabilities"].as_object() else { return };
    let mut rows: Vec<(&String, f64)> =
        probabilities.iter().map(|(name, p)| (name, p.as_f64().unwrap_or(0.0))).collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let rows: Vec<Vec<String>> =
        rows.into_iter().take(10).map(|(name, p)| vec![name.clone(), format!("{p:.4}")]).collect();
    output::table(&["label", "probability"], &rows);
}
