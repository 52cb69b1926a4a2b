//! Layer-wise relevance through the operations' own rules ([`lyceum_nn::Tape::relevance`]).
//!
//! `output = Σ φ + base_value`, where the base value is the relevance that biases, positions and other constants
//! took: it is computed on the way, not as the difference.

use super::Attributed;
use crate::session::Session;
use crate::{ExplainError, Quantity, Wanted};

pub(super) fn attribute(session: &mut Session<'_>, epsilon: f32) -> Result<Attributed, ExplainError> {
    let target = session.target.clone();
    let shift = match target.quantity() {
        Quantity::Value { shift, .. } => {
            target.terms().iter().map(|t| if t.not.is_none() { shift } else { 0.0 }).sum()
        }
        _ => 0.0,
    };
    let result = session.once(Wanted::Relevance { epsilon })?;
    let relevance = result.relevance.ok_or(ExplainError::NotFinite { what: "the relevance" })?;
    // What belongs to no feature is part of the base.
    let fixed: f64 = session
        .subject
        .groups
        .of_elements(relevance.of_entry.len())
        .zip(&relevance.of_entry)
        .filter(|(group, _)| group.is_none())
        .map(|(_, &r)| f64::from(r))
        .sum();
    let base_value = relevance.absorbed + fixed + shift;
    let mut found = Attributed::of_elements(session, relevance.of_entry);
    found.base_value = Some(base_value);
    Ok(found)
}
