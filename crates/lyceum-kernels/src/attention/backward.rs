//! The way back of attention, in blocks of queries: probabilities and their gradients of one block live in
//! cache, five products with them make `dQ`, `dK` and `dV`.

use super::tile::{
    PANEL_WIDTH_MAX, Product, ROWS, Scores, Terms, pack_panel, panel_width, product, score_panel,
};
use super::{Attention, Rows, columns};
use crate::cpu::{self, CpuPath};
use crate::elementwise::Write;
use crate::pool::parallel_for;
use crate::row::{Parts, load, store};
use crate::scratch;
use crate::simd::{Simd, math, on_path};

/// Queries of a block.
const BLOCK: usize = 4 * ROWS;

/// Where the gradients go, in the layouts of `q` and `kv` of the forward call.
pub enum Gradients<'a> {
    /// One buffer whose rows hold queries, keys and values side by side (`[B, T, (H + 2·H_kv)·D]`).
    Fused(&'a mut [f32], Write),
    /// Queries, and one buffer whose rows hold keys and values side by side (`[B, S, 2·H_kv·D]`).
    Paired { q: Option<(&'a mut [f32], Write)>, kv: Option<(&'a mut [f32], Write)> },
    /// A buffer each; None where it is not wanted.
    Separate {
        q: Option<(&'a mut [f32], Write)>,
        k: Option<(&'a mut [f32], Write)>,
        v: Option<(&'a mut [f32], Write)>,
    },
}

/// One gradient: a shared buffer, where in its rows the heads begin, and whether to overwrite.
struct Target<'a> {
    parts: Parts<'a, f32>,
    write: Write,
}

/// The gradients of [`attention`](super::attention) from its output `out`, the output's gradient `dout`
/// (both in the layout `shape.out`) and the log-sum-exps it saved.
pub fn attention_backward(
    shape: &Attention<'_>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    gradients: Gradients<'_>,
) {
    shape.check(q, k, v, out);
    let (heads, n_queries, width, kv_width) = (shape.heads, shape.n_queries, shape.width(), shape.kv_width());
    assert!(dout.len() >= shape.extent(shape.out, n_queries, width), "attention backward: output's gradient");
    assert_eq!(lse.len(), shape.batch * heads * n_queries, "attention backward: log-sum-exps");
    let targets: [Option<(Target<'_>, usize)>; 3] = match gradients {
        Gradients::Fused(data, write) => {
            assert!(
                shape.q == shape.kv && shape.q.row >= width + 2 * kv_width,
                "attention backward: rows are not q, k, v"
            );
            shared(data, write, [0, width, width + kv_width]).map(Some)
        }
        Gradients::Paired { q, kv } => {
            assert!(shape.kv.row >= 2 * kv_width, "attention backward: rows are not k, v");
            let q = q.map(|(data, write)| (Target { parts: Parts::new(data), write }, 0));
            match kv.map(|(data, write)| shared(data, write, [0, kv_width])) {
                Some([k, v]) => [q, Some(k), Some(v)],
                None => [q, None, None],
            }
        }
        Gradients::Separate { q, k, v } => {
            [q, k, v].map(|t| t.map(|(data, write)| (Target { parts: Parts::new(data), write }, 0)))
        }
    };
    let of_keys = (shape.kv, shape.n_keys, kv_width);
    for (target, (rows, n, width)) in targets.iter().zip([(shape.q, n_queries, width), of_keys, of_keys]) {
        shape.check_apart(rows, n, width, "gradient");
        if let Some((target, at)) = target {
            let needed = shape.extent(rows, n, width);
            assert!(
                needed == 0 || target.parts.len() >= at + needed,
                "attention backward: a gradient is too short"
            );
        }
    }
    let path = cpu::path();
    parallel_for(shape.batch * shape.kv_heads, |task| {
        let (b, h_kv) = (task / shape.kv_heads, task % shape.kv_heads);
        let start = |rows: Rows, h: usize| b * rows.batch + h * shape.head_size;
        let pointer = |i: usize, start: usize| {
            let (target, at) = targets[i].as_ref()?;
            Some((target.parts.pointer(at + start), target.write))
        };
        let keys = start(shape.kv, h_kv);
        let group = Group {
            b,
            k: k.as_ptr().wrapping_add(keys),
            v: v.as_ptr().wrapping_add(keys),
            dk: pointer(1, keys),
            dv: pointer(2, keys),
        };
        let h = h_kv * shape.group();
        let first = Head {
            task: b * heads + h,
            q: q.as_ptr().wrapping_add(start(shape.q, h)),
            out: out.as_ptr().wrapping_add(start(shape.out, h)),
            dout: dout.as_ptr().wrapping_add(start(shape.out, h)),
            lse: &lse[(b * heads + h) * n_queries..][..shape.group() * n_queries],
            dq: pointer(0, start(shape.q, h)),
        };
        // One panel more than is used: rows a power of two apart would fall into few cache sets.
        let cols =
            columns(if n_queries == 0 { 0 } else { shape.visible(b, n_queries - 1).end }) + PANEL_WIDTH_MAX;
        scratch::with_f32(2 * cols * shape.head_size + (2 * BLOCK + 1) * cols, |memory| {
            on_path!(path, group_backward(path: CpuPath, shape: &Attention<'_>, group: Group, first: Head<'_>, memory: &mut [f32]));
        });
    });
}

/// Targets that lie side by side in the rows of one buffer.
fn shared<const N: usize>(data: &mut [f32], write: Write, at: [usize; N]) -> [(Target<'_>, usize); N] {
    let parts = Parts::new(data);
    at.map(|at| (Target { parts: parts.again(), write }, at))
}

/// Pointers to the first row of one head of keys of one example.
#[derive(Clone, Copy)]
struct Group {
    b: usize,
    k: *const f32,
    v: *const f32,
    dk: Option<(*mut f32, Write)>,
    dv: Option<(*mut f32, Write)>,
}

/// Pointers to the first row of one head of queries.
#[derive(Clone, Copy)]
struct Head<'a> {
    task: usize,
    q: *const f32,
    out: *const f32,
    dout: *const f32,
    lse: &'a [f32],
    dq: Option<(*mut f32, Write)>,
}

impl<'a> Head<'a> {
    /// The head `i` places further, of `d` floats and as many log-sum-exps as queries.
    fn plus(self, i: usize, d: usize, n_queries: usize) -> Head<'a> {
        Head {
            task: self.task + i,
            q: self.q.wrapping_add(i * d),
            out: self.out.wrapping_add(i * d),
            dout: self.dout.wrapping_add(i * d),
            lse: &self.lse[i * n_queries..(i + 1) * n_queries],
            dq: self.dq.map(|(dq, write)| (dq.wrapping_add(i * d), write)),
        }
    }
}

/// One head of keys and the heads of queries that read it, one after another.
#[inline(always)]
unsafe fn group_backward<S: Simd>(
    path: CpuPath,
    shape: &Attention<'_>,
    group: Group,
    first: Head<'_>,
    memory: &mut [f32],
) {
    let (b, d, width) = (group.b, shape.head_size, panel_width::<S>());
    for (to, write) in [group.dk, group.dv].into_iter().flatten() {
        if write == Write::Overwrite {
            for s in 0..shape.n_keys {
                // SAFETY: these floats of row `s` belong to this task.
                unsafe { std::slice::from_raw_parts_mut(to.add(s * shape.kv.row), d).fill(0.0) };
            }
        }
    }
    if shape.n_queries == 0 {
        return;
    }
    let n_keys = shape.key_lens.map_or(shape.n_keys, |lens| lens[b] as usize);
    let n_panels = shape.visible(b, shape.n_queries - 1).end.div_ceil(width);
    let cols = (n_panels + 1) * width;
    let (panels, rest) = memory.split_at_mut(2 * n_panels * d * width);
    let (k_panels, v_panels) = panels.split_at_mut(n_panels * d * width);
    let (p, rest) = rest.split_at_mut(BLOCK * cols);
    let (ds, factors) = rest.split_at_mut(BLOCK * cols);
    for i in 0..n_panels {
        let (at, range) = (i * width * shape.kv.row, i * d * width..(i + 1) * d * width);
        // SAFETY: `on_path!` has the path; `check` saw that the keys lie inside their buffers.
        unsafe {
            let n = n_keys - i * width;
            pack_panel::<S>(group.k.add(at), shape.kv.row, n, d, k_panels[range.clone()].as_mut_ptr());
            pack_panel::<S>(group.v.add(at), shape.kv.row, n, d, v_panels[range].as_mut_ptr());
        }
    }
    for i in 0..shape.group() {
        let head = &first.plus(i, d, shape.n_queries);
        for t in (0..shape.n_queries).step_by(BLOCK) {
            let n = BLOCK.min(shape.n_queries - t);
            let block = Block { path, shape, group, head, t, n, cols };
            // SAFETY: `on_path!` has the path; `check` and the caller saw that all rows lie inside their
            // buffers, and the rows of the gradients of this group are written by this task alone.
            unsafe {
                block.probabilities::<S>(k_panels, v_panels, p, ds, factors);
                block.queries(ds);
                if let Some((dk, _)) = group.dk {
                    block.keys(ds, head.q, shape.q.row, dk);
                }
                if let Some((dv, _)) = group.dv {
                    block.keys(p, head.dout, shape.out.row, dv);
                }
            }
        }
    }
}

/// Queries `t..t + n` of one head; its matrices have rows of `cols`.
struct Block<'a> {
    path: CpuPath,
    shape: &'a Attention<'a>,
    group: Group,
    head: &'a Head<'a>,
    t: usize,
    n: usize,
    cols: usize,
}

impl Block<'_> {
    /// `p` = dropout(P) and `ds` = dS; zero where a query does not see a key.
    #[inline(always)]
    unsafe fn probabilities<S: Simd>(
        &self,
        k_panels: &[f32],
        v_panels: &[f32],
        p: &mut [f32],
        ds: &mut [f32],
        factors: &mut [f32],
    ) {
        let (shape, head, width) = (self.shape, self.head, panel_width::<S>());
        let (d, cols) = (shape.head_size, self.cols);
        let first = shape.visible(self.group.b, self.t).start / width;
        let longest = shape.visible(self.group.b, self.t + self.n - 1).end.div_ceil(width) * width;
        for r in (0..self.n).step_by(ROWS) {
            let (m, t) = (ROWS.min(self.n - r), self.t + r);
            let terms = shape.terms(self.group.b, t, m);
            // SAFETY: the caller's.
            unsafe {
                for i in terms.starts[0] / width..terms.ends[m - 1].div_ceil(width) {
                    let at = r * cols + i * width;
                    let scores = Scores {
                        a: head.q.add(t * shape.q.row),
                        a_row: shape.q.row,
                        d,
                        panel: k_panels[i * d * width..].as_ptr(),
                        panel_row: width,
                        scale: shape.scale,
                        out: p[at..].as_mut_ptr(),
                        out_row: cols,
                    };
                    score_panel(self.path, &scores, m);
                    let from_values = Scores {
                        a: head.dout.add(t * shape.out.row),
                        a_row: shape.out.row,
                        panel: v_panels[i * d * width..].as_ptr(),
                        scale: 1.0,
                        out: ds[at..].as_mut_ptr(),
                        ..scores
                    };
                    score_panel(self.path, &from_values, m);
                }
                for j in 0..m {
                    let (t, at, keys) = (t + j, (r + j) * cols, terms.of(j));
                    let seen = at + keys.start..at + keys.end;
                    let row = Row {
                        p: &mut p[seen.clone()],
                        ds: &mut ds[seen.clone()],
                        lse: head.lse[t],
                        scale: shape.scale,
                    };
                    let delta =
                        dot::<S>(head.out.add(t * shape.out.row), head.dout.add(t * shape.out.row), d);
                    let mut dropped = None;
                    if let Some(dropout) = &shape.dropout {
                        let factors = &mut factors[..keys.len()];
                        let first = (head.task * shape.n_queries + t) * shape.n_keys + keys.start;
                        dropout.factors(first as u64, factors);
                        dropped = Some(&*factors);
                    }
                    row.finish::<S>(delta, dropped);
                    for matrix in [&mut *p, &mut *ds] {
                        matrix[at + first * width..seen.start].fill(0.0);
                        matrix[seen.end..at + longest].fill(0.0);
                    }
                }
            }
        }
    }

    /// `dQ = dS K`.
    #[inline(always)]
    unsafe fn queries(&self, ds: &[f32]) {
        let (shape, Some((dq, write))) = (self.shape, self.head.dq) else { return };
        for r in (0..self.n).step_by(ROWS) {
            let m = ROWS.min(self.n - r);
            // SAFETY: the caller's.
            unsafe {
                let gradient = Product {
                    a: ds[r * self.cols..].as_ptr(),
                    a_row: self.cols,
                    a_k: 1,
                    b: self.group.k,
                    b_row: shape.kv.row,
                    cols: shape.head_size,
                    out: dq.add((self.t + r) * shape.q.row),
                    out_row: shape.q.row,
                    write,
                    goes_on: false,
                    terms: shape.terms(self.group.b, self.t + r, m),
                    factors: [1.0; ROWS],
                };
                product(self.path, &gradient, m);
            }
        }
    }

    /// `to += aᵀ b` over the queries of the block: `dK` from dS and the queries, `dV` from P and the output's
    /// gradient. Queries that see none of a tile's keys are skipped.
    #[inline(always)]
    unsafe fn keys(&self, a: &[f32], b: *const f32, b_row: usize, to: *mut f32) {
        let shape = self.shape;
        let seen = |t: usize| shape.visible(self.group.b, self.t + t);
        // The first query that sees the tile's keys, and the first after it that no longer does.
        let (mut first, mut last) = (0, 0);
        for s in (seen(0).start..seen(self.n - 1).end).step_by(ROWS) {
            let m = ROWS.min(seen(self.n - 1).end - s);
            while seen(first).end <= s {
                first += 1;
            }
            while last < self.n && seen(last).start < s + m {
                last += 1;
            }
            // SAFETY: the caller's.
            unsafe {
                let gradient = Product {
                    a: a[first * self.cols + s..].as_ptr(),
                    a_row: 1,
                    a_k: self.cols,
                    b: b.add((self.t + first) * b_row),
                    b_row,
                    cols: shape.head_size,
                    out: to.add(s * shape.kv.row),
                    out_row: shape.kv.row,
                    write: Write::Add,
                    goes_on: false,
                    terms: Terms::first(last - first),
                    factors: [1.0; ROWS],
                };
                product(self.path, &gradient, m);
            }
        }
    }
}

