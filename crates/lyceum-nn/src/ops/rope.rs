//! Rotary positions (Su et al. 2021, arXiv:2104.09864).
//!
//! x and y `[B, T, C]`: the first `heads · D` columns are heads whose pairs of numbers turn by
//! `position · f_i` (the paper's `f_i = θ^(−2i/D)`, or what the caller's scaling of positions makes of it),
//! the other columns pass. A fused `[q | k | v]` row is turned by `heads = H + H_kv`. Backward: the gradient
//! turns back.

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Ledger, Saved, SavedIds, Tape, Var};
use lyceum_kernels::elementwise::Write;
use lyceum_kernels::rope::{RopeShape, rope, rope_backward, rope_frequencies, rope_table};

pub use lyceum_kernels::rope::Pairs;

/// Cosines and sines of all angles, made once a model.
#[derive(Clone, Debug)]
pub struct RopeTable {
    head_size: usize,
    rotary: usize,
    pairs: Pairs,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// How positions become angles, beside the paper's way.
#[derive(Clone, Debug)]
pub struct RopeOptions<'a> {
    pub head_size: usize,
    pub pairs: Pairs,
    /// `f_i`, one for each pair: the first `2 · len` numbers of a head turn, the others pass.
    pub frequencies: &'a [f64],
    /// Turned numbers are multiplied by this (YaRN's attention factor; 1 elsewhere).
    pub scale: f64,
}

impl RopeTable {
    /// For positions `0..n_positions` and whole heads in halves; θ is 10000 in the paper.
    pub fn new(theta: f64, head_size: usize, n_positions: usize) -> Result<RopeTable, NnError> {
        if head_size == 0 || !head_size.is_multiple_of(2) {
            let got = crate::Shape::new(&[head_size]);
            return Err(NnError::shape("rope", "head size", got, "an even number"));
        }
        let frequencies = &rope_frequencies(theta, head_size);
        Self::with(RopeOptions { head_size, pairs: Pairs::Halves, frequencies, scale: 1.0 }, n_positions)
    }

    /// For positions `0..n_positions`.
    pub fn with(options: RopeOptions<'_>, n_positions: usize) -> Result<RopeTable, NnError> {
        let RopeOptions { head_size, pairs, frequencies, scale } = options;
        let rotary = 2 * frequencies.len();
        if rotary == 0 || rotary > head_size {
            let got = crate::Shape::new(&[frequencies.len()]);
            let want = format!("1 to {}, half the head size", head_size / 2);
            return Err(NnError::shape("rope", "number of frequencies", got, want));
        }
        let len = n_positions * frequencies.len();
        let (mut cos, mut sin) = (vec![0.0; len], vec![0.0; len]);
        rope_table(frequencies, scale, &mut cos, &mut sin);
        Ok(RopeTable { head_size, rotary, pairs, cos, sin })
    }

