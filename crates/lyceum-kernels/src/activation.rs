//! Activations, forward and backward, element by element.

use crate::elementwise::Write;
use crate::simd::lanewise::{Lanewise, apply};
use crate::simd::{Simd, math};

/// A function of one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    Relu,
    /// `x Φ(x)` with the error function.
    Gelu,
    /// `x Φ(x)` by GPT-2's hyperbolic tangent.
    GeluTanh,
    /// `x σ(x)`.
    Silu,
    Tanh,
    Sigmoid,
}

/// `out = act(x)`.
pub fn activate(act: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "activate: lengths do not agree");
    let (src, dst, n) = ([x.as_ptr()], [out.as_mut_ptr()], x.len());
    // SAFETY: equal lengths; the borrow checker keeps `out` apart.
    unsafe { activate_raw(act, src, dst, n) }
}

/// `x = act(x)`.
pub fn activate_in_place(act: Activation, x: &mut [f32]) {
    let p = x.as_mut_ptr();
    // SAFETY: the destination is its own source.
    unsafe { activate_raw(act, [p.cast_const()], [p], x.len()) }
}

/// # Safety
/// As [`apply`].
unsafe fn activate_raw(act: Activation, src: [*const f32; 1], dst: [*mut f32; 1], n: usize) {
    // SAFETY: the caller upholds the contract.
    unsafe {
        match act {
            Activation::None => apply(&Forward::<Identity>::NEW, src, dst, n),
            Activation::Relu => apply(&Forward::<Relu>::NEW, src, dst, n),
            Activation::Gelu => apply(&Forward::<Gelu>::NEW, src, dst, n),
            Activation::GeluTanh => apply(&Forward::<GeluTanh>::NEW, src, dst, n),
            Activation::Silu => apply(&Forward::<Silu>::NEW, src, dst, n),
            Activation::Tanh => apply(&Forward::<Tanh>::NEW, src, dst, n),
            Activation::Sigmoid => apply(&Forward::<Sigmoid>::NEW, src, dst, n),
        }
    }
}

/// `dx (=|+=) dy * act'(pre)`, where `pre` is what the activation was given.
pub fn activate_backward(act: Activation, pre: &[f32], dy: &[f32], dx: &mut [f32], write: Write) {
    assert!(pre.len() == dx.len() && dy.len() == dx.len(), "activate_backward: lengths do not agree");
    match act {
        Activation::None => backward::<Identity>(pre, dy, dx, write),
        Activation::Relu => backward::<Relu>(pre, dy, dx, write),
        Activation::Gelu => backward::<Gelu>(pre, dy, dx, write),
        Activation::GeluTanh => backward::<GeluTanh>(pre, dy, dx, write),
        Activation::Silu => backward::<Silu>(pre, dy, dx, write),
        Activation::Tanh => backward::<Tanh>(pre, dy, dx, write),
        Activation::Sigmoid => backward::<Sigmoid>(pre, dy, dx, write),
    }
}

fn backward<F: Function>(pre: &[f32], dy: &[f32], dx: &mut [f32], write: Write) {
    let (x, dy, dx, n) = (pre.as_ptr(), dy.as_ptr(), dx.as_mut_ptr(), dx.len());
    // SAFETY: `activate_backward` asserted equal lengths; the borrow checker keeps `dx` apart.
    unsafe {
        match write {
            Write::Overwrite => apply(&Backward::<F>::NEW, [x, dy], [dx], n),
            Write::Add => apply(&BackwardAdd::<F>::NEW, [x, dy, dx.cast_const()], [dx], n),
        }
    }
}

/// A function and its derivative over lanes.
pub(crate) trait Function: Sync {
    /// # Safety
    /// The processor has the path `S`.
    unsafe fn value<S: Simd>(x: S::V) -> S::V;
    /// # Safety
    /// As above.
    unsafe fn slope<S: Simd>(x: S::V) -> S::V;
}

/// The three kernels of a function.
pub(crate) struct Forward<F>(std::marker::PhantomData<F>);
struct Backward<F>(std::marker::PhantomData<F>);
struct BackwardAdd<F>(std::marker::PhantomData<F>);

