//! `y[r] = W[ids[r]]`: rows of a table by number.
//!
//! W `[V, C]`, y `[…, C]` with one row an id. Backward: `dW[ids[r]] += dy[r]`. The ids have no gradient;
//! that of `y`, which explanations of texts are made of, is watched with [`Tape::watch_entry`].

use super::{Op, Operation};
use crate::norms::{ExampleNorms, square_by_id};
use crate::params::ParamId;
use crate::tape::{Backward, SavedIds, Tape, Var, WeightBackward};
use crate::{NnError, Shape};
use lyceum_kernels::embedding::{gather, scatter_add};
use lyceum_kernels::pool;

/// Rows that a task gathers from a table stored in blocks.
const ROWS_A_TASK: usize = 32;

#[derive(Clone, Copy)]
pub(crate) struct Embedding {
    table: ParamId,
    ids: SavedIds,
}

impl Tape<'_> {
    /// Rows of `table`; `dims` is the shape of `ids` (`[B, T]`), the value's is `dims` and `C`.
    pub fn embedding(&mut self, table: ParamId, ids: &[u32], dims: &[usize]) -> Result<Var, NnError> {
        let table_shape = self.params().shape(table);
        if table_shape.rank() != 2 || dims.len() > 3 {
            return Err(NnError::shape(
                "embedding",
                "table",
                table_shape,
                "[V, C] for ids of at most 3 dimensions",
            ));
        }
        let (n, cols) = (table_shape[0], table_shape[1]);
        if dims.iter().product::<usize>() != ids.len() {
            return Err(NnError::shape(
                "embedding",
                "shape of the ids",
                Shape::new(dims),
                format!("{} ids", ids.len()),
            ));
        }
        if let Some((position, &id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= n) {
            return Err(NnError::Index { op: "embedding", index: id.into(), position, size: n });
        }
        let mut all_dims = [cols; 4];
        all_dims[..dims.len()].copy_from_slice(dims);
        let shape = Shape::new(&all_dims[..dims.len() + 1]);
        let mut out = self.take(shape.len());
        match self.params().stored(table) {
            Some(stored) => pool::for_each_chunk(&mut out, ROWS_A_TASK * cols.max(1), |i, rows| {
                let ids = &ids[i * ROWS_A_TASK..];
                rows.chunks_exact_mut(cols).zip(ids).for_each(|(row, &id)| stored.row(id as usize, row));
            }),
            None => gather(self.params().value(table), cols, ids, &mut out),
        }
        let records = self.needs_grad(&[], &[table]);
        if !records {
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let op = Op::Embedding(Embedding { table, ids: self.save_ids(ids) });
        Ok(self.push(op, shape, out, true))
    }
}

impl Operation for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn backward_inputs(&self, _back: &mut Backward<'_>) {}

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        // What is frozen may stand on other rows than the examples'.
        if !back.learns(self.table) {
            return;
        }
        back.weighted(back.dy, |back, dy| {
            back.grad(self.table, |view, dw, write| {
                scatter_add(dy, view.output_shape().last(), view.ids(self.ids), None, dw, write);
            });
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let (ids, cols) = (view.ids(self.ids), view.output_shape().last());
        let of = |i: usize| (&dy[examples.range(i, dy.len())], &ids[examples.range(i, ids.len())]);
        let square = |i: usize| {
            let (dy, ids) = of(i);
            square_by_id(dy, cols, ids)
        };
        norms.squares(self.table, square, |i, dw, write| {
            let (dy, ids) = of(i);
            scatter_add(dy, cols, ids, None, dw, write);
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;
    use crate::{Examples, Grads, Params, Recording, Tape, Workspace};

    #[test]
    fn gradients_agree_with_finite_differences_also_of_ids_that_repeat() {
        Check::new(2)
            .param("w", &[5, 3])
            .run(|tape, _, params| tape.embedding(params[0], &[4, 0, 4, 2, 2, 2], &[2, 3]));
    }

    #[test]
    fn the_gradient_of_the_rows_is_readable_when_only_inputs_are_recorded() {
        let mut params = Params::new();
        let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(1);
        let w = params.add("w", &[4, 2], crate::ParamKind::Weight, crate::Init::Normal(1.0), &mut rng);
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1));
        let y = tape.embedding(w, &[3, 1], &[1, 2]).unwrap();
        let y = tape.watch_entry(y);
        let z = tape.add(y, y).unwrap();
        tape.backward_inputs(z, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(tape.grad(y).unwrap(), [2.0, 4.0, 6.0, 8.0]);
        let mut grads = Grads::new(&params);
        tape.backward_weights(&mut grads, None);
        grads.finish();
        assert_eq!(grads.value(w), [0.0; 8]);
    }

    #[test]
    fn an_id_outside_the_table_is_named() {
        Check::new(1)
            .param("w", &[5, 3])
            .fails("index 5 at position 1", |tape, _, params| tape.embedding(params[0], &[4, 5], &[2]));
        Check::new(1)
            .param("w", &[5, 3])
            .fails("embedding", |tape, _, params| tape.embedding(params[0], &[4, 1, 1], &[2]));
    }
}
