//! What processes left that are gone: their entries are written, their unfinished requests settled with what was noted of
//! them, and what they had put aside goes back.

use super::budgets::{WindowKey, give_back};
use super::desk::Settlement;
use super::entries;
use super::spool::Dead;
use super::{Class, Outcome};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub processes: u64,
    /// Entries of their spools, also those that the ledger had.
    pub settled: u64,
    /// Requests that were under way.
    pub interrupted: u64,
    /// Lines that could not be read.
    pub n_damaged: u64,
}

/// Settles for every process of this data folder that is gone; another machine's processes have their folder.
pub async fn recover(store: &Store, now: Timestamp) -> Result<Recovered, StoreError> {
    let mut recovered = Recovered::default();
    let layout = store.layout().clone();
    let dead = off_runtime(move || {
        let dead = Dead::find(&layout)?;
        dead.into_iter().map(|dead| dead.read().map(|replay| (dead, replay))).collect::<Result<Vec<_>, _>>()
    });
    for (dead, replay) in dead.await? {
        recovered.processes += 1;
        recovered.settled += replay.settled.len() as u64;
        recovered.interrupted += replay.open.len() as u64;
        recovered.n_damaged += replay.n_damaged;
        // A line of a batch is done again, and paid for when its answer is there.
        let is_lost = |open: &&super::desk::Open| open.request.class != Class::Batch;
        let interrupted =
            replay.open.iter().filter(is_lost).map(|open| open.entry(Outcome::Interrupted, open.noted, now));
        let all: Vec<Settlement> = replay
            .settled
            .iter()
            .cloned()
            .chain(interrupted)
            // What it held goes back as a whole, below.
            .map(|entry| Settlement { entry, holds: vec![] })
            .collect();
        let mut transaction = store.write().await?;
        entries::insert(&mut transaction, &dead.owner, &all).await?;
        release_all(&mut transaction, &dead.owner).await?;
        transaction.commit().await?;
        if replay.n_damaged > 0 {
            tracing::error!(
                owner = dead.owner,
                lines = replay.n_damaged,
                "a spool had lines that cannot be read"
            );
        }
        off_runtime(move || dead.remove()).await?;
    }
    Ok(recovered)
}

async fn release_all(transaction: &mut crate::db::Transaction, owner: &str) -> Result<(), StoreError> {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT budget, starts_at, amount FROM reservations WHERE owner = $1")
            .bind(owner)
            .fetch_all(&mut **transaction)
            .await?;
    for (budget, starts_at, amount) in rows {
        give_back(transaction, &WindowKey { budget, starts_at }, owner, amount).await?;
    }
    sqlx::query("DELETE FROM reservations WHERE owner = $1").bind(owner).execute(&mut **transaction).await?;
    Ok(())
}

async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined
        .map_err(|e| StoreError::file("recover", std::path::Path::new("spool"), std::io::Error::other(e)))?
}
