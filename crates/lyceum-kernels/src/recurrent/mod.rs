//! Recurrent layers over whole sequences: RNN (tanh or relu), LSTM and GRU, one layer in one direction.
//!
//! Shapes: `B` examples, `T` steps, `F` inputs, `H` hidden units, `G` gates; everything that has steps is
//! `[B, T, …]`. Gate order and formulas are PyTorch's: LSTM `i f g o`, GRU `r z n` with `b_hn` inside
//! `r * (…)`. One step is `[x_t | h_{t-1}] · [W_ih | W_hh]ᵀ`, accumulated in registers in that order from
//! the sum of the biases, with the gates applied before anything is written; the weights are packed once for
//! the whole sequence. Examples are independent, so threads take blocks of examples through all steps and
//! meet only at the end; where examples are few and the layer is wide they share the units of each step.
//!
//! An example's length cuts it as PyTorch's packed sequences do: later steps give zeros, leave the state
//! alone and get zero gradients; the reverse direction starts at the example's own end.
//!
//! Reading order: [`forward()`], [`backward()`], [`input_gradient`] and [`weight_gradient`]; `pack` and `tile` below them. The module
//! does not know stacks of layers, directions put together, or dropout: its callers do.

mod backward;
mod forward;
mod gradients;
mod pack;
#[cfg(test)]
mod tests;
mod tile;

pub use backward::{OutputGradients, StateGradients, backward};
pub use forward::{Outputs, Params, forward};
pub use gradients::{
    Side, bias_gradient, bias_sums, has_joint_gradient, input_gradient, side_of, weight_gradient,
    weight_gradients,
};
pub use pack::PackedCell;

use crate::{cpu::CpuPath, pool};

/// The formula of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// `h' = tanh(a)`
    RnnTanh,
    /// `h' = max(a, 0)`
    RnnRelu,
    /// `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`
    Lstm,
    /// `n = tanh(W_in x + b_in + σ(r) (W_hn h + b_hn))`, `h' = (1 - σ(z)) n + σ(z) h`
    Gru,
}

impl Cell {
    /// `G`: rows of the weights per hidden unit.
    pub fn gates(self) -> usize {
        match self {
            Cell::RnnTanh | Cell::RnnRelu => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// `K`: numbers per hidden unit and step that [`Kept::gates`] holds, and the gate gradients too.
    /// GRU has one more than gates, because the hidden part of `n` is needed apart.
    pub fn kept(self) -> usize {
        match self {
            Cell::RnnTanh | Cell::RnnRelu => 1,
            Cell::Lstm | Cell::Gru => 4,
        }
    }

    /// Whether the state has a memory `c` beside `h`.
    pub fn has_memory(self) -> bool {
        self == Cell::Lstm
    }
}

/// Which end a layer reads first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Forward,
    /// From each example's own end to its beginning; outputs stay at the positions of their inputs.
    Reverse,
}

/// What runs over what.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub cell: Cell,
    pub direction: Direction,
    /// `B`
    pub batch: usize,
    /// `T`
    pub steps: usize,
    /// `F`
    pub input: usize,
    /// `H`
    pub hidden: usize,
    /// `[B]`, each at most `T`; without it all are `T` long.
    pub lengths: Option<&'a [u32]>,
    /// Truncated back-propagation through time: gradients of the state end at every step whose number is a
    /// multiple of this, as if the sequence had been cut there and its state carried on. None: they do not.
    pub bptt: Option<usize>,
}

/// The weights of one layer in one direction, PyTorch's layout.
#[derive(Clone, Copy, Debug)]
pub struct CellWeights<'a> {
    /// `[G·H, F]`
    pub w_ih: &'a [f32],
    /// `[G·H, H]`
    pub w_hh: &'a [f32],
    /// `[G·H]`
    pub b_ih: Option<&'a [f32]>,
    /// `[G·H]`
    pub b_hh: Option<&'a [f32]>,
}

/// State before the first step, zeros where absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<'a> {
    /// `[B, H]`
    pub h: Option<&'a [f32]>,
    /// `[B, H]`, LSTM only
    pub c: Option<&'a [f32]>,
}

/// What [`forward()`] keeps for [`backward()`].
#[derive(Debug)]
pub struct KeptMut<'a> {
    /// `[B, T, K·H]`: LSTM `i f g o`, GRU `r z n (W_hn h + b_hn)`, RNN `h'`, after their activations.
    pub gates: &'a mut [f32],
    /// `[B, T, H]` for the LSTM, else empty.
    pub c: &'a mut [f32],
    /// `[B, T, H]`: the state that came into each step, at the step's position; zeros past the length.
    pub h_prev: &'a mut [f32],
}

