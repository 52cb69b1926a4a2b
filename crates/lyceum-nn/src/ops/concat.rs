//! Two values side by side: `[…, A]` and `[…, B]` to `[…, A + B]` (both directions of a recurrent layer).

use super::{Op, Operation};
use crate::NnError;
use crate::tape::{Backward, Ledger, Tape, Var};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct ConcatLast {
    a: Var,
    b: Var,
}

impl Tape<'_> {
    /// `a […, A]`, then `b […, B]`, in every row.
    pub fn concat_last(&mut self, a: Var, b: Var) -> Result<Var, NnError> {
        let (sa, sb) = (self.shape(a), self.shape(b));
        if sa.rank() == 0 || sa.rank() != sb.rank() || sa.with_last(1) != sb.with_last(1) {
            return Err(NnError::shape("concat_last", "second input", sb, format!("the rows of {sa}")));
        }
        let (wa, wb) = (sa.last(), sb.last());
        let mut out = self.take(sa.len() + sb.len());
        for (i, row) in out.chunks_exact_mut((wa + wb).max(1)).enumerate() {
            row[..wa].copy_from_slice(&self.value(a)[i * wa..][..wa]);
            row[wa..].copy_from_slice(&self.value(b)[i * wb..][..wb]);
        }
        let records = self.needs_grad(&[a, b], &[]);
        Ok(self.push(Op::ConcatLast(ConcatLast { a, b }), sa.with_last(wa + wb), out, records))
    }
}

impl Operation for ConcatLast {
    fn name(&self) -> &'static str {
        "concat_last"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        for (input, second) in [(self.a, false), (self.b, true)] {
            back.grad(input, |view, dy, dx, write| {
                let (width, all) = (view.shape(input).last(), view.output_shape().last());
                let from = if second { all - width } else { 0 };
                for (dx, dy) in dx.chunks_exact_mut(width.max(1)).zip(dy.chunks_exact(all.max(1))) {
                    let dy = &dy[from..from + width];
                    match write {
                        Write::Overwrite => dx.copy_from_slice(dy),
                        Write::Add => dx.iter_mut().zip(dy).for_each(|(x, y)| *x += y),
                    }
                }
            });
        }
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
        Check::new(2).input(&[2, 3, 4]).input(&[2, 3, 1]).run(|t, x, _| t.concat_last(x[0], x[1]));
        Check::new(2).input(&[2, 3]).run(|t, x, _| t.concat_last(x[0], x[0]));
    }

    #[test]
    fn wrong_sizes_are_named() {
        Check::new(2)
            .input(&[2, 3, 4])
            .input(&[2, 2, 4])
            .fails("concat_last", |t, x, _| t.concat_last(x[0], x[1]));
    }
}
