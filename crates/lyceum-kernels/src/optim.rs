//! Optimiser steps, fused: one pass over the parameter, its gradient and its state, in place.
//!
//! The formulas are PyTorch 2's. `grad_scale` multiplies the gradient first, so that clipping by a global
//! norm costs no pass of its own. `step` counts from 1.

use crate::simd::Simd;
use crate::simd::lanewise::{Lanewise, apply};

/// Stochastic gradient descent (`torch.optim.SGD`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub lr: f32,
    pub momentum: f32,
    pub dampening: f32,
    pub nesterov: bool,
    /// Added to the gradient as `weight_decay * param`.
    pub weight_decay: f32,
}

/// Adam (`torch.optim.Adam`, `torch.optim.AdamW`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
}

/// One step of [`Sgd`]. `velocity` is the momentum buffer; it is neither read nor written when `momentum`
/// is 0, and not read at step 1.
///
/// # Panics
/// When lengths disagree, or momentum is wanted without a velocity.
pub fn sgd(
    cfg: &Sgd,
    step: u64,
    grad_scale: f32,
    param: &mut [f32],
    grad: &[f32],
    velocity: Option<&mut [f32]>,
) {
    assert_eq!(param.len(), grad.len(), "sgd: parameter and gradient lengths do not agree");
    assert!(step > 0, "sgd: steps count from 1");
    let (n, p, g) = (param.len(), param.as_mut_ptr(), grad.as_ptr());
    let Sgd { lr, weight_decay, momentum, dampening, .. } = *cfg;
    if momentum == 0.0 {
        let op = SgdPlain { grad_scale, weight_decay, lr };
        // SAFETY: equal lengths; the destination is its own source.
        return unsafe { apply(&op, [p.cast_const(), g], [p], n) };
    }
    let velocity = velocity.expect("sgd: momentum needs a velocity: bug");
    assert_eq!(velocity.len(), n, "sgd: parameter and velocity lengths do not agree");
    // The first step starts the velocity at the gradient itself, undampened.
    let (keep, take) = if step == 1 { (0.0, 1.0) } else { (momentum, 1.0 - dampening) };
    let (look_ahead, direct) = if cfg.nesterov { (momentum, 1.0) } else { (1.0, 0.0) };
    let op = SgdMomentum { grad_scale, weight_decay, lr, keep, take, look_ahead, direct, first: step == 1 };
    let v = velocity.as_mut_ptr();
    // SAFETY: equal lengths; each destination is its own source.
    unsafe { apply(&op, [p.cast_const(), g, v.cast_const()], [p, v], n) }
}

/// One step of Adam; the weight decay is added to the gradient. `m` and `v` start as zeros.
pub fn adam(
    cfg: &Adam,
    step: u64,
    grad_scale: f32,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    adam_step(AdamStep::new(cfg, step, grad_scale, cfg.weight_decay, 1.0), param, grad, m, v);
}

/// One step of AdamW; the weight decay shrinks the parameter by `lr * weight_decay`, apart from the gradient.
pub fn adamw(
    cfg: &Adam,
    step: u64,
    grad_scale: f32,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let shrink = 1.0 - f64::from(cfg.lr) * f64::from(cfg.weight_decay);
    adam_step(AdamStep::new(cfg, step, grad_scale, 0.0, shrink as f32), param, grad, m, v);
}

fn adam_step(op: AdamStep, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = param.len();
    assert!(grad.len() == n && m.len() == n && v.len() == n, "adam: lengths do not agree");
    let (p, m, v) = (param.as_mut_ptr(), m.as_mut_ptr(), v.as_mut_ptr());
    // SAFETY: equal lengths; each destination is its own source.
    unsafe { apply(&op, [p.cast_const(), grad.as_ptr(), m.cast_const(), v.cast_const()], [p, m, v], n) }
}

struct SgdPlain {
    grad_scale: f32,
    weight_decay: f32,
    lr: f32,
}

