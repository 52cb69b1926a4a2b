//! Generation: every step, each model with work makes one pass over the next tokens of its sequences.
//!
//! * [`sequence`]: what is known of a sequence;
//! * [`blocks`]: which page belongs to whom, and beginnings that are kept;
//! * [`scheduler`]: what the next pass takes (pure);
//! * [`runner`]: a model, its pages and its pass;
//! * [`sampler`], [`mask`], [`draft`]: from logits to tokens.
//!
//! What a sequence says does not depend on the others: rows of a pass do not, cuts of a prompt, kept
//! beginnings and computing anew after giving way repeat the same bits, and each sequence draws from its own
//! generator. A sink that says [`Flow::Stop`] frees its sequence within the step; a flag
//! ([`GenerateRequest::cancelled`]) does so also while it waits.

mod blocks;
mod draft;
#[cfg(test)]
mod invariance;
mod mask;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
#[cfg(test)]
mod simulate;

pub use mask::{BitMask, TokenMask};
pub use sampler::Sampling;
pub use sequence::{Priority, Tenant};

use crate::observed::Timing;
use crate::{EngineError, EngineLimits, Gauges, Metered, Places};
use lyceum_models::Model;
use lyceum_models::causal_lm::Adapter;
use lyceum_models::decode::PAGE;
use lyceum_nn::Workspace;
use runner::Lane;
use scheduler::Scheduler;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Called for every event; must not block.
pub type Sink = Box<dyn FnMut(Event) -> Flow + Send>;

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Stop,
}

/// One sequence to continue.
pub struct GenerateRequest {
    pub model: Arc<Model>,
    /// What is added to the model's layers for this sequence; None: nothing.
    pub adapter: Option<Arc<Adapter>>,
    /// What an encoder–decoder reads; None for decoders.
    pub source: Option<Vec<u32>>,
    /// At least one token (a decoder's prompt, or the begin token of a target).
    pub prompt: Vec<u32>,
    pub n_tokens_max: usize,
    /// Tokens that end the sequence; they are not part of the answer.
    pub end_tokens: Vec<u32>,
    /// Tokens that mean nothing in an answer: they are never chosen, and probabilities are those among the
    /// other tokens. In a prompt they may stand; their log-probability is then minus infinity.
    pub never_tokens: Vec<u32>,
    pub sampling: Sampling,
    /// How many alternatives to report with each token; None reports no probabilities.
    pub logprobs: Option<usize>,
    /// Report the prompt's tokens too; their probabilities as `logprobs` or `prompt_logprobs` ask, whichever
    /// asks for more.
    pub echo: bool,
    /// Report the prompt's tokens with this many alternatives.
    pub prompt_logprobs: Option<usize>,
    /// The first token of the prompt that is reported; what stands before it may be a kept beginning. 0 together with
    /// `echo`.
    pub reported_from: usize,
    /// Whose work this is.
    pub tenant: Tenant,
    pub priority: Priority,
    /// Which tokens may be said; None: all.
    pub mask: Option<Box<dyn TokenMask>>,
    /// How many of the sequence's first tokens are read, with the bits that they have in a prompt; the others are what it
    /// made itself. None: the prompt. A prompt may end with what was made before, and what a mask decided may be read.
    pub n_read: Option<usize>,
    /// Told when the sequence begins: how many tokens of its prompt had been computed for others before.
    pub kept: Option<Arc<AtomicUsize>>,
    /// Who counts what is done for it.
    pub metered: Option<Metered>,
    /// Set by whoever no longer wants the answer: it is dropped before the next step, without an event.
    pub cancelled: Option<Arc<AtomicBool>>,
    /// When it was asked; the engine says it when it takes the request.
    pub arrived: Instant,
    pub sink: Sink,
}

impl GenerateRequest {
    /// The likeliest continuation, without probabilities, of at most `n_tokens_max` tokens.
    pub fn new(model: Arc<Model>, prompt: Vec<u32>, n_tokens_max: usize, sink: Sink) -> Self {
        GenerateRequest {
            model,
            adapter: None,
            source: None,
            prompt,
            n_tokens_max,
            end_tokens: Vec::new(),
            never_tokens: Vec::new(),
            sampling: Sampling::default(),
            logprobs: None,
            echo: false,
            prompt_logprobs: None,
            reported_from: 0,
            tenant: Tenant::default(),
            priority: Priority::Interactive,
            mask: None,
            n_read: None,
            kept: None,
            metered: None,
            cancelled: None,
            arrived: Instant::now(),
            sink,
        }
    }

    fn reports_prompt(&self) -> bool {
        self.echo || self.prompt_logprobs.is_some()
    }

