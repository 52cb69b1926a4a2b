//! RNN, LSTM and GRU over whole sequences: one layer in one direction. Formulas and gate orders are PyTorch's
//! ([`lyceum_kernels::recurrent`]).
//!
//! x `[B, T, F]`, W_ih `[G·H, F]`, W_hh `[G·H, H]`, biases `[G·H]`, first states `[B, H]`, output `[B, T, H]`;
//! `G` is 1, 4 and 3. The walk back is one pass over the steps that leaves the gradients of the gates
//! ([`begin`](Operation::begin)); `dx = d_gates·W_ih` and `dW = d_gatesᵀ·[x | h]` are products over all
//! steps. The recurrent product is f32 under every precision: rounding would be fed back at each step.

mod relevance;

use super::{Op, Operation};
use crate::norms::ExampleNorms;
use crate::params::{ParamId, ParamKind};
use crate::tape::{Backward, Ledger, Saved, SavedIds, Tape, Var, View, WeightBackward, write_into};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Precision;
use lyceum_kernels::recurrent::{
    self as kernel, CellWeights, Kept, KeptMut, OutputGradients, Outputs, Sequence, Side, State,
    StateGradients,
};
use lyceum_kernels::scratch;

pub use lyceum_kernels::recurrent::{Cell, Direction};

/// The parameters of one layer in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentWeights {
    /// `[G·H, F]`
    pub w_ih: ParamId,
    /// `[G·H, H]`
    pub w_hh: ParamId,
    /// `[G·H]`
    pub b_ih: Option<ParamId>,
    /// `[G·H]`
    pub b_hh: Option<ParamId>,
}

/// How a layer runs over its input.
#[derive(Clone, Copy, Debug)]
pub struct RecurrentRun<'a> {
    pub cell: Cell,
    pub direction: Direction,
    /// Valid steps of each example; later ones give zeros and leave the state alone. None: all.
    pub lengths: Option<&'a [u32]>,
    /// Truncated back-propagation through time: gradients of the state end at steps whose number is a
    /// multiple of this. None: the whole sequence.
    pub bptt: Option<usize>,
    /// The first state `[B, H]`; None: zeros.
    pub h0: Option<Var>,
    /// The LSTM's first memory `[B, H]`; None: zeros.
    pub c0: Option<Var>,
}

/// What a layer gives.
#[derive(Clone, Copy, Debug)]
pub struct RecurrentOutput {
    /// `[B, T, H]`
    pub out: Var,
    /// `[B, H]`: the state after each example's last step, **detached**, to start the next piece of a
    /// sequence from. Gradients flow through `out` ([`Tape::select_step`] reads the last step of it).
    pub h_n: Var,
    /// `[B, H]`: the LSTM's memory, detached as `h_n`.
    pub c_n: Option<Var>,
}

#[derive(Clone, Copy)]
pub(crate) struct Recurrent {
    x: Var,
    weights: RecurrentWeights,
    cell: Cell,
    direction: Direction,
    lengths: Option<SavedIds>,
    bptt: Option<usize>,
    h0: Option<Var>,
    c0: Option<Var>,
    kept: KeptIds,
    /// `[B, T, K·H]` of gates, then `[B, H]` of `h0`, then `[B, H]` of `c0`; filled on the way back.
    gradients: Saved,
}

#[derive(Clone, Copy)]
struct KeptIds {
    gates: Saved,
    c: Saved,
    h_prev: Saved,
}

