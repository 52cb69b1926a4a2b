//! Ids as rows with a single one: `[…]` to `[…, V]`. A given value: nothing flows back to ids; where the
//! recording asks for inputs, the gradient of the rows is readable ([`Tape::watch_entry`]).

use super::Op;
use crate::tape::{Tape, Var};
use crate::{NnError, Shape};

impl Tape<'_> {
    /// `dims` (at most three) is the shape of `ids`, `size` is `V`.
    ///
    /// # Errors
    /// When an id is not below `size`.
    pub fn one_hot(&mut self, ids: &[u32], dims: &[usize], size: usize) -> Result<Var, NnError> {
        if dims.len() > 3 || dims.iter().product::<usize>() != ids.len() {
            let want = format!("{} ids in at most 3 dimensions", ids.len());
            return Err(NnError::Shape {
                op: "one_hot",
                what: "shape of the ids",
                got: format!("{dims:?}"),
                want,
            });
        }
        if let Some((position, &id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= size) {
            return Err(NnError::Index { op: "one_hot", index: id.into(), position, size });
        }
        let mut all_dims = [size; 4];
        all_dims[..dims.len()].copy_from_slice(dims);
        let shape = Shape::new(&all_dims[..dims.len() + 1]);
        let mut out = self.take(shape.len());
        out.fill(0.0);
        for (row, &id) in out.chunks_exact_mut(size.max(1)).zip(ids) {
            row[id as usize] = 1.0;
        }
        Ok(self.push(Op::Leaf, shape, out, false))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Examples, NnError, Params, Recording, Tape, Workspace};

    #[test]
    fn each_id_is_a_row_and_one_outside_is_named() {
        let (mut ws, params) = (Workspace::new(), Params::new());
        let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(1));
        let y = tape.one_hot(&[2, 0], &[1, 2], 3).unwrap();
        assert_eq!(
            (tape.shape(y).dims(), tape.value(y)),
            (&[1, 2, 3][..], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0][..])
        );
        let error = tape.one_hot(&[0, 3], &[2], 3).unwrap_err();
        assert!(matches!(error, NnError::Index { index: 3, position: 1, size: 3, .. }), "{error}");
    }
}
