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
use crate::tape::{Backward, Ledger, Saved, SavedIds, Tape, Var, View, WeightBackward};
use crate::{NnError, Shape};
use lyceum_kernels::elementwise::add_into;
use lyceum_kernels::matmul::{Precision, Write};
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
                match write {
                    Write::Overwrite => d.copy_from_slice(gradient),
                    Write::Add => add_into(d, gradient),
                }
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
mod tests {
    use super::*;
    use crate::check::Check;
    use crate::weights::{Tensor, read_safetensors};
    use crate::{Examples, Grads, Init, Params, Recording, Workspace};
    use lyceum_kernels::cpu;
    use rand::SeedableRng;
    use std::collections::HashMap;

    const CELLS: [(&str, Cell); 4] =
        [("rnn_tanh", Cell::RnnTanh), ("rnn_relu", Cell::RnnRelu), ("lstm", Cell::Lstm), ("gru", Cell::Gru)];

    #[test]
    fn a_packed_layer_has_the_bits_of_a_plain_one_until_its_weights_change() {
        for (_, cell) in CELLS {
            for &path in cpu::available() {
                cpu::with_path(path, || packed_is_plain(cell));
            }
        }
    }

    fn packed_is_plain(cell: Cell) {
        let (input, hidden, rows) = (5, 19, cell.gates() * 19);
        let mut params = Params::new();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut add = |name: &str, dims: &[usize]| {
            params.add(name, dims, ParamKind::Weight, Init::Uniform(0.4), &mut rng)
        };
        let weights = RecurrentWeights {
            w_ih: add("w_ih", &[rows, input]),
            w_hh: add("w_hh", &[rows, hidden]),
            b_ih: Some(add("b_ih", &[rows])),
            b_hh: Some(add("b_hh", &[rows])),
        };
        let x: Vec<f32> = (0..3 * 4 * input).map(|i| (i as f32 * 0.37).sin()).collect();
        let answer = |params: &Params| {
            let mut ws = Workspace::new();
            let mut tape = Tape::new(&mut ws, params, Recording::Off, Examples::Even(3));
            let x = tape.input(&[3, 4, input], &x).unwrap();
            let run = RecurrentRun {
                cell,
                direction: Direction::Forward,
                lengths: None,
                bptt: None,
                h0: None,
                c0: None,
            };
            let output = tape.recurrent(x, weights, run).unwrap();
            tape.value(output.out).to_vec()
        };
        let plain = answer(&params);
        params.freeze_cell(cell, weights);
        assert!(params.packed_cell(&weights).is_some());
        assert_eq!(answer(&params), plain, "{cell:?}");
        // A copy that was packed before a weight moved would answer as before.
        params.value_mut(weights.b_hh.unwrap())[0] += 1.0;
        assert!(params.packed_cell(&weights).is_none());
        assert_ne!(answer(&params), plain, "{cell:?}");
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        // The kernel's own test covers relu, whose kink finite differences in f32 do not forgive.
        for cell in [Cell::RnnTanh, Cell::Lstm, Cell::Gru] {
            for (direction, lengths) in
                [(Direction::Forward, None), (Direction::Reverse, Some(&[3u32, 1, 0][..]))]
            {
                let (g, h) = (cell.gates(), 3);
                let check = Check::new(3).input(&[3, 3, 2]).input(&[3, h]);
                let check = if cell.has_memory() { check.input(&[3, h]) } else { check };
                check
                    .param("w_ih", &[g * h, 2])
                    .param("w_hh", &[g * h, h])
                    .param("b_ih", &[g * h])
                    .param("b_hh", &[g * h])
                    .run(|tape, inputs, p| {
                        let weights =
                            RecurrentWeights { w_ih: p[0], w_hh: p[1], b_ih: Some(p[2]), b_hh: Some(p[3]) };
                        let c0 = inputs.get(2).copied();
                        let run =
                            RecurrentRun { cell, direction, lengths, bptt: None, h0: Some(inputs[1]), c0 };
                        Ok(tape.recurrent(inputs[0], weights, run)?.out)
                    });
            }
        }
    }

