//! Every path against a twin in f64 that follows PyTorch's formulas line by line, gradients against finite
//! differences of the twin.

use super::*;
use crate::cpu;
use crate::elementwise::Write;
use crate::matmul::Precision;
use crate::testing::{close, each_path, numbers};

const CELLS: [Cell; 4] = [Cell::RnnTanh, Cell::RnnRelu, Cell::Lstm, Cell::Gru];

/// A layer and what goes through it.
struct Case {
    cell: Cell,
    direction: Direction,
    dims: [usize; 4],
    lengths: Option<Vec<u32>>,
    w_ih: Vec<f32>,
    w_hh: Vec<f32>,
    b_ih: Vec<f32>,
    b_hh: Vec<f32>,
    x: Vec<f32>,
    h0: Vec<f32>,
    c0: Vec<f32>,
}

impl Case {
    fn new(cell: Cell, direction: Direction, dims: [usize; 4], lengths: Option<Vec<u32>>) -> Case {
        let [b, t, f, h] = dims;
        let g = cell.gates() * h;
        let some = |n, seed| numbers(n, seed).into_iter().map(|x| x * 0.6).collect::<Vec<_>>();
        Case {
            cell,
            direction,
            dims,
            lengths,
            w_ih: some(g * f, 1),
            w_hh: some(g * h, 2),
            b_ih: some(g, 3),
            b_hh: some(g, 4),
            x: some(b * t * f, 5),
            h0: some(b * h, 6),
            c0: if cell.has_memory() { some(b * h, 7) } else { Vec::new() },
        }
    }

    fn seq(&self) -> Sequence<'_> {
        let [batch, steps, input, hidden] = self.dims;
        let (cell, direction, lengths) = (self.cell, self.direction, self.lengths.as_deref());
        Sequence { cell, direction, batch, steps, input, hidden, lengths, bptt: None }
    }

    fn weights(&self) -> CellWeights<'_> {
        CellWeights { w_ih: &self.w_ih, w_hh: &self.w_hh, b_ih: Some(&self.b_ih), b_hh: Some(&self.b_hh) }
    }

    fn state(&self) -> State<'_> {
        State { h: Some(&self.h0), c: (!self.c0.is_empty()).then_some(&self.c0[..]) }
    }

    fn run(&self) -> Run {
        let seq = self.seq();
        let units = seq.batch * seq.steps * seq.hidden;
        let memory = if seq.cell.has_memory() { 1 } else { 0 };
        let nan = |n: usize| vec![f32::NAN; n];
        let mut run = Run {
            out: nan(units),
            h_n: nan(seq.batch * seq.hidden),
            c_n: nan(memory * seq.batch * seq.hidden),
            gates: nan(units * seq.cell.kept()),
            c: nan(memory * units),
            h_prev: nan(units),
        };
        let kept = Some(KeptMut { gates: &mut run.gates, c: &mut run.c, h_prev: &mut run.h_prev });
        let outputs = Outputs { out: &mut run.out, h_n: &mut run.h_n, c_n: &mut run.c_n, kept };
        forward(&seq, self.weights(), &self.x, self.state(), outputs);
        run
    }
}

struct Run {
    out: Vec<f32>,
    h_n: Vec<f32>,
    c_n: Vec<f32>,
    gates: Vec<f32>,
    c: Vec<f32>,
    h_prev: Vec<f32>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `out`, `h_n`, `c_n` in f64, from numbers in f64 so that it can be differentiated.
fn twin(case: &Case, p: &Numbers) -> [Vec<f64>; 3] {
    let [b, t, f, h] = case.dims;
    let mut out = vec![0.0; b * t * h];
    let (mut hs, mut cs) = (p[5].clone(), p[6].clone());
    for e in 0..b {
        let length = case.lengths.as_ref().map_or(t, |l| l[e] as usize);
        for s in 0..length {
            let pos = if case.direction == Direction::Forward { s } else { length - 1 - s };
            let x = &p[4][(e * t + pos) * f..][..f];
            let before = hs[e * h..][..h].to_vec();
            let dot = |w: &[f64], row: usize, v: &[f64]| -> f64 {
                w[row * v.len()..][..v.len()].iter().zip(v).map(|(a, b)| a * b).sum()
            };
            let input = |row: usize| dot(&p[0], row, x) + p[2][row];
            let state = |row: usize| dot(&p[1], row, &before) + p[3][row];
            for u in 0..h {
                let sum = |gate: usize| input(gate * h + u) + state(gate * h + u);
                let next = match case.cell {
                    Cell::RnnTanh => sum(0).tanh(),
                    Cell::RnnRelu => sum(0).max(0.0),
                    Cell::Lstm => {
                        let c = sigmoid(sum(1)) * cs[e * h + u] + sigmoid(sum(0)) * sum(2).tanh();
                        cs[e * h + u] = c;
                        sigmoid(sum(3)) * c.tanh()
                    }
                    Cell::Gru => {
                        let (r, z) = (sigmoid(sum(0)), sigmoid(sum(1)));
                        let n = (input(2 * h + u) + r * state(2 * h + u)).tanh();
                        (1.0 - z) * n + z * before[u]
                    }
                };
                hs[e * h + u] = next;
                out[(e * t + pos) * h + u] = next;
            }
        }
    }
    [out, hs, cs]
}

/// `w_ih w_hh b_ih b_hh x h0 c0` in f64.
type Numbers = [Vec<f64>; 7];

fn widen(case: &Case) -> Numbers {
    [&case.w_ih, &case.w_hh, &case.b_ih, &case.b_hh, &case.x, &case.h0, &case.c0]
        .map(|v| v.iter().map(|&x| x as f64).collect())
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse] {
            cases.push(Case::new(cell, direction, [1, 3, 1, 1], None));
            cases.push(Case::new(cell, direction, [5, 4, 3, 7], Some(vec![4, 0, 2, 4, 1])));
            cases.push(Case::new(cell, direction, [17, 3, 9, 33], None));
            cases.push(Case::new(cell, direction, [3, 2, 0, 40], Some(vec![2, 1, 2])));
        }
    }
    cases
}

