//! The optimiser of a run: one state a learnt parameter, one fused pass a step.
//!
//! Weight decay applies to matrices and larger tensors only, not to biases and norms.

use lyceum_kernels::elementwise::sum_of_squares;
use lyceum_kernels::optim::{Adam, Sgd, adam, adamw, sgd};
use lyceum_nn::{Grads, ParamKind, Params};
use lyceum_types::spec::OptimizerSpec;

/// Moments of every parameter (empty where there are none), and the number of steps taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    spec: OptimizerSpec,
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
    pub(crate) steps: u64,
}

impl Optimizer {
    pub fn new(spec: &OptimizerSpec, params: &Params) -> Self {
        let (n_first, n_second) = match spec {
            OptimizerSpec::Sgd { momentum, .. } => (usize::from(*momentum != 0.0), 0),
            OptimizerSpec::Adam { .. } | OptimizerSpec::Adamw { .. } => (1, 1),
        };
        let zeros = |n: usize| {
            let of = |id| if params.kind(id) == ParamKind::Weight { params.value(id).len() * n } else { 0 };
            params.ids().map(|id| vec![0.0; of(id)]).collect()
        };
        Optimizer { spec: spec.clone(), first: zeros(n_first), second: zeros(n_second), steps: 0 }
    }

    /// The rate that the spec names; schedules multiply it.
    pub fn base_lr(spec: &OptimizerSpec) -> f64 {
        match *spec {
            OptimizerSpec::Sgd { lr, .. }
            | OptimizerSpec::Adam { lr, .. }
            | OptimizerSpec::Adamw { lr, .. } => lr,
        }
    }

    /// One step with rate `lr`; gradients are multiplied by `grad_scale` on the way.
    pub fn step(&mut self, params: &mut Params, grads: &Grads, lr: f64, grad_scale: f32) {
        self.steps += 1;
        for (i, id) in params.ids().enumerate() {
            if params.kind(id) != ParamKind::Weight {
                continue;
            }
            let decays = params.shape(id).rank() >= 2;
            let decay = |weight_decay: f64| if decays { weight_decay as f32 } else { 0.0 };
            let (m, v) = (&mut self.first[i], &mut self.second[i]);
            let (value, grad) = (params.value_mut(id), grads.value(id));
            match self.spec {
                OptimizerSpec::Sgd { momentum, dampening, nesterov, weight_decay, .. } => {
                    let cfg = Sgd {
                        lr: lr as f32,
                        momentum: momentum as f32,
                        dampening: dampening as f32,
                        nesterov,
                        weight_decay: decay(weight_decay),
                    };
                    sgd(&cfg, self.steps, grad_scale, value, grad, (!m.is_empty()).then_some(m));
                }
                OptimizerSpec::Adam { betas, eps, weight_decay, .. } => {
                    adam(
                        &adam_cfg(lr, betas, eps, decay(weight_decay)),
                        self.steps,
                        grad_scale,
                        value,
                        grad,
                        m,
                        v,
                    );
                }
                OptimizerSpec::Adamw { betas, eps, weight_decay, .. } => {
                    adamw(
                        &adam_cfg(lr, betas, eps, decay(weight_decay)),
                        self.steps,
                        grad_scale,
                        value,
                        grad,
                        m,
                        v,
                    );
                }
            }
        }
    }
}

fn adam_cfg(lr: f64, betas: [f64; 2], eps: f64, weight_decay: f32) -> Adam {
    Adam { lr: lr as f32, beta1: betas[0] as f32, beta2: betas[1] as f32, eps: eps as f32, weight_decay }
}

/// The norm of all gradients together, `√Σ g²`.
pub fn global_norm(params: &Params, grads: &Grads) -> f64 {
    params.ids().map(|id| sum_of_squares(grads.value(id))).sum::<f64>().sqrt()
}

/// What gradients are multiplied by so that their norm is at most `clip` (PyTorch's `clip_grad_norm_`).
pub fn clip_scale(norm: f64, clip: Option<f64>) -> f32 {
    match clip {
        Some(clip) => (clip / (norm + 1e-6)).min(1.0) as f32,
        None => 1.0,
    }
}
