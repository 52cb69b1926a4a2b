//! Generation: every step, each running sequence gives its next tokens to one pass of its model.
//!
//! A sequence starts with its prompt, in pieces of at most `prefill_tokens_max`; after it, one token a step.
//! Sequences are taken in the order of arrival. A sink that says [`Flow::Stop`] frees its sequence within
//! the step.

use crate::sampler::{Sampler, Sampling, log_probabilities};
use crate::{EngineError, EngineLimits, Gauges};
use lyceum_models::Model;
use lyceum_models::decode::{DecodeRow, DecodeState, Rows};
use lyceum_nn::Workspace;
use std::collections::VecDeque;
use std::sync::Arc;

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
    pub sink: Sink,
}

impl GenerateRequest {
    fn reports_prompt(&self) -> bool {
        self.echo || self.prompt_logprobs.is_some()
    }

    /// Alternatives that are reported with the prompt's tokens; None: no probabilities.
    fn prompt_alternatives(&self) -> Option<usize> {
        self.logprobs.filter(|_| self.echo).max(self.prompt_logprobs)
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::Input("the prompt has no token".into()));
        }
        let vocabulary = self.model.shape.output.width();
        if let Some(id) = self.prompt.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::Input(format!(
                "token id {id} is outside the vocabulary of {vocabulary}"
            )));
        }
        if let Some(id) = self.never_tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::Input(format!(
                "token id {id}, never to be said, is outside the vocabulary of {vocabulary}"
            )));
        }
        match self.model.context() {
            Some(context) if self.prompt.len() > context => Err(EngineError::Input(format!(
                "the prompt has {} tokens, the model's context is {context}",
                self.prompt.len()
            ))),
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

struct Sequence {
    request: GenerateRequest,
    state: DecodeState,
    sampler: Sampler,
    /// Tokens that the model has not seen.
    pending: Vec<u32>,
    n_prompt_seen: usize,
    n_generated: usize,
}

#[derive(Default)]
pub(crate) struct Generator {
    waiting: VecDeque<GenerateRequest>,
    running: Vec<Sequence>,
}

impl Generator {
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub(crate) fn push(&mut self, request: GenerateRequest) {
        self.waiting.push_back(request);
    }

    /// One pass for each model that has running sequences.
    pub(crate) fn step(&mut self, ws: &mut Workspace, gauges: &Gauges, limits: &EngineLimits) {
        while self.running.len() < limits.sequences_running_max
            && let Some(request) = self.waiting.pop_front()
        {
            match start(ws, request) {
                Ok(sequence) => self.running.push(sequence),
                Err(()) => gauges.sequence_done(),
            }
        }
        let mut rest = std::mem::take(&mut self.running);
        let mut next = Vec::with_capacity(rest.len());
        while let Some(first) = rest.first() {
            let model = first.request.model.clone();
            let (group, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|s| Arc::ptr_eq(&s.request.model, &model));
            rest = others;
            let before = group.len();
            let alive = step_group(ws, &model, group, limits);
            (0..before - alive.len()).for_each(|_| gauges.sequence_done());
            next.extend(alive);
        }
        self.running = next;
    }
}

fn start(ws: &mut Workspace, mut request: GenerateRequest) -> Result<Sequence, ()> {
    if request.n_tokens_max == 0 && !request.reports_prompt() {
        (request.sink)(Event::Done(Finish::Length));
        return Err(());
    }
    let state = match request.model.start(ws, request.source.as_deref()) {
        Ok(state) => state,
        Err(error) => {
            (request.sink)(Event::Failed(EngineError::Input(error.to_string())));
            return Err(());
        }
    };
    let pending = request.prompt.clone();
    let sampler = Sampler::new(request.sampling);
    Ok(Sequence { request, state, sampler, pending, n_prompt_seen: 0, n_generated: 0 })
}

/// One pass of `model` over the next tokens of each sequence; those that go on.
fn step_group(
    ws: &mut Workspace,
    model: &Model,
    mut group: Vec<Sequence>,
    limits: &EngineLimits,
) -> Vec<Sequence> {
    let mut rows: Vec<DecodeRow<'_>> = group
        .iter_mut()
        .map(|s| {
            let n = s.pending.len().min(limits.prefill_tokens_max);
            let all = s.request.reports_prompt()
                && s.request.prompt_alternatives().is_some()
                && s.n_prompt_seen < s.request.prompt.len();
            let rows = if all { Rows::All } else { Rows::Last };
            DecodeRow { state: &mut s.state, tokens: &s.pending[..n], rows }
        })
        .collect();
    let mut logits = match model.decode(ws, &mut rows) {
        Ok(logits) => logits,
        Err(error) => {
            let error = EngineError::Input(error.to_string());
            for sequence in &mut group {
                (sequence.request.sink)(Event::Failed(error.clone()));
            }
            return Vec::new();
        }
    };
    let width = model.shape.output.width();
    let n_logit_rows: Vec<usize> = rows.iter().map(|r| r.n_logits()).collect();
    let mut start = 0;
    let mut alive = Vec::with_capacity(group.len());
    for (mut sequence, n) in group.into_iter().zip(n_logit_rows) {
        let logits = &mut logits[start * width..(start + n) * width];
        start += n;
        silence(logits, width, &sequence.request.never_tokens);
        if advance(&mut sequence, logits, width, limits, model.context()) == Flow::Continue {
            alive.push(sequence);
        }
    }
    alive
}

/// Makes tokens impossible, before anything is chosen or reported.
fn silence(logits: &mut [f32], width: usize, never: &[u32]) {
    for row in logits.chunks_exact_mut(width) {
        for &id in never {
            row[id as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Reports what the pass said about a sequence and prepares its next tokens.
fn advance(
    s: &mut Sequence,
    logits: &[f32],
    width: usize,
    limits: &EngineLimits,
    context: Option<usize>,
) -> Flow {
    let in_prompt = s.n_prompt_seen < s.request.prompt.len();
    let n = s.pending.len().min(limits.prefill_tokens_max);
    if in_prompt {
        if s.request.reports_prompt() && report_prompt(s, n, logits, width) == Flow::Stop {
            return Flow::Stop;
        }
        s.n_prompt_seen += n;
        s.pending.drain(..n);
        if !s.pending.is_empty() {
            return Flow::Continue;
        }
        if s.request.n_tokens_max == 0 {
            (s.request.sink)(Event::Done(Finish::Length));
            return Flow::Stop;
        }
    } else {
        s.pending.clear();
    }
    let row = &logits[logits.len() - width..];
    let id = s.sampler.sample(row);
    if s.request.end_tokens.contains(&id) {
        (s.request.sink)(Event::Done(Finish::Stop));
        return Flow::Stop;
    }
    let logprobs = s.request.logprobs.map(|n| report(row, id, n));
    s.n_generated += 1;
    if (s.request.sink)(Event::Token(TokenEvent { id, logprobs })) == Flow::Stop {
        return Flow::Stop;
    }
    let n_seen = s.request.prompt.len() + s.n_generated;
    if s.n_generated >= s.request.n_tokens_max || context.is_some_and(|c| n_seen > c) {
        (s.request.sink)(Event::Done(Finish::Length));
        return Flow::Stop;
    }
    s.pending.push(id);
    Flow::Continue
}

/// Events for the prompt tokens whose probability this pass tells: row `i` is about token `i + 1`.
fn report_prompt(s: &mut Sequence, n: usize, logits: &[f32], width: usize) -> Flow {
    let first = s.n_prompt_seen;
    if first == 0 {
        let id = s.request.prompt[0];
        if (s.request.sink)(Event::Prompt(TokenEvent { id, logprobs: None })) == Flow::Stop {
            return Flow::Stop;
        }
    }
    for i in 0..n {
        let Some(&id) = s.request.prompt.get(first + i + 1) else { break };
        let top = s.request.prompt_alternatives();
        let logprobs = top.map(|top| report(&logits[i * width..(i + 1) * width], id, top));
        if (s.request.sink)(Event::Prompt(TokenEvent { id, logprobs })) == Flow::Stop {
            return Flow::Stop;
        }
    }
    Flow::Continue
}

fn report(row: &[f32], id: u32, n_top: usize) -> Logprobs {
    let all = log_probabilities(row);
    let mut order: Vec<u32> = (0..all.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]).then(a.cmp(&b)));
    let rank = 1 + order.iter().position(|&other| other == id).expect("the token is in the vocabulary: bug");
    order.truncate(n_top);
    // What is never said is no alternative.
    order.retain(|&id| all[id as usize] > f32::NEG_INFINITY);
    let top = order.into_iter().map(|i| (i, all[i as usize])).collect();
    Logprobs { chosen: all[id as usize], rank, top }
}