#[test]
fn a_sequence_agrees_with_the_twin_on_every_path() {
    for case in cases() {
        let [out, h_n, c_n] = twin(&case, &widen(&case));
        each_path(|| {
            let run = case.run();
            let got = [&run.out, &run.h_n, &run.c_n];
            for (got, want) in got.into_iter().zip([&out, &h_n, &c_n]) {
                assert_eq!(got.len(), want.len());
                got.iter().zip(want).for_each(|(&g, &w)| close(g, w, 3e-6));
            }
        });
    }
}

/// `Σ out·d_out + h_n·d_h + c_n·d_c`: a loss whose output gradients are given.
fn loss(case: &Case, p: &Numbers, d: &[Vec<f32>; 3]) -> f64 {
    let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * b as f64).sum::<f64>();
    twin(case, p).iter().zip(d).map(|(a, b)| dot(a, b)).sum()
}

#[test]
fn gradients_agree_with_finite_differences_on_every_path() {
    for case in cases().iter().filter(|c| c.dims[3] < 20) {
        let seq = case.seq();
        let [b, t, f, h] = case.dims;
        let d = [numbers(b * t * h, 11), numbers(b * h, 12), numbers(case.c0.len(), 13)];
        let numbers = widen(case);
        let want: Vec<Vec<f64>> = (0..7)
            .map(|which| {
                (0..numbers[which].len())
                    .map(|i| {
                        let moved = |by: f64| {
                            let mut p = numbers.clone();
                            p[which][i] += by;
                            loss(case, &p, &d)
                        };
                        (moved(1e-5) - moved(-1e-5)) / 2e-5
                    })
                    .collect()
            })
            .collect();
        each_path(|| {
            let run = case.run();
            let memory = seq.cell.has_memory();
            let mut gates = vec![f32::NAN; run.gates.len()];
            let (mut x, mut h0, mut c0) =
                (vec![f32::NAN; b * t * f], vec![f32::NAN; b * h], vec![f32::NAN; case.c0.len()]);
            let kept = Kept { gates: &run.gates, c: &run.c, h_prev: &run.h_prev };
            let from =
                OutputGradients { out: Some(&d[0]), h_n: Some(&d[1]), c_n: memory.then_some(&d[2][..]) };
            let to = StateGradients { h0: Some(&mut h0), c0: memory.then_some(&mut c0[..]) };
            backward(&seq, &case.weights(), kept, case.state(), from, &mut gates, to);
            input_gradient(&seq, &case.w_ih, &gates, &mut x, Write::Overwrite, Precision::F32);
            let mut w = [&case.w_ih, &case.w_hh, &case.b_ih, &case.b_hh].map(|v| vec![0.5; v.len()]);
            let [w_ih, w_hh, b_ih, b_hh] = &mut w;
            let right = [(Side::Input, &case.x, w_ih), (Side::State, &run.h_prev, w_hh)];
            for (side, right, out) in right {
                weight_gradient(&seq, side, &gates, right, out, Write::Add, Precision::F32);
                out.iter_mut().for_each(|x| *x -= 0.5);
            }
            let mut sums = vec![0.0; seq.cell.kept() * h];
            bias_sums(&seq, &gates, &mut sums);
            bias_gradient(&seq, Side::Input, &sums, b_ih, Write::Overwrite);
            bias_gradient(&seq, Side::State, &sums, b_hh, Write::Overwrite);
            let [w_ih, w_hh, b_ih, b_hh] = w;
            for (got, want) in [w_ih, w_hh, b_ih, b_hh, x, h0, c0].iter().zip(&want) {
                assert_eq!(got.len(), want.len());
                got.iter().zip(want).for_each(|(&g, &w)| close(g, w, 2e-5));
            }
        });
    }
}

