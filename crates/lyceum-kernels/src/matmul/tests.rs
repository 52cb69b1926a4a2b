use super::*;
use crate::{cpu, pool};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

/// Numbers in [-1, 1) from a seed.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A `[rows, cols]` operand as used, stored with padding between its lines, transposed or not.
fn stored(data: &[f32], rows: usize, cols: usize, stride_extra: usize, trans: Trans) -> Mat<'_> {
    match trans {
        Trans::No => Mat::with_stride(data, rows, cols, cols + stride_extra),
        Trans::Yes => Mat::with_stride(data, cols, rows, rows + stride_extra).t(),
    }
}

fn at(x: &Mat<'_>, i: usize, j: usize) -> f32 {
    match x.trans {
        Trans::No => x.data[i * x.stride + j],
        Trans::Yes => x.data[j * x.stride + i],
    }
}

/// The sum and the sum of magnitudes, which bounds its rounding.
fn twin(a: &Mat<'_>, b: &Mat<'_>, i: usize, j: usize, precision: Precision) -> (f64, f64) {
    let value = |x: f32| match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 => half::bf16::from_f32(x).to_f64(),
    };
    let terms = (0..a.shape().1).map(|p| value(at(a, i, p)) * value(at(b, p, j)));
    terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

/// Slow and clear, in f64: erf by its series.
fn activation_twin(act: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match act {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Gelu => {
            let z = x / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (z, z);
            for n in 1..400 {
                term *= -z * z / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            let erf = if z.abs() > 5.0 { z.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() };
            x * 0.5 * (1.0 + erf)
        }
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * 0.5 * (1.0 + u.tanh())
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::None,
    Activation::Relu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Tanh,
    Activation::Sigmoid,
];

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Trans,
    b: Trans,
    pads: [usize; 3],
    write: Write,
    precision: Precision,
    activation: Activation,
    /// Bias, pre, residual.
    parts: [bool; 3],
    seed: u64,
}

fn cases(m: usize, n: usize, k: usize) -> impl Strategy<Value = Case> {
    let trans = || prop_oneof![Just(Trans::No), Just(Trans::Yes)];
    let write = prop_oneof![Just(Write::Overwrite), Just(Write::Add)];
    let precision = prop_oneof![Just(Precision::F32), Just(Precision::Bf16)];
    let shape = (1..m, 1..n, 0..k, trans(), trans());
    let rest = (any::<[bool; 3]>(), write, precision, 0..ACTIVATIONS.len(), any::<[bool; 3]>(), any::<u64>());
    (shape, rest).prop_map(|((m, n, k, a, b), (pads, write, precision, activation, parts, seed))| Case {
        m,
        n,
        k,
        a,
        b,
        pads: pads.map(|p| usize::from(p) * 3),
        write,
        precision,
        activation: ACTIVATIONS[activation],
        parts,
        seed,
    })
}

/// The one door: computes a case on every path and compares with the twin.
fn check(case: &Case) -> Result<(), TestCaseError> {
    let &Case { m, n, k, pads, .. } = case;
    let a_data = numbers(case.seed, m.max(k) * (m.max(k) + pads[0]));
    let b_data = numbers(case.seed ^ 1, n.max(k) * (n.max(k) + pads[1]));
    let (a, b) = (stored(&a_data, m, k, pads[0], case.a), stored(&b_data, k, n, pads[1], case.b));
    let stride = n + pads[2];
    let before = numbers(case.seed ^ 2, m * stride);
    let (bias, residual) = (numbers(case.seed ^ 3, n), numbers(case.seed ^ 4, m * n));
    let sums: Vec<(f64, f64)> = (0..m * n).map(|ij| twin(&a, &b, ij / n, ij % n, case.precision)).collect();
    for &path in cpu::available() {
        let (mut out, mut pre) = (before.clone(), vec![f32::NAN; m * n]);
        let epilogue = Epilogue {
            bias: case.parts[0].then_some(&bias),
            activation: case.activation,
            pre: case.parts[1].then_some(&mut pre),
            residual: case.parts[2].then_some(&residual),
        };
        cpu::with_path(path, || matmul_strided(a, b, &mut out, stride, case.write, epilogue, case.precision));
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut size) = sums[i * n + j];
                if case.write == Write::Add {
                    sum += f64::from(before[i * stride + j]);
                }
                if case.parts[0] {
                    sum += f64::from(bias[j]);
                }
                size += 2.0;
                let bound = 3e-7 * size * (1.0 + (k as f64).sqrt());
                if case.parts[1] {
                    let pre = f64::from(pre[i * n + j]);
                    prop_assert!((pre - sum).abs() <= bound, "{path:?} pre [{i}, {j}]: {pre} {sum}");
                }
                let mut want = activation_twin(case.activation, sum);
                if case.parts[2] {
                    want += f64::from(residual[i * n + j]);
                }
                let got = f64::from(out[i * stride + j]);
                // No activation is steeper than 1.13; erf adds its own error.
                let bound = 1.2 * bound + 1e-6 * (1.0 + sum.abs());
                prop_assert!((got - want).abs() <= bound, "{path:?} [{i}, {j}]: {got} {want}");
            }
            prop_assert_eq!(
                &out[i * stride + n..(i + 1) * stride],
                &before[i * stride + n..(i + 1) * stride]
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 192, failure_persistence: None, ..Config::default() })]
    #[test]
    fn small_products_agree_with_f64(case in cases(30, 70, 40)) { check(&case)?; }
}

