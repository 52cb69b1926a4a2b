//! What can go wrong when a model is built, run or loaded.

use crate::Shape;
use lyceum_types::short::short;

#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// The caller's fault: sizes that an operation cannot combine.
    #[error("{op}: {what}: got {got}, expected {want}")]
    Shape { op: &'static str, what: &'static str, got: String, want: String },
    /// The caller's fault: differentiation through an operation that has no backward.
    #[error("{op} has no backward: it cannot be recorded on a tape; run it without gradients")]
    NoBackward { op: &'static str },
    /// The caller's fault: per-example gradients of an operation whose examples depend on each other.
    #[error("{op} mixes examples: there is no gradient of one example alone")]
    MixesExamples { op: &'static str },
    /// The caller's fault: relevance through an operation that has no rule for it.
    #[error("{op} has no relevance rule: explain with another method, such as integrated_gradients")]
    NoRelevance { op: &'static str },
    /// The caller's fault: an index outside a table.
    #[error("{op}: index {index} at position {position} is outside 0..{size}")]
    Index { op: &'static str, index: i64, position: usize, size: usize },
    /// The file's fault.
    #[error("weights: {}", short(.0))]
    Weights(String),
    /// The file's fault: a tensor that the model needs is absent or has another shape.
    #[error("weights: tensor \"{}\" {}", short(name), short(problem))]
    Tensor { name: String, problem: String },
    #[error("weights: not a safetensors file")]
    Safetensors(#[source] safetensors::SafeTensorError),
}

impl NnError {
    /// A shape error in an operation.
    pub fn shape(op: &'static str, what: &'static str, got: Shape, want: impl std::fmt::Display) -> Self {
        NnError::Shape { op, what, got: got.to_string(), want: want.to_string() }
    }
}
