//! `y[b, t] = x[b, t] + P[positions[t]]`: where in its sequence a row stands.
//!
//! x and y `[B, T, C]`; P `[N, C]` is learnt, or fixed sines and cosines ([`sinusoidal`]). Backward:
//! `dx = dy`, `dP[positions[t]] += Σ_b dy[b, t]`.

use super::{Op, Operation};
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Ledger, SavedIds, Tape, Var, WeightBackward};
use crate::{NnError, Shape};
use lyceum_kernels::elementwise::add_into;
use lyceum_kernels::embedding::scatter_add;
use lyceum_kernels::matmul::Write;
use lyceum_kernels::pool;

#[derive(Clone, Copy)]
pub(crate) struct Position {
    x: Var,
    /// The table that is learnt, and the rows taken from it.
    learnt: Option<(ParamId, SavedIds)>,
}

/// The table of Vaswani et al. 2017, `[n, C]`: `sin(t / 10000^(2i/C))` in column 2i, `cos` in column 2i + 1.
pub fn sinusoidal(n: usize, cols: usize) -> Vec<f32> {
    let number = |i: usize| {
        let (t, c) = (i / cols, i % cols);
        let angle = t as f64 / 10_000f64.powf((c / 2 * 2) as f64 / cols as f64);
        (if c.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    (0..n * cols).map(number).collect()
}

impl Tape<'_> {
    /// Adds rows of a learnt table. `positions` holds T numbers that all examples share, or B·T.
    pub fn add_positions(&mut self, x: Var, table: ParamId, positions: &[u32]) -> Result<Var, NnError> {
        let params = self.params();
        let out = self.positioned(x, params.value(table), params.shape(table), positions)?;
        let learns = self.needs_grad(&[], &[table]);
        let records = learns || self.needs_grad(&[x], &[]);
        let learnt = learns.then(|| (table, self.save_ids(positions)));
        Ok(self.push(Op::Position(Position { x, learnt }), self.shape(x), out, records))
    }

    /// Adds rows of a fixed table `[N, C]` such as [`sinusoidal`]'s.
    pub fn add_fixed_positions(&mut self, x: Var, table: &[f32], positions: &[u32]) -> Result<Var, NnError> {
        let cols = self.shape(x).last().max(1);
        if !table.len().is_multiple_of(cols) {
            let want = format!("[B, T, C] with C dividing a table of {}", table.len());
            return Err(NnError::shape("position", "input", self.shape(x), want));
        }
        let out = self.positioned(x, table, Shape::new(&[table.len() / cols, cols]), positions)?;
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Position(Position { x, learnt: None }), self.shape(x), out, records))
    }

    fn positioned(
        &mut self,
        x: Var,
        table: &[f32],
        table_shape: Shape,
        positions: &[u32],
    ) -> Result<Vec<f32>, NnError> {
        let shape = self.shape(x);
        if shape.rank() != 3 || table_shape.rank() != 2 || table_shape[1] != shape[2] {
            let want = format!("[B, T, C] for a table {table_shape}");
            return Err(NnError::shape("position", "input", shape, want));
        }
        let (cols, n) = (shape[2], table_shape[0]);
        if positions.len() != shape[1] && positions.len() != shape.rows() {
            let want = format!("[B, T, C] for {} positions (T, or B·T)", positions.len());
            return Err(NnError::shape("position", "input", shape, want));
        }
        if let Some((position, &p)) = positions.iter().enumerate().find(|&(_, &p)| p as usize >= n) {
            return Err(NnError::Index { op: "position", index: p.into(), position, size: n });
        }
        let mut out = self.take(shape.len());
        let x = self.value(x);
        pool::for_each_chunk(&mut out, 16 * cols, |i, chunk| {
            for (j, y) in chunk.chunks_exact_mut(cols).enumerate() {
                let r = i * 16 + j;
                let row = &table[positions[r % positions.len()] as usize * cols..][..cols];
                let x = &x[r * cols..][..cols];
                for ((y, x), p) in y.iter_mut().zip(x).zip(row) {
                    *y = x + p;
                }
            }
        });
        Ok(out)
    }
}

impl Operation for Position {
    fn name(&self) -> &'static str {
        "position"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.pass_on(self.x);
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        let Some((table, positions)) = self.learnt else { return };
        back.weighted(back.dy, |back, dy| {
            back.grad(table, |view, dw, mut write| {
                let (cols, positions) = (view.output_shape().last(), view.ids(positions));
                for dy in dy.chunks_exact((positions.len() * cols).max(1)) {
                    scatter_add(dy, cols, positions, None, dw, write);
                    write = Write::Add;
                }
                if write == Write::Overwrite {
                    dw.fill(0.0);
                }
            });
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let Some((table, positions)) = self.learnt else { return };
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let (cols, positions) = (view.output_shape().last(), view.ids(positions));
        // Positions are each row's own, or one sequence's that all sequences share.
        let rows = dy.len() / cols.max(1);
        let at = |i: usize| (examples.range(i, dy.len()), examples.range(i, rows));
        let id = |row: usize| positions[row % positions.len()];
        let gradient = |i: usize, dw: &mut [f32], write: Write| {
            let (numbers, rows) = at(i);
            if write == Write::Overwrite {
                dw.fill(0.0);
            }
            for (row, dy) in rows.zip(dy[numbers].chunks_exact(cols)) {
                add_into(&mut dw[id(row) as usize * cols..][..cols], dy);
            }
        };
        norms.gradients(table, gradient);
    }

    /// A sum whose second term is a constant.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        let view = back.view();
        for ((&c, &y), &x) in back.dy.iter().zip(view.output()).zip(view.value(self.x)) {
            ledger.absorbed += f64::from(c) * f64::from(y - x);
        }
        self.backward_inputs(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences_for_shared_and_own_positions() {
        let check = || Check::new(2).input(&[2, 3, 4]).param("p", &[6, 4]);
        check().run(|tape, x, p| tape.add_positions(x[0], p[0], &[2, 3, 4]));
        check().run(|tape, x, p| tape.add_positions(x[0], p[0], &[2, 3, 4, 0, 5, 0]));
        Check::new(2)
            .input(&[2, 3, 4])
            .run(|tape, x, _| tape.add_fixed_positions(x[0], &sinusoidal(5, 4), &[0, 1, 4]));
    }

    #[test]
    fn sines_and_cosines_are_those_of_the_paper() {
        let table = sinusoidal(50, 6);
        for (t, i) in [(0, 0), (7, 1), (49, 2)] {
            let angle = t as f32 / 10_000f32.powf(2.0 * i as f32 / 6.0);
            assert!((table[t * 6 + 2 * i] - angle.sin()).abs() < 1e-5);
            assert!((table[t * 6 + 2 * i + 1] - angle.cos()).abs() < 1e-5);
        }
    }

    #[test]
    fn a_position_beyond_the_table_is_named() {
        let check = || Check::new(1).input(&[1, 2, 4]).param("p", &[6, 4]);
        check().fails("index 6 at position 1", |tape, x, p| tape.add_positions(x[0], p[0], &[5, 6]));
        check().fails("position", |tape, x, p| tape.add_positions(x[0], p[0], &[5, 1, 1]));
    }
}
