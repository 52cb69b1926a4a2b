//! How much a key and a project may ask: requests a minute and a day, tokens a minute, requests at once; together,
//! and for single models where a limit was set for one. Counted in memory, exact within one process.
//!
//! The door makes a [`Meter`] for each request that works ([`Meter::admit`]) and runs the request within
//! [`scope`]. Whatever resolves a model or is about to make tokens finds the meter with [`current`]: a use case needs
//! no argument for it; work that outlives its request takes it along ([`carried`]). Tokens are reserved at their
//! worst before, and what was not used is given back when the [`Reserved`] is dropped, however the work ended.

mod bucket;
mod reached;

pub use bucket::Bucket;
pub use reached::{Left, Reached, What, in_words};

use crate::ServiceError;
use crate::standing::Standing;
use lyceum_types::ids::{KeyId, ModelName, Project};
use lyceum_types::limits;
use lyceum_types::tenancy::{RateLimit, RateSubject};
use reached::{check, check_request};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

tokio::task_local! {
    static METER: Arc<Meter>;
}

/// Runs `work` as the work of the request that `meter` counts.
pub async fn scope<T>(meter: Arc<Meter>, work: impl Future<Output = T>) -> T {
    METER.scope(meter, work).await
}

/// `work`, which goes on after its request, as the work of that request still.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let meter = current();
    async move {
        match meter {
            Some(meter) => scope(meter, work).await,
            None => work.await,
        }
    }
}

/// The meter of the request that is under way.
pub(crate) fn current() -> Option<Arc<Meter>> {
    METER.try_with(Clone::clone).ok()
}

/// Reserves tokens for the request that is under way; without a meter there is nothing to reserve.
pub(crate) fn reserve(tokens: u64) -> Result<Option<Reserved>, ServiceError> {
    current().map(|meter| meter.reserve(tokens)).transpose()
}

/// Refuses passes where the tokens of this minute are used up. How many they will be is known when they were made: each
/// is taken then ([`Owing`]), also below nothing, and who asks next waits.
pub(crate) fn admit_passes() -> Result<(), ServiceError> {
    // One is taken and given back.
    reserve(1).map(drop)
}

/// The limits of a request whose passes are taken as they are made. It does not hold the request's place.
#[derive(Clone)]
pub(crate) struct Owing {
    rates: Arc<Rates>,
    limited: Vec<Limited>,
}

impl std::fmt::Debug for Owing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owing")
    }
}

impl Owing {
    /// Of the request that is under way.
    pub fn of_request() -> Option<Self> {
        current().map(|meter| Self { rates: meter.rates.clone(), limited: meter.limited().clone() })
    }

    /// Takes tokens that were used.
    pub fn take(&self, tokens: u64) {
        let mut counted = self.rates.counted();
        for limited in &self.limited {
            if let Some(entry) = counted.get_mut(&limited.at) {
                entry.tokens.take(tokens);
            }
        }
    }
}

/// Takes tokens that are certain to be used for the request that is under way.
pub(crate) fn spend(tokens: u64) -> Result<(), ServiceError> {
    if let Some(reserved) = reserve(tokens)? {
        reserved.spend();
    }
    Ok(())
}

/// Everything that is counted in this process.
pub struct Rates {
    began: Instant,
    counted: Mutex<HashMap<(Project, RateSubject), Counted>>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { began: Instant::now(), counted: Mutex::default() }
    }
}

#[derive(Debug)]
struct Counted {
    requests: Bucket,
    day: Bucket,
    tokens: Bucket,
    in_flight: u64,
}

impl Counted {
    fn new(limit: &RateLimit, now_ms: u64) -> Self {
        Self {
            requests: Bucket::new(MINUTE, bound(limit.requests_per_minute), now_ms),
            day: Bucket::new(DAY, bound(limit.requests_per_day), now_ms),
            tokens: Bucket::new(MINUTE, bound(limit.tokens_per_minute), now_ms),
            in_flight: 0,
        }
    }

    fn fill(&mut self, limit: &RateLimit, now_ms: u64) {
        self.requests.fill(bound(limit.requests_per_minute), now_ms);
        self.day.fill(bound(limit.requests_per_day), now_ms);
        self.tokens.fill(bound(limit.tokens_per_minute), now_ms);
    }

    fn is_untouched(&self) -> bool {
        self.in_flight == 0 && self.requests.is_full() && self.day.is_full() && self.tokens.is_full()
    }
}

/// What holds where nothing was set is the largest number that can be set.
fn bound(limit: Option<u64>) -> u64 {
    limit.unwrap_or(limits::RATE_MAX)
}

impl Rates {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<(Project, RateSubject), Counted>> {
        self.counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Something that is limited, with its limit.
#[derive(Clone, Debug)]
struct Limited {
    at: (Project, RateSubject),
    limit: RateLimit,
}

impl Limited {
    fn in_words(&self) -> String {
        let (project, subject) = &self.at;
        let model = subject.model.as_ref().map_or_else(|| "all models".to_owned(), ModelName::to_string);
        match &subject.key {
            Some(key) => format!("{model} with the key {key}"),
            None => format!("{model} in the project {}", project.id),
        }
    }
}

/// Counts one request, for its key, its project and the models that it names.
pub struct Meter {
    rates: Arc<Rates>,
    project: Project,
    key: KeyId,
    standing: Arc<Standing>,
    inner: Mutex<Vec<Limited>>,
    /// What refused it.
    refused: Mutex<Vec<Limited>>,
}

impl Meter {
    /// A meter of a request that is not counted yet.
    pub fn new(rates: Arc<Rates>, project: Project, key: KeyId, standing: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self { rates, project, key, standing, inner: Mutex::default(), refused: Mutex::default() })
    }

