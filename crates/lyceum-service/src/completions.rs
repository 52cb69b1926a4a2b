//! Continues texts: a language model continues its prompt, a sequence-to-sequence model answers it.

pub use crate::generation::{
    Alternative, Finish, Likely, Piece, Priority, PromptToken, Sampling, Token, Usage,
};

use crate::drift::language::Watcher;
use crate::generation::{self, Encoded, Options, Speaker};
use crate::guard::attacks::{self, Said};
use crate::guard::{Guarded, Speech, Text};
use crate::{Payer, Service, ServiceError};
use lyceum_guard::placeholder::Written;
use lyceum_models::InputShape;
use lyceum_models::prepare::{PreparedValue, Raw};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;

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
    /// Tokens that end a completion beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Go on behind the model's own end, up to `max_tokens`.
    pub ignore_eos: bool,
    /// Report log-probabilities, with this many most likely tokens.
    pub logprobs: Option<usize>,
    pub echo: bool,
    /// Report the log-probabilities of the prompt's tokens, with this many most likely ones, apart from the
    /// text.
    pub prompt_logprobs: Option<usize>,
    /// Of what class the work is.
    pub priority: Priority,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Nothing: a new document begins.
    Beginning,
    Text(String),
    Tokens(Vec<u32>),
}

/// Starts every choice. Errors before the first token come from here, so a stream has not begun yet.
pub async fn create(service: &Service, payer: &Payer, mut request: Request) -> Result<Running, ServiceError> {
    let n_choices = request.prompts.len() * request.n;
    let admitted = generation::admit(service, &payer.project, request.priority, n_choices)?;
    let speaker = Speaker::find(service, &payer.project, &request.model).await?;
    let watcher = Watcher::of(service, payer, speaker.version()).await?;
    let guarded = guard(service, payer, &mut request).await.inspect_err(|error| {
        watcher.iter().for_each(|watcher| watcher.failed(error));
    })?;
    let prompts = request.prompts.iter().enumerate().map(|(i, prompt)| {
        let param = if request.prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt[{i}]") };
        encode(&speaker, prompt, &param)
    });
    let mut prompts: Vec<Encoded> = prompts.collect::<Result<_, _>>()?;
    for (i, prompt) in prompts.iter_mut().enumerate() {
        prompt.max_tokens = room(service, &speaker, prompt, &request, i)?;
    }
    let options = Options {
        n: request.n,
        sampling: request.sampling,
        stop: request.stop,
        stop_ids: request.stop_ids,
        ignore_eos: request.ignore_eos,
        logprobs: request.logprobs,
        echo: request.echo,
        prompt_logprobs: request.prompt_logprobs,
        ..Options::default()
    };
    let running = generation::start(admitted, payer, speaker, (prompts, &options), None).await?;
    let speech = |guarded: &Guarded| (0..n_choices).map(|_| guarded.speech(Written::Plain)).collect();
    let said = guarded.as_ref().map(speech);
    Ok(Running { running, guarded, said })
}

/// Lets the project's guard look through the prompts; None where it looks for nothing.
async fn guard(
    service: &Service,
    payer: &Payer,
    request: &mut Request,
) -> Result<Option<Guarded>, ServiceError> {
    let Some(guard) = service.guard(&payer.project).await? else { return Ok(None) };
    let tokens =
        [("logprobs", request.logprobs.is_some()), ("prompt_logprobs", request.prompt_logprobs.is_some())];
    guard.refuse_unplaceable(&tokens)?;
    if request.prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(_))) {
        guard.refuse_unreadable("prompt", "tokens: send a text")?;
    }
    attacks::refuse(service, payer, || {
        let said = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => Some(Said::by_user("prompt", text)),
            Prompt::Beginning | Prompt::Tokens(_) => None,
        };
        request.prompts.iter().filter_map(said).collect()
    })
    .await?;
    let texts = request.prompts.iter_mut().filter_map(|prompt| match prompt {
        Prompt::Text(text) => Some(text),
        Prompt::Beginning | Prompt::Tokens(_) => None,
    });
    let texts: Vec<&mut String> = texts.collect();
    let mut given: Vec<Text> = texts.iter().map(|text| Text::new("prompt", text.as_str())).collect();
    let why = "a masked text never matches it";
    given.extend(request.stop.iter().map(|stop| Text::fixed("stop", stop, why)));
    let (read, guarded) = guard.read(given).await?;
    texts.into_iter().zip(read).for_each(|(text, read)| *text = read);
    guarded.refuse_changed(&tokens)?;
    Ok(Some(guarded))
}

