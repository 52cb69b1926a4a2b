//! What a query has heard from blocks of keys, and how blocks are put together.
//!
//! A block says `m = max s`, `l = Σ exp(s − m)` and `o = Σ exp(s − m)·v`. Two are one by
//! `m = max(m₁, m₂)`, `l = l₁·exp(m₁ − m) + l₂·exp(m₂ − m)`, the same for `o`; at the end `o / l`.

use super::tile::{ROWS, Terms};
use crate::row::{load, max, store};
use crate::simd::Simd;
use crate::softmax::exp_row;

use super::BLOCK;

/// Rows of `d` floats, `row` apart.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub rows: *mut f32,
    pub row: usize,
    pub d: usize,
}

/// Highest scores and sums of a tile's queries; a query that has heard nothing has sum 0.
#[derive(Clone, Copy)]
pub(super) struct Gathered {
    pub top: [f32; ROWS],
    pub sum: [f32; ROWS],
}

impl Gathered {
    pub(super) const NOTHING: Gathered = Gathered { top: [f32::NEG_INFINITY; ROWS], sum: [0.0; ROWS] };

    /// Scores (rows of [`BLOCK`]) become exponentials.
    ///
    /// # Safety
    /// The processor has the path `S`.
    #[inline(always)]
    pub(super) unsafe fn softmax<S: Simd>(scores: &mut [f32], terms: &Terms, m: usize) -> Gathered {
        let mut heard = Gathered::NOTHING;
        for r in 0..m {
            let row = &mut scores[r * BLOCK..][terms.of(r)];
            // SAFETY: the caller's.
            unsafe {
                heard.top[r] = max::<S>(row);
                heard.sum[r] = exp_row::<S>(row.as_ptr(), row.len(), heard.top[r], row.as_mut_ptr());
            }
        }
        heard
    }

    /// Adds what the next block said.
    ///
    /// # Safety
    /// The processor has the path `S`; both tiles have `m` rows.
    #[inline(always)]
    pub(super) unsafe fn add<S: Simd>(&mut self, out: Tile, heard: &Gathered, said: Tile, m: usize) {
        for r in 0..m {
            let mut whole = [self.top[r], self.sum[r]];
            // SAFETY: the caller's.
            unsafe {
                let (out_row, said_row) = (out.rows.add(r * out.row), said.rows.add(r * said.row));
                join::<S>(&mut whole, out_row, [heard.top[r], heard.sum[r]], said_row, out.d);
            }
            [self.top[r], self.sum[r]] = whole;
        }
    }
}

/// One query's `[m, l]` and `o` (`d` floats) with those of the next block.
///
/// # Safety
/// The processor has the path `S`; both rows have `d` floats.
#[inline(always)]
pub(super) unsafe fn join<S: Simd>(
    whole: &mut [f32; 2],
    out: *mut f32,
    [top, sum]: [f32; 2],
    said: *const f32,
    d: usize,
) {
    if sum == 0.0 {
        return;
    }
    if whole[1] == 0.0 {
        *whole = [top, sum];
        // SAFETY: the caller's; the rows are apart.
        unsafe { std::ptr::copy_nonoverlapping(said, out, d) };
        return;
    }
    let highest = if whole[0] > top { whole[0] } else { top };
    let (before, now) = ((whole[0] - highest).exp(), (top - highest).exp());
    *whole = [highest, whole[1] * before + sum * now];
    // SAFETY: the caller's.
    unsafe {
        let (before, now) = (S::splat(before), S::splat(now));
        let mut i = 0;
        while i < d {
            let n = d - i;
            let kept = S::mul(load::<S>(out.add(i), n), before);
            store::<S>(out.add(i), S::fma(load::<S>(said.add(i), n), now, kept), n);
            i += S::LANES;
        }
    }
}

/// `to = o / l`, zeros where nothing was heard.
///
/// # Safety
/// The processor has the path `S`; both rows have `d` floats.
#[inline(always)]
pub(super) unsafe fn divide<S: Simd>(o: *const f32, sum: f32, to: *mut f32, d: usize) {
    // SAFETY: the caller's.
    unsafe {
        let inverse = S::splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
        let mut i = 0;
        while i < d {
            store::<S>(to.add(i), S::mul(load::<S>(o.add(i), d - i), inverse), d - i);
            i += S::LANES;
        }
    }
}

impl Tile {
    /// Zeros in the first `m` rows.
    ///
    /// # Safety
    /// It has `m` rows.
    #[inline(always)]
    pub(super) unsafe fn clear(self, m: usize) {
        for r in 0..m {
            // SAFETY: the caller's.
            unsafe { std::slice::from_raw_parts_mut(self.rows.add(r * self.row), self.d).fill(0.0) };
        }
    }

    /// The values of `m` rows over their sums.
    ///
    /// # Safety
    /// The processor has the path `S`; it has `m` rows.
    #[inline(always)]
    pub(super) unsafe fn divide<S: Simd>(self, gathered: &Gathered, m: usize) {
        for r in 0..m {
            // SAFETY: the caller's.
            unsafe {
                let row = self.rows.add(r * self.row);
                divide::<S>(row, gathered.sum[r], row, self.d);
            }
        }
    }
}
