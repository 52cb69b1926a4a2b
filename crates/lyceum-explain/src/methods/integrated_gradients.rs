//! `φ_i = (x_i − x′_i) · ∫₀¹ ∂f/∂x_i (x′ + α (x − x′)) dα`, by Gauss–Legendre nodes (Sundararajan et al. 2017).
//!
//! Complete: `Σ φ = f(x) − f(x′)`. With several baselines it is the mean over them (expected gradients, Erion et
//! al. 2019, arXiv:1906.10670).

use super::{Attributed, Steps};
use crate::attribute::is_complete;
use crate::quadrature::gauss_legendre;
use crate::session::Session;
use crate::{Baseline, ExplainError, Wanted};

/// Nodes to begin with, and the most.
const STEPS_FIRST: usize = 50;
const STEPS_MAX: usize = 1600;

pub(super) fn attribute(
    session: &mut Session<'_>,
    baseline: &Baseline,
    n_steps: Steps,
) -> Result<Attributed, ExplainError> {
    let bases = session.baselines(baseline)?;
    let mut steps = match n_steps {
        Steps::Fixed(n) => n,
        Steps::Refined => STEPS_FIRST,
    };
    session.require((bases.len() * (steps + 1)) as u64)?;
    let base_value = base_value(session, &bases)?;
    loop {
        let elements = integrate(session, &bases, steps)?;
        let mut found = Attributed::of_elements(session, elements);
        found.base_value = Some(base_value);
        let more = 2 * steps;
        let affordable = session.require((bases.len() * more) as u64).is_ok();
        if n_steps != Steps::Refined || is_complete(session, &found) || !affordable || more > STEPS_MAX {
            return Ok(found);
        }
        steps = more;
    }
}

fn integrate(
    session: &mut Session<'_>,
    bases: &[Vec<f32>],
    n_steps: usize,
) -> Result<Vec<f32>, ExplainError> {
    let nodes = gauss_legendre(n_steps);
    let entry = session.entry.clone();
    let mut sums = vec![0.0f64; entry.len()];
    for base in bases {
        session.over(
            n_steps,
            &Wanted::Gradients,
            |session, k, out| out.extend(between(base, &session.entry, nodes[k].0)),
            |first, result| {
                for (k, gradient) in result.gradients.chunks_exact(entry.len()).enumerate() {
                    let weight = nodes[first + k].1 / bases.len() as f64;
                    for (i, &g) in gradient.iter().enumerate() {
                        sums[i] += weight * f64::from(g) * f64::from(entry[i] - base[i]);
                    }
                }
            },
        )?;
    }
    Ok(sums.into_iter().map(|s| s as f32).collect())
}

/// `x′ + α (x − x′)`.
pub(super) fn between<'a>(base: &'a [f32], x: &'a [f32], alpha: f64) -> impl Iterator<Item = f32> + 'a {
    base.iter().zip(x).map(move |(&b, &x)| (f64::from(b) + alpha * f64::from(x - b)) as f32)
}

/// The mean of the target over baselines.
pub(super) fn base_value(session: &mut Session<'_>, bases: &[Vec<f32>]) -> Result<f64, ExplainError> {
    let mut sum = 0.0;
    let make = |_: &Session<'_>, i: usize, out: &mut Vec<f32>| out.extend_from_slice(&bases[i]);
    session.over(bases.len(), &Wanted::Scores, make, |_, result| sum += result.scores.iter().sum::<f64>())?;
    Ok(sum / bases.len() as f64)
}
