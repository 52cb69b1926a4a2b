//! Distances without a p-value: the population stability index and Wasserstein's.

use crate::error::RobustError;

/// No share counts as less, so that an empty bin costs a bounded amount.
pub const PSI_FLOOR: f64 = 1e-4;

/// `Σ (a − e) ln(a / e)` over shares of the same bins, each at least [`PSI_FLOOR`]. By custom below 0.1 is little
/// and above 0.25 is much; the index has no p-value and grows with the number of bins.
///
/// # Errors
/// Counts that do not belong together, or of nothing.
pub fn psi(expected: &[f64], actual: &[f64]) -> Result<f64, RobustError> {
    let total = |v: &[f64]| v.iter().sum::<f64>();
    let (e, a) = (total(expected), total(actual));
    if expected.len() != actual.len() || !(e > 0.0 && a > 0.0) {
        return Err(RobustError::Rows("two histograms of the same bins, each with rows, are needed".into()));
    }
    let share = |x: f64, whole: f64| (x / whole).max(PSI_FLOOR);
    let part = |(x, y): (&f64, &f64)| {
        let (x, y) = (share(*x, e), share(*y, a));
        (y - x) * (y / x).ln()
    };
    Ok(expected.iter().zip(actual).map(part).sum())
}

/// `∫ |F − G|`: how far mass must be moved, in the data's units (`scipy.stats.wasserstein_distance`).
///
/// # Errors
/// An empty sample, or a number that is not one.
pub fn wasserstein(a: &[f64], b: &[f64]) -> Result<f64, RobustError> {
    let (a, b) = (sorted(a)?, sorted(b)?);
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    let mut last = a[0].min(b[0]);
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        sum += (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs() * (next - last);
        last = next;
        while i < a.len() && a[i] <= next {
            i += 1;
        }
        while j < b.len() && b[j] <= next {
            j += 1;
        }
    }
    Ok(sum)
}

pub(super) fn sorted(v: &[f64]) -> Result<Vec<f64>, RobustError> {
    if v.is_empty() {
        return Err(RobustError::Rows("a sample is empty".into()));
    }
    if let Some(row) = v.iter().position(|x| !x.is_finite()) {
        return Err(RobustError::Rows(format!("number {row} of a sample is not finite")));
    }
    let mut v = v.to_vec();
    v.sort_unstable_by(f64::total_cmp);
    Ok(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_histograms_have_no_distance_and_an_empty_bin_costs_a_bounded_one() {
        assert_eq!(psi(&[10.0, 30.0], &[1.0, 3.0]).unwrap(), 0.0);
        let found = psi(&[1.0, 1.0], &[1.0, 0.0]).unwrap();
        let by_hand = 0.5 * 2f64.ln() + (PSI_FLOOR - 0.5) * (PSI_FLOOR / 0.5).ln();
        assert!((found - by_hand).abs() < 1e-12, "{found}");
        assert!(psi(&[0.0], &[1.0]).is_err() && psi(&[1.0], &[1.0, 2.0]).is_err());
    }

    #[test]
    fn a_shift_moves_all_mass_by_itself() {
        let a = [0.0, 1.0, 4.0];
        assert!((wasserstein(&a, &a.map(|x| x + 2.5)).unwrap() - 2.5).abs() < 1e-12);
        assert_eq!(wasserstein(&[0.0, 0.0], &[0.0]).unwrap(), 0.0);
    }
}
