//! The loops around the tiles: which task computes which block of the result.
//!
//! ```text
//! for a stretch of k:                            (one, unless what is packed for all grows too large)
//!   pack the operands that tasks share           (a task per group of panels)
//!   for each block of rows × columns:            (a task each, claimed as threads come free)
//!     for KC words of k:
//!       pack the block's rows of a, if they are its own
//!       for panels of b:                         (packed here, if they are its own)
//!         for panels of a:  one tile
//!     the epilogue, when k is complete
//! ```
//! A panel of `b` stays in L1 while the panels of `a` pass by, and the block of `a` stays in L2.

use super::epilogue::Finish;
use super::pack::{Lines, SPILL, Words};
use super::panels::{Group, Operand, Source, Stretch, pack_group};
use super::tile::{PANEL, Start, Tile, Tiles};
use crate::cpu::CpuPath;
use crate::elementwise::Write;
use crate::pool::{self, SendPtr};
use crate::scratch;
use crate::simd::prefetch;
use std::ops::Range;

/// Words of `k` between two visits to a tile of the result; a panel of `b` that long stays in L1.
const KC: usize = 384;
/// Rows of a block: `KC` words of each fill a part of L2.
const BLOCK_ROWS: usize = 144;
/// Panels of `b` in a block of a few rows.
const BLOCK_PANELS: usize = 16;
/// Words packed for all tasks at a time: 4 MiB.
const SHARED_WORDS_MAX: usize = 1 << 20;
/// Multiply-adds below which waking other threads costs more than it brings.
const ALONE_MAX: usize = 512 * 1024;
/// Words that a packing task takes.
const PACK_TASK: usize = 16 * 1024;
/// Lines across `k` come to packing tasks in multiples of this, a whole number of words.
const LINES: usize = 32;
/// Tasks that each thread should find.
const TASKS_PER_THREAD: usize = 4;

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

impl Product {
    fn row_panels(&self) -> usize {
        self.m.div_ceil(self.tiles.mr)
    }

    fn column_panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// What the left operand's panels hold.
    fn left_words(&self) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.tiles.is_amx {
            return Words::Lines;
        }
        self.words
    }

    /// Words along `k` that are not parted: a stretch has a multiple of them, but the last.
    fn words_together(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.tiles.is_amx {
            return super::amx::LINE_WORDS;
        }
        4
    }
}

/// Who packs an operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packer {
    /// Nobody: the tiles read it as it is stored.
    Nobody,
    /// All threads together, before the tiles.
    All,
    /// Each task, for itself.
    Task,
}

/// How a product is cut. Rows and columns are counted in panels.
struct Plan {
    block_rows: usize,
    block_panels: usize,
    n_row_blocks: usize,
    n_tasks: usize,
    /// Whether the calling thread does everything.
    alone: bool,
    a: Packer,
    b: Packer,
    /// Numbers of `k` for which shared panels are packed at a time.
    stretch: usize,
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
        // SAFETY: as the caller's.
        return unsafe { empty_sum(p) };
    }
    let plan = plan(p);
    for at in (0..p.k).step_by(plan.stretch) {
        let stretch = Stretch { at, len: plan.stretch.min(p.k - at) };
        let k_words = stretch.len.div_ceil(p.words.depth());
        let a_panel = a_panel_words(p, k_words);
        let a_words = if plan.a == Packer::All { p.row_panels() * a_panel } else { 0 };
        let b_words = if plan.b == Packer::All { p.column_panels() * k_words * PANEL } else { 0 };
        scratch::with_f32(a_words + b_words, |buffer| {
            let (a_buffer, b_buffer) = buffer.split_at_mut(a_words);
            let (a_to, b_to) = (SendPtr(a_buffer.as_mut_ptr()), SendPtr(b_buffer.as_mut_ptr()));
            // SAFETY: the buffers have room for all panels; the caller vouches for the operands. Blocks are
            // disjoint, and the sources cover the stretch.
            unsafe {
                pack_shared(p, &plan, stretch, a_to, b_to);
                let sources = Sources {
                    a: left(p, &plan, stretch, a_to.get()),
                    b: right(p, &plan, stretch, b_to.get()),
                };
                for_tasks(plan.alone, plan.n_tasks, |task| block(p, &plan, stretch, &sources, task));
            }
        });
    }
}

