//! The loops around the tiles: what is packed where, and which task computes which block of the result.
//!
//! ```text
//! for a stretch of k that fits the budget:            (one, unless the operands are huge)
//!   pack a, and b where several row blocks share it   (a task per group of panels)
//!   for each block of rows × columns:                 (a task each, claimed as threads come free)
//!     for KC words of k:  for panels of b:  for panels of a:  one tile
//!     the epilogue, when k is complete
//! ```
//! A panel of `b` stays in L1 while the panels of `a` pass by, and the block of `a` stays in L2.

use super::epilogue::Finish;
use super::pack::{Lines, Panel, SPILL, Words, pack};
use super::tile::{PANEL, Start, Tile, Tiles};
use crate::cpu::CpuPath;
use crate::elementwise::Write;
use crate::pool::{self, SendPtr};
use crate::scratch;
use std::ops::Range;

/// Words of `k` that a panel of `b` holds while it stays in L1.
const KC: usize = 256;
/// Rows of a block: `KC` words of each fill a part of L2.
const BLOCK_ROWS: usize = 144;
/// Panels of `b` in a block; a multiple of what every tile spans where there are that many.
const BLOCK_PANELS: usize = 16;
/// Words packed at a time: 32 MiB.
const PACK_WORDS_MAX: usize = 8 << 20;
/// Multiply-adds below which waking other threads costs more than it brings.
const ALONE_MAX: usize = 512 * 1024;
/// Words that a packing task takes.
const PACK_TASK: usize = 16 * 1024;

/// An operand as its panels see it: `panel` numbers to the next row of `a` (column of `b`), lines as stored.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub src: *const f32,
    pub lines: Lines,
    pub stride: usize,
}

/// Where the tiles read `b`.
#[derive(Clone, Copy)]
pub(super) enum Right {
    Stored(Operand),
    /// Panels over the whole of `k`, packed before.
    Panels(*const f32),
}

/// One product.
pub(super) struct Product {
    pub path: CpuPath,
    pub tiles: &'static Tiles,
    pub words: Words,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Right,
    pub out: *mut f32,
    pub out_stride: usize,
    pub write: Write,
    pub finish: Option<Finish>,
}

// SAFETY: the pointers come from slices that outlive the call; tasks write disjoint blocks of `out` and of
// the epilogue's `pre`, and disjoint panels of the scratch.
unsafe impl Sync for Product {}

/// An operand's panels for one stretch of `k`.
#[derive(Clone, Copy)]
enum Source {
    /// Words side by side in the operand itself, `step` apart along `k`.
    Direct { base: *const f32, step: usize },
    /// Packed, `panel` words to the next.
    Packed { base: *const f32, panel: usize },
    /// Each task packs the panel it is about to use.
    Here,
}

/// A stretch of `k`: its first number and its length in numbers.
#[derive(Clone, Copy)]
struct Stretch {
    at: usize,
    len: usize,
}

/// How the result is cut into blocks, in panels.
struct Grid {
    block_rows: usize,
    block_panels: usize,
    n_row_blocks: usize,
    n_tasks: usize,
    alone: bool,
}

