//! Pearson's χ² test that two counts by name come from one distribution.

use super::Tested;
use crate::error::RobustError;
use statrs::function::gamma::gamma_ur;

/// `Σ (observed − expected)² / expected` over a table of two rows, with `k − 1` degrees of freedom for the `k`
/// names that occur (`scipy.stats.chi2_contingency(correction=False)`). The approximation wants about 5 expected
/// rows a name; join rare names before.
///
/// # Errors
/// Counts that do not belong together, or of nothing.
pub fn chi_squared(a: &[f64], b: &[f64]) -> Result<Tested, RobustError> {
    let (total_a, total_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    if a.len() != b.len() || !(total_a > 0.0 && total_b > 0.0) {
        return Err(RobustError::Rows("two counts of the same names, each with rows, are needed".into()));
    }
    let whole = total_a + total_b;
    let (mut statistic, mut names) = (0.0, 0u32);
    for (&x, &y) in a.iter().zip(b).filter(|(x, y)| **x + **y > 0.0) {
        let (expected_x, expected_y) = ((x + y) * total_a / whole, (x + y) * total_b / whole);
        statistic += (x - expected_x).powi(2) / expected_x + (y - expected_y).powi(2) / expected_y;
        names += 1;
    }
    if names < 2 {
        return Ok(Tested { statistic: 0.0, p_value: 1.0 });
    }
    let p_value = if statistic <= 0.0 { 1.0 } else { gamma_ur(f64::from(names - 1) / 2.0, statistic / 2.0) };
    Ok(Tested { statistic, p_value })
}
