//! Products of bytes in tiles: a block's integers come from one instruction for 16 rows by 16 columns, and become floats
//! by the chains of [`crate::stored::tile`], so with its bits.

use super::{AHEAD, Aligned};
use crate::amx::{self, LINE};
use crate::simd::prefetch;
use crate::stored::engine::{LINE_NUMBERS as STEP, Opened};
use crate::stored::formats::{self, GROUP, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, ROWS, Small, Super};
use crate::stored::kind::Stored;
use crate::stored::lanes::Lanes;
use crate::stored::lanes_x86::Avx512Vnni as L;
use crate::stored::opened::{Opened16, Opened32, Opening, Pair, open_super};
use crate::stored::tile::{Column, SUMS, Start, Tile, TileFn};
use std::arch::x86_64::{
    __m512, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_load_si512, _mm512_mul_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps, _mm512_sub_epi8,
};

/// How a type is opened, and its tiles.
pub(in crate::stored) fn opened(kind: Stored) -> Option<&'static Opened> {
    Some(match kind {
        Stored::Q4_0 => &Q4_0_SIGNED,
        Stored::Q4_1 => &Q4_1_SIGNED,
        Stored::Q5_0 => &Q5_0_SIGNED,
        Stored::Q5_1 => &Q5_1_SIGNED,
        Stored::Q8_0 => &Q8_0_SIGNED,
        Stored::Q4K => &Q4K,
        Stored::Q5K => &Q5K,
        Stored::Q6K => &Q6K,
        Stored::F32 | Stored::F16 | Stored::Bf16 | Stored::Q2K | Stored::Q3K => return None,
    })
}

/// A block of 32 as bytes with signs: scales and, where the type has them, minima as floats, then the numbers.
struct Signed<const LEAST: bool>;

