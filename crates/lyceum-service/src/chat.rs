//! Conversations with an imported language model: messages through its template to a prompt, its answer back as
//! text, thinking and calls of tools.
//!
//! [`prepare`] refuses what can be refused (`offer` has tools and forms), [`Ready::start`] begins the sequences, which
//! [`generation`] runs, and `answer` parts their text. What OpenAI's documents look like is not known here.

mod answer;
mod offer;

use crate::drift::language::Watcher;
use crate::explain::Frame;
use crate::generation::{self, Encoded, MaskOf, Options, Speaker};
use crate::guard::{self, Guarded};
use crate::language::Defaults;
use crate::{Language, Payer, Service, ServiceError, messages};
use answer::Answer;
use lyceum_engine::TokenMask;
use lyceum_guard::placeholder::Written;
use lyceum_language::LanguageError;
use lyceum_language::grammar::Grammar;
use lyceum_language::reasoning::{ReasoningFormat, ReasoningParser};
use lyceum_language::template::{ChatTemplate, Conversation, End};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use offer::{Form, Offer, grammar};
use serde_json::{Map, Value};

pub use lyceum_language::grammar::Constraint;
pub use lyceum_language::tools::ToolCall;
pub use lyceum_language::tools::parse::Calls;

pub use crate::generation::{Admitted, Finish, Likely, Priority, Sampling, Token, Usage};

/// The variable by which templates are told whether the model thinks first.
const THINKING: &str = "enable_thinking";

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    /// In OpenAI's shape; at least one.
    pub messages: Vec<Value>,
    /// Answers to the conversation.
    pub n: usize,
    /// None: what the context has room for.
    pub max_tokens: Option<usize>,
    /// Nobody waits for it: it may take longer.
    pub in_background: bool,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub stop_ids: Vec<u32>,
    /// Go on behind the model's own end, up to `max_tokens`.
    pub ignore_eos: bool,
    /// Report log-probabilities, with this many most likely tokens.
    pub logprobs: Option<usize>,
    /// Further variables of the template (`enable_thinking`, …).
    pub template_variables: Map<String, Value>,
    /// Whether the model is to think before it answers, where its template can be told.
    pub thinking: Option<bool>,
    /// Functions in OpenAI's shape, and whether they may or must be called.
    pub tools: Vec<Value>,
    pub tool_choice: Option<Value>,
    /// How many calls an answer may have.
    pub calls: Calls,
    pub form: Option<AskedForm>,
    /// Of what class the work is.
    pub priority: Priority,
}

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedForm {
    pub constraint: Constraint,
    /// The field of the request that asks for it, which errors name.
    pub field: &'static str,
}

impl Request {
    /// What the model's template is told beside the messages.
    pub fn frame(&self) -> Frame {
        let told = self.tool_choice.as_ref().is_none_or(|choice| choice != "none");
        let tools = if told { self.tools.clone() } else { Vec::new() };
        Frame { tools, variables: self.variables() }
    }

    fn variables(&self) -> Map<String, Value> {
        let mut variables = self.template_variables.clone();
        if let Some(thinking) = self.thinking {
            variables.insert(THINKING.into(), thinking.into());
        }
        variables
    }
}

/// A part of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub choice: usize,
    pub content: String,
    pub reasoning: String,
    pub calls: Vec<ToolCall>,
    /// The number of the first of them in its answer.
    pub first_call: usize,
    pub tokens: Vec<Token>,
    /// All tokens since the part before.
    pub token_ids: Vec<u32>,
    /// The last part of an answer has it.
    pub finish: Option<Ending>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Stop,
    Length,
    /// The model called tools and waits for what they say.
    ToolCalls,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Stop => "stop",
            Ending::Length => "length",
            Ending::ToolCalls => "tool_calls",
        }
    }
}

/// Starts every answer. Errors before the first token come from here, so a stream has not begun yet.
pub async fn create(service: &Service, payer: &Payer, request: Request) -> Result<Running, ServiceError> {
    let admitted = admit(service, &payer.project, &request)?;
    prepare(service, payer, request).await?.start_in(admitted).await
}

/// Lets a request in: to say no before anything is read or rendered for it costs nothing.
pub fn admit<'a>(
    service: &'a Service,
    project: &Project,
    request: &Request,
) -> Result<Admitted<'a>, ServiceError> {
    generation::admit(service, project, request.priority, request.n)
}

/// A request that nothing but a lack of room can refuse any more.
pub struct Ready {
    payer: Payer,
    priority: Priority,
    speaker: Speaker,
    prompt: Encoded,
    options: Options,
    offer: Offer,
    calls: Calls,
    reasoning: Option<ReasoningFormat>,
    grammar: Option<Grammar>,
    guarded: Option<Guarded>,
    written: Written,
}