/// Texts that are being made. Dropping it ends them.
pub struct Running {
    running: generation::Running,
    guarded: Option<Guarded>,
    /// One a choice, where the project's texts are guarded.
    said: Option<Vec<Speech>>,
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

    /// Refuses what tells the tokens of texts that the project's guard changes.
    pub fn require_own_tokens(&self, param: &str) -> Result<(), ServiceError> {
        self.guarded.as_ref().map_or(Ok(()), |guarded| guarded.refuse_tokens(param))
    }

    /// The tokens that a choice continues or answers.
    pub fn prompt_ids(&self, choice: usize) -> &[u32] {
        self.running.prompt_ids(choice)
    }

    /// What the model thought of the prompt of a choice; empty unless it was asked for, and whole when the
    /// choice's first token is there.
    pub fn prompt_tokens(&self, choice: usize) -> &[PromptToken] {
        self.running.prompt_tokens(choice)
    }

    /// What has been read and made so far.
    pub fn usage(&self) -> Usage {
        self.running.usage()
    }

    /// The next piece of any choice; `None` when all are finished.
    pub async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        while let Some(mut piece) = self.running.next().await? {
            let Some(said) = &mut self.said else { return Ok(Some(piece)) };
            let speech = &mut said[piece.choice];
            let mut said = speech.push(&piece.text);
            if piece.finish.is_some() {
                said = said.and_then(|text| Ok(text + &speech.finish()?));
            }
            piece.text = said.inspect_err(|error| self.running.stopped(error))?;
            let is_silent = piece.text.is_empty() && piece.tokens.is_empty() && piece.finish.is_none();
            if !is_silent {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

fn encode(speaker: &Speaker, prompt: &Prompt, param: &str) -> Result<Encoded, ServiceError> {
    let reads_source = matches!(speaker.model().shape.input, InputShape::Pair { .. });
    let ids = match prompt {
        Prompt::Beginning => match speaker.begin() {
            Some(id) if !reads_source => vec![id],
            _ => {
                let message = "this model has no token that begins a document: send a prompt";
                return Err(ServiceError::invalid(param, "missing_required_parameter", message));
            }
        },
        Prompt::Tokens(ids) => {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= speaker.vocab_size()) {
                let message = format!("token id {id} is outside the vocabulary of {}", speaker.vocab_size());
                return Err(ServiceError::invalid(param, "invalid_value", message));
            }
            ids.clone()
        }
        Prompt::Text(text) => speaker.encode(text, param)?,
    };
    if ids.is_empty() {
        // OpenAI continues an empty text as a new document does.
        return encode(speaker, &Prompt::Beginning, param);
    }
    let n_tokens = ids.len();
    if !reads_source {
        return Ok(Encoded { source: None, prompt: ids, n_tokens, max_tokens: 0 });
    }
    if let (Prompt::Text(text), Speaker::Trained(resident)) = (prompt, speaker) {
        // The preparation knows how long a source may be.
        let prepared = resident.preparation.example(Raw::Text(text));
        let prepared = prepared.map_err(|error| ServiceError::prepare(param, error))?;
        if let PreparedValue::Pair { source, target } = prepared.value {
            return Ok(Encoded { source: Some(source), prompt: target, n_tokens, max_tokens: 0 });
        }
    }
    let begin: Vec<u32> = speaker.bos().into_iter().collect();
    if begin.is_empty() {
        return Err(ServiceError::internal("a sequence-to-sequence model has no begin token", "bug"));
    }
    Ok(Encoded { source: Some(ids), prompt: begin, n_tokens, max_tokens: 0 })
}

/// How many tokens may follow a prompt. OpenAI's rule: it and `max_tokens` together must fit the context.
fn room(
    service: &Service,
    speaker: &Speaker,
    prompt: &Encoded,
    request: &Request,
    i: usize,
) -> Result<usize, ServiceError> {
    let wanted = request.max_tokens.unwrap_or(limits::MAX_TOKENS_DEFAULT);
    if let (Some(source), InputShape::Pair { source_time, .. }) =
        (&prompt.source, &speaker.model().shape.input)
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
    let Some(context) = service.engine().positions_max(speaker.model()) else { return Ok(wanted) };
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