/// One query: on entry `p` holds scores and `ds` holds `dO·V`.
struct Row<'a> {
    p: &'a mut [f32],
    ds: &'a mut [f32],
    lse: f32,
    scale: f32,
}

impl Row<'_> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, delta: f32, factors: Option<&[f32]>) {
        // SAFETY: the caller has the path; the three rows have the length of `p`.
        unsafe {
            let (lse, delta, scale) = (S::splat(self.lse), S::splat(delta), S::splat(self.scale));
            let mut i = 0;
            while i < self.p.len() {
                let n = self.p.len() - i;
                let (p_at, ds_at) = (self.p.as_mut_ptr().add(i), self.ds.as_mut_ptr().add(i));
                let p = math::exp::<S>(S::sub(load::<S>(p_at, n), lse));
                let mut dp = load::<S>(ds_at, n);
                let mut dropped = p;
                if let Some(factors) = factors {
                    let f = load::<S>(factors.as_ptr().add(i), n);
                    dp = S::mul(dp, f);
                    dropped = S::mul(p, f);
                }
                store::<S>(ds_at, S::mul(S::mul(p, scale), S::sub(dp, delta)), n);
                store::<S>(p_at, dropped, n);
                i += S::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn dot<S: Simd>(a: *const f32, b: *const f32, n: usize) -> f32 {
    // SAFETY: the caller has the path and gives `n` floats on both sides.
    unsafe {
        let mut sum = S::zero();
        let mut i = 0;
        while i < n {
            sum = S::fma(load::<S>(a.add(i), n - i), load::<S>(b.add(i), n - i), sum);
            i += S::LANES;
        }
        S::reduce_add(sum)
    }
}
