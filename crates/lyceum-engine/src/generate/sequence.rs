//! What the scheduler knows of a sequence: its tokens, how many of them the model has seen, and its pages.

use super::blocks::Before;

/// Whose work it is: an opaque key. Tenants share the device fairly and never each other's prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tenant(pub u128);

/// Whose pages a sequence may begin with: those of its tenant, computed with its adapter or with none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin {
    pub tenant: Tenant,
    /// The adapter's number, never given twice.
    pub adapter: Option<u64>,
}

/// Work of a lower class waits, and gives way, while there is work of a higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    #[default]
    Interactive,
    Batch,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: u64,
    pub tenant: Tenant,
    pub adapter: Option<u64>,
    pub priority: Priority,
    /// Prompt and answer as far as they are known.
    pub tokens: Vec<u32>,
    pub n_prompt: usize,
    /// The first of them are read, as the prompt is; what comes after it makes itself.
    pub n_read: usize,
    /// Positions that it can come to need at most.
    pub n_positions_max: usize,
    /// The model has seen the first so many of `tokens`.
    pub n_seen: usize,
    /// Room for the positions seen, and more.
    pub pages: Vec<u32>,
    /// Whether it may begin with pages that others computed, and leaves its own.
    pub shares: bool,
    /// Every row of the prompt is reported, not only the last; or those from the one that tells of this token on.
    pub reports_prompt: bool,
    pub reported_from: usize,
    /// Tokens may be guessed ahead.
    pub drafts: bool,
    /// Guessing rests for so many tokens after a guess that was all wrong.
    pub draft_rests: usize,
    /// Full pages that the cache knows of, and what the next continues.
    pub n_remembered: usize,
    pub before: Before,
    /// Tokens that its tenant was charged for.
    pub n_charged: usize,
}

impl Sequence {
    pub(crate) fn new(id: u64, tenant: Tenant, prompt: Vec<u32>, n_positions_max: usize) -> Sequence {
        Sequence {
            id,
            tenant,
            adapter: None,
            priority: Priority::Interactive,
            n_prompt: prompt.len(),
            n_read: prompt.len(),
            tokens: prompt,
            n_positions_max,
            n_seen: 0,
            pages: Vec::new(),
            shares: true,
            reports_prompt: false,
            reported_from: 0,
            drafts: true,
            draft_rests: 0,
            n_remembered: 0,
            before: Before::Beginning(Origin { tenant, adapter: None }),
            n_charged: 0,
        }
    }

    /// The same with an adapter.
    pub(crate) fn with_adapter(mut self, adapter: Option<u64>) -> Sequence {
        self.adapter = adapter;
        self.before = Before::Beginning(self.origin());
        self
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin { tenant: self.tenant, adapter: self.adapter }
    }

    /// Whether what the model says at this position of the prompt is reported.
    pub(crate) fn is_reported(&self, position: usize) -> bool {
        self.reports_prompt && (self.first_reported()..self.n_prompt).contains(&position)
    }

    /// The position whose answer is the first that is reported.
    pub(crate) fn first_reported(&self) -> usize {
        self.reported_from.saturating_sub(1)
    }

    /// Tokens that the model has not seen; one while an answer is being written.
    pub(crate) fn n_unseen(&self) -> usize {
        self.tokens.len() - self.n_seen
    }

    /// The better its place, the sooner it runs and the later it gives way: class, then arrival.
    pub(crate) fn place(&self) -> (Priority, u64) {
        (self.priority, self.id)
    }
}
