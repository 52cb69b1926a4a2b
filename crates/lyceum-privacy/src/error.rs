//! What cannot be accounted for.

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PrivacyError {
    /// The caller's fault: a number outside its range.
    #[error("{what} must be {range}, is {value}")]
    OutOfRange { what: &'static str, range: &'static str, value: f64 },
    /// The caller's fault: no noise is large enough, or none is needed.
    #[error("no noise multiplier up to {sigma_max} reaches ε = {epsilon} at δ = {delta}: {reason}")]
    Unreachable { epsilon: f64, delta: f64, sigma_max: f64, reason: String },
    /// The caller's fault: an audit or attack without the scores that it needs.
    #[error("{0}")]
    Scores(String),
}

/// `value` if it lies in the range that `words` say.
pub(crate) fn in_range(
    what: &'static str,
    value: f64,
    range: &'static str,
    holds: bool,
) -> Result<f64, PrivacyError> {
    if holds { Ok(value) } else { Err(PrivacyError::OutOfRange { what, range, value }) }
}
