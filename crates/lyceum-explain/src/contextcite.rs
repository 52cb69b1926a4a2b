//! ContextCite (Cohen-Wang et al. 2024, arXiv:2409.00729): which parts of a context made an answer likely, by a sparse
//! linear model of its log-odds over random subsets of the parts.
//!
//! Each mask keeps every part with probability ½ (none is drawn twice). With `v` the log-odds of the answer under a mask, divided by the
//! answer's number of tokens, and `z` the masks with every column brought to mean 0 and deviation 1, the weights are those of
//! `min_w 1/(2n) · ‖v − b − z·w‖² + α·‖w‖₁` (LASSO), brought back into the columns' and the answer's own units. α is
//! [`ALPHA`] log-odds a token, as the authors' code has it.
//!
//! How far the linear model can be trusted is measured on masks that it has not seen: the rank correlation of what it says
//! with what came out (the linear datamodelling score of Park et al. 2023, arXiv:2303.14186).
//!
//! This module knows masks and numbers; how an answer is scored under a mask is the caller's.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// The price of weight, in log-odds per token of the answer.
pub const ALPHA: f64 = 0.01;
/// Masks that are scored where the caller names no number.
pub const ABLATIONS: usize = 64;
/// The fewest: fewer say nothing of the fit.
pub const ABLATIONS_MIN: usize = 8;
/// Of the masks, one in so many is kept from the fit to judge it.
const HELD_OUT_ONE_IN: usize = 4;
/// Rounds of coordinate descent at most, and the change at which it rests, relative to the values.
const ROUNDS_MAX: usize = 10_000;
const RESTS_AT: f64 = 1e-12;
/// f32 tells no probability above `1 − 2⁻²⁴` from 1: log-odds end here.
const LOG_ODDS_MAX: f64 = 16.635_532;

/// Which parts are there, under `n` masks, none of them twice (so that what is held out is new): at most the
/// `2^n_parts` that there are. Equal seeds give equal masks.
pub fn masks(n_parts: usize, n: usize, seed: u64) -> Vec<Vec<bool>> {
    let n = if n_parts < usize::BITS as usize - 1 { n.min(1 << n_parts) } else { n };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut seen, mut masks) = (HashSet::new(), Vec::with_capacity(n));
    while masks.len() < n {
        let mask: Vec<bool> = (0..n_parts).map(|_| rng.random::<bool>()).collect();
        if seen.insert(mask.clone()) {
            masks.push(mask);
        }
    }
    masks
}

/// How many of `n` masks are kept from the fit: the last of them; none of so few that they say nothing.
pub fn n_held_out(n: usize) -> usize {
    if n < ABLATIONS_MIN { 0 } else { n / HELD_OUT_ONE_IN }
}

/// A fit, with what it was made of and judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub linear: Linear,
    pub alpha: f64,
    /// The rank correlation on the masks that the fit has not seen ([`Linear::score`]).
    pub lds: Option<f64>,
    /// All masks with what came out under them, the last `n_held_out` of them kept from the fit.
    pub masks: Vec<Vec<bool>>,
    pub values: Vec<f64>,
    pub n_held_out: usize,
    /// The fall of the answer's log-probability without the first `k` parts of the order.
    pub drops: Vec<(usize, f64)>,
}

/// `log(p / (1 − p))` of a log-probability (natural); at most 16.6, where f32 cannot tell p from 1.
pub fn log_odds(logprob: f64) -> f64 {
    let odds = logprob - (-logprob.exp_m1()).ln();
    odds.min(LOG_ODDS_MAX)
}

/// A linear model of a value over masks.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// One a part: what its presence adds.
    pub weights: Vec<f64>,
    /// The value where no part is there.
    pub intercept: f64,
}

impl Linear {
    /// What it says of a mask.
    pub fn predict(&self, mask: &[bool]) -> f64 {
        let kept = self.weights.iter().zip(mask).filter(|(_, kept)| **kept);
        self.intercept + kept.map(|(weight, _)| weight).sum::<f64>()
    }

