//! Scaled dot-product attention of several heads, forward and backward.
//!
//! ```text
//! S = scale · Q Kᵀ,  P = softmax(S) over the keys a query may see,  O = dropout(P) V
//! dV = dropout(P)ᵀ dO,  dP = dropout(dO Vᵀ),  dS = scale · P ∘ (dP - rowsum(dO ∘ O)),  dQ = dS K,  dK = dSᵀ Q
//! ```
//! Vaswani et al. 2017; the way back recomputes P from the saved log-sum-exp as in Dao et al. 2022
//! (FlashAttention), so that nothing quadratic is stored.
//!
//! B examples, H heads of D floats, T queries, S keys. Keys and values may have fewer heads, each then read by
//! `H / H_kv` neighbouring heads of queries (Ainslie et al. 2023, arXiv:2305.13245). Rows lie apart by strides, so that the parts of a fused
//! `[B, T, (H + 2·H_kv)·D]` buffer, separate buffers and a slice of a key-value cache are all taken as they are. What
//! a query may not see is never computed. A query's bits depend on itself and the keys it sees alone: on
//! neither the queries beside it nor the length of the buffer, so that decoding one row at a time against a
//! cache repeats the bits of the whole sequence.
//!
//! Rows that may be rounded have a way of their own with AMX (`amx`), as in [`paged`].
//!
//! Keys come in blocks of [`BLOCK`]; what the blocks of a query say is put together from the first to the
//! last, as in Milakov and Gimelshein 2018 (arXiv:1805.02867). [`paged`] does the same over pages.
//!
//! Tasks are (example, head) pairs, on the way back (example, head of keys); all sums have one order.

#[cfg(target_arch = "x86_64")]
mod amx;
mod backward;
mod blocks;
pub mod paged;
mod pages;
mod tile;

pub use backward::{Gradients, attention_backward};

use crate::cpu::{self, CpuPath};
use crate::dropout::Dropout;
use crate::elementwise::Write;
use crate::pool::parallel_for;
use crate::row::Parts;
use crate::scratch;
use crate::simd::{Simd, on_path};
use blocks::{Gathered, Tile};
use std::ops::Range;
use tile::{PANEL_WIDTH_MAX, Product, ROWS, Scores, Terms, pack_panel, panel_width, product, score_panel};

/// Keys that are summed up before the next are looked at; a multiple of a panel and of a page.
pub(crate) const BLOCK: usize = 256;

/// Which keys a query may see (beyond the example's key length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    Full,
    /// Query `t` stands at position `first_position + t` and sees the keys up to it.
    Causal {
        first_position: usize,
    },
    /// Of the keys that [`Mask::Causal`] shows, the last `size`, the query's own among them (Beltagy et al.
    /// 2020, arXiv:2004.05150).
    Window {
        first_position: usize,
        size: usize,
    },
}

impl Mask {
    /// The keys of `n` that query `t` sees.
    #[inline(always)]
    pub fn keys(self, n: usize, t: usize) -> Range<usize> {
        match self {
            Mask::Full => 0..n,
            Mask::Causal { first_position } => 0..n.min(first_position + t + 1),
            Mask::Window { first_position, size } => {
                let end = first_position + t + 1;
                end.saturating_sub(size).min(n)..n.min(end)
            }
        }
    }
}

/// How rows lie in a buffer: row `t` of example `b` begins at `b * batch + t * row`; its heads follow one
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub row: usize,
    pub batch: usize,
}

impl Rows {
    /// `n` rows per example, `row` floats apart, examples without gaps.
    pub fn dense(n: usize, row: usize) -> Rows {
        Rows { row, batch: n * row }
    }
}

/// What is attended to, by what, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    pub batch: usize,
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    pub head_size: usize,
    pub n_queries: usize,
    pub n_keys: usize,
    /// Usually `1 / √head_size`.
    pub scale: f32,
    pub mask: Mask,
    /// Keys of each example that exist, at most `n_keys`; the rest is padding.
    pub key_lens: Option<&'a [u32]>,
    /// Drops probabilities; element `(b, h, t, s)` of `[B, H, T, S]` has that number.
    pub dropout: Option<Dropout>,
    /// Whether queries, keys, weights and values may be rounded to bf16 where the processor has tiles of such products
    /// (AMX, every query sees all keys, heads of a multiple of 32 numbers, neither dropout nor log-sum-exps asked for).
    pub may_round: bool,
    pub q: Rows,
    /// Of both keys and values.
    pub kv: Rows,
    pub out: Rows,
}

