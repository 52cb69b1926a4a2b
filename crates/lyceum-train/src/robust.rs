//! Training on changed inputs: adversarial training, TRADES and noise.
//!
//! * **Adversarial** (Madry et al. 2018, arXiv:1706.06083): each row is replaced by what a few steps of projected
//!   gradient ascent on its cross-entropy make of it.
//! * **TRADES** (Zhang et al. 2019, arXiv:1901.08573): `CE(f(x), y) + β · KL(f(x) ‖ f(x′))`, where `x′` near `x`
//!   raises the second term. Clean and changed rows go through the model as one batch of twice the size, so a batch
//!   norm sees both together.
//! * **Noise**: normal noise of one standard deviation, uncut, as randomised smoothing will add it (Cohen et al. 2019).
//!
//! Inputs move in the units and bounds of `lyceum_models::space`, the same that attacks use later. Attacks see the
//! model as evaluation does (running statistics, no dropout). All draws are functions of the seed and the micro-step:
//! a resumed run repeats them.

use crate::data::Dataset;
use crate::error::TrainError;
use crate::order::generator;
use lyceum_models::Model;
use lyceum_models::batch::{Batch, Input, Target};
use lyceum_models::prepare::Preparation;
use lyceum_models::space::{Ball, Domain, Norm, gaussian, steepest};
use lyceum_nn::{Examples, Grads, NnError, Precision, Recording, Tape, Workspace};
use lyceum_types::manifest::FeatureSketch;
use lyceum_types::spec::{NormSpec, PgdSpec, RobustSpec, TrainSpec};
use rand_chacha::ChaCha8Rng;

/// This use's streams of the job's generator.
const STREAM: u64 = 1 << 41;
/// How far TRADES starts from the row: at the row itself the divergence has no gradient.
const TRADES_START: f32 = 1e-3;

/// A plan of changes with the memory that it reuses.
pub struct Robust {
    spec: RobustSpec,
    domain: Domain,
    ws: Workspace,
    /// Weights are not recorded: nothing is ever written here.
    grads: Grads,
}

impl Robust {
    /// The plan of a spec; None where it has none. Without sketches a table's numbers move without bounds.
    ///
    /// # Errors
    /// Inputs that have no small changes, training rows outside their bounds, or answers that are no classes.
    pub fn plan(
        spec: &TrainSpec,
        preparation: &Preparation,
        sketches: Option<&[FeatureSketch]>,
        train: &Dataset,
    ) -> Result<Option<Self>, TrainError> {
        let Some(spec) = spec.robust else { return Ok(None) };
        let refuse = |problem: String| TrainError::Spec(format!("train.robust: {problem}"));
        let domain = Domain::of(preparation)
            .and_then(|domain| match sketches {
                Some(sketches) => domain.within(preparation, sketches),
                None => Ok(domain),
            })
            .map_err(|error| refuse(error.to_string()))?;
        let Some((rows, _)) = train.dense() else {
            return Err(refuse("the inputs are no numbers".into()));
        };
        domain.admit(&mut domain.from_model(rows)).map_err(|error| refuse(error.to_string()))?;
        if train.labels().is_none() && !matches!(spec, RobustSpec::Noise { .. }) {
            return Err(refuse(
                "an attack needs rows with one class each; method = \"noise\" does not".into(),
            ));
        }
        Ok(Some(Robust { spec, domain, ws: Workspace::new(), grads: Grads::default() }))
    }

