use super::*;
use crate::check::Check;
use crate::ops::joined::Part;
use crate::{Activation, Examples, Grads, ParamKind, Recording, Workspace};
use lyceum_kernels::cpu;
use lyceum_kernels::stored::{Stored, StoredWeight};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const K: usize = 256;
/// Layers side by side, as queries, keys and values are.
const NS: [usize; 3] = [24, 8, 16];
const M: usize = 9;

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// An adapter of rank `r` on the first and the last of the layers.
struct Adapter {
    params: Params,
    parts: Vec<LowRank>,
}

fn adapter(seed: u64, r: usize, freeze: bool) -> Adapter {
    let mut params = Params::new();
    let mut parts = Vec::new();
    for (i, first) in [(0, 0), (2, NS[0] + NS[1])] {
        let kind = ParamKind::Buffer;
        let a = numbers(seed + i as u64, r * K);
        let a = params.add_value(&format!("{i}.a"), &[r, K], kind, a);
        let b = numbers(seed + 10 + i as u64, NS[i] * r);
        let b = params.add_value(&format!("{i}.b"), &[NS[i], r], kind, b);
        if freeze {
            params.freeze(a);
            params.freeze(b);
        }
        parts.push(LowRank { a, b, scale: 0.25 + i as f32, first });
    }
    Adapter { params, parts }
}

struct Base {
    params: Params,
    parts: Vec<Part>,
}

fn base(kind: Stored) -> Base {
    let mut params = Params::new();
    let parts = NS.iter().enumerate().map(|(i, &n)| {
        let weight = StoredWeight::from_f32(kind, &numbers(100 + i as u64, n * K), n, K).unwrap();
        (params.add_stored(&format!("w{i}"), weight), None)
    });
    Base { parts: parts.collect(), params }
}

/// A pass of `x` through the base, and through the adapters of the rows.
fn pass(base: &Base, x: &[f32], uses: &[(&Adapter, &[u32])]) -> Vec<f32> {
    let beside: Vec<&Params> = uses.iter().map(|(adapter, _)| &adapter.params).collect();
    let mut ws = Workspace::new();
    let tape = Tape::new(&mut ws, &base.params, Recording::Off, Examples::Even(1));
    let mut tape = tape.with_beside(&beside);
    let x = tape.input(&[x.len() / K, K], x).unwrap();
    let mut y = tape.linear_joined(x, &base.parts).unwrap();
    for (i, (adapter, rows)) in uses.iter().enumerate() {
        y = tape.lora(x, y, Owner::Beside(i), &adapter.parts, rows).unwrap();
    }
    tape.value(y).to_vec()
}

/// `s·(x·Aᵀ)·Bᵀ` of one row, number by number in f64.
fn slow(adapter: &Adapter, x: &[f32]) -> Vec<f64> {
    let mut all = vec![0.0; NS.iter().sum()];
    for part in &adapter.parts {
        let (a, b) = (adapter.params.value(part.a), adapter.params.value(part.b));
        let r = a.len() / K;
        for (j, row) in b.chunks_exact(r).enumerate() {
            for (b, a) in row.iter().zip(a.chunks_exact(K)) {
                let inner: f64 = a.iter().zip(x).map(|(&a, &x)| f64::from(a) * f64::from(x)).sum();
                all[part.first + j] += f64::from(part.scale) * f64::from(*b) * inner;
            }
        }
    }
    all
}

#[test]
fn rows_of_several_adapters_and_of_none_agree_with_a_slow_twin_over_every_stored_form() {
    let (one, two) = (adapter(1, 4, true), adapter(2, 17, false));
    let x = numbers(5, M * K);
    let uses: [(&Adapter, &[u32]); 2] = [(&one, &[0, 3, 4, 8]), (&two, &[1, 5, 6])];
    for &path in cpu::available() {
        cpu::with_path(path, || {
            for kind in [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K] {
                let base = base(kind);
                let (plain, got) = (pass(&base, &x, &[]), pass(&base, &x, &uses));
                let width = plain.len() / M;
                for row in 0..M {
                    let of = uses.iter().find(|(_, rows)| rows.contains(&(row as u32)));
                    let added = of.map_or(vec![0.0; width], |(of, _)| slow(of, &x[row * K..][..K]));
                    for j in 0..width {
                        let want = f64::from(plain[row * width + j]) + added[j];
                        let far = (f64::from(got[row * width + j]) - want).abs();
                        assert!(far < 2e-4, "{kind:?} on {path:?}, row {row}, column {j}: {far}");
                    }
                }
            }
        });
    }
}

