//! `y = f(x)` alone, for places where no product precedes it. `dx = dy ⊙ f′(x)`.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Tape, Var};
use crate::{Activation, NnError};
use lyceum_kernels::activation::{activate, activate_backward};

#[derive(Clone, Copy)]
pub(crate) struct Activate {
    x: Var,
    activation: Activation,
}

impl Tape<'_> {
    /// Element by element; any shape.
    pub fn activate(&mut self, x: Var, activation: Activation) -> Result<Var, NnError> {
        let shape = self.shape(x);
        let mut out = self.take(shape.len());
        activate(activation, self.value(x), &mut out);
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Activate(Activate { x, activation }), shape, out, records))
    }
}

impl Operation for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            activate_backward(self.activation, view.value(self.x), dy, dx, write)
        });
    }

    /// The identity rule: the relevance of `f(x)` is that of `x`.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        back.change_dy(|view, dy| {
            for ((c, &x), &y) in dy.iter_mut().zip(view.value(self.x)).zip(view.output()) {
                let arrived = *c * y;
                *c = ledger.quotient(arrived, x);
                ledger.absorbed += f64::from(arrived) - f64::from(*c) * f64::from(x);
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

    #[test]
    fn gradients_agree_with_finite_differences() {
        use Activation::*;
        for activation in [Gelu, GeluTanh, Silu, Tanh, Sigmoid] {
            Check::new(3).input(&[3, 7]).run(|tape, inputs, _| tape.activate(inputs[0], activation));
        }
    }
}
