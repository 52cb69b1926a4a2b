//! The validation rows' outputs that a version keeps, and what is fitted on them: temperature, prediction sets and
//! intervals.

use crate::resident::Resident;
use crate::{ServiceError, robustness::refused};
use lyceum_models::prepare::OutputPreparation;
use lyceum_nn::weights::read_safetensors;
use lyceum_robust::calibrate::{self, Reliability, Temperature, probabilities};
use lyceum_robust::conformal::{self, Intervals, Score, Sets};
use sha2::{Digest, Sha256};

/// The file of a version's folder.
pub(super) const FILE: &str = "valid_logits.safetensors";

/// Outputs of rows that did not train the model, with what they should have been.
pub struct Calibration {
    pub logits: Vec<f32>,
    pub truth: Truth,
}

pub enum Truth {
    Labels(Vec<u32>),
    /// Prepared targets `[n, width]`.
    Values(Vec<f32>),
}

/// What one row may be, with the promise that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionSet {
    pub alpha: f64,
    pub n_calibration: usize,
    pub score: &'static str,
    pub guarantee: String,
    pub members: Members,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Members {
    /// Likeliest first.
    Labels(Vec<String>),
    /// One interval for each number of the answer.
    Intervals(Vec<[f64; 2]>),
}

impl Calibration {
    /// Reads what training kept; the bytes must be the registered ones.
    ///
    /// # Errors
    /// A version without validation rows, or of a program that kept no labels beside them.
    pub fn of(resident: &Resident) -> Result<Self, ServiceError> {
        let unavailable = |why: &str| {
            let message = format!("{}: {why}", resident.version.id());
            Err(ServiceError::unsupported("model", "no_calibration_rows", message))
        };
        let Some(registered) = resident.manifest.files.get(FILE) else {
            return unavailable("it was trained without validation rows; train with valid or valid_fraction");
        };
        let bytes = resident
            .version
            .dir
            .join(FILE)
            .read()
            .map_err(|error| ServiceError::internal("reading calibration rows failed", error))?;
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if &found != registered {
            let message = format!("{FILE}: sha256 is {found}, registered was {registered}");
            return Err(ServiceError::internal("the calibration rows are damaged", message));
        }
        let mut tensors = read_safetensors(&bytes)
            .map_err(|error| ServiceError::internal("reading calibration rows failed", error))?;
        let Some(logits) = tensors.remove("logits") else {
            return unavailable("its calibration file has no logits; train it again");
        };
        let truth = match (tensors.remove("labels"), tensors.remove("targets")) {
            (Some(labels), _) => Truth::Labels(labels.data.iter().map(|&label| label as u32).collect()),
            (None, Some(targets)) => Truth::Values(targets.data),
            (None, None) => return unavailable("its calibration rows have no labels; train it again"),
        };
        Ok(Calibration { logits: logits.data, truth })
    }

    /// Temperature and reliability before and after it, over `bins` bins.
    ///
    /// # Errors
    /// A model without labels, or rows on which no temperature is best.
    pub fn temperature(
        &self,
        n_classes: usize,
        bins: usize,
    ) -> Result<(Temperature, Reliability, Reliability), ServiceError> {
        let Truth::Labels(labels) = &self.truth else {
            let message = "a temperature needs a classifier; numbers have prediction intervals";
            return Err(ServiceError::unsupported("model", "unsupported_model", message));
        };
        let found = calibrate::temperature(&self.logits, n_classes, labels).map_err(refused)?;
        let table = |t: f64| {
            let p = probabilities(&self.logits, n_classes, t);
            calibrate::reliability(&p, n_classes, labels, bins).map_err(refused)
        };
        Ok((found, table(1.0)?, table(found.value)?))
    }

    /// The set or intervals of each row of outputs.
    ///
    /// # Errors
    /// alpha outside 0 to 1, or too few rows for a finite interval.
    pub fn sets(
        &self,
        resident: &Resident,
        score: Score,
        alpha: f64,
        rows: &[Vec<f32>],
    ) -> Result<Vec<PredictionSet>, ServiceError> {
        let output = &resident.preparation.output;
        let mut guarantee = conformal::GUARANTEE.to_owned();
        if resident.manifest.spec.train.early_stopping.is_some() {
            guarantee.push_str("; the calibration rows also chose when training stopped, which weakens it");
        }
        if resident.manifest.calibration.is_some() {
            guarantee.push_str("; the calibration rows also chose the temperature, which weakens it");
        }
        let set = |n_calibration, score, members| PredictionSet {
            alpha,
            n_calibration,
            score,
            guarantee: guarantee.clone(),
            members,
        };
        match (&self.truth, output) {
            (Truth::Labels(labels), OutputPreparation::Labels { names }) => {
                let p = probabilities(&self.logits, names.len(), 1.0);
                let sets = Sets::fit(&p, names.len(), labels, score, alpha).map_err(refused)?;
                let members = |row: &Vec<f32>| {
                    let labels = sets.labels(&probabilities(row, names.len(), 1.0));
                    Members::Labels(labels.into_iter().map(|label| names[label as usize].clone()).collect())
                };
                Ok(rows.iter().map(|row| set(sets.n_calibration, score.name(), members(row))).collect())
            }
            (Truth::Values(targets), OutputPreparation::Values { names, .. }) => {
                let (predictions, targets) = (output.restore(&self.logits), output.restore(targets));
                let intervals =
                    Intervals::fit(&predictions, &targets, names.len(), alpha).map_err(refused)?;
                let members = |row: &Vec<f32>| {
                    let ends = |(y, half): (f64, &f64)| [y - half, y + half];
                    let restored = output.restore(row).into_iter();
                    Members::Intervals(restored.zip(&intervals.half_widths).map(ends).collect())
                };
                Ok(rows
                    .iter()
                    .map(|row| set(intervals.n_calibration, "absolute_residual", members(row)))
                    .collect())
            }
            _ => {
                let message = "prediction sets need one label or fixed numbers for each row";
                Err(ServiceError::unsupported("prediction_set", "unsupported_model", message))
            }
        }
    }
}
