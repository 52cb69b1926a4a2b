//! Attention of new positions of many sequences to all that each has in its [`Pages`]: the rows of a step of
//! serving, whole prompts and single tokens side by side.
//!
//! A task is a strip of one sequence's rows, one head of keys, and for short strips one block of keys: so a
//! single token that looks back a long way keeps all threads busy. Blocks are put together in their order,
//! so a row's bits are those of [`attention`](super::attention) over the whole sequence (with f32 pages; with
//! others those of the rounded keys and values): they depend on neither the other rows, how a prompt was cut,
//! where its pages lie, nor the number of threads.

use super::blocks::{Gathered, divide, join};
use super::pages::Data;
use super::tile::{Product, ROWS, Scores, Terms, panel_width, product, score_panel};
use super::{BLOCK, Mask};
use crate::class::RowClass;
use crate::cpu::{self, CpuPath};
use crate::elementwise::Write;
use crate::pool::parallel_for;
use crate::row::Parts;
use crate::scratch;
use crate::simd::{Simd, on_path, prefetch};
use std::ops::Range;

pub use super::pages::{PAGE, Pages, PagesShape, Storage};

/// Rows (of tokens times heads that share keys) of a strip, about.
const STRIP: usize = 96;
/// Tiles of a strip, at most: a strip has one token, or at most [`STRIP`] rows.
const TILES_MAX: usize = 32;
/// Strips of at most so many rows are cut by blocks of keys too.
const SHORT: usize = 16;

/// Consecutive positions of one sequence among the rows of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Their rows are `first_row..first_row + n_rows`.
    pub first_row: usize,
    pub n_rows: usize,
    /// The position of the first.
    pub first_position: usize,
    /// The sequence's pages, in order: position `p` lies in page `p / PAGE`.
    pub pages: &'a [u32],
    /// Where the processor has a way of its own for rows that are read (AMX, with heads of a multiple of 32 numbers),
    /// products of those are of bf16.
    pub class: RowClass,
}

impl Span<'_> {
    fn end(&self) -> usize {
        self.first_position + self.n_rows
    }

    pub(super) fn check(&self, n_pages: usize) {
        let (end, n) = (self.end(), self.pages.len());
        assert!(end <= n * PAGE, "kv pages: {end} positions in {n} pages of {PAGE}");
        let foreign = self.pages.iter().find(|&&page| page as usize >= n_pages);
        assert!(foreign.is_none(), "kv pages: page {foreign:?} of {n_pages}");
    }
}

/// What is asked of the pages.
#[derive(Clone, Copy, Debug)]
pub struct PagedAttention {
    /// Heads of queries, a multiple of the pool's heads of keys.
    pub heads: usize,
    pub scale: f32,
    /// A query sees this many keys, its own among them; None: all before it.
    pub window: Option<usize>,
    /// From one row's queries to the next.
    pub q_row: usize,
    /// From one row of the output to the next.
    pub out_row: usize,
}

/// One task.
struct Unit {
    span: usize,
    /// Of the span's rows, and which head of keys.
    tokens: Range<usize>,
    kv_head: usize,
    blocks: Range<usize>,
    /// Where its part goes where several tasks share the rows; None: it writes the output itself.
    part: Option<usize>,
}

