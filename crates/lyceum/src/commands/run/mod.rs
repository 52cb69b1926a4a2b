//! `lyceum run MODEL [PROMPT]`: one question, or a conversation on a terminal.

mod converse;

use crate::commands::predict;
use crate::context::{Context, Speaker};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use converse::Conversation;
use lyceum_engine::{Event, Finish, Flow, GenerateRequest, Sampling, TokenEvent};
use lyceum_models::answer::{Bounds, Question};
use lyceum_models::prepare::text::{TextStream, Tokenizer};
use lyceum_models::prepare::{OutputPreparation, PreparedValue, Raw};
use lyceum_nn::Workspace;
use lyceum_service::{Content, Resident, Service};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};

#[derive(Debug, Args)]
pub struct Run {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// What to continue or answer; without it stdin is read, line by line on a terminal
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

const PROMPT_BYTES_MAX: u64 = 16 << 20;

impl Run {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(temperature) = self.temperature.filter(|t| !(0.0..=2.0).contains(t)) {
            let message = format!("--temperature {temperature} is not between 0 and 2");
            return Err(Failure::usage(message, "it scales the logits", "write as in --temperature 0.8"));
        }
        let prompt = match &self.prompt {
            Some(prompt) => Some(prompt.clone()),
            None if std::io::stdin().is_terminal() => None,
            None => Some(piped()?),
        };
        match context.speaker(&self.model).await? {
            (service, Speaker::Language(reference, language)) => {
                let mut conversation = Conversation::new(&self, reference, &language)?;
                match prompt {
                    Some(prompt) => conversation.say(&self, context, &service, &prompt).await,
                    None => {
                        while let Some(line) = next_line(context).await? {
                            if let Err(failure) = conversation.say(&self, context, &service, &line).await {
                                failure.print(context.is_json());
                            }
                        }
                        Ok(())
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
        while let Some(line) = next_line(context).await? {
            if let Err(failure) = self.ask(context, service, resident, &line).await {
                failure.print(context.is_json());
            }
        }
        Ok(())
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
        let tokenizer = resident.preparation.tokenizer().ok_or_else(|| {
            let message = format!("{} reads no text", resident.version.id());
            refused(message, "it has no tokenizer", "lyceum predict")
        })?;
        let prompt = Prompt::read(resident, tokenizer, prompt)?;
        let n_prompt = prompt.source.as_ref().map_or(prompt.ids.len(), Vec::len);
        let mut text = TextStream::default();
        let mut whole = String::new();
        let mut show = |piece: &str| {
            whole.push_str(piece);
            if !context.is_json() {
                output::write_stdout(piece);
            }
        };
        let mut hear = |id: u32| show(&text.push(tokenizer, id));
        let said = match resident.model.answers_at_once() {
            true => self.answer_at_once(resident, tokenizer, &prompt, &mut hear)?,
            false => self.generate(context, service, (resident, tokenizer), prompt, &mut hear).await?,
        };
        show(&text.finish());
        let n_said = said.token_ids.len();
        let mut line = json!({
            "text": whole,
            "token_ids": said.token_ids,
            "finish_reason": match said.finish { Finish::Stop => "stop", Finish::Length => "length" },
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_said,
                "total_tokens": n_prompt + n_said,
            },
        });
        if self.logprobs.is_some() {
            line["logprobs"] = Value::from(said.logprobs);
        }
        Ok(line)
    }

    fn n_tokens_max(&self) -> usize {
        self.max_tokens.unwrap_or(MAX_TOKENS) as usize
    }

    /// A model that says all steps in one pass.
    fn answer_at_once(
        &self,
        resident: &Resident,
        tokenizer: &Tokenizer,
        prompt: &Prompt,
        hear: &mut dyn FnMut(u32),
    ) -> Result<Said, Failure> {
        if self.temperature.unwrap_or(0.0) != 0.0 || self.logprobs.is_some() {
            let why = "this model says its whole answer in one pass";
            return Err(refused("no temperature or logprobs here".into(), why, "leave them out"));
        }
        let begin = tokenizer.bos().unwrap_or(0);
        let questions = [Question::Source { source: prompt.source.as_deref().unwrap_or(&prompt.ids), begin }];
        let (n_tokens_max, never) = (self.n_tokens_max(), tokenizer.never_said());
        let bounds = Bounds { end: tokenizer.eos(), never: &never, n_tokens_max };
        let answers = resident.model.answers(&mut Workspace::new(), &questions, bounds);
        let answers = answers.map_err(|error| Failure::internal("the model does not answer", &error))?;
        let token_ids = answers.into_iter().next().unwrap_or_default();
        token_ids.iter().for_each(|id| hear(*id));
        let finish = if token_ids.len() < n_tokens_max { Finish::Stop } else { Finish::Length };
        Ok(Said { token_ids, logprobs: Vec::new(), finish })
    }

    /// One sequence of the engine, heard token by token.
    async fn generate(
        &self,
        context: &Context,
        service: &Service,
        (resident, tokenizer): (&Resident, &Tokenizer),
        prompt: Prompt,
        hear: &mut dyn FnMut(u32),
    ) -> Result<Said, Failure> {
        let max_tokens = self.n_tokens_max();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(max_tokens + 2);
        let control = context.control.clone();
        let sink = Box::new(move |event| {
            let heard = control.check().is_ok() && sender.try_send(event).is_ok();
            if heard { Flow::Continue } else { Flow::Stop }
        });
        let sampling =
            Sampling { temperature: self.temperature.unwrap_or(0.0), seed: self.seed, ..Sampling::default() };
        let request = GenerateRequest {
            source: prompt.source,
            end_tokens: tokenizer.eos().into_iter().collect(),
            never_tokens: tokenizer.never_said(),
            sampling,
            logprobs: self.logprobs.map(|n| n as usize),
            ..GenerateRequest::new(resident.model.clone(), prompt.ids, max_tokens, sink)
        };
        let failed = |error: lyceum_engine::EngineError| Failure::internal("the engine failed", &error);
        service.engine().generate(request).map_err(failed)?;
        let (mut token_ids, mut logprobs) = (Vec::new(), Vec::new());
        loop {
            match receiver.recv().await {
                Some(Event::Token(token)) => {
                    hear(token.id);
                    logprobs.extend(logprob(tokenizer, &token));
                    token_ids.push(token.id);
                }
                Some(Event::Prompt(_)) => {}
                Some(Event::Done(finish)) => return Ok(Said { token_ids, logprobs, finish }),
                Some(Event::Failed(error)) => return Err(failed(error)),
                None => return Err(Failure::interrupted("what was written so far stands above")),
            }
        }
    }
}

fn refused(message: String, why: &str, fix: &str) -> Failure {
    Failure::new(Exit::Failed, "prompt", message, why, fix)
}

/// What a model made of a prompt.
struct Said {
    token_ids: Vec<u32>,
    logprobs: Vec<Value>,
    finish: Finish,
}

/// The tokens that a model continues, and the source that it answers where it reads one.
struct Prompt {
    source: Option<Vec<u32>>,
    ids: Vec<u32>,
}

impl Prompt {
    fn read(resident: &Resident, tokenizer: &Tokenizer, text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            let first = tokenizer.bos().or(tokenizer.eos());
            return Ok(Prompt { source: None, ids: first.into_iter().collect() });
        }
        let prepared = resident.preparation.example(Raw::Text(text));
        let prepared = prepared
            .map_err(|error| refused(error.message.clone(), "the prompt cannot be read", &error.fix))?;
        if prepared.n_truncated > 0 {
            let message = format!("the prompt is {} tokens too long", prepared.n_truncated);
            return Err(refused(message, "the model reads no more", "shorten the prompt"));
        }
        match prepared.value {
            PreparedValue::Tokens(ids) => Ok(Prompt { source: None, ids }),
            PreparedValue::Pair { source, target } => Ok(Prompt { source: Some(source), ids: target }),
            PreparedValue::Dense(_) => unreachable!("a tokenizer makes tokens: bug"),
        }
    }
}

/// All of stdin, without the last line's end.
pub fn piped() -> Result<String, Failure> {
    let mut prompt = String::new();
    let read = std::io::stdin().take(PROMPT_BYTES_MAX).read_to_string(&mut prompt);
    read.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
    if prompt.ends_with('\n') {
        prompt.pop();
    }
    Ok(prompt)
}

/// The next line that says something; None at the end of stdin or after Ctrl-C.
pub async fn next_line(context: &Context) -> Result<Option<String>, Failure> {
    loop {
        eprint!("> ");
        // Nothing is lost when the prompt sign does not come.
        let _ = std::io::stderr().flush();
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|n| (n, line))
        });
        let read = line.await.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
        let (n, line) = read.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
        if n == 0 || context.control.check().is_err() {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\n', '\r']);
        if !line.is_empty() {
            return Ok(Some(line.to_owned()));
        }
    }
}

fn logprob(tokenizer: &Tokenizer, token: &TokenEvent) -> Option<Value> {
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
