//! The five signs by which AutoAttack warns that a robust accuracy may be an illusion (Croce & Hein 2020 and its
//! `flags_doc.md`; Athalye et al. 2018): randomness, probabilities instead of logits, vanished gradients, a
//! gradient-free attack that does better than the others, and optimisation at inference.

use super::{Attack, Entry, Rows};
use crate::error::RobustError;
use crate::objective::Objective;
use crate::victim::{Aim, Victim};

/// Repetitions that must agree.
const REPEATS: usize = 5;
/// Rows through the model that the signs take a row: the repetitions, and a gradient's way there and back.
pub(super) const ROWS_A_ROW: u64 = REPEATS as u64 + 2;
/// How far repeated, normalised outputs may differ.
const RANDOM_MAX: f64 = 1e-4;
/// How far sums of outputs may be from 1 and still look like probabilities.
const PROBABILITY_MAX: f64 = 1e-5;
/// How much better Square may do before the others are not believed.
const SQUARE_MAX: f64 = 0.002;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagState {
    Clear,
    Raised,
    /// The run had nothing to tell it from.
    NotEvaluated,
}

/// One sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    pub name: &'static str,
    pub state: FlagState,
    /// What was seen.
    pub detail: String,
}

/// The five signs, for a model and what attacks left of it.
///
/// # Errors
/// Cancelled, or rows that do not fit.
pub fn flags(victim: &mut Victim<'_>, rows: Rows<'_>, entries: &[Entry]) -> Result<Vec<Flag>, RobustError> {
    let classes = victim.n_classes();
    let first = victim.logits(rows.u)?;
    let mut differs = 0.0f64;
    for _ in 1..REPEATS {
        let again = victim.logits(rows.u)?;
        for (a, b) in first.chunks_exact(classes).zip(again.chunks_exact(classes)) {
            let length = |z: &[f32]| z.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>().sqrt() + 1e-10;
            let (la, lb) = (length(a), length(b));
            let d =
                a.iter().zip(b).map(|(a, b)| (f64::from(*a) / la - f64::from(*b) / lb).powi(2)).sum::<f64>();
            differs = differs.max(d.sqrt());
        }
    }
    let randomized = flag(
        "randomized",
        differs > RANDOM_MAX,
        format!("{REPEATS} passes over the same rows differ by {differs:.1e} at most"),
    );
    let sums = first.chunks_exact(classes).map(|z| z.iter().map(|z| f64::from(*z)).sum::<f64>());
    let off = sums.fold(0.0f64, |m, s| m.max((s - 1.0).abs()));
    let inside = first.iter().all(|z| (-PROBABILITY_MAX..1.0 + PROBABILITY_MAX).contains(&f64::from(*z)));
    let probabilities = flag(
        "probabilities",
        inside && off < PROBABILITY_MAX,
        "outputs that are probabilities flatten the gradient".to_owned(),
    );
    let aims: Vec<Aim> = rows
        .labels
        .iter()
        .map(|&label| Aim { objective: Objective::CrossEntropy, label, target: None })
        .collect();
    let ascent = victim.ascent(rows.u, &aims)?;
    let width = victim.domain().len();
    let n_zero = ascent.directions.chunks_exact(width).filter(|g| g.iter().all(|g| *g == 0.0)).count();
    let zero = flag(
        "zero_gradients",
        n_zero > 0,
        format!("{n_zero} of {} rows have a gradient of exactly 0", rows.labels.len()),
    );
    // The engine's forward is one fixed list of operations.
    let dynamic = Flag {
        name: "optimization_at_inference",
        state: FlagState::Clear,
        detail: "a forward pass of this engine is one fixed list of operations".into(),
    };
    Ok(vec![randomized, probabilities, zero, square_sign(entries), dynamic])
}

fn flag(name: &'static str, raised: bool, detail: String) -> Flag {
    Flag { name, state: if raised { FlagState::Raised } else { FlagState::Clear }, detail }
}

/// Whether the square attack does better than every attack with gradients under the same threat.
pub fn square_sign(entries: &[Entry]) -> Flag {
    let name = "square_beats_gradients";
    let is_square = |e: &&Entry| matches!(e.attack, Attack::Square { .. });
    let mut worst: Option<(f64, f64)> = None;
    for own in entries.iter().filter(is_square) {
        let under_it = entries.iter().filter(|e| e.threat == own.threat);
        let (squares, others): (Vec<&Entry>, Vec<&Entry>) = under_it.partition(is_square);
        let least = |all: &[&Entry]| all.iter().map(|e| e.accuracy.value).reduce(f64::min);
        if let (Some(square), Some(others)) = (least(&squares), least(&others))
            && worst.is_none_or(|(s, o)| square - others < s - o)
        {
            worst = Some((square, others));
        }
    }
    let Some((square, others)) = worst else {
        let detail = "needs the square attack and one with gradients under the same threat".into();
        return Flag { name, state: FlagState::NotEvaluated, detail };
    };
    let detail =
        format!("square leaves {:.2} %, the best gradient attack {:.2} %", square * 100.0, others * 100.0);
    flag(name, square < others - SQUARE_MAX, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::PgdLoss;
    use crate::{Norm, Spent, Threat};
    use lyceum_types::manifest::Metric;

    #[test]
    fn square_is_compared_under_its_own_threat_only() {
        let entry = |eps: f64, square: bool, value: f64| Entry {
            attack: match square {
                true => Attack::Square { queries: 1, restarts: 1 },
                false => Attack::Pgd { steps: 1, restarts: 1, step: None, loss: PgdLoss::CrossEntropy },
            },
            threat: Threat { norm: Norm::Linf, eps },
            accuracy: Metric { value, ci95: [0.0, 1.0], n: 100 },
            spent: Spent::default(),
        };
        let state = |entries: &[Entry]| square_sign(entries).state;
        assert_eq!(state(&[entry(0.2, true, 0.1), entry(0.1, false, 0.5)]), FlagState::NotEvaluated);
        let fair = [entry(0.2, true, 0.1), entry(0.1, false, 0.5), entry(0.2, false, 0.05)];
        assert_eq!(state(&fair), FlagState::Clear);
        assert_eq!(state(&[entry(0.2, true, 0.1), entry(0.2, false, 0.5)]), FlagState::Raised);
    }
}