    /// Changes a batch's inputs in place; TRADES appends the changed rows to the clean ones.
    ///
    /// # Errors
    /// The model refuses the batch.
    pub fn change(
        &mut self,
        model: &Model,
        batch: &mut Batch,
        precision: Precision,
        seed: u64,
        micro_step: u64,
    ) -> Result<(), NnError> {
        let Input::Dense { data, .. } = &mut batch.input else {
            unreachable!("the plan takes numbers only: bug")
        };
        let rng = &mut generator(seed, STREAM + micro_step);
        let u = self.domain.from_model(data);
        match self.spec {
            RobustSpec::Noise { std } => {
                let width = self.domain.len();
                let movable = self.domain.movable();
                let noisy = u.iter().enumerate().map(|(i, u)| {
                    let noise = gaussian(rng) * std as f32;
                    if movable[i % width] { u + noise } else { *u }
                });
                let noisy: Vec<f32> = noisy.collect();
                data.clear();
                self.domain.to_model(&noisy, data);
            }
            RobustSpec::Adversarial(pgd) => {
                let labels = labels(&batch.target).to_vec();
                let shape = dims(&batch.input);
                let ascend = |i: usize, z: &[f32], d: &mut [f64]| {
                    softmax(z, d);
                    d[labels[i] as usize] = 0.0;
                    d[labels[i] as usize] = -d.iter().sum::<f64>();
                };
                let changed = self.pgd(model, &u, &shape, pgd, precision, rng, Start::Ball, &ascend)?;
                let Input::Dense { data, .. } = &mut batch.input else { unreachable!("it was: bug") };
                data.clear();
                self.domain.to_model(&changed, data);
            }
            RobustSpec::Trades { pgd, .. } => {
                let shape = dims(&batch.input);
                let clean = self.probabilities(model, &u, &shape, precision)?;
                let classes = model.shape.output.width();
                let ascend = |i: usize, z: &[f32], d: &mut [f64]| {
                    softmax(z, d);
                    d.iter_mut().zip(&clean[i * classes..]).for_each(|(q, p)| *q -= p);
                };
                let changed = self.pgd(model, &u, &shape, pgd, precision, rng, Start::Near, &ascend)?;
                let Input::Dense { data, .. } = &mut batch.input else { unreachable!("it was: bug") };
                self.domain.to_model(&changed, data);
            }
        }
        Ok(())
    }

    /// Rows that a changed batch has.
    pub fn n_rows(&self, batch: &Batch) -> usize {
        if self.beta().is_some() { 2 * batch.n } else { batch.n }
    }