/// A sum over nothing: zeros, or what was there, and the epilogue.
///
/// # Safety
/// As [`run`].
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

/// Blocks small enough that every thread finds several, large enough to reuse what they read.
fn plan(p: &Product) -> Plan {
    let (row_panels, column_panels) = (p.row_panels(), p.column_panels());
    let alone = p.m * p.n * p.k <= ALONE_MAX || pool::threads() == 1;
    let wanted = if alone { 1 } else { TASKS_PER_THREAD * pool::threads() };
    let mut row_blocks = row_panels.div_ceil(BLOCK_ROWS / p.tiles.mr);
    let mut block_panels = column_panels;
    let tall = row_blocks > 1 && row_panels >= 4 * wanted;
    if tall {
        // As many for each thread, or the last ones wait for one.
        row_blocks = row_blocks.max(wanted).next_multiple_of(pool::threads());
    } else {
        let span = p.tiles.panels(p.m.min(p.tiles.mr));
        block_panels = BLOCK_PANELS.min(column_panels.next_multiple_of(span));
        while row_blocks * column_panels.div_ceil(block_panels) < wanted && block_panels >= 2 * span.max(2) {
            block_panels = (block_panels / 2).next_multiple_of(span);
        }
        while row_blocks * column_panels.div_ceil(block_panels) < wanted
            && row_panels.div_ceil(row_blocks) > 2
        {
            row_blocks *= 2;
        }
    }
    let block_rows = row_panels.div_ceil(row_blocks);
    let n_row_blocks = row_panels.div_ceil(block_rows);
    let n_column_blocks = column_panels.div_ceil(block_panels);
    let packer = |stored, n_sharing| match (stored, n_sharing) {
        (true, _) => Packer::Nobody,
        (false, 1) => Packer::Task,
        (false, _) => Packer::All,
    };
    let (a, b) = (packer(direct_a(p), n_column_blocks), packer(direct_b(p), n_row_blocks));
    let shared_rows = if a == Packer::All { row_panels * p.tiles.mr } else { 0 };
    let shared = shared_rows + if b == Packer::All { column_panels * PANEL } else { 0 };
    let stretch = match SHARED_WORDS_MAX.checked_div(shared) {
        Some(words) => (words / KC).max(1) * KC * p.words.depth(),
        None => p.k,
    };
    Plan {
        block_rows,
        block_panels,
        n_row_blocks,
        n_tasks: n_row_blocks * n_column_blocks,
        alone,
        a,
        b,
        stretch,
    }
}

/// A lone row, or rows that lie side by side already and are read too few times to be worth a copy.
fn direct_a(p: &Product) -> bool {
    let few = p.n <= 4 * PANEL && p.m * p.n * p.k <= ALONE_MAX;
    p.words == Words::F32 && (p.m == 1 || p.a.lines == Lines::AcrossK && few)
}

/// Panels packed before, or columns that lie side by side and are read by one or two panels of rows.
fn direct_b(p: &Product) -> bool {
    match p.b {
        Right::Panels(_) => true,
        Right::Stored(b) => p.words == Words::F32 && b.lines == Lines::AcrossK && p.m <= 2 * p.tiles.mr,
    }
}

fn a_panel_words(p: &Product, k_words: usize) -> usize {
    (k_words.next_multiple_of(p.words_together()) * p.tiles.mr + SPILL).next_multiple_of(PANEL)
}

/// Where the tiles of a stretch find their words.
struct Sources {
    a: Source,
    b: Source,
}
// SAFETY: the tasks only read through the sources.
unsafe impl Sync for Sources {}

