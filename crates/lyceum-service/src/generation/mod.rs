//! Texts that a model makes, token by token: what completions and chats share.
//!
//! Each choice is one sequence in the engine with its own seed, so it is what it would be alone. Tokens come
//! back through one bounded channel; dropping [`Running`] closes it, and the engine frees the sequences
//! within a step.

mod at_once;
mod choice;
#[cfg(test)]
mod fairness;
mod running;
pub(crate) mod speaker;

pub use running::Running;
pub(crate) use speaker::Speaker;

use crate::drift::language::Watcher;
use crate::meter::{Counts, Here, Share};
use crate::{Payer, Service, ServiceError};
use at_once::answer_at_once;
use choice::Choice;
use lyceum_engine::{CountPrompt, Event, Flow, GenerateRequest, Places, Sink, Tenant, TokenMask};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How tokens are chosen; what is None is the model's own recommendation, or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None` draws one.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Sampling { temperature: Some(0.0), ..Sampling::default() }
    }
}

pub use lyceum_engine::Priority;

/// A request that was let in: it has places for all its choices, which come back when they end.
pub struct Admitted<'a> {
    service: &'a Service,
    places: Places,
}

/// Lets a request in, before anything is read, rendered or loaded for it: to say no costs nothing.
///
/// # Errors
/// As many choices wait and are made as may.
pub(crate) fn admit<'a>(
    service: &'a Service,
    project: &Project,
    priority: Priority,
    n_choices: usize,
) -> Result<Admitted<'a>, ServiceError> {
    let places = service.engine().reserve(tenant(project), priority, n_choices).map_err(crate::refused)?;
    Ok(Admitted { service, places })
}

impl Admitted<'_> {
    /// Starts one sequence of the request, which takes one of its places.
    pub(crate) fn start(&mut self, sequence: GenerateRequest) -> Result<(), ServiceError> {
        self.service.engine().generate_in(&mut self.places, sequence).map_err(crate::refused)
    }
}

/// The key under which the engine knows a project: whose work it is, without a name.
pub(crate) fn tenant(project: &Project) -> Tenant {
    let mut hash = Sha256::new();
    // With its length, so that no two projects run into one text.
    hash.update((project.tenant.len() as u64).to_le_bytes());
    hash.update(&project.tenant);
    hash.update(&project.id);
    let digest = hash.finalize();
    Tenant(digest.iter().take(16).fold(0, |key, &byte| key << 8 | u128::from(byte)))
}

/// What every choice of a request shares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Nobody waits for the answer: it may take longer.
    pub in_background: bool,
    /// Choices of each prompt.
    pub n: usize,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    /// Tokens that end an answer beside the model's own.
    pub stop_ids: Vec<u32>,
    /// The model's own end tokens do not end an answer.
    pub ignore_eos: bool,
    /// Special tokens that are part of the text.
    pub shown: Vec<u32>,
    /// Report log-probabilities, with this many most likely tokens.
    pub logprobs: Option<usize>,
    pub echo: bool,
    pub prompt_logprobs: Option<usize>,
    /// Log-probabilities are wanted for the counts of drift, also where nobody else wants them.
    pub is_scored: bool,
}

/// A prompt as the engine takes it.
#[derive(Clone)]
pub(crate) struct Encoded {
    pub source: Option<Vec<u32>>,
    pub prompt: Vec<u32>,
    /// As usage counts them.
    pub n_tokens: usize,
    /// The most tokens that may follow.
    pub max_tokens: usize,
}

/// Makes the mask of one choice's tokens.
pub(crate) type MaskOf<'a> = &'a (dyn Fn() -> Result<Box<dyn TokenMask>, ServiceError> + Sync);

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
    /// Of the distribution that it was drawn from, over the whole vocabulary, in nats; there where `logprob` is.
    pub entropy: Option<f32>,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// The most likely tokens, best first, and this one.
    pub top: Vec<Likely>,
}

/// One of the most likely tokens at a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    pub text: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
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
    /// Of these, computed before for the same beginning.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// Starts every choice. Errors before the first token come from here, so a stream has not begun yet.
pub(crate) async fn start(
    admitted: Admitted<'_>,
    payer: &Payer,
    speaker: Speaker,
    (prompts, options): (Vec<Encoded>, &Options),
    mask: Option<MaskOf<'_>>,
) -> Result<Running, ServiceError> {
    let watcher = Watcher::of(admitted.service, payer, speaker.version()).await?;
    let guard = admitted.service.ledger().open(payer, speaker.version(), most(&prompts, options)).await?;
    let here = Here(Some(guard));
    let options = &Options {
        in_background: options.in_background || payer.is_batch(),
        is_scored: watcher.as_ref().is_some_and(Watcher::scores_next),
        ..options.clone()
    };
    let mut running = begin(admitted, speaker, (prompts, options), mask, here.share());
    match &mut running {
        Ok(running) => (running.guard, running.watcher) = (here, watcher),
        Err(error) => here.fail(error),
    }
    running
}

/// The most that can be read and made.
fn most(prompts: &[Encoded], options: &Options) -> Counts {
    Counts {
        input_tokens: prompts.iter().map(|prompt| prompt.n_tokens as u64).sum(),
        output_tokens: prompts.iter().map(|prompt| (prompt.max_tokens * options.n) as u64).sum(),
        ..Counts::default()
    }
}

