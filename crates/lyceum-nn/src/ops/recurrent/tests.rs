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
    let mut add =
        |name: &str, dims: &[usize]| params.add(name, dims, ParamKind::Weight, Init::Uniform(0.4), &mut rng);
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
                    let run = RecurrentRun { cell, direction, lengths, bptt: None, h0: Some(inputs[1]), c0 };
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
    let lengths: Option<Vec<u32>> = case.get("lengths").map(|t| t.data.iter().map(|&l| l as u32).collect());
    let mut ws = Workspace::new();
    let batch = case["x"].dims[0];
    let mut tape = Tape::new(&mut ws, &params, Recording::InputsAndWeights, Examples::Even(batch));
    let x = tape.entry(&case["x"].dims, &case["x"].data).unwrap();
    let mut states = Vec::new();
    for which in ["h0", "c0"] {
        let Some(t) = case.get(which) else { continue };
        let each = t.data.len() / t.dims[0];
        let vars = t.data.chunks(each).map(|s| tape.watched(&t.dims[1..], s).unwrap()).collect::<Vec<_>>();
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
            [Some(o.out), Some(o.h_n), o.c_n].into_iter().flatten().map(|v| tape.value(v).to_vec()).collect()
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
                state = [Some(o.h_n), o.c_n].into_iter().flatten().map(|v| tape.value(v).to_vec()).collect();
                d_x.push((to - from, tape.grad(x).unwrap().to_vec()));
            }
            let d_x = (0..b).flat_map(|e| {
                d_x.iter().flat_map(move |(steps, d)| d[e * steps * f..(e + 1) * steps * f].to_vec())
            });
            (d_x.collect::<Vec<f32>>(), params.ids().map(|id| grads.value(id).to_vec()).collect::<Vec<_>>())
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
