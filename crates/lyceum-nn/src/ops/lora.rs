//! Low-rank adapters over a linear layer that stays as it is (LoRA, Hu et al. 2021, arXiv:2106.09685):
//! `y = base + s·(x·Aᵀ)·Bᵀ` for the rows that use the adapter; other rows pass.
//!
//! x `[…, K]`, A `[r, K]`, B `[N, r]`, base and y `[…, W]` with `W ≥ N`: an adapter's part begins at a column of
//! the base, so that one base product may be several layers side by side ([`joined`](super::joined)), stored in
//! any form. One call is one adapter and the rows that use it; a pass with several calls it once for each.
//!
//! Backward, over the rows of the adapter, with `t = s·x·Aᵀ` and `u = s·dy·B`:
//! `dbase = dy`, `dx = u·A`, `dA = uᵀ·x`, `dB = dyᵀ·t`.
//!
//! A row's bits depend on its own numbers and its adapter only: products are the same for one row and for many,
//! and what is added is computed apart from what it is added to. Where the product is zero nothing is added, so
//! an adapter with `B = 0` leaves every bit (also that of −0).
//!
//! A and B may be the model's own parameters (learnt, when they are weights) or lie beside them
//! ([`Tape::with_beside`]): adapters that come and go while the model serves.

use super::linear::outer_square;
use super::{Op, Operation};
use crate::NnError;
use crate::norms::ExampleNorms;
use crate::params::{ParamId, Params};
use crate::tape::{Backward, Examples, Ledger, Saved, SavedIds, Tape, Var, View, WeightBackward};
use lyceum_kernels::elementwise::scale;
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul, matmul_packed};
use lyceum_kernels::{pool, scratch};
use std::ops::Range;

/// Layers side by side that one call may add to.
pub const PARTS_MAX: usize = 4;
/// Rows whose products are held before they are added.
const BLOCK_ROWS: usize = 256;

/// An adapter's factors of one linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    /// `[r, K]`.
    pub a: ParamId,
    /// `[N, r]`.
    pub b: ParamId,
    pub scale: f32,
    /// The first column of the base that the layer owns.
    pub first: usize,
}

/// Whose parameters the factors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The tape's own.
    Model,
    /// Those beside with this number.
    Beside(usize),
}

#[derive(Clone, Copy)]
pub(crate) struct Lora {
    x: Var,
    base: Var,
    beside: Option<u32>,
    /// The rows that use the adapter, rising: R of them.
    rows: SavedIds,
    parts: [Option<Kept>; PARTS_MAX],
}

/// One layer's factors, and what the way back needs.
#[derive(Clone, Copy)]
struct Kept {
    factors: LowRank,
    n: usize,
    /// `s·x·Aᵀ` `[R, r]`.
    t: Saved,
    /// `s·dy·B` `[R, r]`, once a gradient has arrived.
    u: Saved,
}

