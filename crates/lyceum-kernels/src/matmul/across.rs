//! Packing an operand whose lines run across `k`: a line holds one step of every panel, so each line is read
//! once, from one end to the other, and spread over the panels.

use super::pack::{Words, round_to_bf16};
use crate::cpu::CpuPath;
use crate::simd::{Simd, on_path, prefetch};

/// Lines between the one that is read and the one that is asked for: no processor foresees steps of a whole
/// line.
const AHEAD: usize = 16;
/// Numbers in a cache line.
const CACHE_LINE: usize = 16;

/// Panels side by side over a piece of `k`.
#[derive(Clone, Copy)]
pub(super) struct Across {
    /// The first panel's first number in the first line.
    pub src: *const f32,
    pub stride: usize,
    /// Numbers of a line that belong to the panels.
    pub len: usize,
    /// Lines.
    pub k: usize,
    /// Numbers of a line that a panel takes.
    pub height: usize,
    /// Whether the last panel is as wide as the others (zeros where it has no numbers), or as what is left.
    pub fill: bool,
    /// The first panel.
    pub dst: *mut f32,
    /// From a panel to the next.
    pub panel_words: usize,
    /// Words along `k` that stand before the piece in every panel.
    pub skip: usize,
}

/// Packs the piece; writes only the words of its own part of `k`.
///
/// # Safety
/// The source holds `k` lines of `len` numbers, the panels have room for the piece; the processor has `path`,
/// and AVX512_BF16 for pairs.
pub(super) unsafe fn pack_across(path: CpuPath, words: Words, piece: Across) {
    match words {
        Words::F32 => on_path!(path, spread_numbers(piece: Across)),
        Words::Rounded => on_path!(path, spread_rounded(piece: Across)),
        // SAFETY: the caller has the instructions.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => unsafe { super::bf16::spread_pairs(piece) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Words::Lines => unsafe { super::amx::spread_lines(piece) },
    }
}

/// How a vector of words is made.
pub(super) trait Fetch<S: Simd>: Copy {
    /// Words from `n` numbers at `from` (and what belongs to them in a line after it).
    ///
    /// # Safety
    /// The processor has the path `S`; the numbers are readable.
    unsafe fn fetch(self, from: *const f32, n: usize) -> S::V;
}

/// A number is a word.
#[derive(Clone, Copy)]
struct Number;
impl<S: Simd> Fetch<S> for Number {
    #[inline(always)]
    unsafe fn fetch(self, from: *const f32, n: usize) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_up_to(from, n) }
    }
}

impl Across {
    /// Asks for the line that is [`AHEAD`] lines after line `p`.
    #[inline(always)]
    pub fn prefetch(&self, p: usize) {
        if p + AHEAD < self.k {
            let line = self.src.wrapping_add((p + AHEAD) * self.stride);
            for at in (0..self.len).step_by(CACHE_LINE) {
                prefetch(line.wrapping_add(at));
            }
        }
    }

    /// Words of the last panel, if it is not as full as the others.
    #[inline(always)]
    fn last(&self) -> Option<usize> {
        match self.len % self.height {
            0 => None,
            rest => Some(if self.fill { self.height } else { rest }),
        }
    }

    /// Spreads the words that begin in `line` over the panels, as word `word` of `n_words` of the piece.
    ///
    /// # Safety
    /// As [`pack_across`].
    #[inline(always)]
    pub unsafe fn spread<S: Simd, F: Fetch<S>>(
        &self,
        fetch: F,
        line: *const f32,
        word: usize,
        n_words: usize,
    ) {
        let n_full = self.len / self.height;
        let at = self.dst.wrapping_add((self.skip + word) * self.height);
        // SAFETY: the caller's; the last panel follows the full ones.
        unsafe {
            let (len, left) = (self.len, n_words - word);
            self.spread_over::<S, F>(fetch, line, len, at, self.height, n_full, left);
            if let Some(width) = self.last() {
                let first = n_full * self.height;
                let at = self.dst.wrapping_add(n_full * self.panel_words + (self.skip + word) * width);
                let line = line.wrapping_add(first);
                self.spread_over::<S, F>(fetch, line, len - first, at, width, 1, left);
            }
        }
    }

    /// `n` panels of `width` words from `line`, which has `len` numbers. A vector that reaches past its step
    /// is overwritten by the next of the `steps_left`, or cut at the end of the piece.
    #[inline(always)]
    unsafe fn spread_over<S: Simd, F: Fetch<S>>(
        &self,
        fetch: F,
        mut line: *const f32,
        mut len: usize,
        mut to: *mut f32,
        width: usize,
        n: usize,
        steps_left: usize,
    ) {
        for _ in 0..n {
            for c in (0..width).step_by(S::LANES) {
                // SAFETY: the line has `len` numbers, the panel the words of its steps.
                unsafe {
                    let words = fetch.fetch(line.wrapping_add(c), len.saturating_sub(c));
                    S::store_up_to(to.wrapping_add(c), words, steps_left * width - c);
                }
            }
            line = line.wrapping_add(width);
            len = len.saturating_sub(width);
            to = to.wrapping_add(self.panel_words);
        }
    }
}

#[inline(always)]
unsafe fn spread_numbers<S: Simd>(piece: Across) {
    for p in 0..piece.k {
        piece.prefetch(p);
        // SAFETY: the caller upholds the contract of `pack_across`.
        unsafe { piece.spread::<S, Number>(Number, piece.src.wrapping_add(p * piece.stride), p, piece.k) }
    }
}

#[inline(always)]
unsafe fn spread_rounded<S: Simd>(piece: Across) {
    // SAFETY: the caller upholds the contract of `pack_across`; the panels were written just before.
    unsafe {
        spread_numbers::<S>(piece);
        for i in 0..piece.len.div_ceil(piece.height) {
            let is_full = (i + 1) * piece.height <= piece.len;
            let width = if is_full { piece.height } else { piece.last().unwrap_or(piece.height) };
            let to = piece.dst.wrapping_add(i * piece.panel_words + piece.skip * width);
            for x in std::slice::from_raw_parts_mut(to, piece.k * width) {
                *x = round_to_bf16(*x);
            }
        }
    }
}
