//! How long sequences waited and ran, and how long they were: histograms since the start, for whoever watches a server.
//!
//! Knows no model, tenant or text: numbers of all sequences together. The times are those of the device thread; the
//! scheduler, which is simulated, has no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts below bounds, the last without one, and the sum of all values.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// Millionths.
    sum: AtomicU64,
}

/// What a [`Histogram`] held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds, ascending, each with how many values are at most as large.
    pub at_most: Vec<(f64, u64)>,
    pub n: u64,
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn add(&self, value: f64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    fn add_seconds(&self, span: Duration) {
        self.add(span.as_secs_f64());
    }

    pub fn read(&self) -> Distribution {
        let mut n = 0;
        let mut at_most = Vec::with_capacity(self.bounds.len());
        for (i, count) in self.counts.iter().enumerate() {
            n += count.load(Ordering::Relaxed);
            if let Some(&bound) = self.bounds.get(i) {
                at_most.push((bound, n));
            }
        }
        Distribution { at_most, n, sum: self.sum.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

// The bounds that vLLM has, so that its dashboards show the same steps.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0,
    50_000.0, 100_000.0,
];

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// By an end token.
    Stop,
    /// At its most tokens, or the model's context.
    Length,
    /// Nobody wanted it any more: a client left, or a stop text was said.
    Abort,
    Error,
}

impl Ended {
    pub const ALL: [Ended; 4] = [Ended::Stop, Ended::Length, Ended::Abort, Ended::Error];

    /// vLLM's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Stop => "stop",
            Ended::Length => "length",
            Ended::Abort => "abort",
            Ended::Error => "error",
        }
    }
}

/// All that is watched.
#[derive(Debug)]
pub struct Observed {
    /// From the request to its first token.
    pub first_token: Histogram,
    /// Between one token and the next.
    pub next_token: Histogram,
    /// The mean of [`next_token`](Self::next_token) of each sequence.
    pub per_token: Histogram,
    /// From the request to its first pass.
    pub queued: Histogram,
    /// From the first pass to the first token.
    pub prefill: Histogram,
    /// From the first token to the last.
    pub decode: Histogram,
    /// From the request to its end.
    pub whole: Histogram,
    pub prompt_tokens: Histogram,
    pub generated_tokens: Histogram,
    ended: [AtomicU64; 4],
    preemptions: AtomicU64,
    prefix_queries: AtomicU64,
    prefix_hits: AtomicU64,
}

impl Default for Observed {
    fn default() -> Self {
        Observed {
            first_token: Histogram::new(FIRST_TOKEN),
            next_token: Histogram::new(NEXT_TOKEN),
            per_token: Histogram::new(NEXT_TOKEN),
            queued: Histogram::new(REQUEST),
            prefill: Histogram::new(REQUEST),
            decode: Histogram::new(REQUEST),
            whole: Histogram::new(REQUEST),
            prompt_tokens: Histogram::new(TOKENS),
            generated_tokens: Histogram::new(TOKENS),
            ended: Default::default(),
            preemptions: AtomicU64::new(0),
            prefix_queries: AtomicU64::new(0),
            prefix_hits: AtomicU64::new(0),
        }
    }
}

impl Observed {
    /// Sequences that ended so.
    pub fn ended(&self, how: Ended) -> u64 {
        self.ended[how as usize].load(Ordering::Relaxed)
    }

    /// How often a sequence gave its pages to one with a better place.
    pub fn preemptions(&self) -> u64 {
        self.preemptions.load(Ordering::Relaxed)
    }

    /// Tokens whose beginnings were looked for among those that were computed, and of these, the ones found.
    pub fn prefix_tokens(&self) -> (u64, u64) {
        (self.prefix_queries.load(Ordering::Relaxed), self.prefix_hits.load(Ordering::Relaxed))
    }

    /// What a scheduler did since it was asked before.
    pub(crate) fn scheduled(&self, preemptions: u64, (queries, hits): (u64, u64)) {
        self.preemptions.fetch_add(preemptions, Ordering::Relaxed);
        self.prefix_queries.fetch_add(queries, Ordering::Relaxed);
        self.prefix_hits.fetch_add(hits, Ordering::Relaxed);
    }

    /// A request went before it had a lane.
    pub(crate) fn gave_up(&self) {
        self.ended[Ended::Abort as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The times of one sequence. Dropped without an end, nobody wanted it any more.
pub(crate) struct Timing {
    observed: Arc<Observed>,
    arrived: Instant,
    begun: Option<Instant>,
    /// The first and the last token.
    spoke: Option<(Instant, Instant)>,
    n_prompt: usize,
    n_tokens: u64,
    ended: Option<Ended>,
}

impl Timing {
    pub fn new(observed: Arc<Observed>, arrived: Instant, n_prompt: usize) -> Self {
        Timing { observed, arrived, begun: None, spoke: None, n_prompt, n_tokens: 0, ended: None }
    }

    /// It has a part in a pass; the first time counts.
    pub fn begin(&mut self) {
        if self.begun.is_none() {
            let now = Instant::now();
            self.observed.queued.add_seconds(now - self.arrived);
            self.begun = Some(now);
        }
    }

    pub fn token(&mut self) {
        let now = Instant::now();
        self.n_tokens += 1;
        match &mut self.spoke {
            None => {
                self.observed.first_token.add_seconds(now - self.arrived);
                self.observed.prefill.add_seconds(now - self.begun.unwrap_or(self.arrived));
                self.spoke = Some((now, now));
            }
            Some((_, last)) => {
                self.observed.next_token.add_seconds(now - *last);
                *last = now;
            }
        }
    }

    pub fn end(&mut self, how: Ended) {
        self.ended = Some(how);
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let how = self.ended.unwrap_or(Ended::Abort);
        let observed = &self.observed;
        observed.ended[how as usize].fetch_add(1, Ordering::Relaxed);
        observed.whole.add_seconds(self.arrived.elapsed());
        observed.prompt_tokens.add(self.n_prompt as f64);
        observed.generated_tokens.add(self.n_tokens as f64);
        let Some((first, last)) = self.spoke else { return };
        observed.decode.add_seconds(last - first);
        if self.n_tokens > 1 {
            observed.per_token.add((last - first).as_secs_f64() / (self.n_tokens - 1) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_its_bound_and_at_all_above_it() {
        let histogram = Histogram::new(&[1.0, 2.5]);
        [0.5, 1.0, 1.5, 2.5, 100.0].iter().for_each(|&value| histogram.add(value));
        let read = histogram.read();
        assert_eq!((read.at_most, read.n), (vec![(1.0, 2), (2.5, 4)], 5));
        assert!((read.sum - 105.5).abs() < 1e-9);
    }

    #[test]
    fn a_sequence_is_told_once_with_its_first_and_next_tokens() {
        let observed = Arc::new(Observed::default());
        let mut timing = Timing::new(observed.clone(), Instant::now(), 7);
        timing.begin();
        timing.begin();
        (0..3).for_each(|_| timing.token());
        timing.end(Ended::Length);
        drop(timing);
        drop(Timing::new(observed.clone(), Instant::now(), 1));
        let n = |histogram: &Histogram| histogram.read().n;
        assert_eq!((n(&observed.queued), n(&observed.first_token), n(&observed.next_token)), (1, 1, 2));
        assert_eq!((n(&observed.per_token), n(&observed.whole)), (1, 2));
        assert_eq!(observed.prompt_tokens.read().sum, 8.0);
        assert_eq!(Ended::ALL.map(|how| observed.ended(how)), [0, 1, 1, 0]);
    }
}
