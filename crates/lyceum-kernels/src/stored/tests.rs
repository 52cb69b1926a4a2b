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
        matmul_stored(&x, m, &parts, &mut out, epilogue);
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
