//! Continues texts: a language model continues its prompt, a sequence-to-sequence model answers it.
//!
//! Each choice is one sequence in the engine with its own seed, so it is what it would be alone. Tokens come
//! back through one bounded channel; dropping [`Running`] closes it, and the engine frees the sequences
//! within a step.

use crate::resident::Resident;
use crate::stops::{Found, StopFinder};
use crate::{Service, ServiceError};
use lyceum_engine::{Event, Flow, GenerateRequest, Sink, TokenEvent};
use lyceum_models::InputShape;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::prepare::text::{TextStream, Tokenizer};
use lyceum_models::prepare::{OutputPreparation, PreparedValue, Raw};
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    pub prompts: Vec<Prompt>,
    /// Completions of each prompt.
    pub n: usize,
    /// `None`: 16, or what the context has room for.
    pub max_tokens: Option<usize>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    /// Report log-probabilities, with this many most likely tokens.
    pub logprobs: Option<usize>,
    pub echo: bool,
    /// Report the log-probabilities of the prompt's tokens, with this many most likely ones, apart from the
    /// text.
    pub prompt_logprobs: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Nothing: a new document begins.
    Beginning,
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: Option<usize>,
    /// `None` draws one.
    pub seed: Option<u64>,
}

/// A part of one choice. Its tokens are those that begin in its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub choice: usize,
    pub text: String,
    pub tokens: Vec<Token>,
    /// All tokens that were made since the piece before, also those whose text is not certain yet and those of
    /// a stop text.
    pub token_ids: Vec<u32>,
    /// The last piece of a choice has it.
    pub finish: Option<Finish>,
}

/// A token with its log-probabilities (natural).
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    /// Where it begins in the text of its choice, in characters.
    pub offset: usize,
    /// None for the first token of an echoed prompt.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first, and this one.
    pub top: Vec<(String, f32)>,
}

/// A token of the prompt: what the model thought of it where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    pub id: u32,
    /// None for the first: nothing stands before it. This token, then the most likely ones, best first.
    pub alternatives: Option<Vec<Alternative>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    pub id: u32,
    pub text: String,
    pub logprob: f32,
    /// 1 is the likeliest.
    pub rank: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model or a stop text ended it.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

