//! What a finished private run promises, for its manifest.

use super::Private;
use crate::error::TrainError;
use lyceum_privacy::account::ADJACENCY;
use lyceum_privacy::{epsilon, words};
use lyceum_types::manifest::{PrivacyEvent, PrivacyReport};

/// What the guarantee does not cover.
const LIMITS: [&str; 3] = [
    "the noise's probabilities are those of floating-point functions, on a grid that the rows do not decide",
    "running time and memory are not protected",
    "the job's own folder (log, checkpoints) belongs to the owner of the data and is not to be published",
];

impl Private {
    /// The report over `steps` steps of this run.
    pub fn report(&self, steps: u64) -> Result<PrivacyReport, TrainError> {
        let event = self.event(steps)?;
        let guarantee = epsilon(&[event], self.spec.target_delta, self.accountant)?;
        let unit = "example";
        let mut limits: Vec<String> = LIMITS.map(str::to_owned).to_vec();
        if self.insecure_seed().is_some() {
            limits.push("the noise came from a seed in the spec: whoever knows it learns everything".into());
        }
        Ok(PrivacyReport {
            mechanism: "dp_sgd".into(),
            events: vec![PrivacyEvent { q: event.q(), sigma: event.sigma(), steps }],
            epsilon: guarantee.epsilon.is_finite().then_some(guarantee.epsilon),
            delta: guarantee.delta,
            accountant: self.accountant.as_str().into(),
            conversion: self.accountant.conversion().into(),
            order: guarantee.order,
            adjacency: ADJACENCY.into(),
            unit: unit.into(),
            max_grad_norm: self.spec.max_grad_norm,
            expected_batch: self.mechanism.expected_batch,
            randomness: if self.insecure_seed().is_some() { "insecure_seed" } else { "os_key" }.into(),
            public: self.spec.public.iter().map(|p| p.as_str().to_owned()).collect(),
            withheld: Vec::new(),
            limits,
            statement: words::statement(&guarantee, unit),
            audit: None,
        })
    }
}
