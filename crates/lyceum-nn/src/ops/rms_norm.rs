//! `y = x / √(mean(x²) + ε) ⊙ w` over the innermost dimension (Zhang & Sennrich 2019, arXiv:1910.07467).
//!
//! x and y `[…, C]`, w `[C]`. Backward, with `x̂ = x · rstd` and `g = dy ⊙ w`:
//! `dx = rstd · (g − x̂ · mean(g ⊙ x̂))`, `dw = Σ_rows dy ⊙ x̂`.

use super::layer_norm::one;
use super::{Op, Operation};
use crate::NnError;
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Ledger, Saved, Tape, Var, View, WeightBackward};
use lyceum_kernels::norm::{Normed, norm_backward, norm_backward_weights, rms_norm};

#[derive(Clone, Copy)]
pub(crate) struct RmsNorm {
    x: Var,
    weight: ParamId,
    rstd: Saved,
}

impl Tape<'_> {
    /// See the module.
    pub fn rms_norm(&mut self, x: Var, weight: ParamId, eps: f32) -> Result<Var, NnError> {
        let (shape, weight_shape) = (self.shape(x), self.params().shape(weight));
        if shape.rank() == 0 || weight_shape.dims() != [shape.last()] {
            return Err(NnError::shape(
                "rms_norm",
                "input",
                shape,
                format!("[…, C] for weight {weight_shape}"),
            ));
        }
        let records = self.needs_grad(&[x], &[weight]);
        let (mut out, mut rstd) = (self.take(shape.len()), self.take(shape.rows()));
        rms_norm(self.value(x), shape.last(), self.params().value(weight), eps, &mut out, &mut rstd);
        if !records {
            self.give(rstd);
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let rstd = self.save(rstd);
        Ok(self.push(Op::RmsNorm(RmsNorm { x, weight, rstd }), shape, out, true))
    }
}

impl RmsNorm {
    fn normed<'v>(&self, view: View<'v>) -> Normed<'v> {
        let (x, rstd) = (view.value(self.x), view.saved(self.rstd));
        Normed { x, cols: view.shape(self.x).last(), mean: None, rstd }
    }
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            norm_backward(self.normed(view), view.param(self.weight), dy, dx, write);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        // What is frozen may stand on other rows than the examples'.
        if !back.learns(self.weight) {
            return;
        }
        back.weighted(back.dy, |back, dy| {
            back.grad(self.weight, |view, dw, write| {
                norm_backward_weights(self.normed(view), dy, None, dw, None, write);
            });
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
    }

    /// The scale is a constant: `c_x = rstd · w ⊙ c`, which leaves every number its relevance.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        back.change_dy(|view, dy| {
            let (w, rstd) = (view.param(self.weight), view.saved(self.rstd));
            for (row, &rstd) in dy.chunks_exact_mut(w.len()).zip(rstd) {
                row.iter_mut().zip(w).for_each(|(c, w)| *c *= w * rstd);
            }
        });
        let c = back.dy.clone();
        back.send(self.x, &c);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(3).input(&[3, 2, 7]).param("w", &[7]).run(|tape, x, p| tape.rms_norm(x[0], p[0], 1e-6));
    }

    #[test]
    fn wrong_sizes_are_named() {
        let check = Check::new(1).input(&[2, 4]).param("w", &[5]);
        check.fails("rms_norm", |tape, x, p| tape.rms_norm(x[0], p[0], 1e-6));
    }
}
