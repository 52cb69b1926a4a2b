//! `y = f(x·Wᵀ + b) + r`: the layer of the multi-layer perceptron and of nearly everything else.
//!
//! x `[…, K]`, W `[N, K]`, b `[N]`, r and y `[…, N]`. Backward, with `g = dy ⊙ f′(x·Wᵀ + b)`:
//! `dx = g·W`, `dW = gᵀ·x`, `db = Σ_rows g`, `dr = dy`.

use super::{Op, Operation};
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::relevance::inner;
use crate::tape::{Backward, Ledger, Saved, StoredProducts, Tape, Var, WeightBackward};
use crate::{Activation, NnError};
use lyceum_kernels::activation::{activate_backward, activate_in_place};
use lyceum_kernels::elementwise::{add_into, col_sum, sum_of_squares};
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul, matmul_packed, matmul_strided};
use lyceum_kernels::scratch;
use lyceum_kernels::stored::{Stored, StoredWeight};
use std::ops::Range;

#[derive(Clone, Copy)]
pub(crate) struct Linear {
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    residual: Option<Var>,
    activation: Activation,
    /// The first output row of the weight that is used (a projection may own a part of a larger matrix).
    first: usize,
    /// The value before the activation; where there is none, nothing is saved.
    pre: Option<Saved>,
}

