//! A sequence from its last step to its first.

use super::pack::BackwardPanels;
use super::tile::{accumulate, row_tiles};
use super::{Cell, CellWeights, Cut, Kept, Sequence, State, row_stride};
use crate::cpu::{self, CpuPath};
use crate::pool::{self, SendPtr};
use crate::row::{load, store};
use crate::scratch;
use crate::simd::{Simd, math, on_path, prefetch};

/// Numbers in a cache line.
const CACHE_LINE: usize = 16;

/// Gradients that come in, zeros where absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputGradients<'a> {
    /// `[B, T, H]`; rows past the lengths are not read.
    pub out: Option<&'a [f32]>,
    /// `[B, H]`
    pub h_n: Option<&'a [f32]>,
    /// `[B, H]`, LSTM only
    pub c_n: Option<&'a [f32]>,
}

/// Gradients of the first state, overwritten, each where it is wanted.
#[derive(Debug, Default)]
pub struct StateGradients<'a> {
    /// `[B, H]`
    pub h0: Option<&'a mut [f32]>,
    /// `[B, H]`, LSTM only
    pub c0: Option<&'a mut [f32]>,
}

/// The gradients of the gates, from which [`super::input_gradient`] and [`super::weight_gradient`] follow,
/// and those of the first state.
///
/// `d_gates` `[B, T, K·H]` are gradients before the activations, zeros past the lengths: LSTM `i f g o`, RNN
/// one, GRU `n r z hn`, where `hn` is the hidden part of `n`. `state` is what the forward pass started from
/// (only `c` is read).
///
/// # Panics
/// When a shape is not as written.
pub fn backward(
    seq: &Sequence<'_>,
    weights: &CellWeights<'_>,
    kept: Kept<'_>,
    state: State<'_>,
    from: OutputGradients<'_>,
    d_gates: &mut [f32],
    to: StateGradients<'_>,
) {
    seq.check();
    seq.check_weights(weights);
    seq.check_state(&state);
    seq.check_kept(kept.gates.len(), kept.c.len(), kept.h_prev.len());
    let (rows, states) = (seq.batch * seq.steps, seq.batch * seq.hidden);
    let lens = |s: Option<&[f32]>, len: usize| s.is_none_or(|s| s.len() == len);
    assert!(lens(from.out, rows * seq.hidden), "recurrent backward: d_out is [B, T, H]");
    assert!(lens(from.h_n, states) && lens(from.c_n, states), "recurrent backward: d_h_n, d_c_n are [B, H]");
    assert_eq!(d_gates.len(), rows * seq.cell.kept() * seq.hidden, "recurrent backward: d_gates [B, T, K·H]");
    assert!(lens(to.h0.as_deref(), states), "recurrent backward: d_h0 is [B, H]");
    assert!(lens(to.c0.as_deref(), states), "recurrent backward: d_c0 is [B, H]");
    let memory_free = from.c_n.is_none() && to.c0.is_none();
    assert!(memory_free || seq.cell.has_memory(), "recurrent backward: only the LSTM has a memory");

    let path = cpu::path();
    let panels = BackwardPanels::new(seq.cell, seq.hidden, path);
    let some = |s: Option<&mut [f32]>| s.map(|s| SendPtr(s.as_mut_ptr()));
    let sink = Sink { gates: SendPtr(d_gates.as_mut_ptr()), h0: some(to.h0), c0: some(to.c0) };
    scratch::with_f32(panels.len(), |packed| {
        panels.pack(weights.w_hh, packed);
        let packed = &*packed;
        let cut = seq.cut();
        pool::parallel_for(seq.batch.div_ceil(cut.rows), |task| {
            let first = task * cut.rows;
            let rows = cut.rows.min(seq.batch - first);
            let block = Block { seq, panels, packed, kept, state, from, sink: &sink, first, rows };
            block.run(cut, path);
        });
    });
}

/// The outputs, written row by row from several threads: each example belongs to one block.
struct Sink {
    gates: SendPtr<f32>,
    h0: Option<SendPtr<f32>>,
    c0: Option<SendPtr<f32>>,
}

struct Block<'a> {
    seq: &'a Sequence<'a>,
    panels: BackwardPanels,
    packed: &'a [f32],
    kept: Kept<'a>,
    state: State<'a>,
    from: OutputGradients<'a>,
    sink: &'a Sink,
    first: usize,
    rows: usize,
}

