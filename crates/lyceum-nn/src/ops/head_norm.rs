//! RMS norms of single heads inside packed rows `[q | k | v]`: the query and key norms of Qwen3 and Gemma 3.
//!
//! x and y `[…, (H + 2·H_kv)·D]`; the first H heads are normed with `q` `[D]`, the next H_kv with `k` `[D]`, the
//! rest passes. Formulas of each head: `rms_norm`.

use super::{Op, Operation};
use crate::NnError;
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Ledger, Saved, Tape, Var, View, WeightBackward, write_into};
use lyceum_kernels::elementwise::Write;
use lyceum_kernels::norm::{Normed, norm_backward, norm_backward_weights, rms_norm, rms_norm_in_place};
use lyceum_kernels::pool;
use std::ops::Range;

/// The heads of a packed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads H.
    pub n: usize,
    /// Key (and value) heads H_kv, a divisor of H.
    pub kv: usize,
    /// Numbers of a head, D.
    pub size: usize,
}

impl Heads {
    /// Numbers of a packed row.
    pub fn width(&self) -> usize {
        (self.n + 2 * self.kv) * self.size
    }

    /// Heads that are queries or keys.
    fn normed(&self) -> usize {
        self.n + self.kv
    }
}

#[derive(Clone, Copy)]
pub(crate) struct HeadNorm {
    x: Var,
    heads: Heads,
    /// Of queries and of keys.
    weights: [ParamId; 2],
    /// `[rows, H + H_kv]`.
    rstd: Saved,
}

impl Tape<'_> {
    /// See the module; `weights` are those of queries and keys. Where nothing is recorded, `x` becomes the answer and is
    /// not readable any more.
    pub fn head_norm(
        &mut self,
        x: Var,
        heads: Heads,
        weights: [ParamId; 2],
        eps: f32,
    ) -> Result<Var, NnError> {
        let shape = self.shape(x);
        if shape.rank() == 0 || shape.last() != heads.width() {
            return Err(NnError::shape("head_norm", "input", shape, format!("[…, {}]", heads.width())));
        }
        for weight in weights {
            let found = self.params().shape(weight);
            if found.dims() != [heads.size] {
                return Err(NnError::shape("head_norm", "weight", found, format!("[{}]", heads.size)));
            }
        }
        let records = self.needs_grad(&[x], &weights);
        let (width, normed, params) = (heads.width(), heads.normed(), self.params());
        if !records {
            let mut out = self.take_over(x, false);
            pool::for_each_chunk(&mut out, width, |_, row| {
                for (part, weight) in parts(heads, weights) {
                    let numbers = &mut row[part.start * heads.size..part.end * heads.size];
                    rms_norm_in_place(numbers, heads.size, params.value(weight), eps);
                }
            });
            return Ok(self.push(Op::Leaf, shape, out, false));
        }
        let (mut out, mut rstd) = (self.take(shape.len()), self.take(shape.rows() * normed));
        let from = self.value(x);
        let row = |x: &[f32], y: &mut [f32], rstd: &mut [f32]| {
            y.copy_from_slice(x);
            for (part, weight) in parts(heads, weights) {
                let numbers = part.start * heads.size..part.end * heads.size;
                let (x, y) = (&x[numbers.clone()], &mut y[numbers]);
                rms_norm(x, heads.size, params.value(weight), eps, y, &mut rstd[part]);
            }
        };
        for ((x, y), rstd) in
            from.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(rstd.chunks_exact_mut(normed))
        {
            row(x, y, rstd);
        }
        let rstd = self.save(rstd);
        Ok(self.push(Op::HeadNorm(HeadNorm { x, heads, weights, rstd }), shape, out, true))
    }
}

/// The heads of queries and of keys, with their weights.
fn parts(heads: Heads, [q, k]: [ParamId; 2]) -> [(Range<usize>, ParamId); 2] {
    [(0..heads.n, q), (heads.n..heads.normed(), k)]
}

