//! Shapley values of a linear model in closed form: `φ_i = w_i (x_i − E[x_i])`, summed over a feature's numbers
//! (Lundberg & Lee 2017, corollary 1; interventional, so no independence is assumed). The gradient of a linear
//! model is its weights, whatever the input.

use super::Attributed;
use super::gradient::{gradient_input, mean_row};
use super::integrated_gradients::base_value;
use crate::session::Session;
use crate::{Baseline, ExplainError};

pub(super) fn attribute(session: &mut Session<'_>, baseline: &Baseline) -> Result<Attributed, ExplainError> {
    let mean = mean_row(&session.baselines(baseline)?);
    let base = base_value(session, &[mean])?;
    let mut found = gradient_input(session, baseline)?;
    found.base_value = Some(base);
    found.exact = true;
    Ok(found)
}
