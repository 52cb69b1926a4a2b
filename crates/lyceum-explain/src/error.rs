//! Why there is no explanation.

use lyceum_nn::NnError;
use lyceum_types::control::Stop;

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Caller: this method cannot explain this model, input or target.
    #[error("{method} cannot explain {what}: {fix}")]
    Unsupported { method: &'static str, what: String, fix: &'static str },
    /// Caller: a part of the request is wrong.
    #[error("{param}: {message}")]
    Request { param: &'static str, message: String },
    /// Caller: the method costs more than the request allows.
    #[error("{method} needs {needed} passes, more than max_passes {max_passes}: raise it, or ask for less")]
    TooManyPasses { method: &'static str, needed: u64, max_passes: u64 },
    /// Caller: it was cancelled, or its time is over.
    #[error("the explanation was stopped: {0}")]
    Stopped(Stop),
    /// Operator: the device does not answer.
    #[error("the device gave no answer: {0}")]
    Device(String),
    /// Bug, or a model whose numbers are not finite.
    #[error("{what} is not a finite number")]
    NotFinite { what: &'static str },
    #[error(transparent)]
    Nn(#[from] NnError),
}

impl ExplainError {
    pub(crate) fn request(param: &'static str, message: impl Into<String>) -> Self {
        ExplainError::Request { param, message: message.into() }
    }
}
