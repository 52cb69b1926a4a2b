//! Sums of exponentials and Gaussian masses without loss of digits.

use libm::erfc;
use std::f64::consts::SQRT_2;

/// `ln Σ exp(terms)`; −∞ for nothing.
pub(crate) fn log_sum_exp(terms: &[f64]) -> f64 {
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + terms.iter().map(|t| (t - largest).exp()).sum::<f64>().ln()
}

/// `P(N(0, 1) ≤ x)`
pub(crate) fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// `ln((1 − q) + q·exp(u))`
pub(crate) fn log_mix(q: f64, u: f64) -> f64 {
    if u > 30.0 { u + q.ln() + ((1.0 - q) / q * (-u).exp()).ln_1p() } else { (q * u.exp_m1()).ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_masses_keep_their_digits() {
        assert!((log_sum_exp(&[-1000.0, -1000.0]) - (2f64.ln() - 1000.0)).abs() < 1e-12);
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        // Abramowitz & Stegun, table 26.1.
        assert!((normal_cdf(1.0) - 0.841_344_746_068_543).abs() < 1e-14);
        assert!((normal_cdf(-8.0) / 6.220_960_574_271_78e-16 - 1.0).abs() < 1e-10);
        for (q, u) in [(0.3, 29.9), (1e-6, 30.1), (1.0, 31.0)] {
            let plain = ((1.0 - q) + q * f64::exp(u)).ln();
            assert!((log_mix(q, u) - plain).abs() < 1e-11, "{q} {u}");
        }
    }
}