    /// The rank correlation of what it says with `values`; None where either side says the same of all masks.
    pub fn score(&self, masks: &[Vec<bool>], values: &[f64]) -> Option<f64> {
        let said: Vec<f64> = masks.iter().map(|mask| self.predict(mask)).collect();
        spearman(&said, values)
    }

    /// Parts by what they add, most first; equal ones in their order.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.weights.len()).collect();
        order.sort_by(|&i, &j| self.weights[j].total_cmp(&self.weights[i]));
        order
    }
}

/// The fit of the module's head. `scale` divides the values (the answer's tokens) before, and multiplies the weights after.
///
/// # Panics
/// When masks and values are not equally many.
pub fn fit(masks: &[Vec<bool>], values: &[f64], scale: f64, alpha: f64) -> Linear {
    assert_eq!(masks.len(), values.len(), "one value a mask: bug");
    let (n, n_parts) = (masks.len(), masks.first().map_or(0, Vec::len));
    let size = n.max(1) as f64;
    let number = |kept: bool| if kept { 1.0 } else { 0.0 };
    let means: Vec<f64> =
        (0..n_parts).map(|j| masks.iter().map(|mask| number(mask[j])).sum::<f64>() / size).collect();
    // A part that was always there, or never, tells nothing: its column is 0.
    let deviations: Vec<f64> =
        means.iter().map(|m| (m * (1.0 - m)).sqrt()).map(|d| if d > 0.0 { d } else { 1.0 }).collect();
    let columns: Vec<Vec<f64>> = (0..n_parts)
        .map(|j| masks.iter().map(|mask| (number(mask[j]) - means[j]) / deviations[j]).collect())
        .collect();
    let mean = values.iter().sum::<f64>() / size / scale;
    let rest: Vec<f64> = values.iter().map(|v| v / scale - mean).collect();
    let inner = lasso(&columns, rest, alpha);
    let weights: Vec<f64> = inner.iter().zip(&deviations).map(|(w, d)| w / d * scale).collect();
    let shift: f64 = weights.iter().zip(&means).map(|(w, m)| w * m).sum();
    Linear { intercept: mean * scale - shift, weights }
}

/// `min_w 1/(2n) · ‖y − X·w‖² + α·‖w‖₁` by coordinate descent: `w_j ← S(x_j·(r + x_j w_j)/n, α) / (x_j·x_j/n)` with the
/// soft threshold S, until no coordinate moves.
fn lasso(columns: &[Vec<f64>], mut rest: Vec<f64>, alpha: f64) -> Vec<f64> {
    let size = rest.len().max(1) as f64;
    let largest = rest.iter().fold(0.0f64, |m, y| m.max(y.abs()));
    let squares: Vec<f64> = columns.iter().map(|x| x.iter().map(|x| x * x).sum::<f64>() / size).collect();
    let mut weights = vec![0.0f64; columns.len()];
    for _ in 0..ROUNDS_MAX {
        let mut moved = 0.0f64;
        for ((x, &square), weight) in columns.iter().zip(&squares).zip(&mut weights) {
            if square == 0.0 {
                continue;
            }
            let slope = x.iter().zip(&rest).map(|(x, r)| x * r).sum::<f64>() / size + square * *weight;
            let next = slope.signum() * (slope.abs() - alpha).max(0.0) / square;
            let step = next - *weight;
            if step != 0.0 {
                rest.iter_mut().zip(x).for_each(|(r, x)| *r -= x * step);
                *weight = next;
                moved = moved.max(step.abs());
            }
        }
        if moved <= RESTS_AT * largest {
            break;
        }
    }
    weights
}

