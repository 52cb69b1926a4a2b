//! Cancellation and deadlines, handed to every function that may run long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why a long function ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it.
    Cancelled,
    /// Its time was over.
    DeadlinePassed,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stop::Cancelled => "cancelled",
            Stop::DeadlinePassed => "the deadline has passed",
        })
    }
}

impl std::error::Error for Stop {}

/// Held while a bounded piece of work runs; dropping it lets others have their turn.
pub type Turn = Box<dyn Send>;

/// A token that long work checks between its steps; clones share the same flag.
#[derive(Clone, Default)]
pub struct Control {
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
    turns: Option<Arc<dyn Fn() -> Result<Turn, Stop> + Send + Sync>>,
    passes: Arc<AtomicU64>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shares = self.turns.is_some();
        f.debug_struct("Control").field("stop", &self.check()).field("shares", &shares).finish()
    }
}

impl Control {
    /// Never stops by itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same token, which also stops at `deadline`.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same token for work that shares a device: each piece waits for its turn, which `take` gives.
    pub fn with_turns(mut self, take: impl Fn() -> Result<Turn, Stop> + Send + Sync + 'static) -> Self {
        self.turns = Some(Arc::new(take));
        self
    }

    /// Waits for the turn of the next bounded piece of work, or says that the work should end.
    pub fn turn(&self) -> Result<Turn, Stop> {
        self.check()?;
        match &self.turns {
            Some(take) => take(),
            None => Ok(Box::new(())),
        }
    }

    /// Whether others wait while a piece of work has its turn: then pieces should be short.
    pub fn shares_a_device(&self) -> bool {
        self.turns.is_some()
    }

    /// The work has put `n` rows through a model, forward or back.
    pub fn spend(&self, n: u64) {
        self.passes.fetch_add(n, Ordering::Relaxed);
    }

    /// Rows that the work has put through models.
    pub fn spent(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Asks the work to end; safe to call from a signal handler's thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// How long until the deadline; None where there is none. What may end earlier with less plans by it.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// An error as soon as the work should end.
    pub fn check(&self) -> Result<(), Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Stop::DeadlinePassed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_flag_and_a_past_deadline_stops() {
        let control = Control::new();
        let clone = control.clone();
        assert_eq!(clone.check(), Ok(()));
        control.cancel();
        assert_eq!(clone.check(), Err(Stop::Cancelled));
        let late = Control::new().with_deadline(Instant::now());
        assert_eq!((late.check(), late.time_left()), (Err(Stop::DeadlinePassed), Some(Duration::ZERO)));
        assert_eq!(Control::new().time_left(), None);
    }
}
