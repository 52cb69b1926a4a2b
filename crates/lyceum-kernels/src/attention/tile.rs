//! The products inside attention: tiles of rows held in registers.
//!
//! Every number is one chain of multiply-adds in the order of the summed index, so that its bits depend
//! neither on the tile it falls into nor on the rows beside it.

use crate::cpu::CpuPath;
use crate::elementwise::Write;
use crate::row::{before, load, store};
use crate::simd::{Portable, Simd, on_path};
use std::any::TypeId;
use std::ops::Range;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Columns of a panel on the widest path.
pub(super) const PANEL_WIDTH_MAX: usize = 32;

/// Columns of a panel: two vectors.
pub(super) const fn panel_width<S: Simd>() -> usize {
    2 * S::LANES
}

/// Rows `0..n` of a matrix with rows of `d` floats `row` apart become a panel `[d][panel_width]`: column `j`
/// is row `j`, zero from `n` on.
///
/// # Safety
/// The processor has the path `S`; `n` such rows are readable and `d * panel_width` floats writable.
#[inline(always)]
pub(super) unsafe fn pack_panel<S: Simd>(from: *const f32, row: usize, n: usize, d: usize, to: *mut f32) {
    let width = panel_width::<S>();
    // SAFETY: the caller's; blocks of eight stay inside both.
    unsafe {
        let n = n.min(width);
        let (mut d8, mut n8) = (0, 0);
        if TypeId::of::<S>() != TypeId::of::<Portable>() {
            (d8, n8) = (d / 8 * 8, n / 8 * 8);
            for j in (0..n8).step_by(8) {
                for c in (0..d8).step_by(8) {
                    transpose8(from.add(j * row + c), row, to.add(c * width + j), width);
                }
            }
        }
        for c in 0..d {
            for j in if c < d8 { n8 } else { 0 }..width {
                *to.add(c * width + j) = if j < n { *from.add(j * row + c) } else { 0.0 };
            }
        }
    }
}

