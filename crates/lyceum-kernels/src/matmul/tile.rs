//! The innermost loops: one tile of the result, kept in registers over a stretch of `k`.
//!
//! ```text
//!                 b: panels of 16 columns, one word per column at each step
//!                 ┌────────────────┬────────────────┐
//! a: R words      │ V vectors      │                │
//! at each step ─► │ R × V accumulators              │
//!                 └────────────────┴────────────────┘
//! ```
//! A word is one f32, or two bf16 that follow each other along `k`. Every number of the result is one chain
//! of fused multiply-adds over `k` in rising order, started at zero or at what `c` holds, in every tile
//! shape: that is why a row's bits do not depend on the rows beside it.

use super::Precision;
#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
use crate::amx::Session;
use crate::cpu::CpuPath;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd};

/// Columns of a panel of `b`, on every path.
pub(super) const PANEL: usize = 16;
/// No path has a taller tile.
pub(super) const MR_MAX: usize = 32;

/// What a tile's sums start from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    /// The numbers that `c` holds.
    Output,
}

/// One tile's work. Steps and strides are in words (`a`, `b`) and numbers (`c`).
pub(super) struct Tile {
    pub k: usize,
    pub a: *const f32,
    /// From one word along `k` to the next; the tile's rows lie side by side. Where they are packed that is how many.
    pub a_step: usize,
    pub b: *const f32,
    pub b_step: usize,
    /// From a panel to the next.
    pub b_panel: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// Columns to store, at most those of the tile.
    pub cols: usize,
    pub start: Start,
}

pub(super) type TileFn = unsafe fn(&Tile);

/// The tiles of one path and precision.
pub(super) struct Tiles {
    /// Rows of the tallest tile.
    pub mr: usize,
    /// By rows − 1: the panels a tile spans, and its function.
    wide: [(usize, TileFn); MR_MAX],
    /// By rows − 1: tiles that span one panel.
    narrow: [TileFn; MR_MAX],
    /// Whether they are a processor's own, and the left operand lies in lines ([`super::amx`]).
    #[cfg(target_arch = "x86_64")]
    pub is_amx: bool,
}

impl Tiles {
    /// Tiles of exact products.
    pub fn f32(path: CpuPath) -> &'static Tiles {
        match path {
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512 | CpuPath::Amx => &F32_AVX512,
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx2 => &F32_AVX2,
            _ => &F32_PORTABLE,
        }
    }

    /// Tiles whose words are pairs of bf16; only where [`crate::cpu::has_bf16`].
    #[cfg(target_arch = "x86_64")]
    pub fn bf16_pairs() -> &'static Tiles {
        &BF16_AVX512
    }

    /// Tiles of bf16 that are the processor's own; only on [`CpuPath::Amx`].
    #[cfg(target_arch = "x86_64")]
    pub fn bf16_amx() -> &'static Tiles {
        static TILES: Tiles = Tiles {
            mr: amx::MR,
            wide: [(2, amx::tile::<2>); MR_MAX],
            narrow: [amx::tile::<1>; MR_MAX],
            is_amx: true,
        };
        &TILES
    }

    /// Lays this thread's tiles out, where it has some, for panels of `rows` rows until the session ends.
    ///
    /// # Safety
    /// The processor has the tiles; the thread has no session.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn begin(&self, rows: usize) -> Option<Session> {
        // SAFETY: the caller's.
        self.is_amx.then(|| unsafe { amx::layout(rows).begin() })
    }

    /// Panels that a tile of `rows` rows spans.
    pub fn panels(&self, rows: usize) -> usize {
        self.wide[rows - 1].0
    }

    /// The tile of `rows` rows over `panels` panels: [`Tiles::panels`] of them, or one.
    pub fn tile(&self, rows: usize, panels: usize) -> TileFn {
        let (wide, tile) = self.wide[rows - 1];
        if panels == wide {
            return tile;
        }
        assert_eq!(panels, 1, "a tile spans {wide} panels or one: bug");
        self.narrow[rows - 1]
    }
}

