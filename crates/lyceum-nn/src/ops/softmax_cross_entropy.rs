//! `loss = scale · Σ_r (lse(z_r) − z_r[t_r])`, softmax and cross-entropy in one.
//!
//! Logits `[…, V]`, one target a row; rows with target −100 have no loss. Backward:
//! `dz_r = scale · (softmax(z_r) − onehot(t_r))`.

use super::{Op, Operation};
use crate::tape::{Backward, Saved, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::softmax::{IGNORED, cross_entropy, cross_entropy_backward};

#[derive(Clone, Copy)]
pub(crate) struct SoftmaxCrossEntropy {
    logits: Var,
    targets: SavedIds,
    lse: Saved,
    scale: f32,
}

impl Tape<'_> {
    /// The scalar loss; see the module.
    pub fn softmax_cross_entropy(
        &mut self,
        logits: Var,
        targets: &[i32],
        scale: f32,
    ) -> Result<Var, NnError> {
        let shape = self.shape(logits);
        let (rows, classes) = (shape.len() / shape.last().max(1), shape.last());
        if targets.len() != rows {
            let want = format!("{} rows, one a target", targets.len());
            return Err(NnError::shape("softmax_cross_entropy", "logits", shape, want));
        }
        let outside = |&(_, &t): &(usize, &i32)| t != IGNORED && !(0..classes as i64).contains(&i64::from(t));
        if let Some((position, &t)) = targets.iter().enumerate().find(outside) {
            let op = "softmax_cross_entropy";
            return Err(NnError::Index { op, index: t.into(), position, size: classes });
        }
        let (mut losses, mut lse) = (self.take(rows), self.take(rows));
        cross_entropy(self.value(logits), classes, targets, &mut losses, &mut lse);
        let mut value = self.take(1);
        // In f64, so that the mean of many rows keeps its last digits.
        value[0] = (losses.iter().map(|&l| f64::from(l)).sum::<f64>() * f64::from(scale)) as f32;
        self.give(losses);
        let records = self.needs_grad(&[logits], &[]);
        let (targets, lse) = (self.save_ids(bytemuck::cast_slice(targets)), self.save(lse));
        let op = Op::SoftmaxCrossEntropy(SoftmaxCrossEntropy { logits, targets, lse, scale });
        Ok(self.push(op, Shape::new(&[]), value, records))
    }
}

impl Operation for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.logits, |view, dy, dz, write| {
            let targets = bytemuck::cast_slice(view.ids(self.targets));
            let (z, classes) = (view.value(self.logits), view.shape(self.logits).last());
            cross_entropy_backward(
                z,
                classes,
                targets,
                view.saved(self.lse),
                self.scale * dy[0],
                None,
                dz,
                write,
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences_and_ignored_rows_have_none() {
        Check::new(1)
            .mixes_examples()
            .input(&[4, 5])
            .run(|tape, inputs, _| tape.softmax_cross_entropy(inputs[0], &[1, -100, 4, 0], 0.5));
    }

    #[test]
    fn a_target_outside_the_classes_is_named() {
        Check::new(1).input(&[2, 3]).fails("index 3 at position 1", |tape, inputs, _| {
            tape.softmax_cross_entropy(inputs[0], &[0, 3], 1.0)
        });
    }
}