/// `to[c][j] = from[j][c]` for eight by eight floats.
///
/// # Safety
/// The processor has AVX2; eight rows of eight floats are there on both sides.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn transpose8(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    use std::arch::x86_64::*;
    // SAFETY: only reached on paths with AVX2; the caller gives eight rows of eight on both sides.
    unsafe {
        // Rows `i` and `i + 4` side by side: first their lower four floats each, then their upper four.
        // Loops, not closures: a closure would be compiled without the path's features.
        let mut halves = [[_mm256_setzero_ps(); 4]; 2];
        for i in 0..4 {
            let a = _mm256_loadu_ps(from.add(i * from_row));
            let b = _mm256_loadu_ps(from.add((i + 4) * from_row));
            halves[0][i] = _mm256_permute2f128_ps::<0x20>(a, b);
            halves[1][i] = _mm256_permute2f128_ps::<0x31>(a, b);
        }
        for (i, [a, b, c, d]) in halves.into_iter().enumerate() {
            let to = to.add(4 * i * to_row);
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
            _mm256_storeu_ps(to.add(to_row), _mm256_shuffle_ps::<0xee>(ab_low, cd_low));
            _mm256_storeu_ps(to.add(2 * to_row), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
            _mm256_storeu_ps(to.add(3 * to_row), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn transpose8(_: *const f32, _: usize, _: *mut f32, _: usize) {
    unreachable!("only the portable path exists here: bug")
}

/// One panel of scores: `out[r] = scale · a[r] · panel` for rows of `d` floats.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    pub a: *const f32,
    pub a_row: usize,
    pub d: usize,
    pub panel: *const f32,
    /// From one of its `d` rows to the next.
    pub panel_row: usize,
    pub scale: f32,
    pub out: *mut f32,
    pub out_row: usize,
}

// The two products are compiled once per path and called, not inlined into every kernel: a call is nothing
// beside a tile, and tiles of all heights inlined everywhere would take minutes to compile.

/// Computes `m <= ROWS` rows.
///
/// # Safety
/// The processor has `path`; rows, panel and outputs are valid.
pub(super) unsafe fn score_panel(path: CpuPath, scores: &Scores, m: usize) {
    on_path!(path, scores_body(scores: &Scores, m: usize));
}

/// Computes `m <= ROWS` rows.
///
/// # Safety
/// The processor has `path`; the matrices are valid for `m` rows.
pub(super) unsafe fn product(path: CpuPath, product: &Product, m: usize) {
    on_path!(path, product_body(product: &Product, m: usize));
}

#[inline(always)]
unsafe fn scores_body<S: Simd>(scores: &Scores, m: usize) {
    // SAFETY: the caller's.
    unsafe {
        match m {
            1 => score_rows::<S, 1>(scores),
            2 => score_rows::<S, 2>(scores),
            3 => score_rows::<S, 3>(scores),
            4 => score_rows::<S, 4>(scores),
            5 => score_rows::<S, 5>(scores),
            _ => score_rows::<S, ROWS>(scores),
        }
    }
}

#[inline(always)]
unsafe fn product_body<S: Simd>(product: &Product, m: usize) {
    // SAFETY: the caller's.
    unsafe {
        match m {
            1 => product.rows::<S, 1>(),
            2 => product.rows::<S, 2>(),
            3 => product.rows::<S, 3>(),
            4 => product.rows::<S, 4>(),
            5 => product.rows::<S, 5>(),
            _ => product.rows::<S, ROWS>(),
        }
    }
}

#[inline(always)]
unsafe fn score_rows<S: Simd, const M: usize>(scores: &Scores) {
    let Scores { a, a_row, d, panel, panel_row, scale, out, out_row } = *scores;
    // SAFETY: the caller of `score_panel`.
    unsafe {
        let mut acc = [[S::zero(); 2]; M];
        for c in 0..d {
            let b = panel.add(c * panel_row);
            let (b0, b1) = (S::load(b), S::load(b.add(S::LANES)));
            for r in 0..M {
                let x = S::splat(*a.add(r * a_row + c));
                acc[r][0] = S::fma(x, b0, acc[r][0]);
                acc[r][1] = S::fma(x, b1, acc[r][1]);
            }
        }
        let scale = S::splat(scale);
        for r in 0..M {
            S::store(out.add(r * out_row), S::mul(acc[r][0], scale));
            S::store(out.add(r * out_row + S::LANES), S::mul(acc[r][1], scale));
        }
    }
}

/// Which terms of the sum each row of a tile has. Neither end ever falls from one row to the next.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub starts: [usize; ROWS],
    pub ends: [usize; ROWS],
}

impl Terms {
    /// The first `n` for every row.
    pub(super) fn first(n: usize) -> Terms {
        Terms { starts: [0; ROWS], ends: [n; ROWS] }
    }

    /// Those in `range`, counted from its start.
    #[inline(always)]
    pub(super) fn within(&self, range: Range<usize>) -> Terms {
        let at = |x: usize| x.clamp(range.start, range.end) - range.start;
        Terms { starts: self.starts.map(at), ends: self.ends.map(at) }
    }

    /// Whether no row of the first `m` has any.
    #[inline(always)]
    pub(super) fn is_empty(&self, m: usize) -> bool {
        (0..m).all(|r| self.of(r).is_empty())
    }

    #[inline(always)]
    pub(super) fn of(&self, r: usize) -> Range<usize> {
        self.starts[r]..self.ends[r]
    }
}

/// A product of up to [`ROWS`] rows: `out[r] = base + factor[r] · Σ_{k in terms[r]} a[r, k] · b[k]`, where the
/// base is what is there or zero.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Element `(r, k)` of `a` lies at `r * a_row + k * a_k`.
    pub a: *const f32,
    pub a_row: usize,
    pub a_k: usize,
    /// Rows of `cols` floats.
    pub b: *const f32,
    pub b_row: usize,
    pub cols: usize,
    pub out: *mut f32,
    pub out_row: usize,
    pub write: Write,
    /// The sum goes on from what is there: the same chain as one product over all terms.
    pub goes_on: bool,
    pub terms: Terms,
    pub factors: [f32; ROWS],
}

impl Product {
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(&self) {
        // SAFETY: the caller of `product`; a tail reads and writes only what is left of the row.
        unsafe {
            let mut c = 0;
            // Accumulators and the vectors of a term within 32 registers, or 16.
            if M <= 2 || S::LANES == 16 {
                while c + 4 * S::LANES <= self.cols {
                    self.columns::<S, M, 4>(c, S::LANES);
                    c += 4 * S::LANES;
                }
            }
            while c + 2 * S::LANES <= self.cols {
                self.columns::<S, M, 2>(c, S::LANES);
                c += 2 * S::LANES;
            }
            while c < self.cols {
                self.columns::<S, M, 1>(c, self.cols - c);
                c += S::LANES;
            }
        }
    }

    /// Terms that some rows have and others have not.
    #[inline(always)]
    unsafe fn ragged<S: Simd, const M: usize, const N: usize>(
        &self,
        b: *const f32,
        terms: Range<usize>,
        last: usize,
        acc: &mut [[S::V; N]; M],
    ) {
        for k in terms {
            // SAFETY: the caller of `product`.
            unsafe {
                let b = vectors::<S, N>(b.add(k * self.b_row), last);
                for r in 0..M {
                    if self.terms.of(r).contains(&k) {
                        let x = S::splat(*self.a.add(r * self.a_row + k * self.a_k));
                        for n in 0..N {
                            acc[r][n] = S::fma(x, b[n], acc[r][n]);
                        }
                    }
                }
            }
        }
    }

    /// Columns `c..` in `N` vectors; the last vector has `min(last, LANES)` columns.
    #[inline(always)]
    unsafe fn columns<S: Simd, const M: usize, const N: usize>(&self, c: usize, last: usize) {
        // SAFETY: the caller of `product`.
        unsafe {
            let mut acc = [[S::zero(); N]; M];
            for r in 0..if self.goes_on { M } else { 0 } {
                acc[r] = vectors::<S, N>(self.out.add(r * self.out_row + c), last);
            }
            let b = self.b.add(c);
            // What all rows have in common, between two ragged ends (under a causal mask or a window small
            // triangles). A row never meets a term that is not its own, not even times zero: what lies there
            // may be infinite.
            let (first, last_end) = (self.terms.starts[0], self.terms.ends[M - 1]);
            let common = self.terms.starts[M - 1].min(last_end);
            let common_end = self.terms.ends[0].max(common);
            self.ragged::<S, M, N>(b, first..common, last, &mut acc);
            for k in common..common_end {
                let b = vectors::<S, N>(b.add(k * self.b_row), last);
                for r in 0..M {
                    let x = S::splat(*self.a.add(r * self.a_row + k * self.a_k));
                    for n in 0..N {
                        acc[r][n] = S::fma(x, b[n], acc[r][n]);
                    }
                }
            }
            self.ragged::<S, M, N>(b, common_end..last_end, last, &mut acc);
            for r in 0..M {
                let factor = S::splat(self.factors[r]);
                for n in 0..N {
                    let out = self.out.add(r * self.out_row + c + n * S::LANES);
                    let left = if n + 1 == N { last } else { S::LANES };
                    let base = before::<S>(out, left, self.write);
                    store::<S>(out, S::fma(acc[r][n], factor, base), left);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn vectors<S: Simd, const N: usize>(p: *const f32, last: usize) -> [S::V; N] {
    // SAFETY: the caller of `product`.
    unsafe {
        let mut v = [S::zero(); N];
        for n in 0..N {
            let left = if n + 1 == N { last } else { S::LANES };
            v[n] = load::<S>(p.add(n * S::LANES), left);
        }
        v
    }
}