#[test]
fn one_step_at_a_time_gives_the_bits_of_the_sequence() {
    for cell in CELLS {
        let case = Case::new(cell, Direction::Forward, [4, 6, 5, 37], None);
        let [b, t, f, h] = case.dims;
        each_path(|| {
            let whole = case.run();
            let packed = PackedCell::new(cell, f, h, &case.weights());
            let (mut hs, mut cs) = (case.h0.clone(), case.c0.clone());
            for s in 0..t {
                let x: Vec<f32> = (0..b).flat_map(|e| &case.x[(e * t + s) * f..][..f]).copied().collect();
                let seq = Sequence { steps: 1, ..case.seq() };
                let mut out = vec![0.0; b * h];
                let (h_in, c_in) = (hs.clone(), cs.clone());
                let state = State { h: Some(&h_in), c: cell.has_memory().then_some(&c_in[..]) };
                let outputs = Outputs { out: &mut out, h_n: &mut hs, c_n: &mut cs, kept: None };
                forward(&seq, &packed, &x, state, outputs);
                for e in 0..b {
                    assert_eq!(out[e * h..][..h], whole.out[(e * t + s) * h..][..h], "{cell:?} step {s}");
                }
            }
            assert_eq!((hs, cs), (whole.h_n, whole.c_n));
        });
    }
}

#[test]
fn an_example_has_the_same_bits_alone_and_in_any_batch() {
    for cell in CELLS {
        let case =
            Case::new(cell, Direction::Reverse, [101, 5, 6, 24], Some((0..101).map(|e| e % 6).collect()));
        let [_, t, f, h] = case.dims;
        each_path(|| {
            let whole = case.run();
            for e in [0, 1, 50, 99, 100] {
                let mut alone = Case::new(cell, case.direction, [1, t, f, h], Some(vec![e as u32 % 6]));
                alone.x = case.x[e * t * f..][..t * f].to_vec();
                alone.h0 = case.h0[e * h..][..h].to_vec();
                if cell.has_memory() {
                    alone.c0 = case.c0[e * h..][..h].to_vec();
                }
                assert_eq!(alone.run().out, whole.out[e * t * h..][..t * h], "{cell:?} example {e}");
            }
        });
    }
}

#[test]
fn threads_that_share_a_step_change_no_bit() {
    // Wide enough that few examples are cut by units and many by examples.
    for cell in [Cell::Lstm, Cell::Gru, Cell::RnnTanh] {
        let few = Case::new(cell, Direction::Forward, [2, 3, 40, 520], None);
        let mut many = Case::new(cell, Direction::Forward, [300, 3, 40, 520], None);
        many.x[..few.x.len()].copy_from_slice(&few.x);
        many.h0[..few.h0.len()].copy_from_slice(&few.h0);
        if cell.has_memory() {
            many.c0[..few.c0.len()].copy_from_slice(&few.c0);
        }
        let path = *cpu::available().last().unwrap();
        cpu::with_path(path, || {
            let out = few.run().out;
            assert_eq!(out, many.run().out[..out.len()], "{cell:?}");
        });
    }
}

#[test]
fn past_its_length_an_example_gives_zeros_and_its_state_stays() {
    let case = Case::new(Cell::Lstm, Direction::Forward, [2, 5, 3, 4], Some(vec![2, 0]));
    let run = case.run();
    assert!(run.out[2 * 4..].iter().all(|&x| x == 0.0));
    assert_eq!(run.h_n[..4], run.out[4..8]);
    assert_eq!((&run.h_n[4..], &run.c_n[4..]), (&case.h0[4..], &case.c0[4..]));
}

#[test]
fn both_sides_at_once_have_the_bits_of_each_alone() {
    for cell in [Cell::RnnTanh, Cell::Lstm] {
        let (b, t, f, h) = (3, 7, 5, 9);
        let direction = Direction::Forward;
        let seq =
            Sequence { cell, direction, batch: b, steps: t, input: f, hidden: h, lengths: None, bptt: None };
        let width = cell.kept() * h;
        let (gates, x, h_prev) = (numbers(b * t * width, 1), numbers(b * t * f, 2), numbers(b * t * h, 3));
        each_path(|| {
            let mut joint = vec![f32::NAN; width * (f + h)];
            weight_gradients(&seq, &gates, &x, &h_prev, &mut joint, Precision::F32);
            for (side, right, columns) in [(Side::Input, &x, f), (Side::State, &h_prev, h)] {
                let mut alone = vec![0.0; width * columns];
                weight_gradient(&seq, side, &gates, right, &mut alone, Write::Overwrite, Precision::F32);
                let mut part = vec![f32::NAN; width * columns];
                side_of(&seq, side, &joint, &mut part, Write::Overwrite);
                assert_eq!(part, alone, "{cell:?} {side:?}");
                side_of(&seq, side, &joint, &mut part, Write::Add);
                assert!(part.iter().zip(&alone).all(|(twice, once)| *twice == once + once));
            }
        });
    }
}