proptest! {
    #![proptest_config(Config { cases: 16, failure_persistence: None, ..Config::default() })]
    #[test]
    fn products_that_cross_blocks_agree_with_f64(case in cases(180, 200, 700)) { check(&case)?; }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others(
        m in 2usize..40, n in 1usize..200, k in 1usize..600, a_trans: bool, b_trans: bool, bf16: bool, seed: u64,
    ) {
        let trans = |t: bool| if t { Trans::Yes } else { Trans::No };
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let (a_data, b_data, bias) = (numbers(seed, m * k), numbers(seed ^ 1, k * n), numbers(seed ^ 2, n));
        let (a, b) = (stored(&a_data, m, k, 0, trans(a_trans)), stored(&b_data, k, n, 0, trans(b_trans)));
        let w: Vec<f32> = (0..n * k).map(|i| at(&b, i % k, i / k)).collect();
        let epilogue = || Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Epilogue::default() };
        for &path in cpu::available() {
            cpu::with_path(path, || -> Result<(), TestCaseError> {
                let (mut all, mut one) = (vec![0.0; m * n], vec![0.0; n]);
                matmul(a, b, &mut all, Write::Overwrite, epilogue(), precision);
                // The other layout of `b`, and inside a task, where everything runs on one thread.
                let mut alone = vec![0.0; m * n];
                pool::for_each_chunk(&mut alone, m * n, |_, out| {
                    matmul(a, Mat::new(&w, n, k).t(), out, Write::Overwrite, epilogue(), precision);
                });
                prop_assert_eq!(&alone, &all);
                let packed = Packed::pack(&w, n, k);
                if precision == Precision::F32 {
                    let rows: Vec<f32> = (0..m * k).map(|i| at(&a, i / k, i % k)).collect();
                    matmul_packed(&rows, m, &packed, &mut alone, epilogue());
                    prop_assert_eq!(&alone, &all);
                }
                for i in 0..m {
                    let row: Vec<f32> = (0..k).map(|p| at(&a, i, p)).collect();
                    matmul(Mat::new(&row, 1, k), b, &mut one, Write::Overwrite, epilogue(), precision);
                    prop_assert_eq!(&one, &all[i * n..(i + 1) * n]);
                    matmul(Mat::new(&row, k, 1).t(), b, &mut one, Write::Overwrite, epilogue(), precision);
                    prop_assert_eq!(&one, &all[i * n..(i + 1) * n]);
                    if precision == Precision::F32 {
                        matmul_packed(&row, 1, &packed, &mut one, epilogue());
                        prop_assert_eq!(&one, &all[i * n..(i + 1) * n]);
                    }
                }
                Ok(())
            })?;
        }
    }
}

#[test]
fn a_product_wider_than_the_packing_budget_is_one_chain() {
    // 8 Mi words over 150 rows and 16000 columns are 519: less than k, which is cut into stretches.
    let (m, n, k) = (150, 16000, 1030);
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
    let mut out = vec![0.0; m * n];
    matmul(a, b, &mut out, Write::Overwrite, Epilogue::default(), Precision::F32);
    let mut one = vec![0.0; n];
    for i in [0, 77, m - 1] {
        let row = Mat::new(&a.data[i * k..], 1, k);
        matmul(row, b, &mut one, Write::Overwrite, Epilogue::default(), Precision::F32);
        assert!(one == out[i * n..(i + 1) * n], "row {i}");
    }
}

#[test]
fn nan_and_infinity_pass_through_and_stay_in_their_rows() {
    for &path in cpu::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (m, n, k) = (9, 21, 17);
            let mut a = numbers(5, m * k);
            a[3 * k + 2] = f32::NAN;
            a[5 * k + 16] = f32::INFINITY;
            let b = vec![1.0; k * n];
            let mut out = vec![0.0; m * n];
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            cpu::with_path(path, || matmul(a, b, &mut out, Write::Overwrite, Epilogue::default(), precision));
            for (i, row) in out.chunks(n).enumerate() {
                assert!(row.iter().all(|x| x.is_nan() == (i == 3)), "{path:?} {precision:?} row {i}");
                assert!(row.iter().all(|x| (*x == f32::INFINITY) == (i == 5)), "{path:?} row {i}");
            }
        }
    }
}
