//! Whether what an imported language model is asked, and what it answers, is as it was: a reference window of answers
//! beside the newest ones, of each project by itself.
//!
//! Only counts are kept: how long prompts and answers were, how sure the answers, how they ended, what the
//! guard stopped. No text, no token and no single value is stored anywhere. How sure an
//! answer was is known where its request asked for log-probabilities, and of every [`SCORED_EVERY`]th other answer, for
//! which the engine reports them to this count alone.
//!
//! The first answers of a model, or the first since a project asked for a new reference, are the reference; those after it
//! fill one window after another. Where they lie meanwhile, [`watched`](super::watched) says.

use super::watched::Entry;
use crate::robustness::refused;
use crate::{Service, ServiceError};
use lyceum_robust::drift::counted::{Counted, Histogram, compare};
use lyceum_robust::drift::sketch::FeatureDrift;
use lyceum_store::models::Version;
use lyceum_store::registry::{self, Deed};
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of so many answers that nobody wants log-probabilities of, one is scored for the counts.
const SCORED_EVERY: u64 = 8;
/// Answers of a reference window that a project may ask for.
pub const REFERENCE: std::ops::RangeInclusive<u64> = 20..=100_000;

pub(super) const LENGTHS: [f64; 25] = [
    1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0,
    1024.0, 1536.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 65_536.0,
];
/// Nats, of the mean negative log-probability and of the mean entropy of an answer's tokens.
pub(super) const NATS: [f64; 21] = [
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0,
    7.0,
];

/// What an answer was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub prompt_tokens: u64,
    pub tokens: u64,
    pub finish: &'static str,
    /// Mean negative log-probability and mean entropy of its tokens, where they are known.
    pub sureness: Option<[f64; 2]>,
}

#[derive(Clone, Debug)]
pub(super) struct Window {
    pub since: Timestamp,
    /// Answers, and requests that the guard stopped.
    pub n: u64,
    pub prompt_tokens: Histogram,
    pub answer_tokens: Histogram,
    pub surprise: Histogram,
    pub entropy: Histogram,
    pub finish: BTreeMap<String, u64>,
    pub guard: BTreeMap<String, u64>,
}

impl Window {
    fn new() -> Self {
        Window {
            since: Timestamp::now(),
            n: 0,
            prompt_tokens: Histogram::new(&LENGTHS),
            answer_tokens: Histogram::new(&LENGTHS),
            surprise: Histogram::new(&NATS),
            entropy: Histogram::new(&NATS),
            finish: BTreeMap::new(),
            guard: BTreeMap::new(),
        }
    }

    fn features(&self) -> Vec<(&'static str, Counted)> {
        let numbers = |histogram: &Histogram| Counted::Numbers(histogram.clone());
        vec![
            ("prompt_tokens", numbers(&self.prompt_tokens)),
            ("answer_tokens", numbers(&self.answer_tokens)),
            ("negative_logprob", numbers(&self.surprise)),
            ("entropy", numbers(&self.entropy)),
            ("finish_reason", Counted::Names(self.finish.clone())),
            ("guard", Counted::Names(self.guard.clone())),
        ]
    }
}

pub(super) struct Windows {
    /// Answers of the reference window.
    pub wanted: u64,
    pub reference: Window,
    pub now: Option<Window>,
    /// The last full one behind the reference.
    pub before: Option<Window>,
    pub n_asked: u64,
    /// Whether the disk does not have them yet.
    pub is_new: bool,
}

impl Windows {
    pub fn new(wanted: u64) -> Self {
        Windows { wanted, reference: Window::new(), now: None, before: None, n_asked: 0, is_new: false }
    }

    /// The window that counts what comes.
    pub fn open(&mut self) -> &mut Window {
        self.is_new = true;
        if self.reference.n < self.wanted {
            return &mut self.reference;
        }
        if self.now.as_ref().is_some_and(|window| window.n >= limits::LANGUAGE_DRIFT_WINDOW) {
            self.before = self.now.take();
        }
        self.now.get_or_insert_with(Window::new)
    }
}

impl Windows {
    /// Whether the next answer is to be scored for the counts.
    fn scores_next(&mut self) -> bool {
        self.n_asked += 1;
        self.n_asked % SCORED_EVERY == 1
    }

    pub fn answered(&mut self, answer: Answer) {
        let window = self.open();
        window.n += 1;
        window.prompt_tokens.add(&LENGTHS, answer.prompt_tokens as f64);
        window.answer_tokens.add(&LENGTHS, answer.tokens as f64);
        if let Some([surprise, entropy]) = answer.sureness {
            window.surprise.add(&NATS, surprise);
            window.entropy.add(&NATS, entropy);
        }
        *window.finish.entry(answer.finish.to_owned()).or_default() += 1;
        *window.guard.entry("passed".to_owned()).or_default() += 1;
    }

