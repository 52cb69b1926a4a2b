//! Attention of whole texts in AMX's tiles, and the products of both ways that tiles are used: queries, keys, the
//! exponentials of scores and values are rounded to bf16, sums are f32 in the tiles' order.
//!
//! Every query of a text sees the same keys here, so 32 rows of scores are held whole. Keys that are missing have the
//! weight zero beside values of zero: a text's bits do not depend on how much padding follows it.

use super::blocks::divide;
use super::tile::transpose8;
use super::{Attention, Mask};
use crate::amx::{self, LINE, Layout, SIDE};
use crate::cpu::CpuPath;
use crate::matmul::lines;
use crate::simd::math::exp;
use crate::simd::{Avx512, Simd};
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mask_mov_ps,
    _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_si512,
    _mm512_sub_ps,
};

/// Rows of a product, and numbers along `k` of a step.
pub(super) const TALL: usize = 2 * SIDE;
pub(super) const STEP: usize = 32;

pub(super) static LAYOUT: Layout = Layout::of_two(TALL);

/// 32 rows at `a`, `a_row` bytes apart, by 32 columns at `b`: two tiles `across` bytes apart, the next of each `along`;
/// `n` steps, each `a_step` bytes of `a`. The sums are in the tiles then.
///
/// # Safety
/// The thread's tiles are laid out as [`LAYOUT`]; the operands are there.
#[inline(always)]
pub(super) unsafe fn product(
    a: *const u8,
    a_row: usize,
    a_step: usize,
    b: *const u8,
    (across, along): (usize, usize),
    n: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        amx::zero!("0");
        amx::zero!("1");
        amx::zero!("2");
        amx::zero!("3");
        for step in 0..n {
            let (a, b) = (a.wrapping_add(step * a_step), b.wrapping_add(step * along));
            amx::load!("4", a, a_row);
            amx::load!("6", b, LINE);
            amx::dot_bf16!("0", "4", "6");
            amx::load!("7", b.wrapping_add(across), LINE);
            amx::dot_bf16!("1", "4", "7");
            amx::load!("5", a.wrapping_add(SIDE * a_row), a_row);
            amx::dot_bf16!("2", "5", "6");
            amx::dot_bf16!("3", "5", "7");
        }
    }
}

/// Stores the sums to rows of `row` floats.
///
/// # Safety
/// As [`product`]; there is room for 32 rows of 32.
#[inline(always)]
pub(super) unsafe fn end(out: *mut f32, row: usize) {
    // SAFETY: the caller's.
    unsafe {
        amx::store!("0", out, row * size_of::<f32>());
        amx::store!("1", out.wrapping_add(SIDE), row * size_of::<f32>());
        amx::store!("2", out.wrapping_add(SIDE * row), row * size_of::<f32>());
        amx::store!("3", out.wrapping_add(SIDE * row + SIDE), row * size_of::<f32>());
    }
}

/// Whether a head of a text goes this way: whether all of it is one product after another.
pub(super) fn takes(path: CpuPath, shape: &Attention<'_>, is_recorded: bool) -> bool {
    path == CpuPath::Amx
        && shape.may_round
        && !is_recorded
        && shape.mask == Mask::Full
        && shape.dropout.is_none()
        && shape.head_size.is_multiple_of(STEP)
}

/// Floats that a head of `n_keys` keys needs.
pub(super) fn memory(n_keys: usize, d: usize) -> usize {
    Memory::sizes(n_keys.next_multiple_of(STEP), d).iter().sum()
}

/// A head's memory.
struct Memory<'a> {
    /// Keys, 16 of them a tile, `[d / 32]` tiles of bf16 for each 16; values, `[d / 16]` tiles for each 32 positions.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    /// Of 32 rows: queries as bf16, scores, weights as bf16, sums of values.
    queries: &'a mut [f32],
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    said: &'a mut [f32],
}

impl<'a> Memory<'a> {
    /// Floats of each part, for `n` keys in whole steps.
    fn sizes(n: usize, d: usize) -> [usize; 6] {
        [n * d / 2, n * d / 2, TALL * d / 2, TALL * n, TALL * n / 2, TALL * d]
    }

