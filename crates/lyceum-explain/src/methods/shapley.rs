//! Shapley values from every coalition: `φ_i = Σ_{S ∌ i} |S|! (n − |S| − 1)! / n! · (v(S ∪ i) − v(S))`, with
//! `v(S)` the output where the features outside `S` are the baseline's (interventional).

use super::Attributed;
use crate::session::Session;
use crate::{Baseline, ExplainError};

pub(super) fn attribute(session: &mut Session<'_>, baseline: &Baseline) -> Result<Attributed, ExplainError> {
    let n = session.subject.groups.n();
    let n_coalitions = 1usize << n;
    session.require(n_coalitions as u64 * session.cost(baseline))?;
    let coalitions: Vec<Vec<bool>> =
        (0..n_coalitions).map(|s| (0..n).map(|i| s >> i & 1 == 1).collect()).collect();
    let target = session.target.clone();
    let v = session.values(baseline, &target, &coalitions)?;
    // |S|! (n − |S| − 1)! / n! = 1 / (n · C(n − 1, |S|))
    let weight: Vec<f64> = (0..n).map(|s| 1.0 / (n as f64 * binomial(n - 1, s))).collect();
    let mut values = vec![0.0; n];
    for s in 0..n_coalitions {
        for (i, value) in values.iter_mut().enumerate().filter(|(i, _)| s >> i & 1 == 0) {
            *value += weight[s.count_ones() as usize] * (v[s | 1 << i] - v[s]);
        }
    }
    let mut found = Attributed::of_features(values);
    found.base_value = Some(v[0]);
    found.exact = true;
    Ok(found)
}

pub(super) fn binomial(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}
