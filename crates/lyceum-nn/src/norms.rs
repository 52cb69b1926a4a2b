//! The squared norm of each example's gradient, after [`Tape::backward_inputs`]: what clipping needs to know
//! before the weighted pass (book-keeping: Bu et al. 2022, arXiv:2210.00038; ghost norms: Li et al. 2021,
//! arXiv:2110.05679).
//!
//! An operation says of each of its parameters how to find the square (the cheapest way it has), and how to
//! write one example's gradient. A parameter that one operation uses costs its squares; one that several
//! use (tied embeddings, both sides of a Transformer) has its gradient written example by example, since
//! the norm of a sum is not the sum of the norms. Operations that mix examples refuse by name.

use crate::NnError;
use crate::ops::{Op, Operation};
use crate::params::{ParamId, ParamKind};
use crate::tape::{Examples, Tape, View};
use lyceum_kernels::elementwise::sum_of_squares;
use lyceum_kernels::matmul::Write;
use lyceum_kernels::{pool, scratch};

/// What an operation is asked about its parameters.
pub(crate) struct ExampleNorms<'v> {
    pub(crate) view: View<'v>,
    /// What `begin` made of the output's gradient.
    pub(crate) dy: &'v [f32],
    pub(crate) examples: &'v Examples,
    ask: &'v mut Ask,
}

enum Ask {
    /// How many operations use each parameter, and whether one of them mixes examples.
    Uses { uses: Vec<u32>, mixes: Option<&'static str> },
    /// The squares of parameters that are used once, added to each example's.
    Squares { uses: Vec<u32>, squares: Vec<f64> },
    /// One example's gradient of one parameter.
    Gradient { param: ParamId, example: usize, out: Vec<f32>, written: bool },
}

impl ExampleNorms<'_> {
    /// A parameter whose gradient of example `i` is written (or added) by `gradient(i, out, write)`, and whose
    /// square is that of what was written.
    pub(crate) fn gradients(&mut self, param: ParamId, gradient: impl Fn(usize, &mut [f32], Write) + Sync) {
        let len = self.view.param(param).len();
        let square = |i: usize| {
            scratch::with_f32(len, |out| {
                gradient(i, out, Write::Overwrite);
                sum_of_squares(out)
            })
        };
        self.squares(param, square, &gradient);
    }

    /// As [`gradients`](Self::gradients), with a cheaper way to the square of example `i`.
    pub(crate) fn squares(
        &mut self,
        param: ParamId,
        square: impl Fn(usize) -> f64 + Sync,
        gradient: impl Fn(usize, &mut [f32], Write),
    ) {
        if self.view.kind(param) != ParamKind::Weight {
            return;
        }
        match &mut *self.ask {
            Ask::Uses { uses, .. } => uses[param.index()] += 1,
            Ask::Squares { uses, squares } if uses[param.index()] == 1 => {
                pool::for_each_chunk(squares, 1, |i, sum| sum[0] += square(i));
            }
            Ask::Gradient { param: wanted, example, out, written } if *wanted == param => {
                let write = if std::mem::replace(written, true) { Write::Add } else { Write::Overwrite };
                gradient(*example, out, write);
            }
            _ => {}
        }
    }

    /// There is no gradient of one example.
    pub(crate) fn mixes_examples(&mut self, op: &'static str) {
        if let Ask::Uses { mixes, .. } = &mut *self.ask {
            *mixes = Some(op);
        }
    }
}

