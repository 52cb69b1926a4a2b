//! `y = γ · (x − mean) / √(var + ε) + β` per channel over the batch (Ioffe & Szegedy, arXiv:1502.03167).
//!
//! x and y `[B, C, …]`; γ, β and the running statistics `[C]`. In training mean and biased variance are the
//! batch's, and the running ones move towards them (the variance unbiased, as in PyTorch):
//! `running ← (1 − m) · running + m · batch`. In evaluation the running ones are used. Backward: see
//! [`lyceum_kernels::batch_norm`]. This is the one operation whose rows depend on each other, in training.

use super::{Op, Operation};
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Ledger, Phase, Saved, Tape, Var, View, WeightBackward};
use crate::{NnError, Shape};
use lyceum_kernels::batch_norm::{
    ChannelShape, Statistics, batch_norm_backward_input, batch_norm_backward_weight, batch_norm_forward,
    channel_stats,
};

/// The parameters of a batch norm, PyTorch's `BatchNorm1d` and `BatchNorm2d`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BatchNormParams {
    pub weight: ParamId,
    pub bias: ParamId,
    pub running_mean: ParamId,
    pub running_var: ParamId,
    pub num_batches_tracked: ParamId,
    pub eps: f32,
    pub momentum: f32,
}

#[derive(Clone, Copy)]
pub(crate) struct BatchNorm {
    x: Var,
    weight: ParamId,
    bias: ParamId,
    statistics: Statistics,
    /// Means, then inverse standard deviations: `[2, C]`.
    stats: Saved,
}

impl Tape<'_> {
    /// See the module.
    pub fn batch_norm(&mut self, x: Var, p: BatchNormParams) -> Result<Var, NnError> {
        let shape = self.shape(x);
        let channels = channel_shape("batch_norm", shape)?;
        let (c, params) = (channels.channels, self.params());
        for id in [p.weight, p.bias, p.running_mean, p.running_var] {
            if params.shape(id).dims() != [c] {
                return Err(NnError::shape("batch_norm", "parameter", params.shape(id), format!("[{c}]")));
            }
        }
        let statistics = match self.phase() {
            Phase::Train => Statistics::Batch,
            Phase::Eval => Statistics::Running,
        };
        let mut stats = self.take(2 * c);
        let (mean, inv_std) = stats.split_at_mut(c);
        match statistics {
            Statistics::Batch => {
                let count = channels.batch * channels.n;
                if count < 2 {
                    let want = "more than one number a channel in training";
                    return Err(NnError::shape("batch_norm", "input", shape, want));
                }
                channel_stats(channels, self.value(x), mean, inv_std);
                let unbiased = count as f32 / (count - 1) as f32;
                let (mut new_mean, mut new_var) = (self.take(c), self.take(c));
                let step = |old: f32, now: f32| old + p.momentum * (now - old);
                for i in 0..c {
                    new_mean[i] = step(params.value(p.running_mean)[i], mean[i]);
                    new_var[i] = step(params.value(p.running_var)[i], inv_std[i] * unbiased);
                }
                let mut tracked = self.take(1);
                tracked[0] = params.value(p.num_batches_tracked)[0] + 1.0;
                self.update_buffer(p.running_mean, new_mean);
                self.update_buffer(p.running_var, new_var);
                self.update_buffer(p.num_batches_tracked, tracked);
            }
            Statistics::Running => {
                mean.copy_from_slice(params.value(p.running_mean));
                inv_std.copy_from_slice(params.value(p.running_var));
            }
        }
        inv_std.iter_mut().for_each(|v| *v = (1.0 / (*v as f64 + p.eps as f64).sqrt()) as f32);
        let mut out = self.take(shape.len());
        let scale_shift = Some((params.value(p.weight), params.value(p.bias)));
        batch_norm_forward(channels, self.value(x), mean, inv_std, scale_shift, &mut out);
        let records = self.needs_grad(&[x], &[p.weight, p.bias]);
        if !records {
            self.give(stats);
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let stats = self.save(stats);
        let op = BatchNorm { x, weight: p.weight, bias: p.bias, statistics, stats };
        Ok(self.push(Op::BatchNorm(op), shape, out, true))
    }
}

