//! 95 % intervals. `n` of a metric is the number of rows behind it.

use super::{EvalError, finite, same_length};
use lyceum_types::manifest::Metric;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

/// The standard normal's 97.5 % point.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// What is known of an unbounded number from one row: nothing. JSON has no infinity.
const UNKNOWN: [f64; 2] = [f64::MIN, f64::MAX];

/// Resamples of a bootstrap, fewer where there are many rows, so that its time is bounded: at most
/// `DRAWS_MAX` draws, or `RESAMPLES_MIN` resamples.
const RESAMPLES_MAX: usize = 1000;
const RESAMPLES_MIN: usize = 200;
const DRAWS_MAX: usize = 40_000_000;

/// A share of `successes` in `n` with Wilson's score interval (Wilson 1927), which keeps its coverage near 0
/// and 1 and for small `n`.
///
/// # Errors
/// No rows.
pub fn wilson(successes: u64, n: u64) -> Result<Metric, EvalError> {
    if n == 0 {
        return Err(EvalError::Empty { metric: "share" });
    }
    let (count, share) = (n as f64, successes as f64 / n as f64);
    let centre = share + Z * Z / (2.0 * count);
    let half = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 1.0 + Z * Z / count;
    // At the ends the formula gives 0 and 1 but for rounding.
    let low = if successes == 0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if successes == n { 1.0 } else { ((centre + half) / scale).min(1.0) };
    Ok(Metric { value: share, ci95: [low, high], n })
}

/// The exact interval of a share (Clopper and Pearson 1934): never too short, often too long.
///
/// # Errors
/// No rows.
pub fn clopper_pearson(successes: u64, n: u64) -> Result<Metric, EvalError> {
    if n == 0 {
        return Err(EvalError::Empty { metric: "share" });
    }
    let (k, count) = (successes as f64, n as f64);
    let beta = |a: f64, b: f64, p: f64| Beta::new(a, b).expect("both are above 0: bug").inverse_cdf(p);
    let low = if successes == 0 { 0.0 } else { beta(k, count - k + 1.0, 0.025) };
    let high = if successes == n { 1.0 } else { beta(k + 1.0, count - k, 0.975) };
    Ok(Metric { value: k / count, ci95: [low, high], n })
}

/// A mean with Student's t interval.
///
/// # Errors
/// No rows, or a value that is not finite.
pub fn mean(metric: &'static str, values: &[f64]) -> Result<Metric, EvalError> {
    ratio(metric, values, &vec![1.0; values.len()])
}

/// `Σ numerators / Σ denominators` over rows that are the units of sampling (a text with its tokens, a
/// sentence with its words), with the interval of the linearised ratio:
/// `var r ≈ m/(m−1) · Σ (aᵢ − r bᵢ)² / (Σ b)²`, Student's t with `m − 1` degrees. With all denominators 1 it
/// is the mean and its usual interval.
///
/// # Errors
/// No rows, slices that disagree, a value that is not finite, or denominators whose sum is 0.
pub fn ratio(metric: &'static str, numerators: &[f64], denominators: &[f64]) -> Result<Metric, EvalError> {
    same_length(metric, numerators.len(), denominators.len())?;
    finite(metric, numerators)?;
    finite(metric, denominators)?;
    let whole: f64 = denominators.iter().sum();
    if whole == 0.0 {
        return Err(EvalError::Empty { metric });
    }
    let m = numerators.len();
    let value = numerators.iter().sum::<f64>() / whole;
    if m == 1 {
        return Ok(Metric { value, ci95: UNKNOWN, n: 1 });
    }
    let squares: f64 = numerators.iter().zip(denominators).map(|(a, b)| (a - value * b).powi(2)).sum();
    let count = m as f64;
    let error = (squares * count / (count - 1.0)).sqrt() / whole;
    let half = t_quantile(count - 1.0) * error;
    Ok(Metric { value, ci95: [value - half, value + half], n: m as u64 })
}

/// The 97.5 % point of Student's t.
fn t_quantile(degrees: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees).expect("degrees of freedom are above 0: bug").inverse_cdf(0.975)
}

/// Values of `k` statistics over resamples of `n` rows with replacement, each sorted. The statistic gets the
/// row numbers and fills one value each; NaN says that this resample does not define it.
pub(super) fn bootstrap(
    n: usize,
    k: usize,
    seed: u64,
    mut statistic: impl FnMut(&[u32], &mut [f64]),
) -> Vec<Vec<f64>> {
    let n_resamples = (DRAWS_MAX / n.max(1)).clamp(RESAMPLES_MIN, RESAMPLES_MAX);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = vec![0u32; n];
    let mut out = vec![0.0; k];
    let mut values = vec![Vec::with_capacity(n_resamples); k];
    for _ in 0..n_resamples {
        // A draw from 0..n by multiplication: its bias is below n / 2³², far under the bootstrap's own error.
        rows.fill_with(|| ((u64::from(rng.next_u32()) * n as u64) >> 32) as u32);
        statistic(&rows, &mut out);
        for (values, value) in values.iter_mut().zip(&out) {
            if !value.is_nan() {
                values.push(*value);
            }
        }
    }
    values.iter_mut().for_each(|values| values.sort_by(f64::total_cmp));
    values
}

/// The 2.5 % and 97.5 % points of sorted bootstrap values; what is known without any: nothing.
pub(super) fn percentiles(sorted: &[f64]) -> [f64; 2] {
    if sorted.is_empty() {
        return UNKNOWN;
    }
    let at = |p: f64| {
        let position = p * (sorted.len() - 1) as f64;
        let (low, part) = (position.floor() as usize, position.fract());
        let high = (low + 1).min(sorted.len() - 1);
        sorted[low] + part * (sorted[high] - sorted[low])
    };
    [at(0.025), at(0.975)]
}

/// The standard deviation of bootstrap values.
pub(super) fn spread(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
}