impl<const LEAST: bool> Signed<LEAST> {
    const HEAD: usize = if LEAST { 2 * GROUP } else { GROUP };
    const BODY: usize = STEP / 4 * GROUP;
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn open_signed<F: Small, const LEAST: bool>(opening: &Opening) {
    const { assert!(F::LEAST == LEAST) };
    let zero = _mm512_set1_epi8(F::ZERO as u8 as i8);
    for i in 0..opening.n_blocks * opening.n_tiles {
        let Pair { from: [head, body], to: [to_head, to_body] } =
            opening.pair(i, [F::HEAD, F::BODY], [Signed::<LEAST>::HEAD, Signed::<LEAST>::BODY]);
        for line in (0..F::HEAD + F::BODY).step_by(64) {
            prefetch(body.wrapping_add(AHEAD + line).cast());
        }
        // SAFETY: the caller's: the blocks are there, and room for what they become.
        unsafe {
            L::store_up_to(to_head.cast(), F::scale::<L>(head, 0), ROWS);
            if LEAST {
                L::store_up_to(to_head.add(GROUP).cast(), F::least::<L>(head, 0), ROWS);
            }
            for pair in 0..STEP / 8 {
                let (first, second) = F::pair::<L>(body, pair, 0);
                L::store(to_body.add(2 * pair * GROUP), _mm512_sub_epi8(first, zero));
                L::store(to_body.add((2 * pair + 1) * GROUP), _mm512_sub_epi8(second, zero));
            }
        }
    }
}

macro_rules! signed {
    ($name:ident, $kind:ty, $least:literal) => {
        static $name: Opened = Opened {
            open: open_signed::<$kind, $least>,
            head: Signed::<$least>::HEAD,
            body: Signed::<$least>::BODY,
            tiles: &[
                small::<$least, 1>,
                small::<$least, 2>,
                small::<$least, 4>,
                small::<$least, 8>,
                small::<$least, ROWS>,
            ],
        };
    };
}
signed!(Q4_0_SIGNED, Q4_0, false);
signed!(Q4_1_SIGNED, Q4_1, true);
signed!(Q5_0_SIGNED, Q5_0, false);
signed!(Q5_1_SIGNED, Q5_1, true);
signed!(Q8_0_SIGNED, Q8_0, false);

macro_rules! opened {
    ($kind:ident, $opened:ident) => {
        static $kind: Opened = {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            unsafe fn open(opening: &Opening) {
                // SAFETY: the caller's; the features are enabled here.
                unsafe { open_super::<L, formats::$kind, $opened>(opening) }
            }
            let tiles: &[TileFn] = &[
                large::<$opened, 1>,
                large::<$opened, 2>,
                large::<$opened, 4>,
                large::<$opened, 8>,
                large::<$opened, ROWS>,
            ];
            Opened { open, head: $opened::HEAD, body: $opened::BODY, tiles }
        };
    };
}
opened!(Q4K, Opened32);
opened!(Q5K, Opened32);
opened!(Q6K, Opened16);

/// Adds a block's integers to the sums, as floats times the scales of the columns and of the rows, and its minima times
/// the rows' own factors.
#[inline(always)]
unsafe fn add<const LEAST: bool, const R: usize>(
    sums: &mut [__m512; R],
    integers: *const i32,
    head: *const u8,
    (scales, shifts): (*const f32, *const f32),
) {
    // SAFETY: the caller's: there are 16 integers and a scale for each row, and what a head holds.
    unsafe {
        let d = L::load_float(head.cast());
        for i in 0..R {
            let whole = _mm512_cvtepi32_ps(_mm512_load_si512(integers.add(i * ROWS).cast()));
            sums[i] = _mm512_fmadd_ps(_mm512_mul_ps(whole, d), _mm512_set1_ps(*scales.add(i)), sums[i]);
        }
        if LEAST {
            let least = L::load_float(head.add(GROUP).cast());
            for i in 0..R {
                sums[i] = _mm512_fmadd_ps(least, _mm512_set1_ps(*shifts.add(i)), sums[i]);
            }
        }
    }
}

/// Blocks of 32, as [`crate::stored::tile::small`].
///
/// # Safety
/// As there; the tiles are laid out.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn small<const LEAST: bool, const R: usize>(t: &Tile) {
    let mut buffers = Aligned([[[0i32; ROWS]; R]; 2]);
    let even = buffers.0.as_mut_ptr().cast::<i32>();
    let odd = even.wrapping_add(R * ROWS);
    let mut ahead = t.ahead.part(0, t.n_tiles * t.n_blocks);
    for v in 0..t.n_tiles {
        let (out, cols) = (t.out.wrapping_add(v * ROWS), (t.cols - v * ROWS).min(ROWS));
        let mut head = t.heads.wrapping_add(v * Signed::<LEAST>::HEAD);
        let mut body = t.bodies.wrapping_add(v * Signed::<LEAST>::BODY);
        let (mut x, mut scales, mut shifts) = (t.words.cast::<i8>(), t.scales, t.shifts);
        let mut sums = [_mm512_setzero_ps(); R];
        // The block at which all of them stand becomes integers in a tile.
        macro_rules! integers {
            ($tile:literal) => {
                amx::zero!($tile);
                amx::load!("4", x, STEP);
                amx::load!("6", body, GROUP);
                amx::dot_bytes!($tile, "4", "6");
                ahead.ask();
                ahead = ahead.next();
                x = x.wrapping_add(R * STEP);
                body = body.wrapping_add(t.block_step);
            };
        }
        macro_rules! add {
            ($from:expr) => {
                add::<LEAST, R>(&mut sums, $from, head, (scales, shifts));
                head = head.wrapping_add(t.block_step);
                (scales, shifts) = (scales.wrapping_add(R), shifts.wrapping_add(R));
            };
        }
        // SAFETY: the caller's.
        unsafe {
            if t.start == Start::Output {
                for i in 0..R {
                    sums[i] = L::load_up_to(out.add(i * t.out_row), cols);
                }
            }
            // While a block's integers are computed those of the one before are stored, and the ones before become
            // floats.
            let n_fours = t.n_blocks / 4;
            for first in 0..n_fours {
                integers!("0");
                if first > 0 {
                    amx::store!("3", odd, LINE);
                    add!(even);
                }
                integers!("1");
                amx::store!("0", even, LINE);
                if first > 0 {
                    add!(odd);
                }
                integers!("2");
                amx::store!("1", odd, LINE);
                add!(even);
                integers!("3");
                amx::store!("2", even, LINE);
                add!(odd);
            }
            if n_fours > 0 {
                amx::store!("3", odd, LINE);
                add!(even);
                add!(odd);
            }
            for _ in 0..t.n_blocks % 4 {
                integers!("0");
                amx::store!("0", even, LINE);
                add!(even);
            }
            for i in 0..R {
                L::store_up_to(out.add(i * t.out_row), sums[i], cols);
            }
        }
    }
}

