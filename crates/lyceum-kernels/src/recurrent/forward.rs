//! A sequence from its first step to its last.

use super::pack::{ForwardPanels, PackedCell};
use super::tile::{accumulate, row_tiles};
use super::{Cell, CellWeights, Cut, KeptMut, Sequence, State, row_stride};
use crate::cpu::{self, CpuPath};
use crate::pool::{self, SendPtr};
use crate::scratch;
use crate::simd::{Simd, math, on_path};

/// Where [`forward`] writes.
#[derive(Debug)]
pub struct Outputs<'a> {
    /// `[B, T, H]`, zeros past the lengths.
    pub out: &'a mut [f32],
    /// `[B, H]`: the state after each example's last step.
    pub h_n: &'a mut [f32],
    /// `[B, H]` for the LSTM, else empty.
    pub c_n: &'a mut [f32],
    /// Wanted when there will be a backward pass.
    pub kept: Option<KeptMut<'a>>,
}

/// The weights that [`forward`] takes: as they are stored, or packed before.
#[derive(Clone, Copy, Debug)]
pub enum Params<'a> {
    Plain(CellWeights<'a>),
    Packed(&'a PackedCell),
}

impl<'a> From<CellWeights<'a>> for Params<'a> {
    fn from(weights: CellWeights<'a>) -> Self {
        Params::Plain(weights)
    }
}

impl<'a> From<&'a PackedCell> for Params<'a> {
    fn from(packed: &'a PackedCell) -> Self {
        Params::Packed(packed)
    }
}

/// Runs the layer over `x` `[B, T, F]`.
///
/// Cutting a sequence and carrying the state, down to one step at a time, gives the bits of the whole.
///
/// # Panics
/// When a shape is not as written, or when `params` were packed for another layer or path.
pub fn forward<'a>(
    seq: &Sequence<'_>,
    params: impl Into<Params<'a>>,
    x: &[f32],
    state: State<'_>,
    outputs: Outputs<'_>,
) {
    seq.check();
    seq.check_state(&state);
    let rows = seq.batch * seq.steps;
    assert_eq!(x.len(), rows * seq.input, "recurrent forward: x is [B, T, F]");
    assert_eq!(outputs.out.len(), rows * seq.hidden, "recurrent forward: out is [B, T, H]");
    assert_eq!(outputs.h_n.len(), seq.batch * seq.hidden, "recurrent forward: h_n is [B, H]");
    let c_len = if seq.cell.has_memory() { seq.batch * seq.hidden } else { 0 };
    assert_eq!(outputs.c_n.len(), c_len, "recurrent forward: c_n is [B, H] for the LSTM");
    if let Some(kept) = &outputs.kept {
        seq.check_kept(kept.gates.len(), kept.c.len(), kept.h_prev.len());
    }
    let path = cpu::path();
    let panels = ForwardPanels::new(seq.cell, seq.input, seq.hidden, path);
    match params.into() {
        Params::Packed(p) => {
            let same = (p.cell, p.input, p.hidden, p.path) == (seq.cell, seq.input, seq.hidden, path);
            assert!(same, "recurrent forward: packed for another layer or path");
            run(seq, panels, &p.data, x, state, outputs, path);
        }
        Params::Plain(weights) => {
            seq.check_weights(&weights);
            scratch::with_f32(panels.len(), |data| {
                panels.pack(&weights, data);
                run(seq, panels, data, x, state, outputs, path);
            });
        }
    }
}

fn run(
    seq: &Sequence<'_>,
    panels: ForwardPanels,
    packed: &[f32],
    x: &[f32],
    state: State<'_>,
    outputs: Outputs<'_>,
    path: CpuPath,
) {
    let sink = Sink::new(outputs);
    let cut = seq.cut();
    pool::parallel_for(seq.batch.div_ceil(cut.rows), |task| {
        let first = task * cut.rows;
        let rows = cut.rows.min(seq.batch - first);
        run_block(seq, panels, packed, x, state, &sink, Block { first, rows, cut, path });
    });
}

#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
    cut: Cut,
    path: CpuPath,
}