/// The running gradients of one block: `d_h` and `d_c` `[rows, H]`, the step's `d_gates` `[rows, K·H]`, with
/// `H` padded to whole vectors.
struct Running {
    h: SendPtr<f32>,
    c: SendPtr<f32>,
    gates: SendPtr<f32>,
    ldh: usize,
    ldg: usize,
}

impl Block<'_> {
    fn run(&self, cut: Cut, path: CpuPath) {
        let (seq, h, hp) = (self.seq, self.seq.hidden, self.panels.hidden_padded);
        let (ldh, ldg) = (row_stride(hp), row_stride(seq.cell.kept() * hp));
        scratch::with_f32(self.rows * (2 * ldh + ldg), |memory| {
            memory.fill(0.0);
            let (dh, rest) = memory.split_at_mut(self.rows * ldh);
            let (dc, gates) = rest.split_at_mut(self.rows * ldh);
            for r in 0..self.rows {
                let at = (self.first + r) * h;
                if let Some(from) = self.from.h_n {
                    dh[r * ldh..][..h].copy_from_slice(&from[at..at + h]);
                }
                if let Some(from) = self.from.c_n {
                    dc[r * ldh..][..h].copy_from_slice(&from[at..at + h]);
                }
            }
            let ptr = |s: &mut [f32]| SendPtr(s.as_mut_ptr());
            let running = Running { h: ptr(dh), c: ptr(dc), gates: ptr(gates), ldh, ldg };
            let (block, run) = (self, &running);
            let longest = (0..self.rows).map(|r| seq.length(self.first + r)).max().unwrap_or(0);
            for s in (0..longest).rev() {
                on_path!(path, gate_gradients(block: &Block<'_>, run: &Running, s: usize));
                if seq.truncates(s) {
                    self.forget(&running, s);
                    continue;
                }
                cut.each(self.panels.n, |begin, end| {
                    on_path!(path, products(block: &Block<'_>, run: &Running, s: usize, begin: usize, end: usize));
                });
            }
            self.end(&dh[..], &dc[..], ldh);
        });
    }

    /// Asks for what step `s` of an example needs: the examples' rows lie a whole sequence apart, which no
    /// processor foresees.
    #[inline(always)]
    fn prefetch_gates(&self, example: usize, s: usize) {
        if example >= self.first + self.rows || s >= self.seq.length(example) {
            return;
        }
        let (row, h, width) =
            (self.seq.row(example, s), self.seq.hidden, self.seq.cell.kept() * self.seq.hidden);
        for at in (0..width).step_by(CACHE_LINE) {
            prefetch(self.kept.gates.as_ptr().wrapping_add(row * width + at));
        }
        let beside = if self.seq.cell.has_memory() { self.kept.c } else { self.kept.h_prev };
        for at in (0..h).step_by(CACHE_LINE) {
            prefetch(beside.as_ptr().wrapping_add(row * h + at));
        }
    }

    /// Drops the gradients of the state that entered step `s`.
    fn forget(&self, running: &Running, s: usize) {
        for r in (0..self.rows).filter(|r| s < self.seq.length(self.first + r)) {
            for d in [running.h, running.c] {
                // SAFETY: both have a row of `ldh` numbers for each example of the block, which runs alone.
                unsafe { std::ptr::write_bytes(d.get().add(r * running.ldh), 0, running.ldh) }
            }
        }
    }

    /// The gradients of the first state, and zeros past the ends.
    fn end(&self, dh: &[f32], dc: &[f32], ldh: usize) {
        let (seq, h) = (self.seq, self.seq.hidden);
        for r in 0..self.rows {
            let b = self.first + r;
            // SAFETY: `backward` checked the lengths; each example belongs to one block.
            unsafe {
                for (to, from) in [(self.sink.h0, dh), (self.sink.c0, dc)] {
                    if let Some(to) = to {
                        std::ptr::copy_nonoverlapping(from[r * ldh..][..h].as_ptr(), to.get().add(b * h), h);
                    }
                }
                let (begin, past) = (b * seq.steps + seq.length(b), seq.steps - seq.length(b));
                let width = seq.cell.kept() * h;
                std::ptr::write_bytes(self.sink.gates.get().add(begin * width), 0, past * width);
            }
        }
    }
}

/// From `d_h` (and `d_c`) of step `s` to the gradients of its gates; leaves in `d_h` what goes past the
/// products to the step before.
#[inline(always)]
unsafe fn gate_gradients<S: Simd>(block: &Block<'_>, run: &Running, s: usize) {
    let (seq, h) = (block.seq, block.seq.hidden);
    for r in 0..block.rows {
        let b = block.first + r;
        if s >= seq.length(b) {
            continue;
        }
        let row = seq.row(b, s);
        block.prefetch_gates(b + 1, s);
        let d_out = block.from.out.map(|d| &d[row * h..][..h]);
        for unit in (0..h).step_by(S::LANES) {
            let n = S::LANES.min(h - unit);
            // SAFETY: `n` units are left in every row of `H`; running rows are padded to whole vectors.
            unsafe {
                let dh_at = run.h.get().add(r * run.ldh + unit);
                let mut dh = S::load(dh_at);
                if let Some(d) = d_out {
                    dh = S::add(dh, load::<S>(d.as_ptr().add(unit), n));
                }
                let at = GateAt { row, r, unit, n };
                match seq.cell {
                    Cell::Lstm => lstm::<S>(block, run, &at, s, dh),
                    Cell::Gru => gru::<S>(block, run, &at, dh),
                    Cell::RnnTanh => rnn::<S, true>(block, run, &at, dh),
                    Cell::RnnRelu => rnn::<S, false>(block, run, &at, dh),
                }
            }
        }
    }
}

/// `n` units from `unit` of the block's row `r`, which is row `row` of `[B·T]`.
struct GateAt {
    row: usize,
    r: usize,
    unit: usize,
    n: usize,
}

impl GateAt {
    #[inline(always)]
    unsafe fn kept<S: Simd>(&self, block: &Block<'_>, gate: usize) -> S::V {
        let h = block.seq.hidden;
        let at = (self.row * block.seq.cell.kept() + gate) * h + self.unit;
        // SAFETY: the kept gates have this row and gate.
        unsafe { load::<S>(block.kept.gates.as_ptr().add(at), self.n) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, block: &Block<'_>, run: &Running, gate: usize, d: S::V) {
        let (h, hp, width) = (block.seq.hidden, block.panels.hidden_padded, block.seq.cell.kept());
        // SAFETY: both buffers have this row and gate.
        unsafe {
            S::store(run.gates.get().add(self.r * run.ldg + gate * hp + self.unit), d);
            store::<S>(block.sink.gates.get().add((self.row * width + gate) * h + self.unit), d, self.n);
        }
    }
}

/// `1 - y²`
#[inline(always)]
unsafe fn tanh_slope<S: Simd>(y: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe { S::sub(S::splat(1.0), S::mul(y, y)) }
}

/// `y (1 - y)`
#[inline(always)]
unsafe fn sigmoid_slope<S: Simd>(y: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe { S::mul(y, S::sub(S::splat(1.0), y)) }
}

/// ```text
/// d_o = d_h tanh(c')        d_c = d_c' + d_h o (1 - tanh²(c'))
/// d_i = d_c g    d_f = d_c c    d_g = d_c i    to the step before: d_c f
/// ```
#[inline(always)]
unsafe fn lstm<S: Simd>(block: &Block<'_>, run: &Running, at: &GateAt, s: usize, dh: S::V) {
    let (seq, h) = (block.seq, block.seq.hidden);
    // SAFETY: `at` lies inside all buffers.
    unsafe {
        let [i, f] = [at.kept::<S>(block, 0), at.kept::<S>(block, 1)];
        let [g, o] = [at.kept::<S>(block, 2), at.kept::<S>(block, 3)];
        let tanh_c = math::tanh::<S>(load::<S>(block.kept.c.as_ptr().add(at.row * h + at.unit), at.n));
        let b = block.first + at.r;
        let c_before = if s > 0 {
            load::<S>(block.kept.c.as_ptr().add(seq.row(b, s - 1) * h + at.unit), at.n)
        } else if let Some(c0) = block.state.c {
            load::<S>(c0.as_ptr().add(b * h + at.unit), at.n)
        } else {
            S::splat(0.0)
        };
        let dc_at = run.c.get().add(at.r * run.ldh + at.unit);
        let dc = S::fma(S::mul(dh, o), tanh_slope::<S>(tanh_c), S::load(dc_at));
        at.put::<S>(block, run, 0, S::mul(S::mul(dc, g), sigmoid_slope::<S>(i)));
        at.put::<S>(block, run, 1, S::mul(S::mul(dc, c_before), sigmoid_slope::<S>(f)));
        at.put::<S>(block, run, 2, S::mul(S::mul(dc, i), tanh_slope::<S>(g)));
        at.put::<S>(block, run, 3, S::mul(S::mul(dh, tanh_c), sigmoid_slope::<S>(o)));
        S::store(dc_at, S::mul(dc, f));
        S::store(run.h.get().add(at.r * run.ldh + at.unit), S::splat(0.0));
    }
}

/// ```text
/// d_n = d_h (1 - z) (1 - n²)    d_z = d_h (h - n) z (1 - z)    d_hn = d_n r    d_r = d_n hn r (1 - r)
/// past the products: d_h z
/// ```
#[inline(always)]
unsafe fn gru<S: Simd>(block: &Block<'_>, run: &Running, at: &GateAt, dh: S::V) {
    // SAFETY: `at` lies inside all buffers.
    unsafe {
        let [reset, z] = [at.kept::<S>(block, 0), at.kept::<S>(block, 1)];
        let [n, n_hidden] = [at.kept::<S>(block, 2), at.kept::<S>(block, 3)];
        let before = block.kept.h_prev.as_ptr().add(at.row * block.seq.hidden + at.unit);
        let h_prev = load::<S>(before, at.n);
        let dn = S::mul(S::mul(dh, S::sub(S::splat(1.0), z)), tanh_slope::<S>(n));
        let dz = S::mul(S::mul(dh, S::sub(h_prev, n)), sigmoid_slope::<S>(z));
        at.put::<S>(block, run, 0, dn);
        at.put::<S>(block, run, 1, S::mul(S::mul(dn, n_hidden), sigmoid_slope::<S>(reset)));
        at.put::<S>(block, run, 2, dz);
        at.put::<S>(block, run, 3, S::mul(dn, reset));
        S::store(run.h.get().add(at.r * run.ldh + at.unit), S::mul(dh, z));
    }
}

#[inline(always)]
unsafe fn rnn<S: Simd, const TANH: bool>(block: &Block<'_>, run: &Running, at: &GateAt, dh: S::V) {
    // SAFETY: `at` lies inside all buffers.
    unsafe {
        let y = at.kept::<S>(block, 0);
        let zero = S::splat(0.0);
        let d = if TANH { S::mul(dh, tanh_slope::<S>(y)) } else { S::select_gt(y, zero, dh, zero) };
        at.put::<S>(block, run, 0, d);
        S::store(run.h.get().add(at.r * run.ldh + at.unit), zero);
    }
}

/// `d_h += d_gates · W_hh` for the panels `begin..end`.
#[inline(always)]
unsafe fn products<S: Simd>(block: &Block<'_>, run: &Running, s: usize, begin: usize, end: usize) {
    let step = Products { block, run, s };
    for p in begin..end {
        // SAFETY: the buffers have all rows and panels.
        unsafe { row_tiles!(S, block.rows, product, [12, 6, 3, 2, 1], (&step, p)) }
    }
}

struct Products<'a> {
    block: &'a Block<'a>,
    run: &'a Running,
    s: usize,
}

#[inline(always)]
unsafe fn product<S: Simd, const MR: usize>(step: &Products<'_>, p: usize, row: usize) {
    let Products { block, run, s } = *step;
    let panels = &block.panels;
    // SAFETY: rows `row..row + MR` and panel `p` exist; the writes stay inside the padded columns.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; MR];
        let a = run.gates.get().add(row * run.ldg + panels.window);
        let w = block.packed.as_ptr().add(p * panels.panel_len);
        accumulate::<S, MR, 2>(&mut acc, a, run.ldg, panels.k, w);
        for r in 0..MR {
            if s >= block.seq.length(block.first + row + r) {
                continue;
            }
            for v in 0..2 {
                let column = (2 * p + v) * S::LANES;
                if column < panels.hidden_padded {
                    let to = run.h.get().add((row + r) * run.ldh + column);
                    S::store(to, S::add(S::load(to), acc[r][v]));
                }
            }
        }
    }
}
