//! The loops around the tiles: which task computes which columns.
//!
//! ```text
//! fill the panels of activations, once for each kind of words that the parts need
//! for some tiles of a part:                      (a task each, claimed as threads come free)
//!   for rows in panels of one height:
//!     for the tiles that one call spans:
//!       for a stretch of k:                      (all of it for a lone panel: the weight streams by once)
//!         for panels of that height:  one call
//!   the epilogue
//! ```
//! A stretch of the weight stays in L1 while the panels pass by.

use super::activations::{Panels, RowLen};
use super::engine::{Engine, Shape, Words};
use super::formats::ROWS;
use super::tile::{HEIGHT_MAX, SPAN_MAX, Start, Tile};
use super::weight::StoredWeight;
use crate::cpu::CpuPath;
use crate::matmul::Finish;
use crate::pool::{self, SendPtr};
use crate::scratch;

/// Bytes of weight that stay in L1 beside a panel.
const STRETCH_BYTES: usize = 32 * 1024;
/// Multiply-adds below which waking other threads costs more than it brings.
const ALONE_MAX: usize = 512 * 1024;
/// Numbers below which the calling thread fills the panels.
const FILL_ALONE_MAX: usize = 16 * 1024;
/// Tasks that each thread should find.
const TASKS_PER_THREAD: usize = 12;

/// One product.
pub(super) struct Product<'a> {
    pub path: CpuPath,
    pub engine: Engine,
    pub m: usize,
    pub k: usize,
    pub x: &'a [f32],
    pub parts: &'a [&'a StoredWeight],
    pub out: *mut f32,
    /// Columns of all parts.
    pub n: usize,
    pub finish: Option<Finish>,
}

// SAFETY: tasks write disjoint columns of `out` and of the epilogue's `pre`.
unsafe impl Sync for Product<'_> {}

const ALL_WORDS: [Words; 5] = [Words::Bytes32, Words::Bytes256, Words::Pairs, Words::Rounded, Words::F32];

/// Computes the product.
///
/// # Safety
/// `k` is not 0; the processor has the engine; `out` is good for `[m, n]` and the epilogue's pointers for its shapes.
pub(super) unsafe fn run(p: &Product<'_>) {
    let needed = ALL_WORDS.map(|words| p.parts.iter().any(|w| p.engine.words(w.tile_kind()) == words));
    let len_of = |i: usize| if needed[i] { p.m * RowLen::of(ALL_WORDS[i], p.k).total() } else { 0 };
    let total: usize = (0..ALL_WORDS.len()).map(len_of).sum();
    scratch::with_f32(total, |buffer| {
        let mut rest = buffer;
        let mut panels = [None; ALL_WORDS.len()];
        for (i, words) in ALL_WORDS.into_iter().enumerate() {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(len_of(i));
            rest = others;
            if needed[i] {
                let own = Panels::new(words, p.k, p.m, own);
                // SAFETY: the processor has the engine.
                unsafe { fill(p, &own) };
                panels[i] = Some(own);
            }
        }
        let of = |words| {
            let at = ALL_WORDS.iter().position(|&w| w == words);
            at.and_then(|i| panels[i]).expect("every part's words were filled: bug")
        };
        // SAFETY: the caller's.
        unsafe { multiply(p, &of) }
    });
}

/// Panels of one height.
#[derive(Clone, Copy, Debug)]
struct Stack {
    shape: usize,
    height: usize,
    span: usize,
    first_row: usize,
    n_panels: usize,
}

/// How `m` rows are cut: the tallest first, then what is left.
fn stacks(shapes: &[Shape], m: usize) -> impl Iterator<Item = Stack> {
    let mut first_row = 0;
    shapes.iter().enumerate().rev().filter_map(move |(shape, &Shape { height, span })| {
        let n_panels = (m - first_row) / height;
        let stack = Stack { shape, height, span, first_row, n_panels };
        first_row += n_panels * height;
        (n_panels > 0).then_some(stack)
    })
}

/// # Safety
/// The processor has the engine.
unsafe fn fill(p: &Product<'_>, panels: &Panels) {
    let x = SendPtr(p.x.as_ptr().cast_mut());
    for stack in stacks(p.engine.shapes(panels.kind), p.m) {
        let one = |i: usize| {
            // SAFETY: `x` holds all rows; each task has its panel.
            unsafe { panels.fill(p.engine, x.get(), stack.first_row + i * stack.height, stack.height) }
        };
        if stack.n_panels * stack.height * p.k <= FILL_ALONE_MAX {
            (0..stack.n_panels).for_each(one);
        } else {
            pool::parallel_for(stack.n_panels, one);
        }
    }
}