/// The output rows of all spans. Their keys and values are already in the pages ([`Pages::write`]).
///
/// # Panics
/// When rows, pages or heads do not fit each other.
pub fn paged_attention(
    pages: &Pages,
    layer: usize,
    shape: &PagedAttention,
    spans: &[Span<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let PagesShape { n_layers, n_pages, kv_heads, head_size: d, .. } = pages.shape();
    assert!(layer < n_layers, "paged attention: layer {layer} of {n_layers}");
    assert!(shape.heads > 0 && shape.heads.is_multiple_of(kv_heads), "paged attention: heads");
    assert!(shape.heads / kv_heads <= TILES_MAX * ROWS, "paged attention: too many heads share keys");
    assert!(shape.window != Some(0), "paged attention: a window of no keys");
    let width = shape.heads * d;
    assert!(shape.out_row >= width, "paged attention: rows of the output overlap");
    let mut order: Vec<(usize, usize)> = spans.iter().map(|s| (s.first_row, s.n_rows)).collect();
    order.sort_unstable();
    let apart = order.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
    assert!(apart, "paged attention: two spans share a row");
    for span in spans.iter().filter(|span| span.n_rows > 0) {
        span.check(n_pages);
        let last = span.first_row + span.n_rows - 1;
        assert!(last * shape.q_row + width <= q.len(), "paged attention: queries");
        assert!(last * shape.out_row + width <= out.len(), "paged attention: output");
    }
    let (units, n_parts_floats) = cut(shape, spans, kv_heads, d);
    let (path, out) = (cpu::path(), Parts::new(out));
    scratch::with_f32(n_parts_floats, |parts| {
        let parts = Parts::new(parts);
        parallel_for(units.len(), |i| {
            let (unit, span) = (&units[i], &spans[units[i].span]);
            let in_tiles = takes(path, span.class, d);
            let task = &Task { pages, layer, shape, unit, span, q: q.as_ptr(), in_tiles };
            let (out, parts) = (&out, &parts);
            scratch::with_f32(task.memory(), |memory| {
                on_path!(path, run(path: CpuPath, task: &Task<'_>, out: &Parts<'_, f32>, parts: &Parts<'_, f32>, memory: &mut [f32]));
            });
        });
        let shared = |unit: &Unit| unit.part.is_some();
        if !units.iter().any(shared) {
            return;
        }
        // The units of one strip and head follow one another.
        let groups: Vec<&[Unit]> = units
            .chunk_by(|a, b| (a.span, a.tokens.start, a.kv_head) == (b.span, b.tokens.start, b.kv_head))
            .filter(|group| group.iter().any(shared))
            .collect();
        parallel_for(groups.len(), |i| {
            let (group, span) = (groups[i], &spans[groups[i][0].span]);
            let task = &Task { pages, layer, shape, unit: &group[0], span, q: q.as_ptr(), in_tiles: false };
            let (out, parts) = (&out, &parts);
            on_path!(path, put_together(task: &Task<'_>, group: &[Unit], out: &Parts<'_, f32>, parts: &Parts<'_, f32>));
        });
    });
}

/// The tasks, and how many floats their parts take.
fn cut(shape: &PagedAttention, spans: &[Span<'_>], kv_heads: usize, d: usize) -> (Vec<Unit>, usize) {
    let group = shape.heads / kv_heads;
    let strip = (STRIP / group).max(1);
    let (mut units, mut floats) = (Vec::new(), 0);
    for (s, span) in spans.iter().enumerate() {
        for start in (0..span.n_rows).step_by(strip) {
            let tokens = start..span.n_rows.min(start + strip);
            let first = span.first_position + start + 1;
            let first = shape.window.map_or(0, |window| first.saturating_sub(window) / BLOCK);
            let blocks = first..(span.first_position + tokens.end).div_ceil(BLOCK);
            let n_rows = tokens.len() * group;
            for kv_head in 0..kv_heads {
                let unit = |blocks, part| Unit { span: s, tokens: tokens.clone(), kv_head, blocks, part };
                if n_rows > SHORT || blocks.len() < 2 {
                    units.push(unit(blocks.clone(), None));
                    continue;
                }
                for block in blocks.clone() {
                    units.push(unit(block..block + 1, Some(floats)));
                    floats += n_rows * (d + 2);
                }
            }
        }
    }
    (units, floats)
}

struct Task<'a> {
    pages: &'a Pages,
    layer: usize,
    shape: &'a PagedAttention,
    unit: &'a Unit,
    span: &'a Span<'a>,
    q: *const f32,
    /// Its products are made in AMX's tiles.
    in_tiles: bool,
}
// SAFETY: the pointer is to the queries, which nobody writes meanwhile.
unsafe impl Sync for Task<'_> {}

impl Task<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.pages.shape().kv_heads
    }

    /// Rows of this task: its tokens, and for each the heads that share its keys.
    fn n_rows(&self) -> usize {
        self.unit.tokens.len() * self.group()
    }

    fn memory(&self) -> usize {
        let d = self.pages.shape().head_size;
        let unpacked = if matches!(self.pages.data, Data::F32(_)) { 0 } else { 2 * BLOCK * d };
        let rows = self.n_rows_held() * (2 * d + BLOCK) + self.n_rows() * (d + 2);
        #[cfg(target_arch = "x86_64")]
        let rows = rows + if self.in_tiles { amx::memory(self.n_rows(), d) } else { 0 };
        rows + 16 + unpacked
    }

    /// Rows of scores and of what a block says.
    fn n_rows_held(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.in_tiles {
            return amx::rows(self.n_rows());
        }
        self.n_rows()
    }

    /// Where row `i`'s head lies in rows of `row` floats.
    fn place(&self, i: usize, row: usize) -> usize {
        let (token, head) = (self.unit.tokens.start + i / self.group(), i % self.group());
        let head = self.unit.kv_head * self.group() + head;
        (self.span.first_row + token) * row + head * self.pages.shape().head_size
    }

    /// The keys that the rows of a tile see.
    fn terms(&self, i: usize, m: usize) -> Terms {
        let mask = match self.shape.window {
            None => Mask::Causal { first_position: self.span.first_position },
            Some(size) => Mask::Window { first_position: self.span.first_position, size },
        };
        let mut terms = Terms { starts: [0; ROWS], ends: [0; ROWS] };
        for r in 0..ROWS {
            let token = self.unit.tokens.start + (i + r.min(m - 1)) / self.group();
            let keys = mask.keys(self.span.end(), token);
            (terms.starts[r], terms.ends[r]) = (keys.start, keys.end);
        }
        terms
    }
}

/// Keys and values of the pages of one block as floats.
struct Block<'a> {
    /// Per page: the panel of keys, and the rows of values.
    pages: [(*const f32, *const f32); BLOCK / PAGE],
    /// Per page, with int8: the scales of keys and of values.
    scales: [Option<(&'a [f32], &'a [f32])>; BLOCK / PAGE],
}

impl<'a> Block<'a> {
    /// The pages `used` of block `block`; what is not f32 is written to `memory`.
    #[inline(always)]
    fn open(task: &Task<'a>, block: usize, used: Range<usize>, memory: &mut [f32]) -> Block<'a> {
        let d = task.pages.shape().head_size;
        let mut opened = Block {
            pages: [(std::ptr::null(), std::ptr::null()); BLOCK / PAGE],
            scales: [None; BLOCK / PAGE],
        };
        for i in used.clone() {
            let number =
                task.pages.number(task.layer, task.span.pages[block * (BLOCK / PAGE) + i], task.unit.kv_head);
            let range = number * 2 * PAGE * d..(number + 1) * 2 * PAGE * d;
            match &task.pages.data {
                Data::F32(data) => fetch(&data[range]),
                Data::Bf16(data) => fetch(&data[range]),
                Data::Int8(data, _) => fetch(&data[range]),
            }
        }
        for i in used {
            let page = task.span.pages[block * (BLOCK / PAGE) + i];
            let number = task.pages.number(task.layer, page, task.unit.kv_head);
            let range = number * 2 * PAGE * d..(number + 1) * 2 * PAGE * d;
            let from = match &task.pages.data {
                Data::F32(data) => data[range].as_ptr(),
                Data::Bf16(data) => {
                    let memory = &mut memory[i * 2 * PAGE * d..(i + 1) * 2 * PAGE * d];
                    for (to, x) in memory.iter_mut().zip(&data[range]) {
                        *to = f32::from_bits(u32::from(*x) << 16);
                    }
                    memory.as_ptr()
                }
                Data::Int8(data, scales) => {
                    let memory = &mut memory[i * 2 * PAGE * d..(i + 1) * 2 * PAGE * d];
                    for (to, x) in memory.iter_mut().zip(&data[range]) {
                        *to = f32::from(*x);
                    }
                    opened.scales[i] = Some(scales[number * 2 * PAGE..][..2 * PAGE].split_at(PAGE));
                    memory.as_ptr()
                }
            };
            opened.pages[i] = (from, from.wrapping_add(PAGE * d));
        }
        opened
    }
}

/// Whether a task's products are made in tiles of the processor's own.
fn takes(path: CpuPath, class: RowClass, d: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::takes(path, class, d);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (path, class, d);
        false
    }
}

/// Asks for the first lines of every 4 KiB: the processor's own prefetcher goes on from there, but begins anew
/// at each such border.
#[inline(always)]
fn fetch<T>(page: &[T]) {
    for first in (0..size_of_val(page)).step_by(4096) {
        for line in 0..4 {
            prefetch(page.as_ptr().cast::<f32>().wrapping_byte_add(first + line * 64));
        }
    }
}

/// One task: its blocks in their order, each for all its rows.
#[inline(always)]
unsafe fn run<S: Simd>(
    path: CpuPath,
    task: &Task<'_>,
    out: &Parts<'_, f32>,
    parts: &Parts<'_, f32>,
    memory: &mut [f32],
) {
    let (d, n_rows) = (task.pages.shape().head_size, task.n_rows());
    // What is not whole cache lines comes last.
    let n_held = task.n_rows_held();
    let (scores, memory) = memory.split_at_mut(n_held * BLOCK);
    let (queries, memory) = memory.split_at_mut(n_held * d);
    let (said, memory) = memory.split_at_mut(n_held * d);
    #[cfg(target_arch = "x86_64")]
    let (halves, memory) = memory.split_at_mut(if task.in_tiles { amx::memory(n_rows, d) } else { 0 });
    // SAFETY: `paged_attention` saw that all rows lie inside the queries; only AMX's path has tasks in tiles.
    #[cfg(target_arch = "x86_64")]
    let halves = task.in_tiles.then(|| unsafe { amx::Halves::begin(task, halves) });
    let (own, memory) = memory.split_at_mut(n_rows * (d + 2));
    let at = memory.as_ptr().align_offset(64);
    let memory = &mut memory[at..];
    let gathered = match task.unit.part {
        // SAFETY: this part of the floats belongs to this task.
        Some(at) => unsafe { parts.part(at, n_rows * (d + 2)) },
        None => own,
    };
    let (heard, values) = gathered.split_at_mut(2 * n_rows);
    for (i, one) in heard.chunks_exact_mut(2).enumerate() {
        one.copy_from_slice(&[f32::NEG_INFINITY, 0.0]);
        // SAFETY: `paged_attention` saw that all rows lie inside the queries.
        let q = unsafe { std::slice::from_raw_parts(task.q.add(task.place(i, task.shape.q_row)), d) };
        queries[i * d..(i + 1) * d].copy_from_slice(q);
    }
    values.fill(0.0);
    for block in task.unit.blocks.clone() {
        let first = block * BLOCK;
        let within = first..first + BLOCK;
        let (from, to) =
            (task.terms(0, 1).within(within.clone()), task.terms(n_rows - 1, 1).within(within.clone()));
        let used = from.starts[0] / PAGE..to.ends[0].div_ceil(PAGE);
        let opened = Block::open(task, block, used.clone(), memory);
        let mut terms = [Terms::first(0); TILES_MAX];
        for (t, i) in (0..n_rows).step_by(ROWS).enumerate() {
            terms[t] = task.terms(i, ROWS.min(n_rows - i)).within(within.clone());
        }
        let terms = &terms[..n_rows.div_ceil(ROWS)];
        #[cfg(target_arch = "x86_64")]
        let in_tiles = halves.as_ref().map(|halves| amx::Look {
            task,
            opened: &opened,
            halves,
            terms,
            used: used.clone(),
            n_written: task.span.end().saturating_sub(first),
        });
        let look = Look { path, task, opened: &opened, terms, n_rows, used };
        // SAFETY: `on_path!` has the path; the rows belong to this task.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            match &in_tiles {
                Some(look) => look.scores(scores),
                None => look.scores::<S>(queries, scores),
            }
            #[cfg(not(target_arch = "x86_64"))]
            look.scores::<S>(queries, scores);
            let mut now = [Gathered::NOTHING; TILES_MAX];
            for (t, terms) in look.terms.iter().enumerate() {
                let m = look.height(t);
                now[t] = Gathered::softmax::<S>(&mut scores[t * ROWS * BLOCK..], terms, m);
            }
            #[cfg(target_arch = "x86_64")]
            match &in_tiles {
                Some(look) => look.values(scores, said),
                None => look.values::<S>(scores, said),
            }
            #[cfg(not(target_arch = "x86_64"))]
            look.values::<S>(scores, said);
            for i in 0..n_rows {
                let (t, r) = (i / ROWS, i % ROWS);
                let mut one = [heard[2 * i], heard[2 * i + 1]];
                let (values, said) = (values[i * d..].as_mut_ptr(), said[i * d..].as_ptr());
                join::<S>(&mut one, values, [now[t].top[r], now[t].sum[r]], said, d);
                heard[2 * i..][..2].copy_from_slice(&one);
            }
        }
    }
    if task.unit.part.is_none() {
        for i in 0..n_rows {
            // SAFETY: as above; `paged_attention` saw that the output's rows exist and are apart.
            unsafe {
                let to = out.pointer(task.place(i, task.shape.out_row));
                divide::<S>(values[i * d..].as_ptr(), heard[2 * i + 1], to, d);
            }
        }
    }
}

