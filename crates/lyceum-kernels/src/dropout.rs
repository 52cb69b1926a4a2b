//! Dropout whose mask is a pure function of (seed, stream, element number).
//!
//! Nothing is stored: the backward call, a resumed run and another thread count regenerate the same mask.
//!
//! ```text
//! y_i = x_i / (1 - p)  if hash(seed, stream, i) ≥ p · 2³²,   else 0
//! ```

use crate::elementwise::Write;
use crate::simd::{Simd, on_path};
use crate::{cpu, pool};

const CHUNK: usize = 1 << 13;

/// Which elements are dropped: the probability, the run's seed, and one stream per operation and step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub p: f32,
    pub seed: u64,
    pub stream: u64,
}

impl Dropout {
    /// Writes element `first + i`'s factor, `0` or `1 / (1 - p)`, to `factors[i]`.
    #[inline(always)]
    pub(crate) fn factors(&self, first: u64, factors: &mut [f32]) {
        let (threshold, keep) = (self.threshold(), 1.0 / (1.0 - self.p));
        let mut done = 0;
        while done < factors.len() {
            // The element number's upper half is part of the key, so that the loop has 32-bit numbers only.
            let at = first + done as u64;
            let n = (factors.len() - done).min((1 << 32) - (at as u32) as usize);
            let key = mix(self.seed ^ mix(self.stream ^ mix(at >> 32)));
            let (a, b) = (key as u32, (key >> 32) as u32);
            let start = at as u32;
            for (i, factor) in factors[done..done + n].iter_mut().enumerate() {
                let hash = hash(start.wrapping_add(i as u32), a, b);
                *factor = if hash >= threshold { keep } else { 0.0 };
            }
            done += n;
        }
    }

    fn threshold(&self) -> u32 {
        assert!((0.0..1.0).contains(&self.p), "dropout: p = {} is not in [0, 1)", self.p);
        (self.p as f64 * 4_294_967_296.0) as u32
    }
}

/// `out_i = x_i · factor_i`.
pub fn dropout(x: &[f32], mask: Dropout, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "dropout: lengths");
    mask.threshold();
    let path = cpu::path();
    pool::for_each_chunk(out, CHUNK, |i, out| {
        let (start, x) = (i * CHUNK, &x[i * CHUNK..]);
        on_path!(path, forward_chunk(x: &[f32], mask: Dropout, start: usize, out: &mut [f32]));
    });
}

/// `dx_i = dy_i · factor_i`, or added to what is there.
pub fn dropout_backward(dy: &[f32], mask: Dropout, dx: &mut [f32], write: Write) {
    if write == Write::Overwrite {
        return dropout(dy, mask, dx);
    }
    assert_eq!(dy.len(), dx.len(), "dropout backward: lengths");
    mask.threshold();
    let path = cpu::path();
    pool::for_each_chunk(dx, CHUNK, |i, dx| {
        let (start, dy) = (i * CHUNK, &dy[i * CHUNK..]);
        on_path!(path, backward_chunk(dy: &[f32], mask: Dropout, start: usize, dx: &mut [f32]));
    });
}

// The two bodies are plain loops: compiled with a path's features they become that path's vectors.

#[inline(always)]
unsafe fn forward_chunk<S: Simd>(x: &[f32], mask: Dropout, start: usize, out: &mut [f32]) {
    mask.factors(start as u64, out);
    out.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
}

#[inline(always)]
unsafe fn backward_chunk<S: Simd>(dy: &[f32], mask: Dropout, start: usize, dx: &mut [f32]) {
    let mut factors = [0.0; 256];
    for (i, (dx, dy)) in dx.chunks_mut(256).zip(dy.chunks(256)).enumerate() {
        mask.factors((start + i * 256) as u64, &mut factors[..dx.len()]);
        for ((dx, dy), factor) in dx.iter_mut().zip(dy).zip(&factors) {
            *dx += dy * factor;
        }
    }
}

/// splitmix64's finaliser.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Two rounds of a 32-bit finaliser (Wellons' lowbias32), a key word before each.
#[inline(always)]
fn hash(i: u32, a: u32, b: u32) -> u32 {
    let mut x = i ^ a;
    for key in [0, b] {
        x ^= key;
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_path, numbers};

    fn mask(p: f32, seed: u64, stream: u64, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        dropout(&vec![1.0; n], Dropout { p, seed, stream }, &mut out);
        out
    }

    #[test]
    fn the_share_that_is_kept_is_one_minus_p_and_the_mean_stays() {
        let n = 1 << 20;
        for p in [0.1, 0.5, 0.9] {
            let m = mask(p, 7, 3, n);
            let kept = m.iter().filter(|&&v| v != 0.0).count() as f64 / n as f64;
            assert!((kept - (1.0 - p as f64)).abs() < 3e-3, "{p}: {kept}");
            assert!(m.iter().all(|&v| v == 0.0 || v == 1.0 / (1.0 - p)));
        }
        assert!(mask(0.0, 1, 1, 1000).iter().all(|&v| v == 1.0));
    }

    #[test]
    fn masks_of_other_seeds_streams_and_neighbours_are_independent() {
        let n = 1 << 18;
        let base = mask(0.5, 1, 1, n);
        let shifted: Vec<f32> = base[1..].iter().chain(&base[..1]).copied().collect();
        for other in [mask(0.5, 2, 1, n), mask(0.5, 1, 2, n), shifted] {
            let same = base.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / n as f64;
            assert!((same - 0.5).abs() < 5e-3, "{same}");
        }
    }

    #[test]
    fn every_path_and_the_backward_call_draw_the_same_mask() {
        let n = 3 * CHUNK + 77;
        let want = mask(0.3, 11, 5, n);
        each_path(|| {
            assert_eq!(mask(0.3, 11, 5, n), want);
            let dy = numbers(n, 1);
            let mut dx = vec![0.0; n];
            dropout_backward(&dy, Dropout { p: 0.3, seed: 11, stream: 5 }, &mut dx, Write::Add);
            assert!((0..n).all(|i| dx[i] == dy[i] * want[i]));
        });
    }

    #[test]
    fn element_numbers_beyond_32_bits_have_their_own_factors() {
        let d = Dropout { p: 0.5, seed: 1, stream: 2 };
        let first = (1u64 << 32) - 100;
        let mut across = vec![0.0; 1000];
        d.factors(first, &mut across);
        let mut after = vec![0.0; 900];
        d.factors(1 << 32, &mut after);
        assert_eq!(across[100..], after);
        let mut start = vec![0.0; 900];
        d.factors(0, &mut start);
        assert_ne!(start, after);
    }

    #[test]
    #[should_panic(expected = "is not in [0, 1)")]
    fn dropping_everything_is_refused() {
        mask(1.0, 1, 1, 8);
    }
}