/// # Safety
/// As [`run`]; the panels are filled.
unsafe fn multiply(p: &Product<'_>, panels: &(dyn Fn(Words) -> Panels + '_)) {
    let all_tiles: usize = p.parts.iter().map(|w| w.n_tiles()).sum();
    let alone = p.m * p.n * p.k <= ALONE_MAX;
    let per_task = if alone {
        all_tiles
    } else {
        (all_tiles / (TASKS_PER_THREAD * pool::threads())).next_multiple_of(SPAN_MAX).min(4 * SPAN_MAX)
    };
    let tasks_of = |w: &StoredWeight| w.n_tiles().div_ceil(per_task.max(SPAN_MAX));
    let per_task = per_task.max(SPAN_MAX);
    let mut column = 0;
    let places: Vec<Place<'_>> = p
        .parts
        .iter()
        .map(|&weight| {
            let place = Place { weight, column, panels: panels(p.engine.words(weight.tile_kind())) };
            column += weight.n();
            place
        })
        .collect();
    let task = |mut i: usize| {
        for place in &places {
            let n_tasks = tasks_of(place.weight);
            if i < n_tasks {
                let tiles = i * per_task..((i + 1) * per_task).min(place.weight.n_tiles());
                // SAFETY: no other task has these columns.
                return unsafe { columns(p, place, tiles) };
            }
            i -= n_tasks;
        }
    };
    let n_tasks = p.parts.iter().map(|w| tasks_of(w)).sum();
    if alone { (0..n_tasks).for_each(task) } else { pool::parallel_for(n_tasks, task) }
}

/// A weight, its first column in the result, and its activations.
struct Place<'a> {
    weight: &'a StoredWeight,
    column: usize,
    panels: Panels,
}

/// Some tiles of a part, for all rows.
///
/// # Safety
/// As [`run`]; nobody else has these columns.
unsafe fn columns(p: &Product<'_>, place: &Place<'_>, tiles: std::ops::Range<usize>) {
    let weight = place.weight;
    let kind = weight.tile_kind();
    let words = place.panels.kind;
    let len = RowLen::of(words, p.k);
    let (tile_bytes, block_len) = (weight.tile_bytes(), words.block_len());
    let n_blocks = p.k.div_ceil(block_len);
    // What a row has of each array for a block of the weight.
    let steps = RowLen {
        words: len.words / n_blocks,
        scales: len.scales / n_blocks,
        sums: len.sums / n_blocks,
        shifts: len.shifts / n_blocks,
    };
    let block_bytes = tile_bytes / n_blocks;
    for stack in stacks(p.engine.shapes(words), p.m) {
        assert!(stack.height <= HEIGHT_MAX && stack.span <= SPAN_MAX, "a tile is too large: bug");
        let tile = p.engine.tile(kind, stack.shape);
        let stretch = match stack.n_panels {
            1 => n_blocks,
            _ => (STRETCH_BYTES / (block_bytes * stack.span)).max(1),
        };
        // All of them about equally long.
        let stretch = n_blocks.div_ceil(n_blocks.div_ceil(stretch));
        for first in tiles.clone().step_by(stack.span) {
            let n_tiles = stack.span.min(tiles.end - first);
            let cols = (n_tiles * ROWS).min(weight.n() - first * ROWS);
            for at in (0..n_blocks).step_by(stretch) {
                for i in 0..stack.n_panels {
                    let row = stack.first_row + i * stack.height;
                    let skip = at * stack.height;
                    let a = &place.panels;
                    let t = Tile {
                        w: weight.tile(first).wrapping_add(at * block_bytes),
                        w_step: tile_bytes,
                        n_tiles,
                        words: a.words.wrapping_add(row * len.words + skip * steps.words),
                        scales: a.scales.wrapping_add(row * len.scales + skip * steps.scales),
                        sums: a.sums.wrapping_add(row * len.sums + skip * steps.sums),
                        shifts: a.shifts.wrapping_add(row * len.shifts + skip * steps.shifts),
                        n_blocks: stretch.min(n_blocks - at),
                        out: p.out.wrapping_add(row * p.n + place.column + first * ROWS),
                        out_row: p.n,
                        cols,
                        start: if at == 0 { Start::Zero } else { Start::Output },
                    };
                    // SAFETY: the weight's tiles, the panel and the columns are there; the processor has
                    // the engine.
                    unsafe { tile(&t) }
                }
            }
        }
    }
    if let Some(finish) = &p.finish {
        let first = place.column + tiles.start * ROWS;
        let last = place.column + weight.n().min(tiles.end * ROWS);
        // SAFETY: the columns are complete and this task's alone.
        unsafe { finish.run(p.path, p.out, p.n, p.n, 0..p.m, first..last) }
    }
}
