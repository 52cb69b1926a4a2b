//! `φ_i = (x_i − x′_i) · ∫₀¹ ∂f/∂x_i (x′ + α (x − x′)) dα`, by Gauss–Legendre nodes (Sundararajan et al. 2017).
//!
//! Complete: `Σ φ = f(x) − f(x′)`. With several baselines it is the mean over them (expected gradients, Erion et
//! al. 2019, arXiv:1906.10670).

use super::Attributed;
use crate::quadrature::gauss_legendre;
use crate::session::Session;
use crate::{Baseline, ExplainError, Wanted};

pub(super) fn attribute(
    session: &mut Session<'_>,
    baseline: &Baseline,
    n_steps: usize,
) -> Result<Attributed, ExplainError> {
    let bases = session.baselines(baseline)?;
    session.require((bases.len() * (n_steps + 1)) as u64)?;
    let nodes = gauss_legendre(n_steps);
    let mut sums = vec![0.0f64; session.entry.len()];
    let per_base = 1.0 / bases.len() as f64;
    for base in &bases {
        let entry = session.entry.clone();
        session.over(
            n_steps,
            &Wanted::Gradients,
            |session, k, out| out.extend(between(base, &session.entry, nodes[k].0)),
            |first, result| {
                for (k, gradient) in result.gradients.chunks_exact(entry.len()).enumerate() {
                    let weight = nodes[first + k].1 * per_base;
                    for (i, &g) in gradient.iter().enumerate() {
                        sums[i] += weight * f64::from(g) * f64::from(entry[i] - base[i]);
                    }
                }
            },
        )?;
    }
    let base_value = base_value(session, &bases)?;
    let mut found = Attributed::of_elements(session, sums.iter().map(|&s| s as f32).collect());
    found.base_value = Some(base_value);
    Ok(found)
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