impl<F> Forward<F> {
    pub(crate) const NEW: Self = Forward(std::marker::PhantomData);
}
impl<F> Backward<F> {
    const NEW: Self = Backward(std::marker::PhantomData);
}
impl<F> BackwardAdd<F> {
    const NEW: Self = BackwardAdd(std::marker::PhantomData);
}

impl<F: Function> Lanewise<1, 1> for Forward<F> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [x]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller has the path.
        unsafe { [F::value::<S>(x)] }
    }
}
impl<F: Function> Lanewise<2, 1> for Backward<F> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [x, dy]: [S::V; 2]) -> [S::V; 1] {
        // SAFETY: the caller has the path.
        unsafe { [S::mul(dy, F::slope::<S>(x))] }
    }
}
impl<F: Function> Lanewise<3, 1> for BackwardAdd<F> {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [x, dy, dx]: [S::V; 3]) -> [S::V; 1] {
        // SAFETY: the caller has the path.
        unsafe { [S::fma(dy, F::slope::<S>(x), dx)] }
    }
}

macro_rules! function {
    ($name:ident, $S:ident, |$x:ident| value $value:block slope $slope:block) => {
        pub(crate) struct $name;
        impl Function for $name {
            #[inline(always)]
            unsafe fn value<$S: Simd>($x: $S::V) -> $S::V {
                // SAFETY: the caller has the path.
                unsafe { $value }
            }
            #[inline(always)]
            unsafe fn slope<$S: Simd>($x: $S::V) -> $S::V {
                // SAFETY: the caller has the path.
                unsafe { $slope }
            }
        }
    };
}

pub(crate) struct Identity;
impl Function for Identity {
    #[inline(always)]
    unsafe fn value<S: Simd>(x: S::V) -> S::V {
        x
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(_: S::V) -> S::V {
        // SAFETY: the caller has the path.
        unsafe { S::splat(1.0) }
    }
}

// max(0, x), NaN stays NaN; the slope at 0 is 0, as PyTorch's.
function!(Relu, S, |x| value { S::max(S::zero(), x) } slope {
    S::select_gt(x, S::zero(), S::splat(1.0), S::zero())
});

// x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2; slope Φ(x) + x φ(x), φ(x) = e^(-x²/2) / √(2π).
function!(Gelu, S, |x| value { S::mul(x, normal_cdf::<S>(x)) } slope {
    let half_square = S::mul(S::mul(x, x), S::splat(-0.5));
    let density = S::mul(math::exp::<S>(half_square), S::splat(0.398_942_3));
    S::fma(x, density, normal_cdf::<S>(x))
});

/// 2√(2/π).
const TWICE_ROOT: f32 = 1.595_769;

// x σ(2u), u = √(2/π) (x + 0.044715 x³), which is x (1 + tanh u) / 2;
// slope s + x s (1 - s) 2u', 2u' = 2√(2/π) (1 + 3·0.044715 x²).
function!(GeluTanh, S, |x| value { S::mul(x, gelu_gate::<S>(x)) } slope {
    let s = gelu_gate::<S>(x);
    let du = S::fma(S::mul(x, x), S::splat(TWICE_ROOT * 0.134_145), S::splat(TWICE_ROOT));
    let ds = S::mul(S::mul(s, S::sub(S::splat(1.0), s)), du);
    S::fma(x, ds, s)
});

// x σ(x); slope σ (1 + x (1 - σ)).
function!(Silu, S, |x| value { S::mul(x, math::sigmoid::<S>(x)) } slope {
    let s = math::sigmoid::<S>(x);
    S::mul(s, S::fma(x, S::sub(S::splat(1.0), s), S::splat(1.0)))
});

function!(Tanh, S, |x| value { math::tanh::<S>(x) } slope {
    let y = math::tanh::<S>(x);
    S::sub(S::splat(1.0), S::mul(y, y))
});

function!(Sigmoid, S, |x| value { math::sigmoid::<S>(x) } slope {
    let s = math::sigmoid::<S>(x);
    S::mul(s, S::sub(S::splat(1.0), s))
});

/// Φ(x) of the standard normal distribution.
#[inline(always)]
unsafe fn normal_cdf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let e = math::erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
        S::fma(e, S::splat(0.5), S::splat(0.5))
    }
}

