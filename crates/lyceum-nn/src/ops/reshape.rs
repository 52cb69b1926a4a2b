//! The same numbers under another shape. The gradient passes unchanged.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Tape, Var};
use crate::{NnError, Shape};

#[derive(Clone, Copy)]
pub(crate) struct Reshape {
    x: Var,
}

impl Tape<'_> {
    /// `dims` has as many elements as `x`; examples stay outermost.
    pub fn reshape(&mut self, x: Var, dims: &[usize]) -> Result<Var, NnError> {
        let shape = Shape::new(dims);
        if shape.len() != self.shape(x).len() {
            return Err(NnError::shape("reshape", "input", self.shape(x), shape));
        }
        let mut out = self.take(shape.len());
        out.copy_from_slice(self.value(x));
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Reshape(Reshape { x }), shape, out, records))
    }
}

impl Operation for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.pass_on(self.x);
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
        Check::new(2).input(&[2, 6]).run(|tape, inputs, _| tape.reshape(inputs[0], &[2, 3, 2]));
    }
}
