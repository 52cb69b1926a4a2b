//! Tiles of bf16 products by AMX ([`crate::amx`]), and the left operand as they want it.
//!
//! The left operand's panels hold lines: 32 numbers of the first row, of the second, ..., then the next 32 of each; what
//! is missing at the end is zero. The right one's are the pairs of [`super::pack::Words::Pairs`]. A sum takes 32 numbers
//! along `k` at a time, the even ones one after the other, beside them the odd ones.

use super::across::Across;
use super::pack::Panel;
use super::tile::{PANEL, Start, Tile};
use crate::amx::{self, LINE, Layout, SIDE};
use crate::simd::{Avx512, Simd};
use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_storeu_si512,
};

/// Rows of the tallest tile: two blocks of a processor's.
pub(super) const MR: usize = 2 * SIDE;
/// Words of a line, and the numbers in it.
pub(super) const LINE_WORDS: usize = SIDE;
pub(crate) const LINE_NUMBERS: usize = 2 * LINE_WORDS;

/// A thread's tiles for panels of so many rows.
pub(super) fn layout(rows: usize) -> &'static Layout {
    static LAYOUTS: [Layout; MR] = {
        let mut layouts = [Layout::of_two(1); MR];
        let mut i = 0;
        while i < MR {
            layouts[i] = Layout::of_two(i + 1);
            i += 1;
        }
        layouts
    };
    &LAYOUTS[rows - 1]
}

/// A tile of as many rows as the panel has, over one or two panels of columns.
///
/// # Safety
/// As [`super::tile`]'s; the thread's tiles are laid out for the panel's rows.
pub(super) unsafe fn tile<const V: usize>(t: &Tile) {
    let rows = t.a_step;
    let (c_step, b_step) = (t.c_row * size_of::<f32>(), t.b_step * size_of::<f32>());
    // Sums of columns that are not all there are kept here.
    let mut edge = [[0.0f32; PANEL]; MR];
    let edge_at = edge.as_mut_ptr().cast::<f32>();
    let part = t.cols % PANEL;
    let whole = t.cols / PANEL;
    let is_tall = rows > SIDE;
    // SAFETY: the caller's: the operands cover the tile; a step of fewer words than a line has is multiplied by copies.
    unsafe {
        // Where the sums of panel `v` are, from row `row` on.
        let place = |v: usize, row: usize| {
            if v >= V || row >= rows {
                None
            } else if v < whole {
                Some((t.c.wrapping_add(row * t.c_row + v * PANEL), c_step))
            } else {
                Some((edge_at.wrapping_add(row * PANEL), LINE))
            }
        };
        if t.start == Start::Output {
            for i in 0..if part > 0 { rows } else { 0 } {
                std::ptr::copy_nonoverlapping(
                    t.c.add(i * t.c_row + whole * PANEL),
                    edge_at.add(i * PANEL),
                    part,
                );
            }
            amx::sums!(load, "0": place(0, 0), "1": place(1, 0), "2": place(0, SIDE), "3": place(1, SIDE));
        } else {
            amx::zero!("0");
            amx::zero!("1");
            amx::zero!("2");
            amx::zero!("3");
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k / LINE_WORDS {
            step::<V>(a, b, t.b_panel, b_step, is_tall);
            a = a.wrapping_add(LINE_WORDS * rows);
            b = b.wrapping_add(LINE_WORDS * t.b_step);
        }
        let rest = t.k % LINE_WORDS;
        if rest > 0 {
            let mut copy = [[[0.0f32; PANEL]; LINE_WORDS]; V];
            for (v, copy) in copy.iter_mut().enumerate() {
                for (word, to) in copy.iter_mut().take(rest).enumerate() {
                    let from = b.wrapping_add(v * t.b_panel + word * t.b_step);
                    std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), PANEL);
                }
            }
            step::<V>(a, copy.as_ptr().cast(), LINE_WORDS * PANEL, LINE, is_tall);
        }
        amx::sums!(store, "0": place(0, 0), "1": place(1, 0), "2": place(0, SIDE), "3": place(1, SIDE));
        for i in 0..if part > 0 { rows } else { 0 } {
            std::ptr::copy_nonoverlapping(edge_at.add(i * PANEL), t.c.add(i * t.c_row + whole * PANEL), part);
        }
    }
}

/// 32 numbers along `k`: lines at `a`, and panels at `b` that are `panel` words apart.
#[inline(always)]
unsafe fn step<const V: usize>(a: *const f32, b: *const f32, panel: usize, b_step: usize, is_tall: bool) {
    // SAFETY: the caller's.
    unsafe {
        amx::load!("4", a, LINE);
        amx::load!("6", b, b_step);
        amx::dot_bf16!("0", "4", "6");
        if V > 1 {
            amx::load!("7", b.wrapping_add(panel), b_step);
            amx::dot_bf16!("1", "4", "7");
        }
        if is_tall {
            amx::load!("5", a.wrapping_add(SIDE * LINE_WORDS), LINE);
            amx::dot_bf16!("2", "5", "6");
            if V > 1 {
                amx::dot_bf16!("3", "5", "7");
            }
        }
    }
}

