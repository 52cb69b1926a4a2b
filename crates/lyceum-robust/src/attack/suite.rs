//! Several attacks on the same rows, what each leaves, and what all of them together leave.

use super::{Attack, Flag, Outcome, Rows, attack, flags};
use crate::error::RobustError;
use crate::share::share;
use crate::threat::{Spent, Threat};
use crate::victim::Victim;
use lyceum_models::space::Norm;
use lyceum_types::manifest::Metric;

/// Which rows an attack sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// All that the model answers rightly: each number is the attack's own.
    Each,
    /// Those that the attacks before it have left, as AutoAttack does: numbers are of the attacks so far.
    Cascade,
}

/// What one attack left.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub attack: Attack,
    pub threat: Threat,
    /// Rows still answered rightly, of all rows.
    pub accuracy: Metric,
    pub spent: Spent,
}

/// What a suite found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub clean: Metric,
    pub entries: Vec<Entry>,
    /// Rows that no attack of one norm and eps changed, for every such pair in the suite's order.
    pub worst: Vec<(Threat, Metric)>,
    pub flags: Vec<Flag>,
    /// The first row found against each row, with the attack that found it.
    pub failures: Vec<Failure>,
}

/// A row that an attack changed so that the answer changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub row: usize,
    pub attack: &'static str,
    pub threat: Threat,
    /// The changed row, in the domain's units.
    pub adversarial: Vec<f32>,
    /// How far it is from the row.
    pub distance: f64,
}

/// AutoAttack's standard suite.
pub const STANDARD: [Attack; 4] = [
    Attack::ApgdCe { steps: 100, restarts: 1 },
    Attack::ApgdT { steps: 100, restarts: 1, targets: 9 },
    Attack::Fab { steps: 100, restarts: 1, targets: 9 },
    Attack::Square { queries: 5000, restarts: 1 },
];

/// The standard suite as far as the model's classes and inputs allow it, and what had to be left out.
pub fn standard(victim: &Victim<'_>, norm: Norm) -> (Vec<Attack>, Vec<&'static str>) {
    let (mut attacks, mut left_out) = (Vec::new(), Vec::new());
    for attack in STANDARD {
        match attack {
            Attack::ApgdT { .. } if victim.n_classes() < 4 => {
                left_out.push("apgd-t: its loss needs four classes");
            }
            Attack::Square { .. } if super::square::check(victim.domain(), norm).is_err() => {
                left_out.push("square: in l2 it needs pictures of at least 5 by 5 pixels");
            }
            _ => attacks.push(attack),
        }
    }
    (attacks, left_out)
}

/// Runs the attacks in their order. Attack `k` draws from `seed + k`.
///
/// # Errors
/// An attack that the model or the rows do not allow, cancellation.
pub fn evaluate(
    victim: &mut Victim<'_>,
    rows: Rows<'_>,
    suite: &[(Threat, Attack)],
    schedule: Schedule,
    seed: u64,
) -> Result<Evaluation, RobustError> {
    let n = rows.labels.len() as u64;
    let width = victim.domain().len();
    let answers = victim.answers(rows.u)?;
    let right: Vec<bool> = answers.iter().zip(rows.labels).map(|(a, l)| a == l).collect();
    let count = |rows: &[bool]| rows.iter().filter(|r| **r).count() as u64;
    let clean = share(count(&right), n)?;
    let (mut entries, mut failures) = (Vec::new(), Vec::<Failure>::new());
    let mut left: Vec<(Threat, Vec<bool>)> = Vec::new();
    for (k, &(threat, which)) in suite.iter().enumerate() {
        if !left.iter().any(|(t, _)| *t == threat) {
            left.push((threat, right.clone()));
        }
        let standing = left.iter_mut().find(|(t, _)| *t == threat).map(|(_, rows)| rows);
        let standing = standing.expect("it was put there: bug");
        let open = (schedule == Schedule::Cascade).then(|| standing.clone());
        let Outcome { robust, adversarial, spent } =
            attack(victim, rows, open.as_deref(), threat, which, seed.wrapping_add(k as u64))?;
        for i in (0..right.len()).filter(|&i| right[i] && !robust[i]) {
            standing[i] = false;
            if failures.iter().any(|f| f.row == i && f.threat == threat) {
                continue;
            }
            let adversarial = adversarial[i * width..(i + 1) * width].to_vec();
            let changes = adversarial.iter().zip(&rows.u[i * width..]).map(|(z, u)| z - u);
            let distance = threat.norm.of(changes);
            failures.push(Failure { row: i, attack: which.name(), threat, adversarial, distance });
        }
        let kept = if schedule == Schedule::Cascade { count(standing) } else { count(&robust) };
        entries.push(Entry { attack: which, threat, accuracy: share(kept, n)?, spent });
    }
    let worst = left.iter().map(|(t, rows)| Ok((*t, share(count(rows), n)?)));
    let worst = worst.collect::<Result<Vec<_>, RobustError>>()?;
    let flags = flags(victim, rows, &entries)?;
    failures.sort_by_key(|f| f.row);
    Ok(Evaluation { clean, entries, worst, flags, failures })
}
