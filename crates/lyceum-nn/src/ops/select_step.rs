//! One step of each example: `[B, T, C]` to `[B, C]`.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

/// Which step.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    First,
    /// The last of all, or the last valid one of each example.
    Last(Option<&'a [u32]>),
}

#[derive(Clone, Copy)]
pub(crate) struct SelectStep {
    x: Var,
    first: bool,
    lengths: Option<SavedIds>,
}

/// The step of example `b` among `steps`.
fn step_of(b: usize, steps: usize, first: bool, lengths: Option<&[u32]>) -> usize {
    match lengths {
        _ if first => 0,
        Some(lengths) => lengths[b] as usize - 1,
        None => steps - 1,
    }
}

impl Tape<'_> {
    /// `y[b] = x[b, step of b]`.
    ///
    /// # Errors
    /// When an example has no step, or a length is beyond the steps.
    pub fn select_step(&mut self, x: Var, step: Step<'_>) -> Result<Var, NnError> {
        let (op, shape) = ("select_step", self.shape(x));
        if shape.rank() != 3 || shape[1] == 0 {
            return Err(NnError::shape(op, "input", shape, "[B, T, C] with at least one step"));
        }
        let (batch, steps, width) = (shape[0], shape[1], shape[2]);
        if let Step::Last(Some(lengths)) = step {
            if lengths.len() != batch {
                let got = Shape::new(&[lengths.len()]);
                return Err(NnError::shape(
                    op,
                    "number of lengths",
                    got,
                    format!("{batch}, one for each example"),
                ));
            }
            if let Some(position) = lengths.iter().position(|&l| l == 0 || l as usize > steps) {
                let index = i64::from(lengths[position]) - 1;
                return Err(NnError::Index { op, index, position, size: steps });
            }
        }
        let (first, lengths) = match step {
            Step::First => (true, None),
            Step::Last(lengths) => (false, lengths),
        };
        let mut out = self.take(batch * width);
        for (b, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let row = b * steps + step_of(b, steps, first, lengths);
            out.copy_from_slice(&self.value(x)[row * width..][..width]);
        }
        let records = self.needs_grad(&[x], &[]);
        let out_shape = Shape::new(&[batch, width]);
        if !records {
            return Ok(self.push(Op::Leaf, out_shape, out, false));
        }
        let lengths = lengths.map(|l| self.save_ids(l));
        Ok(self.push(Op::SelectStep(SelectStep { x, first, lengths }), out_shape, out, true))
    }
}

impl Operation for SelectStep {
    fn name(&self) -> &'static str {
        "select_step"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (width, steps) = (view.output_shape().last(), view.shape(self.x)[1]);
            let lengths = self.lengths.map(|l| view.ids(l));
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            for (b, dy) in dy.chunks_exact(width.max(1)).enumerate() {
                let row = b * steps + step_of(b, steps, self.first, lengths);
                let dx = &mut dx[row * width..][..width];
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
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for step in [Step::First, Step::Last(None), Step::Last(Some(&[2, 1, 4]))] {
            Check::new(3).input(&[3, 4, 2]).run(move |tape, x, _| tape.select_step(x[0], step));
        }
    }

    #[test]
    fn an_example_without_a_step_is_refused() {
        for lengths in [&[1, 0, 4][..], &[1, 2, 5], &[1, 2]] {
            let step = Step::Last(Some(lengths));
            Check::new(3).input(&[3, 4, 2]).fails("select_step", |tape, x, _| tape.select_step(x[0], step));
        }
    }
}
