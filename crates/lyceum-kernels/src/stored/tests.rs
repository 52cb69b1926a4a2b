use super::*;
use crate::activation::Activation;
use crate::testing::{close, each_path, numbers};

/// The blocks and numbers of `fixtures/stored`, by `fixtures/scripts/stored.py`.
macro_rules! fixture {
    ($($name:literal),+) => {
        include_bytes!(concat!("../../../../fixtures/stored/", $($name),+))
    };
}

/// A type, what llama.cpp quantised, random blocks and what they stand for.
macro_rules! case {
    ($kind:ident, $name:literal) => {
        (
            Stored::$kind,
            fixture!($name, ".quantised").as_slice(),
            fixture!($name, ".random").as_slice(),
            fixture!($name, ".f32").as_slice(),
        )
    };
}

type Case = (Stored, &'static [u8], &'static [u8], &'static [u8]);

const CASES: [Case; 10] = [
    case!(Q4_0, "q4_0"),
    case!(Q4_1, "q4_1"),
    case!(Q5_0, "q5_0"),
    case!(Q5_1, "q5_1"),
    case!(Q8_0, "q8_0"),
    case!(Q2K, "q2_k"),
    case!(Q3K, "q3_k"),
    case!(Q4K, "q4_k"),
    case!(Q5K, "q5_k"),
    case!(Q6K, "q6_k"),
];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn source() -> Vec<f32> {
    floats(fixture!("source.f32"))
}

fn dequantised(kind: Stored, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / kind.block_bytes() * kind.block_len()];
    dequantise(kind, bytes, &mut out);
    out
}

#[test]
fn every_block_type_dequantises_to_the_bits_of_the_reference() {
    for (kind, _, random, want) in CASES {
        let (got, want) = (dequantised(kind, random), floats(want));
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{} number {i}: {got} is not {want}", kind.name());
        }
    }
}

#[test]
fn plain_types_go_there_and_back() {
    let values = [0.0, 1.0, -2.5, 0.15625, 65504.0];
    for kind in [Stored::F32, Stored::F16, Stored::Bf16] {
        let mut bytes = Vec::new();
        quantise(kind, &values[..4], &mut bytes).unwrap();
        assert_eq!(dequantised(kind, &bytes), values[..4]);
    }
}

#[test]
fn simple_quantisers_write_the_bytes_of_the_reference() {
    for (kind, want, _, _) in CASES {
        if matches!(kind, Stored::Q8_0 | Stored::Q4_0) {
            let mut got = Vec::new();
            quantise(kind, &source(), &mut got).unwrap();
            assert_eq!(got, want, "{}", kind.name());
        }
    }
}

#[test]
fn q4_k_is_as_near_as_the_reference() {
    let (source, reference) = (source(), dequantised(Stored::Q4K, CASES[7].1));
    let mut bytes = Vec::new();
    quantise(Stored::Q4K, &source, &mut bytes).unwrap();
    let ours = dequantised(Stored::Q4K, &bytes);
    let error =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum() };
    for ((x, ours), theirs) in source.chunks(256).zip(ours.chunks(256)).zip(reference.chunks(256)) {
        let (ours, theirs) = (error(x, ours), error(x, theirs));
        println!("squared error {ours:.3e}, the reference's is {theirs:.3e}");
        assert!(ours <= 1.01 * theirs);
    }
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name() {
    let mut out = Vec::new();
    let refused =
        |kind, values: &[f32], out: &mut Vec<u8>| quantise(kind, values, out).unwrap_err().to_string();
    assert!(refused(Stored::Q6K, &[0.0; 256], &mut out).contains("no quantiser to q6_k"));
    assert!(refused(Stored::Q4K, &[0.0; 32], &mut out).contains("not whole blocks of 256"));
    let mut values = [0.0; 32];
    values[7] = f32::INFINITY;
    assert!(refused(Stored::Q8_0, &values, &mut out).contains("number 7 is not finite"));
    assert!(out.is_empty());
}

/// `x · wᵀ` in f64 from the numbers that a weight stands for, with the sum of the sizes of its terms.
fn slow_product(x: &[f32], w: &[f32], k: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        for w in w.chunks_exact(k) {
            let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            out.push((terms().sum(), terms().map(f64::abs).sum()));
        }
    }
    out
}

