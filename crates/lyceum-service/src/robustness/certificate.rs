//! A certificate for single rows: randomised smoothing within a request's budget.

use crate::meter::Share;
use crate::resident::Resident;
use crate::{ServiceError, explain::CancelOnDrop, robustness::refused};
use lyceum_models::prepare::{OutputPreparation, Prepared, PreparedValue};
use lyceum_models::space::Domain;
use lyceum_robust::certify::smooth::{self, Smoothing};
use lyceum_robust::{RobustError, Victim};
use lyceum_types::control::Control;
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Instant;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certify {
    pub sigma: f64,
    pub n: u64,
    pub alpha: f64,
    pub seed: u64,
}

/// What is proved, with probability at least 1 − alpha, of the smoothed classifier at one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// None: abstained.
    pub class: Option<String>,
    /// In `unit`, Euclidean.
    pub radius: f64,
    pub p_lower: f64,
    pub unit: String,
}

/// Samples that guess the class before the ones that count.
const GUESSES: u64 = 100;

/// Samples of one row, those that guess among them.
pub(super) fn samples(asked: &Certify) -> u64 {
    asked.n.saturating_add(GUESSES.min(asked.n.max(1)))
}

/// Certifies each row.
///
/// # Errors
/// More samples than a request may ask for, numbers outside their ranges, or a model without small changes.
pub async fn certify(
    resident: &Arc<Resident>,
    rows: &[Prepared],
    asked: Certify,
    share: Share,
) -> Result<Vec<Certificate>, ServiceError> {
    let smoothing =
        Smoothing::new(asked.sigma, GUESSES.min(asked.n.max(1)), asked.n, asked.alpha).map_err(in_certify)?;
    let samples = asked.n.saturating_mul(rows.len() as u64);
    if samples > limits::CERTIFY_SAMPLES_MAX {
        let message = format!(
            "{} rows of n = {} samples are more than the {} of one request: ask for fewer, or use \
             POST /v1/robustness/runs",
            rows.len(),
            asked.n,
            limits::CERTIFY_SAMPLES_MAX
        );
        return Err(ServiceError::invalid("certify.n", "too_many_samples", message));
    }
    let x: Vec<Vec<f32>> = rows
        .iter()
        .map(|row| match &row.value {
            PreparedValue::Dense(x) => Ok(x.clone()),
            _ => {
                let message = "text has no small changes: certify works for numbers, pictures and sound";
                Err(ServiceError::unsupported("certify", "unsupported_input", message))
            }
        })
        .collect::<Result<_, _>>()?;
    let resident = resident.clone();
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let spent = control.clone();
    // A client that leaves ends it before its next batch.
    let _cancel = CancelOnDrop(control.clone());
    let certify = move || -> Result<Vec<Certificate>, ServiceError> {
        let OutputPreparation::Labels { names } = &resident.preparation.output else {
            let message = "certify needs a classifier with one label a row";
            return Err(ServiceError::unsupported("certify", "unsupported_model", message));
        };
        let domain = Domain::of(&resident.preparation).map_err(|error| in_certify(error.into()))?;
        let mut victim = Victim::new(&resident.model, &domain, &control).map_err(in_certify)?;
        let mut out = Vec::with_capacity(x.len());
        for (i, x) in x.iter().enumerate() {
            let u = domain.from_model(x);
            let found =
                smooth::certify(&mut victim, &u, smoothing, asked.seed, i as u64).map_err(in_certify)?;
            out.push(Certificate {
                class: found.class.map(|class| names[class as usize].clone()),
                radius: found.radius,
                p_lower: found.p_lower,
                unit: domain.unit.clone(),
            });
        }
        Ok(out)
    };
    let work = move || {
        let found = certify();
        share.add_passes(spent.spent());
        found
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal("a certificate broke off", error))?
}

/// The place of an error inside the field `certify`.
fn in_certify(error: RobustError) -> ServiceError {
    match refused(error) {
        ServiceError::Invalid { param, code, message } => {
            ServiceError::Invalid { param: format!("certify.{param}"), code, message }
        }
        ServiceError::Unsupported { code, message, .. } => {
            ServiceError::Unsupported { param: "certify".into(), code, message }
        }
        other => other,
    }
}
