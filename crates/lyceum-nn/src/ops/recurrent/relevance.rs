//! Relevance through recurrent cells: the signal takes all, gates take nothing (Arras et al. 2017,
//! arXiv:1706.07206), the sums before activations by the ε-rule.
//!
//! With `c` for relevance per unit of value and gates as constants, one LSTM step back is
//! `c_c = c_h · o·tanh(c)/c + f′·c_c′`, `c_z = i·c_c · g/z` with `g = tanh(z)`, `c_x = W_gᵀ·c_z`, `c_h = U_gᵀ·c_z`.
//! A GRU's signals are `n` (through `1 − z`) and the old state (through `z`); in a plain RNN all is signal.

use super::{Cell, Direction, Recurrent};
use crate::tape::relevance::inner;
use crate::tape::{Backward, Ledger, View};

/// The rows of one signal's weights, and their biases.
struct Signal<'v> {
    w_ih: &'v [f32],
    w_hh: &'v [f32],
    b_ih: Option<&'v [f32]>,
    b_hh: Option<&'v [f32]>,
}

/// Relevance per unit that goes back from one step to the step before it.
#[derive(Clone)]
struct Carried {
    h: Vec<f32>,
    c: Vec<f32>,
}

impl Recurrent {
    pub(super) fn send_relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) {
        let view = back.view();
        let seq = self.sequence(&view);
        let (steps, input, hidden) = (seq.steps, seq.input, seq.hidden);
        let mut c_x = vec![0.0; seq.batch * steps * input];
        let mut first = Carried { h: vec![], c: vec![] };
        for example in 0..seq.batch {
            let length = seq.lengths.map_or(steps, |l| l[example] as usize);
            let mut carried = Carried { h: vec![0.0; hidden], c: vec![0.0; hidden] };
            for step in (0..length).rev() {
                let t = match self.direction {
                    Direction::Forward => step,
                    Direction::Reverse => length - 1 - step,
                };
                let row = example * steps + t;
                for (carried, c) in carried.h.iter_mut().zip(&back.dy[row * hidden..]) {
                    *carried += c;
                }
                self.step_back(view, ledger, row, &mut carried, &mut c_x[row * input..][..input]);
            }
            first.h.extend(carried.h);
            first.c.extend(carried.c);
        }
        ledger.absorbed += inner(&back.dy, view.output()) - inner(&c_x, view.value(self.x));
        back.send(self.x, &c_x);
        for (state, c) in [(self.h0, &first.h), (self.c0, &first.c)] {
            if let Some(state) = state.filter(|&state| back.wants(state)) {
                ledger.absorbed -= inner(c, back.view().value(state));
                back.send(state, c);
            }
        }
    }

    /// From the state after a step to its input and the state before it.
    fn step_back(&self, view: View<'_>, ledger: &Ledger, row: usize, carried: &mut Carried, c_x: &mut [f32]) {
        let seq = self.sequence(&view);
        let (input, hidden) = (seq.input, seq.hidden);
        let (x, h_prev) = (view.value(self.x), view.saved(self.kept.h_prev));
        let (x, h_prev) = (&x[row * input..][..input], &h_prev[row * hidden..][..hidden]);
        let kept = &view.saved(self.kept.gates)[row * self.cell.kept() * hidden..];
        let gate = |g: usize, j: usize| kept[g * hidden + j];
        // The signal is the only gate of a plain cell, and the third of the others.
        let which = if self.cell.gates() == 1 { 0 } else { 2 };
        let signal = self.signal(view, which, input, hidden);
        let mut before = Carried { h: vec![0.0; hidden], c: vec![0.0; hidden] };
        for j in 0..hidden {
            let from_x = inner(&signal.w_ih[j * input..][..input], x) as f32;
            let from_x = from_x + signal.b_ih.map_or(0.0, |b| b[j]);
            let from_h = inner(&signal.w_hh[j * hidden..][..hidden], h_prev) as f32;
            let from_h = from_h + signal.b_hh.map_or(0.0, |b| b[j]);
            // Relevance per unit of the sum before the activation, and of its recurrent part.
            let (c_z, c_from_h) = match self.cell {
                Cell::RnnTanh | Cell::RnnRelu => {
                    let c_z = carried.h[j] * ledger.quotient(gate(0, j), from_x + from_h);
                    (c_z, c_z)
                }
                Cell::Lstm => {
                    let memory = view.saved(self.kept.c)[row * hidden + j];
                    let (i, f, g, o) = (gate(0, j), gate(1, j), gate(2, j), gate(3, j));
                    let c_c = carried.h[j] * o * ledger.quotient(memory.tanh(), memory) + carried.c[j];
                    before.c[j] = f * c_c;
                    let c_z = i * c_c * ledger.quotient(g, from_x + from_h);
                    (c_z, c_z)
                }
                Cell::Gru => {
                    let (r, z, n) = (gate(0, j), gate(1, j), gate(2, j));
                    before.h[j] += z * carried.h[j];
                    let c_z = (1.0 - z) * carried.h[j] * ledger.quotient(n, from_x + r * from_h);
                    (c_z, r * c_z)
                }
            };
            for (c, w) in c_x.iter_mut().zip(&signal.w_ih[j * input..][..input]) {
                *c += w * c_z;
            }
            for (c, w) in before.h.iter_mut().zip(&signal.w_hh[j * hidden..][..hidden]) {
                *c += w * c_from_h;
            }
        }
        *carried = before;
    }

    fn signal<'v>(&self, view: View<'v>, which: usize, input: usize, hidden: usize) -> Signal<'v> {
        let first = which * hidden;
        let bias = |id: Option<crate::ParamId>| id.map(|id| &view.param(id)[first..first + hidden]);
        Signal {
            w_ih: &view.param(self.weights.w_ih)[first * input..][..hidden * input],
            w_hh: &view.param(self.weights.w_hh)[first * hidden..][..hidden * hidden],
            b_ih: bias(self.weights.b_ih),
            b_hh: bias(self.weights.b_hh),
        }
    }
}
