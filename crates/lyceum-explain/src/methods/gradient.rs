//! One pass forward and one back: `|∂f/∂x|`, and `∂f/∂x ⊙ (x − baseline)`.
//!
//! The second is the first term of Taylor's series around the input; it adds up to the output only where the
//! model is linear on the way from the baseline.

use super::Attributed;
use crate::session::Session;
use crate::{Baseline, ExplainError};

pub(super) fn saliency(session: &mut Session<'_>) -> Result<Attributed, ExplainError> {
    let gradient = session.gradient()?;
    Ok(Attributed::of_elements(session, gradient.into_iter().map(f32::abs).collect()))
}

pub(super) fn gradient_input(
    session: &mut Session<'_>,
    baseline: &Baseline,
) -> Result<Attributed, ExplainError> {
    let base = mean_row(&session.baselines(baseline)?);
    let gradient = session.gradient()?;
    let parts = gradient.iter().zip(&session.entry).zip(&base);
    let elements = parts.map(|((g, x), b)| g * (x - b)).collect();
    Ok(Attributed::of_elements(session, elements))
}

/// The mean of rows of one length, at least one.
pub(super) fn mean_row(rows: &[Vec<f32>]) -> Vec<f32> {
    let mean = |i: usize| rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / rows.len() as f64;
    (0..rows[0].len()).map(|i| mean(i) as f32).collect()
}