/// Takes the examples of one block through all their steps.
fn run_block(
    seq: &Sequence<'_>,
    panels: ForwardPanels,
    packed: &[f32],
    x: &[f32],
    state: State<'_>,
    sink: &Sink,
    block: Block,
) {
    let Block { first, rows, cut, path } = block;
    let (f, h, hp) = (seq.input, seq.hidden, panels.hidden_padded);
    let (lda, ldc, ldg) = (row_stride(f + hp), row_stride(hp), row_stride(seq.cell.kept() * hp));
    scratch::with_f32(rows * (2 * lda + ldc + ldg), |memory| {
        memory.fill(0.0);
        let (mut now, rest) = memory.split_at_mut(rows * lda);
        let (mut next, rest) = rest.split_at_mut(rows * lda);
        let (c, gates) = rest.split_at_mut(rows * ldc);
        for r in 0..rows {
            let from = (first + r) * h;
            if let Some(h0) = state.h {
                now[r * lda + f..][..h].copy_from_slice(&h0[from..from + h]);
            }
            if let Some(c0) = state.c {
                c[r * ldc..][..h].copy_from_slice(&c0[from..from + h]);
            }
        }
        let longest = (first..first + rows).map(|b| seq.length(b)).max().unwrap_or(0);
        for s in 0..longest {
            for r in (0..rows).filter(|r| s < seq.length(first + r)) {
                let row = seq.row(first + r, s);
                now[r * lda..][..f].copy_from_slice(&x[row * f..][..f]);
                sink.state_in(row, &now[r * lda + f..][..h]);
            }
            let direct = (h == hp).then_some(Direct { seq, sink, first });
            let step = Step {
                cell: seq.cell,
                rows,
                input: f,
                hidden: h,
                panels,
                packed: packed.as_ptr(),
                now: now.as_ptr(),
                next: SendPtr(next.as_mut_ptr()),
                lda,
                c: SendPtr(c.as_mut_ptr()),
                ldc,
                gates: SendPtr(gates.as_mut_ptr()),
                ldg,
                lengths: seq.lengths.map(|l| &l[first..first + rows]),
                s,
                direct,
            };
            let step = &step;
            cut.each(panels.n, |begin, end| {
                on_path!(path, run_panels(step: &Step<'_>, begin: usize, end: usize));
            });
            for r in (0..rows).filter(|r| step.direct.is_none() && s < seq.length(first + r)) {
                let row = seq.row(first + r, s);
                sink.step_out(row, &next[r * lda + f..][..h], &c[r * ldc..][..h], &gates[r * ldg..], hp);
            }
            std::mem::swap(&mut now, &mut next);
        }
        for r in 0..rows {
            let b = first + r;
            sink.end(b, &now[r * lda + f..][..h], &c[r * ldc..][..h]);
            for t in seq.length(b)..seq.steps {
                sink.past_end(b * seq.steps + t, h);
            }
        }
    });
}

/// The outputs, written row by row from several threads: each example belongs to one block.
struct Sink {
    out: SendPtr<f32>,
    h_n: SendPtr<f32>,
    c_n: Option<SendPtr<f32>>,
    kept: Option<KeptSink>,
}

struct KeptSink {
    gates: SendPtr<f32>,
    n_gates: usize,
    c: Option<SendPtr<f32>>,
    h_prev: SendPtr<f32>,
}

/// # Safety
/// `to` has `(row + 1) · values.len()` floats and no other thread touches that row.
unsafe fn write_row(to: SendPtr<f32>, row: usize, values: &[f32]) {
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.get().add(row * values.len()), values.len()) }
}

impl Sink {
    fn new(outputs: Outputs<'_>) -> Sink {
        let ptr = |s: &mut [f32]| SendPtr(s.as_mut_ptr());
        let some = |s: &mut [f32]| if s.is_empty() { None } else { Some(SendPtr(s.as_mut_ptr())) };
        let units = outputs.out.len();
        Sink {
            out: ptr(outputs.out),
            h_n: ptr(outputs.h_n),
            c_n: some(outputs.c_n),
            kept: outputs.kept.map(|kept| KeptSink {
                n_gates: kept.gates.len().checked_div(units).unwrap_or(0),
                gates: ptr(kept.gates),
                c: some(kept.c),
                h_prev: ptr(kept.h_prev),
            }),
        }
    }

    fn state_in(&self, row: usize, h: &[f32]) {
        if let Some(kept) = &self.kept {
            // SAFETY: `forward` checked the lengths; the row belongs to the block that calls.
            unsafe { write_row(kept.h_prev, row, h) }
        }
    }

    fn step_out(&self, row: usize, h: &[f32], c: &[f32], gates: &[f32], hidden_padded: usize) {
        // SAFETY: `forward` checked the lengths; the row belongs to the block that calls.
        unsafe {
            write_row(self.out, row, h);
            let Some(kept) = &self.kept else { return };
            for g in 0..kept.n_gates {
                write_row(kept.gates, row * kept.n_gates + g, &gates[g * hidden_padded..][..h.len()]);
            }
            if let Some(to) = kept.c {
                write_row(to, row, c);
            }
        }
    }