#[test]
fn parts_stand_side_by_side_and_the_epilogue_is_applied() {
    let (m, k) = (3, 256);
    let x = numbers(m * k, 1);
    let weights: Vec<_> = [(Stored::Q8_0, 5), (Stored::Q4K, 17), (Stored::F32, 2)]
        .into_iter()
        .map(|(kind, n)| StoredWeight::from_f32(kind, &numbers(n * k, n as u64), n, k).unwrap())
        .collect();
    let n = 24;
    let (bias, residual) = (numbers(n, 7), numbers(m * n, 8));
    each_path(|| {
        let mut out = vec![0.0; m * n];
        let parts: Vec<&StoredWeight> = weights.iter().collect();
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: Activation::Relu,
            residual: Some(&residual),
            pre: None,
        };
        matmul_stored(&x, (m, RowClass::Bulk), &parts, &mut out, epilogue);
        let mut column = 0;
        for weight in &weights {
            let mut w = vec![0.0; weight.n() * k];
            w.chunks_exact_mut(k).enumerate().for_each(|(i, row)| weight.row(i, row));
            for (at, (sum, size)) in slow_product(&x, &w, k).into_iter().enumerate() {
                let at = at / weight.n() * n + column + at % weight.n();
                let want = (sum + f64::from(bias[at % n])).max(0.0) + f64::from(residual[at]);
                close(out[at], want, 0.01 * size.max(1.0));
            }
            column += weight.n();
        }
    });
}

/// A weight of a type whose bytes are random where there is no quantiser.
fn weight_bytes(kind: Stored, n: usize, k: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if quantise(kind, &numbers(n * k, seed), &mut bytes).is_ok() {
        return bytes;
    }
    let random = CASES.iter().find(|case| case.0 == kind).unwrap().2;
    let len = kind.row_bytes(n * k).unwrap();
    let n_blocks = random.len() / kind.block_bytes();
    let order = numbers(len / kind.block_bytes(), seed);
    for x in order {
        let block = ((x + 1.0) / 2.0 * n_blocks as f32) as usize % n_blocks;
        bytes.extend(&random[block * kind.block_bytes()..][..kind.block_bytes()]);
    }
    bytes
}

/// Sizes of `k` that a type allows: a short one and one of several stretches.
fn lengths(kind: Stored) -> [usize; 3] {
    match kind.block_len() {
        1 => [1, 37, 576],
        32 => [32, 96, 576],
        _ => [256, 768, 1280],
    }
}

#[test]
fn a_packed_weight_gives_back_its_rows_and_no_byte_is_added() {
    for kind in Stored::ALL {
        for k in lengths(kind) {
            let n = 35;
            let bytes = weight_bytes(kind, n, k, k as u64);
            let weight = StoredWeight::pack(kind, &bytes, n, k);
            let want = dequantised(kind, &bytes);
            let mut row = vec![0.0; k];
            for (i, want) in want.chunks_exact(k).enumerate() {
                weight.row(i, &mut row);
                if kind == Stored::Q2K {
                    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    assert!(row.iter().zip(want).all(|(x, y)| (x - y).abs() <= largest / 253.0));
                } else {
                    assert_eq!(row, want, "{} [{n}, {k}] row {i}", kind.name());
                }
            }
            if k % 2 == 0 && weight.tile_kind() == kind {
                assert_eq!(
                    StoredWeight::pack(kind, &bytes[..bytes.len() / 35 * 32], 32, k).bytes(),
                    bytes.len() / 35 * 32
                );
            }
        }
    }
}

#[test]
fn conversions_are_said() {
    let of = |kind| StoredWeight::pack(kind, &weight_bytes(kind, 1, 256, 1), 1, 256).tile_kind();
    for kind in Stored::ALL {
        let want = match kind {
            Stored::Q2K => Stored::Q8_0,
            Stored::Q3K => Stored::Q6K,
            kind => kind,
        };
        assert_eq!(of(kind), want);
    }
}

/// Every engine of this processor, under its path, with rows of each class that it tells apart for a type.
fn each_engine(kind: Stored, mut f: impl FnMut((Engine, RowClass))) {
    for &path in cpu::available() {
        cpu::with_path(path, || {
            for engine in Engine::all(path) {
                f((engine, RowClass::Step));
                if engine.tells_classes_apart(kind) {
                    f((engine, RowClass::Bulk));
                }
            }
        });
    }
}

fn product_of((engine, class): (Engine, RowClass), x: &[f32], m: usize, w: &StoredWeight) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.n()];
    product(engine, x, (m, class), &[w], &mut out, Epilogue::default());
    out
}

fn as_bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

