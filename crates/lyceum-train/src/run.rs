//! The state of a training run and its one step: forward, backward, clip, update.
//!
//! A step depends only on the spec, the data, the seed and this state, never on time or on what ran before
//! in the process; after its first epoch it allocates nothing.

use crate::data::Dataset;
use crate::error::TrainError;
use crate::likeliest;
use crate::optim::{Optimizer, clip_scale, global_norm};
use crate::order::{Draw, Order};
use crate::robust::{Robust, trades_backward};
use crate::schedule::lr_at;
use lyceum_kernels::cpu;
use lyceum_models::Model;
use lyceum_models::batch::{Batch, IGNORE, Target};
use lyceum_nn::{Dropout, Examples, Grads, Precision, Recording, Tape, Workspace};
use lyceum_types::spec::{PrecisionSpec, TrainSpec};

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The mean loss over the step's terms, before the update.
    pub loss: f64,
    /// The norm of all gradients before clipping.
    pub grad_norm: f64,
    pub lr: f64,
    pub n_examples: usize,
    /// Of a language model that learns answers: the part of their tokens that were the likeliest, before the update.
    /// None for preferences, of which neither answer is the right one, and for all else.
    pub token_accuracy: Option<f64>,
}

/// A run between two steps.
pub struct Run {
    pub model: Model,
    pub optimizer: Optimizer,
    pub(crate) spec: TrainSpec,
    pub(crate) seed: u64,
    order: Order,
    pub(crate) total_steps: u64,
    pub(crate) precision: Precision,
    pub(crate) grads: Grads,
    pub(crate) workspace: Workspace,
    pub(crate) batches: Vec<Batch>,
    pub(crate) rows: Vec<usize>,
    /// Of a private step: each example's squared norm, and its weight.
    pub(crate) squares: Vec<f64>,
    pub(crate) weights: Vec<f32>,
    pub(crate) robust: Option<Robust>,
}

impl Run {
    pub fn new(spec: &TrainSpec, seed: u64, model: Model, data: &Dataset) -> Self {
        let order = order(spec, seed, data);
        let total_steps = steps_of(spec, &order);
        Run {
            optimizer: Optimizer::new(&spec.optimizer, &model.params),
            grads: Grads::new(&model.params),
            spec: spec.clone(),
            seed,
            order,
            total_steps,
            precision: precision(spec.precision),
            workspace: Workspace::new(),
            batches: (0..spec.accumulate).map(|_| data.new_batch()).collect(),
            rows: Vec::new(),
            robust: None,
            squares: Vec::new(),
            weights: Vec::new(),
            model,
        }
    }

