//! Everything that can go wrong while a text is read.

#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Operator or bug: a recogniser could not read the text. Whoever asked must not go on without it.
    #[error("the recogniser {recogniser} failed: {message}")]
    Failed { recogniser: &'static str, message: String },
    /// Bug: a recogniser said something about a place that is not in its block.
    #[error("the recogniser {recogniser} found something outside of the text that it read")]
    Outside { recogniser: &'static str },
    /// Caller: more values than one request may have.
    #[error("more than {n_max} values to be masked")]
    TooMany { n_max: usize },
    /// Caller: what was found may not pass.
    #[error("the text holds {}", kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "))]
    Blocked { kinds: Vec<crate::Kind> },
    /// Caller: a name that is no kind.
    #[error("unknown entity type {name:?}")]
    UnknownKind { name: String },
    /// Caller: a policy that cannot hold.
    #[error("{field}: {message}")]
    Policy { field: &'static str, message: String },
}
