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

use crate::StoreError;
use crate::db::Transaction;
use lyceum_types::clock::Timestamp;
use std::ops::AddAssign;

/// What prices are in (ISO 4217, as OpenAI writes it).
pub const CURRENCY: &str = "usd";
/// One unit of the currency.
pub const UNIT: i64 = 1_000_000;

/// An amount of money with at most six digits behind the point, exactly, in millionths.
///
/// # Errors
/// The text is no such amount; says how one is written.
pub fn millionths(text: &str) -> Result<i64, String> {
    let wrong =
        || format!("{text:?} is no amount: write as in 0.15, with six digits behind the point at most");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 || text.ends_with('.') {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let part: i64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(UNIT).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)
}

/// Refuses what is said of a project that is not there.
async fn require_project(
    transaction: &mut Transaction,
    tenant: &str,
    project: &str,
) -> Result<(), StoreError> {
    let (n,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM projects WHERE tenant = $1 AND project = $2")
        .bind(tenant)
        .bind(project)
        .fetch_one(&mut **transaction)
        .await?;
    if n == 0 {
        return Err(StoreError::NotFound { what: "project", id: project.chars().take(64).collect() });
    }
    Ok(())
}

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
    /// Rows of predictions, and passes of explanations, certificates and attacks, those of a job's gate among them.
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