    fn end(&self, example: usize, h: &[f32], c: &[f32]) {
        // SAFETY: as above.
        unsafe {
            write_row(self.h_n, example, h);
            if let Some(c_n) = self.c_n {
                write_row(c_n, example, c);
            }
        }
    }

    fn past_end(&self, row: usize, hidden: usize) {
        // SAFETY: as above.
        unsafe {
            std::ptr::write_bytes(self.out.get().add(row * hidden), 0, hidden);
            let Some(kept) = &self.kept else { return };
            std::ptr::write_bytes(kept.h_prev.get().add(row * hidden), 0, hidden);
            let width = kept.n_gates * hidden;
            std::ptr::write_bytes(kept.gates.get().add(row * width), 0, width);
            if let Some(c) = kept.c {
                std::ptr::write_bytes(c.get().add(row * hidden), 0, hidden);
            }
        }
    }
}

/// One step of one block: `now` and `next` hold rows `[x | h]`, with `h` padded to whole panels.
struct Step<'a> {
    cell: Cell,
    rows: usize,
    input: usize,
    hidden: usize,
    panels: ForwardPanels,
    packed: *const f32,
    now: *const f32,
    next: SendPtr<f32>,
    lda: usize,
    c: SendPtr<f32>,
    ldc: usize,
    gates: SendPtr<f32>,
    ldg: usize,
    lengths: Option<&'a [u32]>,
    s: usize,
    /// Where results go at once, without a copy: there where whole panels fill a row.
    direct: Option<Direct<'a>>,
}

/// The outputs as the panels reach them.
#[derive(Clone, Copy)]
struct Direct<'a> {
    seq: &'a Sequence<'a>,
    sink: &'a Sink,
    first: usize,
}

// SAFETY: `packed` and `now` are only read while a step runs, and the panels write disjoint units.
unsafe impl Sync for Step<'_> {}

impl Step<'_> {
    #[inline(always)]
    fn active(&self, row: usize) -> bool {
        match self.lengths {
            Some(lengths) => self.s < lengths[row] as usize,
            None => true,
        }
    }

    /// A vector of one example's new state, memory and gates: to the outputs, or to where
    /// [`Sink::step_out`] finds it.
    ///
    /// # Safety
    /// The processor has the path `S`; row and units exist.
    #[inline(always)]
    unsafe fn put<S: Simd, const K: usize>(
        &self,
        row: usize,
        unit: usize,
        h: S::V,
        c: Option<S::V>,
        gates: [S::V; K],
    ) {
        // SAFETY: the scratch rows are padded to whole vectors. Outputs written at once have whole vectors,
        // and their rows belong to the block that calls.
        unsafe {
            S::store(self.next.get().add(row * self.lda + self.input + unit), h);
            let Some(direct) = &self.direct else {
                let to = self.gates.get().add(row * self.ldg + unit);
                for g in 0..K {
                    S::store(to.add(g * self.panels.hidden_padded), gates[g]);
                }
                return;
            };
            let at = direct.seq.row(direct.first + row, self.s);
            S::store(direct.sink.out.get().add(at * self.hidden + unit), h);
            let Some(kept) = &direct.sink.kept else { return };
            for g in 0..K {
                S::store(kept.gates.get().add((at * K + g) * self.hidden + unit), gates[g]);
            }
            if let (Some(to), Some(c)) = (kept.c, c) {
                S::store(to.get().add(at * self.hidden + unit), c);
            }
        }
    }
}

/// # Safety
/// The processor has the path `S`, for which `step` was made.
#[inline(always)]
unsafe fn run_panels<S: Simd>(step: &Step<'_>, begin: usize, end: usize) {
    for p in begin..end {
        // SAFETY: the buffers of `step` hold `rows` rows and all panels.
        unsafe {
            match step.cell {
                Cell::Lstm => row_tiles!(S, step.rows, lstm, [6, 3, 2, 1], (step, p)),
                Cell::Gru => row_tiles!(S, step.rows, gru, [6, 3, 2, 1], (step, p)),
                Cell::RnnTanh => row_tiles!(S, step.rows, rnn_tanh, [6, 3, 2, 1], (step, p)),
                Cell::RnnRelu => row_tiles!(S, step.rows, rnn_relu, [6, 3, 2, 1], (step, p)),
            }
        }
    }
}

