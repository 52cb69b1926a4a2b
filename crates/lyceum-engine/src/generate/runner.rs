//! A model that generates: its pages, its scheduler, and the pass that the scheduler planned.

use super::blocks::Blocks;
use super::sampler::{Sampler, report};
use super::scheduler::{Limits, Row, Scheduler};
use super::sequence::Sequence;
use super::{Event, Finish, Flow, GenerateRequest, TokenEvent};
use crate::observed::{Ended, Observed, Timing};
use crate::{CountPrompt, EngineError, EngineLimits, Metered, Places};
use lyceum_models::Model;
use lyceum_models::decode::{DecodeRow, DecodeState, PAGE, RowClass, Rows};
use lyceum_nn::Workspace;
use lyceum_nn::ops::cached_attention::KvPool;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Passes of more rows than this do not guess: their products are bound by arithmetic, and guesses cost.
const DRAFT_ROWS_MAX: usize = 16;

pub(crate) struct Lane {
    pub model: Weak<Model>,
    pool: Option<KvPool>,
    scheduler: Scheduler,
    live: BTreeMap<u64, Live>,
    /// What tests do to the logits of a pass of so many rows.
    #[cfg(test)]
    pub spoil: Option<fn(&mut [f32], usize)>,
}

/// A sequence as the outside knows it.
struct Live {
    request: GenerateRequest,
    /// Comes back with this value.
    _place: Places,
    timing: Timing,
    /// None until its first pass.
    state: Option<DecodeState>,
    sampler: Sampler,
    /// Tokens of the prompt that were reported, or are not to be.
    n_reported: usize,
    n_generated: usize,
    /// Tokens of the prompt that its tally knows of.
    n_counted: usize,
}

/// How a sequence goes on after a pass.
enum Next {
    /// With these tokens, none inside its prompt.
    Tokens(Vec<u32>),
    Over,
}

