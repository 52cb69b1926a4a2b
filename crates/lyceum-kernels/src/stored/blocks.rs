//! The loops around the tiles: which task computes which columns.
//!
//! ```text
//! fill the panels of activations, once for each kind of words that the parts need
//! for some woven tiles of a part:                (a task each, a thread's behind one another in memory)
//!   for a stretch of k:                          (all of it for a lone panel: the weight streams by once)
//!     open the weight                            (for many panels, where its type has an opened form)
//!     for panels of rows, the tallest first:
//!       for the woven tiles of a group, and in them the tiles that one call spans:  one call
//!       behind the last stretch:                 what stood out of the rows, and the epilogue
//! ```
//! A stretch of the woven tiles stays in the cache while the panels pass by, and a panel's sums until they are finished.

use super::activations::{Panels, RowLen};
use super::engine::{Blocking, Engine, GROUP_MAX, Opened, Shape, Shapes, Words};
use super::formats::{ROWS, WOVEN};
use super::layout::block_parts;
use super::opened::Opening;
use super::outliers::{CompleteFn, Completion, Known, Outliers};
use super::tile::{Ahead, Start, Stream, Tile};
use super::weight::StoredWeight;
use crate::class::RowClass;
use crate::cpu::CpuPath;
use crate::matmul::Finish;
use crate::pool::{self, SendPtr};
use crate::scratch;
use std::ops::Range;

/// Multiply-adds below which waking other threads costs more than it brings.
const ALONE_MAX: usize = 512 * 1024;
/// Numbers below which the calling thread fills the panels.
const FILL_ALONE_MAX: usize = 16 * 1024;
/// Tasks that each thread should find.
const TASKS_PER_THREAD: usize = 20;
/// Rows from which on steps of a weight are kept for what stands out of several.
const KNOWN_MIN: usize = 16;
/// Tiles that a task takes at most.
const TILES_MAX: usize = 16 * WOVEN;

/// One product.
pub(super) struct Product<'a> {
    pub path: CpuPath,
    pub engine: Engine,
    pub class: RowClass,
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

/// Kinds of words that one product can need: those of the types that are not the same.
const KINDS_MAX: usize = 8;

/// The kinds of words that the parts need, each once.
fn kinds_of(p: &Product<'_>) -> [Option<Words>; KINDS_MAX] {
    let mut kinds = [None; KINDS_MAX];
    for weight in p.parts {
        let words = Some(p.engine.words(weight.tile_kind(), p.class));
        if !kinds.contains(&words) {
            let free = kinds.iter_mut().find(|kind| kind.is_none());
            *free.expect("there are not as many kinds of words: bug") = words;
        }
    }
    kinds
}