    fn of(memory: &'a mut [f32], n: usize, d: usize) -> Memory<'a> {
        let [of_keys, of_values, of_queries, of_scores, of_weights, of_said] = Memory::sizes(n, d);
        let (keys, memory) = memory.split_at_mut(of_keys);
        let (values, memory) = memory.split_at_mut(of_values);
        let (queries, memory) = memory.split_at_mut(of_queries);
        let (scores, memory) = memory.split_at_mut(of_scores);
        let (weights, memory) = memory.split_at_mut(of_weights);
        Memory { keys, values, queries, scores, weights, said: &mut memory[..of_said] }
    }
}

/// One head of one text with `n_keys` keys; the pointers are at its first row.
///
/// # Safety
/// [`takes`] took it; its rows lie inside their buffers, those of the output are this task's alone; there is as much
/// memory as [`memory`] says.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn head(
    shape: &Attention<'_>,
    n_keys: usize,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    out: *mut f32,
    memory: &mut [f32],
) {
    let (d, n) = (shape.head_size, n_keys.next_multiple_of(STEP));
    let memory = Memory::of(memory, n, d);
    let keys: *mut u8 = memory.keys.as_mut_ptr().cast();
    let values: *mut u8 = memory.values.as_mut_ptr().cast();
    let queries: *mut u8 = memory.queries.as_mut_ptr().cast();
    let weights: *mut u8 = memory.weights.as_mut_ptr().cast();
    let (scores, said) = (memory.scores.as_mut_ptr(), memory.said.as_mut_ptr());
    let tile = SIDE * LINE;
    // SAFETY: the caller's; tiles, rows and vectors stay inside the parts of the memory.
    unsafe {
        lay_keys(shape, n_keys, k, keys);
        lay_values(shape, n_keys, v, values);
        let _session = LAYOUT.begin();
        for first in (0..shape.n_queries).step_by(TALL) {
            let m = TALL.min(shape.n_queries - first);
            for i in 0..m {
                lines(q.add((first + i) * shape.q.row), d, queries.add(2 * i * d), LINE);
            }
            for column in (0..n).step_by(STEP) {
                let b = keys.add(column / SIDE * (d / STEP) * tile);
                product(queries, 2 * d, LINE, b, (d / STEP * tile, tile), d / STEP);
                end(scores.add(column), n);
            }
            let mut sums = [0.0; TALL];
            for i in 0..m {
                sums[i] = weigh(scores.add(i * n), n_keys, shape.scale, weights.add(2 * i * n));
            }
            for column in (0..d).step_by(TALL) {
                let b = values.add(column / SIDE * tile);
                product(weights, 2 * n, LINE, b, (tile, d / SIDE * tile), n / STEP);
                end(said.add(column), d);
            }
            for i in 0..m {
                let to = out.add((first + i) * shape.out.row);
                divide::<Avx512>(said.add(i * d), sums[i], to, d);
            }
        }
    }
}

/// The exponentials of a row's scores as bf16 in `to`, zero from `n_keys` on: their sum.
///
/// # Safety
/// The processor has AVX-512 and AVX512_BF16; row and weights are whole steps.
#[inline(always)]
unsafe fn weigh(row: *const f32, n_keys: usize, scale: f32, to: *mut u8) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
        for column in (0..n_keys).step_by(SIDE) {
            top = Avx512::max(top, score(row, column, n_keys, scale));
        }
        let top = _mm512_set1_ps(Avx512::reduce_max(top));
        let mut sum = _mm512_setzero_ps();
        for column in (0..n_keys).step_by(STEP) {
            let first = exp::<Avx512>(_mm512_sub_ps(score(row, column, n_keys, scale), top));
            let second = exp::<Avx512>(_mm512_sub_ps(score(row, column + SIDE, n_keys, scale), top));
            sum = _mm512_add_ps(_mm512_add_ps(sum, first), second);
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.add(column * 2).cast(), halves);
        }
        _mm512_reduce_add_ps(sum)
    }
}

/// The scores of 16 keys from `column` on; a key that is missing has the least.
///
/// # Safety
/// As [`weigh`].
#[inline(always)]
unsafe fn score(row: *const f32, column: usize, n_keys: usize, scale: f32) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let x = _mm512_mul_ps(_mm512_loadu_ps(row.add(column)), _mm512_set1_ps(scale));
        match n_keys.saturating_sub(column) {
            SIDE.. => x,
            n => _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), (1u16 << n) - 1, x),
        }
    }
}

/// Keys as the right operand: 16 keys a tile, two numbers of one in a lane. Of missing ones anything.
///
/// # Safety
/// As [`head`].
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn lay_keys(shape: &Attention<'_>, n_keys: usize, k: *const f32, to: *mut u8) {
    let d = shape.head_size;
    let mut rows = [[0.0f32; SIDE]; SIDE];
    for first in (0..n_keys).step_by(SIDE) {
        for step in 0..d / STEP {
            for (i, row) in rows.iter_mut().enumerate().take(n_keys - first) {
                // SAFETY: the caller's; a step of a key is one line.
                unsafe {
                    let from = k.add((first + i) * shape.kv.row + step * STEP);
                    lines(from, STEP, row.as_mut_ptr().cast(), LINE);
                }
            }
            let to: *mut f32 = to.wrapping_add((first / SIDE * (d / STEP) + step) * SIDE * LINE).cast();
            for i in (0..SIDE).step_by(8) {
                for word in (0..SIDE).step_by(8) {
                    // SAFETY: eight rows of eight; the tile has its place.
                    unsafe { transpose8(rows[i].as_ptr().add(word), SIDE, to.add(word * SIDE + i), SIDE) }
                }
            }
        }
    }
}

/// Values as the right operand: two positions in a lane, 16 columns a tile; missing ones are zero.
///
/// # Safety
/// As [`head`].
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn lay_values(shape: &Attention<'_>, n_keys: usize, v: *const f32, to: *mut u8) {
    let (d, row) = (shape.head_size, shape.kv.row);
    // SAFETY: the caller's.
    unsafe {
        let order = amx::pair_order();
        for pair in 0..n_keys.next_multiple_of(STEP) / 2 {
            for column in (0..d).step_by(SIDE) {
                let at = v.wrapping_add(2 * pair * row + column);
                let (mut first, mut second) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                if 2 * pair < n_keys {
                    first = _mm512_loadu_ps(at);
                }
                if 2 * pair + 1 < n_keys {
                    second = _mm512_loadu_ps(at.wrapping_add(row));
                }
                let tile = pair / SIDE * (d / SIDE) + column / SIDE;
                let to = to.add(tile * SIDE * LINE + pair % SIDE * LINE);
                _mm512_storeu_si512(to.cast(), amx::pairs(first, second, order));
            }
        }
    }
}