impl Finish {
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Tokens that were read and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Starts every choice. Errors before the first token come from here, so a stream has not begun yet.
pub async fn create(service: &Service, project: &Project, request: Request) -> Result<Running, ServiceError> {
    let resident = service.resident(project, &request.model).await?;
    let prompts = request.prompts.iter().enumerate().map(|(i, prompt)| {
        let param = if request.prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt[{i}]") };
        encode(&resident, prompt, &param)
    });
    let mut prompts: Vec<Encoded> = prompts.collect::<Result<_, _>>()?;
    for (i, prompt) in prompts.iter_mut().enumerate() {
        prompt.max_tokens = room(&resident, prompt, &request, i)?;
    }
    let n_choices = prompts.len() * request.n;
    let events_of = |prompt: &Encoded| prompt.prompt.len() + prompt.max_tokens + 2;
    // Room for every event there can be: the engine never waits for a slow client.
    let capacity: usize = prompts.iter().map(|prompt| events_of(prompt) * request.n).sum();
    let (sender, receiver) = mpsc::channel(capacity);
    let base_seed = match request.sampling.seed {
        Some(seed) => seed,
        None => getrandom::u64()
            .map_err(|error| ServiceError::internal("drawing a seed failed", error.to_string()))?,
    };
    let usage = Usage {
        prompt_tokens: prompts.iter().map(|prompt| prompt.n_tokens as u64).sum(),
        completion_tokens: 0,
    };
    let mut choices = Vec::with_capacity(n_choices);
    let mut prompt_ids = Vec::with_capacity(n_choices);
    for prompt in prompts {
        let ids: Arc<[u32]> = prompt.source.as_deref().unwrap_or(&prompt.prompt).into();
        for i in 0..request.n {
            let sampling = lyceum_engine::Sampling {
                temperature: request.sampling.temperature,
                top_p: request.sampling.top_p,
                top_k: request.sampling.top_k.unwrap_or(0),
                seed: base_seed.wrapping_add(i as u64),
                ..lyceum_engine::Sampling::default()
            };
            let choice = Choice::new(&request);
            prompt_ids.push(ids.clone());
            let sink = sink(choices.len(), sender.clone(), choice.is_over.clone());
            if resident.model.answers_at_once() {
                answer_at_once(service, &resident, &prompt, &request, sink)?;
                choices.push(choice);
                continue;
            }
            let sequence = GenerateRequest {
                source: prompt.source.clone(),
                end_tokens: tokenizer(&resident)?.eos().into_iter().collect(),
                never_tokens: tokenizer(&resident)?.never_said(),
                sampling,
                logprobs: request.logprobs,
                echo: request.echo,
                prompt_logprobs: request.prompt_logprobs,
                cancelled: Some(choice.is_over.clone()),
                ..GenerateRequest::new(resident.model.clone(), prompt.prompt.clone(), prompt.max_tokens, sink)
            };
            service.engine().generate(sequence).map_err(crate::refused)?;
            choices.push(choice);
        }
    }
    Ok(Running {
        n_open: choices.len(),
        resident,
        choices,
        prompt_ids,
        echo: request.echo,
        usage,
        receiver,
        deadline: Instant::now() + limits::REQUEST_TIMEOUT,
    })
}

/// A model that says all steps of its answer in one pass: each step is its most likely token.
fn answer_at_once(
    service: &Service,
    resident: &Resident,
    prompt: &Encoded,
    request: &Request,
    mut sink: Sink,
) -> Result<(), ServiceError> {
    let unsupported = |param: &str, fix: &str| {
        let message = format!("this model says its whole answer in one pass: {fix}");
        ServiceError::invalid(param, "unsupported_parameter", message)
    };
    if request.sampling.temperature != 0.0 {
        return Err(unsupported("temperature", "send temperature 0"));
    }
    for (param, asked) in [("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)] {
        if asked.is_some() {
            return Err(unsupported(param, "leave it out"));
        }
    }
    let InputShape::Pair { target_time: max_target, .. } = resident.model.shape.input else {
        return Err(ServiceError::internal("a model answers at once and reads no source", "bug"));
    };
    let source = prompt.source.clone().unwrap_or_default();
    let input = Input::Pair { source: Tokens::single(&source), target: Tokens::single(&vec![0; max_target]) };
    let (end, never) = (tokenizer(resident)?.eos(), tokenizer(resident)?.never_said());
    let max_tokens = prompt.max_tokens;
    let reply = Box::new(move |result: Result<lyceum_engine::Prediction, lyceum_engine::EngineError>| {
        let prediction = match result {
            Ok(prediction) => prediction,
            Err(error) => {
                sink(Event::Failed(error));
                return;
            }
        };
        for (step, logits) in prediction.outputs.chunks_exact(prediction.width).enumerate() {
            let id = lyceum_models::answer::likeliest_but(logits, &never);
            if Some(id) == end {
                sink(Event::Done(lyceum_engine::Finish::Stop));
                return;
            }
            let event = Event::Token(TokenEvent { id, logprobs: None });
            if step == max_tokens || sink(event) == Flow::Stop {
                break;
            }
        }
        sink(Event::Done(lyceum_engine::Finish::Length));
    });
    let model = resident.model.clone();
    service.engine().predict(lyceum_engine::PredictRequest { model, input, reply }).map_err(crate::refused)
}

fn sink(choice: usize, sender: mpsc::Sender<(usize, Event)>, is_over: Arc<AtomicBool>) -> Sink {
    Box::new(move |event| {
        if is_over.load(Ordering::Relaxed) || sender.try_send((choice, event)).is_err() {
            return Flow::Stop;
        }
        Flow::Continue
    })
}

/// A prompt as the engine takes it.
struct Encoded {
    source: Option<Vec<u32>>,
    prompt: Vec<u32>,
    /// As usage counts them.
    n_tokens: usize,
    /// The most tokens that may follow.
    max_tokens: usize,
}

fn tokenizer(resident: &Resident) -> Result<&Tokenizer, ServiceError> {
    match (&resident.preparation.output, resident.preparation.tokenizer()) {
        (OutputPreparation::Tokens, Some(tokenizer)) => Ok(tokenizer),
        _ => {
            let message = format!(
                "{} does not generate text: ask it with POST /v1/decisions or :predict",
                resident.version.id()
            );
            Err(ServiceError::invalid("model", "unsupported_model", message))
        }
    }
}

fn encode(resident: &Resident, prompt: &Prompt, param: &str) -> Result<Encoded, ServiceError> {
    let tokenizer = tokenizer(resident)?;
    let reads_source = matches!(resident.model.shape.input, InputShape::Pair { .. });
    let ids = match prompt {
        Prompt::Beginning => match tokenizer.bos().or(tokenizer.eos()) {
            Some(id) if !reads_source => vec![id],
            _ => {
                let message = "this model has no token that begins a document: send a prompt";
                return Err(ServiceError::invalid(param, "missing_required_parameter", message));
            }
        },
        Prompt::Tokens(ids) => {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
                let message =
                    format!("token id {id} is outside the vocabulary of {}", tokenizer.vocab_size());
                return Err(ServiceError::invalid(param, "invalid_value", message));
            }
            ids.clone()
        }
        Prompt::Text(text) => tokenizer.encode(text).map_err(|error| ServiceError::prepare(param, error))?,
    };
    if ids.is_empty() {
        // OpenAI continues an empty text as a new document does.
        return encode(resident, &Prompt::Beginning, param);
    }
    let n_tokens = ids.len();
    if !reads_source {
        return Ok(Encoded { source: None, prompt: ids, n_tokens, max_tokens: 0 });
    }
    if let Prompt::Text(text) = prompt {
        // The preparation knows how long a source may be.
        let prepared = resident.preparation.example(Raw::Text(text));
        let prepared = prepared.map_err(|error| ServiceError::prepare(param, error))?;
        if let PreparedValue::Pair { source, target } = prepared.value {
            return Ok(Encoded { source: Some(source), prompt: target, n_tokens, max_tokens: 0 });
        }
    }
    let begin: Vec<u32> = tokenizer.bos().into_iter().collect();
    if begin.is_empty() {
        return Err(ServiceError::internal("a sequence-to-sequence model has no begin token", "bug"));
    }
    Ok(Encoded { source: Some(ids), prompt: begin, n_tokens, max_tokens: 0 })
}

/// How many tokens may follow a prompt. OpenAI's rule: it and `max_tokens` together must fit the context.
fn room(resident: &Resident, prompt: &Encoded, request: &Request, i: usize) -> Result<usize, ServiceError> {
    let wanted = request.max_tokens.unwrap_or(limits::MAX_TOKENS_DEFAULT);
    if let (Some(source), InputShape::Pair { source_time, .. }) =
        (&prompt.source, &resident.model.shape.input)
    {
        if source.len() > *source_time {
            let message =
                format!("{} tokens are more than the {source_time} that the model reads", source.len());
            return Err(ServiceError::invalid("prompt", "context_length_exceeded", message));
        }
        if request.echo {
            let message = "a sequence-to-sequence model does not continue its prompt: leave echo out";
            return Err(ServiceError::invalid("echo", "unsupported_parameter", message));
        }
        if request.prompt_logprobs.is_some() {
            let message = "a sequence-to-sequence model does not say its prompt: leave prompt_logprobs out";
            return Err(ServiceError::invalid("prompt_logprobs", "unsupported_parameter", message));
        }
        // Its answer ends by itself and has a bound of its own.
        return Ok(wanted);
    }
    let Some(context) = resident.model.context() else { return Ok(wanted) };
    let n_prompt = prompt.prompt.len();
    let scores = request.echo || request.prompt_logprobs.is_some();
    if n_prompt > context || (n_prompt == context && !scores) {
        let message = format!(
            "this model's context length is {context} tokens, but prompt {i} has {n_prompt}: shorten it"
        );
        return Err(ServiceError::invalid("prompt", "context_length_exceeded", message));
    }
    match request.max_tokens {
        Some(max_tokens) if n_prompt + max_tokens > context => {
            let message = format!(
                "this model's context length is {context} tokens, but prompt {i} has {n_prompt} and {max_tokens} are \
                 asked for: ask for {} at most",
                context - n_prompt
            );
            Err(ServiceError::invalid("max_tokens", "context_length_exceeded", message))
        }
        _ => Ok(wanted.min(context - n_prompt)),
    }
}

/// Choices that are being made. Dropping it ends them.
pub struct Running {
    resident: Arc<Resident>,
    choices: Vec<Choice>,
    /// What each choice continues or answers.
    prompt_ids: Vec<Arc<[u32]>>,
    echo: bool,
    usage: Usage,
    n_open: usize,
    receiver: mpsc::Receiver<(usize, Event)>,
    deadline: Instant,
}

impl Running {
    /// `name@3`
    pub fn model(&self) -> String {
        self.resident.version.id()
    }