impl Attention<'_> {
    /// The keys that query `t` of example `b` sees.
    #[inline(always)]
    fn visible(&self, b: usize, t: usize) -> Range<usize> {
        self.mask.keys(self.key_lens.map_or(self.n_keys, |lens| lens[b] as usize), t)
    }

    /// The terms of the tile of queries `t..t + m`.
    #[inline(always)]
    fn terms(&self, b: usize, t: usize, m: usize) -> Terms {
        let mut terms = Terms { starts: [0; ROWS], ends: [0; ROWS] };
        for r in 0..ROWS {
            let keys = self.visible(b, t + r.min(m - 1));
            (terms.starts[r], terms.ends[r]) = (keys.start, keys.end);
        }
        terms
    }

    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_size
    }

    /// Heads of queries that share a head of keys.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The floats that `n` rows of `width` an example need.
    fn extent(&self, rows: Rows, n: usize, width: usize) -> usize {
        if self.batch == 0 || n == 0 { 0 } else { (self.batch - 1) * rows.batch + (n - 1) * rows.row + width }
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32], out: &[f32]) {
        assert!(self.heads > 0 && self.head_size > 0, "attention: no heads, or heads of no floats");
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "attention: {} heads of queries cannot share {} of keys",
            self.heads,
            self.kv_heads
        );
        let sees_none = matches!(self.mask, Mask::Window { size: 0, .. });
        assert!(!sees_none, "attention: a window of no keys");
        let q_len = self.extent(self.q, self.n_queries, self.width());
        let kv_len = self.extent(self.kv, self.n_keys, self.kv_width());
        let out_len = self.extent(self.out, self.n_queries, self.width());
        assert!(q.len() >= q_len, "attention: {} floats of queries, {q_len} needed", q.len());
        assert!(
            k.len().min(v.len()) >= kv_len,
            "attention: {} and {} floats of keys and values, {kv_len} needed",
            k.len(),
            v.len()
        );
        assert!(out.len() >= out_len, "attention: {} floats of output, {out_len} needed", out.len());
        self.check_apart(self.out, self.n_queries, self.width(), "output");
        if let Some(lens) = self.key_lens {
            assert_eq!(lens.len(), self.batch, "attention: key lengths");
            assert!(
                lens.iter().all(|&n| n as usize <= self.n_keys),
                "attention: a key length exceeds {}",
                self.n_keys
            );
        }
    }

    /// Rows that are written may not overlap.
    fn check_apart(&self, rows: Rows, n: usize, width: usize, what: &str) {
        let examples_apart = self.batch < 2 || rows.batch >= (n.max(1) - 1) * rows.row + width;
        assert!(rows.row >= width && examples_apart, "attention: rows of the {what} overlap");
    }
}