/// Rows of which some numbers stand out, more of them in the later rows.
fn uneven(m: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut x = numbers(m * k, seed);
    for (row, x) in x.chunks_exact_mut(k).enumerate() {
        (0..k).filter(|i| (i * 7 + row) % 101 < row % 9).for_each(|i| x[i] *= 30.0 + (i % 5) as f32);
    }
    x
}

/// A row as its bytes, with their scales, and what was taken out of it stand for it; `len` numbers to a scale.
fn as_bytes(row: &[f32], len: usize) -> Vec<f32> {
    let largest_of = |x: &[f32]| x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let mut sum = 0.0;
    row.chunks(32).for_each(|x| sum += largest_of(x));
    let limit = 1.75 * (sum / (row.len() / 32) as f32);
    let mut rest = row.to_vec();
    let out = rest.iter_mut().filter(|x| x.abs() > limit).take(row.len() / 32);
    out.for_each(|x| *x = 0.0);
    let mut all = Vec::new();
    for (x, rest) in row.chunks(len).zip(rest.chunks(len)) {
        let largest = largest_of(rest);
        let scale = largest / 127.0;
        let byte =
            |x: &f32| if largest == 0.0 { 0.0 } else { (x * (127.0 / largest)).round_ties_even() * scale };
        all.extend(x.iter().zip(rest).map(|(x, left)| if x == left { byte(x) } else { *x }));
    }
    all
}

#[test]
fn products_are_those_of_the_dequantised_weight_and_the_rounded_activations() {
    for kind in Stored::ALL {
        for k in lengths(kind) {
            let (m, n) = (7, 35);
            let weight = StoredWeight::pack(kind, &weight_bytes(kind, n, k, 3), n, k);
            let mut w = vec![0.0; n * k];
            w.chunks_exact_mut(k).enumerate().for_each(|(i, row)| weight.row(i, row));
            let x = uneven(m, k, 4);
            let rounded = match weight.tile_kind().block_len() {
                1 if kind == Stored::Bf16 => as_bf16(&x),
                1 => x.clone(),
                len => x.chunks_exact(k).flat_map(|x| as_bytes(x, len)).collect(),
            };
            let (want, loose) = (slow_product(&rounded, &w, k), slow_product(&x, &w, k));
            let opened = slow_product(&as_bf16(&x), &as_bf16(&w), k);
            each_engine(weight.tile_kind(), |engine| {
                let want = if engine.1 == RowClass::Bulk { &opened } else { &want };
                let got = product_of(engine, &x, m, &weight);
                for (i, got) in got.iter().enumerate() {
                    let (got, (want, size)) = (f64::from(*got), want[i]);
                    let error = (got - want).abs() / size;
                    assert!(error < 3e-6, "{} {engine:?} k {k} at {i}: {got} is not {want}", kind.name());
                    let error = (got - loose[i].0).abs() / size;
                    // Among few blocks nothing stands out.
                    assert!(
                        error < 0.02 || k < 256,
                        "{} {engine:?} k {k} at {i}: {got}, exactly {}",
                        kind.name(),
                        loose[i].0
                    );
                }
            });
        }
    }
}

#[test]
fn what_stands_out_does_not_take_the_bytes_of_the_rest() {
    let (m, n, k) = (3, 35, 512);
    for kind in
        [Stored::Q4_0, Stored::Q4_1, Stored::Q5_0, Stored::Q8_0, Stored::Q4K, Stored::Q5K, Stored::Q6K]
    {
        let weight = StoredWeight::pack(kind, &weight_bytes(kind, n, k, 3), n, k);
        let mut w = vec![0.0; n * k];
        w.chunks_exact_mut(k).enumerate().for_each(|(i, row)| weight.row(i, row));
        let small = numbers(m * k, 4);
        let mut x = small.clone();
        x.chunks_exact_mut(k).for_each(|row| [3, 40, 41, 300].into_iter().for_each(|i| row[i] = 1e4));
        let (exact, rest) = (slow_product(&x, &w, k), slow_product(&small, &w, k));
        each_engine(weight.tile_kind(), |engine| {
            for (i, got) in product_of(engine, &x, m, &weight).iter().enumerate() {
                // The error of the small ones alone, and what f32 loses of the large sum, or bf16 of the large numbers.
                let of_large = if engine.1 == RowClass::Bulk { 1.0 / 256.0 } else { 3e-6 };
                let bound = 0.02 * rest[i].1 + of_large * exact[i].1;
                let error = (f64::from(*got) - exact[i].0).abs();
                assert!(error < bound, "{} {engine:?} at {i}: {error} is not below {bound}", kind.name());
            }
        });
    }
}

