//! Blocks of a weight opened to bf16: each number once rounded to f32 where the block says a product and a sum, then to
//! bf16, two of them in a lane as weights of bf16 lie.

use super::AHEAD;
use crate::amx;
use crate::simd::prefetch;
use crate::stored::engine::Opened;
use crate::stored::formats::{self, GROUP, Small, Super};
use crate::stored::kind::Stored;
use crate::stored::lanes::Lanes;
use crate::stored::lanes_x86::Avx512Vnni as L;
use crate::stored::opened::{Opening, Pair};
use std::arch::x86_64::{
    __m512, __m512i, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srai_epi32, _mm512_srli_epi32,
    _mm512_storeu_si512, _mm512_sub_ps,
};

/// How a type is opened; None: it is no type of blocks with a tile.
pub(in crate::stored) fn opened(kind: Stored) -> Option<&'static Opened> {
    macro_rules! of {
        ($open:ident, $kind:ident) => {{
            #[target_feature(
                enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
            )]
            unsafe fn open(opening: &Opening) {
                // SAFETY: the caller's; the features are enabled here.
                unsafe { $open::<formats::$kind>(opening) }
            }
            static OPENED: Opened = Opened { open, head: 0, body: GROUP, tiles: &super::BF16 };
            Some(&OPENED)
        }};
    }
    match kind {
        Stored::Q4_0 => of!(open_small, Q4_0),
        Stored::Q4_1 => of!(open_small, Q4_1),
        Stored::Q5_0 => of!(open_small, Q5_0),
        Stored::Q5_1 => of!(open_small, Q5_1),
        Stored::Q8_0 => of!(open_small, Q8_0),
        Stored::Q4K => of!(open_super, Q4K),
        Stored::Q5K => of!(open_super, Q5K),
        Stored::Q6K => of!(open_super, Q6K),
        Stored::F32 | Stored::F16 | Stored::Bf16 | Stored::Q2K | Stored::Q3K => None,
    }
}

/// Groups of four numbers in a block of 32, and of 256.
const SMALL: usize = 8;
const LARGE: usize = 64;

/// A tile of a block: where its head and body are, where it goes, and from two numbers to the next two there.
struct Place {
    head: *const u8,
    body: *const u8,
    to: *mut u8,
    step: usize,
}

/// The `i`-th of all tiles, of blocks of `groups` groups, whose heads and bodies have these bytes; what comes after it
/// is asked for.
#[inline(always)]
fn place(opening: &Opening, i: usize, sizes: [usize; 2], groups: usize) -> Place {
    let Pair { from: [head, body], .. } = opening.pair(i, sizes, [0, 0]);
    for line in (0..sizes[0] + sizes[1]).step_by(64) {
        prefetch(body.wrapping_add(AHEAD + line).cast());
    }
    let (block, tile) = (i / opening.n_tiles, i % opening.n_tiles);
    let step = opening.n_tiles * GROUP;
    Place { head, body, to: opening.to.wrapping_add(2 * groups * block * step + tile * GROUP), step }
}

#[inline(always)]
unsafe fn open_small<F: Small>(opening: &Opening) {
    // SAFETY: the caller's: the blocks are there, and room for what they become.
    unsafe {
        let order = amx::pair_order();
        for i in 0..opening.n_blocks * opening.n_tiles {
            let Place { head, body, to, step } = place(opening, i, [F::HEAD, F::BODY], SMALL);
            let d = F::scale::<L>(head, 0);
            let least =
                if F::LEAST { F::least::<L>(head, 0) } else { _mm512_mul_ps(d, _mm512_set1_ps(-F::ZERO)) };
            for pair in 0..SMALL / 2 {
                let (first, second) = F::pair::<L>(body, pair, 0);
                group(first, (d, least), order, to.add(4 * pair * step), step);
                group(second, (d, least), order, to.add((4 * pair + 2) * step), step);
            }
        }
    }
}

#[inline(always)]
unsafe fn open_super<F: Super>(opening: &Opening) {
    // SAFETY: as above.
    unsafe {
        let order = amx::pair_order();
        for i in 0..opening.n_blocks * opening.n_tiles {
            let Place { head, body, to, step } = place(opening, i, [F::HEAD, F::BODY], LARGE);
            let d = F::least::<L>(head, 0);
            let mut four = L::splat(0);
            for part in 0..256 / F::PART {
                if part % 4 == 0 {
                    four = F::quad::<L>(body, part / 4, 0);
                }
                let factor = F::factor::<L>(&mut four, head, part, 0);
                // Parts 0 and 2 of four stand in the halves of a word, then 1 and 3.
                let word = F::constant::<L>(body, part / 4 * 2 + part % 2, 0);
                let constant = if part % 4 < 2 {
                    _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(word))
                } else {
                    _mm512_srai_epi32::<16>(word)
                };
                let least = _mm512_mul_ps(_mm512_cvtepi32_ps(constant), d);
                let least = _mm512_sub_ps(_mm512_setzero_ps(), least);
                for pair in part * F::PART / 8..(part + 1) * F::PART / 8 {
                    let (first, second) = F::pair::<L>(body, pair, 0);
                    group(first, (factor, least), order, to.add(4 * pair * step), step);
                    group(second, (factor, least), order, to.add((4 * pair + 2) * step), step);
                }
            }
        }
    }
}

/// Four numbers of 16 rows, a byte each, times the rows' factors, and their minima: two words of 16 lanes.
#[inline(always)]
unsafe fn group(q: __m512i, (d, least): (__m512, __m512), order: __m512i, to: *mut u8, step: usize) {
    // SAFETY: the caller's.
    unsafe {
        let low = _mm512_set1_epi32(0xFF);
        let first = number(_mm512_and_si512(q, low), d, least);
        let second = number(_mm512_and_si512(_mm512_srli_epi32::<8>(q), low), d, least);
        let third = number(_mm512_and_si512(_mm512_srli_epi32::<16>(q), low), d, least);
        let fourth = number(_mm512_srli_epi32::<24>(q), d, least);
        _mm512_storeu_si512(to.cast(), amx::pairs(first, second, order));
        _mm512_storeu_si512(to.add(step).cast(), amx::pairs(third, fourth, order));
    }
}

#[inline(always)]
unsafe fn number(q: __m512i, d: __m512, least: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), d, least) }
}
