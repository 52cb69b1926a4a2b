//! `y = a + b`, equal shapes. `da = db = dy`.

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Ledger, Tape, Var};
use lyceum_kernels::elementwise::add;

#[derive(Clone, Copy)]
pub(crate) struct Add {
    a: Var,
    b: Var,
}

impl Tape<'_> {
    /// Element by element.
    pub fn add(&mut self, a: Var, b: Var) -> Result<Var, NnError> {
        let shape = self.shape(a);
        if shape != self.shape(b) {
            return Err(NnError::shape("add", "second term", self.shape(b), shape));
        }
        let mut out = self.take(shape.len());
        add(self.value(a), self.value(b), &mut out);
        let records = self.needs_grad(&[a, b], &[]);
        Ok(self.push(Op::Add(Add { a, b }), shape, out, records))
    }
}

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        for input in [self.a, self.b] {
            back.pass_on(input);
        }
    }

    /// A sum gives each term its part: relevance per unit of value is the same for all.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        self.backward_inputs(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences_also_when_a_value_is_added_to_itself() {
        Check::new(2).input(&[2, 3]).input(&[2, 3]).run(|tape, inputs, _| tape.add(inputs[0], inputs[1]));
        Check::new(2).input(&[2, 3]).run(|tape, inputs, _| tape.add(inputs[0], inputs[0]));
    }
}