/// `k` numbers at `x` as bf16, in lines that are `step` bytes apart.
///
/// # Safety
/// The numbers are there, and room for their lines; the processor has AVX-512 and AVX512_BF16.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(crate) unsafe fn lines(x: *const f32, k: usize, to: *mut u8, step: usize) {
    const HALF: usize = LINE_NUMBERS / 2;
    for at in (0..k).step_by(LINE_NUMBERS) {
        // SAFETY: the masks keep loads inside the `k` numbers; the rest is the caller's.
        unsafe {
            let half = |at: usize| match k.saturating_sub(at) {
                HALF.. => _mm512_loadu_ps(x.wrapping_add(at)),
                left => _mm512_maskz_loadu_ps((1u16 << left) - 1, x.wrapping_add(at)),
            };
            let line = _mm512_cvtne2ps_pbh(half(at + HALF), half(at));
            let line = std::mem::transmute::<__m512bh, __m512i>(line);
            _mm512_storeu_si512(to.add(at / LINE_NUMBERS * step).cast(), line);
        }
    }
}

/// Packs a panel whose lines run along `k` as they are.
///
/// # Safety
/// As [`super::pack::pack`].
pub(super) unsafe fn pack_lines(panel: Panel, dst: *mut f32) {
    for i in 0..panel.width {
        let x = panel.src.wrapping_add(i.min(panel.rows - 1) * panel.stride);
        let to = dst.wrapping_add(i * LINE_WORDS).cast();
        // SAFETY: the caller's.
        unsafe { lines(x, panel.k, to, panel.width * LINE) }
    }
}

/// Packs panels side by side: as pairs of two lines, which are turned in their place.
///
/// # Safety
/// As [`super::across::pack_across`]; the panels have room for whole lines.
pub(super) unsafe fn spread_lines(piece: Across) {
    let n_words = piece.k.div_ceil(2);
    // SAFETY: the caller's.
    unsafe {
        super::bf16::spread_pairs(piece);
        for i in 0..piece.len.div_ceil(piece.height) {
            let is_full = (i + 1) * piece.height <= piece.len;
            let width = if is_full || piece.fill { piece.height } else { piece.len % piece.height };
            let panel = piece.dst.wrapping_add(i * piece.panel_words + piece.skip * width);
            for word in (0..n_words).step_by(LINE_WORDS) {
                turn(panel.wrapping_add(word * width), width, LINE_WORDS.min(n_words - word));
            }
        }
    }
}

/// Turns `n` words of each of `width` rows, word by word, into a line of each.
///
/// # Safety
/// There is room for [`LINE_WORDS`] words of each row; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn turn(words: *mut f32, width: usize, n: usize) {
    let mut from = [[0.0f32; MR]; LINE_WORDS];
    let mut to = [[0.0f32; LINE_WORDS]; MR];
    // SAFETY: the caller's; what stands behind the rows and the words is zero.
    unsafe {
        for (word, from) in from.iter_mut().take(n).enumerate() {
            std::ptr::copy_nonoverlapping(words.add(word * width), from.as_mut_ptr(), width);
        }
        for row in (0..width).step_by(8) {
            for word in [0, 8] {
                let lines = std::array::from_fn(|i| from[word + i][row..].as_ptr());
                Avx512::transpose8(lines, to[row][word..].as_mut_ptr(), LINE_WORDS);
            }
        }
        std::ptr::copy_nonoverlapping(to.as_ptr().cast(), words, width * LINE_WORDS);
    }
}

/// Twelve products of tiles a step; see [`super::peak`].
///
/// # Safety
/// The processor has AMX.
pub(super) unsafe fn peak(steps: usize, x: f32) -> f32 {
    let mut numbers = [[x; SIDE]; SIDE];
    // SAFETY: the tiles are laid out here, the numbers as large as one.
    unsafe {
        let _session = layout(MR).begin();
        amx::load!("4", numbers.as_ptr(), LINE);
        amx::load!("6", numbers.as_ptr(), LINE);
        for _ in 0..3 * steps {
            amx::dot_bf16!("0", "4", "6");
            amx::dot_bf16!("1", "4", "6");
            amx::dot_bf16!("2", "4", "6");
            amx::dot_bf16!("3", "4", "6");
        }
        amx::store!("0", numbers.as_mut_ptr(), LINE);
    }
    numbers[0][0]
}
