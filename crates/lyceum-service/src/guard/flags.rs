//! What a policy reports and leaves as it is: kinds and how often, counted for the answer of the request under way and for
//! `/metrics`. No text stands here.

use crate::receipts::Direction;
use lyceum_guard::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How often which kind was found where.
#[derive(Default)]
pub struct Flags(Mutex<BTreeMap<(Direction, Kind), u64>>);

tokio::task_local! {
    static FLAGS: Arc<Flags>;
}

/// Runs `work` as work of the request whose findings are counted here.
pub async fn scope<T>(flags: Arc<Flags>, work: impl Future<Output = T>) -> T {
    FLAGS.scope(flags, work).await
}

impl Flags {
    fn add(&self, direction: Direction, kind: Kind) {
        let mut counts = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *counts.entry((direction, kind)).or_default() += 1;
    }

    /// `input` or `output`, the kind, how often; in order.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        counts.iter().map(|(&(direction, kind), &n)| (direction.as_str(), kind.as_str(), n)).collect()
    }
}

/// Where findings of one request are counted.
#[derive(Clone)]
pub(crate) struct Flagged {
    request: Option<Arc<Flags>>,
    all: Arc<Flags>,
}

impl Flagged {
    /// Of the request under way, beside those of the process.
    pub fn of(all: &Arc<Flags>) -> Self {
        Flagged { request: FLAGS.try_with(Clone::clone).ok(), all: all.clone() }
    }

    pub fn add(&self, direction: Direction, kind: Kind) {
        self.all.add(direction, kind);
        if let Some(request) = &self.request {
            request.add(direction, kind);
        }
    }
}
