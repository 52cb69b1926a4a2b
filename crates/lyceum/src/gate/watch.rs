//! A gate at work: what it puts through models is counted for its job, whose bill has it, and who wants the job to end or
//! to stop for a while is heard, as while it trained.

use crate::context::Context;
use crate::training::Wish;
use lyceum_service::{Payer, Tally};
use lyceum_store::jobs::{self, Claim, Signal};
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How often the row learns how far the gate is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

pub struct Watch<'a> {
    context: &'a Context,
    store: &'a Store,
    claim: &'a Claim,
    /// Rows that training itself put through models.
    before: u64,
    /// What suites of language models do, which are asked as a server asks.
    tally: Arc<Tally>,
    wish: Wish,
}

impl<'a> Watch<'a> {
    pub fn new(context: &'a Context, store: &'a Store, claim: &'a Claim) -> Self {
        let before = context.control.spent();
        Watch { context, store, claim, before, tally: Arc::default(), wish: Wish::Interrupt }
    }

    /// Who asks for what is tried.
    pub fn payer(&self) -> Payer {
        Payer::of_job(&self.context.project, self.tally.clone())
    }

    /// What somebody meant, where the gate was stopped.
    pub fn wish(&self) -> Wish {
        self.wish
    }

    /// Does a part of the gate's work. It ends itself where the context's control does, which a wish to stop cancels.
    pub async fn over<T>(&mut self, work: impl Future<Output = T>) -> T {
        // Both go on at once: the work may hold the connection that a report waits for.
        let done = tokio::select! {
            done = work => done,
            never = self.report_until_then() => never,
        };
        self.count();
        done
    }

    async fn report_until_then<T>(&mut self) -> T {
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            self.report().await;
        }
    }

    fn count(&self) {
        let spent = self.context.control.spent() - self.before;
        self.claim.count_passes(spent + self.tally.counted().passes);
    }

    async fn report(&mut self) {
        self.count();
        match jobs::report_counted(self.store, self.claim, Timestamp::now()).await {
            Ok(Signal::Continue) => {}
            Ok(signal) => {
                self.wish = if signal == Signal::Pause { Wish::Pause } else { Wish::End };
                self.context.control.cancel();
            }
            // Somebody else works on it now: what this process does no longer counts.
            Err(StoreError::Fenced { .. }) => self.context.control.cancel(),
            Err(error) => tracing::warn!(%error, "how far the gate is was not written"),
        }
    }
}