    /// The guard ended a request, by the code that the client reads.
    fn stopped(&mut self, code: &'static str) {
        let window = self.open();
        window.n += 1;
        *window.guard.entry(code.to_owned()).or_default() += 1;
    }
}

/// What two windows say.
#[derive(Clone, Debug)]
pub struct Report {
    /// `name@3`
    pub model: String,
    /// When the reference began, what it has, and what it is to have.
    pub reference: Option<(Timestamp, u64)>,
    pub wanted: u64,
    /// When the window beside it began; None: the reference is not full, or nothing came since.
    pub since: Option<Timestamp>,
    pub n: u64,
    pub features: Vec<FeatureDrift>,
}

/// The newest window of a project beside its reference.
///
/// # Errors
/// A fault of ours.
pub(super) async fn report(
    service: &Service,
    project: &Project,
    version: &Version,
) -> Result<Report, ServiceError> {
    let model = version.id();
    Entry::of(service, project, version).await?.with(|windows| {
        let wanted = windows.wanted;
        // What nobody was answered yet has not begun.
        let reference = Some((windows.reference.since, windows.reference.n))
            .filter(|(_, n)| *n > 0 || wanted != limits::LANGUAGE_DRIFT_WINDOW);
        let Some(now) = windows.now.as_ref().or(windows.before.as_ref()) else {
            return Ok(Report { model, reference, wanted, since: None, n: 0, features: vec![] });
        };
        let features = compare(&windows.reference.features(), &now.features()).map_err(refused)?;
        Ok(Report { model, reference, wanted, since: Some(now.since), n: now.n, features })
    })
}

/// Begins a new reference window of so many answers; what was counted before is forgotten.
///
/// # Errors
/// A number outside of [`REFERENCE`]; a model that has no such windows.
pub async fn begin(
    service: &Service,
    project: &Project,
    model: &ModelRef,
    answers: Option<u64>,
    act: &Act,
) -> Result<Report, ServiceError> {
    let wanted = answers.unwrap_or(limits::LANGUAGE_DRIFT_WINDOW);
    if !REFERENCE.contains(&wanted) {
        let message = format!("answers: {wanted} is not in {}..={}", REFERENCE.start(), REFERENCE.end());
        return Err(ServiceError::invalid("answers", "invalid_value", message));
    }
    let version = watched(service, project, model).await?;
    let entry = Entry::of(service, project, &version).await?;
    let deed = Deed::DriftReference { answers: wanted };
    registry::note(service.store(), project, &version.id(), (deed, act)).await?;
    entry.with(|windows| *windows = Windows { is_new: true, ..Windows::new(wanted) });
    report(service, project, &version).await
}

/// The imported version that a reference means, if it writes text.
async fn watched(service: &Service, project: &Project, model: &ModelRef) -> Result<Version, ServiceError> {
    let version = service.resolve(project, model).await?;
    if writes(&version) {
        return Ok(version);
    }
    let message = format!(
        "{}: windows of answers are counted of imported language models; other models are compared with their training rows",
        version.id()
    );
    Err(ServiceError::unsupported("model", "unsupported_model", message))
}

/// Whether answers of a version are counted.
pub(super) fn writes(version: &Version) -> bool {
    use lyceum_types::manifest::ImportedKind;
    crate::language::is_imported(version)
        && [ImportedKind::Language, ImportedKind::Adapter].iter().any(|kind| kind.task() == version.task)
}

/// The counts that one request's answers go to.
#[derive(Clone)]
pub(crate) struct Watcher(Arc<Entry>);

impl Watcher {
    /// For a request that came in from a client; `Ok(None)`: it is not counted.
    ///
    /// # Errors
    /// What the project lets be kept is not known.
    pub(crate) async fn of(
        service: &Service,
        payer: &crate::Payer,
        version: &Version,
    ) -> Result<Option<Self>, ServiceError> {
        if !payer.is_client() || !writes(version) {
            return Ok(None);
        }
        Ok(Some(Watcher(Entry::of(service, &payer.project, version).await?)))
    }

    pub(crate) fn scores_next(&self) -> bool {
        self.0.with(Windows::scores_next)
    }

    pub(crate) fn answered(&self, answer: Answer) {
        self.0.with(|windows| windows.answered(answer));
    }

    /// Counts what the guard stopped; other errors are none of its.
    pub(crate) fn failed(&self, error: &ServiceError) {
        if let ServiceError::Guarded { code, .. } = error {
            self.0.with(|windows| windows.stopped(code));
        }
    }
}