/// The rows of a task and one block: page after page, each for all tiles while it is near.
struct Look<'a> {
    path: CpuPath,
    task: &'a Task<'a>,
    opened: &'a Block<'a>,
    /// Of each tile, counted from the block's start.
    terms: &'a [Terms],
    n_rows: usize,
    /// Pages of the block that some row sees.
    used: Range<usize>,
}

impl Look<'_> {
    /// Rows of tile `t`.
    #[inline(always)]
    fn height(&self, t: usize) -> usize {
        ROWS.min(self.n_rows - t * ROWS)
    }

    /// The pages that tile `t` sees.
    #[inline(always)]
    fn pages(&self, t: usize) -> Range<usize> {
        let (terms, m) = (&self.terms[t], self.height(t));
        if terms.is_empty(m) { 0..0 } else { terms.starts[0] / PAGE..terms.ends[m - 1].div_ceil(PAGE) }
    }

    /// All scores, of the rows in `queries`, as rows of [`BLOCK`].
    #[inline(always)]
    unsafe fn scores<S: Simd>(&self, queries: &[f32], scores: &mut [f32]) {
        let d = self.task.pages.shape().head_size;
        for page in self.used.clone() {
            let keys = self.opened.pages[page].0;
            for t in (0..self.terms.len()).filter(|&t| self.pages(t).contains(&page)) {
                let at = t * ROWS * BLOCK + page * PAGE;
                for column in (0..PAGE).step_by(panel_width::<S>()) {
                    // SAFETY: the caller's; the pages in use were opened.
                    unsafe {
                        let panel = Scores {
                            a: queries[t * ROWS * d..].as_ptr(),
                            a_row: d,
                            d,
                            panel: keys.add(column),
                            panel_row: PAGE,
                            scale: self.task.shape.scale,
                            out: scores[at + column..].as_mut_ptr(),
                            out_row: BLOCK,
                        };
                        score_panel(self.path, &panel, self.height(t));
                    }
                }
                if let Some((keys, _)) = self.opened.scales[page] {
                    // SAFETY: the caller's.
                    unsafe { times::<S>(&mut scores[at..], self.height(t), keys) };
                }
            }
        }
    }

    /// The unnormalised values of all rows, from what became of the scores.
    #[inline(always)]
    unsafe fn values<S: Simd>(&self, scores: &mut [f32], said: &mut [f32]) {
        let d = self.task.pages.shape().head_size;
        for page in self.used.clone() {
            for t in (0..self.terms.len()).filter(|&t| self.pages(t).contains(&page)) {
                let (at, m) = (t * ROWS * BLOCK + page * PAGE, self.height(t));
                // SAFETY: the caller's; the pages in use were opened.
                unsafe {
                    if let Some((_, values)) = self.opened.scales[page] {
                        times::<S>(&mut scores[at..], m, values);
                    }
                    let weighted = Product {
                        a: scores[at..].as_ptr(),
                        a_row: BLOCK,
                        a_k: 1,
                        b: self.opened.pages[page].1,
                        b_row: d,
                        cols: d,
                        out: said[t * ROWS * d..].as_mut_ptr(),
                        out_row: d,
                        write: Write::Overwrite,
                        goes_on: page > self.pages(t).start,
                        terms: self.terms[t].within(page * PAGE..(page + 1) * PAGE),
                        factors: [1.0; ROWS],
                    };
                    product(self.path, &weighted, m);
                }
            }
        }
    }
}