impl Lanewise<2, 1> for SgdPlain {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [p, g]: [S::V; 2]) -> [S::V; 1] {
        // SAFETY: the caller has the path.
        unsafe {
            let g = S::fma(p, S::splat(self.weight_decay), S::mul(g, S::splat(self.grad_scale)));
            [S::fma(g, S::splat(-self.lr), p)]
        }
    }
}

struct SgdMomentum {
    grad_scale: f32,
    weight_decay: f32,
    lr: f32,
    /// `velocity = keep * velocity + take * g`.
    keep: f32,
    take: f32,
    /// The parameter moves by `look_ahead * velocity + direct * g`.
    look_ahead: f32,
    direct: f32,
    /// The velocity holds nothing yet (not even zeros, perhaps NaN).
    first: bool,
}

impl Lanewise<3, 2> for SgdMomentum {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [p, g, v]: [S::V; 3]) -> [S::V; 2] {
        // SAFETY: the caller has the path.
        unsafe {
            let g = S::fma(p, S::splat(self.weight_decay), S::mul(g, S::splat(self.grad_scale)));
            let v =
                if self.first { g } else { S::fma(v, S::splat(self.keep), S::mul(g, S::splat(self.take))) };
            let move_by = S::fma(v, S::splat(self.look_ahead), S::mul(g, S::splat(self.direct)));
            [S::fma(move_by, S::splat(-self.lr), p), v]
        }
    }
}

struct AdamStep {
    grad_scale: f32,
    weight_decay: f32,
    shrink: f32,
    /// `1 - beta1`, `1 - beta2` and `beta2`.
    rest1: f32,
    rest2: f32,
    beta2: f32,
    /// `lr / (1 - beta1^t)` and `1 / sqrt(1 - beta2^t)`.
    rate: f32,
    root_scale: f32,
    eps: f32,
}

impl AdamStep {
    fn new(cfg: &Adam, step: u64, grad_scale: f32, weight_decay: f32, shrink: f32) -> AdamStep {
        assert!(step > 0, "adam: steps count from 1");
        let (beta1, beta2) = (f64::from(cfg.beta1), f64::from(cfg.beta2));
        AdamStep {
            grad_scale,
            weight_decay,
            shrink,
            rest1: (1.0 - beta1) as f32,
            rest2: (1.0 - beta2) as f32,
            beta2: cfg.beta2,
            rate: (f64::from(cfg.lr) / (1.0 - beta1.powf(step as f64))) as f32,
            root_scale: (1.0 - beta2.powf(step as f64)).sqrt().recip() as f32,
            eps: cfg.eps,
        }
    }
}