impl Tape<'_> {
    /// One recurrent layer in one direction; see the module for shapes.
    ///
    /// # Errors
    /// When sizes do not agree, or a length is beyond the steps.
    pub fn recurrent(
        &mut self,
        x: Var,
        weights: RecurrentWeights,
        run: RecurrentRun<'_>,
    ) -> Result<RecurrentOutput, NnError> {
        let RecurrentRun { cell, direction, lengths, bptt, h0, c0 } = run;
        if bptt == Some(0) {
            return Err(NnError::shape("recurrent", "bptt", Shape::new(&[0]), "at least one step"));
        }
        let [batch, steps, input, hidden] = self.recurrent_sizes(x, &weights, &run)?;
        let seq = Sequence { cell, direction, batch, steps, input, hidden, lengths, bptt };
        let (units, states) = (batch * steps * hidden, batch * hidden);
        let ids = [Some(weights.w_ih), Some(weights.w_hh), weights.b_ih, weights.b_hh];
        let records = self.needs_grad(&[x], &[])
            || ids.into_iter().flatten().any(|id| self.needs_grad(&[], &[id]))
            || [h0, c0].into_iter().flatten().any(|v| self.needs_grad(&[v], &[]));

        let memory = cell.has_memory();
        let (mut out, mut h_n) = (self.take(units), self.take(states));
        let mut c_n = if memory { self.take(states) } else { Vec::new() };
        let mut kept = records.then(|| {
            let c = if memory { self.take(units) } else { Vec::new() };
            [self.take(units * cell.kept()), c, self.take(units)]
        });
        let params = self.params();
        let state = State { h: h0.map(|v| self.value(v)), c: c0.map(|v| self.value(v)) };
        let outputs = Outputs {
            out: &mut out,
            h_n: &mut h_n,
            c_n: &mut c_n,
            kept: kept.as_mut().map(|[gates, c, h_prev]| KeptMut { gates, c, h_prev }),
        };
        let layer = match params.packed_cell(&weights) {
            Some(packed) => kernel::Params::Packed(packed),
            None => kernel::Params::Plain(cell_weights(&weights, |id| params.value(id))),
        };
        kernel::forward(&seq, layer, self.value(x), state, outputs);

        let out_shape = Shape::new(&[batch, steps, hidden]);
        let out = match kept {
            None => self.push(Op::Leaf, out_shape, out, false),
            Some([gates, c, h_prev]) => {
                let kept = KeptIds { gates: self.save(gates), c: self.save(c), h_prev: self.save(h_prev) };
                let first_states = [h0, c0].into_iter().flatten().count();
                let gradients = self.take(units * cell.kept() + first_states * states);
                let gradients = self.save(gradients);
                let lengths = lengths.map(|l| self.save_ids(l));
                let op = Recurrent { x, weights, cell, direction, lengths, bptt, h0, c0, kept, gradients };
                self.push(Op::Recurrent(op), out_shape, out, true)
            }
        };
        let state_shape = Shape::new(&[batch, hidden]);
        let mut detached = |value| {
            let var = self.push(Op::Leaf, state_shape, value, false);
            self.keep(var);
            var
        };
        let h_n = detached(h_n);
        let c_n = memory.then(|| detached(c_n));
        Ok(RecurrentOutput { out, h_n, c_n })
    }

    /// `[B, T, F, H]`, or the size that does not fit.
    fn recurrent_sizes(
        &self,
        x: Var,
        weights: &RecurrentWeights,
        run: &RecurrentRun<'_>,
    ) -> Result<[usize; 4], NnError> {
        let op = "recurrent";
        let (xs, params) = (self.shape(x), self.params());
        if xs.rank() != 3 {
            return Err(NnError::shape(op, "input", xs, "[B, T, F]"));
        }
        let (batch, steps, input) = (xs[0], xs[1], xs[2]);
        let (w_ih, w_hh) = (params.shape(weights.w_ih), params.shape(weights.w_hh));
        let hidden = w_hh.last();
        let rows = run.cell.gates() * hidden;
        if w_hh.dims() != [rows, hidden] {
            return Err(NnError::shape(op, "w_hh", w_hh, "[G·H, H]"));
        }
        if w_ih.dims() != [rows, input] {
            return Err(NnError::shape(op, "w_ih", w_ih, format!("[{rows}, {input}] for input {xs}")));
        }
        for bias in [weights.b_ih, weights.b_hh].into_iter().flatten() {
            if params.shape(bias).dims() != [rows] {
                return Err(NnError::shape(op, "bias", params.shape(bias), format!("[{rows}]")));
            }
        }
        for state in [run.h0, run.c0].into_iter().flatten() {
            if self.shape(state).dims() != [batch, hidden] {
                let want = format!("[{batch}, {hidden}]");
                return Err(NnError::shape(op, "first state", self.shape(state), want));
            }
        }
        if let Some(c0) = run.c0.filter(|_| !run.cell.has_memory()) {
            return Err(NnError::shape(op, "first memory", self.shape(c0), "none: only the LSTM has one"));
        }
        if let Some(lengths) = run.lengths {
            if lengths.len() != batch {
                let want = format!("{batch}, one for each example");
                return Err(NnError::shape(op, "number of lengths", Shape::new(&[lengths.len()]), want));
            }
            if let Some(position) = lengths.iter().position(|&l| l as usize > steps) {
                let index = i64::from(lengths[position]);
                return Err(NnError::Index { op, index, position, size: steps + 1 });
            }
        }
        Ok([batch, steps, input, hidden])
    }
}

fn cell_weights<'p>(w: &RecurrentWeights, value: impl Fn(ParamId) -> &'p [f32]) -> CellWeights<'p> {
    CellWeights {
        w_ih: value(w.w_ih),
        w_hh: value(w.w_hh),
        b_ih: w.b_ih.map(&value),
        b_hh: w.b_hh.map(&value),
    }
}

impl Recurrent {
    fn sequence<'v>(&self, view: &View<'v>) -> Sequence<'v> {
        let (x, out) = (view.shape(self.x), view.output_shape());
        Sequence {
            cell: self.cell,
            direction: self.direction,
            batch: x[0],
            steps: x[1],
            input: x[2],
            hidden: out[2],
            lengths: self.lengths.map(|l| view.ids(l)),
            bptt: self.bptt,
        }
    }

    /// How many gradients of gates there are, and how many of a state: the parts of `gradients`.
    fn split(seq: &Sequence<'_>) -> (usize, usize) {
        (seq.batch * seq.steps * seq.cell.kept() * seq.hidden, seq.batch * seq.hidden)
    }
}

