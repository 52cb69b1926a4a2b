//! The register tile: `MR` rows times `NV` vectors, one chain of multiply-adds per number in the order of `k`,
//! whatever `MR` is, so that a row's bits do not depend on its neighbours.

use crate::simd::Simd;

/// `acc[r][v] += Σ_k a[r·lda + k] · w[k][v]`.
///
/// # Safety
/// The processor has the path `S`; `a` has `MR` rows of `k` floats at stride `lda`, `w` has `k · NV` vectors.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const MR: usize, const NV: usize>(
    acc: &mut [[S::V; NV]; MR],
    a: *const f32,
    lda: usize,
    k: usize,
    w: *const f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = *acc;
        let mut w = w;
        for i in 0..k {
            // The smaller side waits in registers: 3 × 4 and 6 × 2 sums leave only four of the sixteen.
            if MR < NV {
                let mut xs = [S::splat(0.0); MR];
                for r in 0..MR {
                    xs[r] = S::splat(*a.add(r * lda + i));
                }
                for v in 0..NV {
                    let weight = S::load(w.add(v * S::LANES));
                    for r in 0..MR {
                        sum[r][v] = S::fma(xs[r], weight, sum[r][v]);
                    }
                }
            } else {
                let mut weights = [S::splat(0.0); NV];
                for v in 0..NV {
                    weights[v] = S::load(w.add(v * S::LANES));
                }
                for r in 0..MR {
                    let x = S::splat(*a.add(r * lda + i));
                    for v in 0..NV {
                        sum[r][v] = S::fma(x, weights[v], sum[r][v]);
                    }
                }
            }
            w = w.add(NV * S::LANES);
        }
        *acc = sum;
    }
}

/// Covers `rows` rows by tiles: `$f::<S, MR>(args, panel, first row)` with `MR` from the widest that the registers
/// hold (twice as many on 32 registers) down to 1.
macro_rules! row_tiles {
    ($S:ident, $rows:expr, $f:ident, [$wide:literal, $($narrow:literal),+], ($args:expr, $panel:expr)) => {{
        let rows = $rows;
        let mut row = 0;
        if $S::LANES == 16 {
            while rows - row >= $wide {
                $f::<$S, $wide>($args, $panel, row);
                row += $wide;
            }
        }
        $(while rows - row >= $narrow {
            $f::<$S, $narrow>($args, $panel, row);
            row += $narrow;
        })+
    }};
}
pub(super) use row_tiles;
