//! How much of the output flows through each unit of a hidden layer, from the baseline to the input:
//! `c_j = ∫ ∂f/∂y_j dy_j` along the straight path (Dhamdhere et al. 2018).
//!
//! The integral over the layer's own values is taken by the trapezoid rule at `n_steps + 1` even points, ends
//! included, so that it is complete: `Σ c = f(x) − f(x′)`, where all of the output flows through the layer.

use super::Attributed;
use super::integrated_gradients::between;
use crate::session::Session;
use crate::{Baseline, ExplainError, Of, Wanted};

pub(super) fn attribute(
    session: &mut Session<'_>,
    baseline: &Baseline,
    layer: &str,
    n_steps: usize,
) -> Result<Attributed, ExplainError> {
    let (name, _) = choose(session, Some(layer), |_| true)?;
    let bases = session.baselines(baseline)?;
    let [base] = &bases[..] else {
        let message = "a path has one beginning: give one baseline";
        return Err(ExplainError::request("baseline", message));
    };
    let wanted = Wanted::Layer(name.clone());
    let (mut values, mut gradients) = (Vec::new(), Vec::new());
    let (mut dims, mut base_value) = (Vec::new(), None);
    session.over(
        n_steps + 1,
        &wanted,
        |session, k, out| out.extend(between(base, &session.entry, k as f64 / n_steps as f64)),
        |_, result| {
            let Some(layer) = result.layers.first() else { return };
            base_value = base_value.or(result.scores.first().copied());
            dims = layer.dims[1..].to_vec();
            values.extend_from_slice(&layer.values);
            gradients.extend_from_slice(&layer.gradients);
        },
    )?;
    let units = values.len() / (n_steps + 1);
    let mut sums = vec![0.0f64; units];
    for k in 0..n_steps {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = |list: &[f32], k: usize| f64::from(list[k * units + j]);
            *sum += (at(&gradients, k) + at(&gradients, k + 1)) / 2.0 * (at(&values, k + 1) - at(&values, k));
        }
    }
    let of = Of::Layer { name, dims };
    Ok(Attributed { values: sums, stderr: None, elements: None, of, base_value, exact: false })
}

/// The layer of a name, or the last one that suits, with its sizes (examples first).
pub(super) fn choose(
    session: &mut Session<'_>,
    layer: Option<&str>,
    suits: impl Fn(&[usize]) -> bool,
) -> Result<(String, Vec<usize>), ExplainError> {
    let target = session.target.clone();
    let layers = session.pass(None, vec![target], Wanted::Layers)?.layers;
    let suited = || layers.iter().filter(|l| suits(&l.dims));
    let found = match layer {
        Some(name) => suited().find(|l| l.name == name),
        None => suited().last(),
    };
    if let Some(found) = found {
        return Ok((found.name.clone(), found.dims.clone()));
    }
    let names: Vec<&str> = suited().map(|l| l.name.as_str()).collect();
    if names.is_empty() {
        let what = "a model without such a layer".into();
        let fix = "use integrated_gradients, which explains the input";
        return Err(ExplainError::Unsupported { method: session.method, what, fix });
    }
    let given = layer.map_or_else(|| "none".into(), |name| format!("{name:?}"));
    Err(ExplainError::request("layer", format!("{given} is not a layer; they are {}", names.join(", "))))
}
