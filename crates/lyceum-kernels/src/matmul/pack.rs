//! Packing: copying a stretch of an operand into panels that the tiles read from one end to the other. Here
//! operands whose lines run along `k`; the others are in `across`.
//!
//! A panel is `width` rows of `a` (or columns of `b`) over a stretch of `k`, as `[k words][width]`. A word is
//! one f32 ([`Words::F32`]), an f32 rounded to bf16 ([`Words::Rounded`]), or two bf16 that follow each other
//! along `k`, the earlier in the low half ([`Words::Pairs`]; an odd last one is paired with zero).

use crate::cpu::CpuPath;
use crate::simd::{Simd, on_path};

/// What a packed panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    F32,
    Rounded,
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// Pairs in the order of [`super::amx`], of left operands.
    #[cfg(target_arch = "x86_64")]
    Lines,
}

impl Words {
    /// Numbers along `k` in a word.
    pub fn depth(self) -> usize {
        match self {
            Words::F32 | Words::Rounded => 1,
            #[cfg(target_arch = "x86_64")]
            Words::Pairs | Words::Lines => 2,
        }
    }
}

/// How a panel's source lies in memory, `stride` numbers between its lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// Each line runs along `k`, one line per row of the panel: packing transposes.
    AlongK,
    /// Each line is one step of `k`, holding the panel's rows side by side: packing copies.
    AcrossK,
}

/// One panel to pack, whose lines run along `k`.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub src: *const f32,
    pub stride: usize,
    /// Rows that exist, at least 1; the panel is filled up to `width` with numbers that nobody reads.
    pub rows: usize,
    pub width: usize,
    /// Numbers along `k`.
    pub k: usize,
}

/// Floats that [`pack`] may write past the end of a panel.
pub(super) const SPILL: usize = 8;

/// Packs a panel into `dst`.
///
/// # Safety
/// The source holds `rows × k` numbers as the panel says; `dst` has room for `width` words at each of
/// `k / depth` (rounded up) steps, and [`SPILL`] more where `width < 8`. The processor has `path`, and
/// AVX512_BF16 for pairs.
pub(crate) unsafe fn pack(path: CpuPath, words: Words, panel: Panel, dst: *mut f32) {
    match words {
        Words::F32 => on_path!(path, transpose(panel: Panel, dst: *mut f32)),
        Words::Rounded => on_path!(path, pack_rounded(panel: Panel, dst: *mut f32)),
        // SAFETY: the caller has the instructions.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => unsafe { super::bf16::pack_pairs(panel, dst) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Words::Lines => unsafe { super::amx::pack_lines(panel, dst) },
    }
}

#[inline(always)]
unsafe fn pack_rounded<S: Simd>(panel: Panel, dst: *mut f32) {
    // SAFETY: the caller upholds the contract of `pack`; the panel was written just before.
    unsafe {
        transpose::<S>(panel, dst);
        for x in std::slice::from_raw_parts_mut(dst, panel.k * panel.width) {
            *x = round_to_bf16(*x);
        }
    }
}

/// The nearest bf16, halves to even; what is too small for a normal f32 becomes zero, as the processors'
/// own conversion does.
#[inline(always)]
pub(super) fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
    let bits = if x.abs() < f32::MIN_POSITIVE { bits & 0x8000_0000 } else { rounded };
    f32::from_bits(if x.is_nan() { 0x7FC0_0000 } else { bits })
}

/// Blocks of 8 × 8; the last rows of a panel overlap the ones before where 8 does not divide the width.
#[inline(always)]
unsafe fn transpose<S: Simd>(panel: Panel, dst: *mut f32) {
    let Panel { src, stride, rows, width, k } = panel;
    let blocks = k / 8 * 8;
    // SAFETY: lines are clamped to those that exist; blocks end inside `k`. A narrow panel's store of eight
    // words reaches into the next step, which is stored after it, and at the end into the spill.
    unsafe {
        let mut i = 0;
        loop {
            let line = |r: usize| src.add((i + r).min(rows - 1) * stride);
            let lines = [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)];
            for p in (0..blocks).step_by(8) {
                S::transpose8(lines.map(|l| l.add(p)), dst.add(p * width + i), width);
            }
            if i + 8 >= width {
                break;
            }
            i = (i + 8).min(width - 8);
        }
        for p in blocks..k {
            for i in 0..width {
                *dst.add(p * width + i) = *src.add(i.min(rows - 1) * stride + p);
            }
        }
    }
}