fn left(p: &Product, plan: &Plan, stretch: Stretch, packed: *const f32) -> Source {
    let Operand { src, lines, stride } = p.a;
    let k_words = stretch.len.div_ceil(p.words.depth());
    match plan.a {
        Packer::All => Source::Packed { base: packed, panel: a_panel_words(p, k_words) },
        Packer::Task => Source::Own,
        Packer::Nobody => {
            let step = if lines == Lines::AcrossK { stride } else { 1 };
            Source::Direct { base: src.wrapping_add(stretch.at * step), step }
        }
    }
}

fn right(p: &Product, plan: &Plan, stretch: Stretch, packed: *const f32) -> Source {
    let depth = p.words.depth();
    match (plan.b, p.b) {
        (_, Right::Panels(base)) => {
            let base = base.wrapping_add(stretch.at / depth * PANEL);
            Source::Packed { base, panel: p.k.div_ceil(depth) * PANEL }
        }
        (Packer::All, _) => Source::Packed { base: packed, panel: stretch.len.div_ceil(depth) * PANEL },
        (Packer::Task, _) => Source::Own,
        (Packer::Nobody, Right::Stored(b)) => {
            Source::Direct { base: b.src.wrapping_add(stretch.at * b.stride), step: b.stride }
        }
    }
}

fn for_tasks(alone: bool, n_tasks: usize, f: impl Fn(usize) + Sync) {
    if alone { (0..n_tasks).for_each(f) } else { pool::parallel_for(n_tasks, f) }
}

/// Packs what all tasks share.
///
/// # Safety
/// As [`run`]; the buffers have room for every panel of the operands that are shared.
unsafe fn pack_shared(p: &Product, plan: &Plan, stretch: Stretch, a_to: SendPtr<f32>, b_to: SendPtr<f32>) {
    let k_words = stretch.len.div_ceil(p.words.depth());
    let a =
        (plan.a == Packer::All).then(|| SharedPacking::new(rows_of(p, a_panel_words(p, k_words)), stretch));
    let b = (plan.b == Packer::All).then(|| SharedPacking::new(columns_of(p, k_words * PANEL), stretch));
    let n_tasks = |shared: &Option<SharedPacking>| shared.as_ref().map_or(0, |shared| shared.n_tasks);
    let (a_tasks, n_tasks) = (n_tasks(&a), n_tasks(&a) + n_tasks(&b));
    for_tasks(plan.alone || n_tasks == 1, n_tasks, |task| {
        // SAFETY: each panel and each number along `k` has its own room, the spill of narrow panels included.
        unsafe {
            match (&a, &b) {
                (Some(a), _) if task < a_tasks => a.pack((p, p.left_words()), stretch, task, a_to.get()),
                (_, Some(b)) => b.pack((p, p.words), stretch, task - a_tasks, b_to.get()),
                _ => unreachable!("a packing task belongs to an operand: bug"),
            }
        }
    });
}

/// How the packing of an operand is cut: a piece of `k` over all panels where lines run across `k`, so that
/// memory is read from one end to the other, and some panels over all of `k` where they run along it.
struct SharedPacking {
    group: Group,
    n_panels: usize,
    /// Panels, or numbers along `k`, that a task takes.
    step: usize,
    n_tasks: usize,
}

// SAFETY: the tasks only read through the operand.
unsafe impl Sync for SharedPacking {}

impl SharedPacking {
    fn new(group: Group, stretch: Stretch) -> Self {
        let n_panels = group.len.div_ceil(group.height);
        let (n, step) = match group.x.lines {
            Lines::AlongK => (n_panels, (PACK_TASK / group.panel_words).max(1)),
            Lines::AcrossK => (stretch.len, (PACK_TASK / group.len).next_multiple_of(LINES)),
        };
        SharedPacking { group, n_panels, step, n_tasks: n.div_ceil(step) }
    }

