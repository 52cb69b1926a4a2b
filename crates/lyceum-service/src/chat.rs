//! Conversations with an imported language model: messages through its template to a prompt, its answer back as
//! text, thinking and calls of tools.

use crate::generation::{self, Encoded, MaskOf, Options, Speaker};
use crate::{Language, Service, ServiceError};
use lyceum_language::LanguageError;
use lyceum_language::template::{ChatTemplate, Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use serde_json::{Map, Value};
use std::collections::VecDeque;

pub use crate::generation::{Finish, Likely, Sampling, Token, Usage};

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    /// In OpenAI's shape; at least one.
    pub messages: Vec<Value>,
    /// Answers to the conversation.
    pub n: usize,
    /// None: what the context has room for.
    pub max_tokens: Option<usize>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub stop_ids: Vec<u32>,
    /// Report log-probabilities, with this many most likely tokens.
    pub logprobs: Option<usize>,
    /// Further variables of the template (`enable_thinking`, …).
    pub template_variables: Map<String, Value>,
}

/// A part of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub choice: usize,
    pub content: String,
    pub reasoning: String,
    pub tokens: Vec<Token>,
    /// The last part of an answer has it.
    pub finish: Option<Finish>,
}

/// Starts every answer. Errors before the first token come from here, so a stream has not begun yet.
pub async fn create(service: &Service, project: &Project, request: Request) -> Result<Running, ServiceError> {
    let speaker = Speaker::find(service, project, &request.model).await?;
    let Speaker::Language(language) = &speaker else {
        let id = speaker.version().id();
        let message =
            format!("{id} continues texts and has no chat template: ask it with POST /v1/completions");
        return Err(ServiceError::invalid("model", "unsupported_model", message));
    };
    let language = language.clone();
    let template = language.words.template.as_ref().ok_or_else(|| {
        let id = language.version.id();
        let message = format!("the files of {id} have no chat template: ask it with POST /v1/completions");
        ServiceError::invalid("model", "unsupported_model", message)
    })?;
    let text = render(template, &language, &request)?;
    let ids = language.words.tokenizer.encode(&text, AddSpecial::No, Specials::Protected);
    let ids = ids.map_err(|error| refused("messages", error))?;
    let max_tokens = room(&language, ids.len(), request.max_tokens)?;
    let prompt = Encoded { source: None, n_tokens: ids.len(), prompt: ids, max_tokens };
    let options = Options {
        n: request.n,
        sampling: request.sampling,
        stop: request.stop,
        stop_ids: request.stop_ids,
        logprobs: request.logprobs,
        ..Options::default()
    };
    let mask: Option<MaskOf<'_>> = None;
    let running = generation::start(service, speaker, vec![prompt], &options, mask)?;
    Ok(Running { running, ready: VecDeque::new() })
}

/// The conversation as the text that the model continues.
fn render(template: &ChatTemplate, language: &Language, request: &Request) -> Result<String, ServiceError> {
    let messages = openai_messages(&request.messages).map_err(|error| refused("messages", error))?;
    let conversation = Conversation {
        messages: &messages,
        end: End::GenerationPrompt,
        variables: request.template_variables.clone(),
        now: Timestamp::now().seconds(),
        guard: language.words.tokenizer.guarded(template.source()),
        ..Conversation::default()
    };
    template.render(&conversation).map_err(|error| refused("messages", error))
}

/// What the text half refuses, as the fault of a field.
fn refused(param: &str, error: LanguageError) -> ServiceError {
    let code = match &error {
        LanguageError::Template(_) | LanguageError::Tokenizer(_) => {
            return ServiceError::internal("a chat template failed", error);
        }
        LanguageError::Refused(_) => "template_refused",
        _ => "invalid_value",
    };
    ServiceError::invalid(param, code, error.to_string())
}

/// How many tokens may follow the prompt; all that the context has room for where nothing is asked.
fn room(language: &Language, n_prompt: usize, asked: Option<usize>) -> Result<usize, ServiceError> {
    let context = language.manifest.context as usize;
    let over = |message: String| Err(ServiceError::invalid("messages", "context_length_exceeded", message));
    if n_prompt >= context {
        return over(format!(
            "this model's context length is {context} tokens, but the messages have {n_prompt}: shorten them"
        ));
    }
    match asked {
        Some(asked) if n_prompt + asked > context => over(format!(
            "this model's context length is {context} tokens, but the messages have {n_prompt} and {asked} are asked \
             for: ask for {} at most",
            context - n_prompt
        )),
        asked => Ok(asked.unwrap_or(context - n_prompt)),
    }
}

/// Answers that are being made. Dropping it ends them.
pub struct Running {
    running: generation::Running,
    ready: VecDeque<Delta>,
}

impl Running {
    /// `name@3`
    pub fn model(&self) -> String {
        self.running.model()
    }

    /// Says which weights answer.
    pub fn fingerprint(&self) -> String {
        self.running.fingerprint()
    }

    /// What has been read and made so far.
    pub fn usage(&self) -> Usage {
        self.running.usage()
    }

    /// The next part of any answer; `None` when all are finished.
    pub async fn next(&mut self) -> Result<Option<Delta>, ServiceError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(Some(delta));
            }
            let Some(piece) = self.running.next().await? else { return Ok(None) };
            self.ready.push_back(Delta {
                choice: piece.choice,
                content: piece.text,
                reasoning: String::new(),
                tokens: piece.tokens,
                finish: piece.finish,
            });
        }
    }
}