    #[test]
    fn wrong_sizes_are_named() {
        let check = || Check::new(2).input(&[2, 3, 4]).param("w_ih", &[8, 4]).param("w_hh", &[8, 2]);
        let run = |tape: &mut Tape<'_>, x: &[Var], p: &[ParamId], cell, lengths| {
            let weights = RecurrentWeights { w_ih: p[0], w_hh: p[1], b_ih: None, b_hh: None };
            let run =
                RecurrentRun { cell, direction: Direction::Forward, lengths, bptt: None, h0: None, c0: None };
            Ok(tape.recurrent(x[0], weights, run)?.out)
        };
        check().fails("recurrent", |t, x, p| run(t, x, p, Cell::Gru, None));
        check().fails("recurrent", |t, x, p| run(t, x, p, Cell::Lstm, Some(&[3])));
        check().fails("recurrent", |t, x, p| run(t, x, p, Cell::Lstm, Some(&[3, 4])));
    }

    /// A stack as PyTorch builds it: both directions put together go into the next layer.
    fn stack(
        tape: &mut Tape<'_>,
        case: &HashMap<String, Tensor>,
        cell: Cell,
        mut x: Var,
        states: &[Vec<Var>],
        lengths: Option<&[u32]>,
    ) -> [Vec<Var>; 2] {
        let params = tape.params();
        let (mut h_n, mut c_n) = (Vec::new(), Vec::new());
        let bidirectional = params.find("weight_ih_l0_reverse").is_some();
        for layer in 0..2 {
            let mut outs = Vec::new();
            let directions = [(Direction::Forward, ""), (Direction::Reverse, "_reverse")];
            for (direction, suffix) in directions.into_iter().take(1 + usize::from(bidirectional)) {
                let Some(w_ih) = params.find(&format!("weight_ih_l{layer}{suffix}")) else { continue };
                let id = |what: &str| params.find(&format!("{what}_l{layer}{suffix}"));
                let weights = RecurrentWeights {
                    w_ih,
                    w_hh: id("weight_hh").unwrap(),
                    b_ih: id("bias_ih"),
                    b_hh: id("bias_hh"),
                };
                let at = h_n.len();
                let run = RecurrentRun {
                    cell,
                    direction,
                    lengths,
                    bptt: None,
                    h0: Some(states[0][at]),
                    c0: states.get(1).map(|c| c[at]),
                };
                let o = tape.recurrent(x, weights, run).unwrap();
                outs.push(o.out);
                h_n.push(o.h_n);
                c_n.extend(o.c_n);
            }
            x = match outs[..] {
                [a, b] => tape.concat_last(a, b).unwrap(),
                [a] => a,
                _ => x,
            };
        }
        assert_eq!(tape.shape(x).dims(), case["out"].dims);
        [vec![x], h_n.into_iter().chain(c_n).collect()]
    }

    #[test]
    fn stacks_agree_with_pytorch() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ops_recurrent.safetensors");
        let all = read_safetensors(&std::fs::read(file).unwrap()).unwrap();
        let mut checked = 0;
        for (name, cell) in CELLS {
            for kind in ["plain", "stack"] {
                let prefix = format!("{name}.{kind}.");
                let case: HashMap<String, Tensor> = all
                    .iter()
                    .filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_owned(), t.clone())))
                    .collect();
                for &path in cpu::available() {
                    cpu::with_path(path, || checked += agree_with_pytorch(&prefix, cell, &case));
                }
            }
        }
        assert!(checked > 200, "only {checked} tensors were compared");
    }

    fn agree_with_pytorch(name: &str, cell: Cell, case: &HashMap<String, Tensor>) -> usize {
        let mut params = Params::new();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut names: Vec<&str> = case.keys().filter_map(|k| k.strip_prefix("param.")).collect();
        names.sort_unstable();
        for name in &names {
            let t = &case[&format!("param.{name}")];
            let id = params.add(name, &t.dims, ParamKind::Weight, Init::Zeros, &mut rng);
            params.set(id, &t.dims, t.data.clone()).unwrap();
        }
        let lengths: Option<Vec<u32>> =
            case.get("lengths").map(|t| t.data.iter().map(|&l| l as u32).collect());
        let mut ws = Workspace::new();
        let batch = case["x"].dims[0];
        let mut tape = Tape::new(&mut ws, &params, Recording::InputsAndWeights, Examples::Even(batch));
        let x = tape.entry(&case["x"].dims, &case["x"].data).unwrap();
        let mut states = Vec::new();
        for which in ["h0", "c0"] {
            let Some(t) = case.get(which) else { continue };
            let each = t.data.len() / t.dims[0];
            let vars =
                t.data.chunks(each).map(|s| tape.watched(&t.dims[1..], s).unwrap()).collect::<Vec<_>>();
            states.push(vars);
        }
        let [out, finals] = stack(&mut tape, case, cell, x, &states, lengths.as_deref());
        let mut n = 0;
        let mut same = |what: &str, got: &[f32]| {
            let want = &case[what].data;
            assert_eq!(got.len(), want.len(), "{name}{what}");
            for (i, (g, w)) in got.iter().zip(want).enumerate() {
                assert!((g - w).abs() <= 2e-5 * w.abs().max(1.0), "{name}{what}[{i}]: {g}, PyTorch {w}");
            }
            n += 1;
        };
        same("out", tape.value(out[0]));
        let finals: Vec<f32> = finals.iter().flat_map(|&v| tape.value(v)).copied().collect();
        same("final", &finals);
        let mut grads = Grads::new(&params);
        tape.backward_from(out[0], &case["d_out"].data, &mut grads);
        same("grad.x", tape.grad(x).unwrap());
        for (which, vars) in ["h0", "c0"].iter().zip(&states) {
            let d: Vec<f32> = vars.iter().flat_map(|&v| tape.grad(v).unwrap()).copied().collect();
            same(&format!("grad.{which}"), &d);
        }
        for name in names {
            same(&format!("grad.param.{name}"), grads.value(params.find(name).unwrap()));
        }
        n
    }

    /// A layer with some weights, and `[b, t, f]` numbers for it.
    fn layer(cell: Cell, [b, t, f, h]: [usize; 4]) -> (Params, RecurrentWeights, Vec<f32>) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut params = Params::new();
        let mut add = |n, d: &[usize]| params.add(n, d, ParamKind::Weight, Init::Uniform(0.5), &mut rng);
        let g = cell.gates();
        let weights = RecurrentWeights {
            w_ih: add("w_ih", &[g * h, f]),
            w_hh: add("w_hh", &[g * h, h]),
            b_ih: Some(add("b_ih", &[g * h])),
            b_hh: Some(add("b_hh", &[g * h])),
        };
        (params, weights, (0..b * t * f).map(|i| (i as f32 * 0.7).sin()).collect())
    }

    /// Steps `from..to` of each example of `[b, t, width]`.
    fn cut(x: &[f32], [b, t, width]: [usize; 3], from: usize, to: usize) -> Vec<f32> {
        (0..b).flat_map(|e| &x[(e * t + from) * width..(e * t + to) * width]).copied().collect()
    }

    #[test]
    fn a_cut_sequence_with_carried_state_gives_the_bits_of_the_whole() {
        for cell in [Cell::RnnTanh, Cell::Lstm, Cell::Gru] {
            let [b, t, f, h] = [3, 7, 5, 9];
            let (params, weights, x) = layer(cell, [b, t, f, h]);
            let mut ws = Workspace::new();
            let mut run = |x: &[f32], t: usize, state: &[Vec<f32>]| -> Vec<Vec<f32>> {
                let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(b));
                let x = tape.input(&[b, t, f], x).unwrap();
                let state: Vec<Var> = state.iter().map(|s| tape.input(&[b, h], s).unwrap()).collect();
                let (h0, c0) = (state.first().copied(), state.get(1).copied());
                let direction = Direction::Forward;
                let run = RecurrentRun { cell, direction, lengths: None, bptt: None, h0, c0 };
                let o = tape.recurrent(x, weights, run).unwrap();
                [Some(o.out), Some(o.h_n), o.c_n]
                    .into_iter()
                    .flatten()
                    .map(|v| tape.value(v).to_vec())
                    .collect()
            };
            let whole = run(&x, t, &[]);
            let mut state = Vec::new();
            for s in 0..t {
                let got = run(&cut(&x, [b, t, f], s, s + 1), 1, &state);
                assert_eq!(got[0], cut(&whole[0], [b, t, h], s, s + 1), "{cell:?} step {s}");
                state = got[1..].to_vec();
            }
            assert_eq!(state, whole[1..]);
        }
    }

    #[test]
    fn truncated_gradients_are_those_of_pieces_with_carried_state() {
        for cell in [Cell::RnnTanh, Cell::Lstm, Cell::Gru] {
            let [b, t, f, h] = [2, 7, 3, 5];
            let (params, weights, x) = layer(cell, [b, t, f, h]);
            let d_out: Vec<f32> = (0..b * t * h).map(|i| (i as f32 * 1.3).cos()).collect();
            let mut ws = Workspace::new();
            let mut gradients = |pieces: &[(usize, usize)], bptt| {
                let mut grads = Grads::new(&params);
                let mut state: Vec<Vec<f32>> = Vec::new();
                let mut d_x = Vec::new();
                for &(from, to) in pieces {
                    let recording = Recording::InputsAndWeights;
                    let mut tape = Tape::new(&mut ws, &params, recording, Examples::Even(b));
                    let x = tape.entry(&[b, to - from, f], &cut(&x, [b, t, f], from, to)).unwrap();
                    let first: Vec<Var> = state.iter().map(|s| tape.input(&[b, h], s).unwrap()).collect();
                    let (h0, c0) = (first.first().copied(), first.get(1).copied());
                    let direction = Direction::Forward;
                    let run = RecurrentRun { cell, direction, lengths: None, bptt, h0, c0 };
                    let o = tape.recurrent(x, weights, run).unwrap();
                    tape.backward_from(o.out, &cut(&d_out, [b, t, h], from, to), &mut grads);
                    state =
                        [Some(o.h_n), o.c_n].into_iter().flatten().map(|v| tape.value(v).to_vec()).collect();
                    d_x.push((to - from, tape.grad(x).unwrap().to_vec()));
                }
                let d_x = (0..b).flat_map(|e| {
                    d_x.iter().flat_map(move |(steps, d)| d[e * steps * f..(e + 1) * steps * f].to_vec())
                });
                (
                    d_x.collect::<Vec<f32>>(),
                    params.ids().map(|id| grads.value(id).to_vec()).collect::<Vec<_>>(),
                )
            };
            let pieces = gradients(&[(0, 3), (3, 6), (6, 7)], None);
            let truncated = gradients(&[(0, 7)], Some(3));
            let whole = gradients(&[(0, 7)], None);
            assert_eq!(truncated.0, pieces.0, "{cell:?}: d_x");
            assert_ne!(truncated.0, whole.0, "{cell:?}: something was cut");
            for (got, want) in truncated.1.iter().flatten().zip(pieces.1.iter().flatten()) {
                assert!((got - want).abs() < 1e-5, "{cell:?}: {got} {want}");
            }
        }
    }
}
