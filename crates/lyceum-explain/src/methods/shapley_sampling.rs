//! Shapley values from random orders: each feature's share is its mean gain when features come one after the
//! other (Castro et al. 2009). Orders come in pairs, one and its reverse (Mitchell et al. 2021,
//! arXiv:2104.12199); the standard error is that of the mean over pairs.
//!
//! Complete for every order, so also in the mean: the gains add up to `f(x) − f(baseline)`.

use super::Attributed;
use crate::session::Session;
use crate::{Baseline, ExplainError, Of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) fn attribute(
    session: &mut Session<'_>,
    baseline: &Baseline,
    n_permutations: usize,
    seed: u64,
) -> Result<Attributed, ExplainError> {
    let n = session.subject.groups.n();
    let pairs = n_permutations.div_ceil(2).max(2);
    session.require((1 + 2 * pairs as u64 * (n as u64 - 1)) * session.cost(baseline))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let target = session.subject.target.clone();
    let output = session.output;
    let base = session.values(baseline, &target, &[vec![false; n]])?[0];
    let (mut sums, mut squares) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..pairs {
        let order = permutation(&mut rng, n);
        let mut gains = vec![0.0; n];
        for reversed in [false, true] {
            let order: Vec<usize> =
                if reversed { order.iter().rev().copied().collect() } else { order.clone() };
            // After the first, the first two, … but all, which is the output itself.
            let mut present = vec![false; n];
            let mut coalitions = Vec::with_capacity(n - 1);
            for &i in &order[..n - 1] {
                present[i] = true;
                coalitions.push(present.clone());
            }
            let mut before = base;
            let values = session.values(baseline, &target, &coalitions)?;
            for (&i, value) in order.iter().zip(values.into_iter().chain([output])) {
                gains[i] += (value - before) / 2.0;
                before = value;
            }
        }
        for (i, gain) in gains.into_iter().enumerate() {
            sums[i] += gain;
            squares[i] += gain * gain;
        }
    }
    let count = pairs as f64;
    let values: Vec<f64> = sums.iter().map(|s| s / count).collect();
    let stderr =
        |(mean, square): (&f64, &f64)| ((square / count - mean * mean).max(0.0) / (count - 1.0)).sqrt();
    let stderr = Some(values.iter().zip(&squares).map(stderr).collect());
    Ok(Attributed { values, stderr, elements: None, of: Of::Features, base_value: Some(base), exact: false })
}

/// Fisher–Yates.
pub(crate) fn permutation(rng: &mut ChaCha8Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}