/// [`KeptMut`], read.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub gates: &'a [f32],
    pub c: &'a [f32],
    pub h_prev: &'a [f32],
}

impl Sequence<'_> {
    fn length(&self, example: usize) -> usize {
        self.lengths.map_or(self.steps, |l| l[example] as usize)
    }

    /// The row of `[B·T, …]` that `example` is at in its step `s` (`s < length`).
    fn row(&self, example: usize, s: usize) -> usize {
        let t = match self.direction {
            Direction::Forward => s,
            Direction::Reverse => self.length(example) - 1 - s,
        };
        example * self.steps + t
    }

    /// Whether the gradient of the state that entered step `s` is dropped.
    fn truncates(&self, s: usize) -> bool {
        s > 0 && self.bptt.is_some_and(|n| s.is_multiple_of(n))
    }

    fn check(&self) {
        assert!(self.bptt != Some(0), "recurrent: gradients go back at least one step");
        let Some(lengths) = self.lengths else { return };
        assert_eq!(lengths.len(), self.batch, "recurrent: one length for each example");
        assert!(lengths.iter().all(|&l| l as usize <= self.steps), "recurrent: a length is beyond the steps");
    }

    fn check_weights(&self, weights: &CellWeights<'_>) {
        let rows = self.cell.gates() * self.hidden;
        assert_eq!(weights.w_ih.len(), rows * self.input, "recurrent: w_ih is [G·H, F]");
        assert_eq!(weights.w_hh.len(), rows * self.hidden, "recurrent: w_hh is [G·H, H]");
        for bias in [weights.b_ih, weights.b_hh].into_iter().flatten() {
            assert_eq!(bias.len(), rows, "recurrent: a bias is [G·H]");
        }
    }

    fn check_state(&self, state: &State<'_>) {
        for s in [state.h, state.c].into_iter().flatten() {
            assert_eq!(s.len(), self.batch * self.hidden, "recurrent: a state is [B, H]");
        }
        assert!(state.c.is_none() || self.cell.has_memory(), "recurrent: only the LSTM has a memory");
    }

    fn check_kept(&self, gates: usize, c: usize, h_prev: usize) {
        let units = self.batch * self.steps * self.hidden;
        assert_eq!(gates, units * self.cell.kept(), "recurrent: kept gates are [B, T, K·H]");
        assert_eq!(c, if self.cell.has_memory() { units } else { 0 }, "recurrent: kept c is [B, T, H]");
        assert_eq!(h_prev, units, "recurrent: kept h_prev is [B, T, H]");
    }

    /// How the work is cut: examples per task, and whether the threads share each step instead.
    fn cut(&self) -> Cut {
        let threads = pool::threads();
        let macs_per_step = self.batch * (self.input + self.hidden) * self.cell.gates() * self.hidden;
        if threads > 1 && self.batch < 4 * threads && macs_per_step >= SHARED_STEP_MACS_MIN {
            return Cut { rows: self.batch.max(1), by_step: true };
        }
        let tasks = threads * self.batch.div_ceil(threads * ROWS_MAX);
        Cut { rows: self.batch.div_ceil(tasks.max(1)).max(1), by_step: false }
    }
}

/// Examples of one task: their states, inputs and gates stay in the second-level cache.
const ROWS_MAX: usize = 48;
/// Below this many multiply-adds a step is over before a second thread has joined.
const SHARED_STEP_MACS_MIN: usize = 1 << 20;

#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    by_step: bool,
}

impl Cut {
    /// Runs `f(first, end)` over pieces of `0..n`, on all threads when they share a step.
    fn each(self, n: usize, f: impl Fn(usize, usize) + Sync) {
        if !self.by_step {
            return f(0, n);
        }
        let pieces = n.min(4 * pool::threads()).max(1);
        pool::parallel_for(pieces, |i| f(i * n / pieces, (i + 1) * n / pieces));
    }
}

fn lanes(path: CpuPath) -> usize {
    match path {
        CpuPath::Avx512 | CpuPath::Amx => 16,
        CpuPath::Avx2 | CpuPath::Portable => 8,
    }
}

/// A stride that holds `n` floats and is no power of two, so that rows do not fight for a cache set.
fn row_stride(n: usize) -> usize {
    n.next_multiple_of(16) + 16
}