    /// Says which weights answer.
    pub fn fingerprint(&self) -> String {
        format!("fp_{}", self.resident.version.sha256.get(..32).unwrap_or(&self.resident.version.sha256))
    }

    /// The tokens that a choice continues or answers.
    pub fn prompt_ids(&self, choice: usize) -> &[u32] {
        &self.prompt_ids[choice]
    }

    /// What the model thought of the prompt of a choice; empty unless it was asked for, and whole when the
    /// choice's first token is there.
    pub fn prompt_tokens(&self, choice: usize) -> &[PromptToken] {
        &self.choices[choice].prompt_tokens
    }

    /// What has been read and made so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The next piece of any choice; `None` when all are finished.
    pub async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        while self.n_open > 0 {
            let received = tokio::time::timeout_at(self.deadline, self.receiver.recv()).await;
            let Some((choice, event)) = received.map_err(|_| ServiceError::DeadlinePassed)? else {
                return Err(crate::refused(lyceum_engine::EngineError::Stopped));
            };
            if let Some(piece) = self.take(choice, event)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Option<Piece>, ServiceError> {
        let tokenizer = self.resident.preparation.tokenizer();
        let tokenizer =
            tokenizer.ok_or_else(|| ServiceError::internal("a generator has no tokenizer", "bug"))?;
        let choice = &mut self.choices[index];
        if choice.is_over.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let finish = match event {
            Event::Prompt(token) => {
                if let Some(n_top) = choice.prompt_logprobs {
                    choice.prompt_tokens.push(prompt_token(tokenizer, &token, n_top));
                }
                if self.echo {
                    choice.push(tokenizer, &token, Part::Prompt);
                }
                None
            }
            Event::Token(token) => {
                self.usage.completion_tokens += 1;
                choice.token_ids.push(token.id);
                choice.push(tokenizer, &token, Part::Completion)
            }
            Event::Done(finish) => {
                choice.end();
                Some(match finish {
                    lyceum_engine::Finish::Stop => Finish::Stop,
                    lyceum_engine::Finish::Length => Finish::Length,
                })
            }
            Event::Failed(error) => return Err(crate::refused(error)),
        };
        if finish.is_some() {
            choice.is_over.store(true, Ordering::Relaxed);
            self.n_open -= 1;
        }
        let (text, tokens) = choice.take_ready(finish.is_some());
        if text.is_empty() && tokens.is_empty() && finish.is_none() {
            return Ok(None);
        }
        let token_ids = std::mem::take(&mut choice.token_ids);
        Ok(Some(Piece { choice: index, text, tokens, token_ids, finish }))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Prompt,
    Completion,
}

/// The text of one choice while it comes.
struct Choice {
    /// Tells the engine that nothing more is wanted.
    is_over: Arc<AtomicBool>,
    stream: TextStream,
    stops: Option<StopFinder>,
    /// With how many most likely tokens the text's tokens are reported.
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    prompt_tokens: Vec<PromptToken>,
    /// Made and not yet given.
    token_ids: Vec<u32>,
    /// Text that is certain and not yet given, and characters certain so far.
    ready: String,
    n_certain: usize,
    /// Characters decoded so far, the held ones too.
    n_decoded: usize,
    tokens: VecDeque<Token>,
}

impl Drop for Choice {
    /// Whoever no longer waits for a choice frees its place in the engine.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Choice {
    fn new(request: &Request) -> Self {
        Self {
            is_over: Arc::default(),
            stream: TextStream::default(),
            stops: Some(StopFinder::new(request.stop.clone())),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            prompt_tokens: Vec::new(),
            token_ids: Vec::new(),
            ready: String::new(),
            n_certain: 0,
            n_decoded: 0,
            tokens: VecDeque::new(),
        }
    }

    fn push(&mut self, tokenizer: &Tokenizer, event: &TokenEvent, part: Part) -> Option<Finish> {
        if let Some(n_top) = self.logprobs {
            self.tokens.push_back(token(tokenizer, event, self.n_decoded, n_top));
        }
        let text = self.stream.push(tokenizer, event.id);
        self.n_decoded += text.chars().count();
        if part == Part::Prompt {
            // Stop texts in the prompt end nothing.
            self.certain(&text);
            return None;
        }
        match self.stops.as_mut().map(|stops| stops.push(&text)) {
            Some(Found::Stopped(last)) => {
                self.certain(&last);
                // Tokens that begin in the stop text are not part of the completion.
                let end = self.n_certain;
                self.tokens.retain(|token| token.offset < end);
                Some(Finish::Stop)
            }
            Some(Found::Text(text)) => {
                self.certain(&text);
                None
            }
            None => None,
        }
    }

    /// Nothing more comes: what was held back is part of the text.
    fn end(&mut self) {
        let rest = std::mem::take(&mut self.stream).finish();
        let Some(mut stops) = self.stops.take() else { return };
        let text = match stops.push(&rest) {
            Found::Text(text) => text + &stops.finish(),
            Found::Stopped(text) => text,
        };
        self.certain(&text);
    }

    fn certain(&mut self, text: &str) {
        self.ready.push_str(text);
        self.n_certain += text.chars().count();
    }

    /// The text that is certain, and the tokens that begin in it.
    fn take_ready(&mut self, is_last: bool) -> (String, Vec<Token>) {
        let end = self.n_certain;
        let n = self.tokens.iter().take_while(|token| is_last || token.offset < end).count();
        (std::mem::take(&mut self.ready), self.tokens.drain(..n).collect())
    }
}

fn token(tokenizer: &Tokenizer, event: &TokenEvent, offset: usize, n_top: usize) -> Token {
    let text = tokenizer.token_text(event.id);
    let Some(logprobs) = &event.logprobs else { return Token { text, offset, logprob: None, top: vec![] } };
    // The prompt's tokens may have been asked for more.
    let likeliest = &logprobs.top[..n_top.min(logprobs.top.len())];
    let mut top: Vec<(String, f32)> =
        likeliest.iter().map(|&(id, logprob)| (tokenizer.token_text(id), logprob)).collect();
    if !likeliest.iter().any(|(id, _)| *id == event.id) {
        top.push((text.clone(), logprobs.chosen));
    }
    Token { text, offset, logprob: Some(logprobs.chosen), top }
}

fn prompt_token(tokenizer: &Tokenizer, event: &TokenEvent, n_top: usize) -> PromptToken {
    let alternatives = event.logprobs.as_ref().map(|logprobs| {
        let of = |id, logprob, rank| Alternative { id, text: tokenizer.token_text(id), logprob, rank };
        let likeliest = (1..).zip(&logprobs.top).take(n_top).filter(|(_, (id, _))| *id != event.id);
        let others = likeliest.map(|(rank, &(id, logprob))| of(id, logprob, rank));
        std::iter::once(of(event.id, logprobs.chosen, logprobs.rank)).chain(others).collect()
    });
    PromptToken { id: event.id, alternatives }
}