impl HeadNorm {
    /// The heads `part` of row `i`, as rows of their own.
    fn normed<'v>(&self, view: View<'v>, i: usize, part: &Range<usize>) -> Normed<'v> {
        let (heads, n) = (self.heads, self.heads.normed());
        let x = &view.value(self.x)[i * heads.width()..][part.start * heads.size..part.end * heads.size];
        let rstd = &view.saved(self.rstd)[i * n..][part.clone()];
        Normed { x, cols: heads.size, mean: None, rstd }
    }

    /// Calls `f` with each row's normed heads of one part and the gradient that arrived at them.
    fn each_row<'v>(
        &self,
        view: View<'v>,
        dy: &[f32],
        part: Range<usize>,
        rows: Range<usize>,
        mut f: impl FnMut(Normed<'v>, &[f32]),
    ) {
        let (width, size) = (self.heads.width(), self.heads.size);
        for i in rows {
            let dy = &dy[i * width..][part.start * size..part.end * size];
            f(self.normed(view, i, &part), dy);
        }
    }
}

impl Operation for HeadNorm {
    fn name(&self) -> &'static str {
        "head_norm"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        let (width, size) = (self.heads.width(), self.heads.size);
        back.grad(self.x, |view, dy, dx, write| {
            for (i, (dx, dy)) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).enumerate() {
                for (part, weight) in parts(self.heads, self.weights) {
                    let numbers = part.start * size..part.end * size;
                    let (dy, dx) = (&dy[numbers.clone()], &mut dx[numbers]);
                    norm_backward(self.normed(view, i, &part), view.param(weight), dy, dx, write);
                }
                let rest = self.heads.normed() * size;
                write_into(&mut dx[rest..], &dy[rest..], write);
            }
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        // What is frozen may stand on other rows than the examples'.
        if self.weights.iter().all(|&weight| !back.learns(weight)) {
            return;
        }
        let width = self.heads.width();
        back.weighted(back.dy, |back, dy| {
            for (part, weight) in parts(self.heads, self.weights) {
                back.grad(weight, |view, dw, write| {
                    if write == Write::Overwrite {
                        dw.fill(0.0);
                    }
                    self.each_row(view, dy, part, 0..dy.len() / width, |normed, dy| {
                        norm_backward_weights(normed, dy, None, dw, None, Write::Add);
                    });
                });
            }
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let width = self.heads.width();
        for (part, weight) in parts(self.heads, self.weights) {
            norms.gradients(weight, |i, dw, write| {
                if write == Write::Overwrite {
                    dw.fill(0.0);
                }
                let range = examples.range(i, dy.len());
                let rows = range.start / width..range.end / width;
                self.each_row(view, dy, part.clone(), rows, |normed, dy| {
                    norm_backward_weights(normed, dy, None, dw, None, Write::Add);
                });
            });
        }
    }

    /// As for `rms_norm`: the scale is a constant.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        let (width, size, n) = (self.heads.width(), self.heads.size, self.heads.normed());
        back.change_dy(|view, dy| {
            for (row, rstd) in dy.chunks_exact_mut(width).zip(view.saved(self.rstd).chunks_exact(n)) {
                for (part, weight) in parts(self.heads, self.weights) {
                    for head in part {
                        let numbers = &mut row[head * size..][..size];
                        numbers.iter_mut().zip(view.param(weight)).for_each(|(c, w)| *c *= w * rstd[head]);
                    }
                }
            }
        });
        let c = back.dy.clone();
        back.send(self.x, &c);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let heads = Heads { n: 4, kv: 2, size: 6 };
        Check::new(2)
            .input(&[2, 3, 48])
            .param("q", &[6])
            .param("k", &[6])
            .run(|tape, x, p| tape.head_norm(x[0], heads, [p[0], p[1]], 1e-6));
    }

    #[test]
    fn wrong_sizes_are_named() {
        let heads = Heads { n: 2, kv: 1, size: 4 };
        let check = Check::new(1).input(&[2, 15]).param("q", &[4]).param("k", &[4]);
        check.fails("head_norm", |tape, x, p| tape.head_norm(x[0], heads, [p[0], p[1]], 1e-6));
    }
}
