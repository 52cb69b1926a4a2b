//! What was done for whom, counted where it is done: on the device thread, as it happens.
//!
//! A request that somebody pays for brings a [`Tally`]. It is complete when the engine has dropped its handle, which it
//! does with the sink or the reply; the sums of all tallies are kept beside it, so that a ledger can be checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sums. Tokens computed again after giving way are counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Tokens of prompts and inputs that were read, kept beginnings included.
    pub prompt_tokens: u64,
    /// Of these, found computed.
    pub cached_tokens: u64,
    /// Tokens that were chosen, also those that nobody took.
    pub generated_tokens: u64,
    /// Rows of predictions, and passes of explanations and the like.
    pub passes: u64,
}

impl Counted {
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.generated_tokens
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    prompt: AtomicU64,
    cached: AtomicU64,
    generated: AtomicU64,
    passes: AtomicU64,
}

impl Counters {
    pub fn read(&self) -> Counted {
        Counted {
            prompt_tokens: self.prompt.load(Ordering::SeqCst),
            cached_tokens: self.cached.load(Ordering::SeqCst),
            generated_tokens: self.generated.load(Ordering::SeqCst),
            passes: self.passes.load(Ordering::SeqCst),
        }
    }
}

/// What was done for one request. Its sums are also part of its engine's; one that was made alone is of no engine.
#[derive(Debug, Default)]
pub struct Tally {
    own: Counters,
    all: Arc<Counters>,
}

impl Tally {
    pub(crate) fn new(all: Arc<Counters>) -> Self {
        Tally { own: Counters::default(), all }
    }

    pub fn counted(&self) -> Counted {
        self.own.read()
    }

    /// `n` passes were made on the device for this request, outside predictions.
    pub fn add_passes(&self, n: u64) {
        self.add(|counters| &counters.passes, n);
    }

    /// `n` tokens of an input were read for this request, outside sequences and predictions.
    pub fn add_prompt(&self, n: u64) {
        self.add(|counters| &counters.prompt, n);
    }

    pub(crate) fn add_cached(&self, n: u64) {
        self.add(|counters| &counters.cached, n);
    }

    /// `n` tokens were made for this request, outside sequences.
    pub fn add_generated(&self, n: u64) {
        self.add(|counters| &counters.generated, n);
    }

    fn add(&self, which: impl Fn(&Counters) -> &AtomicU64, n: u64) {
        if n > 0 {
            which(&self.own).fetch_add(n, Ordering::SeqCst);
            which(&self.all).fetch_add(n, Ordering::SeqCst);
        }
    }
}

/// Whether a sequence's prompt is counted: answers to one prompt read it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountPrompt {
    Yes,
    No,
}

/// A sequence that somebody pays for.
#[derive(Clone, Debug)]
pub struct Metered {
    pub tally: Arc<Tally>,
    pub prompt: CountPrompt,
}