/// Blocks of 256, as [`crate::stored::tile::super_blocks`].
///
/// # Safety
/// As there; the tiles are laid out.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn large<F: Super, const R: usize>(t: &Tile) {
    let mut buffers = Aligned([[[0i32; ROWS]; R]; 2]);
    let even = buffers.0.as_mut_ptr().cast::<i32>();
    let odd = even.wrapping_add(R * ROWS);
    let mut sums = Aligned([[0.0f32; ROWS]; R]);
    let sums = sums.0.as_mut_ptr().cast::<f32>();
    let mut ahead = t.ahead.part(0, t.n_tiles * t.n_blocks * 2);
    for v in 0..t.n_tiles {
        let (out, cols) = (t.out.wrapping_add(v * ROWS), (t.cols - v * ROWS).min(ROWS));
        // SAFETY: the caller's.
        unsafe {
            begin::<R>(t, out, cols, sums);
            let (head, body) = (t.heads.wrapping_add(v * F::HEAD), t.bodies.wrapping_add(v * F::BODY));
            let mut w = Column { head, body, at: 0 };
            let (mut words, mut scales, mut constants) = (t.words.cast::<i8>(), t.scales, t.sums);
            for _ in 0..t.n_blocks {
                let mut whole = [_mm512_setzero_ps(); R];
                // Part `$part` becomes integers in a tile: a part of 16 is half of its rows' lines.
                macro_rules! integers {
                    ($tile:literal, $part:expr) => {
                        let at = $part * F::PART;
                        amx::zero!($tile);
                        amx::load!("4", words.add(at / STEP * STEP * R + at % STEP), STEP);
                        amx::load!("6", w.body.add(at / 4 * GROUP), GROUP);
                        amx::dot_bytes!($tile, "4", "6");
                    };
                }
                macro_rules! add {
                    ($from:expr, $part:expr) => {
                        let factor = F::factor::<L>(&mut L::splat(0), w.head, $part, 0);
                        for i in 0..R {
                            let part = _mm512_cvtepi32_ps(_mm512_load_si512($from.add(i * ROWS).cast()));
                            whole[i] = _mm512_fmadd_ps(part, factor, whole[i]);
                        }
                    };
                }
                for part in (0..256 / F::PART).step_by(4) {
                    if part.is_multiple_of(128 / F::PART) {
                        ahead.ask();
                        ahead = ahead.next();
                    }
                    integers!("0", part);
                    if part > 0 {
                        amx::store!("3", odd, LINE);
                        add!(even, part - 2);
                    }
                    integers!("1", part + 1);
                    amx::store!("0", even, LINE);
                    if part > 0 {
                        add!(odd, part - 1);
                    }
                    integers!("2", part + 2);
                    amx::store!("1", odd, LINE);
                    add!(even, part);
                    integers!("3", part + 3);
                    amx::store!("2", even, LINE);
                    add!(odd, part + 1);
                }
                amx::store!("3", odd, LINE);
                add!(even, 256 / F::PART - 2);
                add!(odd, 256 / F::PART - 1);
                constants_of::<F, R>(&w, &mut whole, constants);
                for i in 0..R {
                    let sum = _mm512_load_ps(sums.add(i * ROWS));
                    let sum = _mm512_fmadd_ps(whole[i], _mm512_set1_ps(*scales.add(i)), sum);
                    _mm512_store_ps(sums.add(i * ROWS), sum);
                }
                w.head = w.head.wrapping_add(t.block_step);
                w.body = w.body.wrapping_add(t.block_step);
                words = words.add(256 * R);
                scales = scales.add(R);
                constants = constants.add(SUMS * R);
            }
            end::<R>(t, out, cols, sums);
        }
    }
}

/// Takes off what the constants of a block say, as [`crate::stored::tile`]'s `add_block`.
#[inline(always)]
unsafe fn constants_of<F: Super, const R: usize>(w: &Column, whole: &mut [__m512; R], constants: *const i32) {
    let (first, n_words) = if F::PART == 32 { (0, 4) } else { (4, 8) };
    // SAFETY: the caller's.
    unsafe {
        let d = F::least::<L>(w.head, 0);
        for i in 0..R {
            let mut part = L::splat(0);
            for word in 0..n_words {
                let constant = F::constant::<L>(w.body, word, 0);
                part = L::dot16(part, constant, L::splat(*constants.add((first + word) * R + i)));
            }
            whole[i] = L::fnma(_mm512_cvtepi32_ps(part), d, whole[i]);
        }
    }
}

/// What the sums of a tile's columns start from.
#[inline(always)]
unsafe fn begin<const R: usize>(t: &Tile, out: *const f32, cols: usize, sums: *mut f32) {
    for i in 0..R {
        // SAFETY: the output is good for `R` rows of `cols`, and there are 16 sums for each.
        unsafe {
            let sum = if t.start == Start::Output {
                L::load_up_to(out.add(i * t.out_row), cols)
            } else {
                _mm512_setzero_ps()
            };
            _mm512_store_ps(sums.add(i * ROWS), sum);
        }
    }
}

#[inline(always)]
unsafe fn end<const R: usize>(t: &Tile, out: *mut f32, cols: usize, sums: *const f32) {
    for i in 0..R {
        // SAFETY: as above.
        unsafe { L::store_up_to(out.add(i * t.out_row), _mm512_load_ps(sums.add(i * ROWS)), cols) }
    }
}
