//! The one door.

use crate::methods::Attributed;
use crate::session::{Session, finite};
use crate::{Attribution, Checks, Device, ExplainError, Explanation, Request, faithfulness};
use lyceum_types::control::Control;

/// How far attributions may be from adding up, relative to what they explain.
const COMPLETENESS: f64 = 1e-3;

/// Explains `request` with passes on `device`; `control` is looked at before each.
///
/// # Errors
/// Where the method cannot explain the subject, or needs more passes than the request allows; when it is
/// stopped; when the device does not answer.
pub fn attribute(
    request: &Request,
    device: &mut dyn Device,
    control: &Control,
) -> Result<Explanation, ExplainError> {
    let (subject, method) = (&request.subject, &request.method);
    method.check(subject)?;
    let (first, max_passes) = (method.first_wanted(), request.max_passes);
    let mut session = Session::start(subject, method.name(), first, max_passes, device, control)?;
    let outputs = session.first.as_ref().map(|first| first.outputs.clone()).unwrap_or_default();
    let found = method.run(&mut session, &request.baseline, request.seed)?;
    for &value in &found.values {
        finite("an attribution", value)?;
    }
    let mut checks = completeness(&session, &found);
    faithfulness::evaluate(&mut session, request, &found, &mut checks)?;
    let stderr = |i: usize| found.stderr.as_ref().map(|s| s[i]);
    let attribution = |(i, &value): (usize, &f64)| Attribution { value, stderr: stderr(i) };
    Ok(Explanation {
        method: method.name(),
        exact: found.exact,
        quantity: subject.target.quantity().name(),
        terms: session.target.terms().to_vec(),
        output: session.output,
        outputs,
        base_value: found.base_value,
        attributions: found.values.iter().enumerate().map(attribution).collect(),
        of: found.of,
        elements: found.elements,
        checks,
        fit: None,
        baseline: request.baseline.name(),
        seed: request.seed,
        usage: session.usage,
    })
}

fn completeness(session: &Session<'_>, found: &Attributed) -> Checks {
    let Some(gap) = gap(session, found) else { return Checks::default() };
    Checks { completeness_gap: Some(gap), complete: Some(is_complete(session, found)), ..Checks::default() }
}

/// `|output − base − Σ attributions|` where it should be 0.
fn gap(session: &Session<'_>, found: &Attributed) -> Option<f64> {
    let sum: f64 = found.values.iter().sum();
    found.base_value.map(|base| (session.output - base - sum).abs())
}

/// Whether the attributions add up as far as they should.
pub(crate) fn is_complete(session: &Session<'_>, found: &Attributed) -> bool {
    let (Some(gap), Some(base)) = (gap(session, found), found.base_value) else { return true };
    let explained = (session.output - base).abs().max(1.0);
    let noise = found.stderr.as_ref().map_or(0.0, |s| 3.0 * s.iter().map(|s| s * s).sum::<f64>().sqrt());
    gap <= (COMPLETENESS * explained).max(noise)
}