fn begin(
    admitted: Admitted<'_>,
    speaker: Speaker,
    (prompts, options): (Vec<Encoded>, &Options),
    mask: Option<MaskOf<'_>>,
    share: Share,
) -> Result<Running, ServiceError> {
    let Admitted { service, mut places } = admitted;
    known_tokens(&speaker, options)?;
    let n_choices = prompts.len() * options.n;
    let events_of = |prompt: &Encoded| prompt.prompt.len() + prompt.max_tokens + 2;
    // Room for every event there can be: the engine never waits for a slow client.
    let capacity: usize = prompts.iter().map(|prompt| events_of(prompt) * options.n).sum();
    let (sender, receiver) = mpsc::channel(capacity);
    let base_seed = match options.sampling.seed {
        Some(seed) => seed,
        None => getrandom::u64()
            .map_err(|error| ServiceError::internal("drawing a seed failed", error.to_string()))?,
    };
    let usage = Usage {
        prompt_tokens: prompts.iter().map(|prompt| prompt.n_tokens as u64).sum(),
        cached_tokens: 0,
        completion_tokens: 0,
    };
    let worst = |prompt: &Encoded| (prompt.n_tokens + prompt.max_tokens * options.n) as u64;
    let reserved = crate::rates::reserve(prompts.iter().map(worst).sum())?;
    let mut end_tokens = if options.ignore_eos { Vec::new() } else { speaker.ends() };
    end_tokens.extend(&options.stop_ids);
    let mut choices = Vec::with_capacity(n_choices);
    let mut prompt_ids = Vec::with_capacity(n_choices);
    let mut kept = Vec::new();
    let timeout = match options.in_background {
        false => limits::REQUEST_TIMEOUT,
        true => limits::BACKGROUND_RESPONSE_TIMEOUT,
    };
    for prompt in prompts {
        let ids: Arc<[u32]> = prompt.source.as_deref().unwrap_or(&prompt.prompt).into();
        for i in 0..options.n {
            let choice = Choice::new(&speaker, options);
            prompt_ids.push(ids.clone());
            let sink = sink(choices.len(), sender.clone(), choice.is_over.clone(), share.clone());
            // Further answers to a prompt find it read by the first.
            let reads = if i == 0 { CountPrompt::Yes } else { CountPrompt::No };
            if speaker.model().answers_at_once() {
                answer_at_once(service, &speaker, (&prompt, options), sink, share.metered(reads))?;
                choices.push(choice);
                continue;
            }
            let sequence = GenerateRequest {
                adapter: speaker.adapter(),
                source: prompt.source.clone(),
                end_tokens: end_tokens.clone(),
                never_tokens: speaker.never(),
                sampling: sampling(&speaker, &options.sampling, base_seed.wrapping_add(i as u64)),
                logprobs: options.logprobs.or(options.is_scored.then_some(0)),
                echo: options.echo,
                prompt_logprobs: options.prompt_logprobs,
                mask: mask.map(|mask| mask()).transpose()?,
                // Further answers to a prompt find it computed by the first: that is no saving of the request's.
                kept: (i == 0).then(|| {
                    let count = Arc::new(AtomicUsize::new(0));
                    kept.push(count.clone());
                    count
                }),
                metered: share.metered(reads),
                cancelled: Some(choice.is_over.clone()),
                ..GenerateRequest::new(
                    speaker.model().clone(),
                    prompt.prompt.clone(),
                    prompt.max_tokens,
                    sink,
                )
            };
            service.engine().generate_in(&mut places, sequence).map_err(crate::refused)?;
            choices.push(choice);
        }
    }
    Ok(Running {
        n_open: choices.len(),
        speaker,
        choices,
        prompt_ids,
        echo: options.echo,
        usage,
        kept,
        seed: base_seed,
        reserved: reserved.map(|mut reserved| {
            reserved.used(usage.prompt_tokens);
            reserved
        }),
        receiver,
        deadline: Instant::now() + timeout,
        guard: Here(None),
        watcher: None,
    })
}

/// The ids that a request names are tokens of the model.
fn known_tokens(speaker: &Speaker, options: &Options) -> Result<(), ServiceError> {
    let n = speaker.vocab_size();
    let is_strange = |id: &u32| *id as usize >= n;
    let told = format!("the model has the tokens 0 to {}", n.saturating_sub(1));
    let mut biased = options.sampling.logit_bias.iter().map(|(id, _)| *id);
    if let Some(id) = biased.find(is_strange) {
        return Err(ServiceError::invalid(format!("logit_bias.{id}"), "invalid_value", told));
    }
    if let Some(id) = options.stop_ids.iter().find(|id| is_strange(id)) {
        return Err(ServiceError::invalid(
            "stop_token_ids",
            "invalid_value",
            format!("{id} is none: {told}"),
        ));
    }
    Ok(())
}

/// What the request asks for, then what the model's files recommend, then OpenAI's defaults.
fn sampling(speaker: &Speaker, asked: &Sampling, seed: u64) -> lyceum_engine::Sampling {
    let own = speaker.defaults();
    lyceum_engine::Sampling {
        temperature: asked.temperature.or(own.temperature).unwrap_or(1.0),
        top_p: asked.top_p.or(own.top_p).unwrap_or(1.0),
        top_k: asked.top_k.or(own.top_k).unwrap_or(0),
        min_p: asked.min_p.or(own.min_p).unwrap_or(0.0),
        repetition_penalty: asked.repetition_penalty.or(own.repetition_penalty).unwrap_or(1.0),
        presence_penalty: asked.presence_penalty,
        frequency_penalty: asked.frequency_penalty,
        logit_bias: asked.logit_bias.clone(),
        seed,
    }
}

/// The work is not over as long as the engine has this.
fn sink(choice: usize, sender: mpsc::Sender<(usize, Event)>, is_over: Arc<AtomicBool>, share: Share) -> Sink {
    Box::new(move |event| {
        let _held = &share;
        if is_over.load(Ordering::Relaxed) || sender.try_send((choice, event)).is_err() {
            return Flow::Stop;
        }
        Flow::Continue
    })
}
