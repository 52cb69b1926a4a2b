//! `y = γ · (x − mean) / √(var + ε) + β` over groups of an example's channels (Wu & He, arXiv:1803.08494).
//!
//! x and y `[B, C, …]`; γ and β `[C]`; mean and biased variance of each example's group. The same in training
//! and evaluation, and no example sees another. Backward: see [`lyceum_kernels::group_norm`].

use super::batch_norm::channel_shape;
use super::{Op, Operation};
use crate::NnError;
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Ledger, Saved, Tape, Var, View, WeightBackward};
use lyceum_kernels::batch_norm::ChannelShape;
use lyceum_kernels::group_norm::{group_norm_backward_input, group_norm_backward_weight, group_norm_forward};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct GroupNorm {
    x: Var,
    weight: ParamId,
    bias: ParamId,
    groups: usize,
    /// Means, then inverse standard deviations: `[2, B, G]`.
    stats: Saved,
}

impl Tape<'_> {
    /// See the module; `groups` divides the channels.
    pub fn group_norm(
        &mut self,
        x: Var,
        groups: usize,
        weight: ParamId,
        bias: ParamId,
        eps: f32,
    ) -> Result<Var, NnError> {
        let shape = self.shape(x);
        let channels = channel_shape("group_norm", shape)?;
        let (c, params) = (channels.channels, self.params());
        if groups == 0 || !c.is_multiple_of(groups) {
            let want = format!("a number of channels that {groups} divides");
            return Err(NnError::shape("group_norm", "input", shape, want));
        }
        for id in [weight, bias] {
            if params.shape(id).dims() != [c] {
                return Err(NnError::shape("group_norm", "parameter", params.shape(id), format!("[{c}]")));
            }
        }
        let n_groups = channels.batch * groups;
        let (mut out, mut stats) = (self.take(shape.len()), self.take(2 * n_groups));
        let (mean, inv_std) = stats.split_at_mut(n_groups);
        let (gamma, beta) = (params.value(weight), params.value(bias));
        group_norm_forward(channels, groups, eps, self.value(x), gamma, beta, &mut out, mean, inv_std);
        if !self.needs_grad(&[x], &[weight, bias]) {
            self.give(stats);
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let stats = self.save(stats);
        Ok(self.push(Op::GroupNorm(GroupNorm { x, weight, bias, groups, stats }), shape, out, true))
    }
}

impl GroupNorm {
    /// Sizes, and the means and inverse deviations.
    fn stats<'v>(&self, view: View<'v>) -> (ChannelShape, &'v [f32], &'v [f32]) {
        let shape = channel_shape("group_norm", view.shape(self.x)).expect("the way there checked it: bug");
        let (mean, inv_std) = view.saved(self.stats).split_at(shape.batch * self.groups);
        (shape, mean, inv_std)
    }
}

impl Operation for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (shape, mean, inv_std) = self.stats(view);
            let (x, gamma) = (view.value(self.x), view.param(self.weight));
            group_norm_backward_input(shape, self.groups, x, mean, inv_std, gamma, dy, write, dx);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        back.weighted(back.dy, |back, dy| {
            back.grad(self.weight, |view, dw, write| {
                let ((shape, mean, inv_std), x) = (self.stats(view), view.value(self.x));
                group_norm_backward_weight(shape, self.groups, x, mean, inv_std, dy, Some((dw, write)), None);
            });
            back.grad(self.bias, |view, db, write| {
                let ((shape, mean, inv_std), x) = (self.stats(view), view.value(self.x));
                group_norm_backward_weight(shape, self.groups, x, mean, inv_std, dy, None, Some((db, write)));
            });
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let ((shape, mean, inv_std), x) = (self.stats(view), view.value(self.x));
        let gradient = |i: usize, dgamma: Option<(&mut [f32], Write)>, dbeta: Option<(&mut [f32], Write)>| {
            let shape = ChannelShape { batch: examples.range(i, shape.batch).len(), ..shape };
            let groups = examples.range(i, mean.len());
            let (mean, inv_std) = (&mean[groups.clone()], &inv_std[groups]);
            let (x, dy) = (&x[examples.range(i, x.len())], &dy[examples.range(i, dy.len())]);
            group_norm_backward_weight(shape, self.groups, x, mean, inv_std, dy, dgamma, dbeta);
        };
        norms.gradients(self.weight, |i, dw, write| gradient(i, Some((dw, write)), None));
        norms.gradients(self.bias, |i, db, write| gradient(i, None, Some((db, write))));
    }

    /// As a layer norm over each group.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        back.change_dy(|view, dy| {
            let (shape, _, inv_std) = self.stats(view);
            let (w, bias) = (view.param(self.weight), view.param(self.bias));
            let per_group = shape.channels / self.groups;
            for (g, group) in dy.chunks_exact_mut((per_group * shape.n).max(1)).enumerate() {
                for (j, plane) in group.chunks_exact_mut(shape.n.max(1)).enumerate() {
                    let channel = g % self.groups * per_group + j;
                    let sum: f64 = plane.iter().map(|&c| f64::from(c)).sum();
                    ledger.absorbed += sum * f64::from(bias[channel]);
                    plane.iter_mut().for_each(|c| *c *= w[channel] * inv_std[g]);
                }
                let mean = group.iter().sum::<f32>() / group.len() as f32;
                group.iter_mut().for_each(|c| *c -= mean);
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
        for (dims, groups) in [(&[2, 4, 3, 3][..], 2), (&[3, 6, 5], 3), (&[2, 6], 1)] {
            let check = Check::new(dims[0]).input(dims).param("w", &dims[1..2]).param("b", &dims[1..2]);
            check.tolerance(1e-2).run(|tape, x, p| tape.group_norm(x[0], groups, p[0], p[1], 1e-5));
        }
    }

    #[test]
    fn groups_that_do_not_divide_are_named() {
        let check = Check::new(2).input(&[2, 4, 3]).param("w", &[4]).param("b", &[4]);
        check.fails("group_norm", |tape, x, p| tape.group_norm(x[0], 3, p[0], p[1], 1e-5));
    }
}
