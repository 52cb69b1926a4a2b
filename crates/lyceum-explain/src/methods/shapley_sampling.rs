//! Shapley values from random orders: each feature's share is its mean gain when features come one after the
//! other (Castro et al. 2009). Orders come in pairs, one and its reverse (Mitchell et al. 2021,
//! arXiv:2104.12199); the standard error is that of the mean over pairs.
//!
//! Complete for every order, so also in the mean: the gains add up to `f(x) − f(baseline)`.

use super::Attributed;
use crate::session::{Coalition, Session};
use crate::{Baseline, ExplainError, Of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Orders whose coalitions are held at once, in pairs.
const PAIRS_AT_ONCE: usize = 64;

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
    let target = session.target.clone();
    let output = session.output;
    let base = session.values(baseline, &target, &[vec![false; n]])?[0];
    let (mut sums, mut squares) = (vec![0.0; n], vec![0.0; n]);
    let mut left = pairs;
    while left > 0 {
        let here = left.min(PAIRS_AT_ONCE);
        left -= here;
        let orders: Vec<Vec<usize>> = (0..here)
            .flat_map(|_| {
                let order = permutation(&mut rng, n);
                [order.clone(), order.into_iter().rev().collect()]
            })
            .collect();
        let coalitions: Vec<Coalition> = orders.iter().flat_map(|order| prefixes(order)).collect();
        let values = session.values(baseline, &target, &coalitions)?;
        for (pair, values) in orders.chunks_exact(2).zip(values.chunks_exact(2 * (n - 1))) {
            let mut gains = vec![0.0; n];
            for (order, values) in pair.iter().zip(values.chunks_exact(n - 1)) {
                let mut before = base;
                for (&i, &value) in order.iter().zip(values.iter().chain([&output])) {
                    gains[i] += (value - before) / 2.0;
                    before = value;
                }
            }
            for (i, gain) in gains.into_iter().enumerate() {
                sums[i] += gain;
                squares[i] += gain * gain;
            }
        }
    }
    let count = pairs as f64;
    let values: Vec<f64> = sums.iter().map(|s| s / count).collect();
    let stderr =
        |(mean, square): (&f64, &f64)| ((square / count - mean * mean).max(0.0) / (count - 1.0)).sqrt();
    let stderr = Some(values.iter().zip(&squares).map(stderr).collect());
    Ok(Attributed { values, stderr, elements: None, of: Of::Features, base_value: Some(base), exact: false })
}

/// The first, the first two, …, all but the last of an order.
fn prefixes(order: &[usize]) -> Vec<Coalition> {
    let mut present = vec![false; order.len()];
    let with = |&i: &usize| {
        present[i] = true;
        present.clone()
    };
    order[..order.len() - 1].iter().map(with).collect()
}

/// Fisher–Yates.
pub(crate) fn permutation(rng: &mut ChaCha8Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}