    pub fn n_positions(&self) -> usize {
        self.cos.len() / (self.rotary / 2)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Rope {
    x: Var,
    shape: RopeShape,
    positions: SavedIds,
    cos: Saved,
    sin: Saved,
}

impl Tape<'_> {
    /// Turns the first `heads` heads; `positions` holds T numbers that all examples share, or B·T. Where nothing is
    /// recorded, `x` becomes the answer and is not readable any more.
    pub fn rope(
        &mut self,
        x: Var,
        table: &RopeTable,
        heads: usize,
        positions: &[u32],
    ) -> Result<Var, NnError> {
        let shape = self.shape(x);
        let width = heads * table.head_size;
        if shape.rank() != 3 || shape[2] < width {
            let want = format!("[B, T, C] with C ≥ {width}");
            return Err(NnError::shape("rope", "input", shape, want));
        }
        let (rows, n) = (shape.rows(), table.n_positions());
        if positions.len() != shape[1] && positions.len() != rows {
            let want = format!("[B, T, C] for {} positions (T, or B·T)", positions.len());
            return Err(NnError::shape("rope", "input", shape, want));
        }
        if let Some((position, &p)) = positions.iter().enumerate().find(|&(_, &p)| p as usize >= n) {
            return Err(NnError::Index { op: "rope", index: p.into(), position, size: n });
        }
        let RopeTable { head_size, rotary, pairs, .. } = *table;
        let layout = RopeShape { heads, head_size, rotary, pairs, stride: shape[2] };
        let records = self.needs_grad(&[x], &[]);
        let mut out = self.take_over(x, records);
        each_block(positions, rows, layout.stride, |range| {
            rope(&mut out[range], layout, positions, &table.cos, &table.sin);
        });
        if !records {
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        // The part of the table that was used.
        let half = rotary / 2;
        let used = (positions.iter().max().map_or(0, |&p| p as usize + 1)) * half;
        let (mut cos, mut sin) = (self.take(used), self.take(used));
        cos.copy_from_slice(&table.cos[..used]);
        sin.copy_from_slice(&table.sin[..used]);
        let (cos, sin, positions) = (self.save(cos), self.save(sin), self.save_ids(positions));
        Ok(self.push(Op::Rope(Rope { x, shape: layout, positions, cos, sin }), shape, out, true))
    }
}

/// The blocks of rows over which `positions` runs once: all rows, or the rows of one example.
fn each_block(positions: &[u32], rows: usize, stride: usize, mut f: impl FnMut(std::ops::Range<usize>)) {
    for first in (0..rows).step_by(positions.len().max(1)) {
        f(first * stride..(first + positions.len()) * stride);
    }
}

impl Operation for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let (cos, sin) = (view.saved(self.cos), view.saved(self.sin));
            let (positions, RopeShape { heads, head_size, stride, .. }) =
                (view.ids(self.positions), self.shape);
            for (dx, dy) in dx.chunks_exact_mut(stride).zip(dy.chunks_exact(stride)) {
                let turned = heads * head_size;
                match write {
                    Write::Overwrite => dx[turned..].copy_from_slice(&dy[turned..]),
                    Write::Add => dx[turned..].iter_mut().zip(&dy[turned..]).for_each(|(x, y)| *x += y),
                }
            }
            each_block(positions, dy.len() / stride, stride, |range| {
                rope_backward(&dy[range.clone()], self.shape, positions, cos, sin, &mut dx[range], write);
            });
        });
    }

    /// A rotation is a sum without a constant.
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
    fn gradients_agree_with_finite_differences_for_shared_and_own_positions() {
        let table = RopeTable::new(100.0, 4, 9).unwrap();
        let check = || Check::new(2).input(&[2, 3, 10]);
        check().run(|tape, x, _| tape.rope(x[0], &table, 2, &[1, 2, 8]));
        check().run(|tape, x, _| {
            let y = tape.rope(x[0], &table, 2, &[1, 2, 8, 0, 0, 5])?;
            tape.add(y, x[0])
        });
    }

    #[test]
    fn gradients_of_parts_of_heads_in_both_layouts_agree_with_finite_differences() {
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let options = RopeOptions { head_size: 6, pairs, frequencies: &[0.7, 0.1], scale: 1.3 };
            let table = RopeTable::with(options, 9).unwrap();
            Check::new(2).input(&[2, 3, 14]).run(|tape, x, _| tape.rope(x[0], &table, 2, &[1, 2, 8]));
        }
    }

    #[test]
    fn what_cannot_be_turned_is_refused() {
        assert!(RopeTable::new(100.0, 5, 9).is_err());
        let too_many = RopeOptions { head_size: 4, pairs: Pairs::Halves, frequencies: &[1.0; 3], scale: 1.0 };
        assert!(RopeTable::with(too_many, 9).is_err());
        let table = RopeTable::new(100.0, 4, 9).unwrap();
        let check = || Check::new(1).input(&[1, 2, 10]);
        check().fails("index 9 at position 1", |tape, x, _| tape.rope(x[0], &table, 2, &[1, 9]));
        check().fails("rope", |tape, x, _| tape.rope(x[0], &table, 3, &[1, 2]));
    }
}