    /// Counts the request for its key and its project.
    ///
    /// # Errors
    /// A limit is reached; then nothing is counted.
    pub fn admit(&self) -> Result<(), ServiceError> {
        let both = [Some(self.key.clone()), None];
        self.count(both.map(|key| RateSubject { key, model: None }).into())
    }

    /// Counts the request for a model, where there is a limit for it.
    ///
    /// # Errors
    /// A limit is reached.
    pub(crate) fn model(&self, name: &ModelName) -> Result<(), ServiceError> {
        let both = [Some(self.key.clone()), None];
        let subjects = both.map(|key| RateSubject { key, model: Some(name.clone()) });
        let is_new = |subject: &RateSubject| {
            self.standing.limits.contains_key(subject)
                && !self.limited().iter().any(|limited| limited.at.1 == *subject)
        };
        let subjects: Vec<RateSubject> = subjects.into_iter().filter(is_new).collect();
        if subjects.is_empty() { Ok(()) } else { self.count(subjects) }
    }

    fn limited(&self) -> MutexGuard<'_, Vec<Limited>> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn count(&self, subjects: Vec<RateSubject>) -> Result<(), ServiceError> {
        let new: Vec<Limited> = subjects
            .into_iter()
            .map(|subject| {
                let limit = self.standing.limits.get(&subject).copied().unwrap_or_default();
                Limited { at: (self.project.clone(), subject), limit }
            })
            .collect();
        let now_ms = self.rates.now_ms();
        let mut counted = self.rates.counted();
        if counted.len() >= limits::RATES_COUNTED_MAX {
            counted.retain(|_, counted| !counted.is_untouched());
        }
        for limited in &new {
            let entry = counted.entry(limited.at.clone());
            let entry = entry.or_insert_with(|| Counted::new(&limited.limit, now_ms));
            entry.fill(&limited.limit, now_ms);
            if let Err(error) = check_request(limited, entry) {
                drop(counted);
                self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(new);
                return Err(error);
            }
        }
        for limited in &new {
            if let Some(entry) = counted.get_mut(&limited.at) {
                entry.requests.take(1);
                entry.day.take(1);
                entry.in_flight += 1;
            }
        }
        drop(counted);
        self.limited().extend(new);
        Ok(())
    }

    /// Takes tokens out of every limit of the request.
    ///
    /// # Errors
    /// A limit is reached; then nothing is taken.
    pub(crate) fn reserve(self: Arc<Self>, tokens: u64) -> Result<Reserved, ServiceError> {
        let now_ms = self.rates.now_ms();
        {
            let (limited, mut counted) = (self.limited(), self.rates.counted());
            for limited in limited.iter() {
                if let Some(entry) = counted.get_mut(&limited.at) {
                    entry.fill(&limited.limit, now_ms);
                    check(limited, What::TokensPerMinute, &entry.tokens, tokens)?;
                }
            }
            for limited in limited.iter() {
                if let Some(entry) = counted.get_mut(&limited.at) {
                    entry.tokens.take(tokens);
                }
            }
        }
        Ok(Reserved { meter: self, reserved: tokens, used: 0 })
    }

    /// What is left of the tightest limits of requests and of tokens.
    pub fn left(&self) -> (Left, Left) {
        let now_ms = self.rates.now_ms();
        let mut all = self.limited().clone();
        all.extend(self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().cloned());
        let mut counted = self.rates.counted();
        let whole = Left { limit: limits::RATE_MAX, remaining: limits::RATE_MAX, reset: Duration::ZERO };
        let (mut requests, mut tokens) = (whole, whole);
        for limited in &all {
            let Some(entry) = counted.get_mut(&limited.at) else { continue };
            entry.fill(&limited.limit, now_ms);
            let left = |bucket: &Bucket, limit| Left {
                limit: bound(limit),
                remaining: bucket.remaining(),
                reset: bucket.reset(),
            };
            let tighter = |a: Left, b: Left| if b.remaining < a.remaining { b } else { a };
            requests = tighter(requests, left(&entry.requests, limited.limit.requests_per_minute));
            requests = tighter(requests, left(&entry.day, limited.limit.requests_per_day));
            tokens = tighter(tokens, left(&entry.tokens, limited.limit.tokens_per_minute));
        }
        (requests, tokens)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let limited = std::mem::take(&mut *self.limited());
        let mut counted = self.rates.counted();
        for limited in limited {
            if let Some(entry) = counted.get_mut(&limited.at) {
                entry.in_flight = entry.in_flight.saturating_sub(1);
            }
        }
    }
}

/// Tokens that are reserved. What was not used of them is given back when it is dropped.
pub struct Reserved {
    meter: Arc<Meter>,
    reserved: u64,
    used: u64,
}

impl Reserved {
    /// So many were used until now, of those reserved or more.
    pub(crate) fn used(&mut self, tokens: u64) {
        self.used = tokens;
    }

    /// All of them were used.
    pub(crate) fn spend(mut self) {
        self.used = self.reserved;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let limited = self.meter.limited();
        let mut counted = self.meter.rates.counted();
        for limited in limited.iter() {
            let Some(entry) = counted.get_mut(&limited.at) else { continue };
            match self.used.checked_sub(self.reserved) {
                Some(more) => entry.tokens.take(more),
                None => entry.tokens.give_back(self.reserved - self.used),
            }
        }
    }
}

#[cfg(test)]
mod tests;
