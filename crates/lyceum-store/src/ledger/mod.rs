//! Who did what, and what it costs: prices, budgets, and entries that are written once.
//!
//! The path of a request: a price is pinned ([`prices`]), the worst that it can cost is put aside ([`desk`], from what
//! [`budgets`] granted this process), the work is counted elsewhere, and what was done is settled: a line in this
//! process's [`spool`] first, then a row with those of others in one transaction ([`entries`]). A settlement is known by
//! its request, so writing it again changes nothing. What a dead process left is settled from its spool, and what it had
//! put aside goes back ([`recovery`]). A job outlives processes: its money stands under its own id, and its end is its
//! settlement ([`bills`]).
//!
//! Amounts are millionths of the currency, as `i64`; they are never floating.

pub mod bills;
pub mod budgets;
pub mod desk;
pub mod entries;
pub mod prices;
pub mod recovery;
pub mod spool;

#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;

pub use bills::{Bill, NewBill};
pub use budgets::{Budget, Period, Place, Window, WindowKey};
pub use desk::{Desk, Hold, Open, Settlement};
pub use prices::{Price, PriceList, Rates};
pub use spool::Spool;

use lyceum_types::clock::Timestamp;
use std::ops::AddAssign;

/// What prices are in (ISO 4217, as OpenAI writes it).
pub const CURRENCY: &str = "usd";
/// One unit of the currency.
pub const UNIT: i64 = 1_000_000;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub input_tokens: u64,
    /// Of the input, what had been computed before.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Tokens in the examples that a fine-tuning was trained on, as often as it was.
    pub training_tokens: u64,
    /// Rows that another training was trained on, as often as it was.
    pub training_rows: u64,
    /// Seconds on a processor: of choices.
    pub cpu_seconds: u64,
    /// Rows of predictions, and passes of explanations, certificates and attacks.
    pub passes: u64,
}

impl Counts {
    /// Tokens that the engine counts too.
    pub fn served_tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.cached_tokens += other.cached_tokens;
        self.output_tokens += other.output_tokens;
        self.training_tokens += other.training_tokens;
        self.training_rows += other.training_rows;
        self.cpu_seconds += other.cpu_seconds;
        self.passes += other.passes;
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Completed,
    /// Whoever asked went away, or cancelled.
    Cancelled,
    /// It took longer than it may.
    TimedOut,
    /// Of a request, through a fault of the server: it costs nothing. A job that failed pays what was trained.
    Failed,
    /// The server ended before it did; what was noted of it counts.
    Interrupted,
}

impl Outcome {
    pub const ALL: [Outcome; 5] =
        [Outcome::Completed, Outcome::Cancelled, Outcome::TimedOut, Outcome::Failed, Outcome::Interrupted];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timed_out",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// Whether somebody waits for the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    #[default]
    Interactive,
    Batch,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Interactive => "interactive",
            Class::Batch => "batch",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Class::Interactive, Class::Batch].into_iter().find(|class| class.as_str() == text)
    }
}

/// Who asked whom for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its id, or that of the job; no two entries have one.
    pub id: String,
    pub tenant: String,
    pub project: String,
    /// Empty: no key asked.
    pub api_key: String,
    pub model: String,
    pub model_version: u32,
    /// The matched path, such as `/v1/completions`.
    pub route: String,
    pub class: Class,
    pub started_at: Timestamp,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub request: Request,
    pub outcome: Outcome,
    pub counts: Counts,
    /// Version of the price; 0: there was none.
    pub price: i64,
    pub cost: i64,
    pub settled_at: Timestamp,
}
