//! The two products of a block in AMX's tiles, for rows that are read: queries, keys, the exponentials of scores and
//! values are rounded to bf16, sums are f32 in the tiles' order.
//!
//! Rows go by 32, the last ones beside rows that nobody reads. A key that a row does not see has the weight zero there, and
//! values of positions that were never written are zeros; but a value that is written and not finite reaches the rows
//! before it in the same pass.

use super::super::BLOCK;
use super::super::amx::{LAYOUT, STEP, TALL, end, product};
use super::super::tile::{ROWS, Terms};
use super::{Block, PAGE, Task};
use crate::amx::{self, LINE, SIDE};
use crate::class::RowClass;
use crate::cpu::CpuPath;
use crate::matmul::lines;
use std::arch::x86_64::{
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};
use std::ops::Range;

const _: () = assert!(PAGE == STEP && BLOCK.is_multiple_of(PAGE));

/// Whether rows of a class with heads of `d` numbers go this way.
pub(super) fn takes(path: CpuPath, class: RowClass, d: usize) -> bool {
    path == CpuPath::Amx && class == RowClass::Bulk && d.is_multiple_of(STEP)
}

/// Rows that there is room for, where there are `n`.
pub(super) fn rows(n: usize) -> usize {
    n.next_multiple_of(TALL)
}

/// Floats that this way needs beside the others, for rows of which there are `n`.
pub(super) fn memory(n: usize, d: usize) -> usize {
    rows(n) * (d + BLOCK) / 2 + BLOCK * d
}

/// A task's memory: queries and weights `[rows, d]` and `[rows, BLOCK]`, keys and values of a block, all as bf16.
pub(super) struct Halves {
    queries: *mut u8,
    weights: *mut u8,
    keys: *mut u8,
    values: *mut u8,
}

impl Halves {
    /// In `memory`, which has the room that [`memory`] says, with the task's queries.
    ///
    /// # Safety
    /// The processor has AMX; the task's rows lie inside the queries.
    pub unsafe fn begin(task: &Task<'_>, memory: &mut [f32]) -> Halves {
        let (d, n) = (task.pages.shape().head_size, rows(task.n_rows()));
        let queries: *mut u8 = memory.as_mut_ptr().cast();
        let weights = queries.wrapping_add(2 * n * d);
        let keys = weights.wrapping_add(2 * n * BLOCK);
        let values = keys.wrapping_add(2 * BLOCK * d);
        for i in 0..task.n_rows() {
            // SAFETY: the caller's; a row has its place.
            unsafe {
                let q = task.q.add(task.place(i, task.shape.q_row));
                lines(q, d, queries.add(2 * i * d), LINE);
            }
        }
        Halves { queries, weights, keys, values }
    }
}

/// The rows of a task and one block.
pub(super) struct Look<'a> {
    pub task: &'a Task<'a>,
    pub opened: &'a Block<'a>,
    pub halves: &'a Halves,
    /// Of each tile of [`ROWS`] rows, counted from the block's start.
    pub terms: &'a [Terms],
    /// Pages of the block that some row sees.
    pub used: Range<usize>,
    /// Positions of the block that were written.
    pub n_written: usize,
}

