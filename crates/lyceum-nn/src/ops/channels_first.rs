//! `[B, T, C]` to `[B, C, T]`: a series as its file has it, to planes for a convolution.
//!
//! The gradient takes the way back.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;
use lyceum_kernels::pool;

#[derive(Clone, Copy)]
pub(crate) struct ChannelsFirst {
    x: Var,
}

impl Tape<'_> {
    /// See the module.
    pub fn channels_first(&mut self, x: Var) -> Result<Var, NnError> {
        let shape = self.shape(x);
        if shape.rank() != 3 {
            return Err(NnError::shape("channels_first", "input", shape, "[B, T, C]"));
        }
        let mut out = self.take(shape.len());
        turn([shape[1], shape[2]], self.value(x), &mut out, Write::Overwrite);
        let records = self.needs_grad(&[x], &[]);
        let turned = Shape::new(&[shape[0], shape[2], shape[1]]);
        Ok(self.push(Op::ChannelsFirst(ChannelsFirst { x }), turned, out, records))
    }
}

/// Turns matrices `[rows, cols]` that lie one after the other.
fn turn([rows, cols]: [usize; 2], from: &[f32], to: &mut [f32], write: Write) {
    pool::for_each_chunk(to, (rows * cols).max(1), |i, to| {
        let from = &from[i * rows * cols..][..rows * cols];
        for (col, to) in to.chunks_exact_mut(rows).enumerate() {
            for (row, to) in to.iter_mut().enumerate() {
                let value = from[row * cols + col];
                *to = if write == Write::Add { *to + value } else { value };
            }
        }
    });
}

impl Operation for ChannelsFirst {
    fn name(&self) -> &'static str {
        "channels_first"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let shape = view.output_shape();
            turn([shape[1], shape[2]], dy, dx, write);
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
        Check::new(2).input(&[2, 3, 5]).run(|tape, x, _| {
            let turned = tape.channels_first(x[0])?;
            assert_eq!(tape.value(turned)[1], tape.value(x[0])[5]);
            Ok(turned)
        });
    }

    #[test]
    fn an_image_is_no_series() {
        Check::new(1).input(&[1, 3]).fails("channels_first", |tape, x, _| tape.channels_first(x[0]));
    }
}