impl Lane {
    pub(crate) fn new(model: &Arc<Model>, limits: &EngineLimits) -> Lane {
        let shape = limits.kv_pages(model).and_then(|n| model.kv_shape(n, limits.kv_storage));
        let blocks = shape.map(|shape| Blocks::new(shape.n_pages, PAGE, limits.prefix_cache));
        let of_scheduler = Limits {
            running_max: limits.sequences_running_max,
            step_tokens_max: limits.step_tokens_max,
            batch_beside_max: limits.batch_tokens_beside_max,
            piece_max: limits.prefill_tokens_max,
            draft_max: limits.draft_tokens_max,
            draft_rows_max: DRAFT_ROWS_MAX,
            made_apart: model.tells_row_classes_apart(),
        };
        Lane {
            model: Arc::downgrade(model),
            pool: shape.map(KvPool::new),
            scheduler: Scheduler::new(of_scheduler, blocks),
            live: BTreeMap::new(),
            #[cfg(test)]
            spoil: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.live.is_empty()
    }

    pub(crate) fn pages_used(&self) -> usize {
        self.scheduler.blocks.as_ref().map_or(0, Blocks::used)
    }

    #[cfg(test)]
    pub(crate) fn n_preempted_and_guessed(&self) -> [u64; 2] {
        [self.scheduler.n_preemptions, self.scheduler.n_guessed]
    }

    /// What the scheduler did since it was told before.
    pub(crate) fn tell(&mut self, observed: &Observed) {
        let [preemptions, queries, hits] = self.scheduler.take_counts();
        observed.scheduled(preemptions, (queries, hits));
    }

    pub(crate) fn pages(&self) -> usize {
        self.scheduler.blocks.as_ref().map_or(0, Blocks::n_pages)
    }

    pub(crate) fn n_running(&self) -> usize {
        self.scheduler.n_running()
    }

    pub(crate) fn add(&mut self, id: u64, mut request: GenerateRequest, place: Places, timing: Timing) {
        let n_positions = request.n_positions_max();
        let adapter = request.adapter.as_ref().map(|adapter| adapter.id());
        let sequence = Sequence::new(id, request.tenant, request.prompt.clone(), n_positions);
        let mut sequence = sequence.with_adapter(adapter);
        sequence.priority = request.priority;
        // Rows of a prompt that are reported are all computed; what is written from a source depends on it.
        sequence.shares =
            (!request.reports_prompt() || request.reported_from > 0) && request.source.is_none();
        sequence.reports_prompt = request.reports_prompt() && request.prompt_alternatives().is_some();
        sequence.reported_from = request.reported_from;
        sequence.n_read = request.n_read.unwrap_or(sequence.n_prompt);
        self.scheduler.add(sequence);
        let sampler = Sampler::new(request.sampling.clone(), request.mask.take(), &request.prompt);
        let live = Live {
            n_reported: request.reported_from,
            request,
            _place: place,
            timing,
            state: None,
            sampler,
            n_generated: 0,
            n_counted: 0,
        };
        self.live.insert(id, live);
    }

    /// One pass.
    pub(crate) fn step(&mut self, ws: &mut Workspace) {
        let gone: Vec<u64> =
            self.live.iter().filter(|(_, live)| live.request.is_cancelled()).map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        let Some(model) = self.live.values().next().map(|live| live.request.model.clone()) else {
            return;
        };
        let mut rows = self.scheduler.plan();
        rows.retain(|row| self.prepare(ws, &model, row));
        match self.pass(ws, &model, &rows) {
            Ok(mut logits) => {
                self.hear(&rows, &mut logits, model.shape.output.width(), model.context());
                ws.recycle(logits);
                ws.trim();
            }
            Err(error) => rows.iter().for_each(|row| self.fail(row.id, error.clone())),
        }
    }

    fn remove(&mut self, id: u64) {
        self.live.remove(&id);
        self.scheduler.remove(id);
    }

    fn fail(&mut self, id: u64, error: EngineError) {
        if let Some(live) = self.live.get_mut(&id) {
            live.timing.end(Ended::Error);
            (live.request.sink)(Event::Failed(error));
        }
        self.remove(id);
    }

    /// Brings a sequence's state to where its row begins; false when that failed and it is over.
    fn prepare(&mut self, ws: &mut Workspace, model: &Model, row: &Row) -> bool {
        let live = self.live.get_mut(&row.id).expect("the scheduler's sequences live: bug");
        let paged = self.pool.is_some();
        // A recurrent state cannot go back: who gave way reads again from the beginning.
        let again = !paged && live.state.as_ref().is_some_and(|state| state.n_seen() != row.start);
        if let (None, Some(kept)) = (&live.state, &live.request.kept) {
            kept.store(row.start, Ordering::Relaxed);
        }
        if live.state.is_none() {
            live.count_beginning(row.start);
            live.timing.begin();
        }
        if live.state.is_none() || again {
            match model.start(ws, live.request.source.as_deref()) {
                Ok(state) => live.state = Some(state),
                Err(error) => {
                    self.fail(row.id, EngineError::Input(error.to_string()));
                    return false;
                }
            }
        }
        if let (true, Some(state)) = (paged, &mut live.state) {
            state.go_on_from(row.start);
        }
        true
    }

    fn pass(&mut self, ws: &mut Workspace, model: &Model, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut states = Vec::with_capacity(rows.len());
        for row in rows {
            let live = self.live.get_mut(&row.id).expect("it was prepared: bug");
            states.push(live.state.take().expect("it was prepared: bug"));
        }
        let tokens: Vec<Vec<u32>> = rows
            .iter()
            .map(|row| {
                let known = &self.scheduler.get(row.id).tokens[row.start..row.start + row.n];
                [known, &row.guesses[..]].concat()
            })
            .collect();
        let mut passed: Vec<DecodeRow<'_>> = Vec::with_capacity(rows.len());
        for ((state, tokens), row) in states.iter_mut().zip(&tokens).zip(rows) {
            let pages = &self.scheduler.get(row.id).pages;
            let adapter = self.live[&row.id].request.adapter.as_deref();
            let class = if row.is_made { RowClass::Step } else { RowClass::Bulk };
            passed.push(DecodeRow { state, tokens, rows: self.wanted(row), pages, adapter, class });
        }
        let logits = model.decode(ws, self.pool.as_mut(), &mut passed);
        drop(passed);
        for (row, state) in rows.iter().zip(states) {
            self.live.get_mut(&row.id).expect("it was prepared: bug").state = Some(state);
        }
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests spoil them"))]
        let mut logits = logits.map_err(|error| EngineError::Input(error.to_string()))?;
        #[cfg(test)]
        if let Some(spoil) = self.spoil {
            spoil(&mut logits, tokens.iter().map(Vec::len).sum());
        }
        Ok(logits)
    }

    fn wanted(&self, row: &Row) -> Rows {
        let sequence = self.scheduler.get(row.id);
        if sequence.is_reported(row.start) || !row.guesses.is_empty() {
            Rows::All
        } else if row.start + row.n == sequence.tokens.len() {
            Rows::Last
        } else {
            Rows::None
        }
    }

    /// Gives every sequence its rows of logits.
    fn hear(&mut self, rows: &[Row], logits: &mut [f32], width: usize, context: Option<usize>) {
        let mut start = 0;
        for row in rows {
            let n = match self.wanted(row) {
                Rows::None => 0,
                Rows::Last => 1,
                Rows::All => row.n + row.guesses.len(),
            };
            let logits = &mut logits[start * width..(start + n) * width];
            start += n;
            let complete = row.start + row.n == self.scheduler.get(row.id).tokens.len();
            let live = self.live.get_mut(&row.id).expect("it was prepared: bug");
            silence(logits, width, &live.request.never_tokens);
            match live.hear(row, logits, width, complete, context) {
                Ok(Next::Tokens(chosen)) => self.scheduler.advance(row, &chosen),
                Ok(Next::Over) => self.remove(row.id),
                Err(error) => self.fail(row.id, error),
            }
        }
    }
}

/// Makes tokens impossible, before anything is chosen or reported.
fn silence(logits: &mut [f32], width: usize, never: &[u32]) {
    for row in logits.chunks_exact_mut(width) {
        for &id in never {
            row[id as usize] = f32::NEG_INFINITY;
        }
    }
}

impl Live {
    /// Reports what the pass said, and the tokens to go on with.
    fn hear(
        &mut self,
        row: &Row,
        logits: &[f32],
        width: usize,
        complete: bool,
        context: Option<usize>,
    ) -> Result<Next, EngineError> {
        self.count_prompt(row.start + row.n);
        let reports = self.request.reports_prompt() && row.start < self.request.prompt.len();
        if reports && self.report_prompt(row, logits, width) == Flow::Stop {
            return Ok(Next::Over);
        }
        if !complete {
            return Ok(Next::Tokens(Vec::new()));
        }
        if self.request.n_tokens_max == 0 {
            return Ok(self.done(Finish::Length));
        }
        let mut chosen = Vec::new();
        // The rows behind the last known token and behind each guess.
        let last = logits.len() / width - 1 - row.guesses.len();
        for (i, logits) in logits.chunks_exact(width).skip(last).enumerate() {
            let id = self.sampler.next(logits)?;
            if self.request.end_tokens.contains(&id) {
                return Ok(self.done(Finish::Stop));
            }
            self.sampler.accept(id)?;
            let logprobs = self.request.logprobs.map(|n| report(logits, id, n));
            self.n_generated += 1;
            self.timing.token();
            if let Some(metered) = &self.request.metered {
                metered.tally.add_generated(1);
            }
            if (self.request.sink)(Event::Token(TokenEvent { id, logprobs })) == Flow::Stop {
                return Ok(Next::Over);
            }
            let n_tokens = self.request.prompt.len() + self.n_generated;
            if self.n_generated >= self.request.n_tokens_max || context.is_some_and(|c| n_tokens > c) {
                return Ok(self.done(Finish::Length));
            }
            chosen.push(id);
            if row.guesses.get(i) != Some(&id) {
                break;
            }
        }
        Ok(Next::Tokens(chosen))
    }