impl Look<'_> {
    fn term(&self, i: usize) -> Range<usize> {
        self.terms[i / ROWS].of(i % ROWS)
    }

    /// The pages that some of the rows `first..` of a product see.
    fn pages(&self, first: usize) -> Range<usize> {
        let last = self.task.n_rows().min(first + TALL) - 1;
        let (start, end) = (self.term(first).start / PAGE, self.term(last).end.div_ceil(PAGE));
        let pages = start.max(self.used.start)..end.min(self.used.end);
        if pages.is_empty() { 0..0 } else { pages }
    }

    /// All scores as rows of [`BLOCK`]; of keys that a row does not see anything.
    ///
    /// # Safety
    /// The processor has AMX; there are [`rows`] of scores.
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn scores(&self, scores: &mut [f32]) {
        let (task, d) = (self.task, self.task.pages.shape().head_size);
        let half = d / 2 * LINE;
        // SAFETY: the caller's; the pages in use were opened, and there is room for a block of them.
        unsafe {
            let order = amx::pair_order();
            for page in self.used.clone() {
                let (from, to) = (self.opened.pages[page].0, self.halves.keys.add(page * 2 * half));
                for pair in 0..d / 2 {
                    for column in 0..2 {
                        let at = from.add(2 * pair * PAGE + column * SIDE);
                        let (first, second) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(PAGE)));
                        let to = to.add(column * half + pair * LINE);
                        _mm512_storeu_si512(to.cast(), amx::pairs(first, second, order));
                    }
                }
            }
            let _session = LAYOUT.begin();
            for first in (0..task.n_rows()).step_by(TALL) {
                for page in self.pages(first) {
                    let a = self.halves.queries.add(2 * first * d);
                    let b = self.halves.keys.add(page * 2 * half);
                    product(a, 2 * d, LINE, b, (half, SIDE * LINE), d / STEP);
                    end(scores[first * BLOCK + page * PAGE..].as_mut_ptr(), BLOCK);
                }
            }
        }
        let scale = _mm512_set1_ps(task.shape.scale);
        for i in 0..task.n_rows() {
            let seen = self.term(i);
            for column in (seen.start / PAGE * PAGE..seen.end).step_by(SIDE) {
                // SAFETY: a row of scores is whole vectors.
                unsafe {
                    let at = scores[i * BLOCK + column..].as_mut_ptr();
                    let scale = match self.opened.scales[column / PAGE] {
                        None => scale,
                        Some((keys, _)) => {
                            _mm512_mul_ps(scale, _mm512_loadu_ps(keys[column % PAGE..].as_ptr()))
                        }
                    };
                    _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), scale));
                }
            }
        }
    }

    /// The unnormalised values of all rows, from what became of the scores.
    ///
    /// # Safety
    /// As [`scores`](Self::scores); there are [`rows`] of `said` too.
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn values(&self, scores: &mut [f32], said: &mut [f32]) {
        let (task, d) = (self.task, self.task.pages.shape().head_size);
        let tile = SIDE * LINE;
        // SAFETY: as above.
        unsafe {
            self.open_values();
            for first in (0..task.n_rows()).step_by(TALL) {
                let pages = self.pages(first);
                for i in first..task.n_rows().min(first + TALL) {
                    self.weigh(i, &pages, &mut scores[i * BLOCK..][..BLOCK]);
                }
            }
            let _session = LAYOUT.begin();
            for first in (0..task.n_rows()).step_by(TALL) {
                let pages = self.pages(first);
                let a = self.halves.weights.add(2 * first * BLOCK + pages.start * LINE);
                for column in (0..d).step_by(TALL) {
                    let b = self.halves.values.add((pages.start * d + column) / SIDE * tile);
                    product(a, 2 * BLOCK, LINE, b, (tile, d / SIDE * tile), pages.len());
                    end(said[first * d + column..].as_mut_ptr(), d);
                }
            }
        }
    }

    /// The values of the pages in use: two positions in a lane, 16 columns a tile.
    ///
    /// # Safety
    /// As [`scores`](Self::scores).
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn open_values(&self) {
        let d = self.task.pages.shape().head_size;
        // SAFETY: the caller's.
        unsafe {
            let order = amx::pair_order();
            for page in self.used.clone() {
                let (from, to) = (self.opened.pages[page].1, self.halves.values.add(page * PAGE * d * 2));
                let n_written = self.n_written.saturating_sub(page * PAGE);
                for pair in 0..PAGE / 2 {
                    for column in (0..d).step_by(SIDE) {
                        let at = from.add(2 * pair * d + column);
                        let (mut first, mut second) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                        if 2 * pair < n_written {
                            first = _mm512_loadu_ps(at);
                        }
                        if 2 * pair + 1 < n_written {
                            second = _mm512_loadu_ps(at.add(d));
                        }
                        let to = to.add(column / SIDE * SIDE * LINE + pair * LINE);
                        _mm512_storeu_si512(to.cast(), amx::pairs(first, second, order));
                    }
                }
            }
        }
    }

    /// Row `i`'s exponentials as weights of the positions in `pages`, zero where it does not look.
    ///
    /// # Safety
    /// As [`scores`](Self::scores).
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn weigh(&self, i: usize, pages: &Range<usize>, row: &mut [f32]) {
        let seen = self.term(i);
        let (start, end) = (pages.start * PAGE, pages.end * PAGE);
        row[start..seen.start.clamp(start, end)].fill(0.0);
        row[seen.end.clamp(start, end)..end].fill(0.0);
        // SAFETY: the caller's; a row of weights is a block.
        unsafe {
            for page in pages.clone() {
                if let Some((_, values)) = self.opened.scales[page] {
                    for column in (0..PAGE).step_by(SIDE) {
                        let at = row[page * PAGE + column..].as_mut_ptr();
                        let scaled =
                            _mm512_mul_ps(_mm512_loadu_ps(at), _mm512_loadu_ps(values[column..].as_ptr()));
                        _mm512_storeu_ps(at, scaled);
                    }
                }
            }
            let to = self.halves.weights.add(2 * i * BLOCK + pages.start * LINE);
            lines(row[start..end].as_ptr(), end - start, to, LINE);
        }
    }
}
