//! Self-attention of several sequences that stand one after another with nothing between them: `[q | k | v]` rows
//! `[1, R, C + 2·C_kv]`, sequence `i` owning rows `offsets[i]..offsets[i + 1]`.
//!
//! No query sees a key of another sequence, so the output has the bits of each sequence alone, and no work is done
//! for padding. Formulas are [`attention`](super::attention)'s.

use super::attention::AttentionOptions;
use super::{Op, Operation};
use crate::tape::{Backward, Saved, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::attention::{self as kernel, Gradients, Mask, Rows};
use std::ops::Range;

#[derive(Clone, Copy)]
pub(crate) struct PackedAttention {
    qkv: Var,
    sizes: Sizes,
    mask: Mask,
    offsets: SavedIds,
    lse: Saved,
}

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    scale: f32,
}

impl Sizes {
    /// C, the width of queries and output.
    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_size
    }

    fn row(&self) -> usize {
        self.width() + 2 * self.kv_width()
    }

    /// One sequence of `n` tokens.
    fn sequence(&self, n: usize, mask: Mask) -> kernel::Attention<'static> {
        kernel::Attention {
            batch: 1,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            n_queries: n,
            n_keys: n,
            scale: self.scale,
            mask,
            key_lens: None,
            dropout: None,
            may_round: false,
            q: Rows::dense(n, self.row()),
            kv: Rows::dense(n, self.row()),
            out: Rows::dense(n, self.width()),
        }
    }

    /// Queries, keys and values of a sequence's rows.
    fn parts<'v>(&self, qkv: &'v [f32], rows: Range<usize>) -> [&'v [f32]; 3] {
        let x = &qkv[rows.start * self.row()..rows.end * self.row()];
        [x, &x[self.width()..], &x[self.width() + self.kv_width()..]]
    }
}

/// The rows of each sequence that has any.
fn sequences(offsets: &[u32]) -> impl Iterator<Item = Range<usize>> + '_ {
    offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).filter(|rows| !rows.is_empty())
}

impl Tape<'_> {
    /// See the module. `options` may neither drop weights nor bound keys.
    pub fn packed_attention(
        &mut self,
        qkv: Var,
        offsets: &[u32],
        options: AttentionOptions<'_>,
    ) -> Result<Var, NnError> {
        let (op, shape) = ("packed_attention", self.shape(qkv));
        let AttentionOptions { heads, kv_heads, mask, .. } = options;
        let all = heads + 2 * kv_heads;
        let divides = heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads);
        if shape.rank() != 3 || !divides || shape[2] == 0 || !shape[2].is_multiple_of(all) {
            return Err(NnError::shape(op, "input", shape, format!("[1, R, {all}·D]")));
        }
        let rows = shape.rows();
        let ends = offsets.first() == Some(&0) && offsets.last().copied() == Some(rows as u32);
        if shape[0] != 1 || !ends || !offsets.is_sorted() {
            return Err(NnError::shape(op, "input", shape, "a row for each token of the sequences"));
        }
        if options.dropout > 0.0 || options.key_lens.is_some() {
            return Err(NnError::shape(op, "options", shape, "neither dropout nor key lengths"));
        }
        let head_size = shape[2] / all;
        let scale = options.scale.unwrap_or(1.0 / (head_size as f32).sqrt());
        let sizes = Sizes { heads, kv_heads, head_size, scale };
        let width = sizes.width();
        let mut lse = self.needs_grad(&[qkv], &[]).then(|| self.take(heads * rows));
        let mut out = self.take(rows * width);
        for rows in sequences(offsets) {
            let [q, k, v] = sizes.parts(self.value(qkv), rows.clone());
            let lse = lse.as_deref_mut().map(|lse| &mut lse[rows.start * heads..rows.end * heads]);
            let out = &mut out[rows.start * width..rows.end * width];
            kernel::attention(&sizes.sequence(rows.len(), mask), q, k, v, out, lse);
        }
        let out_shape = Shape::new(&[1, rows, width]);
        let Some(lse) = lse else { return Ok(self.push(Op::Leaf, out_shape, out, false)) };
        let (offsets, lse) = (self.save_ids(offsets), self.save(lse));
        let op = Op::PackedAttention(PackedAttention { qkv, sizes, mask, offsets, lse });
        Ok(self.push(op, out_shape, out, true))
    }
}

impl Operation for PackedAttention {
    fn name(&self) -> &'static str {
        "packed_attention"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.qkv, |view, dy, dx, write| {
            let Sizes { heads, .. } = self.sizes;
            let (width, row) = (self.sizes.width(), self.sizes.row());
            for rows in sequences(view.ids(self.offsets)) {
                let [q, k, v] = self.sizes.parts(view.value(self.qkv), rows.clone());
                let own = rows.start * width..rows.end * width;
                let (out, dout) = (&view.output()[own.clone()], &dy[own]);
                let lse = &view.saved(self.lse)[rows.start * heads..rows.end * heads];
                let gradients = Gradients::Fused(&mut dx[rows.start * row..rows.end * row], write);
                let shape = self.sizes.sequence(rows.len(), self.mask);
                kernel::attention_backward(&shape, q, k, v, out, lse, dout, gradients);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;
    use crate::{Examples, Params, Recording, Workspace};

    const OFFSETS: [u32; 5] = [0, 3, 4, 4, 9];

    #[test]
    fn gradients_agree_with_finite_differences() {
        for window in [None, Some(2)] {
            Check::new(1).mixes_examples().input(&[1, 9, 8 * 3]).run(|tape, x, _| {
                tape.packed_attention(x[0], &OFFSETS, AttentionOptions::grouped(4, 2, window))
            });
        }
    }

    #[test]
    fn packed_sequences_have_the_bits_of_each_alone() {
        let (row, params) = (8 * 3, Params::new());
        let x: Vec<f32> = (0..9 * row).map(|i| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 4.0).collect();
        let options = AttentionOptions::grouped(4, 2, None);
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(1));
        let all = tape.input(&[1, 9, row], &x).unwrap();
        let all = tape.packed_attention(all, &OFFSETS, options).unwrap();
        let all = tape.value(all).to_vec();
        for rows in sequences(&OFFSETS) {
            let mut ws = Workspace::new();
            let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(1));
            let one = tape.input(&[1, rows.len(), row], &x[rows.start * row..rows.end * row]).unwrap();
            let one = tape.self_attention(one, options).unwrap();
            assert_eq!(tape.value(one), &all[rows.start * 12..rows.end * 12]);
        }
    }

    #[test]
    fn rows_that_belong_to_nobody_are_refused() {
        Check::new(1).input(&[1, 4, 6]).fails("packed_attention", |tape, x, _| {
            tape.packed_attention(x[0], &[0, 3], AttentionOptions::causal(1))
        });
    }
}