    /// The sequence begins, `n_cached` tokens of its prompt being computed already.
    fn count_beginning(&mut self, n_cached: usize) {
        let Some(Metered { tally, prompt: CountPrompt::Yes }) = &self.request.metered else { return };
        match &self.request.source {
            Some(source) => tally.add_prompt(source.len() as u64),
            None => {
                tally.add_cached(n_cached as u64);
                tally.add_prompt(n_cached as u64);
                self.n_counted = n_cached;
            }
        }
    }

    /// The model has seen the first `n_seen` tokens of prompt and answer.
    fn count_prompt(&mut self, n_seen: usize) {
        let Some(Metered { tally, prompt: CountPrompt::Yes }) = &self.request.metered else { return };
        let n_seen = n_seen.min(self.request.prompt.len());
        if self.request.source.is_none() && n_seen > self.n_counted {
            tally.add_prompt((n_seen - self.n_counted) as u64);
            self.n_counted = n_seen;
        }
    }

    fn done(&mut self, finish: Finish) -> Next {
        self.timing.end(match finish {
            Finish::Stop => Ended::Stop,
            Finish::Length => Ended::Length,
        });
        (self.request.sink)(Event::Done(finish));
        Next::Over
    }

    /// Events for the tokens of the prompt whose probability this pass tells: row `i` is about token `i + 1`.
    /// What was told before the sequence gave way is not told again.
    fn report_prompt(&mut self, row: &Row, logits: &[f32], width: usize) -> Flow {
        let top = self.request.prompt_alternatives();
        let first = if row.start == 0 { 0 } else { row.start + 1 };
        for position in first..=row.start + row.n {
            let Some(&id) = self.request.prompt.get(position) else { break };
            if position < self.n_reported {
                continue;
            }
            self.n_reported += 1;
            let logprobs = top.filter(|_| position > 0).map(|top| {
                let at = position - 1 - row.start;
                report(&logits[at * width..(at + 1) * width], id, top)
            });
            if (self.request.sink)(Event::Prompt(TokenEvent { id, logprobs })) == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }
}