/// Computes the product.
///
/// # Safety
/// `k` is not 0; the processor has the engine; `out` is good for `[m, n]` and the epilogue's pointers for its shapes.
pub(super) unsafe fn run(p: &Product<'_>) {
    let kinds = kinds_of(p);
    let len_of = |words: Words| p.m * RowLen::of(words, p.engine.order(words, p.m), p.k).total();
    let total: usize = kinds.iter().flatten().map(|&words| len_of(words)).sum();
    let has_bytes = kinds.iter().flatten().any(|words| words.are_bytes());
    let parted = if has_bytes { p.m * Outliers::row_len(p.k) } else { 0 };
    scratch::with_f32(total + parted, |buffer| {
        let (parted, mut rest) = buffer.split_at_mut(parted);
        let outliers = has_bytes.then(|| Outliers::new(p.k, p.m, parted));
        let panels = kinds.map(|words| {
            let words = words?;
            let (own, others) = std::mem::take(&mut rest).split_at_mut(len_of(words));
            rest = others;
            let own = Panels::new((words, p.engine.order(words, p.m)), p.k, p.m, own);
            // SAFETY: the processor has the engine.
            unsafe { fill(p, &own, outliers.as_ref()) };
            Some(own)
        });
        // SAFETY: the caller's.
        unsafe { multiply(p, &panels, outliers.as_ref()) }
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

/// How `m` rows are cut: into panels of the main shape, then the tallest first; where a taller shape takes the
/// last of the main ones and all that is left, it does.
fn stacks(shapes: Shapes, m: usize) -> impl Iterator<Item = Stack> {
    let Shapes { all, main } = shapes;
    let height = all[main].height;
    let is_taken = |shape: &Shape| shape.height > height && shape.height == height + m % height;
    let n_main = (m / height) - usize::from(m > height && all.iter().any(is_taken));
    let mut first_row = 0;
    std::iter::once((main, n_main)).chain((0..all.len()).rev().map(|shape| (shape, usize::MAX))).filter_map(
        move |(shape, most)| {
            let Shape { height, span } = all[shape];
            let n_panels = ((m - first_row) / height).min(most);
            let stack = Stack { shape, height, span, first_row, n_panels };
            first_row += n_panels * height;
            (n_panels > 0).then_some(stack)
        },
    )
}

/// # Safety
/// The processor has the engine.
unsafe fn fill(p: &Product<'_>, panels: &Panels, outliers: Option<&Outliers>) {
    let x = SendPtr(p.x.as_ptr().cast_mut());
    for stack in stacks(p.engine.shapes(panels.kind, p.m), p.m) {
        let one = |i: usize| {
            // SAFETY: `x` holds all rows; each task has its panel.
            unsafe {
                panels.fill(p.engine, (x.get(), outliers), stack.first_row + i * stack.height, stack.height)
            }
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
unsafe fn multiply(p: &Product<'_>, panels: &[Option<Panels>], outliers: Option<&Outliers>) {
    let all_tiles: usize = p.parts.iter().map(|w| w.n_tiles()).sum();
    let alone = p.m * p.n * p.k <= ALONE_MAX;
    let first = p
        .parts
        .first()
        .map(|weight| p.engine.blocking(p.engine.words(weight.tile_kind(), p.class), p.m).group);
    let group = first.unwrap_or(1);
    let wanted = if alone { 1 } else { TASKS_PER_THREAD / group * pool::threads() };
    // Whole woven tiles; not too many, or the last task is waited for.
    let per_task = (all_tiles / wanted).next_multiple_of(WOVEN).clamp(WOVEN, TILES_MAX);
    let tasks_of = |w: &StoredWeight| w.n_tiles().div_ceil(per_task);
    let task = |mut i: usize| {
        let mut column = 0;
        for &weight in p.parts {
            let n_tasks = tasks_of(weight);
            if i < n_tasks {
                let tiles = i * per_task..((i + 1) * per_task).min(weight.n_tiles());
                let words = p.engine.words(weight.tile_kind(), p.class);
                let panels = panels.iter().flatten().find(|panels| panels.kind == words);
                let panels = *panels.expect("every part's words were filled: bug");
                // SAFETY: no other task has these columns.
                return unsafe { columns(p, &Place { weight, column, panels, outliers }, tiles) };
            }
            i -= n_tasks;
            column += weight.n();
        }
    };
    let n_tasks = p.parts.iter().map(|w| tasks_of(w)).sum();
    if alone { (0..n_tasks).for_each(task) } else { pool::parallel_stretches(n_tasks, task) }
}

/// A weight, its first column in the result, and its activations.
struct Place<'a> {
    weight: &'a StoredWeight,
    column: usize,
    panels: Panels,
    /// What was taken out of the rows before they became bytes.
    outliers: Option<&'a Outliers>,
}

/// Some tiles of a part, for all rows.
///
/// # Safety
/// As [`run`]; nobody else has these columns.
unsafe fn columns(p: &Product<'_>, place: &Place<'_>, tiles: Range<usize>) {
    let (kind, words) = (place.weight.tile_kind(), place.panels.kind);
    let n_blocks = p.k.div_ceil(words.block_len());
    let n_panels: usize = stacks(p.engine.shapes(words, p.m), p.m).map(|stack| stack.n_panels).sum();
    let opened = p.engine.opened(kind, words, p.m);
    let (head, body) = opened.map_or_else(|| block_parts(kind), |opened| (opened.head, opened.body));
    let Blocking { stretch_bytes, group } = p.engine.blocking(words, p.m);
    let most = if n_panels == 1 && opened.is_none() {
        n_blocks
    } else {
        (stretch_bytes / ((head + body) * WOVEN)).max(1)
    };
    // All of them about equally long, and of blocks that belong together.
    let stretch = n_blocks
        .div_ceil(n_blocks.div_ceil(most))
        .next_multiple_of(words.blocks_together(kind))
        .min(n_blocks);
    let woven_bytes = stretch * (head + body) * WOVEN;
    let n_woven = group.min(tiles.len().div_ceil(WOVEN));
    let room = if opened.is_some() { woven_bytes * n_woven / size_of::<f32>() } else { 0 };
    let complete = place.outliers.zip(p.engine.complete(kind));
    let known = if complete.is_some() && p.m >= KNOWN_MIN { Known::len(p.k) } else { 0 };
    scratch::with_f32(room + known * n_woven, |buffer| {
        let (buffer, known_by) = buffer.split_at_mut(room);
        let buffer: *mut u8 = buffer.as_mut_ptr().cast();
        for first in tiles.clone().step_by(group * WOVEN) {
            let together = first..tiles.end.min(first + group * WOVEN);
            let woven = |first: usize| first..together.end.min(first + WOVEN);
            let mut ending = Ending { complete, known: [const { None }; GROUP_MAX] };
            if known > 0 {
                for (to, buffer) in ending.known.iter_mut().zip(known_by.chunks_exact_mut(known)) {
                    *to = Some(Known::new(p.k, buffer));
                }
            }
            for at in (0..n_blocks).step_by(stretch) {
                let blocks = at..n_blocks.min(at + stretch);
                // In blocks of the weight.
                let own = |blocks: &Range<usize>| {
                    let numbers = words.block_len();
                    let len = kind.block_len().max(numbers);
                    blocks.start * numbers / len..blocks.end * numbers / len
                };
                let source = |i: usize, first: usize| {
                    // Behind it in memory: the next stretch, or the woven tiles of the next group.
                    let (tile, block) = match blocks.end {
                        end if end == n_blocks => (first + n_woven * WOVEN, 0),
                        end => (first, own(&(end..end)).start),
                    };
                    let next = place.weight.first_byte(tile, block);
                    let own = own(&blocks);
                    match opened {
                        None => {
                            let source = Source::of(place.weight, &woven(first), own.start);
                            if n_panels > 1 { source.before(next, own.len()) } else { source }
                        }
                        // SAFETY: the buffer has room for a stretch of each; the rest is the caller's.
                        Some(opened) => unsafe {
                            let to = buffer.wrapping_add(i * woven_bytes);
                            Source::open(place.weight, &woven(first), &own, (opened, to), next)
                        },
                    }
                };
                let mut sources = [const { None }; GROUP_MAX];
                for ((i, first), to) in together.clone().step_by(WOVEN).enumerate().zip(&mut sources) {
                    *to = Some((source(i, first), woven(first)));
                }
                let ending = (blocks.end == n_blocks).then_some(&mut ending);
                // SAFETY: the caller's; the tiles are woven.
                unsafe { together_by_rows(p, place, &sources, blocks, ending) }
            }
        }
    });
}

/// What is done to sums that are complete but for what stood out.
struct Ending<'a> {
    complete: Option<(&'a Outliers, CompleteFn)>,
    /// Of each of the woven tiles of a group.
    known: [Option<Known>; GROUP_MAX],
}

impl Ending<'_> {
    /// Ends some rows of some woven tiles.
    ///
    /// # Safety
    /// As [`columns`].
    unsafe fn run(
        &mut self,
        p: &Product<'_>,
        place: &Place<'_>,
        i: usize,
        tiles: &Range<usize>,
        rows: &Range<usize>,
    ) {
        let weight = place.weight;
        if let Some((outliers, complete)) = self.complete {
            let (out, known) = (p.out.wrapping_add(place.column), self.known[i].as_mut());
            let (tiles, rows) = (tiles.clone(), rows.clone());
            let mut completion = Completion { outliers, weight, tiles, rows, out, out_row: p.n, known };
            // SAFETY: the rests' sums are complete, and the columns this task's alone.
            unsafe { complete(&mut completion) }
        }
        if let Some(finish) = &p.finish {
            let columns = place.column + tiles.start * ROWS..place.column + weight.n().min(tiles.end * ROWS);
            // SAFETY: the columns are complete and this task's alone.
            unsafe { finish.run(p.path, p.out, p.n, p.n, rows.clone(), columns) }
        }
    }
}

/// A stretch of some woven tiles: where the first has its head and body, the bytes of both, and from a block to
/// the next.
struct Source {
    heads: *const u8,
    bodies: *const u8,
    head: usize,
    body: usize,
    block_step: usize,
    opened: Option<&'static Opened>,
    /// What will be opened next in its place.
    ahead: Ahead,
}

impl Source {
    /// As the weight stands in memory, from block `start` on.
    fn of(weight: &StoredWeight, woven: &Range<usize>, start: usize) -> Source {
        let ((head, body), (heads, bodies, block_step)) =
            (block_parts(weight.tile_kind()), weight.tile(woven.start));
        let skip = start * block_step;
        let (heads, bodies) = (heads.wrapping_add(skip), bodies.wrapping_add(skip));
        Source { heads, bodies, head, body, block_step, opened: None, ahead: Ahead::NOTHING }
    }

    /// With what is `next` in memory, as many blocks.
    fn before(self, next: *const u8, n_blocks: usize) -> Source {
        Source { ahead: Ahead { at: next, lines: n_blocks * self.block_step / 64 }, ..self }
    }

    /// Opened, in `to`.
    ///
    /// # Safety
    /// The tiles are woven; `to` has room for them; the processor has the engine.
    unsafe fn open(
        weight: &StoredWeight,
        woven: &Range<usize>,
        blocks: &Range<usize>,
        (opened, to): (&'static Opened, *mut u8),
        next: *const u8,
    ) -> Source {
        let (source, n_tiles) = (Source::of(weight, woven, blocks.start), woven.len());
        let Source { heads, bodies, block_step, ahead, .. } = source.before(next, blocks.len());
        let opening = Opening { heads, bodies, block_step, n_tiles, n_blocks: blocks.len(), to };
        // SAFETY: the caller's.
        unsafe { (opened.open)(&opening) }
        let &Opened { head, body, .. } = opened;
        let bodies = to.wrapping_add(n_tiles * head);
        let block_step = n_tiles * (head + body);
        Source { heads: to, bodies, head, body, block_step, opened: Some(opened), ahead }
    }
}

/// A stretch of some woven tiles, for all rows: a panel of rows meets all of them before the next one. Behind the last
/// stretch the panel is ended.
///
/// # Safety
/// As [`columns`].
unsafe fn together_by_rows(
    p: &Product<'_>,
    place: &Place<'_>,
    sources: &[Option<(Source, Range<usize>)>],
    blocks: Range<usize>,
    mut ending: Option<&mut Ending<'_>>,
) {
    let (kind, words) = (place.weight.tile_kind(), place.panels.kind);
    let all_stacks = || stacks(p.engine.shapes(words, p.m), p.m);
    let n_panels: usize = all_stacks().map(|stack| stack.n_panels).sum();
    let mut turn = 0;
    for stack in all_stacks() {
        // SAFETY: the processor has the engine; sessions end with the panels of their height.
        #[cfg(target_arch = "x86_64")]
        let _session = unsafe { p.engine.begin(words, kind, stack.shape, p.m) };
        for row in (0..stack.n_panels).map(|i| stack.first_row + i * stack.height) {
            for (source, woven) in sources.iter().flatten() {
                // SAFETY: the caller's.
                unsafe { panel(p, place, (source, woven), blocks.clone(), (stack, row), (turn, n_panels)) }
            }
            turn += 1;
            let Some(ending) = &mut ending else { continue };
            for (i, (_, woven)) in sources.iter().flatten().enumerate() {
                // SAFETY: the caller's: no stretch is left.
                unsafe { ending.run(p, place, i, woven, &(row..row + stack.height)) }
            }
        }
    }
}

/// A stretch of some woven tiles, for the panel of rows that begins at `row`: the `turn`th of `turns` panels.
///
/// # Safety
/// As [`columns`].
unsafe fn panel(
    p: &Product<'_>,
    place: &Place<'_>,
    (source, woven): (&Source, &Range<usize>),
    blocks: Range<usize>,
    (stack, row): (Stack, usize),
    (turn, turns): (usize, usize),
) {
    let (weight, a) = (place.weight, &place.panels);
    let len = RowLen::of(a.kind, a.order, p.k);
    let before = RowLen::of(a.kind, a.order, blocks.start * a.kind.block_len());
    // Where the panel has the stretch in an array of so many numbers a row, so many of them before the stretch.
    let from = |len: usize, before: usize| row * len + before * stack.height;
    let tile = match source.opened {
        Some(opened) => opened.tiles[stack.shape],
        None => p.engine.tile(weight.tile_kind(), stack.shape),
    };
    let ahead = source.ahead.part(turn, turns);
    let n_spans = woven.len().div_ceil(stack.span);
    for first in woven.clone().step_by(stack.span) {
        let n_tiles = stack.span.min(woven.end - first);
        let i = first - woven.start;
        // The first panel asks for the weight; the others find it in the cache.
        let is_first = row == 0 && i == 0 && source.opened.is_none();
        let t = Tile {
            heads: source.heads.wrapping_add(i * source.head),
            bodies: source.bodies.wrapping_add(i * source.body),
            block_step: source.block_step,
            n_tiles,
            stream: if is_first { p.engine.stream() } else { Stream::Cache },
            ahead: ahead.part(i / stack.span, n_spans),
            words: a.words.wrapping_add(from(len.words, before.words)),
            scales: a.scales.wrapping_add(from(len.scales, before.scales)),
            sums: a.sums.wrapping_add(from(len.sums, before.sums)),
            shifts: a.shifts.wrapping_add(from(len.shifts, before.shifts)),
            n_blocks: blocks.len(),
            out: p.out.wrapping_add(row * p.n + place.column + first * ROWS),
            out_row: p.n,
            rows: stack.height,
            cols: (n_tiles * ROWS).min(weight.n() - first * ROWS),
            start: if blocks.start == 0 { Start::Zero } else { Start::Output },
        };
        // SAFETY: the weight's tiles, the panel and the columns are there; the processor has the
        // engine.
        unsafe { tile(&t) }
    }
}
