//! Kolmogorov–Smirnov: the largest distance between two distribution functions.

use super::Tested;
use crate::error::RobustError;

/// Beyond this product of sizes the p-value is the asymptotic one.
const EXACT_MAX: u64 = 10_000_000;

/// The two-sided test of two samples (`scipy.stats.ks_2samp`).
///
/// # Errors
/// An empty sample, or a number that is not one.
pub fn ks_two_samples(a: &[f64], b: &[f64]) -> Result<Tested, RobustError> {
    let (a, b) = (super::distance::sorted(a)?, super::distance::sorted(b)?);
    let (mut i, mut j, mut statistic) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        while i < a.len() && a[i] <= at {
            i += 1;
        }
        while j < b.len() && b[j] <= at {
            j += 1;
        }
        statistic = statistic.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    Ok(Tested { statistic, p_value: ks_p_value(statistic, a.len() as u64, b.len() as u64) })
}

/// The probability of a distance of at least `d` between samples of one continuous distribution. Exact by
/// counting lattice paths (Hodges 1958) for moderate sizes; else Kolmogorov's limit with Stephens' correction.
/// With ties the true probability is smaller.
pub fn ks_p_value(d: f64, m: u64, n: u64) -> f64 {
    if d <= 0.0 {
        return 1.0;
    }
    if m.saturating_mul(n) <= EXACT_MAX {
        exact(d, m.min(n) as usize, m.max(n) as usize)
    } else {
        limit(d, m, n)
    }
}

/// `1 − P(every step of a random lattice path to (m, n) stays nearer than d to the diagonal)`. Of the paths to
/// `(i, j)` a share `i / (i + j)` comes from `(i − 1, j)` and the rest from `(i, j − 1)`.
fn exact(d: f64, m: usize, n: usize) -> f64 {
    let (size_m, size_n) = (m as f64, n as f64);
    // Distances are multiples of 1/(mn): half of one less than d, so that rounding does not matter.
    let q = ((d * size_m * size_n - 1e-7).floor() + 0.5) / (size_m * size_n);
    let mut inside = vec![1.0; n + 1];
    for i in 0..=m {
        let x = i as f64 / size_m;
        for j in 0..=n {
            let outside = (x - j as f64 / size_n).abs() > q;
            inside[j] = match (i, j) {
                _ if outside => 0.0,
                (0, 0) => 1.0,
                (0, _) => inside[j - 1],
                (_, 0) => inside[0],
                _ => (i as f64 * inside[j] + j as f64 * inside[j - 1]) / (i + j) as f64,
            };
        }
    }
    (1.0 - inside[n]).clamp(0.0, 1.0)
}

/// `2 Σ (−1)^{k−1} exp(−2 k² λ²)` with `λ = (√e + 0.12 + 0.11 / √e) d`, `e = mn / (m + n)` (Stephens 1970).
fn limit(d: f64, m: u64, n: u64) -> f64 {
    let root = (m as f64 * n as f64 / (m + n) as f64).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * d;
    if lambda < 0.2 {
        // The sum is 1 here to more digits than it can be computed with.
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * lambda * lambda).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_joins_the_exact_value() {
        for d in [0.01, 0.03, 0.05] {
            let (exact, limit) = (exact(d, 3000, 3300), limit(d, 3000, 3300));
            assert!((exact - limit).abs() < 0.01, "{d}: {exact} {limit}");
        }
    }

    #[test]
    fn equal_samples_do_not_differ_and_empty_ones_are_refused() {
        let found = ks_two_samples(&[1.0, 2.0, 2.0], &[1.0, 2.0, 2.0]).unwrap();
        assert_eq!((found.statistic, found.p_value), (0.0, 1.0));
        assert!(ks_two_samples(&[], &[1.0]).is_err() && ks_two_samples(&[f64::NAN], &[1.0]).is_err());
    }
}