/// Computes the product.
///
/// # Safety
/// The operands' pointers are good for `m × k` and `k × n` numbers, `out` for `m` rows of `n`, the epilogue's
/// for its shapes; `path` is this processor's and has the instructions of `tiles` and `words`.
pub(super) unsafe fn run(p: &Product) {
    if p.m == 0 || p.n == 0 {
        return;
    }
    if p.k == 0 {
        // SAFETY: as below.
        return unsafe { empty_sum(p) };
    }
    let grid = grid(p);
    let depth = p.words.depth();
    let row_panels = p.m.div_ceil(p.tiles.mr);
    let column_panels = p.n.div_ceil(PANEL);
    let a_direct = direct_a(p);
    let fits = (PACK_WORDS_MAX / (p.m + column_panels * PANEL) / KC).max(1) * KC * depth;
    for at in (0..p.k).step_by(fits) {
        let stretch = Stretch { at, len: fits.min(p.k - at) };
        let k_words = stretch.len.div_ceil(depth);
        let a_panel = (k_words * p.tiles.mr + SPILL).next_multiple_of(PANEL);
        let a_words = if a_direct { 0 } else { row_panels * a_panel };
        let b = right_source(p, &grid, stretch);
        let b_words = if b.is_none() { column_panels * k_words * PANEL } else { 0 };
        scratch::with_f32(a_words + b_words, |buffer| {
            let (a_buffer, b_buffer) = buffer.split_at_mut(a_words);
            let (a_to, b_to) = (SendPtr(a_buffer.as_mut_ptr()), SendPtr(b_buffer.as_mut_ptr()));
            // SAFETY: the buffers have room for all panels; the caller vouches for the operands.
            unsafe {
                pack_both(p, stretch, (a_words > 0).then_some(a_to), (b_words > 0).then_some(b_to), &grid)
            };
            let a = if a_direct {
                let Operand { src, lines, stride } = p.a;
                let step = if lines == Lines::AcrossK { stride } else { 1 };
                Source::Direct { base: src.wrapping_add(stretch.at * step), step }
            } else {
                Source::Packed { base: a_to.get(), panel: a_panel }
            };
            let b = b.unwrap_or(Source::Packed { base: b_to.get(), panel: k_words * PANEL });
            let sources = SharedSources(a, b);
            for_tasks(grid.alone, grid.n_tasks, |task| {
                let SharedSources(a, b) = *sources.whole();
                let (i, j) = (task % grid.n_row_blocks, task / grid.n_row_blocks);
                let rows = i * grid.block_rows..((i + 1) * grid.block_rows).min(row_panels);
                let columns = j * grid.block_panels..((j + 1) * grid.block_panels).min(column_panels);
                // SAFETY: blocks are disjoint; the sources cover the stretch.
                unsafe { block(p, stretch, a, b, rows, columns) }
            });
        });
    }
}

/// A sum over nothing: zeros, or what was there, and the epilogue.
unsafe fn empty_sum(p: &Product) {
    // SAFETY: the caller's pointers are good for the whole result.
    unsafe {
        if p.write == Write::Overwrite {
            for i in 0..p.m {
                std::slice::from_raw_parts_mut(p.out.add(i * p.out_stride), p.n).fill(0.0);
            }
        }
        if let Some(finish) = &p.finish {
            finish.run(p.path, p.out, p.out_stride, p.n, 0..p.m, 0..p.n);
        }
    }
}

struct SharedSources(Source, Source);
// SAFETY: the tasks only read through the sources.
unsafe impl Sync for SharedSources {}
impl SharedSources {
    /// Captured as one, so that the closure is `Sync` with it.
    fn whole(&self) -> &SharedSources {
        self
    }
}

fn for_tasks(alone: bool, n_tasks: usize, f: impl Fn(usize) + Sync) {
    if alone { (0..n_tasks).for_each(f) } else { pool::parallel_for(n_tasks, f) }
}

/// Blocks small enough that every thread finds several, large enough to reuse what they read.
fn grid(p: &Product) -> Grid {
    let row_panels = p.m.div_ceil(p.tiles.mr);
    let column_panels = p.n.div_ceil(PANEL);
    let alone = p.m * p.n * p.k <= ALONE_MAX || pool::threads() == 1;
    let wanted = if alone { 1 } else { 4 * pool::threads() };
    let mut row_blocks = row_panels.div_ceil(BLOCK_ROWS / p.tiles.mr);
    let span = p.tiles.panels(p.m.min(p.tiles.mr));
    let mut block_panels = BLOCK_PANELS.min(column_panels.next_multiple_of(span));
    while row_blocks * column_panels.div_ceil(block_panels) < wanted && block_panels >= 2 * span.max(2) {
        block_panels = (block_panels / 2).next_multiple_of(span);
    }
    while row_blocks * column_panels.div_ceil(block_panels) < wanted && row_panels.div_ceil(row_blocks) > 2 {
        row_blocks *= 2;
    }
    let block_rows = row_panels.div_ceil(row_blocks);
    let n_row_blocks = row_panels.div_ceil(block_rows);
    Grid {
        block_rows,
        block_panels,
        n_row_blocks,
        n_tasks: n_row_blocks * column_panels.div_ceil(block_panels),
        alone,
    }
}

/// A lone row, or rows that lie side by side already and are read too few times to be worth a copy.
fn direct_a(p: &Product) -> bool {
    let few = p.n <= 4 * PANEL && p.m * p.n * p.k <= ALONE_MAX;
    p.words == Words::F32 && (p.m == 1 || p.a.lines == Lines::AcrossK && few)
}