#[test]
fn all_engines_give_the_same_bits_for_integers() {
    for kind in Stored::ALL {
        let (m, n, k) = (37, 41, lengths(kind)[2]);
        let weight = StoredWeight::pack(kind, &weight_bytes(kind, n, k, 5), n, k);
        if weight.tile_kind().block_len() == 1 {
            continue;
        }
        let x = uneven(m, k, 6);
        let want = product_of((Engine::Plain, RowClass::Step), &x, m, &weight);
        each_engine(weight.tile_kind(), |engine| {
            if engine.1 == RowClass::Bulk {
                return;
            }
            let got = product_of(engine, &x, m, &weight);
            assert!(
                got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{} {engine:?}",
                kind.name()
            );
        });
    }
}

#[test]
fn a_rows_bits_depend_on_that_row_alone() {
    for kind in Stored::ALL {
        for k in lengths(kind) {
            let (m_max, n) = (if k > 300 { 64 } else { 200 }, 67);
            let weight = StoredWeight::pack(kind, &weight_bytes(kind, n, k, 7), n, k);
            let x = uneven(m_max, k, 8);
            each_engine(weight.tile_kind(), |engine| {
                let m_max = if engine.0 == Engine::Plain { 13 } else { m_max };
                let alone: Vec<f32> = x[..m_max * k]
                    .chunks_exact(k)
                    .flat_map(|row| product_of(engine, row, 1, &weight))
                    .collect();
                for m in [2, 3, 5, 8, 13, 33, 64, 200] {
                    if m <= m_max {
                        let got = product_of(engine, &x[..m * k], m, &weight);
                        let same = got.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{} {engine:?} k {k} m {m}", kind.name());
                    }
                }
            });
        }
    }
}

#[test]
fn many_rows_over_several_stretches_have_the_bits_of_single_rows() {
    for kind in [Stored::Q8_0, Stored::Q4_0, Stored::Q4K, Stored::Q5K, Stored::Q6K, Stored::Bf16] {
        let (m, n, k) = (75, 70, 4096);
        let weight = StoredWeight::pack(kind, &weight_bytes(kind, n, k, 9), n, k);
        // More places stand out than steps of the weight are kept for.
        let x = uneven(m, k, 10);
        each_engine(weight.tile_kind(), |engine| {
            if engine.0 == Engine::Plain {
                return;
            }
            let all = product_of(engine, &x, m, &weight);
            for row in [0, 37, 71, 72, 74] {
                let alone = product_of(engine, &x[row * k..][..k], 1, &weight);
                let same = all[row * n..][..n].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} {engine:?} row {row}", kind.name());
            }
        });
    }
}

#[test]
fn f32_weights_give_the_bits_of_the_packed_product() {
    let (m, n, k) = (5, 21, 100);
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let (stored, packed) =
        (StoredWeight::from_f32(Stored::F32, &w, n, k).unwrap(), crate::matmul::Packed::pack(&w, n, k));
    each_path(|| {
        let (mut got, mut want) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul_stored(&x, (m, RowClass::Bulk), &[&stored], &mut got, Epilogue::default());
        crate::matmul::matmul_packed(&x, m, &packed, &mut want, Epilogue::default());
        assert_eq!(got, want);
    });
}

#[test]
fn what_is_not_finite_reaches_the_result() {
    let k = 512;
    for kind in [Stored::Q8_0, Stored::Q4_0, Stored::Q4K, Stored::Bf16, Stored::F32] {
        let weight = StoredWeight::from_f32(kind, &numbers(3 * k, 1), 3, k).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = numbers(2 * k, 2);
            x[k + 300] = bad;
            each_engine(weight.tile_kind(), |engine| {
                let got = product_of(engine, &x, 2, &weight);
                assert!(got[..3].iter().all(|x| x.is_finite()), "{} {engine:?}", kind.name());
                assert!(got[3..].iter().all(|x| !x.is_finite()), "{} {engine:?} {bad}", kind.name());
            });
        }
    }
}

#[test]
fn a_sum_over_nothing_is_zero_and_the_bias_is_added() {
    let weight = StoredWeight::pack(Stored::Q8_0, &[], 3, 0);
    let mut out = [f32::NAN; 6];
    let epilogue = Epilogue { bias: Some(&[1.0, 2.0, 3.0]), ..Epilogue::default() };
    matmul_stored(&[], (2, RowClass::Bulk), &[&weight], &mut out, epilogue);
    assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    matmul_stored(&[], (0, RowClass::Bulk), &[&weight], &mut [], Epilogue::default());
}