impl Tape<'_> {
    /// `f(x·Wᵀ + b)`; see the module for shapes.
    pub fn linear(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        activation: Activation,
    ) -> Result<Var, NnError> {
        self.linear_residual(x, weight, bias, activation, None)
    }

    /// `f(x·Wᵀ + b) + r`; see the module for shapes.
    pub fn linear_residual(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        activation: Activation,
        residual: Option<Var>,
    ) -> Result<Var, NnError> {
        let rows = 0..self.params().shape(weight).first();
        self.linear_rows(x, weight, bias, rows, activation, residual)
    }

    /// As [`linear_residual`](Self::linear_residual) with the output rows `rows` of W and b only: the query,
    /// or the key and value, of a packed `in_proj_weight`.
    pub fn linear_rows(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        rows: Range<usize>,
        activation: Activation,
        residual: Option<Var>,
    ) -> Result<Var, NnError> {
        let (xs, ws) = (self.shape(x), self.params().shape(weight));
        if ws.rank() != 2 || xs.rank() == 0 || xs.last() != ws[1] {
            return Err(NnError::shape(
                "linear",
                "input's innermost size",
                xs,
                format!("[…, K] for weight {ws}"),
            ));
        }
        if rows.start > rows.end || rows.end > ws[0] {
            return Err(NnError::shape("linear", "weight rows", ws, format!("at least {} rows", rows.end)));
        }
        let (m, k, n) = (xs.rows(), ws[1], rows.len());
        let shape = xs.with_last(n);
        if let Some(r) = residual.filter(|&r| self.shape(r) != shape) {
            return Err(NnError::shape("linear", "residual", self.shape(r), shape));
        }
        if let Some(b) = bias.filter(|&b| self.params().shape(b).dims() != [ws[0]]) {
            return Err(NnError::shape("linear", "bias", self.params().shape(b), format!("[{}]", ws[0])));
        }
        let records = match bias {
            Some(b) => self.needs_grad(&[x], &[weight, b]),
            None => self.needs_grad(&[x], &[weight]),
        } || residual.is_some_and(|r| self.needs_grad(&[r], &[]));
        let mut pre = (records && activation != Activation::None).then(|| self.take(m * n));
        let mut out = self.take(m * n);
        let params = self.params();
        let epilogue = Epilogue {
            bias: bias.map(|b| &params.value(b)[rows.clone()]),
            activation,
            pre: pre.as_deref_mut(),
            residual: residual.map(|r| self.value(r)),
        };
        if let Some(stored) = params.stored(weight) {
            if n != ws[0] {
                return Err(NnError::shape("linear", "weight rows", ws, "all of a weight stored in blocks"));
            }
            match self.stored_products() {
                StoredProducts::Unrounded if stored.tile_kind() != Stored::F32 => {
                    forward_unrounded(stored, self.value(x), &mut out, epilogue, self.precision());
                }
                _ => self.row_classes().matmul_stored(self.value(x), m, &[stored], &mut out, epilogue),
            }
        } else {
            match params.packed(weight) {
                Some(packed) if self.precision() == Precision::F32 && n == ws[0] => {
                    matmul_packed(self.value(x), m, packed, &mut out, epilogue)
                }
                _ => {
                    let part = &params.value(weight)[rows.start * k..rows.end * k];
                    let (a, b) = (Mat::new(self.value(x), m, k), Mat::new(part, n, k).t());
                    matmul(a, b, &mut out, Write::Overwrite, epilogue, self.precision());
                }
            }
        }
        let pre = pre.map(|pre| self.save(pre));
        let op = Op::Linear(Linear { x, weight, bias, residual, activation, first: rows.start, pre });
        Ok(self.push(op, shape, out, records))
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn begin(&self, back: &mut Backward<'_>) {
        if let Some(residual) = self.residual {
            back.pass_on(residual);
        }
        if let Some(pre) = self.pre {
            back.change_dy(|view, dy| activate_backward_in_place(self.activation, view.saved(pre), dy));
        }
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        let precision = back.precision;
        back.grad(self.x, |view, dy, dx, write| {
            let k = view.shape(self.x).last();
            let n = dy.len() / view.shape(self.x).rows().max(1);
            if let Some(stored) = view.stored(self.weight) {
                return backward_stored(stored, dy, dx, write, precision);
            }
            let (g, w) = (
                Mat::new(dy, dy.len() / n, n),
                Mat::new(&view.param(self.weight)[self.first * k..][..n * k], n, k),
            );
            matmul(g, w, dx, write, Epilogue::default(), precision);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        // What is frozen may stand on other rows than the examples'.
        if !back.learns(self.weight) && self.bias.is_none_or(|bias| !back.learns(bias)) {
            return;
        }
        let precision = back.precision;
        back.weighted(back.dy, |back, dy| {
            back.grad(self.weight, |view, dw, write| {
                let shape = view.shape(self.x);
                let (m, k) = (shape.rows(), shape.last());
                let n = dy.len() / m.max(1);
                let (g, x) = (Mat::new(dy, m, n).t(), Mat::new(view.value(self.x), m, k));
                let (dw, write) = part(dw, self.first * k..(self.first + n) * k, write);
                matmul(g, x, dw, write, Epilogue::default(), precision);
            });
            if let Some(bias) = self.bias {
                back.grad(bias, |view, db, write| {
                    let n = view.output_shape().last();
                    let (db, write) = part(db, self.first..self.first + n, write);
                    col_sum(dy, n, db, write);
                });
            }
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let (x, n) = (view.value(self.x), view.output_shape().last());
        let k = view.shape(self.x).last();
        let of = |i: usize| {
            let (g, x) = (&dy[examples.range(i, dy.len())], &x[examples.range(i, x.len())]);
            (g, x, g.len() / n.max(1))
        };
        let square = |i: usize| {
            let (g, x, rows) = of(i);
            outer_square(g, x, rows)
        };
        norms.squares(self.weight, square, |i, dw, write| {
            let (g, x, rows) = of(i);
            let (dw, write) = part(dw, self.first * k..(self.first + n) * k, write);
            let (g, x) = (Mat::new(g, rows, n).t(), Mat::new(x, rows, k));
            matmul(g, x, dw, write, Epilogue::default(), Precision::F32);
        });
        if let Some(bias) = self.bias {
            norms.gradients(bias, |i, db, write| {
                let (db, write) = part(db, self.first..self.first + n, write);
                col_sum(of(i).0, n, db, write);
            });
        }
    }

    /// The ε-rule, after the identity rule of the activation; a residual takes what a term of a sum takes. A product with
    /// stored weights rounds its input, which the way back does not: what that makes of the sum is a constant's.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        if let Some(residual) = self.residual {
            let c = back.dy.clone();
            back.send(residual, &c);
        }
        let mut carried = 0.0;
        back.change_dy(|view, dy| {
            let (y, n) = (view.output(), view.output_shape().last().max(1));
            let residual = self.residual.map(|r| view.value(r));
            let (pre, bias) = (self.pre.map(|p| view.saved(p)), self.bias.map(|b| view.param(b)));
            for (i, c) in dy.iter_mut().enumerate() {
                let a = y[i] - residual.map_or(0.0, |r| r[i]);
                let z = pre.map_or(a, |pre| pre[i]);
                let arrived = *c * a;
                *c = ledger.quotient(arrived, z);
                let constant = bias.map_or(0.0, |b| b[self.first + i % n]);
                let on = f64::from(*c) * f64::from(z - constant);
                carried += on;
                ledger.absorbed += f64::from(arrived) - on;
            }
        });
        let Some(stored) = back.view().stored(self.weight).filter(|_| back.wants(self.x)) else {
            self.backward_inputs(back);
            return Ok(());
        };
        let x = back.view().value(self.x);
        let mut part = vec![0.0; x.len()];
        backward_stored(stored, &back.dy, &mut part, Write::Overwrite, back.precision);
        ledger.absorbed += carried - inner(&part, x);
        back.send(self.x, &part);
        Ok(())
    }
}

/// `‖Σ_t g_t ⊗ x_t‖²` of T rows: `Σ_{s, t} (g_s·g_t)(x_s·x_t)` where the two Gram matrices are cheaper than
/// the gradient itself, else the gradient's own square.
pub(super) fn outer_square(g: &[f32], x: &[f32], rows: usize) -> f64 {
    let (n, k) = (g.len() / rows.max(1), x.len() / rows.max(1));
    if rows == 1 {
        return sum_of_squares(g) * sum_of_squares(x);
    }
    let (g, x) = (Mat::new(g, rows, n), Mat::new(x, rows, k));
    if rows * (n + k) >= n * k {
        return scratch::with_f32(n * k, |dw| {
            matmul(g.t(), x, dw, Write::Overwrite, Epilogue::default(), Precision::F32);
            sum_of_squares(dw)
        });
    }
    scratch::with_f32(2 * rows * rows, |grams| {
        let (of_g, of_x) = grams.split_at_mut(rows * rows);
        matmul(g, g.t(), of_g, Write::Overwrite, Epilogue::default(), Precision::F32);
        matmul(x, x.t(), of_x, Write::Overwrite, Epilogue::default(), Precision::F32);
        let (mut sum, mut size) = (0.0, 0.0);
        for (&a, &b) in of_g.iter().zip(of_x.iter()) {
            let product = f64::from(a) * f64::from(b);
            sum += product;
            size += product.abs();
        }
        // Where terms cancel, rounding could make the norm too small and clipping too weak: it errs upwards.
        sum.max(0.0) + 4.0 * f64::from(f32::EPSILON) * size
    })
}

/// Rows of a weight in blocks that become numbers again at once.
const ROWS: usize = 256;

/// `f(x·Wᵀ + b) + r` for a weight in blocks, of its numbers and of x as it is: [`backward_stored`] is the way back of this.
fn forward_unrounded(
    weight: &StoredWeight,
    x: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
    precision: Precision,
) {
    let (n, k) = (weight.n(), weight.k());
    let m = x.len() / k.max(1);
    each_rows(weight, |first, rows| {
        let count = rows.len() / k;
        let bias = epilogue.bias.map(|bias| &bias[first..first + count]);
        let own = Epilogue { bias, ..Epilogue::default() };
        let columns = first..(first + m.saturating_sub(1) * n + count).min(out.len());
        let (x, rows) = (Mat::new(x, m, k), Mat::new(rows, count, k).t());
        matmul_strided(x, rows, &mut out[columns], n, Write::Overwrite, own, precision);
    });
    if let Some(pre) = epilogue.pre {
        pre.copy_from_slice(out);
    }
    activate_in_place(epilogue.activation, out);
    if let Some(residual) = epilogue.residual {
        add_into(out, residual);
    }
}

/// `dx (=|+=) g·W` for a weight in blocks.
fn backward_stored(weight: &StoredWeight, dy: &[f32], dx: &mut [f32], write: Write, precision: Precision) {
    let (n, k) = (weight.n(), weight.k());
    let m = dx.len() / k.max(1);
    each_rows(weight, |first, rows| {
        let count = rows.len() / k;
        let g = Mat::with_stride(&dy[first..], m, count, n);
        let write = if first == 0 { write } else { Write::Add };
        matmul(g, Mat::new(rows, count, k), dx, write, Epilogue::default(), precision);
    });
}

/// The rows of a weight in blocks as numbers, some at a time, with the number of the first.
fn each_rows(weight: &StoredWeight, mut visit: impl FnMut(usize, &[f32])) {
    let (n, k) = (weight.n(), weight.k());
    scratch::with_f32(ROWS * k, |rows| {
        for first in (0..n).step_by(ROWS) {
            let rows = &mut rows[..ROWS.min(n - first) * k];
            lyceum_kernels::pool::for_each_chunk(rows, k, |i, row| weight.row(first + i, row));
            visit(first, rows);
        }
    });
}

/// The part of a gradient that is written; where the whole was to be overwritten, the rest becomes zero.
fn part(whole: &mut [f32], range: Range<usize>, write: Write) -> (&mut [f32], Write) {
    if range.len() == whole.len() {
        return (whole, write);
    }
    if write == Write::Overwrite {
        whole.fill(0.0);
    }
    (&mut whole[range], Write::Add)
}

/// `dy ← dy ⊙ f′(pre)`.
pub(super) fn activate_backward_in_place(activation: Activation, pre: &[f32], dy: &mut [f32]) {
    // The kernel reads dy and writes dx; blocks keep the copy in cache.
    const BLOCK: usize = 4096;
    lyceum_kernels::pool::for_each_chunk(dy, BLOCK, |i, dy| {
        let mut copy = [0.0; BLOCK];
        let copy = &mut copy[..dy.len()];
        copy.copy_from_slice(dy);
        activate_backward(activation, &pre[i * BLOCK..][..dy.len()], copy, dy, Write::Overwrite);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for activation in [Activation::None, Activation::Gelu, Activation::Tanh, Activation::Silu] {
            Check::new(3).input(&[3, 2, 5]).input(&[3, 2, 4]).param("w", &[4, 5]).param("b", &[4]).run(
                |tape, inputs, params| {
                    tape.linear_residual(inputs[0], params[0], Some(params[1]), activation, Some(inputs[1]))
                },
            );
        }
    }

    #[test]
    fn parts_of_a_weight_have_their_own_gradients() {
        Check::new(3).input(&[3, 5]).param("w", &[6, 5]).param("b", &[6]).run(|tape, inputs, params| {
            let (w, b) = (params[0], Some(params[1]));
            let one = tape.linear_rows(inputs[0], w, b, 0..2, Activation::None, None)?;
            let two = tape.linear_rows(inputs[0], w, b, 2..4, Activation::Tanh, None)?;
            tape.add(one, two)
        });
    }

    #[test]
    fn long_examples_take_the_cheaper_way_to_the_same_norm() {
        // 4·(20 + 30) < 600: Gram matrices; 40·(3 + 4) ≥ 12: the gradient.
        for dims in [[2, 4, 20, 30], [2, 40, 3, 4]] {
            let [b, t, k, n] = dims;
            let check = Check::new(b).input(&[b, t, k]).param("w", &[n, k]).param("b", &[n]).tolerance(2e-2);
            check.run(|tape, x, p| tape.linear(x[0], p[0], Some(p[1]), Activation::Sigmoid));
        }
    }

    #[test]
    fn wrong_sizes_are_named() {
        Check::new(2).input(&[2, 3]).param("w", &[4, 5]).fails("linear", |tape, inputs, params| {
            tape.linear(inputs[0], params[0], None, Activation::None)
        });
    }
}