/// Where `b` is read without packing it all first; `None` when that pays.
fn right_source(p: &Product, grid: &Grid, stretch: Stretch) -> Option<Source> {
    let depth = p.words.depth();
    match p.b {
        Right::Panels(base) => {
            let base = base.wrapping_add(stretch.at / depth * PANEL);
            Some(Source::Packed { base, panel: p.k.div_ceil(depth) * PANEL })
        }
        Right::Stored(b) if direct_b(p, b) => {
            Some(Source::Direct { base: b.src.wrapping_add(stretch.at * b.stride), step: b.stride })
        }
        Right::Stored(_) => (grid.n_row_blocks == 1).then_some(Source::Here),
    }
}

/// Columns that lie side by side, read by one or two panels of rows.
fn direct_b(p: &Product, b: Operand) -> bool {
    p.words == Words::F32 && b.lines == Lines::AcrossK && p.m <= 2 * p.tiles.mr
}

/// # Safety
/// As [`run`]; the buffers have room for every panel of the stretch.
unsafe fn pack_both(
    p: &Product,
    stretch: Stretch,
    a_to: Option<SendPtr<f32>>,
    b_to: Option<SendPtr<f32>>,
    grid: &Grid,
) {
    let k_words = stretch.len.div_ceil(p.words.depth());
    let a_panel = (k_words * p.tiles.mr + SPILL).next_multiple_of(PANEL);
    let a_group = (PACK_TASK / a_panel).max(1);
    let b_group = (PACK_TASK / (k_words * PANEL)).max(1);
    let row_panels = p.m.div_ceil(p.tiles.mr);
    let column_panels = p.n.div_ceil(PANEL);
    let a_tasks = if a_to.is_some() { row_panels.div_ceil(a_group) } else { 0 };
    let b_tasks = if b_to.is_some() { column_panels.div_ceil(b_group) } else { 0 };
    let little = p.m * stretch.len <= PACK_TASK && b_to.is_none();
    for_tasks(grid.alone || little, a_tasks + b_tasks, |task| {
        if let (Some(to), true) = (a_to, task < a_tasks) {
            for i in task * a_group..row_panels.min((task + 1) * a_group) {
                let rows = p.tiles.mr.min(p.m - i * p.tiles.mr);
                let panel = panel_of(p.a, i * p.tiles.mr, rows, rows, stretch.at, stretch.len);
                // SAFETY: panel `i` has its own room, the spill included.
                unsafe { pack(p.path, p.words, panel, to.get().add(i * a_panel)) }
            }
        } else if let (Some(to), Right::Stored(b)) = (b_to, p.b) {
            let task = task - a_tasks;
            for j in task * b_group..column_panels.min((task + 1) * b_group) {
                let columns = PANEL.min(p.n - j * PANEL);
                let panel = panel_of(b, j * PANEL, columns, PANEL, stretch.at, stretch.len);
                // SAFETY: panel `j` has its own room.
                unsafe { pack(p.path, p.words, panel, to.get().add(j * k_words * PANEL)) }
            }
        }
    });
}

/// Rows `first ..` of `a`, or columns of `b`, over `len` numbers of `k` from `at`.
fn panel_of(x: Operand, first: usize, rows: usize, width: usize, at: usize, len: usize) -> Panel {
    let offset = match x.lines {
        Lines::AlongK => first * x.stride + at,
        Lines::AcrossK => at * x.stride + first,
    };
    Panel { src: x.src.wrapping_add(offset), lines: x.lines, stride: x.stride, rows, width, k: len }
}

/// One block of the result over one stretch of `k`. Rows and columns are counted in panels.
///
/// # Safety
/// As [`run`]; the sources cover the stretch, and no other task has this block.
unsafe fn block(
    p: &Product,
    stretch: Stretch,
    a: Source,
    b: Source,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let here = matches!(b, Source::Here) || matches!(b, Source::Direct { .. }) && !p.n.is_multiple_of(PANEL);
    let span = p.tiles.panels(p.m.min(p.tiles.mr)).max(p.tiles.panels((p.m - 1) % p.tiles.mr + 1));
    let local_words = if here { KC * PANEL * span } else { 0 };
    scratch::with_f32(local_words, |local| {
        let depth = p.words.depth();
        let n_steps = stretch.len.div_ceil(KC * depth);
        let step = stretch.len.div_ceil(n_steps).next_multiple_of(4 * depth);
        for k0 in (0..stretch.len).step_by(step) {
            let part = Stretch { at: stretch.at + k0, len: step.min(stretch.len - k0) };
            // SAFETY: the part lies in the stretch; `local` holds the panels of the widest tile.
            unsafe { part_of_block(p, part, stretch.at, (a, b), (rows.clone(), columns.clone()), local) }
        }
    });
    let complete = stretch.at + stretch.len == p.k;
    if let (Some(finish), true) = (&p.finish, complete) {
        let rows = rows.start * p.tiles.mr..p.m.min(rows.end * p.tiles.mr);
        let columns = columns.start * PANEL..p.n.min(columns.end * PANEL);
        // SAFETY: the block is complete and this task's alone.
        unsafe { finish.run(p.path, p.out, p.out_stride, p.n, rows, columns) }
    }
}