    /// Changes the inputs of each micro-step from now on.
    pub fn with_robust(mut self, robust: Option<Robust>) -> Self {
        self.robust = robust;
        self
    }

    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch() as u64
    }

    /// Optimiser step `step` (from 0). Weights, moments and running statistics move; nothing else does.
    pub fn step(&mut self, data: &Dataset, step: u64) -> Result<StepReport, TrainError> {
        let n_micro = self.order.n_micro_steps(step);
        let (mut n_terms, mut n_examples) = (0, 0);
        for (micro, batch) in self.batches[..n_micro].iter_mut().enumerate() {
            self.order.rows(step, micro, &mut self.rows);
            fill(data, &self.rows, batch);
            n_terms += batch.target.n_terms();
            n_examples += batch.n;
        }
        let scale = 1.0 / n_terms.max(1) as f32;
        self.grads.clear();
        self.bound_memory(data);
        let (mut loss_sum, mut n_right) = (0.0, None);
        for (micro, batch) in self.batches[..n_micro].iter_mut().enumerate() {
            let key = Dropout { seed: self.seed, step: step * self.spec.accumulate as u64 + micro as u64 };
            if let Some(robust) = &mut self.robust {
                robust.change(&self.model, batch, self.precision, key.seed, key.step)?;
            }
            let mut tape = Tape::new(
                &mut self.workspace,
                &self.model.params,
                Recording::Weights,
                match &self.robust {
                    Some(robust) => Examples::Even(robust.n_rows(batch)),
                    None => batch.examples(),
                },
            )
            .training(key)
            .with_precision(self.precision);
            if let Some(beta) = self.robust.as_ref().and_then(Robust::beta) {
                loss_sum += trades_backward(&mut tape, &self.model, batch, beta, scale, &mut self.grads)?;
            } else {
                let (loss, forward) = self.model.loss(&mut tape, batch, scale)?;
                loss_sum += f64::from(tape.value(loss)[0]);
                if let (true, Target::Steps(steps)) = (data.is_sequences(), &batch.target) {
                    // The logits are those of the steps that have a loss, and the walk back frees them.
                    let targets: Vec<i32> = steps.iter().copied().filter(|step| *step != IGNORE).collect();
                    *n_right.get_or_insert(0) += likeliest::count(tape.value(forward.logits), &targets);
                }
                tape.backward(loss, &mut self.grads);
            }
            self.workspace.apply_buffer_updates(&mut self.model.params);
        }
        self.grads.finish();
        let grad_norm = global_norm(&self.model.params, &self.grads);
        if !loss_sum.is_finite() || !grad_norm.is_finite() {
            return Err(TrainError::Diverged { step, loss: loss_sum });
        }
        let lr = lr_at(&self.spec.schedule, Optimizer::base_lr(&self.spec.optimizer), step, self.total_steps);
        self.optimizer.step(
            &mut self.model.params,
            &self.grads,
            lr,
            clip_scale(grad_norm, self.spec.grad_clip),
        );
        let token_accuracy = n_right.map(|n: u64| n as f64 / n_terms.max(1) as f64);
        Ok(StepReport { loss: loss_sum, grad_norm, lr, n_examples, token_accuracy })
    }

    /// Lines differ in length and so does every step of them: buffers of all sizes would gather.
    pub(crate) fn bound_memory(&mut self, data: &Dataset) {
        if data.is_sequences() {
            self.workspace.trim();
        }
    }

    /// The gradients of the last step, for tests.
    pub fn grads(&self) -> &Grads {
        &self.grads
    }
}

/// The optimiser steps of a whole run.
pub fn total_steps(spec: &TrainSpec, seed: u64, data: &Dataset) -> u64 {
    steps_of(spec, &order(spec, seed, data))
}

fn steps_of(spec: &TrainSpec, order: &Order) -> u64 {
    match (spec.steps, spec.epochs) {
        (Some(steps), _) => steps as u64,
        (None, epochs) => epochs.unwrap_or(1) as u64 * order.steps_per_epoch() as u64,
    }
}

/// Which rows (of a stream: windows that begin anywhere) the steps of a run see.
pub fn order(spec: &TrainSpec, seed: u64, data: &Dataset) -> Order {
    let draw = match data.context() {
        Some(context) => Draw::Windows {
            n_offsets: data.tokens().map_or(0, <[u32]>::len).saturating_sub(context).max(1),
            per_epoch: data.n_windows(),
        },
        None => Draw::Shuffled { n: data.len() },
    };
    Order::new(draw, seed, spec.batch_size, spec.accumulate)
}

/// The batch of what [`Order::rows`] named.
pub fn fill(data: &Dataset, rows: &[usize], batch: &mut Batch) {
    match data.context() {
        Some(_) => data.fill_windows(rows, batch),
        None => data.fill(rows, batch),
    }
}

/// The precision of products on this machine.
pub fn precision(spec: PrecisionSpec) -> Precision {
    match spec {
        PrecisionSpec::F32 => Precision::F32,
        PrecisionSpec::Bf16 => Precision::Bf16,
        PrecisionSpec::Auto if cpu::has_bf16() && cpu::path().is_512() => Precision::Bf16,
        PrecisionSpec::Auto => Precision::F32,
    }
}