#[inline(always)]
unsafe fn lstm<S: Simd, const MR: usize>(step: &Step<'_>, p: usize, row: usize) {
    // SAFETY: rows `row..row + MR` and panel `p` exist; scratch rows are padded to whole panels.
    unsafe {
        let panel = step.packed.add(p * step.panels.panel_len);
        let mut acc = [[S::splat(0.0); 4]; MR];
        for r in 0..MR {
            for v in 0..4 {
                acc[r][v] = S::load(panel.add(v * S::LANES));
            }
        }
        let k = step.input + step.hidden;
        let w = panel.add(4 * S::LANES);
        accumulate::<S, MR, 4>(&mut acc, step.now.add(row * step.lda), step.lda, k, w);
        let unit = p * S::LANES;
        for r in 0..MR {
            let h_at = (row + r) * step.lda + step.input + unit;
            if !step.active(row + r) {
                S::store(step.next.get().add(h_at), S::load(step.now.add(h_at)));
                continue;
            }
            let i = math::sigmoid::<S>(acc[r][0]);
            let f = math::sigmoid::<S>(acc[r][1]);
            let g = math::tanh::<S>(acc[r][2]);
            let o = math::sigmoid::<S>(acc[r][3]);
            let c_at = step.c.get().add((row + r) * step.ldc + unit);
            let c = S::fma(f, S::load(c_at), S::mul(i, g));
            S::store(c_at, c);
            step.put::<S, 4>(row + r, unit, S::mul(o, math::tanh::<S>(c)), Some(c), [i, f, g, o]);
        }
    }
}

#[inline(always)]
unsafe fn gru<S: Simd, const MR: usize>(step: &Step<'_>, p: usize, row: usize) {
    // SAFETY: as for `lstm`.
    unsafe {
        let panel = step.packed.add(p * step.panels.panel_len);
        let mut acc = [[S::splat(0.0); 3]; MR];
        for r in 0..MR {
            for v in 0..3 {
                acc[r][v] = S::load(panel.add(v * S::LANES));
            }
        }
        let a = step.now.add(row * step.lda);
        let w = panel.add(4 * S::LANES);
        accumulate::<S, MR, 3>(&mut acc, a, step.lda, step.input, w);
        // The input's part of `n` waits here while the hidden part is summed from `b_hn`.
        let mut n_input = [S::splat(0.0); MR];
        for r in 0..MR {
            n_input[r] = acc[r][2];
            acc[r][2] = S::load(panel.add(3 * S::LANES));
        }
        let w = w.add(step.input * 3 * S::LANES);
        accumulate::<S, MR, 3>(&mut acc, a.add(step.input), step.lda, step.hidden, w);
        let unit = p * S::LANES;
        for r in 0..MR {
            let h_at = (row + r) * step.lda + step.input + unit;
            let h = S::load(step.now.add(h_at));
            if !step.active(row + r) {
                S::store(step.next.get().add(h_at), h);
                continue;
            }
            let reset = math::sigmoid::<S>(acc[r][0]);
            let z = math::sigmoid::<S>(acc[r][1]);
            let n = math::tanh::<S>(S::fma(reset, acc[r][2], n_input[r]));
            let h = S::fma(z, S::sub(h, n), n);
            step.put::<S, 4>(row + r, unit, h, None, [reset, z, n, acc[r][2]]);
        }
    }
}

#[inline(always)]
unsafe fn rnn_tanh<S: Simd, const MR: usize>(step: &Step<'_>, p: usize, row: usize) {
    // SAFETY: as for `lstm`.
    unsafe { rnn::<S, MR, true>(step, p, row) }
}

#[inline(always)]
unsafe fn rnn_relu<S: Simd, const MR: usize>(step: &Step<'_>, p: usize, row: usize) {
    // SAFETY: as for `lstm`.
    unsafe { rnn::<S, MR, false>(step, p, row) }
}

#[inline(always)]
unsafe fn rnn<S: Simd, const MR: usize, const TANH: bool>(step: &Step<'_>, p: usize, row: usize) {
    // SAFETY: as for `lstm`.
    unsafe {
        let panel = step.packed.add(p * step.panels.panel_len);
        let mut acc = [[S::splat(0.0); 4]; MR];
        for r in 0..MR {
            for v in 0..4 {
                acc[r][v] = S::load(panel.add(v * S::LANES));
            }
        }
        let k = step.input + step.hidden;
        let w = panel.add(4 * S::LANES);
        accumulate::<S, MR, 4>(&mut acc, step.now.add(row * step.lda), step.lda, k, w);
        for r in 0..MR {
            for v in 0..4 {
                let unit = (4 * p + v) * S::LANES;
                let h_at = (row + r) * step.lda + step.input + unit;
                if !step.active(row + r) {
                    S::store(step.next.get().add(h_at), S::load(step.now.add(h_at)));
                    continue;
                }
                let a = acc[r][v];
                let h = if TANH { math::tanh::<S>(a) } else { S::max(S::splat(0.0), a) };
                step.put::<S, 1>(row + r, unit, h, None, [h]);
            }
        }
    }
}
