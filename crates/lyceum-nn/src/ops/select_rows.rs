//! Some rows of many: `y[i] = x[rows[i]]`, `[…, C]` to `[n, C]`.
//!
//! A language model's head is a fifth of a small model's work, and only tokens with a loss need it. Backward:
//! `dx[rows[i]] += dy[i]`.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct SelectRows {
    x: Var,
    rows: SavedIds,
}

impl Tape<'_> {
    /// The rows of `x` with these numbers, in their order.
    ///
    /// # Errors
    /// A number that is no row.
    pub fn select_rows(&mut self, x: Var, rows: &[u32]) -> Result<Var, NnError> {
        let (op, shape) = ("select_rows", self.shape(x));
        if shape.rank() == 0 {
            return Err(NnError::shape(op, "input", shape, "[…, C]"));
        }
        let (size, width) = (shape.rows(), shape.last());
        if let Some(position) = rows.iter().position(|&row| row as usize >= size) {
            return Err(NnError::Index { op, index: rows[position].into(), position, size });
        }
        let mut out = self.take(rows.len() * width);
        let from = self.value(x);
        for (out, &row) in out.chunks_exact_mut(width.max(1)).zip(rows) {
            out.copy_from_slice(&from[row as usize * width..][..width]);
        }
        let out_shape = Shape::new(&[rows.len(), width]);
        if !self.needs_grad(&[x], &[]) {
            return Ok(self.push(Op::Leaf, out_shape, out, false));
        }
        let rows = self.save_ids(rows);
        Ok(self.push(Op::SelectRows(SelectRows { x, rows }), out_shape, out, true))
    }
}

impl Operation for SelectRows {
    fn name(&self) -> &'static str {
        "select_rows"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (width, rows) = (view.output_shape().last(), view.ids(self.rows));
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            for (dy, &row) in dy.chunks_exact(width.max(1)).zip(rows) {
                let dx = &mut dx[row as usize * width..][..width];
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
    fn gradients_agree_with_finite_differences_also_of_a_row_that_is_taken_twice() {
        Check::new(1)
            .mixes_examples()
            .input(&[2, 3, 4])
            .run(|tape, x, _| tape.select_rows(x[0], &[5, 0, 5, 2]));
    }

    #[test]
    fn a_row_that_is_not_there_is_named() {
        Check::new(1).input(&[2, 3]).fails("select_rows", |tape, x, _| tape.select_rows(x[0], &[0, 2]));
    }
}