/// # Safety
/// As [`block`]; `local` has room for `KC` words of the panels that a tile spans.
unsafe fn part_of_block(
    p: &Product,
    part: Stretch,
    stretch_at: usize,
    (a, b): (Source, Source),
    (rows, columns): (Range<usize>, Range<usize>),
    local: &mut [f32],
) {
    let mr = p.tiles.mr;
    // Full panels of rows, then the rest, which may span more panels of `b` at a time.
    let full = rows.start..rows.end.min(p.m / mr);
    for (group, height) in [(full.clone(), mr), (full.end.max(rows.start)..rows.end, p.m % mr)] {
        if group.is_empty() {
            continue;
        }
        let span = p.tiles.panels(height);
        let mut j = columns.start;
        while j < columns.end {
            let n_panels = if columns.end - j >= span { span } else { 1 };
            // SAFETY: the caller's contract; panels `j .. j + n_panels` are inside the block.
            unsafe {
                let (b, b_step, b_panel) = right_panels(p, part, stretch_at, b, j, n_panels, local);
                let tile = p.tiles.tile(height, n_panels);
                for i in group.clone() {
                    let (a, a_step) = left_panel(p, part, stretch_at, a, i, height);
                    tile(&Tile {
                        k: part.len.div_ceil(p.words.depth()),
                        a,
                        a_step,
                        b,
                        b_step,
                        b_panel,
                        c: p.out.add(i * mr * p.out_stride + j * PANEL),
                        c_row: p.out_stride,
                        cols: (n_panels * PANEL).min(p.n - j * PANEL),
                        start: if part.at > 0 || p.write == Write::Add { Start::Output } else { Start::Zero },
                    });
                }
            }
            j += n_panels;
        }
    }
}

/// Panel `i` of `a` at a part of `k`: its first word and the step between words.
fn left_panel(
    p: &Product,
    part: Stretch,
    stretch_at: usize,
    a: Source,
    i: usize,
    height: usize,
) -> (*const f32, usize) {
    let words = (part.at - stretch_at) / p.words.depth();
    match a {
        Source::Direct { base, step } => (base.wrapping_add(words * step + i * p.tiles.mr), step),
        Source::Packed { base, panel } => (base.wrapping_add(i * panel + words * height), height),
        Source::Here => unreachable!("`a` is packed before the tiles run: bug"),
    }
}

/// Panels `j .. j + n_panels` of `b` at a part of `k`, packed into `local` if they are nowhere yet: the first
/// word, the step between words and that between panels.
///
/// # Safety
/// As [`part_of_block`].
unsafe fn right_panels(
    p: &Product,
    part: Stretch,
    stretch_at: usize,
    b: Source,
    j: usize,
    n_panels: usize,
    local: &mut [f32],
) -> (*const f32, usize, usize) {
    let words = (part.at - stretch_at) / p.words.depth();
    match b {
        Source::Packed { base, panel } => (base.wrapping_add(j * panel + words * PANEL), PANEL, panel),
        Source::Direct { base, step } if (j + n_panels) * PANEL <= p.n => {
            (base.wrapping_add(words * step + j * PANEL), step, PANEL)
        }
        Source::Direct { .. } | Source::Here => {
            let Right::Stored(operand) = p.b else { unreachable!("a packed `b` has panels: bug") };
            let panel_words = part.len.div_ceil(p.words.depth()) * PANEL;
            for q in 0..n_panels {
                let columns = PANEL.min(p.n - (j + q) * PANEL);
                let panel = panel_of(operand, (j + q) * PANEL, columns, PANEL, part.at, part.len);
                let to = &mut local[q * panel_words..(q + 1) * panel_words];
                // SAFETY: the operand covers the panel; the slice has its words.
                unsafe { pack(p.path, p.words, panel, to.as_mut_ptr()) }
            }
            (local.as_ptr(), PANEL, panel_words)
        }
    }
}