/// σ(2u) of GPT-2's gelu.
#[inline(always)]
unsafe fn gelu_gate<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller has the path.
    unsafe {
        let cubic = S::fma(S::mul(x, x), S::splat(TWICE_ROOT * 0.044_715), S::splat(TWICE_ROOT));
        math::sigmoid::<S>(S::mul(x, cubic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;

    const ALL: [Activation; 7] = [
        Activation::None,
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    /// erf by its Maclaurin series, good below 6.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..300 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn twin(act: Activation, x: f64) -> f64 {
        match act {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    /// Odd on purpose: not a multiple of any vector. No point is exactly 0, where relu has no slope.
    fn points() -> Vec<f32> {
        (-601..602).filter(|&i| i != 0).map(|i| i as f32 * 0.01).collect()
    }

    #[test]
    fn values_agree_with_f64_on_every_path() {
        let x = points();
        for &path in cpu::available() {
            for act in ALL {
                let mut out = vec![f32::NAN; x.len()];
                cpu::with_path(path, || activate(act, &x, &mut out));
                for (&x, &got) in x.iter().zip(&out) {
                    let want = twin(act, f64::from(x));
                    assert!(
                        (f64::from(got) - want).abs() < 2e-6,
                        "{path:?} {act:?}({x}) = {got}, not {want}"
                    );
                }
                let mut in_place = x.clone();
                cpu::with_path(path, || activate_in_place(act, &mut in_place));
                assert_eq!(in_place, out, "{path:?} {act:?}");
            }
        }
    }

    #[test]
    fn slopes_agree_with_central_differences_in_f64() {
        let pre = points();
        let dy: Vec<f32> = (0..pre.len()).map(|i| (i as f32 * 0.7).sin()).collect();
        for &path in cpu::available() {
            for act in ALL {
                let (mut dx, mut sum) = (vec![f32::NAN; pre.len()], vec![2.0; pre.len()]);
                cpu::with_path(path, || {
                    activate_backward(act, &pre, &dy, &mut dx, Write::Overwrite);
                    activate_backward(act, &pre, &dy, &mut sum, Write::Add);
                });
                for i in 0..pre.len() {
                    let (x, h) = (f64::from(pre[i]), 1e-4);
                    let want = (twin(act, x + h) - twin(act, x - h)) / (2.0 * h) * f64::from(dy[i]);
                    assert!(
                        (f64::from(dx[i]) - want).abs() < 4e-6,
                        "{path:?} {act:?}'({x}): {} {want}",
                        dx[i]
                    );
                    assert!((sum[i] - (2.0 + dx[i])).abs() < 5e-7, "{path:?} {act:?} adds");
                }
            }
        }
    }

    #[test]
    fn edges_are_exact() {
        let x = [f32::NEG_INFINITY, -100.0, f32::INFINITY, f32::NAN, 0.0];
        for &path in cpu::available() {
            for (act, want) in [
                (Activation::Relu, [0.0, 0.0, f32::INFINITY]),
                (Activation::Tanh, [-1.0, -1.0, 1.0]),
                (Activation::Sigmoid, [0.0, 0.0, 1.0]),
            ] {
                let mut out = [7.0; 5];
                cpu::with_path(path, || activate(act, &x, &mut out));
                assert_eq!(out[..3], want, "{path:?} {act:?}");
                assert!(out[3].is_nan(), "{path:?} {act:?}");
            }
            let mut dx = [7.0; 5];
            cpu::with_path(path, || {
                activate_backward(Activation::Relu, &x, &[1.0; 5], &mut dx, Write::Overwrite);
            });
            assert_eq!(dx[4], 0.0, "the slope of relu at 0 is 0");
        }
    }
}
