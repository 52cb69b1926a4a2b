//! `y = (x − mean) / √(var + ε) ⊙ w + b` over the innermost dimension (Ba et al. 2016, arXiv:1607.06450).
//!
//! x and y `[…, C]`, w and b `[C]`. Backward, with `x̂ = (x − mean) · rstd` and `g = dy ⊙ w`:
//! `dx = rstd · (g − mean(g) − x̂ · mean(g ⊙ x̂))`, `dw = Σ_rows dy ⊙ x̂`, `db = Σ_rows dy`.

use super::{Op, Operation};
use crate::NnError;
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::relevance::inner;
use crate::tape::{Backward, Examples, Ledger, Saved, Tape, Var, View, WeightBackward};
use lyceum_kernels::elementwise::col_sum;
use lyceum_kernels::norm::{Normed, layer_norm, norm_backward, norm_backward_weights};

#[derive(Clone, Copy)]
pub(crate) struct LayerNorm {
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    mean: Saved,
    rstd: Saved,
}

impl Tape<'_> {
    /// See the module; `eps` is 1e-5 in PyTorch.
    pub fn layer_norm(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        eps: f32,
    ) -> Result<Var, NnError> {
        let (shape, params) = (self.shape(x), self.params());
        for id in [Some(weight), bias].into_iter().flatten() {
            if shape.rank() == 0 || params.shape(id).dims() != [shape.last()] {
                let want = format!("[…, C] for weight and bias {}", params.shape(id));
                return Err(NnError::shape("layer_norm", "input", shape, want));
            }
        }
        let records = match bias {
            Some(b) => self.needs_grad(&[x], &[weight, b]),
            None => self.needs_grad(&[x], &[weight]),
        };
        let rows = shape.rows();
        let (mut out, mut mean, mut rstd) = (self.take(shape.len()), self.take(rows), self.take(rows));
        let (w, b) = (params.value(weight), bias.map(|b| params.value(b)));
        layer_norm(self.value(x), shape.last(), w, b, eps, &mut out, &mut mean, &mut rstd);
        if !records {
            self.give(mean);
            self.give(rstd);
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let (mean, rstd) = (self.save(mean), self.save(rstd));
        Ok(self.push(Op::LayerNorm(LayerNorm { x, weight, bias, mean, rstd }), shape, out, true))
    }
}

impl LayerNorm {
    fn normed<'v>(&self, view: View<'v>) -> Normed<'v> {
        Normed {
            x: view.value(self.x),
            cols: view.shape(self.x).last(),
            mean: Some(view.saved(self.mean)),
            rstd: view.saved(self.rstd),
        }
    }
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            norm_backward(self.normed(view), view.param(self.weight), dy, dx, write);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        back.weighted(back.dy, |back, dy| {
            back.grad(self.weight, |view, dw, write| {
                norm_backward_weights(self.normed(view), dy, None, dw, None, write);
            });
            if let Some(bias) = self.bias {
                back.grad(bias, |_, db, write| col_sum(dy, db.len(), db, write));
            }
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let whole = self.normed(view);
        let of = |i: usize| (one(whole, examples, i), &dy[examples.range(i, dy.len())]);
        norms.gradients(self.weight, |i, dw, write| {
            let (normed, dy) = of(i);
            norm_backward_weights(normed, dy, None, dw, None, write);
        });
        if let Some(bias) = self.bias {
            norms.gradients(bias, |i, db, write| col_sum(of(i).1, db.len(), db, write));
        }
    }

    /// The deviation is a constant and the mean a sum: with `g = c ⊙ w`, `c_x = rstd · (g − mean(g))`.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        back.change_dy(|view, dy| {
            let (w, rstd) = (view.param(self.weight), view.saved(self.rstd));
            let bias = self.bias.map(|b| view.param(b));
            for (row, &rstd) in dy.chunks_exact_mut(w.len()).zip(rstd) {
                ledger.absorbed += bias.map_or(0.0, |b| inner(row, b));
                row.iter_mut().zip(w).for_each(|(c, w)| *c *= w * rstd);
                let mean = row.iter().sum::<f32>() / w.len() as f32;
                row.iter_mut().for_each(|c| *c -= mean);
            }
        });
        let c = back.dy.clone();
        back.send(self.x, &c);
        Ok(())
    }
}

/// The rows of example `i` of a normed batch.
pub(super) fn one<'v>(whole: Normed<'v>, examples: &Examples, i: usize) -> Normed<'v> {
    let rows = examples.range(i, whole.rstd.len());
    Normed {
        x: &whole.x[examples.range(i, whole.x.len())],
        cols: whole.cols,
        mean: whole.mean.map(|mean| &mean[rows.clone()]),
        rstd: &whole.rstd[rows],
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences_with_and_without_bias() {
        let check = || Check::new(2).input(&[2, 3, 5]).param("w", &[5]);
        check().param("b", &[5]).run(|tape, x, p| tape.layer_norm(x[0], p[0], Some(p[1]), 1e-5));
        check().run(|tape, x, p| tape.layer_norm(x[0], p[0], None, 1e-5));
    }

    #[test]
    fn wrong_sizes_are_named() {
        Check::new(1)
            .input(&[2, 4])
            .param("w", &[5])
            .fails("layer_norm", |tape, x, p| tape.layer_norm(x[0], p[0], None, 1e-5));
    }
}
