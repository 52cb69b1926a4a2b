//! The same row at every step: `[B, C]` to `[B, T, C]` (from the encoder's last state to the decoder's input).
//! Backward: the sum over the steps.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct RepeatSteps {
    x: Var,
}

impl Tape<'_> {
    /// `y[b, t] = x[b]` for `steps` steps.
    pub fn repeat_steps(&mut self, x: Var, steps: usize) -> Result<Var, NnError> {
        let shape = self.shape(x);
        if shape.rank() != 2 {
            return Err(NnError::shape("repeat_steps", "input", shape, "[B, C]"));
        }
        let (batch, width) = (shape[0], shape[1]);
        let mut out = self.take(batch * steps * width);
        for (i, row) in out.chunks_exact_mut(width.max(1)).enumerate() {
            row.copy_from_slice(&self.value(x)[i / steps * width..][..width]);
        }
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::RepeatSteps(RepeatSteps { x }), Shape::new(&[batch, steps, width]), out, records))
    }
}

impl Operation for RepeatSteps {
    fn name(&self) -> &'static str {
        "repeat_steps"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (steps, width) = (view.output_shape()[1], view.output_shape()[2]);
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            for (i, dy) in dy.chunks_exact(width.max(1)).enumerate() {
                let dx = &mut dx[i / steps * width..][..width];
                dx.iter_mut().zip(dy).for_each(|(x, y)| *x += y);
            }
        });
    }

    /// The numbers are the same.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        self.backward_inputs(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(2).input(&[2, 3]).run(|tape, x, _| tape.repeat_steps(x[0], 4));
    }
}
