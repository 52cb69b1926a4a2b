//! How much a key and a project may ask: requests a minute and a day, tokens a minute, requests at once; together,
//! and for single models where a limit was set for one. Counted in memory, exact within one process.
//!
//! The door makes a [`Meter`] for each request that works ([`Meter::admit`]) and runs the request within
//! [`scope`]. Whatever resolves a model or is about to make tokens finds the meter with [`current`]: a use case needs
//! no argument for it; work that outlives its request takes it along ([`carried`]). Tokens are reserved at their
//! worst before, and what was not used is given back when the [`Reserved`] is dropped, however the work ended.

mod bucket;

pub use bucket::Bucket;

use crate::ServiceError;
use crate::standing::Standing;
use lyceum_types::ids::{KeyId, ModelName, Project};
use lyceum_types::limits;
use lyceum_types::tenancy::{RateLimit, RateSubject};
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

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    RequestsPerMinute,
    RequestsPerDay,
    TokensPerMinute,
    ConcurrentRequests,
}

impl What {
    /// OpenAI's `type` of the error.
    pub fn kind(self) -> &'static str {
        if self == What::TokensPerMinute { "tokens" } else { "requests" }
    }

    fn in_words(self) -> &'static str {
        match self {
            What::RequestsPerMinute => "requests per min (RPM)",
            What::RequestsPerDay => "requests per day (RPD)",
            What::TokensPerMinute => "tokens per min (TPM)",
            What::ConcurrentRequests => "requests at once",
        }
    }
}

/// A limit that a request would pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    pub what: What,
    pub message: String,
    /// None: it is larger than the limit, so it never passes.
    pub retry_after: Option<Duration>,
}

/// What is left of a limit, for the answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: u64,
    pub remaining: u64,
    /// Until nothing of it is used.
    pub reset: Duration,
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

fn check_request(limited: &Limited, entry: &Counted) -> Result<(), ServiceError> {
    check(limited, What::RequestsPerMinute, &entry.requests, 1)?;
    check(limited, What::RequestsPerDay, &entry.day, 1)?;
    let most = bound(limited.limit.concurrent_requests);
    if entry.in_flight >= most {
        let message = format!(
            "Rate limit reached for {} on {}: Limit {most}, Used {}, Requested 1. Please try again when one of them has ended.",
            limited.in_words(),
            What::ConcurrentRequests.in_words(),
            entry.in_flight
        );
        let retry_after = Some(Duration::from_secs(1));
        let reached = Reached { what: What::ConcurrentRequests, message, retry_after };
        return Err(ServiceError::RateLimited(Box::new(reached)));
    }
    Ok(())
}

fn check(limited: &Limited, what: What, bucket: &Bucket, n: u64) -> Result<(), ServiceError> {
    let wait = bucket.wait(n);
    if wait == Some(Duration::ZERO) {
        return Ok(());
    }
    let limit = bound(match what {
        What::RequestsPerMinute => limited.limit.requests_per_minute,
        What::RequestsPerDay => limited.limit.requests_per_day,
        What::TokensPerMinute => limited.limit.tokens_per_minute,
        What::ConcurrentRequests => limited.limit.concurrent_requests,
    });
    let (whom, words) = (limited.in_words(), what.in_words());
    let message = match wait {
        None => format!("Request too large for {whom} on {words}: Limit {limit}, Requested {n}."),
        Some(wait) => {
            let used = limit.saturating_sub(bucket.remaining());
            let wait = in_words(wait);
            format!(
                "Rate limit reached for {whom} on {words}: Limit {limit}, Used {used}, Requested {n}. \
                 Please try again in {wait}."
            )
        }
    };
    Err(ServiceError::RateLimited(Box::new(Reached { what, message, retry_after: wait })))
}