impl Tape<'_> {
    /// After [`Tape::backward_inputs`]: the squared norm of each example's gradient with respect to all learnt
    /// parameters together, written to `squares`.
    ///
    /// # Errors
    /// When an operation mixes examples.
    ///
    /// # Panics
    /// When `squares` has another length than there are examples.
    pub fn example_norms(&mut self, squares: &mut [f64]) -> Result<(), NnError> {
        let n = self.examples().n();
        assert_eq!(squares.len(), n, "one square an example: bug");
        let mut ask = Ask::Uses { uses: vec![0; self.params().ids().len()], mixes: None };
        self.ask_all(&mut ask);
        let Ask::Uses { uses, mixes } = ask else { unreachable!("what is asked does not change") };
        if let Some(op) = mixes {
            return Err(NnError::MixesExamples { op });
        }
        let shared: Vec<ParamId> = self.params().ids().filter(|id| uses[id.index()] > 1).collect();
        let mut ask = Ask::Squares { uses, squares: vec![0.0; n] };
        self.ask_all(&mut ask);
        if let Ask::Squares { squares: found, .. } = ask {
            squares.copy_from_slice(&found);
        }
        for param in shared {
            let mut out = self.take(self.params().value(param).len());
            for (example, square) in squares.iter_mut().enumerate() {
                let mut ask = Ask::Gradient { param, example, out, written: false };
                self.ask_all(&mut ask);
                let Ask::Gradient { out: back, written, .. } = ask else {
                    unreachable!("what is asked does not change")
                };
                if written {
                    *square += sum_of_squares(&back);
                }
                out = back;
            }
            self.give(out);
        }
        Ok(())
    }

    fn ask_all(&self, ask: &mut Ask) {
        self.for_each_gradient(|op: Op, view, dy| {
            op.example_norms(&mut ExampleNorms { view, dy, examples: self.examples(), ask });
        });
    }
}

/// `‖Σ_t g_t ⊗ e_{ids_t}‖²` of rows `g` of `cols` numbers: rows of one id are added before they are squared.
pub(crate) fn square_by_id(g: &[f32], cols: usize, ids: &[u32]) -> f64 {
    scratch::with_f32(cols, |sum| {
        let row = |t: usize| &g[t * cols..][..cols];
        let mut total = 0.0;
        for (t, id) in ids.iter().enumerate() {
            if ids[..t].contains(id) {
                continue;
            }
            sum.copy_from_slice(row(t));
            for s in (t + 1..ids.len()).filter(|&s| ids[s] == *id) {
                sum.iter_mut().zip(row(s)).for_each(|(a, b)| *a += b);
            }
            total += sum_of_squares(sum);
        }
        total
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;
    use crate::{Activation, Grads, Init, Params, Recording, Workspace};
    use rand::SeedableRng;

    #[test]
    fn a_weight_that_several_operations_share_has_the_norm_of_its_sum() {
        // Tied: the table is looked up and is the head; the head is used twice.
        Check::new(2).param("w", &[5, 3]).run(|tape, _, p| {
            let x = tape.embedding(p[0], &[4, 0, 4, 2, 2, 2], &[2, 3])?;
            let one = tape.linear(x, p[0], None, Activation::Tanh)?;
            let two = tape.linear(x, p[0], None, Activation::None)?;
            tape.add(one, two)
        });
    }

    #[test]
    fn an_operation_that_mixes_examples_is_named() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut params = Params::new();
        let mut add = |name, kind, init| params.add(name, &[2], kind, init, &mut rng);
        let p = crate::ops::batch_norm::BatchNormParams {
            weight: add("w", ParamKind::Weight, Init::Ones),
            bias: add("b", ParamKind::Weight, Init::Zeros),
            running_mean: add("m", ParamKind::Buffer, Init::Zeros),
            running_var: add("v", ParamKind::Buffer, Init::Ones),
            num_batches_tracked: add("n", ParamKind::Counter, Init::Zeros),
            eps: 1e-5,
            momentum: 0.1,
        };
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Weights, Examples::Even(3));
        let x = tape.input(&[3, 2], &[1.0; 6]).unwrap();
        let y = tape.batch_norm(x, p).unwrap();
        tape.backward_inputs(y, &[1.0; 6]);
        let error = tape.example_norms(&mut [0.0; 3]).unwrap_err().to_string();
        assert!(error.contains("batch_norm") && error.contains("mixes"), "{error}");
        let mut grads = Grads::new(&params);
        tape.backward_weights(&mut grads, None);
    }
}