impl Tape<'_> {
    /// See the module. `rows` are those that use the adapter, rising. Where nothing is recorded, `base` becomes
    /// the answer and is not readable any more.
    ///
    /// # Errors
    /// When shapes do not fit, rows do not rise or are not there, or nobody has these parameters.
    pub fn lora(
        &mut self,
        x: Var,
        base: Var,
        owner: Owner,
        parts: &[LowRank],
        rows: &[u32],
    ) -> Result<Var, NnError> {
        let (params, beside) = match owner {
            Owner::Model => (self.params(), None),
            Owner::Beside(i) => (self.beside(i).ok_or_else(|| no_owner(i))?, Some(i as u32)),
        };
        self.check_lora(x, base, params, parts, rows)?;
        if rows.is_empty() || parts.is_empty() {
            return Ok(base);
        }
        let records = self.needs_grad(&[x, base], &[])
            || beside.is_none() && parts.iter().any(|p| self.needs_grad(&[], &[p.a, p.b]));
        let precision = self.precision();
        let (shape, k) = (self.shape(base), self.shape(x).last());
        let width = shape.last();
        let mut out = self.take_over(base, records);
        let mut kept = [None; PARTS_MAX];
        for (&factors, kept) in parts.iter().zip(&mut kept) {
            let (r, n) = (params.shape(factors.a).first(), params.shape(factors.b).first());
            let mut t = self.take(rows.len() * r);
            for (rows, t) in rows.chunks(BLOCK_ROWS).zip(t.chunks_mut(BLOCK_ROWS * r)) {
                gathered(self.value(x), k, rows, 0..k, |x| {
                    product(params, factors.a, x, t, precision);
                });
                scale(t, factors.scale);
                scratch::with_f32(rows.len() * n, |delta| {
                    product(params, factors.b, t, delta, precision);
                    add_rows(&mut out, width, rows, factors.first, delta);
                });
            }
            if records {
                let u = self.take(t.len());
                *kept = Some(Kept { factors, n, t: self.save(t), u: self.save(u) });
            } else {
                self.give(t);
            }
        }
        if !records {
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let rows = self.save_ids(rows);
        Ok(self.push(Op::Lora(Lora { x, base, beside, rows, parts: kept }), shape, out, true))
    }

    fn check_lora(
        &self,
        x: Var,
        base: Var,
        params: &Params,
        parts: &[LowRank],
        rows: &[u32],
    ) -> Result<(), NnError> {
        let (xs, bs) = (self.shape(x), self.shape(base));
        if xs.rank() == 0 || bs.rank() == 0 || xs.rows() != bs.rows() || x == base {
            return Err(NnError::shape(
                "lora",
                "input",
                xs,
                format!("the rows of the base {bs}, and another"),
            ));
        }
        if parts.len() > PARTS_MAX {
            let (got, want) = (parts.len().to_string(), format!("at most {PARTS_MAX}"));
            return Err(NnError::Shape { op: "lora", what: "parts", got, want });
        }
        for part in parts {
            let (a, b) = (params.shape(part.a), params.shape(part.b));
            if a.rank() != 2 || a[1] != xs.last() {
                return Err(NnError::shape("lora", "A", a, format!("[r, {}]", xs.last())));
            }
            if b.rank() != 2 || b[1] != a[0] || part.first + b[0] > bs.last() {
                let want = format!("[N, {}] with N up to {}", a[0], bs.last().saturating_sub(part.first));
                return Err(NnError::shape("lora", "B", b, want));
            }
        }
        let rising = rows.windows(2).all(|pair| pair[0] < pair[1]);
        let last = rows.last().map_or(0, |&row| row as usize + 1);
        if !rising || last > bs.rows() {
            let (got, want) = (format!("{rows:?}"), format!("rising, below {}", bs.rows()));
            return Err(NnError::Shape { op: "lora", what: "rows", got, want });
        }
        Ok(())
    }
}

fn no_owner(i: usize) -> NnError {
    let (got, want) = (format!("number {i}"), "one of those beside the model's".into());
    NnError::Shape { op: "lora", what: "parameters", got, want }
}

/// `out = x·wᵀ`, from the packed copy where there is one: the same bits.
fn product(params: &Params, w: ParamId, x: &[f32], out: &mut [f32], precision: Precision) {
    let (n, k) = (params.shape(w)[0], params.shape(w)[1]);
    let m = out.len() / n.max(1);
    match params.packed(w) {
        Some(packed) if precision == Precision::F32 => {
            matmul_packed(x, m, packed, out, Epilogue::default());
        }
        _ => {
            let (x, w) = (Mat::new(x, m, k), Mat::new(params.value(w), n, k).t());
            matmul(x, w, out, Write::Overwrite, Epilogue::default(), precision);
        }
    }
}

/// Whether the rows follow each other without a gap.
fn adjoin(rows: &[u32]) -> bool {
    rows.first().is_some_and(|&first| (rows[rows.len() - 1] - first) as usize + 1 == rows.len())
}

/// Hands `f` the columns `columns` of these rows of a matrix with `width` columns, side by side.
fn gathered<R>(
    from: &[f32],
    width: usize,
    rows: &[u32],
    columns: Range<usize>,
    f: impl FnOnce(&[f32]) -> R,
) -> R {
    let n = columns.len();
    if n == width && adjoin(rows) {
        return f(&from[rows[0] as usize * width..][..rows.len() * width]);
    }
    scratch::with_f32(rows.len() * n, |side_by_side| {
        for (to, &row) in side_by_side.chunks_exact_mut(n.max(1)).zip(rows) {
            to.copy_from_slice(&from[row as usize * width..][columns.clone()]);
        }
        f(side_by_side)
    })
}