    /// # Safety
    /// As [`pack_group`], for the whole stretch and all panels.
    unsafe fn pack(&self, (p, words): (&Product, Words), stretch: Stretch, task: usize, to: *mut f32) {
        let at = task * self.step;
        let (group, panels, piece) = match self.group.x.lines {
            Lines::AlongK => (self.group, at..self.n_panels.min(at + self.step), stretch),
            Lines::AcrossK => {
                let piece = Stretch { at: stretch.at + at, len: self.step.min(stretch.len - at) };
                (Group { skip: at, ..self.group }, 0..self.n_panels, piece)
            }
        };
        // SAFETY: the caller's; `LINES` is a whole number of words, so that pieces share none.
        unsafe { pack_group(p.path, words, group, panels, piece, to) }
    }
}

/// The panels of `a`, packed `panel_words` apart; the last is as wide as its rows.
fn rows_of(p: &Product, panel_words: usize) -> Group {
    Group { x: p.a, height: p.tiles.mr, len: p.m, fill: false, panel_words, skip: 0 }
}

/// The panels of a `b` that is not packed yet; the last is as wide as the others.
fn columns_of(p: &Product, panel_words: usize) -> Group {
    let Right::Stored(x) = p.b else { unreachable!("`b` is packed already: bug") };
    Group { x, height: PANEL, len: p.n, fill: true, panel_words, skip: 0 }
}

/// One block of the result over one stretch of `k`.
///
/// # Safety
/// As [`run`]; the sources cover the stretch, and no other task has this block.
unsafe fn block(p: &Product, plan: &Plan, stretch: Stretch, sources: &Sources, task: usize) {
    let (i, j) = (task % plan.n_row_blocks, task / plan.n_row_blocks);
    let rows = i * plan.block_rows..((i + 1) * plan.block_rows).min(p.row_panels());
    let columns = j * plan.block_panels..((j + 1) * plan.block_panels).min(p.column_panels());
    let depth = p.words.depth();
    let n_parts = stretch.len.div_ceil(KC * depth);
    let part_len = stretch.len.div_ceil(n_parts).next_multiple_of(p.words_together() * depth);
    let part_words = part_len.div_ceil(depth);
    let a_panel = a_panel_words(p, part_words);
    let a_words = if matches!(sources.a, Source::Own) { rows.len() * a_panel } else { 0 };
    // The last panel of a direct `b` may be too narrow to be read in place.
    let b_words =
        if matches!(sources.b, Source::Packed { .. }) { 0 } else { part_words * PANEL * span_max(p) };
    scratch::with_f32(a_words + b_words, |local| {
        let (a_local, b_local) = local.split_at_mut(a_words);
        for k0 in (0..stretch.len).step_by(part_len) {
            let part = Stretch { at: stretch.at + k0, len: part_len.min(stretch.len - k0) };
            let words_in = k0 / depth;
            // SAFETY: the part lies in the stretch; the buffers hold the block's rows, and the panels that a
            // tile spans.
            unsafe {
                let a = match sources.a {
                    Source::Own => {
                        let to = a_local.as_mut_ptr().wrapping_sub(rows.start * a_panel);
                        pack_group(p.path, p.left_words(), rows_of(p, a_panel), rows.clone(), part, to);
                        Left { source: Source::Packed { base: to, panel: a_panel }, words_in: 0 }
                    }
                    source => Left { source, words_in },
                };
                let blocks = Part { k: part, words_in, rows: rows.clone(), columns: columns.clone() };
                part_of_block(p, &blocks, &a, sources.b, b_local);
            }
        }
    });
    if let (Some(finish), true) = (&p.finish, stretch.at + stretch.len == p.k) {
        let rows = rows.start * p.tiles.mr..p.m.min(rows.end * p.tiles.mr);
        let columns = columns.start * PANEL..p.n.min(columns.end * PANEL);
        // SAFETY: the block is complete and this task's alone.
        unsafe { finish.run(p.path, p.out, p.out_stride, p.n, rows, columns) }
    }
}

/// Panels of `b` that the widest tile of this product spans.
fn span_max(p: &Product) -> usize {
    let rest = (p.m - 1) % p.tiles.mr + 1;
    p.tiles.panels(p.m.min(p.tiles.mr)).max(p.tiles.panels(rest))
}

