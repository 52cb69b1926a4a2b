//! Packing pairs of bf16 with AVX512_BF16's own conversion.

use super::across::{Across, Fetch};
use super::pack::{Panel, round_to_bf16};
use crate::simd::{Avx512, Simd, store_transposed8};
use std::arch::x86_64::*;

/// Packs a panel of [`super::pack::Words::Pairs`]: sixteen numbers of each of eight lines become eight words,
/// then an 8 × 8 transposition of words.
///
/// # Safety
/// As [`super::pack::pack`]; the processor has AVX-512 and AVX512_BF16.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn pack_pairs(panel: Panel, dst: *mut f32) {
    let Panel { src, stride, rows, width, k } = panel;
    let blocks = k / 16 * 16;
    // SAFETY: as `pack::transpose`: lines are clamped to those that exist, blocks end inside `k`, and stores
    // that reach too far are overwritten or land in the spill.
    unsafe {
        let mut i = 0;
        loop {
            for p in (0..blocks).step_by(16) {
                let mut words = [_mm256_setzero_ps(); 8];
                for (r, words) in words.iter_mut().enumerate() {
                    let line = src.add((i + r).min(rows - 1) * stride + p);
                    let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(line)));
                    *words = _mm256_castsi256_ps(halves);
                }
                store_transposed8(words, dst.add(p / 2 * width + i), width);
            }
            if i + 8 >= width {
                break;
            }
            i = (i + 8).min(width - 8);
        }
        for p in (blocks..k).step_by(2) {
            for i in 0..width {
                let line = src.add(i.min(rows - 1) * stride);
                let second = if p + 1 < k { *line.add(p + 1) } else { 0.0 };
                *dst.add(p / 2 * width + i) = pair(*line.add(p), second);
            }
        }
    }
}

/// Two numbers, the second in the next line, are a word.
#[derive(Clone, Copy)]
struct Pair {
    /// From a line to the next; None where there is no next: zeros are.
    stride: Option<usize>,
}

impl Fetch<Avx512> for Pair {
    #[inline(always)]
    unsafe fn fetch(self, from: *const f32, n: usize) -> <Avx512 as Simd>::V {
        let have = mask(n);
        let (next, has_next) = (from.wrapping_add(self.stride.unwrap_or(0)), self.stride.is_some());
        // SAFETY: the caller has AVX512_BF16; the masks keep loads inside the lines' `n` numbers.
        unsafe {
            let low = _mm512_maskz_loadu_ps(have, from);
            let high = _mm512_maskz_loadu_ps(if has_next { have } else { 0 }, next);
            let low: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(low));
            let high: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(high));
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), high))
        }
    }
}

/// Packs panels side by side, two lines at a time.
///
/// # Safety
/// As [`super::across::pack_across`]; the processor has AVX-512 and AVX512_BF16.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn spread_pairs(piece: Across) {
    let n_words = piece.k.div_ceil(2);
    for word in 0..n_words {
        let p = 2 * word;
        piece.prefetch(p);
        piece.prefetch(p + 1);
        let stride = (p + 1 < piece.k).then_some(piece.stride);
        let line = piece.src.wrapping_add(p * piece.stride);
        // SAFETY: the caller's contract.
        unsafe { piece.spread::<Avx512, Pair>(Pair { stride }, line, word, n_words) }
    }
}

/// The first `n` of sixteen lanes.
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(round_to_bf16(low).to_bits() >> 16 | round_to_bf16(high).to_bits())
}