/// Adds the rows of `delta` to the columns from `first` on of these rows; what is zero changes nothing.
fn add_rows(out: &mut [f32], width: usize, rows: &[u32], first: usize, delta: &[f32]) {
    let n = delta.len() / rows.len();
    let start = rows[0] as usize;
    let out = &mut out[start * width..(rows[rows.len() - 1] as usize + 1) * width];
    let add = |i: usize, out: &mut [f32]| {
        let at = if adjoin(rows) { Some(i) } else { rows.binary_search(&((start + i) as u32)).ok() };
        let Some(at) = at else { return };
        for (y, &d) in out[first..first + n].iter_mut().zip(&delta[at * n..][..n]) {
            *y = if d == 0.0 { *y } else { *y + d };
        }
    };
    // Waking another thread costs more than a few rows.
    const ALONE_MAX: usize = 64 * 1024;
    if delta.len() < ALONE_MAX {
        out.chunks_exact_mut(width).enumerate().for_each(|(i, out)| add(i, out));
    } else {
        pool::for_each_chunk(out, width, add);
    }
}

impl Lora {
    fn parts(&self) -> impl Iterator<Item = Kept> + use<> {
        self.parts.into_iter().flatten()
    }

    /// `u = s·dy·B` over the rows.
    fn through_b(&self, view: View<'_>, part: &Kept, dy: &[f32], u: &mut [f32], precision: Precision) {
        let (rows, width) = (view.ids(self.rows), view.output_shape().last());
        let b = view.params_of(self.beside).value(part.factors.b);
        let r = b.len() / part.n.max(1);
        gathered(dy, width, rows, part.factors.first..part.factors.first + part.n, |dy| {
            let (dy, b) = (Mat::new(dy, rows.len(), part.n), Mat::new(b, part.n, r));
            matmul(dy, b, u, Write::Overwrite, Epilogue::default(), precision);
        });
        scale(u, part.factors.scale);
    }

    /// The adapter's rows of example `i`, as numbers of its rows.
    fn rows_of(&self, view: View<'_>, examples: &Examples, i: usize) -> Range<usize> {
        let rows = view.ids(self.rows);
        let of = examples.range(i, view.output_shape().rows());
        rows.partition_point(|&row| (row as usize) < of.start)
            ..rows.partition_point(|&row| (row as usize) < of.end)
    }

    /// Hands `f` saved rows, each example's times its weight.
    fn weighted(
        &self,
        back: &mut WeightBackward<'_>,
        saved: Saved,
        f: impl FnOnce(&mut WeightBackward<'_>, &[f32]),
    ) {
        let (view, examples) = (back.view, back.examples);
        let numbers = view.saved(saved);
        let Some(weights) = back.example_weights else { return f(back, numbers) };
        let width = numbers.len() / view.ids(self.rows).len();
        scratch::with_f32(numbers.len(), |scaled| {
            for (i, &weight) in weights.iter().enumerate() {
                let own = self.rows_of(view, examples, i);
                let own = own.start * width..own.end * width;
                for (out, &x) in scaled[own.clone()].iter_mut().zip(&numbers[own]) {
                    *out = x * weight;
                }
            }
            f(back, scaled);
        });
    }
}

impl Operation for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn begin(&self, back: &mut Backward<'_>) {
        back.pass_on(self.base);
        let precision = back.precision;
        for part in self.parts() {
            back.change_saved(part.u, |view, dy, u| self.through_b(view, &part, dy, u, precision));
        }
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        let precision = back.precision;
        back.grad(self.x, |view, _, dx, write| {
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            let (rows, k) = (view.ids(self.rows), view.shape(self.x).last());
            for part in self.parts() {
                let a = view.params_of(self.beside).value(part.factors.a);
                let r = a.len() / k.max(1);
                let (u, a) = (Mat::new(view.saved(part.u), rows.len(), r), Mat::new(a, r, k));
                scratch::with_f32(rows.len() * k, |delta| {
                    matmul(u, a, delta, Write::Overwrite, Epilogue::default(), precision);
                    add_rows(dx, k, rows, 0, delta);
                });
            }
        });
    }

