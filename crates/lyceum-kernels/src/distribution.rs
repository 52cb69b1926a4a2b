//! What one row of logits says as a distribution: its weights, and the sums that log-probabilities and entropy come from.
//!
//! ```text
//! weight_i = exp((x_i - m) / T),   m = max_k x_k
//! lse = m + ln S,   H = ln S - E / S,   S = Σ exp(x_i - m),   E = Σ (x_i - m) exp(x_i - m)
//! ```
//! Exponentials are f32, sums are f64 from block to block and always in the same order. A logit of minus infinity has no
//! weight and no part in a sum. This module draws nothing and knows no tokens; one row is too little for two threads.

use crate::cpu;
use crate::row::{load_or, max, store};
use crate::simd::{Simd, math, on_path};
use std::ops::Range;

/// Numbers that [`weigh`] sums together, and at most so many additions of f32 that [`moments`] does in a lane.
pub const BLOCK: usize = 256;

/// `S` and `E` of a row, and its largest number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    pub largest: f32,
    pub sum: f64,
    pub inner: f64,
}

/// The sums of a row that is not empty.
pub fn moments(x: &[f32]) -> Moments {
    assert!(!x.is_empty(), "moments: a row without numbers");
    on_path!(cpu::path(), moments_of(x: &[f32]) -> Moments)
}

/// Writes the weights of a row at temperature `t`, and for each [`BLOCK`] of them their sum.
pub fn weigh(x: &[f32], t: f32, weights: &mut [f32], sums: &mut [f64]) {
    let lengths = (weights.len(), sums.len());
    assert_eq!(lengths, (x.len(), x.len().div_ceil(BLOCK)), "weigh: lengths of weights and sums");
    on_path!(cpu::path(), weigh_row(x: &[f32], t: f32, weights: &mut [f32], sums: &mut [f64]));
}

/// Adds to `found` what lies in the range, each number with its position, from the first on.
pub fn within(x: &[f32], range: Range<f32>, found: &mut Vec<(f32, u32)>) {
    on_path!(cpu::path(), find(x: &[f32], range: Range<f32>, found: &mut Vec<(f32, u32)>));
}

#[inline(always)]
unsafe fn moments_of<S: Simd>(x: &[f32]) -> Moments {
    let (mut sum, mut inner) = (0.0, 0.0);
    // SAFETY: `on_path!` has the path; loads stay inside the row.
    unsafe {
        let largest = max::<S>(x);
        let top = S::splat(largest);
        for block in x.chunks(BLOCK) {
            let (mut s, mut e) = (S::zero(), S::zero());
            let mut i = 0;
            while i < block.len() {
                let d = S::sub(load_or::<S>(block.as_ptr().add(i), block.len() - i, f32::NEG_INFINITY), top);
                let weight = math::exp::<S>(d);
                s = S::add(s, weight);
                // Minus infinity times zero is none.
                e = S::add(e, S::select_gt(weight, S::zero(), S::mul(d, weight), S::zero()));
                i += S::LANES;
            }
            sum += f64::from(S::reduce_add(s));
            inner += f64::from(S::reduce_add(e));
        }
        Moments { largest, sum, inner }
    }
}

#[inline(always)]
unsafe fn weigh_row<S: Simd>(x: &[f32], t: f32, weights: &mut [f32], sums: &mut [f64]) {
    // SAFETY: `on_path!` has the path; loads and stores stay inside the blocks.
    unsafe {
        let (top, t) = (S::splat(max::<S>(x)), S::splat(t));
        for ((x, weights), sum) in x.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)).zip(sums) {
            let mut s = S::zero();
            let mut i = 0;
            while i < x.len() {
                let n = x.len() - i;
                let d = S::sub(load_or::<S>(x.as_ptr().add(i), n, f32::NEG_INFINITY), top);
                let weight = math::exp::<S>(S::div(d, t));
                store::<S>(weights.as_mut_ptr().add(i), weight, n);
                s = S::add(s, weight);
                i += S::LANES;
            }
            *sum = f64::from(S::reduce_add(s));
        }
    }
}

#[inline(always)]
unsafe fn find<S: Simd>(x: &[f32], range: Range<f32>, found: &mut Vec<(f32, u32)>) {
    /// Most of a row is far below what is looked for.
    const STEP: usize = 128;
    let mut at = 0;
    for part in x.chunks(STEP) {
        // SAFETY: `on_path!` has the path.
        if unsafe { max::<S>(part) } >= range.start {
            found.extend(part.iter().copied().zip(at..).filter(|(x, _)| range.contains(x)));
        }
        at += part.len() as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_path, numbers};

    fn logits(n: usize) -> Vec<f32> {
        let mut x: Vec<f32> = numbers(n, 3).iter().map(|v| v * 9.0).collect();
        x.iter_mut().skip(1).step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
        x
    }

    #[test]
    fn sums_agree_with_f64() {
        each_path(|| {
            for n in [1, 2, 15, 255, 257, 4099, 50_000] {
                let x = logits(n);
                let m = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let finite = || x.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x) - f64::from(m));
                let (sum, inner) =
                    (finite().map(f64::exp).sum::<f64>(), finite().map(|d| d * d.exp()).sum::<f64>());
                let found = moments(&x);
                assert_eq!(found.largest, m);
                assert!((found.sum / sum - 1.0).abs() < 1e-6, "{n}: {} {sum}", found.sum);
                assert!(
                    (found.inner - inner).abs() <= 1e-6 * sum.max(-inner),
                    "{n}: {} {inner}",
                    found.inner
                );
            }
        });
    }

    #[test]
    fn weights_agree_with_f64_at_every_temperature() {
        each_path(|| {
            for (n, t) in [(1, 1.0), (300, 0.3), (2_000, 1.7), (515, f32::MIN_POSITIVE), (515, f32::MAX)] {
                let x = logits(n);
                let m = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let (mut weights, mut sums) = (vec![0.0; n], vec![0.0; n.div_ceil(BLOCK)]);
                weigh(&x, t, &mut weights, &mut sums);
                for (&x, &weight) in x.iter().zip(&weights) {
                    let want = (f64::from(x - m) / f64::from(t)).exp();
                    assert!(
                        (f64::from(weight) - want).abs() <= 1e-5 * want + 1e-37,
                        "{n} {t}: {weight} {want}"
                    );
                }
                for (block, sum) in weights.chunks(BLOCK).zip(sums) {
                    let want: f64 = block.iter().map(|&w| f64::from(w)).sum();
                    assert!((sum - want).abs() <= 1e-6 * want, "{sum} {want}");
                }
            }
        });
    }

    #[test]
    fn what_is_in_a_range_is_found_in_order() {
        each_path(|| {
            for n in [0, 1, 127, 128, 129, 1_000] {
                let x = logits(n);
                for range in [1.0..f32::INFINITY, -2.0..1.0, f32::NEG_INFINITY..f32::INFINITY, 50.0..60.0] {
                    let mut found = vec![(0.5, 9)];
                    within(&x, range.clone(), &mut found);
                    let want = x.iter().copied().zip(0..).filter(|(x, _)| range.contains(x));
                    assert_eq!(found[1..], want.collect::<Vec<_>>()[..], "{n} {range:?}");
                }
            }
        });
    }

    #[test]
    fn nothing_possible_weighs_nothing_that_is_a_number_but_never_panics() {
        each_path(|| {
            let x = [f32::NEG_INFINITY; 5];
            let mut weights = [0.0; 5];
            weigh(&x, 1.0, &mut weights, &mut [0.0]);
            assert_eq!(moments(&x).largest, f32::NEG_INFINITY);
        });
    }
}