impl Operation for Recurrent {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn begin(&self, back: &mut Backward<'_>) {
        back.change_saved(self.gradients, |view, dy, gradients| {
            let seq = self.sequence(&view);
            let (n_gates, states) = Self::split(&seq);
            let (d_gates, rest) = gradients.split_at_mut(n_gates);
            let (h0, c0) = rest.split_at_mut(if self.h0.is_some() { states } else { 0 });
            let to =
                StateGradients { h0: self.h0.is_some().then_some(h0), c0: self.c0.is_some().then_some(c0) };
            let [gates, c, h_prev] = [self.kept.gates, self.kept.c, self.kept.h_prev].map(|k| view.saved(k));
            let weights = cell_weights(&self.weights, |id| view.param(id));
            let state = State { h: None, c: self.c0.map(|v| view.value(v)) };
            let from = OutputGradients { out: Some(dy), ..Default::default() };
            kernel::backward(&seq, &weights, Kept { gates, c, h_prev }, state, from, d_gates, to);
        });
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        let precision = back.precision;
        back.grad(self.x, |view, _, dx, write| {
            let seq = self.sequence(&view);
            let d_gates = &view.saved(self.gradients)[..Self::split(&seq).0];
            kernel::input_gradient(&seq, view.param(self.weights.w_ih), d_gates, dx, write, precision);
        });
        for (i, state) in [self.h0, self.c0].into_iter().flatten().enumerate() {
            back.grad(state, |view, _, d, write| {
                let (n_gates, states) = Self::split(&self.sequence(&view));
                let at = n_gates + i * states;
                let gradient = &view.saved(self.gradients)[at..at + states];
                write_into(d, gradient, write);
            });
        }
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        let (view, precision) = (back.view, back.precision);
        let seq = self.sequence(&view);
        let d_gates = &view.saved(self.gradients)[..Self::split(&seq).0];
        back.weighted(d_gates, |back, d_gates| {
            let h_prev = view.saved(self.kept.h_prev);
            let sides = [
                (Side::Input, self.weights.w_ih, view.value(self.x)),
                (Side::State, self.weights.w_hh, h_prev),
            ];
            let learnt = |id| view.kind(id) == ParamKind::Weight;
            let both = learnt(self.weights.w_ih) && learnt(self.weights.w_hh);
            if both && kernel::has_joint_gradient(self.cell) {
                let rows = self.cell.gates() * seq.hidden;
                scratch::with_f32(rows * (seq.input + seq.hidden), |joint| {
                    kernel::weight_gradients(&seq, d_gates, view.value(self.x), h_prev, joint, precision);
                    for (side, weight, _) in sides {
                        back.grad(weight, |_, dw, write| kernel::side_of(&seq, side, joint, dw, write));
                    }
                });
            } else {
                for (side, weight, right) in sides {
                    back.grad(weight, |_, dw, write| {
                        kernel::weight_gradient(&seq, side, d_gates, right, dw, write, precision);
                    });
                }
            }
            if self.weights.b_ih.is_none() && self.weights.b_hh.is_none() {
                return;
            }
            scratch::with_f32(self.cell.kept() * seq.hidden, |sums| {
                kernel::bias_sums(&seq, d_gates, sums);
                for (side, bias) in [(Side::Input, self.weights.b_ih), (Side::State, self.weights.b_hh)] {
                    if let Some(bias) = bias {
                        back.grad(bias, |_, db, write| kernel::bias_gradient(&seq, side, sums, db, write));
                    }
                }
            });
        });
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, examples) = (norms.view, norms.examples);
        let whole = self.sequence(&view);
        let d_gates = &view.saved(self.gradients)[..Self::split(&whole).0];
        // Steps beyond an example's length have gradients of zero.
        let of = |i: usize| {
            let batch = examples.range(i, whole.batch).len();
            (Sequence { batch, lengths: None, ..whole }, &d_gates[examples.range(i, d_gates.len())])
        };
        let sides = [
            (Side::Input, self.weights.w_ih, view.value(self.x)),
            (Side::State, self.weights.w_hh, view.saved(self.kept.h_prev)),
        ];
        for (side, weight, right) in sides {
            norms.gradients(weight, |i, dw, write| {
                let ((seq, d_gates), right) = (of(i), &right[examples.range(i, right.len())]);
                kernel::weight_gradient(&seq, side, d_gates, right, dw, write, Precision::F32);
            });
        }
        for (side, bias) in [(Side::Input, self.weights.b_ih), (Side::State, self.weights.b_hh)] {
            let Some(bias) = bias else { continue };
            norms.gradients(bias, |i, db, write| {
                let (seq, d_gates) = of(i);
                scratch::with_f32(self.cell.kept() * seq.hidden, |sums| {
                    kernel::bias_sums(&seq, d_gates, sums);
                    kernel::bias_gradient(&seq, side, sums, db, write);
                });
            });
        }
    }

    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        self.send_relevance(back, ledger);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
