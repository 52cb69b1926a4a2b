//! The smallest change of a row of a table that changes its class, found by trying and verified by the model.
//!
//! Changes are whole columns: each has candidates, the encodings of other values of that column. The search goes
//! by the number of changed columns: all single changes, then pairs built on the best singles, and so on; of
//! those that reach the class, the cheapest. It may miss a change that only works together with another one that
//! looks bad alone: what it finds is true, that it finds nothing proves nothing.

use crate::{Device, ExplainError, Pass, Quantity, Target, Term, Usage, Wanted};
use lyceum_models::Model;
use lyceum_models::batch::Input;
use lyceum_types::control::Control;
use std::sync::Arc;

/// Partial changes that each round builds on.
const BEAM: usize = 8;
const ROWS_A_PASS: usize = 32;

/// Another value of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its place among the inputs of the row.
    pub column: usize,
    pub at: std::ops::Range<usize>,
    pub encoded: Vec<f32>,
    /// How large the change is, in the caller's units.
    pub cost: f64,
}

/// What to look for.
pub struct Search<'a> {
    pub model: Arc<Model>,
    pub row: &'a [f32],
    pub candidates: &'a [Candidate],
    pub class: usize,
    pub changes_max: usize,
    pub passes_max: u64,
}

/// Candidates that together give the class.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub candidates: Vec<usize>,
    pub probability: f64,
    pub cost: f64,
}

/// A change under way.
#[derive(Clone)]
struct Partial {
    candidates: Vec<usize>,
    cost: f64,
    margin: f64,
}

/// The cheapest of the smallest changes that were found, if any.
///
/// # Errors
/// When the model does not classify rows, or passes run out before a round ends.
pub fn counterfactual(
    search: &Search<'_>,
    device: &mut dyn Device,
    control: &Control,
) -> Result<(Option<Found>, Usage), ExplainError> {
    let terms = vec![Term { row: 0, class: search.class, not: None }];
    let target = Target::new(terms, Quantity::Probability, &search.model.shape.output)?;
    let mut usage = Usage::default();
    let mut beam = vec![Partial { candidates: vec![], cost: 0.0, margin: f64::NEG_INFINITY }];
    for _ in 0..search.changes_max {
        let mut next = extend(search, &beam);
        let mut found: Option<Found> = None;
        for chunk in next.chunks_mut(ROWS_A_PASS) {
            control.check().map_err(ExplainError::Stopped)?;
            usage.forward_passes += chunk.len() as u64;
            if usage.forward_passes > search.passes_max {
                let (needed, max_passes) = (usage.forward_passes, search.passes_max);
                return Err(ExplainError::TooManyPasses { method: "counterfactual", needed, max_passes });
            }
            let data: Vec<f32> = chunk.iter().flat_map(|p| changed(search, &p.candidates)).collect();
            let pass = Pass {
                model: search.model.clone(),
                input: Input::Dense { shape: vec![search.row.len()], data },
                entry: None,
                targets: vec![target.clone(); chunk.len()],
                wanted: Wanted::Scores,
            };
            let result = device.run(pass)?;
            let width = search.model.shape.output.width();
            for ((partial, outputs), &probability) in
                chunk.iter_mut().zip(result.outputs.chunks_exact(width)).zip(&result.scores)
            {
                partial.margin = margin(outputs, search.class);
                let better = found.as_ref().is_none_or(|f| partial.cost < f.cost);
                if partial.margin > 0.0 && better {
                    let candidates = partial.candidates.clone();
                    found = Some(Found { candidates, probability, cost: partial.cost });
                }
            }
        }
        if found.is_some() || next.is_empty() {
            return Ok((found, usage));
        }
        next.sort_by(|a, b| b.margin.total_cmp(&a.margin).then(a.cost.total_cmp(&b.cost)));
        next.truncate(BEAM);
        beam = next;
    }
    Ok((None, usage))
}

/// Every partial change with one more column, each set once.
fn extend(search: &Search<'_>, beam: &[Partial]) -> Vec<Partial> {
    let mut all: Vec<Partial> = Vec::new();
    for partial in beam {
        for (i, candidate) in search.candidates.iter().enumerate() {
            if partial.candidates.iter().any(|&c| search.candidates[c].column == candidate.column) {
                continue;
            }
            let mut candidates = partial.candidates.clone();
            candidates.push(i);
            candidates.sort_unstable();
            if all.iter().all(|p| p.candidates != candidates) {
                all.push(Partial { candidates, cost: partial.cost + candidate.cost, margin: 0.0 });
            }
        }
    }
    all
}

/// The row with these candidates in their places.
pub fn changed(search: &Search<'_>, candidates: &[usize]) -> Vec<f32> {
    let mut row = search.row.to_vec();
    for &i in candidates {
        let candidate = &search.candidates[i];
        row[candidate.at.clone()].copy_from_slice(&candidate.encoded);
    }
    row
}

/// How far the class is ahead of the best other one.
fn margin(outputs: &[f32], class: usize) -> f64 {
    let others = outputs.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, &z)| z);
    f64::from(outputs[class] - others.fold(f32::NEG_INFINITY, f32::max))
}
