//! What a private fine-tuning has beside a plain one: its promise, its secret, its canaries.
//!
//! An example is one line of the training file. Lines stand one after another in a step and attention never crosses
//! from one to the next, so each has a gradient of its own; its loss is the mean over its own learnt tokens, which no
//! other line changes. A base's words, its context and its template are nobody's line.

use super::canaries::random_sequences;
use super::{Canaries, Noise, Private};
use crate::chat::Chats;
use crate::checkpoint::{self, Progress};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::observer::{Event, Observer};
use crate::run::total_steps;
use lyceum_types::manifest::PrivacyReport;
use lyceum_types::spec::TrainSpec;
use lyceum_types::spec::tune::TuneSpec;

/// What the guarantee of a fine-tuning does not cover, beside what it never does.
const LIMITS: [&str; 2] = [
    "an example is one line of the training file: who stands in several lines is protected less",
    "what the base model learnt before is not covered",
];

/// A private fine-tuning's settings, and what was made for it before its first step.
pub(crate) struct Promise {
    pub private: Private,
    /// Canaries without their coins, and the loss of each before training.
    made: Option<(Dataset, Vec<f64>)>,
    steps: u64,
    asks_audit: bool,
}

impl Promise {
    /// Takes what the run costs of its file's budget. None: the spec asks for no privacy.
    ///
    /// # Errors
    /// What cannot be promised, and an exhausted budget.
    pub fn begin(
        spec: &TuneSpec,
        train: &TrainSpec,
        chats: &Chats,
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>, TrainError> {
        let steps = total_steps(train, spec.seed, &chats.train);
        let Some(private) = Private::tuned(spec, train, chats.train.len(), steps)? else { return Ok(None) };
        for file in chats.files.iter().filter(|file| file.role == "train") {
            let (event, delta) = (private.event(steps)?, private.delta());
            observer.event(&Event::Private { data_sha256: &file.sha256, event, delta })?;
        }
        let asks_audit = private.spec.audit.is_some();
        Ok(Some(Promise { private, made: None, steps, asks_audit }))
    }

    /// Makes the canaries and asks the base for their losses, where the spec asks for an audit.
    pub fn make_canaries(
        &mut self,
        seed: u64,
        (vocabulary, context): (usize, usize),
        losses: impl FnOnce(&Dataset) -> Result<Vec<f64>, TrainError>,
    ) -> Result<(), TrainError> {
        let Some(audit) = self.private.spec.audit else { return Ok(()) };
        let data = random_sequences(audit.canaries, seed, vocabulary, context);
        let before = losses(&data)?;
        self.made = Some((data, before));
        Ok(())
    }

    /// The secret of the checkpoint that the run continues from, or of a run that begins a new one; None: the run has
    /// taken its steps and forgotten it.
    ///
    /// # Errors
    /// A checkpoint without its key that has steps left.
    pub fn noise(
        &self,
        restored: Option<Noise>,
        progress: &Progress,
        observer: &mut dyn Observer,
    ) -> Result<Option<Noise>, TrainError> {
        if restored.is_some() || progress.step >= self.steps {
            return Ok(restored);
        }
        if progress.step > 0 {
            let problem = "its noise key is gone: going on with another would spend more".to_owned();
            return Err(TrainError::Checkpoint { path: format!("of step {}", progress.step), problem });
        }
        Ok(Some(match self.private.insecure_seed() {
            Some(seed) => Noise::insecure(seed),
            None => Noise::from_key(observer.noise_key()?),
        }))
    }

    /// The canaries with their coins; none where their key was forgotten already.
    pub fn canaries(&self, noise: &Noise) -> Option<Canaries> {
        let (data, _) = self.made.as_ref()?;
        Some(Canaries::tossed(data.clone(), noise, self.private.delta()))
    }

    /// What is promised after `steps` steps, with what the canaries prove.
    pub fn report(
        &self,
        steps: u64,
        canaries: Option<&Canaries>,
        losses: impl FnOnce(&Dataset) -> Result<Vec<f64>, TrainError>,
    ) -> Result<PrivacyReport, TrainError> {
        let mut report = self.private.report(steps)?;
        report.limits.extend(LIMITS.map(str::to_owned));
        match (canaries, &self.made) {
            (Some(canaries), Some((data, before))) => {
                report.audit = Some(canaries.judge(before, &losses(data)?)?);
            }
            _ if self.asks_audit => report.limits.push(AUDIT_LOST.into()),
            _ => {}
        }
        Ok(report)
    }
}

/// Why a finished job that asked for an audit has none.
pub(crate) const AUDIT_LOST: &str =
    "the audit was not evaluated: the job ended before its version was kept, and its key was forgotten";

/// Removes the secrets of a run that has ended.
pub(crate) fn forget(observer: &dyn Observer) -> Result<(), TrainError> {
    observer.checkpoint_dir().as_ref().map_or(Ok(()), checkpoint::forget_noise)
}