    /// Alternatives that are reported with the prompt's tokens; None: no probabilities.
    fn prompt_alternatives(&self) -> Option<usize> {
        self.logprobs.filter(|_| self.echo).max(self.prompt_logprobs)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    /// Positions that the model can come to see: the last token of the answer is never given to it.
    fn n_positions_max(&self) -> usize {
        let all = self.prompt.len() + self.n_tokens_max.saturating_sub(1);
        self.model.context().map_or(all, |context| all.min(context))
    }

    pub(crate) fn check(&self, limits: &EngineLimits) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::Input(why));
        if self.prompt.is_empty() {
            return refuse("the prompt has no token".into());
        }
        if self.reported_from >= self.prompt.len() || self.echo && self.reported_from > 0 {
            return refuse(format!(
                "token {} of the prompt cannot be the first to report",
                self.reported_from
            ));
        }
        if let Some(adapter) = &self.adapter
            && let Err(error) = adapter.fits(&self.model)
        {
            return refuse(error.to_string());
        }
        let vocabulary = self.model.shape.output.width();
        let beyond = |ids: &[u32]| ids.iter().find(|&&id| id as usize >= vocabulary).copied();
        if let Some(id) = beyond(&self.prompt) {
            return refuse(format!("token id {id} is outside the vocabulary of {vocabulary}"));
        }
        if let Some(id) = beyond(&self.never_tokens) {
            return refuse(format!(
                "token id {id}, never to be said, is outside the vocabulary of {vocabulary}"
            ));
        }
        self.sampling.check(vocabulary)?;
        if let Some(context) = self.model.context()
            && self.prompt.len() > context
        {
            return refuse(format!(
                "the prompt has {} tokens, the model's context is {context}",
                self.prompt.len()
            ));
        }
        match limits.kv_pages(&self.model) {
            Some(n) if !Scheduler::can_ever_fit(self.n_positions_max(), n, PAGE) => refuse(format!(
                "{} positions of keys and values can never fit into the memory for {}",
                self.n_positions_max(),
                n * PAGE
            )),
            _ => Ok(()),
        }
    }
}

/// What a sequence tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token of the prompt, when `echo` was asked for; the first has no probability.
    Prompt(TokenEvent),
    Token(TokenEvent),
    /// The last event.
    Done(Finish),
    /// The last event, instead of `Done`.
    Failed(EngineError),
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    pub chosen: f32,
    /// How many tokens are at least as likely as the chosen one, itself included and the lower ids of equals
    /// first: 1 is the likeliest.
    pub rank: usize,
    /// `−Σ p ln p` over the whole vocabulary (without tokens that are never said), in nats: how open the choice was.
    pub entropy: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token was chosen.
    Stop,
    /// `n_tokens_max`, or the model's context, was reached.
    Length,
}

/// All models that generate.
pub(crate) struct Generator {
    limits: EngineLimits,
    lanes: Vec<Lane>,
    /// For models that have no lane while all lanes are busy.
    pending: VecDeque<(GenerateRequest, Places)>,
    last_id: u64,
}

impl Generator {
    pub(crate) fn new(limits: EngineLimits) -> Self {
        Generator { limits, lanes: Vec::new(), pending: VecDeque::new(), last_id: 0 }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.lanes.iter().all(Lane::is_idle)
    }

    pub(crate) fn push(&mut self, request: GenerateRequest, place: Places) {
        self.pending.push_back((request, place));
    }

    /// One pass for each model that has work.
    pub(crate) fn step(&mut self, ws: &mut Workspace, gauges: &Gauges) {
        // Nobody holds these models any more.
        self.lanes.retain(|lane| lane.model.strong_count() > 0);
        let mut left = VecDeque::new();
        while let Some((request, place)) = self.pending.pop_front() {
            if request.is_cancelled() {
                gauges.observed.gave_up();
                continue;
            }
            match self.lane(&request.model) {
                Some(i) => {
                    self.last_id += 1;
                    let timing = Timing::new(gauges.observed.clone(), request.arrived, request.prompt.len());
                    self.lanes[i].add(self.last_id, request, place, timing);
                }
                None => left.push_back((request, place)),
            }
        }
        self.pending = left;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.is_idle()) {
            lane.step(ws);
            lane.tell(&gauges.observed);
        }
        let used = self.lanes.iter().map(Lane::pages_used).sum();
        gauges.kv_pages_used.store(used, Ordering::Relaxed);
        gauges.kv_pages.store(self.lanes.iter().map(Lane::pages).sum(), Ordering::Relaxed);
        let running = self.lanes.iter().map(Lane::n_running).sum();
        gauges.sequences_running.store(running, Ordering::Relaxed);
    }

    /// The lane of a model, a new one where there is none and room for it.
    fn lane(&mut self, model: &Arc<Model>) -> Option<usize> {
        let of = |lane: &Lane| std::ptr::eq(lane.model.as_ptr(), Arc::as_ptr(model));
        if let Some(i) = self.lanes.iter().position(of) {
            return Some(i);
        }
        if self.lanes.len() >= self.limits.models_max {
            let idle = self.lanes.iter().position(Lane::is_idle)?;
            self.lanes.remove(idle);
        }
        self.lanes.push(Lane::new(model, &self.limits));
        Some(self.lanes.len() - 1)
    }

    #[cfg(test)]
    pub(crate) fn lanes(&mut self) -> &mut Vec<Lane> {
        &mut self.lanes
    }
}
