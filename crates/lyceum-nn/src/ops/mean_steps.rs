//! `y[b] = (1 / L_b) Σ_{t < L_b} x[b, t]`: the mean over the steps that an example has.
//!
//! x `[B, T, C]`, y `[B, C]`; lengths `L_b ≥ 1`, all T where none are given. Backward:
//! `dx[b, t] = dy[b] / L_b` for `t < L_b`, 0 beyond.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct MeanSteps {
    x: Var,
    lengths: SavedIds,
}

impl Tape<'_> {
    /// See the module.
    pub fn mean_steps(&mut self, x: Var, lengths: Option<&[u32]>) -> Result<Var, NnError> {
        let (op, shape) = ("mean_steps", self.shape(x));
        if shape.rank() != 3 {
            return Err(NnError::shape(op, "input", shape, "[B, T, C]"));
        }
        let (batch, steps, width) = (shape[0], shape[1], shape[2]);
        let mut all = self.take_ids();
        match lengths {
            Some(lengths) => all.extend_from_slice(lengths),
            None => all.resize(batch, steps as u32),
        }
        if all.len() != batch {
            return Err(NnError::shape(op, "lengths", Shape::new(&[all.len()]), format!("[{batch}]")));
        }
        if let Some((position, &l)) = all.iter().enumerate().find(|&(_, &l)| l == 0 || l as usize > steps) {
            return Err(NnError::Index { op, index: l.into(), position, size: steps + 1 });
        }
        let mut out = self.take(batch * width);
        for (b, y) in out.chunks_exact_mut(width.max(1)).enumerate() {
            y.fill(0.0);
            let n = all[b] as usize;
            for row in self.value(x)[b * steps * width..][..n * width].chunks_exact(width) {
                y.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= n as f32);
        }
        let records = self.needs_grad(&[x], &[]);
        let lengths = self.save_ids(&all);
        self.give_ids(all);
        Ok(self.push(Op::MeanSteps(MeanSteps { x, lengths }), Shape::new(&[batch, width]), out, records))
    }
}

impl Operation for MeanSteps {
    fn name(&self) -> &'static str {
        "mean_steps"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let shape = view.shape(self.x);
            let (steps, width) = (shape[1], shape[2]);
            for (b, dx) in dx.chunks_exact_mut((steps * width).max(1)).enumerate() {
                let n = view.ids(self.lengths)[b] as usize;
                let dy = &dy[b * width..][..width];
                for (t, dx) in dx.chunks_exact_mut(width.max(1)).enumerate() {
                    let factor = if t < n { 1.0 / n as f32 } else { 0.0 };
                    match write {
                        Write::Overwrite => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy * factor),
                        Write::Add => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy * factor),
                    }
                }
            }
        });
    }

    /// A sum without a constant.
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
        Check::new(2).input(&[2, 3, 4]).run(|tape, inputs, _| tape.mean_steps(inputs[0], Some(&[3, 1])));
        Check::new(2).input(&[2, 3, 4]).run(|tape, inputs, _| tape.mean_steps(inputs[0], None));
    }
}
