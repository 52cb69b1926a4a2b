//! Cancellation and deadlines, handed to every function that may run long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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

/// A token that long work checks between its steps; clones share the same flag.
#[derive(Clone, Debug, Default)]
pub struct Control {
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
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

    /// Asks the work to end; safe to call from a signal handler's thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
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
        assert_eq!(Control::new().with_deadline(Instant::now()).check(), Err(Stop::DeadlinePassed));
    }
}