impl Lanewise<4, 3> for AdamStep {
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, [p, g, m, v]: [S::V; 4]) -> [S::V; 3] {
        // SAFETY: the caller has the path.
        unsafe {
            let g = S::fma(p, S::splat(self.weight_decay), S::mul(g, S::splat(self.grad_scale)));
            let m = S::fma(S::sub(g, m), S::splat(self.rest1), m);
            let v = S::fma(S::mul(g, g), S::splat(self.rest2), S::mul(v, S::splat(self.beta2)));
            let root = S::fma(S::sqrt(v), S::splat(self.root_scale), S::splat(self.eps));
            let step = S::div(S::mul(m, S::splat(self.rate)), root);
            [S::sub(S::mul(p, S::splat(self.shrink)), step), m, v]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;

    const LEN: usize = 37;
    const STEPS: u64 = 6;
    const CLIP: f32 = 0.7;

    fn gradient(step: u64) -> Vec<f32> {
        (0..LEN).map(|i| ((i as f32 + 1.0) * 0.37 * step as f32).sin()).collect()
    }

    fn start() -> Vec<f32> {
        (0..LEN).map(|i| (i as f32 * 0.23).cos()).collect()
    }

    fn close(got: &[f32], want: &[f64]) -> bool {
        got.iter().zip(want).all(|(&x, &y)| (f64::from(x) - y).abs() < 2e-6)
    }

    /// PyTorch's documentation of SGD, line by line, in f64.
    fn sgd_twin(cfg: &Sgd) -> Vec<f64> {
        let mut p: Vec<f64> = start().into_iter().map(f64::from).collect();
        let mut buffer: Option<Vec<f64>> = None;
        let (lr, momentum) = (f64::from(cfg.lr), f64::from(cfg.momentum));
        for step in 1..=STEPS {
            let clipped = gradient(step).into_iter().map(|g| f64::from(g) * f64::from(CLIP));
            let mut g: Vec<f64> = clipped.zip(&p).map(|(g, p)| g + f64::from(cfg.weight_decay) * p).collect();
            if momentum != 0.0 {
                let b = match buffer.take() {
                    None => g.clone(),
                    Some(b) => {
                        let take = 1.0 - f64::from(cfg.dampening);
                        b.iter().zip(&g).map(|(b, g)| momentum * b + take * g).collect()
                    }
                };
                g = if cfg.nesterov {
                    g.iter().zip(&b).map(|(g, b)| g + momentum * b).collect()
                } else {
                    b.clone()
                };
                buffer = Some(b);
            }
            p.iter_mut().zip(&g).for_each(|(p, g)| *p -= lr * g);
        }
        p
    }

    /// PyTorch's documentation of Adam and AdamW, line by line, in f64.
    fn adam_twin(cfg: &Adam, decoupled: bool) -> Vec<f64> {
        let mut p: Vec<f64> = start().into_iter().map(f64::from).collect();
        let (mut m, mut v) = (vec![0.0; LEN], vec![0.0; LEN]);
        let (lr, b1, b2) = (f64::from(cfg.lr), f64::from(cfg.beta1), f64::from(cfg.beta2));
        let (eps, decay) = (f64::from(cfg.eps), f64::from(cfg.weight_decay));
        for step in 1..=STEPS {
            for (i, g) in gradient(step).into_iter().enumerate() {
                let mut g = f64::from(g) * f64::from(CLIP);
                if decoupled {
                    p[i] -= lr * decay * p[i]
                } else {
                    g += decay * p[i]
                }
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                let m_hat = m[i] / (1.0 - b1.powi(step as i32));
                let v_hat: f64 = v[i] / (1.0 - b2.powi(step as i32));
                p[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            }
        }
        p
    }

    #[test]
    fn sgd_follows_pytorch_on_every_path() {
        for (momentum, dampening, nesterov, weight_decay) in [
            (0.0, 0.0, false, 0.0),
            (0.0, 0.0, false, 0.1),
            (0.9, 0.0, false, 0.0),
            (0.9, 0.3, false, 0.1),
            (0.9, 0.0, true, 0.1),
        ] {
            let cfg = Sgd { lr: 0.1, momentum, dampening, nesterov, weight_decay };
            for &path in cpu::available() {
                // The first step may not read the velocity.
                let (mut p, mut velocity) = (start(), vec![f32::NAN; LEN]);
                for step in 1..=STEPS {
                    let state = (momentum != 0.0).then_some(velocity.as_mut_slice());
                    cpu::with_path(path, || sgd(&cfg, step, CLIP, &mut p, &gradient(step), state));
                }
                assert!(close(&p, &sgd_twin(&cfg)), "{path:?} {cfg:?}");
            }
        }
    }

    #[test]
    fn adam_and_adamw_follow_pytorch_on_every_path() {
        for weight_decay in [0.0, 0.1] {
            let cfg = Adam { lr: 0.02, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay };
            for &path in cpu::available() {
                for decoupled in [false, true] {
                    let (mut p, mut m, mut v) = (start(), vec![0.0; LEN], vec![0.0; LEN]);
                    let update = if decoupled { adamw } else { adam };
                    for step in 1..=STEPS {
                        let g = gradient(step);
                        cpu::with_path(path, || update(&cfg, step, CLIP, &mut p, &g, &mut m, &mut v));
                    }
                    assert!(close(&p, &adam_twin(&cfg, decoupled)), "{path:?} {cfg:?} {decoupled}");
                }
            }
        }
    }
}
