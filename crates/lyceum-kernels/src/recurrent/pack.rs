//! Weights in the order in which the tiles read them.
//!
//! ```text
//! forward: one panel per group of hidden units          backward: one panel per 2 vectors of units
//!   4 vectors of biases                                    G·H rows (gate, unit) of 2 vectors
//!   F + H rows (inputs, then states) of NV vectors
//! ```
//! LSTM and GRU: a panel is one vector of units, its vectors are the gates. RNN: a panel is four vectors of
//! units. Units past `H` are zeros.

use super::{Cell, CellWeights, Sequence, lanes};
use crate::cpu::{self, CpuPath};
use crate::pool::for_each_chunk;

/// Weights packed for many calls of [`super::forward`], where packing would cost as much as the step.
#[derive(Clone, Debug)]
pub struct PackedCell {
    pub(super) cell: Cell,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) path: CpuPath,
    pub(super) data: Vec<f32>,
}

impl PackedCell {
    /// Memory that it holds.
    pub fn bytes(&self) -> usize {
        self.data.capacity() * size_of::<f32>()
    }

    /// Packs for the path of the calling thread ([`cpu::path`]), which must also be the path of the calls.
    pub fn new(cell: Cell, input: usize, hidden: usize, weights: &CellWeights<'_>) -> PackedCell {
        let seq = Sequence {
            cell,
            direction: super::Direction::Forward,
            batch: 1,
            steps: 1,
            input,
            hidden,
            lengths: None,
            bptt: None,
        };
        seq.check_weights(weights);
        let path = cpu::path();
        let panels = ForwardPanels::new(cell, input, hidden, path);
        let mut data = vec![0.0; panels.len()];
        panels.pack(weights, &mut data);
        PackedCell { cell, input, hidden, path, data }
    }
}

/// The geometry of the forward panels.
#[derive(Clone, Copy)]
pub(super) struct ForwardPanels {
    cell: Cell,
    input: usize,
    hidden: usize,
    lanes: usize,
    /// Vectors in a row of a panel.
    pub(super) vectors: usize,
    pub(super) n: usize,
    pub(super) panel_len: usize,
    /// `H` rounded up to whole panels.
    pub(super) hidden_padded: usize,
}

impl ForwardPanels {
    pub(super) fn new(cell: Cell, input: usize, hidden: usize, path: CpuPath) -> ForwardPanels {
        let lanes = lanes(path);
        let (vectors, units) = match cell {
            Cell::RnnTanh | Cell::RnnRelu => (4, 4 * lanes),
            Cell::Lstm => (4, lanes),
            Cell::Gru => (3, lanes),
        };
        let n = hidden.div_ceil(units);
        let panel_len = (4 + vectors * (input + hidden)) * lanes;
        ForwardPanels { cell, input, hidden, lanes, vectors, n, panel_len, hidden_padded: n * units }
    }

    pub(super) fn len(&self) -> usize {
        self.n * self.panel_len
    }

    pub(super) fn pack(&self, weights: &CellWeights<'_>, data: &mut [f32]) {
        let (lanes, width) = (self.lanes, self.vectors * self.lanes);
        for_each_chunk(&mut data[..self.len()], self.panel_len, |p, panel| {
            let (biases, rows) = panel.split_at_mut(4 * lanes);
            biases.fill(0.0);
            for v in 0..self.vectors {
                for lane in 0..lanes {
                    let column = v * lanes + lane;
                    let (gate, unit) = match self.cell {
                        Cell::RnnTanh | Cell::RnnRelu => (0, p * width + column),
                        Cell::Lstm | Cell::Gru => (v, p * lanes + lane),
                    };
                    if unit >= self.hidden {
                        rows[column..].iter_mut().step_by(width).for_each(|w| *w = 0.0);
                        continue;
                    }
                    let row = gate * self.hidden + unit;
                    let inputs = &weights.w_ih[row * self.input..][..self.input];
                    let states = &weights.w_hh[row * self.hidden..][..self.hidden];
                    for (to, &w) in rows[column..].iter_mut().step_by(width).zip(inputs.iter().chain(states))
                    {
                        *to = w;
                    }
                    let b_ih = weights.b_ih.map_or(0.0, |b| b[row]);
                    let b_hh = weights.b_hh.map_or(0.0, |b| b[row]);
                    if self.cell == Cell::Gru && gate == 2 {
                        biases[column] = b_ih;
                        biases[column + lanes] = b_hh;
                    } else {
                        biases[column] = b_ih + b_hh;
                    }
                }
            }
        });
    }
}

/// The geometry of the backward panels: `d_h = d_gates · W_hh`.
#[derive(Clone, Copy)]
pub(super) struct BackwardPanels {
    hidden: usize,
    /// `H` rounded up to whole vectors.
    pub(super) hidden_padded: usize,
    width: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) panel_len: usize,
    /// Where the gates of `W_hh` begin among the `K` gradients of a row.
    pub(super) window: usize,
}

impl BackwardPanels {
    pub(super) fn new(cell: Cell, hidden: usize, path: CpuPath) -> Self {
        let lanes = lanes(path);
        let width = 2 * lanes;
        let hidden_padded = hidden.next_multiple_of(lanes);
        let k = cell.gates() * hidden_padded;
        // GRU's gradients lie as `n r z hn`.
        let window = if cell == Cell::Gru { hidden_padded } else { 0 };
        let n = hidden.div_ceil(width);
        BackwardPanels { hidden, hidden_padded, width, n, k, panel_len: k * width, window }
    }

    pub(super) fn len(&self) -> usize {
        self.n * self.panel_len
    }

    pub(super) fn pack(&self, w_hh: &[f32], data: &mut [f32]) {
        for_each_chunk(&mut data[..self.len()], self.panel_len, |p, panel| {
            let first = p * self.width;
            let n = self.width.min(self.hidden - first);
            for (k, row) in panel.chunks_exact_mut(self.width).enumerate() {
                let (gate, unit) = (k / self.hidden_padded, k % self.hidden_padded);
                row.fill(0.0);
                if unit < self.hidden {
                    let from = (gate * self.hidden + unit) * self.hidden + first;
                    row[..n].copy_from_slice(&w_hh[from..from + n]);
                }
            }
        });
    }
}