    /// TRADES' weight; None for the methods that keep the model's own loss.
    pub fn beta(&self) -> Option<f64> {
        match self.spec {
            RobustSpec::Trades { beta, .. } => Some(beta),
            RobustSpec::Adversarial(_) | RobustSpec::Noise { .. } => None,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one inner loop of both attacks")]
    fn pgd(
        &mut self,
        model: &Model,
        u: &[f32],
        dims: &[usize],
        spec: PgdSpec,
        precision: Precision,
        rng: &mut ChaCha8Rng,
        start: Start,
        ascend: &Ascend<'_>,
    ) -> Result<Vec<f32>, NnError> {
        let (width, classes) = (self.domain.len(), model.shape.output.width());
        let norm = match spec.norm {
            NormSpec::Linf => Norm::Linf,
            NormSpec::L2 => Norm::L2,
        };
        let mut z = Vec::with_capacity(u.len());
        for row in u.chunks_exact(width) {
            let ball = Ball::new(&self.domain, norm, spec.eps, row);
            match start {
                Start::Ball => z.extend(ball.random(rng)),
                Start::Near => {
                    let from = z.len();
                    z.extend(row.iter().map(|u| u + TRADES_START * gaussian(rng)));
                    ball.project(&mut z[from..]);
                }
            }
        }
        let (mut seed, mut d, mut move_by) = (Vec::new(), vec![0.0; classes], vec![0.0; width]);
        for _ in 0..spec.steps {
            let mut data = Vec::with_capacity(z.len());
            self.domain.to_model(&z, &mut data);
            let input = Input::Dense { shape: dims.to_vec(), data };
            let examples = Examples::Even(u.len() / width);
            let mut tape =
                Tape::new(&mut self.ws, &model.params, Recording::Inputs, examples).with_precision(precision);
            let forward = model.forward(&mut tape, &input)?;
            seed.clear();
            for (i, logits) in tape.value(forward.logits).chunks_exact(classes).enumerate() {
                ascend(i, logits, &mut d);
                // Only a row's direction counts; scaled, it does not vanish for a sure model.
                let largest = d.iter().fold(0.0f64, |m, d| m.max(d.abs())).max(f64::MIN_POSITIVE);
                seed.extend(d.iter().map(|d| (d / largest) as f32));
            }
            tape.backward_from(forward.logits, &seed, &mut self.grads);
            let Some(gradient) = tape.grad(forward.entry) else { break };
            let mut gradient = gradient.to_vec();
            self.domain.gradient_from_model(&mut gradient);
            let rows = z.chunks_exact_mut(width).zip(gradient.chunks_exact(width)).zip(u.chunks_exact(width));
            for ((z, g), u) in rows {
                steepest(norm, g, (spec.step * spec.eps) as f32, &mut move_by);
                z.iter_mut().zip(&move_by).for_each(|(z, m)| *z += m);
                Ball::new(&self.domain, norm, spec.eps, u).project(z);
            }
        }
        Ok(z)
    }

    fn probabilities(
        &mut self,
        model: &Model,
        u: &[f32],
        dims: &[usize],
        precision: Precision,
    ) -> Result<Vec<f64>, NnError> {
        let classes = model.shape.output.width();
        let mut data = Vec::with_capacity(u.len());
        self.domain.to_model(u, &mut data);
        let input = Input::Dense { shape: dims.to_vec(), data };
        let examples = Examples::Even(u.len() / self.domain.len());
        let mut tape =
            Tape::new(&mut self.ws, &model.params, Recording::Off, examples).with_precision(precision);
        let forward = model.forward(&mut tape, &input)?;
        let logits = tape.value(forward.logits);
        let mut p = vec![0.0; logits.len()];
        logits.chunks_exact(classes).zip(p.chunks_exact_mut(classes)).for_each(|(z, p)| softmax(z, p));
        Ok(p)
    }
}

/// TRADES' loss on a tape over clean and changed rows, and its way back to the weights:
/// with `p = softmax(z)`, `q = softmax(z′)`, `K = KL(p ‖ q)`,
/// `∂/∂z_c = p_c − [c = y] + β p_c (ln p_c − ln q_c − K)` and `∂/∂z′_c = β (q_c − p_c)`, all times `scale`.
///
/// # Errors
/// The model refuses the batch.
pub fn trades_backward(
    tape: &mut Tape<'_>,
    model: &Model,
    batch: &Batch,
    beta: f64,
    scale: f32,
    grads: &mut Grads,
) -> Result<f64, NnError> {
    let forward = model.forward(tape, &batch.input)?;
    let classes = model.shape.output.width();
    let logits = tape.value(forward.logits);
    let (clean, changed) = logits.split_at(batch.n * classes);
    let mut seed = vec![0.0f32; logits.len()];
    let (to_clean, to_changed) = seed.split_at_mut(batch.n * classes);
    let (mut p, mut q) = (vec![0.0; classes], vec![0.0; classes]);
    let (mut loss, scale) = (0.0, f64::from(scale));
    for (i, &label) in labels(&batch.target).iter().enumerate() {
        let row = i * classes..(i + 1) * classes;
        let (a, b) = (&clean[row.clone()], &changed[row.clone()]);
        softmax(a, &mut p);
        softmax(b, &mut q);
        let (lse_a, lse_b) = (log_sum_exp(a), log_sum_exp(b));
        // ln p − ln q without logarithms of probabilities that round to 0.
        let ratio = |c: usize| f64::from(a[c]) - lse_a - f64::from(b[c]) + lse_b;
        let divergence: f64 = (0..classes).map(|c| p[c] * ratio(c)).sum();
        loss += lse_a - f64::from(a[label as usize]) + beta * divergence;
        for c in 0..classes {
            let own = p[c] - f64::from(u8::from(c == label as usize));
            to_clean[row.start + c] = (scale * (own + beta * p[c] * (ratio(c) - divergence))) as f32;
            to_changed[row.start + c] = (scale * beta * (q[c] - p[c])) as f32;
        }
    }
    tape.backward_from(forward.logits, &seed, grads);
    Ok(loss * scale)
}

/// Fills the direction in which a row's logits raise what the attack raises: row number, logits, direction.
type Ascend<'a> = dyn Fn(usize, &[f32], &mut [f64]) + 'a;

#[derive(Clone, Copy)]
enum Start {
    Ball,
    Near,
}

fn labels(target: &Target) -> &[i32] {
    match target {
        Target::Classes(labels) => labels,
        _ => unreachable!("the plan takes classes only: bug"),
    }
}

fn dims(input: &Input) -> Vec<usize> {
    match input {
        Input::Dense { shape, .. } => shape.clone(),
        _ => unreachable!("the plan takes numbers only: bug"),
    }
}

fn log_sum_exp(z: &[f32]) -> f64 {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    z.iter().map(|z| f64::from(z - max).exp()).sum::<f64>().ln() + f64::from(max)
}

fn softmax(z: &[f32], p: &mut [f64]) {
    let lse = log_sum_exp(z);
    p.iter_mut().zip(z).for_each(|(p, z)| *p = (f64::from(*z) - lse).exp());
}

#[cfg(test)]
mod tests;