#[test]
fn the_bits_of_a_row_are_those_it_has_alone_whoever_else_is_there() {
    let adapters = [adapter(1, 4, true), adapter(2, 17, true), adapter(3, 4, false)];
    // Enough rows that blocks, panels and threads are all in play.
    let m = 2 * BLOCK_ROWS + 37;
    let x = numbers(6, m * K);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let whose: Vec<usize> = (0..m).map(|_| rng.random_range(0..4)).collect();
    let rows_of = |a: usize| (0..m as u32).filter(|&r| whose[r as usize] == a).collect::<Vec<u32>>();
    let rows = [rows_of(0), rows_of(1), rows_of(2)];
    for &path in cpu::available() {
        cpu::with_path(path, || {
            let base = base(Stored::Q8_0);
            let uses: Vec<(&Adapter, &[u32])> =
                adapters.iter().zip(&rows).map(|(a, r)| (a, &r[..])).collect();
            let together = pass(&base, &x, &uses);
            let width = together.len() / m;
            for row in (0..m).step_by(7) {
                let x = &x[row * K..][..K];
                let alone = match adapters.get(whose[row]) {
                    Some(adapter) => pass(&base, x, &[(adapter, &[0])]),
                    None => pass(&base, x, &[]),
                };
                assert!(together[row * width..][..width] == alone, "row {row} on {path:?}");
            }
            // A call from inside a task runs on one thread.
            let single = std::sync::Mutex::new(Vec::new());
            pool::parallel_for(2, |i| {
                if i == 0 {
                    *single.lock().unwrap() = cpu::with_path(path, || pass(&base, &x, &uses));
                }
            });
            assert!(*single.lock().unwrap() == together, "one thread on {path:?}");
        });
    }
}

#[test]
fn an_adapter_with_zeros_for_b_changes_no_bit_not_even_that_of_minus_zero() {
    let mut zero = adapter(1, 8, false);
    for part in zero.parts.clone() {
        zero.params.value_mut(part.b).fill(0.0);
        zero.params.freeze(part.b);
    }
    let x = numbers(7, M * K);
    let rows: Vec<u32> = (0..M as u32).collect();
    for &path in cpu::available() {
        cpu::with_path(path, || {
            let base = base(Stored::Q4_0);
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
            assert_eq!(bits(pass(&base, &x, &[(&zero, &rows)])), bits(pass(&base, &x, &[])), "{path:?}");
        });
    }
    let mut ws = Workspace::new();
    let (params, beside) = (Params::new(), [&zero.params]);
    let mut tape = Tape::new(&mut ws, &params, Recording::Off, Examples::Even(1)).with_beside(&beside);
    let x = tape.input(&[1, K], &x[..K]).unwrap();
    let y = tape.input(&[1, NS[0]], &[-0.0; NS[0]]).unwrap();
    let y = tape.lora(x, y, Owner::Beside(0), &zero.parts[..1], &[0]).unwrap();
    assert!(tape.value(y).iter().all(|y| y.to_bits() == (-0.0f32).to_bits()));
}

/// Two adapters on different rows of three examples; examples differ in how many rows of each they have.
#[test]
fn gradients_and_norms_agree_with_finite_differences() {
    let check = Check::new(3).input(&[3, 2, 6]).input(&[3, 2, 9]);
    let check = check.param("w", &[9, 6]).param("a0", &[2, 6]).param("b0", &[4, 2]);
    let check = check.param("a1", &[3, 6]).param("b1", &[5, 3]).param("a2", &[2, 6]).param("b2", &[9, 2]);
    check.run(|tape, x, p| {
        let base = tape.linear_residual(x[0], p[0], None, Activation::None, Some(x[1]))?;
        let part = |a: usize, b: usize, scale, first| LowRank { a: p[a], b: p[b], scale, first };
        let two = [part(1, 2, 0.5, 0), part(3, 4, -1.5, 4)];
        let y = tape.lora(x[0], base, Owner::Model, &two, &[0, 1, 3, 4])?;
        let y = tape.lora(x[0], y, Owner::Model, &[part(5, 6, 2.0, 0)], &[2, 5])?;
        tape.lora(x[0], y, Owner::Model, &[part(5, 6, 2.0, 0)], &[])
    });
}

#[test]
fn one_row_an_example_and_many_rows_have_the_norms_of_their_gradients() {
    for (b, t) in [(3, 1), (2, 30)] {
        let rows: Vec<u32> = (0..(b * t) as u32).collect();
        let check = Check::new(b).input(&[b, t, 5]).input(&[b, t, 4]).tolerance(2e-2);
        check.param("a", &[2, 5]).param("b", &[4, 2]).run(|tape, x, p| {
            let part = LowRank { a: p[0], b: p[1], scale: 0.7, first: 0 };
            tape.lora(x[0], x[1], Owner::Model, &[part], &rows)
        });
    }
}

/// What fine-tuning does: the base is frozen and stored in blocks, A and B are learnt.
#[test]
fn a_stored_frozen_base_gives_a_and_b_the_gradients_of_its_plain_twin() {
    for &path in cpu::available() {
        cpu::with_path(path, || {
            for kind in [Stored::F32, Stored::Q8_0, Stored::Q4K] {
                let stored = base(kind);
                let plain = plain(&stored);
                let (got, want) = (gradients(stored), gradients(plain));
                for (what, (got, want)) in ["x", "A", "B"].iter().zip(got.iter().zip(&want)) {
                    let size = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                    let far = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
                    assert!(size > 0.0 && far < 1e-4, "{what} over {kind:?} on {path:?}: {far}");
                }
            }
        });
    }
}

