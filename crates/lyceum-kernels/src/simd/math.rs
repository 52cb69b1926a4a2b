//! Elementary functions over lanes, within a few units in the last place of f32.

use super::Simd;

/// `e^x`. Cephes' range reduction and polynomial; 0 below −87.34, ∞ above 88.72, NaN stays NaN.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let low = S::splat(-87.336_54);
        let high = S::splat(88.722_83);
        let clamped = S::min(high, S::max(low, x));
        // `n <= 127` so that `2^n` is finite; the rest of the largest range stays in `r`.
        let n = S::min(S::splat(127.0), S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E))));
        let r = S::fma(n, S::splat(-0.693_359_4), clamped);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
            p = S::fma(p, r, S::splat(c));
        }
        let y = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        let y = S::mul(y, S::exp2_integral(n));
        let y = S::select_gt(low, x, S::zero(), y);
        S::select_gt(x, high, S::splat(f32::INFINITY), y)
    }
}

/// `1 / (1 + e^-x)`.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let e = exp::<S>(S::sub(S::zero(), x));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// Hyperbolic tangent: a polynomial near 0 (where `1 - 2/(e^2x + 1)` would cancel), that formula elsewhere.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let x2 = S::mul(x, x);
        let mut p = S::splat(-5.704_988_7e-3);
        for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_327_9e-1] {
            p = S::fma(p, x2, S::splat(c));
        }
        let near = S::fma(S::mul(p, x2), x, x);
        let e = exp::<S>(S::add(x, x));
        let far = S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))));
        S::select_gt(S::splat(0.625), S::abs(x), near, far)
    }
}

/// The error function (absolute error below 2e-7): `x P(u)`, `u = 2x²/3.83² - 1`, and ±1 where f32 has nothing between.
///
/// P is the minimax polynomial of degree 15 of `erf(x)/x`, weighted by x, fitted here: without a quotient or an
/// exponential it takes half the time of Abramowitz & Stegun 7.1.26, and in `u` nothing cancels.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let u = S::fma(S::mul(x, x), S::splat(0.136_342_87), S::splat(-1.0));
        let mut p = S::splat(-0.000_500_728_43);
        for c in ERF {
            p = S::fma(p, u, S::splat(c));
        }
        let one = S::select_gt(S::zero(), x, S::splat(-1.0), S::splat(1.0));
        S::select_gt(S::abs(x), S::splat(3.83), one, S::mul(p, x))
    }
}

/// From the second highest power on.
const ERF: [f32; 15] = [
    0.001_370_444_5,
    -0.001_273_054_7,
    0.001_895_314,
    -0.005_903_374_4,
    0.011_429_106,
    -0.017_612_863,
    0.027_165_957,
    -0.040_530_957,
    0.056_042_2,
    -0.072_872_05,
    0.090_812_095,
    -0.110_716_89,
    0.136_823_67,
    -0.184_231_33,
    0.369_199_04,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu, simd::on_path};

    #[inline(always)]
    unsafe fn all<S: Simd>(x: &[f32], out: &mut [[f32; 4]]) {
        for (i, &x) in x.iter().enumerate() {
            // SAFETY: `on_path!` has the path; the buffers have a full vector.
            unsafe {
                let v = S::splat(x);
                for (j, y) in
                    [exp::<S>(v), sigmoid::<S>(v), tanh::<S>(v), erf::<S>(v)].into_iter().enumerate()
                {
                    let mut lanes = [0.0; 16];
                    S::store(lanes.as_mut_ptr(), y);
                    out[i][j] = lanes[0];
                }
            }
        }
    }

    /// erf by its Maclaurin series in f64: slow and clear, good below 4.
    fn erf_twin(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        (sum * 2.0 / std::f64::consts::PI.sqrt()).clamp(-1.0, 1.0)
    }

    #[test]
    fn functions_agree_with_f64_on_every_path() {
        let x: Vec<f32> = (-8700..8800).map(|i| i as f32 * 0.01).collect();
        for &path in cpu::available() {
            let mut out = vec![[0.0; 4]; x.len()];
            let (xs, os) = (x.as_slice(), out.as_mut_slice());
            on_path!(path, all(xs: &[f32], os: &mut [[f32; 4]]));
            for (x, got) in x.iter().map(|&x| x as f64).zip(&out) {
                let want = [x.exp(), 1.0 / (1.0 + (-x).exp()), x.tanh()];
                for (got, want) in got.iter().zip(want) {
                    let error = (*got as f64 - want).abs() / want.abs().max(1e-30);
                    assert!(error < 4e-6 || (*got as f64 - want).abs() < 1e-37, "{path:?} {x}: {got} {want}");
                }
                if x.abs() < 4.0 {
                    assert!((got[3] as f64 - erf_twin(x)).abs() < 2e-7, "{path:?} erf {x}: {}", got[3]);
                } else {
                    assert_eq!(got[3], x.signum() as f32, "{path:?} erf {x}");
                }
            }
        }
    }

    #[test]
    fn edges_are_exact() {
        let xs = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0];
        for &path in cpu::available() {
            let mut out = [[0.0; 4]; 4];
            let (x, o) = (xs.as_slice(), out.as_mut_slice());
            on_path!(path, all(x: &[f32], o: &mut [[f32; 4]]));
            assert_eq!(out[0], [0.0, 0.0, -1.0, -1.0], "{path:?}");
            assert_eq!(out[1], [f32::INFINITY, 1.0, 1.0, 1.0], "{path:?}");
            assert!(out[2].iter().all(|x| x.is_nan()), "{path:?} {:?}", out[2]);
            assert_eq!(out[3], [1.0, 0.5, 0.0, 0.0], "{path:?}");
        }
    }
}
