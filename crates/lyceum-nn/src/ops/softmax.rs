//! `y = softmax(x)` and `y = log softmax(x)` over the innermost dimension.
//!
//! Any shape. Backward: `dx = y ⊙ (dy − Σ dy ⊙ y)`, and `dx = dy − exp(y) · Σ dy` for the logarithm. A loss
//! over classes is better taken by [`Tape::softmax_cross_entropy`], which never makes the probabilities.

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Tape, Var};
use lyceum_kernels::softmax::{log_softmax, log_softmax_backward, softmax, softmax_backward};

#[derive(Clone, Copy)]
pub(crate) struct Softmax {
    x: Var,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Probabilities,
    Logarithms,
}

impl Tape<'_> {
    /// Probabilities.
    pub fn softmax(&mut self, x: Var) -> Result<Var, NnError> {
        self.softmax_in(x, Form::Probabilities)
    }

    /// Logarithms of probabilities.
    pub fn log_softmax(&mut self, x: Var) -> Result<Var, NnError> {
        self.softmax_in(x, Form::Logarithms)
    }

    fn softmax_in(&mut self, x: Var, form: Form) -> Result<Var, NnError> {
        let shape = self.shape(x);
        if shape.last() == 0 {
            return Err(NnError::shape("softmax", "input", shape, "rows of at least one number"));
        }
        let mut out = self.take(shape.len());
        match form {
            Form::Probabilities => softmax(self.value(x), shape.last(), &mut out),
            Form::Logarithms => log_softmax(self.value(x), shape.last(), &mut out),
        }
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Softmax(Softmax { x, form }), shape, out, records))
    }
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (y, cols) = (view.output(), view.shape(self.x).last());
            match self.form {
                Form::Probabilities => softmax_backward(y, dy, cols, dx, write),
                Form::Logarithms => log_softmax_backward(y, dy, cols, dx, write),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(2).input(&[2, 3, 5]).run(|tape, x, _| tape.softmax(x[0]));
        Check::new(2).input(&[2, 3, 5]).run(|tape, x, _| tape.log_softmax(x[0]));
    }

    #[test]
    fn rows_of_nothing_are_refused() {
        Check::new(1).input(&[2, 0]).fails("softmax", |tape, x, _| tape.softmax(x[0]));
    }
}
