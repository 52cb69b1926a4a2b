//! The most rows that attacks put through a model, forward and back, known before they begin: each row stands every attack
//! to its last step.

use super::Attack;
use super::flags::ROWS_A_ROW;

/// What [`evaluate`](super::evaluate) takes at most for `n` rows of a model with so many classes.
pub fn rows_most(suite: &[Attack], n: usize, n_classes: usize) -> u64 {
    let a_row = suite.iter().fold(1 + ROWS_A_ROW, |sum, attack| sum.saturating_add(attack.a_row(n_classes)));
    a_row.saturating_mul(n as u64)
}

impl Attack {
    /// Of one row: its clean answer, and of each start towards each target the steps and the look at what was found.
    fn a_row(&self, n_classes: usize) -> u64 {
        let steps = match *self {
            Attack::Fgsm => 2,
            Attack::Pgd { steps, .. } => 2 * steps,
            Attack::ApgdCe { steps, .. } | Attack::ApgdT { steps, .. } => 2 * (steps + 1),
            Attack::Fab { steps, .. } => 3 * steps,
            Attack::Square { queries, .. } => queries + 1,
        };
        let starts = self.restarts() as u64 * self.targets(n_classes.max(2)).unwrap_or(1) as u64;
        1 + starts.saturating_mul(steps as u64 + 1)
    }
}
