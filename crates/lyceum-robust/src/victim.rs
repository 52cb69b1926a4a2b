//! The model under attack: logits and directions for rows of the domain, with what they cost counted.
//!
//! Gradients with respect to inputs come from the engine's own tape (`Recording::Inputs`, read at
//! `Forward::entry`); no weight gradient is computed.

use crate::error::RobustError;
use crate::objective::Objective;
use crate::threat::Spent;
use lyceum_models::batch::Input;
use lyceum_models::space::Domain;
use lyceum_models::{Model, OutputShape};
use lyceum_nn::{Examples, Grads, Precision, Recording, Tape, Workspace};
use lyceum_types::control::Control;

/// Rows that go through the model together.
const BATCH: usize = 128;

/// A classifier with its space of inputs.
pub struct Victim<'m> {
    model: &'m Model,
    domain: &'m Domain,
    control: &'m Control,
    n_classes: usize,
    precision: Precision,
    ws: Workspace,
    grads: Grads,
    spent: Spent,
}

/// What an ascent asks of one row.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub objective: Objective,
    pub label: u32,
    pub target: Option<u32>,
}

/// Logits `[n, classes]`, the objective of each row, and directions `[n, width]`: the gradient with respect to
/// the row up to a positive factor of each row (see [`Objective::ascend`]).
pub struct Ascent {
    pub logits: Vec<f32>,
    pub values: Vec<f64>,
    pub directions: Vec<f32>,
}

impl<'m> Victim<'m> {
    /// # Errors
    /// A model that does not answer each row with one of at least two classes, or rows of another width.
    pub fn new(model: &'m Model, domain: &'m Domain, control: &'m Control) -> Result<Self, RobustError> {
        let n_classes = match model.shape.output {
            OutputShape::Classes { n } if n >= 2 => n,
            _ => {
                return Err(RobustError::unsupported(
                    "an attack",
                    "the model does not answer with one of several classes",
                    "attack a classifier; for numbers measure corruptions and drift",
                ));
            }
        };
        Ok(Victim {
            model,
            domain,
            control,
            n_classes,
            precision: Precision::F32,
            ws: Workspace::new(),
            // Weights are not recorded: nothing is ever written here.
            grads: Grads::default(),
            spent: Spent::default(),
        })
    }

    /// Computes products in this precision from now on.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    pub fn domain(&self) -> &'m Domain {
        self.domain
    }

    pub fn model(&self) -> &'m Model {
        self.model
    }

    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// An error as soon as the work should end.
    pub fn check(&self) -> Result<(), RobustError> {
        Ok(self.control.check()?)
    }

    /// Logits `[n, classes]` of rows `u`.
    ///
    /// # Errors
    /// Cancelled, or a logit that is not a number.
    pub fn logits(&mut self, u: &[f32]) -> Result<Vec<f32>, RobustError> {
        let width = self.domain.len();
        let mut out = Vec::with_capacity(u.len() / width * self.n_classes);
        for (block, u) in u.chunks(BATCH * width).enumerate() {
            let _turn = self.control.turn()?;
            let n = u.len() / width;
            let input = self.input(u);
            let mut tape = Tape::new(&mut self.ws, &self.model.params, Recording::Off, Examples::Even(n))
                .with_precision(self.precision);
            let forward = self.model.forward(&mut tape, &input)?;
            let logits = tape.value(forward.logits);
            finite(logits, self.n_classes, block)?;
            out.extend_from_slice(logits);
            self.spent.forward_rows += n as u64;
            self.control.spend(n as u64);
        }
        Ok(out)
    }

    /// The likeliest class of each row.
    pub fn answers(&mut self, u: &[f32]) -> Result<Vec<u32>, RobustError> {
        let logits = self.logits(u)?;
        Ok(logits.chunks_exact(self.n_classes).map(lyceum_models::answer::likeliest).collect())
    }

    /// Logits, objectives and directions of rows `u`, one aim a row.
    ///
    /// # Errors
    /// Cancelled, or a logit that is not a number.
    pub fn ascent(&mut self, u: &[f32], aims: &[Aim]) -> Result<Ascent, RobustError> {
        let (width, classes) = (self.domain.len(), self.n_classes);
        let mut out = Ascent {
            logits: Vec::with_capacity(aims.len() * classes),
            values: Vec::with_capacity(aims.len()),
            directions: Vec::with_capacity(u.len()),
        };
        for (block, (u, aims)) in u.chunks(BATCH * width).zip(aims.chunks(BATCH)).enumerate() {
            let _turn = self.control.turn()?;
            let input = self.input(u);
            let mut tape =
                Tape::new(&mut self.ws, &self.model.params, Recording::Inputs, Examples::Even(aims.len()))
                    .with_precision(self.precision);
            let forward = self.model.forward(&mut tape, &input)?;
            let logits = tape.value(forward.logits);
            finite(logits, classes, block)?;
            out.logits.extend_from_slice(logits);
            let mut seed = vec![0.0; logits.len()];
            for ((z, dz), aim) in logits.chunks(classes).zip(seed.chunks_mut(classes)).zip(aims) {
                let target = aim.target.map(|t| t as usize);
                out.values.push(aim.objective.ascend(z, aim.label as usize, target, dz));
            }
            tape.backward_from(forward.logits, &seed, &mut self.grads);
            let start = out.directions.len();
            match tape.grad(forward.entry) {
                Some(gradient) => out.directions.extend_from_slice(gradient),
                // Nothing depends on the input.
                None => out.directions.resize(start + u.len(), 0.0),
            }
            self.domain.gradient_from_model(&mut out.directions[start..]);
            self.spent.forward_rows += aims.len() as u64;
            self.spent.backward_rows += aims.len() as u64;
            self.control.spend(2 * aims.len() as u64);
        }
        Ok(out)
    }

    fn input(&self, u: &[f32]) -> Input {
        let mut data = Vec::with_capacity(u.len());
        self.domain.to_model(u, &mut data);
        Input::Dense { shape: self.domain.dims().to_vec(), data }
    }
}

fn finite(logits: &[f32], n_classes: usize, block: usize) -> Result<(), RobustError> {
    match logits.iter().position(|z| !z.is_finite()) {
        Some(at) => Err(RobustError::NotFinite { row: block * BATCH + at / n_classes }),
        None => Ok(()),
    }
}
