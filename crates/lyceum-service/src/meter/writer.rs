//! The one task that writes entries: whatever was settled in a few milliseconds is one durable transaction.
//!
//! Where the database takes nothing (another process holds it, the disk is full) entries stay in the spool, which is then
//! flushed, and are tried again until they are in. Prices, budgets and idle money are looked after in between.

use super::ledger::Ledger;
use lyceum_store::StoreError;
use lyceum_store::ledger::{entries, recovery};
use lyceum_types::clock::{Timestamp, month};
use lyceum_types::limits;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Writes until the ledger is dropped; waiting, it holds nothing of it.
pub(super) async fn write(ledger: Weak<Ledger>, written_to: Arc<Notify>) {
    let mut looked_after = Instant::now();
    let mut pause = Duration::ZERO;
    loop {
        let Some(waiting) = ledger.upgrade().map(|ledger| ledger.state().desk.pending().len()) else {
            return;
        };
        if waiting == 0 {
            let _ = tokio::time::timeout(limits::LEDGER_LOOK_EVERY, written_to.notified()).await;
        }
        if waiting < limits::LEDGER_GROUP_MAX || !pause.is_zero() {
            tokio::time::sleep(limits::LEDGER_GATHER.max(pause)).await;
        }
        let Some(ledger) = ledger.upgrade() else { return };
        pause = match ledger.write_once().await {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                ledger.n_failed_commits.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "entries of the ledger could not be written; they are kept and tried again");
                (pause * 2).clamp(limits::LEDGER_GATHER * 10, limits::LEDGER_LOOK_EVERY)
            }
        };
        if looked_after.elapsed() >= limits::LEDGER_LOOK_EVERY {
            looked_after = Instant::now();
            if let Err(error) = ledger.look_after().await {
                tracing::warn!(%error, "prices and budgets could not be looked after");
            }
        }
    }
}

impl Ledger {
    /// Writes the oldest group, if there is one.
    async fn write_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let (group, owner) = {
            let state = self.state();
            let Some(spool) = &state.spool else { return Ok(()) };
            (state.desk.batch(limits::LEDGER_GROUP_MAX), spool.owner().to_owned())
        };
        if group.is_empty() {
            return Ok(());
        }
        if let Err(error) = entries::commit(&self.store, &owner, &group).await {
            self.flush_spool().await;
            return Err(error);
        }
        let mut state = self.state();
        state.desk.committed(group.len());
        let super::ledger::State { desk, spool, .. } = &mut *state;
        if let Some(spool) = spool.as_mut().filter(|spool| spool.bytes() > limits::LEDGER_SPOOL_BYTES) {
            let pending = desk.pending().iter().map(|settlement| &settlement.entry);
            spool.begin_anew(desk.open_requests(), pending)?;
        }
        Ok(())
    }

    /// The database takes nothing, so the disk must have what it would have had.
    async fn flush_spool(&self) {
        let handle = self.state().spool.as_ref().map(|spool| spool.handle());
        let Some(handle) = handle else { return };
        let flushed = tokio::task::spawn_blocking(move || handle.and_then(|file| file.sync_data())).await;
        if let Err(error) = flushed.map_err(std::io::Error::other).and_then(|flushed| flushed) {
            tracing::error!(%error, "the spool could not be flushed");
        }
    }

    /// Reads what others changed, settles for those that are gone, and gives idle money back.
    async fn look_after(&self) -> Result<(), StoreError> {
        self.refresh().await?;
        let recovered = recovery::recover(&self.store, Timestamp::now()).await?;
        if recovered.processes > 0 {
            tracing::warn!(?recovered, "settled for processes that ended before their work did");
        }
        let free = {
            let mut state = self.state();
            let idle = state.last_opened.elapsed() >= limits::LEDGER_PURSE_IDLE;
            let this_month = month(Timestamp::now()).0;
            // A month that is over needs no money for new requests; the window for ever begins at 0.
            state.desk.give_back(|key| idle || (key.starts_at != 0 && key.starts_at != this_month))
        };
        self.give_back(free).await
    }

    /// Writes what waits and gives all money back: the end of a process that ends well. What could not be written stays in
    /// the spool for the next one.
    pub async fn close(self: &Arc<Self>) {
        let until = Instant::now() + limits::LEDGER_CLOSE_TIMEOUT;
        // Whose client was cut off is settled as soon as the engine lets go.
        let let_go = Instant::now() + limits::LEDGER_LOOK_EVERY;
        while self.state().desk.n_open() > 0 && Instant::now() < let_go {
            tokio::time::sleep(limits::LEDGER_GATHER).await;
        }
        while !self.state().desk.pending().is_empty() && Instant::now() < until {
            if self.write_once().await.is_err() {
                tokio::time::sleep(limits::LEDGER_GATHER * 10).await;
            }
        }
        let free = self.state().desk.give_back(|_| true);
        if let Err(error) = self.give_back(free).await {
            tracing::warn!(%error, "money that was put aside goes back at the next start");
        }
        let spool = {
            let mut state = self.state();
            let is_done = state.desk.n_open() == 0 && state.desk.pending().is_empty();
            is_done.then(|| state.spool.take()).flatten()
        };
        if let Some(spool) = spool
            && let Err(error) = spool.remove()
        {
            tracing::warn!(%error, "an empty spool stays behind");
        }
    }
}