/// Writes the output rows and, for [`attention_backward`], each query's log-sum-exp to `lse` (`[B, H, T]`).
///
/// Queries that see no key have output 0. `q`, `k` and `v` may be parts of one buffer; output floats between
/// the rows are left alone.
pub fn attention(
    shape: &Attention<'_>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) {
    shape.check(q, k, v, out);
    let (heads, n_queries, d) = (shape.heads, shape.n_queries, shape.head_size);
    if n_queries == 0 {
        return;
    }
    if let Some(lse) = &lse {
        assert_eq!(lse.len(), shape.batch * heads * n_queries, "attention: log-sum-exps");
    }
    let path = cpu::path();
    #[cfg(target_arch = "x86_64")]
    let in_tiles = amx::takes(path, shape, lse.is_some());
    let (out, lse) = (Parts::new(out), lse.map(Parts::new));
    parallel_for(shape.batch * heads, |task| {
        let (b, h) = (task / heads, task % heads);
        // SAFETY: the log-sum-exps of a head belong to one task.
        let lse = lse.as_ref().map(|lse| unsafe { lse.part(task * n_queries, n_queries) });
        // Without keys there may be no such element: the pointers are then not read.
        let kv_at = b * shape.kv.batch + h / shape.group() * d;
        let q = q[b * shape.q.batch + h * d..].as_ptr();
        let (k, v) = (k.as_ptr().wrapping_add(kv_at), v.as_ptr().wrapping_add(kv_at));
        let out = out.pointer(b * shape.out.batch + h * d);
        #[cfg(target_arch = "x86_64")]
        if in_tiles {
            let n_keys = shape.visible(b, 0).len();
            scratch::with_f32(amx::memory(n_keys, d), |memory| {
                // SAFETY: the processor has AMX; `check` saw that all rows lie inside their buffers, and those of this
                // head are written by this task alone.
                unsafe { amx::head(shape, n_keys, q, k, v, out, memory) }
            });
            return;
        }
        let cols = columns(shape.visible(b, n_queries - 1).end);
        scratch::with_f32(cols * d + (ROWS + 1) * BLOCK + ROWS * d, |memory| {
            on_path!(path, head_forward(path: CpuPath, shape: &Attention<'_>, task: usize, q: *const f32, k: *const f32, v: *const f32, out: *mut f32, lse: Option<&mut [f32]>, memory: &mut [f32]));
        });
    });
}

/// Columns that `n` keys need in scratch memory: whole panels, of the widest path.
fn columns(n: usize) -> usize {
    n.next_multiple_of(PANEL_WIDTH_MAX)
}

/// One head of one example; the pointers are at its first row. What is inside is not wrapped in closures:
/// they would be compiled without the path's features.
#[inline(always)]
unsafe fn head_forward<S: Simd>(
    path: CpuPath,
    shape: &Attention<'_>,
    task: usize,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    out: *mut f32,
    mut lse: Option<&mut [f32]>,
    memory: &mut [f32],
) {
    let (b, d, width) = (task / shape.heads, shape.head_size, panel_width::<S>());
    let n_panels = shape.visible(b, shape.n_queries - 1).end.div_ceil(width);
    let (panels, rest) = memory.split_at_mut(n_panels * d * width);
    let (scores, rest) = rest.split_at_mut(ROWS * BLOCK);
    let (factors, partial) = rest.split_at_mut(BLOCK);
    let mut n_packed = 0;
    for t in (0..shape.n_queries).step_by(ROWS) {
        let m = ROWS.min(shape.n_queries - t);
        let terms = shape.terms(b, t, m);
        n_packed = (terms.starts[0] / width).max(n_packed);
        let blocks = terms.starts[0] / BLOCK..terms.ends[m - 1].div_ceil(BLOCK);
        let out = Tile { rows: out.wrapping_add(t * shape.out.row), row: shape.out.row, d };
        let mut gathered = Gathered::NOTHING;
        // SAFETY: `on_path!` has the path; `check` saw that all rows lie inside their buffers, and the
        // rows of this head are written by this task alone.
        unsafe {
            out.clear(if blocks.is_empty() { m } else { 0 });
            for block in blocks.clone() {
                let first = block * BLOCK;
                let terms = terms.within(first..first + BLOCK);
                for p in terms.starts[0] / width..terms.ends[m - 1].div_ceil(width) {
                    let p = first / width + p;
                    let panel = panels[p * d * width..(p + 1) * d * width].as_mut_ptr();
                    if p == n_packed {
                        let n_keys = shape.key_lens.map_or(shape.n_keys, |lens| lens[b] as usize);
                        let from = k.add(p * width * shape.kv.row);
                        pack_panel::<S>(from, shape.kv.row, n_keys - p * width, d, panel);
                        n_packed += 1;
                    }
                    let scores = Scores {
                        a: q.add(t * shape.q.row),
                        a_row: shape.q.row,
                        d,
                        panel,
                        panel_row: width,
                        scale: shape.scale,
                        out: scores.as_mut_ptr().add(p * width - first),
                        out_row: BLOCK,
                    };
                    score_panel(path, &scores, m);
                }
                let heard = Gathered::softmax::<S>(scores, &terms, m);
                if let Some(dropout) = &shape.dropout {
                    for r in 0..m {
                        let row = &mut scores[r * BLOCK..][terms.of(r)];
                        let factors = &mut factors[..row.len()];
                        let number =
                            (task * shape.n_queries + t + r) * shape.n_keys + first + terms.starts[r];
                        dropout.factors(number as u64, factors);
                        row.iter_mut().zip(factors).for_each(|(x, f)| *x *= *f);
                    }
                }
                // The first block's values go straight to the output.
                let to =
                    if block == blocks.start { out } else { Tile { rows: partial.as_mut_ptr(), row: d, d } };
                let weighted = Product {
                    a: scores.as_ptr(),
                    a_row: BLOCK,
                    a_k: 1,
                    b: v.wrapping_add(first * shape.kv.row),
                    b_row: shape.kv.row,
                    cols: d,
                    out: to.rows,
                    out_row: to.row,
                    write: Write::Overwrite,
                    goes_on: false,
                    terms,
                    factors: [1.0; ROWS],
                };
                product(path, &weighted, m);
                if block == blocks.start {
                    gathered = heard;
                } else {
                    gathered.add::<S>(out, &heard, to, m);
                }
            }
            out.divide::<S>(&gathered, m);
            if let Some(lse) = lse.as_deref_mut() {
                for r in 0..m {
                    lse[t + r] = gathered.top[r] + gathered.sum[r].ln();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
