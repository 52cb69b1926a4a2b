//! A pass of serving: new tokens of many sequences, whose past lies in pages.
//!
//! Who asks for few rows of logits pays for few: of the last layer every row leaves its keys and values, and only the
//! wanted rows are carried on. Rows do not depend on each other, so theirs are the bits of a pass that carries all.

use super::CausalLm;
use super::adapter::Use;
use lyceum_nn::ops::cached_attention::{KvPool, Span};
use lyceum_nn::{NnError, Tape, Var};

/// The rows of a pass, and those of which logits are wanted.
pub(crate) struct PagedRows<'a> {
    /// Of every row.
    pub positions: &'a [u32],
    pub spans: &'a [Span<'a>],
    /// Rising.
    pub wanted: &'a [u32],
    /// The wanted rows of each sequence that has some, as spans of these rows alone.
    pub wanted_spans: &'a [Span<'a>],
}

impl CausalLm {
    /// All layers of x `[1, R, C]`; the wanted rows, None where there are none.
    pub(crate) fn run_paged(
        &self,
        tape: &mut Tape<'_>,
        x: Var,
        rows: &PagedRows<'_>,
        uses: &[Use<'_>],
        pool: &mut KvPool,
    ) -> Result<Option<Var>, NnError> {
        let last = self.layers.len() - 1;
        let carries_all = rows.wanted.len() == rows.positions.len();
        let whole = if carries_all { last + 1 } else { last };
        let x = self.run_layers(tape, x, (0..whole, rows.positions, uses), &mut |tape, i, qkv| {
            tape.cached_attention(qkv, self.cached_options(i), pool, i, rows.spans)
        })?;
        if carries_all {
            return Ok(Some(x));
        }
        let qkv = self.queries_keys_values(tape, last, x, rows.positions, uses)?;
        let options = self.cached_options(last);
        tape.remember(qkv, options, pool, last, rows.spans)?;
        if rows.wanted.is_empty() {
            return Ok(None);
        }
        let (qkv, x) = (picked(tape, qkv, rows.wanted)?, picked(tape, x, rows.wanted)?);
        tape.set_row_classes(tape.row_classes().of_rows(rows.wanted));
        let uses: Vec<Use<'_>> = uses.iter().filter_map(|each| each.of_rows(rows.wanted)).collect();
        let y = tape.look_back(qkv, options, pool, last, rows.wanted_spans)?;
        let middle = self.attended(tape, x, y, last, &uses)?;
        let x = self.feedforward_half(tape, middle, last, &uses)?;
        tape.mark(x, || format!("layers.{last}"));
        Ok(Some(x))
    }
}

/// The rows `wanted` of `x` `[1, R, C]`, `[1, n, C]`.
fn picked(tape: &mut Tape<'_>, x: Var, wanted: &[u32]) -> Result<Var, NnError> {
    let few = tape.select_rows(x, wanted)?;
    tape.reshape(few, &[1, wanted.len(), tape.shape(x).last()])
}