/// A block over the words of `k` between two visits to its tiles.
struct Part {
    k: Stretch,
    /// Words before it in the sources.
    words_in: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// The left operand of a part, `words_in` words into its panels.
struct Left {
    source: Source,
    words_in: usize,
}

/// # Safety
/// As [`block`]; `b_local` has room for the part's words of the panels that a tile spans.
unsafe fn part_of_block(p: &Product, part: &Part, a: &Left, b: Source, b_local: &mut [f32]) {
    let mr = p.tiles.mr;
    // Full panels of rows, then the rest, which may span more panels of `b` at a time.
    let (start, end) = (part.rows.start, part.rows.end);
    let full_end = end.min(p.m / mr);
    for (group, height) in [(start..full_end, mr), (full_end.max(start)..end, p.m % mr)] {
        if group.is_empty() {
            continue;
        }
        // SAFETY: the processor has the tiles; sessions end with the panels of their height.
        #[cfg(target_arch = "x86_64")]
        let _session = unsafe { p.tiles.begin(height) };
        let span = p.tiles.panels(height);
        let mut j = part.columns.start;
        while j < part.columns.end {
            let n_panels = if part.columns.end - j >= span { span } else { 1 };
            // SAFETY: the caller's contract; panels `j .. j + n_panels` are inside the block.
            unsafe {
                let (b, b_step, b_panel) = right_panels(p, part, b, j, n_panels, b_local);
                let tile = p.tiles.tile(height, n_panels);
                for i in group.clone() {
                    let (a, a_step) = left_panel(p, a, i, height);
                    let c = p.out.wrapping_add(i * mr * p.out_stride + j * PANEL);
                    if i + 1 < group.end {
                        for row in 0..height {
                            prefetch(c.wrapping_add((mr + row) * p.out_stride));
                        }
                    }
                    tile(&Tile {
                        k: part.k.len.div_ceil(p.words.depth()),
                        a,
                        a_step,
                        b,
                        b_step,
                        b_panel,
                        c,
                        c_row: p.out_stride,
                        cols: (n_panels * PANEL).min(p.n - j * PANEL),
                        start: if part.k.at > 0 || p.write == Write::Add {
                            Start::Output
                        } else {
                            Start::Zero
                        },
                    });
                }
            }
            j += n_panels;
        }
    }
}

/// Panel `i` of `a`: its first word and the step between words.
fn left_panel(p: &Product, a: &Left, i: usize, height: usize) -> (*const f32, usize) {
    match a.source {
        Source::Direct { base, step } => (base.wrapping_add(a.words_in * step + i * p.tiles.mr), step),
        Source::Packed { base, panel } => (base.wrapping_add(i * panel + a.words_in * height), height),
        Source::Own => unreachable!("a task packs its rows before its tiles: bug"),
    }
}

/// Panels `j .. j + n_panels` of `b`, packed into `local` if they are nowhere yet: the first word, the step
/// between words and that between panels.
///
/// # Safety
/// As [`part_of_block`].
unsafe fn right_panels(
    p: &Product,
    part: &Part,
    b: Source,
    j: usize,
    n_panels: usize,
    local: &mut [f32],
) -> (*const f32, usize, usize) {
    match b {
        Source::Packed { base, panel } => {
            return (base.wrapping_add(j * panel + part.words_in * PANEL), PANEL, panel);
        }
        Source::Direct { base, step } if (j + n_panels) * PANEL <= p.n => {
            return (base.wrapping_add(part.words_in * step + j * PANEL), step, PANEL);
        }
        Source::Direct { .. } | Source::Own => {}
    }
    let panel_words = part.k.len.div_ceil(p.words.depth()) * PANEL;
    let to = local[..n_panels * panel_words].as_mut_ptr().wrapping_sub(j * panel_words);
    // SAFETY: the operand covers the panels; the local buffer has their words.
    unsafe { pack_group(p.path, p.words, columns_of(p, panel_words), j..j + n_panels, part.k, to) };
    (local.as_ptr(), PANEL, panel_words)
}
