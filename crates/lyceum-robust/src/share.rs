//! A share of rows with the exact interval of Clopper and Pearson 1934: never too short, often too long.

use crate::error::RobustError;
use lyceum_types::manifest::Metric;
use statrs::function::beta::beta_reg;

/// `successes` of `n` with the 95 % interval.
///
/// # Errors
/// No rows.
pub fn share(successes: u64, n: u64) -> Result<Metric, RobustError> {
    if n == 0 {
        return Err(RobustError::Rows("there are none".into()));
    }
    let ci95 = [lower(successes, n, 0.025), upper(successes, n, 0.025)];
    Ok(Metric { value: successes as f64 / n as f64, ci95, n })
}

/// The one-sided lower bound: the true share is below it with probability at most `alpha`.
pub fn lower(successes: u64, n: u64, alpha: f64) -> f64 {
    if successes == 0 { 0.0 } else { beta_quantile(alpha, successes as f64, (n - successes + 1) as f64) }
}

/// The one-sided upper bound: the true share is above it with probability at most `alpha`.
pub fn upper(successes: u64, n: u64, alpha: f64) -> f64 {
    if successes == n {
        1.0
    } else {
        beta_quantile(1.0 - alpha, (successes + 1) as f64, (n - successes) as f64)
    }
}

/// The `p` point of Beta(a, b), by bisection of the regularised incomplete beta function down to neighbouring
/// numbers: slower than Newton's method, and right for every `a`, `b` above 0.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0f64, 1.0f64);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high || high - low < 1e-15 {
            return middle;
        }
        if beta_reg(a, b, middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_equal_scipys() {
        // scipy.stats.beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.308_497_107_818_760_7),
            (7, 10, 0.347_547_149_940_002_7, 0.933_260_488_822_265_5),
            (10, 10, 0.691_502_892_181_239_2, 1.0),
            (301, 360, 0.793_748_327_940_353_7, 0.872_837_569_772_037_6),
        ] {
            let found = share(k, n).unwrap();
            let [l, h] = found.ci95;
            assert!((l - low).abs() < 1e-10 && (h - high).abs() < 1e-10, "{k} of {n}: {l} {h}");
        }
    }

    #[test]
    fn bounds_of_many_samples_equal_scipys() {
        // scipy.stats.beta.ppf(0.001, k, n - k + 1)
        for (k, n, low) in [(99_990, 100_000, 0.999_758_677_344), (100_000, 100_000, 0.999_930_924_833)] {
            assert!((lower(k, n, 0.001) - low).abs() < 1e-10, "{k}: {}", lower(k, n, 0.001));
        }
        assert_eq!(lower(0, 5, 0.1), 0.0);
        assert_eq!(upper(5, 5, 0.1), 1.0);
    }

    #[test]
    fn no_rows_have_no_share() {
        assert!(share(0, 0).is_err());
    }
}