/// A time as OpenAI's headers write it: `17ms`, `1.5s`, `6m0s`, `2h3m0s`.
pub fn in_words(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest_ms) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = match rest_ms % 1000 {
        0 => format!("{}s", rest_ms / 1000),
        part => format!("{}.{}s", rest_ms / 1000, format!("{part:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
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
mod tests {
    use super::*;
    use lyceum_store::tenancy::projects;
    use lyceum_types::tenancy::Retention;

    fn name(text: &str) -> ModelName {
        text.parse().unwrap()
    }

    fn meter(rates: &Arc<Rates>, limits: &[(RateSubject, RateLimit)]) -> Arc<Meter> {
        let decided = projects::Standing { archived_at: None, retention: Retention::Kept, models: None };
        let limits = limits.iter().cloned().collect();
        let standing = Arc::new(Standing { decided, limits, guard: lyceum_guard::Policy::default() });
        Meter::new(rates.clone(), Project::default_project(), KeyId::from_bits(1), standing)
    }

    fn of_project() -> RateSubject {
        RateSubject { key: None, model: None }
    }

    fn reached(result: Result<(), ServiceError>) -> Reached {
        match result {
            Err(ServiceError::RateLimited(reached)) => *reached,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_counted_for_key_project_and_the_models_that_have_a_limit() {
        let rates = Arc::new(Rates::default());
        let of_key = RateSubject { key: Some(KeyId::from_bits(1)), model: None };
        let of_model = RateSubject { key: None, model: Some(name("m")) };
        let limit = |n| RateLimit { requests_per_minute: Some(n), ..RateLimit::default() };
        let limits = [(of_project(), limit(3)), (of_key, limit(2)), (of_model, limit(1))];
        let first = meter(&rates, &limits);
        first.admit().unwrap();
        first.model(&name("m")).unwrap();
        // The same request counts once, however often it names the model.
        first.model(&name("m")).unwrap();
        first.model(&name("free")).unwrap();
        assert_eq!(first.left().0.remaining, 0);
        let second = meter(&rates, &limits);
        second.admit().unwrap();
        let refused = reached(second.model(&name("m")));
        assert_eq!(refused.what, What::RequestsPerMinute);
        assert!(
            refused
                .message
                .contains("for m in the project default on requests per min (RPM): Limit 1, Used 1")
        );
        let third = meter(&rates, &limits);
        let refused = reached(third.admit());
        assert!(refused.message.contains("with the key key_"), "{}", refused.message);
        assert!(refused.retry_after.is_some_and(|wait| wait <= Duration::from_secs(30)));
        // What was refused was not counted: one of the project's three is left.
        assert_eq!(third.left().0, Left { limit: 2, remaining: 0, reset: third.left().0.reset });
    }

    #[test]
    fn requests_at_once_are_freed_by_dropping() {
        let rates = Arc::new(Rates::default());
        let limits = [(of_project(), RateLimit { concurrent_requests: Some(2), ..RateLimit::default() })];
        let (a, b, c) = (meter(&rates, &limits), meter(&rates, &limits), meter(&rates, &limits));
        a.admit().unwrap();
        b.admit().unwrap();
        assert_eq!(reached(c.admit()).what, What::ConcurrentRequests);
        drop(a);
        c.admit().unwrap();
    }

    #[test]
    fn tokens_are_reserved_at_their_worst_and_corrected() {
        let rates = Arc::new(Rates::default());
        let limits = [(of_project(), RateLimit { tokens_per_minute: Some(100), ..RateLimit::default() })];
        let meter = meter(&rates, &limits);
        meter.admit().unwrap();
        let mut reserved = meter.clone().reserve(80).unwrap();
        assert!(meter.left().1.remaining <= 21);
        let refused = reached(meter.clone().reserve(30).map(drop));
        assert_eq!((refused.what.kind(), refused.retry_after.is_some()), ("tokens", true));
        let refused = reached(meter.clone().reserve(101).map(drop));
        assert!(
            refused.message.starts_with("Request too large for all models") && refused.retry_after.is_none()
        );
        reserved.used(10);
        drop(reserved);
        assert!((90..=92).contains(&meter.left().1.remaining), "{:?}", meter.left());
        // More than was reserved counts too.
        let mut reserved = meter.clone().reserve(1).unwrap();
        reserved.used(50);
        drop(reserved);
        assert!((40..=43).contains(&meter.left().1.remaining), "{:?}", meter.left());
        meter.clone().reserve(40).unwrap().spend();
        assert!(meter.left().1.remaining <= 5);
    }

    #[tokio::test]
    async fn a_request_finds_its_meter_and_nothing_else_does() {
        let rates = Arc::new(Rates::default());
        let limits = [(of_project(), RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() })];
        let meter = meter(&rates, &limits);
        meter.admit().unwrap();
        assert!(reserve(1000).unwrap().is_none(), "there is no request");
        let within = scope(meter.clone(), async { reserve(1000).map(|reserved| reserved.is_some()) }).await;
        assert!(matches!(within, Err(ServiceError::RateLimited(_))));
    }

    #[test]
    fn times_are_written_as_in_openais_headers() {
        for (ms, text) in [
            (0, "0ms"),
            (17, "17ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (72_050, "1m12.05s"),
            (7_380_000, "2h3m0s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(in_words(Duration::from_millis(ms)), text);
        }
    }
}