/// One step of a chain: `acc + a · b`, word by word.
trait Step<S: Simd> {
    /// # Safety
    /// The processor has the path `S`, and the instruction of the step.
    unsafe fn step(a: S::V, b: S::V, acc: S::V) -> S::V;
}

struct Fma;
impl<S: Simd> Step<S> for Fma {
    #[inline(always)]
    unsafe fn step(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller has the path.
        unsafe { S::fma(a, b, acc) }
    }
}

#[cfg(target_arch = "x86_64")]
struct Pairs;
#[cfg(target_arch = "x86_64")]
impl Step<Avx512> for Pairs {
    #[inline(always)]
    unsafe fn step(
        a: <Avx512 as Simd>::V,
        b: <Avx512 as Simd>::V,
        acc: <Avx512 as Simd>::V,
    ) -> <Avx512 as Simd>::V {
        use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
        use std::mem::transmute;
        // SAFETY: the caller has AVX512_BF16; both types are 512 bits.
        unsafe {
            let (a, b) = (transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b));
            _mm512_dpbf16_ps(acc, a, b)
        }
    }
}

/// A tile of `R` rows and `V` vectors of columns.
///
/// # Safety
/// The processor has the step; the tile's pointers are good for what its fields say.
#[inline(always)]
unsafe fn tile<S: Simd, T: Step<S>, const R: usize, const V: usize>(t: &Tile) {
    let per_panel = PANEL / S::LANES;
    // SAFETY: the caller upholds it.
    unsafe {
        let column = |v: usize| v / per_panel * t.b_panel + v % per_panel * S::LANES;
        let full = t.cols == V * S::LANES;
        let mut acc = [[S::zero(); V]; R];
        if t.start == Start::Output {
            for (i, row) in acc.iter_mut().enumerate() {
                let c = t.c.add(i * t.c_row);
                for (v, x) in row.iter_mut().enumerate() {
                    let at = v * S::LANES;
                    if full || at + S::LANES <= t.cols {
                        *x = S::load(c.add(at));
                    } else if at < t.cols {
                        *x = S::load_part(c.add(at), t.cols - at);
                    }
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        macro_rules! step {
            () => {
                let mut y = [S::zero(); V];
                for v in 0..V {
                    y[v] = S::load(b.add(column(v)));
                }
                for i in 0..R {
                    let x = S::splat(*a.add(i));
                    for v in 0..V {
                        acc[i][v] = T::step(x, y[v], acc[i][v]);
                    }
                }
                a = a.wrapping_add(t.a_step);
                b = b.wrapping_add(t.b_step);
            };
        }
        for _ in 0..t.k / 4 {
            step!();
            step!();
            step!();
            step!();
        }
        for _ in 0..t.k % 4 {
            step!();
        }
        for (i, row) in acc.iter().enumerate() {
            let c = t.c.add(i * t.c_row);
            for (v, &x) in row.iter().enumerate() {
                let at = v * S::LANES;
                if full || at + S::LANES <= t.cols {
                    S::store(c.add(at), x);
                } else if at < t.cols {
                    S::store_part(c.add(at), x, t.cols - at);
                }
            }
        }
    }
}

unsafe fn portable<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the caller upholds the tile's contract; this path needs no features.
    unsafe { tile::<Portable, Fma, R, V>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the caller upholds the tile's contract; the features are enabled here.
    unsafe { tile::<Avx2, Fma, R, V>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: as above.
    unsafe { tile::<Avx512, Fma, R, V>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512_bf16<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: as above.
    unsafe { tile::<Avx512, Pairs, R, V>(t) }
}

/// For each height: the panels spanned, and the functions over that many and over one. Heights that a path
/// has not repeat its tallest and are never asked for.
macro_rules! tiles {
    ($f:ident, per_panel $pp:literal, [$($r:literal x $p:literal),*]) => {{
        let rows = [$($r),*];
        let wide: &[(usize, TileFn)] = &[$(($p, $f::<$r, { $p * $pp }>)),*];
        let narrow: &[TileFn] = &[$($f::<$r, $pp>),*];
        let mut table = Tiles {
            mr: rows.len(),
            wide: [wide[0]; MR_MAX],
            narrow: [narrow[0]; MR_MAX],
            #[cfg(target_arch = "x86_64")]
            is_amx: false,
        };
        let mut i = 0;
        while i < rows.len() {
            assert!(rows[i] == i + 1);
            table.wide[i] = wide[i];
            table.narrow[i] = narrow[i];
            i += 1;
        }
        table
    }};
}

// At least eight chains where the panels allow it (a multiply-add takes four cycles, two start in each), and
// accumulators, a step's `b` and one broadcast within the registers: 16 of AVX2, 32 of AVX-512.
static F32_PORTABLE: Tiles = tiles!(portable, per_panel 2, [1 x 1, 2 x 1, 3 x 1, 4 x 1]);
#[cfg(target_arch = "x86_64")]
static F32_AVX2: Tiles = tiles!(avx2, per_panel 2, [1 x 4, 2 x 2, 3 x 1, 4 x 1, 5 x 1, 6 x 1]);
#[cfg(target_arch = "x86_64")]
static F32_AVX512: Tiles = tiles!(avx512, per_panel 1,
    [1 x 8, 2 x 4, 3 x 4, 4 x 4, 5 x 4, 6 x 4, 7 x 3, 8 x 3, 9 x 2, 10 x 2, 11 x 2, 12 x 2]);
#[cfg(target_arch = "x86_64")]
static BF16_AVX512: Tiles = tiles!(avx512_bf16, per_panel 1,
    [1 x 8, 2 x 4, 3 x 4, 4 x 4, 5 x 4, 6 x 4, 7 x 3, 8 x 3, 9 x 2, 10 x 2, 11 x 2, 12 x 2]);

/// Steps and a number in, a number out that depends on every step.
pub(super) type PeakFn = unsafe fn(usize, f32) -> f32;

/// The numbers a step multiplies per vector, and the loop of [`super::peak`].
pub(super) fn peak_of(path: CpuPath, precision: Precision) -> (usize, PeakFn) {
    match (path, precision) {
        #[cfg(target_arch = "x86_64")]
        (CpuPath::Amx, Precision::Bf16) => (16 * 16 * 32, amx::peak),
        #[cfg(target_arch = "x86_64")]
        (CpuPath::Avx512, Precision::Bf16) if crate::cpu::has_bf16() => (32, peak_avx512_bf16),
        #[cfg(target_arch = "x86_64")]
        (CpuPath::Avx512 | CpuPath::Amx, _) => (16, peak_avx512),
        #[cfg(target_arch = "x86_64")]
        (CpuPath::Avx2, _) => (8, peak_avx2),
        _ => (8, peak_portable),
    }
}

#[inline(always)]
unsafe fn chains<S: Simd, T: Step<S>>(steps: usize, x: f32) -> f32 {
    // SAFETY: the caller has the step.
    unsafe {
        let mut acc = [S::splat(x); 12];
        let (a, b) = (S::splat(x), S::splat(-x));
        for _ in 0..steps {
            for acc in &mut acc {
                *acc = T::step(a, b, *acc);
            }
        }
        let mut sum = S::zero();
        for acc in acc {
            sum = S::add(sum, acc);
        }
        S::reduce_add(sum)
    }
}

unsafe fn peak_portable(steps: usize, x: f32) -> f32 {
    // SAFETY: this path needs no features.
    unsafe { chains::<Portable, Fma>(steps, x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn peak_avx2(steps: usize, x: f32) -> f32 {
    // SAFETY: the features are enabled here.
    unsafe { chains::<Avx2, Fma>(steps, x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn peak_avx512(steps: usize, x: f32) -> f32 {
    // SAFETY: as above.
    unsafe { chains::<Avx512, Fma>(steps, x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn peak_avx512_bf16(steps: usize, x: f32) -> f32 {
    // SAFETY: as above.
    unsafe { chains::<Avx512, Pairs>(steps, x) }
}