/// `[B, C, …]` as examples, channels and numbers a channel.
pub(super) fn channel_shape(op: &'static str, x: Shape) -> Result<ChannelShape, NnError> {
    if x.rank() < 2 || x.len() == 0 {
        return Err(NnError::shape(op, "input", x, "[B, C, …], not empty"));
    }
    Ok(ChannelShape { batch: x[0], channels: x[1], n: x.len() / x[0] / x[1] })
}

impl BatchNorm {
    /// Sizes, and the means and inverse deviations.
    fn stats<'v>(&self, view: View<'v>) -> (ChannelShape, &'v [f32], &'v [f32]) {
        let shape = channel_shape("batch_norm", view.shape(self.x)).expect("the way there checked it: bug");
        let (mean, inv_std) = view.saved(self.stats).split_at(shape.channels);
        (shape, mean, inv_std)
    }
}

impl Operation for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (shape, mean, inv_std) = self.stats(view);
            let (x, gamma) = (view.value(self.x), Some(view.param(self.weight)));
            batch_norm_backward_input(shape, self.statistics, x, mean, inv_std, gamma, dy, write, dx);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        back.weighted(back.dy, |back, dy| {
            back.grad(self.weight, |view, dw, write| {
                let (shape, mean, inv_std) = self.stats(view);
                let x = view.value(self.x);
                batch_norm_backward_weight(shape, x, mean, inv_std, dy, Some((dw, write)), None);
            });
            back.grad(self.bias, |view, db, write| {
                let (shape, mean, inv_std) = self.stats(view);
                let x = view.value(self.x);
                batch_norm_backward_weight(shape, x, mean, inv_std, dy, None, Some((db, write)));
            });
        });
    }

    /// Also with running statistics: they were computed from other examples.
    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        norms.mixes_examples(self.name());
    }

    /// With running statistics it is a scale and a shift of each channel; with the batch's own it has no rule.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        if self.statistics == Statistics::Batch {
            return Err(NnError::NoRelevance { op: "batch_norm with the statistics of a batch" });
        }
        back.change_dy(|view, dy| {
            let (shape, _, inv_std) = self.stats(view);
            let (w, y, x) = (view.param(self.weight), view.output(), view.value(self.x));
            for (i, c) in dy.iter_mut().enumerate() {
                let channel = i / shape.n.max(1) % shape.channels;
                let arrived = f64::from(*c) * f64::from(y[i]);
                *c *= w[channel] * inv_std[channel];
                ledger.absorbed += arrived - f64::from(*c) * f64::from(x[i]);
            }
        });
        let c = back.dy.clone();
        back.send(self.x, &c);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;
    use crate::{Init, ParamKind};

    fn norm(p: &[ParamId]) -> BatchNormParams {
        BatchNormParams {
            weight: p[0],
            bias: p[1],
            running_mean: p[2],
            running_var: p[3],
            num_batches_tracked: p[4],
            eps: 1e-5,
            momentum: 0.1,
        }
    }

    fn check(examples: usize, dims: &[usize]) -> Check {
        Check::new(examples)
            .input(dims)
            .param("w", &dims[1..2])
            .param("b", &dims[1..2])
            .param_of("running_mean", &dims[1..2], ParamKind::Buffer, Init::Uniform(1.0))
            .param_of("running_var", &dims[1..2], ParamKind::Buffer, Init::Ones)
            .param_of("num_batches_tracked", &[1], ParamKind::Counter, Init::Zeros)
    }

    #[test]
    fn gradients_agree_with_finite_differences_in_training() {
        for dims in [&[6, 3][..], &[3, 2, 5], &[2, 3, 3, 4]] {
            let check = check(dims[0], dims).training().mixes_examples().tolerance(1e-2);
            check.run(|tape, x, p| tape.batch_norm(x[0], norm(p)));
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences_in_evaluation() {
        check(2, &[2, 3, 3, 4]).refuses_norms().run(|tape, x, p| tape.batch_norm(x[0], norm(p)));
    }

    #[test]
    fn one_number_a_channel_cannot_be_normalised_in_training() {
        check(1, &[1, 3]).training().fails("batch_norm", |tape, x, p| tape.batch_norm(x[0], norm(p)));
    }
}
