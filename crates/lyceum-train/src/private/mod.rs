//! Training that promises how little it says about each example: DP-SGD, with any optimiser (Abadi et al.
//! 2016, arXiv:1607.00133).
//!
//! A step draws every example by itself with probability q, sums their gradients, each scaled to a norm of at
//! most C, adds noise N(0, σ²C²), and divides by the **expected** number of drawn examples; what the optimiser
//! does with that is its own business. An empty draw still adds noise. Physical micro-batches are parts of one
//! draw and see no noise.
//!
//! The path: [`undeclared`] (what else would say something about the rows), [`Private::new`] (how much noise),
//! [`Noise`] (where draws and noise come from), [`step`] (one step), [`report`] (what is promised), [`Canaries`] (what an
//! attacker proves of it). Clipping is
//! per example by [`Tape::example_norms`](lyceum_nn::Tape::example_norms); operations that mix examples refuse.

#[cfg(test)]
mod audit;
mod canaries;
mod noise;
mod report;
mod step;
mod tuned;
mod undeclared;
mod unprotected;

pub use canaries::Canaries;
pub use noise::{GENERATOR, Noise};
pub(crate) use tuned::{AUDIT_LOST, Promise, forget};
pub use undeclared::undeclared;
pub(crate) use unprotected::tell_unprotected;

use crate::data::Loaded;
use crate::error::TrainError;
use lyceum_models::{InputShape, ModelShape, OutputShape};
use lyceum_privacy::calibrate::{Target, sigma};
use lyceum_privacy::{Accountant, Event};
use lyceum_types::spec::privacy::{AccountantSpec, NoiseSpec, PrivacySpec};
use lyceum_types::spec::tune::TuneSpec;
use lyceum_types::spec::{Spec, TrainSpec};

/// What a step does to the gradients. The claim that a report makes is of `sigma`; a test that changes one of
/// the other numbers shows that audits notice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mechanism {
    /// The probability with which a step draws an example.
    pub q: f64,
    /// The largest norm of one example's gradient (∞: as it is).
    pub clip: f64,
    /// The noise's deviation.
    pub noise: f64,
    /// What the noisy sum is divided by.
    pub expected_batch: f64,
    /// Of each example's summed loss terms: a constant that no example decides. (What an example decides for itself, as
    /// the number of its learnt tokens, is [`Dataset::loss_share`](crate::data::Dataset).)
    pub loss_scale: f32,
}

/// A private run's settings.
#[derive(Clone, Debug)]
pub struct Private {
    pub mechanism: Mechanism,
    pub sigma: f64,
    accountant: Accountant,
    spec: PrivacySpec,
}

impl Private {
    /// Settings for `n` training rows and `steps` steps: finds the noise where the spec names an ε.
    ///
    /// # Errors
    /// When δ is no smaller than one row in `n`, or no noise reaches the ε.
    pub fn new(
        spec: &Spec,
        privacy: &PrivacySpec,
        shape: &ModelShape,
        n: usize,
        steps: u64,
    ) -> Result<Self, TrainError> {
        let loss_scale = 1.0 / terms_max(shape) as f32;
        Self::of(&spec.train, privacy, loss_scale, (n, steps))
    }

    /// Settings of a fine-tuning whose `train` was decided. An example's loss is the mean over its own learnt tokens.
    ///
    /// # Errors
    /// As [`Private::new`].
    pub fn tuned(
        spec: &TuneSpec,
        train: &TrainSpec,
        n: usize,
        steps: u64,
    ) -> Result<Option<Self>, TrainError> {
        let Some(privacy) = &spec.privacy else { return Ok(None) };
        Self::of(train, privacy, 1.0, (n, steps)).map(Some)
    }

    fn of(
        train: &TrainSpec,
        privacy: &PrivacySpec,
        loss_scale: f32,
        (n, steps): (usize, u64),
    ) -> Result<Self, TrainError> {
        if privacy.target_delta * n as f64 >= 1.0 {
            return Err(TrainError::Privacy(format!(
                "target_delta = {} lets one of {n} rows be published whole: write one below {:e}",
                privacy.target_delta,
                0.1 / n as f64
            )));
        }
        let expected = (train.batch_size * train.accumulate) as f64;
        let q = privacy.sampling_rate.unwrap_or((expected / n as f64).min(1.0));
        let accountant = accountant(privacy.accountant);
        let sigma = match privacy.noise {
            NoiseSpec::Sigma(sigma) => sigma,
            NoiseSpec::TargetEpsilon(epsilon) => {
                sigma(Target { epsilon, delta: privacy.target_delta }, q, steps, &[], accountant)?
            }
        };
        let mechanism = Mechanism {
            q,
            clip: privacy.max_grad_norm,
            noise: sigma * privacy.max_grad_norm,
            expected_batch: if privacy.sampling_rate.is_some() { expected } else { q * n as f64 },
            loss_scale,
        };
        Ok(Private { mechanism, sigma, accountant, spec: privacy.clone() })
    }

    /// What `steps` steps are.
    pub fn event(&self, steps: u64) -> Result<Event, TrainError> {
        Ok(Event::new(self.mechanism.q, self.sigma, steps)?)
    }

    /// The δ of the promise.
    pub fn delta(&self) -> f64 {
        self.spec.target_delta
    }

    /// The rows of nobody that this run trains on too, where the spec asks for an audit.
    ///
    /// # Errors
    /// Answers that are no labels.
    pub fn canaries(
        &self,
        seed: u64,
        loaded: &Loaded,
        noise: &Noise,
    ) -> Result<Option<Canaries>, TrainError> {
        let Some(audit) = self.spec.audit else { return Ok(None) };
        Canaries::new(audit.canaries, seed, loaded, noise, self.delta()).map(Some)
    }

    /// The seed of tests; None: the operating system's key.
    pub fn insecure_seed(&self) -> Option<u64> {
        self.spec.insecure_seed
    }
}

/// The accountant of the spec's word.
pub fn accountant(spec: AccountantSpec) -> Accountant {
    match spec {
        AccountantSpec::Rdp => Accountant::Rdp,
        AccountantSpec::Pld => Accountant::Pld,
    }
}

/// The most loss terms that an example can have: the shape says it, no row does.
fn terms_max(shape: &ModelShape) -> usize {
    let time = match shape.input {
        InputShape::Tokens { time, .. } => time,
        InputShape::Pair { target_time, .. } => target_time,
        InputShape::Series { steps, .. } => steps,
        InputShape::Features { .. } | InputShape::Image { .. } => 1,
    };
    match shape.output {
        OutputShape::Classes { .. } => 1,
        OutputShape::Values { n } => n.max(1),
        OutputShape::Tokens { .. } | OutputShape::StepClasses { .. } => time.max(1),
    }
}