/// The columns of a page of `m` rows of [`BLOCK`], each times its position's scale.
#[inline(always)]
unsafe fn times<S: Simd>(scores: &mut [f32], m: usize, scales: &[f32]) {
    for r in 0..m {
        for column in (0..PAGE).step_by(S::LANES) {
            // SAFETY: the caller has the path; a page's scores and scales are whole vectors.
            unsafe {
                let at = scores[r * BLOCK + column..].as_mut_ptr();
                let scaled = S::mul(S::load(at), S::load(scales[column..].as_ptr()));
                S::store(at, scaled);
            }
        }
    }
}

/// The parts of one strip and head, from the first block to the last.
#[inline(always)]
unsafe fn put_together<S: Simd>(
    task: &Task<'_>,
    group: &[Unit],
    out: &Parts<'_, f32>,
    parts: &Parts<'_, f32>,
) {
    let (d, n_rows) = (task.pages.shape().head_size, task.n_rows());
    for i in 0..n_rows {
        // SAFETY: `on_path!` has the path; the parts of a group are read and written by one task, after all
        // of them were written; the output's rows exist and are apart.
        unsafe {
            let of = |unit: &Unit| {
                let at = unit.part.expect("every unit of a group has a part: bug");
                let heard = parts.pointer(at + 2 * i);
                ([*heard, *heard.add(1)], parts.pointer(at + 2 * n_rows + i * d))
            };
            let (mut whole, values) = of(&group[0]);
            for unit in &group[1..] {
                let (heard, said) = of(unit);
                join::<S>(&mut whole, values, heard, said, d);
            }
            divide::<S>(values, whole[1], out.pointer(task.place(i, task.shape.out_row)), d);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(test)]
mod tests;
