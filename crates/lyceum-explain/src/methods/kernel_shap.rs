//! Shapley values by weighted least squares over coalitions (Lundberg & Lee 2017): the `φ` that minimise
//! `Σ_S w(S) (v(S) − v(∅) − Σ_{i ∈ S} φ_i)²` with `Σ φ = v(all) − v(∅)` and
//! `w(S) = (n − 1) / (C(n, |S|) |S| (n − |S|))`.
//!
//! Where `n_samples` allows it every coalition is asked, and the result is the exact Shapley value. Otherwise
//! coalitions are drawn from `w`, each with its complement (Covert & Lee 2021, arXiv:2012.01536), and the
//! standard errors are those of least squares with unequal noise (sandwich), pairs counted as one draw.

use super::shapley::binomial;
use super::{Attributed, shapley_sampling::permutation};
use crate::session::Session;
use crate::{Baseline, ExplainError, Of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) fn attribute(
    session: &mut Session<'_>,
    baseline: &Baseline,
    n_samples: usize,
    seed: u64,
) -> Result<Attributed, ExplainError> {
    let n = session.subject.groups.n();
    let every = n < 24 && (1usize << n) - 2 <= n_samples;
    let draws = if every { all(n) } else { draw(n, n_samples, &mut ChaCha8Rng::seed_from_u64(seed)) };
    session.require((1 + draws.len() as u64) * session.cost(baseline))?;
    let target = session.target.clone();
    let output = session.output;
    let base = session.values(baseline, &target, &[vec![false; n]])?[0];
    let coalitions: Vec<Vec<bool>> = draws.iter().map(|d| d.0.clone()).collect();
    let v = session.values(baseline, &target, &coalitions)?;
    let (values, stderr) = fit(&draws, &v, base, output)?;
    let stderr = (!every).then_some(stderr);
    let exact = every;
    Ok(Attributed { values, stderr, elements: None, of: Of::Features, base_value: Some(base), exact })
}

/// Every coalition but none and all, with its weight.
fn all(n: usize) -> Vec<(Vec<bool>, f64)> {
    let of = |s: usize| {
        let size = s.count_ones() as usize;
        let weight = (n - 1) as f64 / (binomial(n, size) * (size * (n - size)) as f64);
        ((0..n).map(|i| s >> i & 1 == 1).collect(), weight)
    };
    // A coalition and its complement stand beside each other.
    (1..1usize << (n - 1)).flat_map(|s| [of(s), of(!s & ((1 << n) - 1))]).collect()
}

/// Pairs of a coalition and its complement, sizes drawn in proportion to their whole weight
/// `(n − 1) / (s (n − s))`; within a size all are equally likely, so each draw weighs 1.
fn draw(n: usize, n_samples: usize, rng: &mut ChaCha8Rng) -> Vec<(Vec<bool>, f64)> {
    let weights: Vec<f64> = (1..n).map(|s| 1.0 / (s * (n - s)) as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut draws = Vec::with_capacity(n_samples);
    while draws.len() + 1 < n_samples {
        let mut left = rng.random::<f64>() * total;
        let size =
            1 + weights.iter().take(n - 2).take_while(|&&w| (left >= w).then(|| left -= w).is_some()).count();
        let mut coalition = vec![false; n];
        permutation(rng, n)[..size].iter().for_each(|&i| coalition[i] = true);
        let complement = coalition.iter().map(|present| !present).collect();
        draws.push((coalition, 1.0));
        draws.push((complement, 1.0));
    }
    draws
}

/// Least squares with the constraint put in by leaving out the last feature: with `Δ = v(all) − v(∅)`,
/// `y − Δ x_n = Σ_{i < n} φ_i (x_i − x_n)`.
fn fit(
    draws: &[(Vec<bool>, f64)],
    v: &[f64],
    base: f64,
    output: f64,
) -> Result<(Vec<f64>, Vec<f64>), ExplainError> {
    let n = draws.first().map_or(0, |d| d.0.len());
    let m = n - 1;
    let number = |present: bool| if present { 1.0 } else { 0.0 };
    let row = |coalition: &[bool]| -> Vec<f64> {
        (0..m).map(|i| number(coalition[i]) - number(coalition[m])).collect()
    };
    let (mut a, mut b) = (vec![0.0; m * m], vec![0.0; m]);
    for ((coalition, weight), v) in draws.iter().zip(v) {
        let (x, y) = (row(coalition), v - base - (output - base) * number(coalition[m]));
        for i in 0..m {
            b[i] += weight * x[i] * y;
            (0..m).for_each(|j| a[i * m + j] += weight * x[i] * x[j]);
        }
    }
    let inverse = inverse(a, m).ok_or_else(|| {
        ExplainError::request("n_samples", "the coalitions that were drawn do not tell all features apart")
    })?;
    let times = |matrix: &[f64], x: &[f64]| -> Vec<f64> {
        (0..m).map(|i| (0..m).map(|j| matrix[i * m + j] * x[j]).sum()).collect()
    };
    let mut values = times(&inverse, &b);
    // Cov = A⁻¹ (Σ_pairs g gᵀ) A⁻¹, g the pair's w x (y − x·φ).
    let mut variance = vec![0.0; n];
    for (pair, v) in draws.chunks(2).zip(v.chunks(2)) {
        let mut g = vec![0.0; m];
        for ((coalition, weight), v) in pair.iter().zip(v) {
            let (x, y) = (row(coalition), v - base - (output - base) * number(coalition[m]));
            let residual = y - x.iter().zip(&values).map(|(x, p)| x * p).sum::<f64>();
            g.iter_mut().zip(&x).for_each(|(g, x)| *g += weight * x * residual);
        }
        let step = times(&inverse, &g);
        (0..m).for_each(|i| variance[i] += step[i] * step[i]);
        variance[m] += step.iter().sum::<f64>().powi(2);
    }
    // Residuals are smaller than errors by the degrees of freedom that the fit took.
    let n_pairs = draws.len().div_ceil(2);
    let correction = n_pairs as f64 / n_pairs.saturating_sub(m).max(1) as f64;
    values.push(output - base - values.iter().sum::<f64>());
    Ok((values, variance.into_iter().map(|v| (v * correction).sqrt()).collect()))
}

/// Gauss–Jordan with pivots; None where the matrix is singular.
fn inverse(mut a: Vec<f64>, m: usize) -> Option<Vec<f64>> {
    let mut out: Vec<f64> = (0..m * m).map(|i| if i % (m + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let scale = a.iter().fold(0.0f64, |s, x| s.max(x.abs()));
    for col in 0..m {
        let pivot = (col..m).max_by(|&i, &j| a[i * m + col].abs().total_cmp(&a[j * m + col].abs()))?;
        if a[pivot * m + col].abs() <= 1e-12 * scale {
            return None;
        }
        for j in 0..m {
            a.swap(col * m + j, pivot * m + j);
            out.swap(col * m + j, pivot * m + j);
        }
        let p = a[col * m + col];
        for j in 0..m {
            a[col * m + j] /= p;
            out[col * m + j] /= p;
        }
        for i in (0..m).filter(|&i| i != col) {
            let f = a[i * m + col];
            for j in 0..m {
                a[i * m + j] -= f * a[col * m + j];
                out[i * m + j] -= f * out[col * m + j];
            }
        }
    }
    Some(out)
}
