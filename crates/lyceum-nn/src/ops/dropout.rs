//! `y = x ⊙ mask / (1 − p)` in training, `y = x` otherwise. `dx = dy ⊙ mask / (1 − p)`.
//!
//! The mask is a function of the run's seed, the step, the operation's number on the tape and the element's
//! number: nothing is stored, and a resumed run draws the same one.

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Phase, Tape, Var};
use lyceum_kernels::dropout::{self, dropout, dropout_backward};

#[derive(Clone, Copy)]
pub(crate) struct DropoutOp {
    x: Var,
    mask: dropout::Dropout,
}

impl Tape<'_> {
    /// Any shape; `0 <= p < 1`.
    pub fn dropout(&mut self, x: Var, p: f64) -> Result<Var, NnError> {
        if self.phase() == Phase::Eval || p == 0.0 {
            return Ok(x);
        }
        let mask = self.dropout_mask(p);
        let shape = self.shape(x);
        let mut out = self.take(shape.len());
        dropout(self.value(x), mask, &mut out);
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Dropout(DropoutOp { x, mask }), shape, out, records))
    }

    /// The mask of the next operation that drops.
    pub(crate) fn dropout_mask(&mut self, p: f64) -> dropout::Dropout {
        let (key, call) = self.next_dropout();
        // At most 2^16 masks a step.
        dropout::Dropout { p: p as f32, seed: key.seed, stream: (key.step << 16) + call }
    }
}

impl Operation for DropoutOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |_, dy, dx, write| dropout_backward(dy, self.mask, dx, write));
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(2).training().input(&[2, 40]).run(|tape, inputs, _| {
            let once = tape.dropout(inputs[0], 0.4)?;
            tape.dropout(once, 0.2)
        });
    }

    #[test]
    fn nothing_is_dropped_in_evaluation() {
        Check::new(2).input(&[2, 4]).run(|tape, inputs, _| {
            let y = tape.dropout(inputs[0], 0.4)?;
            assert_eq!(y, inputs[0]);
            tape.add(y, y)
        });
    }
}