    /// `dB = dyᵀ·t` and `dA = uᵀ·x`. An example's weight goes to its rows of t and u, which are as narrow as the rank:
    /// a weighted pass costs what a plain one costs.
    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        if self.beside.is_some() {
            return;
        }
        let (precision, dy) = (back.precision, back.dy);
        let rows = back.view.ids(self.rows);
        for part in self.parts() {
            let columns = part.factors.first..part.factors.first + part.n;
            self.weighted(back, part.t, |back, t| {
                back.grad(part.factors.b, |view, db, write| {
                    let t = Mat::new(t, rows.len(), t.len() / rows.len());
                    gathered(dy, view.output_shape().last(), rows, columns, |dy| {
                        let dy = Mat::new(dy, rows.len(), part.n).t();
                        matmul(dy, t, db, write, Epilogue::default(), precision);
                    });
                });
            });
            self.weighted(back, part.u, |back, u| {
                back.grad(part.factors.a, |view, da, write| {
                    let k = view.shape(self.x).last();
                    gathered(view.value(self.x), k, rows, 0..k, |x| {
                        let u = Mat::new(u, rows.len(), u.len() / rows.len()).t();
                        matmul(u, Mat::new(x, rows.len(), k), da, write, Epilogue::default(), precision);
                    });
                });
            });
        }
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        if self.beside.is_some() {
            return;
        }
        for part in self.parts() {
            self.norms_of_a(norms, &part);
            self.norms_of_b(norms, &part);
        }
    }

    /// A sum of two linear terms without a constant: as the gradient.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        self.begin(back);
        self.backward_inputs(back);
        Ok(())
    }
}

impl Lora {
    fn norms_of_a(&self, norms: &mut ExampleNorms<'_>, part: &Kept) {
        let view = norms.view;
        let (rows, k) = (view.ids(self.rows), view.shape(self.x).last());
        let (u, x) = (view.saved(part.u), view.value(self.x));
        let r = u.len() / rows.len();
        let ranges = self.ranges(norms);
        let of = |i: usize, f: &mut Hear<'_>| {
            let own = ranges[i].clone();
            gathered(x, k, &rows[own.clone()], 0..k, |x| f(&u[own.start * r..own.end * r], x, own.len()));
        };
        pairs(norms, part.factors.a, [r, k], &of);
    }

    fn norms_of_b(&self, norms: &mut ExampleNorms<'_>, part: &Kept) {
        let (view, dy) = (norms.view, norms.dy);
        let (rows, width) = (view.ids(self.rows), view.output_shape().last());
        let t = view.saved(part.t);
        let r = t.len() / rows.len();
        let columns = part.factors.first..part.factors.first + part.n;
        let ranges = self.ranges(norms);
        let of = |i: usize, f: &mut Hear<'_>| {
            let own = ranges[i].clone();
            let t = &t[own.start * r..own.end * r];
            gathered(dy, width, &rows[own.clone()], columns.clone(), |dy| f(dy, t, own.len()));
        };
        pairs(norms, part.factors.b, [part.n, r], &of);
    }

    fn ranges(&self, norms: &ExampleNorms<'_>) -> Vec<Range<usize>> {
        (0..norms.examples.n()).map(|i| self.rows_of(norms.view, norms.examples, i)).collect()
    }
}

/// Is given rows `g` and `x`, and how many they are.
type Hear<'a> = dyn FnMut(&[f32], &[f32], usize) + 'a;
/// Gives the rows of an example whose gradient is `gᵀ·x`.
type OfExample<'a> = dyn Fn(usize, &mut Hear<'_>) + Sync + 'a;

/// The norms of a parameter `[n, k]` whose gradient of one example is `gᵀ·x`.
fn pairs(norms: &mut ExampleNorms<'_>, param: ParamId, [n, k]: [usize; 2], of: &OfExample<'_>) {
    let square = |i: usize| {
        let mut square = 0.0;
        of(i, &mut |g, x, rows| square = if rows == 0 { 0.0 } else { outer_square(g, x, rows) });
        square
    };
    norms.squares(param, square, |i, out, write| {
        of(i, &mut |g, x, rows| {
            let (g, x) = (Mat::new(g, rows, n).t(), Mat::new(x, rows, k));
            matmul(g, x, out, write, Epilogue::default(), Precision::F32);
        });
    });
}

#[cfg(test)]
mod tests;
