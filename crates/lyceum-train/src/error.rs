//! What can go wrong in training, and whose fault it is.

use crate::baseline::{BaselineError, KeptError};
use crate::data::DataError;
use crate::eval::EvalError;
use lyceum_models::ModelError;
use lyceum_nn::NnError;
use lyceum_privacy::PrivacyError;
use lyceum_types::control::Stop;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The caller's data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The caller's spec.
    #[error("spec: {0}")]
    Spec(String),
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A number that cannot be computed from these rows.
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// A baseline that was kept with a version and cannot be read.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The caller's spec: what it asks would break, or cannot keep, the promise of `[privacy]`.
    #[error("privacy: {0}")]
    Privacy(String),
    /// Nobody's fault: the data set's budget leaves too little for this run.
    #[error("privacy budget: {0}")]
    BudgetExceeded(String),
    /// The caller's spec: a data set with a budget is trained on with noise alone.
    #[error("privacy budget: {0}")]
    Unprotected(String),
    /// Somebody asked the run to end, or its time was over; the last checkpoint was kept.
    #[error("training stopped at step {step}: {stop}")]
    Stopped { step: u64, stop: Stop },
    /// The loss is not a number: the run cannot go on.
    #[error("training diverged at step {step}: the loss is {loss}")]
    Diverged { step: u64, loss: f64 },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {path}: {problem}")]
    Checkpoint { path: String, problem: String },
    /// The operator's disk.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: String, source: std::io::Error },
}

impl From<NnError> for TrainError {
    fn from(error: NnError) -> Self {
        TrainError::Model(ModelError::Nn(error))
    }
}

impl From<PrivacyError> for TrainError {
    fn from(error: PrivacyError) -> Self {
        TrainError::Privacy(error.to_string())
    }
}

impl TrainError {
    /// What the caller can do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            TrainError::Data(_) => "mend the data and run again",
            TrainError::Eval(_) | TrainError::Baseline(_) => "give the part more rows",
            TrainError::Kept(_) => "train the model again, or import it again",
            TrainError::Spec(_) | TrainError::Model(_) | TrainError::Privacy(_) => "change the spec",
            TrainError::BudgetExceeded(_) => {
                "ask for less (a larger sigma, fewer steps), or train on data that nothing was taken of yet"
            }
            TrainError::Unprotected(_) => {
                "add [privacy] to the spec, or train on a file that has no budget (lyceum privacy ledger lists them)"
            }
            TrainError::Stopped { .. } => "lyceum jobs resume continues from the last checkpoint",
            TrainError::Diverged { .. } => "lower the learning rate or set grad_clip = 1.0, then run again",
            TrainError::Checkpoint { .. } => {
                "remove that checkpoint's folder; the job resumes from the one before"
            }
            TrainError::Io { .. } => "free disk space or check permissions, then run again",
        }
    }
}
