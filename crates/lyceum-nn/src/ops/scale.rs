//! `y = s·x` for a constant s.

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Ledger, Tape, Var};
use lyceum_kernels::elementwise::{Write, axpy, scale};

#[derive(Clone, Copy)]
pub(crate) struct Scale {
    x: Var,
    factor: f32,
}

impl Tape<'_> {
    /// Every number times `factor`; any shape.
    pub fn scale(&mut self, x: Var, factor: f32) -> Result<Var, NnError> {
        let shape = self.shape(x);
        let mut out = self.take(shape.len());
        out.copy_from_slice(self.value(x));
        scale(&mut out, factor);
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Scale(Scale { x, factor }), shape, out, records))
    }
}

impl Operation for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |_, dy, dx, write| {
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            axpy(dx, self.factor, dy);
        });
    }

    /// A product with a constant: as the gradient.
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
        Check::new(3).input(&[3, 4]).run(|tape, x, _| tape.scale(x[0], -1.7));
    }
}
