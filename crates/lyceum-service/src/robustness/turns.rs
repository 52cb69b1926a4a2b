//! Mathematics that runs for long beside a serving engine: on a thread of its own, each pass in a turn on the device
//! thread, paid for as it goes, ended where its future is dropped.

use crate::ServiceError;
use crate::meter::{Counts, Share};
use lyceum_engine::Engine;
use lyceum_types::control::{Control, Stop, Turn};
use lyceum_types::limits;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

/// Rows that are paid for before they go through the model, and how near to their end more are asked for.
pub(crate) const PASSES_COVERED: u64 = 16_384;
const PASSES_A_TURN: u64 = 2048;

/// Does `work`, whose control gives it turns and counts what it spends. The share knows of so many passes already, and has
/// covered the first [`PASSES_COVERED`] behind them.
///
/// # Errors
/// The work's own, or why no more was put aside for it.
pub(crate) async fn in_turns<T: Send + 'static>(
    engine: &Engine,
    share: (Share, u64),
    work: impl FnOnce(&Control) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    in_turns_until(Instant::now() + limits::BACKGROUND_RUN_TIMEOUT, engine, share, work).await
}

/// As [`in_turns`], of work that somebody waits for: it ends at `deadline`.
pub(crate) async fn in_turns_until<T: Send + 'static>(
    deadline: Instant,
    engine: &Engine,
    (share, before): (Share, u64),
    work: impl FnOnce(&Control) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let (engine, runtime) = (engine.clone(), tokio::runtime::Handle::current());
    let spent = Control::new().with_deadline(deadline);
    let (told, refused) = (Mutex::default(), Mutex::default());
    let count = Arc::new(Count { spent: spent.clone(), share, before, told, refused });
    let counting = count.clone();
    let control = spent.with_turns(move || {
        runtime.block_on(counting.cover())?;
        turn(&engine)
    });
    let _cancel = CancelOnDrop(control.clone());
    let counted = count.clone();
    let work = move || {
        let found = work(&control);
        counted.count();
        found
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| ServiceError::internal("a run broke off", error))?;
    let refused = count.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    refused.map_or(done, Err)
}

/// The device for one pass: its thread waits until the turn is dropped, and serves the others before the next one.
fn turn(engine: &Engine) -> Result<Turn, Stop> {
    let (begin, begun) = mpsc::channel::<()>();
    let (hold, held) = mpsc::channel::<()>();
    let task = move || {
        if begin.send(()).is_ok() {
            // Ends when the turn is dropped; nothing is ever sent.
            let _ = held.recv();
        }
    };
    engine.with_device(task).map_err(|_| Stop::Cancelled)?;
    begun.recv().map_err(|_| Stop::Cancelled)?;
    Ok(Box::new(hold))
}

/// What a run has used of what was put aside for it.
struct Count {
    spent: Control,
    share: Share,
    /// Rows that went through the model before.
    before: u64,
    /// Rows that the share knows of, and those that are covered.
    told: Mutex<(u64, u64)>,
    /// Why no more is put aside.
    refused: Mutex<Option<ServiceError>>,
}

impl Count {
    /// Tells what was done since the last time; all of it, and what is covered.
    fn count(&self) -> (u64, u64) {
        let mut told = self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let spent = self.spent.spent();
        self.share.add_passes(spent - told.0);
        told.0 = spent;
        told.1 = told.1.max(PASSES_COVERED);
        *told
    }

    /// Makes sure that the next turn is covered.
    async fn cover(&self) -> Result<(), Stop> {
        let (spent, covered) = self.count();
        if spent + PASSES_A_TURN <= covered {
            return Ok(());
        }
        // A turn of long answers may have made more passes than were covered.
        let next = covered.max(spent) + PASSES_COVERED;
        let most = Counts { passes: self.before + next, ..Counts::default() };
        match self.share.extend(most).await {
            Ok(()) => {
                self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).1 = next;
                Ok(())
            }
            Err(error) => {
                *self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
                Err(Stop::Cancelled)
            }
        }
    }
}

struct CancelOnDrop(Control);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