/// The same weights, as numbers that are not learnt.
fn plain(stored: &Base) -> Base {
    let mut params = Params::new();
    let parts = stored.parts.iter().map(|&(id, _)| {
        let weight = stored.params.stored(id).unwrap();
        let mut rows = vec![0.0; weight.n() * K];
        rows.chunks_exact_mut(K).enumerate().for_each(|(i, row)| weight.row(i, row));
        let name = stored.params.name(id);
        (params.add_value(name, &[weight.n(), K], ParamKind::Buffer, rows), None)
    });
    Base { parts: parts.collect(), params }
}

/// Gradients of the input, of A and of B, of two layers on top of each other so that the base's own matters.
fn gradients(mut base: Base) -> [Vec<f32>; 3] {
    let n: usize = NS.iter().sum();
    let a = base.params.add_value("a", &[4, K], ParamKind::Weight, numbers(1, 4 * K));
    let b = base.params.add_value("b", &[n, 4], ParamKind::Weight, numbers(2, n * 4));
    let part = LowRank { a, b, scale: 0.1, first: 0 };
    let (x, rows) = (numbers(3, M * K), (0..M as u32).collect::<Vec<u32>>());
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &base.params, Recording::InputsAndWeights, Examples::Even(1));
    let x = tape.entry(&[M, K], &x).unwrap();
    let y = tape.linear_joined(x, &base.parts).unwrap();
    let y = tape.lora(x, y, Owner::Model, &[part], &rows).unwrap();
    let mut grads = Grads::new(&base.params);
    tape.backward_from(y, &numbers(4, M * n), &mut grads);
    [tape.grad(x).unwrap().to_vec(), grads.value(a).to_vec(), grads.value(b).to_vec()]
}

/// An adapter beside the model has the values and the gradients of inputs of one that is the model's own, and
/// relevance is conserved.
#[test]
fn beside_the_model_or_within_it_an_adapter_is_the_same() {
    let own = adapter(1, 4, false);
    let mut within = base(Stored::Bf16);
    let parts = own.parts.iter().map(|part| {
        let mut copy = |id: ParamId| {
            let (name, dims) = (own.params.name(id), own.params.shape(id));
            within.params.add_value(name, dims.dims(), ParamKind::Buffer, own.params.value(id).to_vec())
        };
        LowRank { a: copy(part.a), b: copy(part.b), ..*part }
    });
    let parts: Vec<LowRank> = parts.collect();
    let (x, n) = (numbers(3, M * K), NS.iter().sum::<usize>());
    let seed = numbers(4, M * n);
    let run = |owner: Owner, parts: &[LowRank]| {
        let (mut ws, beside) = (Workspace::new(), [&own.params]);
        let tape = Tape::new(&mut ws, &within.params, Recording::Inputs, Examples::Even(1));
        let mut tape = tape.with_beside(&beside);
        let x = tape.entry(&[M, K], &x).unwrap();
        let y = tape.linear_joined(x, &within.parts).unwrap();
        let y = tape.lora(x, y, owner, parts, &[1, 2, 7]).unwrap();
        let value = tape.value(y).to_vec();
        let relevance = tape.relevance(y, &seed, x, 0.0).unwrap();
        let total: f64 = value.iter().zip(&seed).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum();
        let found: f64 = relevance.of_entry.iter().map(|&r| f64::from(r)).sum();
        assert!((total - found - relevance.absorbed).abs() < 1e-2 * total.abs().max(1.0), "{total} {found}");
        tape.backward_inputs(y, &seed);
        (value, tape.grad(x).unwrap().to_vec())
    };
    assert_eq!(run(Owner::Beside(0), &own.parts), run(Owner::Model, &parts));
}

#[test]
fn what_does_not_fit_is_named() {
    let check = || Check::new(1).input(&[3, 6]).input(&[3, 4]).param("a", &[2, 6]).param("b", &[4, 2]);
    let part = |p: &[ParamId]| LowRank { a: p[0], b: p[1], scale: 1.0, first: 0 };
    check().fails("rows", |t, x, p| t.lora(x[0], x[1], Owner::Model, &[part(p)], &[1, 1]));
    check().fails("rows", |t, x, p| t.lora(x[0], x[1], Owner::Model, &[part(p)], &[3]));
    check().fails("lora: A", |t, x, p| t.lora(x[1], x[0], Owner::Model, &[part(p)], &[0]));
    check().fails("lora: B", |t, x, p| {
        t.lora(x[0], x[1], Owner::Model, &[LowRank { first: 1, ..part(p) }], &[0])
    });
    check().fails("parameters", |t, x, p| t.lora(x[0], x[1], Owner::Beside(0), &[part(p)], &[0]));
}
