//! The most passes that a suite takes, known before it runs: every row stands every item to its end.

use super::Item;
use lyceum_robust::attack::{Attack, STANDARD, rows_most};

/// What [`run`](super::run) takes at most for `n` rows of a classifier with so many labels.
pub fn passes_most(suite: &[Item], n: usize, n_labels: usize) -> u64 {
    let rows = n as u64;
    // Each row's clean answer comes first.
    suite.iter().fold(rows, |sum, item| sum.saturating_add(of_item(item, n, n_labels)))
}

fn of_item(item: &Item, n: usize, n_labels: usize) -> u64 {
    let rows = n as u64;
    let times = |a: usize, b: usize| rows.saturating_mul(a as u64).saturating_mul(b as u64);
    // Behind the attacks each row that was found is answered once more.
    let attacked = |suite: &[Attack]| rows_most(suite, n, n_labels).saturating_add(rows);
    match item {
        Item::Attack { attack, .. } => attacked(&[*attack]),
        Item::AutoAttack { .. } => attacked(&STANDARD),
        Item::Certificate { .. } => rows,
        Item::Smoothing { smoothing, rows: first } => {
            smoothing.samples().saturating_mul(rows.min(*first as u64))
        }
        Item::Corruptions { only, severities } => times(only.len(), severities.len()),
        Item::Text { only, severities } => times(only.len(), severities.len()),
        Item::Tabular { only, severities } => times(only.len(), severities.len()),
        Item::Audio { only, severities } => times(only.len(), severities.len()),
        Item::Environments { matrix } => times(matrix.len(), 1),
        // Its rows were answered when the version was made.
        Item::Calibration { .. } => 0,
    }
}