/// Reads a request: everything that can be wrong with it is told from here.
pub async fn prepare(service: &Service, payer: &Payer, mut request: Request) -> Result<Ready, ServiceError> {
    let speaker = Speaker::find(service, &payer.project, &request.model).await?;
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
    if request.thinking.is_some() && !template.mentions(THINKING) {
        let message = format!("{} cannot be told how much to think: leave it out", language.version.id());
        return Err(ServiceError::invalid("reasoning.effort", "unsupported_parameter", message));
    }
    let watcher = Watcher::of(service, payer, &language.version).await?;
    let guarded = guarded(service, payer, &mut request).await.inspect_err(|error| {
        watcher.iter().for_each(|watcher| watcher.failed(error));
    })?;
    let written = match request.form.as_ref().map(|form| &form.constraint) {
        Some(Constraint::JsonObject | Constraint::JsonSchema { .. }) => Written::Json,
        _ => Written::Plain,
    };
    let offer = Offer::read(&request, template)?;
    let text = render(template, &language, &request, &offer)?;
    let tokenizer = &language.words.tokenizer;
    let ids = tokenizer.encode(&text, AddSpecial::No, Specials::Protected);
    let ids = ids.map_err(|error| refused("messages", error))?;
    let context = service.engine().positions_max(&language.model).unwrap_or(usize::MAX);
    let max_tokens = room(context, ids.len(), request.max_tokens)?;
    let reasoning = ReasoningFormat::of(template.source(), &text);
    let grammar = grammar(&language, &request, &offer, reasoning).await?;
    let prompt = Encoded { source: None, n_tokens: ids.len(), prompt: ids, max_tokens };
    let options = Options {
        n: request.n,
        sampling: request.sampling,
        stop: request.stop,
        stop_ids: request.stop_ids,
        ignore_eos: request.ignore_eos,
        shown: offer.markers(tokenizer),
        logprobs: request.logprobs,
        in_background: request.in_background,
        ..Options::default()
    };
    let (payer, priority, calls) = (payer.clone(), request.priority, request.calls);
    Ok(Ready {
        payer,
        priority,
        speaker,
        prompt,
        options,
        offer,
        calls,
        reasoning,
        grammar,
        guarded,
        written,
    })
}

/// The request's texts as the project's guard lets a model read them.
async fn guarded(
    service: &Service,
    payer: &Payer,
    request: &mut Request,
) -> Result<Option<Guarded>, ServiceError> {
    guard::attacks::refuse(service, payer, || guard::attacks::of_messages(&request.messages)).await?;
    guard::texts::chat(service, &payer.project, request).await
}

impl Ready {
    /// `name@3`
    pub fn model(&self) -> String {
        self.speaker.version().id()
    }

    /// The same, as a request names it.
    pub fn reference(&self) -> ModelRef {
        self.speaker.reference()
    }

    /// What holds where a request says nothing of its own.
    pub fn defaults(&self) -> Defaults {
        self.speaker.defaults()
    }

    /// Starts every answer.
    ///
    /// # Errors
    /// The engine has no room, or no room now.
    pub async fn start(&self, service: &Service) -> Result<Running, ServiceError> {
        self.start_in(generation::admit(service, &self.payer.project, self.priority, self.options.n)?).await
    }

    /// As [`start`](Self::start), of a request that was let in before.
    pub async fn start_in(&self, admitted: Admitted<'_>) -> Result<Running, ServiceError> {
        let mask = self.grammar.as_ref();
        let mask = mask.map(|grammar| move || Ok(Box::new(Form(grammar.matcher())) as Box<dyn TokenMask>));
        let mask = mask.as_ref().map(|mask| mask as MaskOf<'_>);
        let (speaker, prompts) = (self.speaker.clone(), vec![self.prompt.clone()]);
        let running =
            generation::start(admitted, &self.payer, speaker, (prompts, &self.options), mask).await?;
        // Ids of calls follow the seed, so that the same request gives the same bytes.
        let seed = running.seed();
        let answers = (0..self.options.n as u64)
            .map(|i| {
                let tools = self.offer.parser(seed.wrapping_add(i), self.calls);
                let reasoning = self.reasoning.map(ReasoningParser::new);
                Answer::new(reasoning, tools, (self.guarded.as_ref(), self.written))
            })
            .collect();
        Ok(Running { running, answers })
    }
}

/// The conversation as the text that the model continues.
fn render(
    template: &ChatTemplate,
    language: &Language,
    request: &Request,
    offer: &Offer,
) -> Result<String, ServiceError> {
    messages::variables(&request.template_variables)?;
    let messages = messages::shaped(&request.messages, template)?;
    let conversation = Conversation {
        messages: &messages,
        tools: offer.is_callable().then_some(&request.tools[..]),
        end: End::GenerationPrompt,
        variables: request.variables(),
        now: Timestamp::now().seconds(),
        guard: language.words.tokenizer.guarded(template.source()),
        ..Conversation::default()
    };
    template.render(&conversation).map_err(messages::unwritten)
}

/// What the text half refuses, as the fault of a field.
fn refused(param: &str, error: LanguageError) -> ServiceError {
    match error {
        LanguageError::Tokenizer(_) => ServiceError::internal("a tokenizer failed", error),
        error => ServiceError::invalid(param, "invalid_value", messages::plain(error)),
    }
}

/// How many tokens may follow the prompt; all that the context has room for where nothing is asked.
fn room(context: usize, n_prompt: usize, asked: Option<usize>) -> Result<usize, ServiceError> {
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
    answers: Vec<Answer>,
}

impl Running {
    /// `name@3`
    pub fn model(&self) -> String {
        self.running.model()
    }

    /// The same, as a request names it.
    pub fn reference(&self) -> ModelRef {
        self.running.reference()
    }

    /// Says which weights answer.
    pub fn fingerprint(&self) -> String {
        self.running.fingerprint()
    }

    /// What has been read and made so far.
    pub fn usage(&self) -> Usage {
        self.running.usage()
    }

    /// What holds where a request says nothing of its own.
    pub fn defaults(&self) -> Defaults {
        self.running.defaults()
    }

    /// The next part of any answer; `None` when all are finished.
    pub async fn next(&mut self) -> Result<Option<Delta>, ServiceError> {
        while let Some(piece) = self.running.next().await? {
            let answer = &mut self.answers[piece.choice];
            let mut delta = answer.take(piece).inspect_err(|error| self.running.stopped(error))?;
            answer.token_ids.append(&mut delta.token_ids);
            if delta.says_something() {
                delta.token_ids = std::mem::take(&mut answer.token_ids);
                return Ok(Some(delta));
            }
        }
        Ok(None)
    }
}
