//! One private step: draw, norms, the weighted sum, noise.

use super::{Mechanism, Noise};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::optim::{Optimizer, global_norm};
use crate::run::{Run, StepReport};
use crate::schedule::lr_at;
use lyceum_nn::{Dropout, Precision, Recording, Tape};

/// Rounding of norms and of the weighted sum, in proportion: clipping errs to the safe side by it.
const NORM_MARGIN: f64 = 1e-5;
/// Micro-batches that a step can have, for the keys of dropout.
const MICRO_STEPS_MAX: u64 = 1 << 20;

impl Run {
    /// Optimiser step `step` (from 0). The loss of the drawn rows is not told: the noise does not protect it.
    ///
    /// # Errors
    /// When an operation of the model mixes examples, or a gradient is not a number.
    pub fn private_step(
        &mut self,
        data: &Dataset,
        step: u64,
        mechanism: &Mechanism,
        noise: &Noise,
    ) -> Result<StepReport, TrainError> {
        let mut rows = std::mem::take(&mut self.rows);
        noise.draw(step, data.len(), mechanism.q, &mut rows);
        let result = self.noisy_step(data, step, mechanism, noise, &rows);
        self.rows = rows;
        result
    }

    /// The step over given rows; a row that stands twice counts twice (which breaks the promise: for audits).
    pub fn noisy_step(
        &mut self,
        data: &Dataset,
        step: u64,
        mechanism: &Mechanism,
        noise: &Noise,
        rows: &[usize],
    ) -> Result<StepReport, TrainError> {
        let rounding = Noise::rounding(mechanism.noise, self.model.params.n_trainable());
        if rounding > 0.5 * mechanism.clip {
            let message =
                "with so much noise on so many weights, its grid is coarser than the clip: lower sigma";
            return Err(TrainError::Privacy(message.into()));
        }
        let clip = mechanism.clip - rounding;
        // Norms and the weighted sum are of one gradient, whatever it was rounded to on its way; they are f32. Other
        // operations than those of adapters round anew in the weighted sum.
        let precision = if data.is_sequences() { self.precision } else { Precision::F32 };
        self.grads.clear();
        self.bound_memory(data);
        let seed = noise.mask_seed();
        for (micro, rows) in rows.chunks(self.spec.batch_size).enumerate() {
            let batch = &mut self.batches[0];
            data.fill(rows, batch);
            let key = Dropout { seed, step: step * MICRO_STEPS_MAX + micro as u64 };
            // Each row is changed by itself, from the weights that the noise already protects.
            if let Some(robust) = &mut self.robust {
                robust.change(&self.model, batch, Precision::F32, key.seed, key.step)?;
            }
            let examples = batch.examples();
            let mut tape = Tape::new(&mut self.workspace, &self.model.params, Recording::Weights, examples)
                .training(key)
                .with_precision(precision);
            let (loss, _) = self.model.loss(&mut tape, batch, mechanism.loss_scale)?;
            tape.backward_inputs(loss, &[1.0]);
            tape.set_precision(Precision::F32);
            self.squares.clear();
            self.squares.resize(rows.len(), 0.0);
            tape.example_norms(&mut self.squares)?;
            if self.squares.iter().any(|s| !s.is_finite()) {
                return Err(TrainError::Diverged { step, loss: f64::NAN });
            }
            self.weights.clear();
            self.weights.extend(self.squares.iter().zip(rows).map(|(&square, &row)| {
                let share = data.loss_share(row);
                weight(share * share * square, clip) * share as f32
            }));
            tape.backward_weights(&mut self.grads, Some(&self.weights));
        }
        self.grads.finish();
        noise.add(step, mechanism.noise, &self.model.params, &mut self.grads);
        let scale = 1.0 / mechanism.expected_batch;
        let grad_norm = global_norm(&self.model.params, &self.grads) * scale;
        if !grad_norm.is_finite() {
            return Err(TrainError::Diverged { step, loss: f64::NAN });
        }
        let lr = lr_at(&self.spec.schedule, Optimizer::base_lr(&self.spec.optimizer), step, self.total_steps);
        self.optimizer.step(&mut self.model.params, &self.grads, lr, scale as f32);
        // How many were drawn is not told either.
        let n_examples = mechanism.expected_batch.round() as usize;
        Ok(StepReport { loss: f64::NAN, grad_norm, lr, n_examples, token_accuracy: None })
    }
}

/// `min(1, C/‖g‖)`
fn weight(square: f64, clip: f64) -> f32 {
    let norm = square.sqrt() * (1.0 + NORM_MARGIN);
    if norm <= clip { 1.0 } else { (clip / norm) as f32 }
}
