//! `loss = scale · Σ (max(z, 0) − z·t + ln(1 + e^−|z|))`: cross-entropy of independent yes-or-no answers with
//! logits z and targets t in [0, 1]. With `scale = 1 / elements` it is PyTorch's `BCEWithLogitsLoss`.
//!
//! Any shape. Backward: `dz = scale · (σ(z) − t)`.

use super::{Op, Operation};
use crate::tape::{Backward, Saved, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct BinaryCrossEntropy {
    logits: Var,
    targets: Saved,
    scale: f32,
}

impl Tape<'_> {
    /// The scalar loss of `logits` against as many `targets`.
    pub fn binary_cross_entropy(&mut self, logits: Var, targets: &[f32], scale: f32) -> Result<Var, NnError> {
        let shape = self.shape(logits);
        if targets.len() != shape.len() {
            let want = format!("{} elements, as the targets have", targets.len());
            return Err(NnError::shape("binary_cross_entropy", "logits", shape, want));
        }
        let mut value = self.take(1);
        // In f64, so that the mean of many rows keeps its last digits.
        let pairs = self.value(logits).iter().zip(targets).map(|(&z, &t)| (f64::from(z), f64::from(t)));
        let sum: f64 = pairs.map(|(z, t)| z.max(0.0) - z * t + (-z.abs()).exp().ln_1p()).sum();
        value[0] = (sum * f64::from(scale)) as f32;
        let records = self.needs_grad(&[logits], &[]);
        if !records {
            return Ok(self.push(Op::Leaf, Shape::new(&[]), value, false));
        }
        let mut kept = self.take(targets.len());
        kept.copy_from_slice(targets);
        let targets = self.save(kept);
        let op = Op::BinaryCrossEntropy(BinaryCrossEntropy { logits, targets, scale });
        Ok(self.push(op, Shape::new(&[]), value, true))
    }
}

impl Operation for BinaryCrossEntropy {
    fn name(&self) -> &'static str {
        "binary_cross_entropy"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.logits, |view, dy, dz, write| {
            let factor = self.scale * dy[0];
            let pairs = view.value(self.logits).iter().zip(view.saved(self.targets));
            for (dz, (&z, &t)) in dz.iter_mut().zip(pairs) {
                let d = factor * (1.0 / (1.0 + (-z).exp()) - t);
                match write {
                    Write::Overwrite => *dz = d,
                    Write::Add => *dz += d,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences_far_from_zero_too() {
        let logits = vec![-30.0, -2.0, 0.0, 0.5, 3.0, 40.0];
        Check::new(1)
            .mixes_examples()
            .input_of(&[2, 3], logits)
            .run(|tape, x, _| tape.binary_cross_entropy(x[0], &[1.0, 0.0, 0.3, 1.0, 0.0, 0.0], 0.5));
    }

    #[test]
    fn wrong_sizes_are_named() {
        Check::new(1)
            .input(&[2, 3])
            .fails("binary_cross_entropy", |tape, x, _| tape.binary_cross_entropy(x[0], &[1.0], 1.0));
    }
}
