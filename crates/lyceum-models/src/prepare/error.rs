//! Why a raw value could not become numbers: the field, what is wrong, and what the person can do.

/// A raw input that the preparation refuses. Whose fault: the caller's (serving) or the data's (training).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PrepareError {
    /// A stable word for programs, for instance `not_a_number`.
    pub code: &'static str,
    /// The column, or the part of the input (`image`, `text`, `clip`).
    pub field: String,
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl PrepareError {
    pub fn new(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        PrepareError { code, field: field.into(), message: message.into(), fix: fix.into() }
    }
}

/// At most 40 characters of a value, quoted, for messages.
pub(crate) fn excerpt(value: &str) -> String {
    let mut shown: String = value.chars().take(40).collect();
    if value.chars().nth(40).is_some() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// The first few names of a list, for messages.
pub(crate) fn listing(names: &[String]) -> String {
    let mut shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        shown.push_str(&format!(", … ({} in all)", names.len()));
    }
    shown
}
