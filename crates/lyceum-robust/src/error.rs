//! Why a number cannot be computed. Nothing in this crate returns a plausible number instead.

use lyceum_models::space::SpaceError;
use lyceum_nn::NnError;
use lyceum_types::control::Stop;

#[derive(Debug, thiserror::Error)]
pub enum RobustError {
    /// The caller's fault: this method does not exist for this model or input.
    #[error("{method} cannot be computed here: {reason}")]
    Unsupported { method: &'static str, reason: String, fix: String },
    /// The caller's fault: a parameter outside its range.
    #[error("{name}: {problem}")]
    Parameter { name: &'static str, problem: String },
    /// The caller's fault: the rows do not fit the model or the domain.
    #[error("rows: {0}")]
    Rows(String),
    /// The model's fault: an output that is not a number.
    #[error("the model's output of row {row} is not a finite number")]
    NotFinite { row: usize },
    /// Somebody asked the work to end, or its time was over.
    #[error("{0}")]
    Stopped(#[from] Stop),
    #[error(transparent)]
    Nn(#[from] NnError),
}

impl From<SpaceError> for RobustError {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::NoSmallChanges { reason, fix } => {
                RobustError::unsupported("an attack by small changes", reason, fix)
            }
            SpaceError::MayChange(problem) => RobustError::Parameter { name: "may_change", problem },
            SpaceError::Rows(text) => RobustError::Rows(text),
        }
    }
}

impl RobustError {
    pub(crate) fn unsupported(
        method: &'static str,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        RobustError::Unsupported { method, reason: reason.into(), fix: fix.into() }
    }

    pub(crate) fn parameter(name: &'static str, problem: impl Into<String>) -> Self {
        RobustError::Parameter { name, problem: problem.into() }
    }

    /// What the caller can do about it.
    pub fn fix(&self) -> &str {
        match self {
            RobustError::Unsupported { fix, .. } => fix,
            RobustError::Parameter { .. } => "give a value inside the range that the message names",
            RobustError::Rows(_) => "give rows that the model's preparation made, with their labels",
            RobustError::NotFinite { .. } => "the weights are broken: train again or load another version",
            RobustError::Stopped(_) => "run again with more time, fewer rows or a smaller budget",
            RobustError::Nn(_) => "give inputs of the model's shape",
        }
    }
}

/// A number that must lie in an open or closed range.
pub(crate) fn positive(name: &'static str, x: f64) -> Result<f64, RobustError> {
    if x > 0.0 && x.is_finite() {
        Ok(x)
    } else {
        Err(RobustError::parameter(name, format!("{x} is not above 0 and finite")))
    }
}

/// A probability strictly between 0 and 1.
pub(crate) fn probability(name: &'static str, p: f64) -> Result<f64, RobustError> {
    if p > 0.0 && p < 1.0 {
        Ok(p)
    } else {
        Err(RobustError::parameter(name, format!("{p} is not between 0 and 1")))
    }
}