/// Spearman's rank correlation: Pearson's of the ranks, equals sharing their mean rank. None where a side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "ranks are compared pair by pair: bug");
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// From 1.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut n_before = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = n_before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|&i| ranks[i] = rank);
        n_before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn log_odds_are_exact_where_probabilities_are_small_or_large() {
        for p in [1e-30f64, 1e-3, 0.5, 0.9, 1.0 - 1e-6] {
            let (got, want) = (log_odds(p.ln()), p.ln() - (-p).ln_1p());
            assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{p}: {got} {want}");
        }
        assert_eq!(log_odds(0.0), LOG_ODDS_MAX);
        assert!((log_odds(-800.0) + 800.0).abs() < 1e-12);
    }

    #[test]
    fn masks_are_fair_and_follow_the_seed() {
        let drawn = masks(10, 400, 3);
        assert_eq!(drawn, masks(10, 400, 3));
        assert_ne!(drawn, masks(10, 400, 4));
        let kept = drawn.iter().flatten().filter(|kept| **kept).count();
        assert!((1800..2200).contains(&kept), "{kept} of 4000");
        assert_eq!((n_held_out(64), n_held_out(8), n_held_out(7)), (16, 2, 0));
        let mut all = masks(3, 64, 0);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8, "of three parts there are no more");
    }

    #[test]
    fn without_a_price_a_linear_function_is_found_again() {
        let truth = Linear { weights: vec![2.0, -1.0, 0.0, 0.25], intercept: -3.0 };
        let drawn = masks(4, 16, 1);
        let values: Vec<f64> = drawn.iter().map(|mask| truth.predict(mask)).collect();
        let found = fit(&drawn, &values, 7.0, 0.0);
        for (found, truth) in found.weights.iter().zip(&truth.weights) {
            assert!((found - truth).abs() < 1e-8, "{found} {truth}");
        }
        assert!((found.intercept - truth.intercept).abs() < 1e-8);
        assert!(found.score(&drawn, &values).unwrap() > 0.98);
        assert_eq!(found.order(), [0, 3, 2, 1]);
        // A price above every slope leaves nothing but the mean.
        let none = fit(&drawn, &values, 1.0, 100.0);
        assert_eq!(none.weights, [0.0; 4]);
        assert_eq!(none.score(&drawn, &values), None, "what says the same of all has no order");
    }

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// The conditions of the minimum: a slope of α where a weight is, of at most α where none is.
        #[test]
        fn the_fit_is_where_no_slope_is_steeper_than_the_price(
            seed in 0u64..1000, n_parts in 1usize..9, n in 8usize..40, noise in prop::collection::vec(-2.0f64..2.0, 40)
        ) {
            let drawn = masks(n_parts, n, seed);
            let n = drawn.len();
            let values: Vec<f64> = drawn.iter().zip(&noise)
                .map(|(mask, noise)| noise + mask.iter().enumerate().map(|(i, &kept)| if kept { i as f64 } else { -0.3 }).sum::<f64>())
                .collect();
            let alpha = 0.05;
            let found = fit(&drawn, &values, 1.0, alpha);
            let rest: Vec<f64> = drawn.iter().zip(&values).map(|(mask, v)| v - found.predict(mask)).collect();
            for j in 0..n_parts {
                let mean = drawn.iter().filter(|mask| mask[j]).count() as f64 / n as f64;
                let deviation = (mean * (1.0 - mean)).sqrt();
                if deviation == 0.0 {
                    prop_assert_eq!(found.weights[j], 0.0);
                    continue;
                }
                let column = drawn.iter().map(|mask| (if mask[j] { 1.0 } else { 0.0 } - mean) / deviation);
                let slope = column.zip(&rest).map(|(x, r)| x * r).sum::<f64>() / n as f64;
                match found.weights[j] {
                    0.0 => prop_assert!(slope.abs() <= alpha + 1e-9, "{slope}"),
                    w => prop_assert!((slope - alpha * w.signum()).abs() < 1e-9, "{slope} at {w}"),
                }
            }
        }
    }
}
