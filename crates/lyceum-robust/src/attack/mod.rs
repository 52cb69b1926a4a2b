//! The one door to the attacks: [`attack`] runs one on every row that the model answers rightly, in restarts
//! and against targets where the attack has them, and keeps what it finds.
//!
//! What an attack hands over is never believed: it is cut to the threat and the bounds, and scored again. Rows
//! draw from generators of their own, so a row's result depends neither on its neighbours nor on how many
//! rows are attacked.

mod apgd;
mod fab;
mod fgsm;
mod flags;
mod most;
mod pgd;
mod square;
mod suite;

pub use flags::{Flag, FlagState, flags, square_sign};
pub use most::rows_most;
pub use suite::{Entry, Evaluation, Failure, STANDARD, Schedule, evaluate, standard};

use crate::error::RobustError;
use crate::objective::{Objective, descending};
use crate::threat::{Spent, Threat};
use crate::victim::{Aim, Victim};
use lyceum_models::space::Ball;
use rand_chacha::ChaCha8Rng;

/// An attack with its budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attack {
    /// One step along the gradient's sign, or along the gradient (Goodfellow et al. 2015).
    Fgsm,
    /// Projected steps from a random start (Madry et al. 2018). `step`: in units of eps; None is
    /// `2.5 / steps`.
    Pgd { steps: usize, restarts: usize, step: Option<f64>, loss: PgdLoss },
    /// Steps whose size adapts, on cross-entropy (Croce & Hein 2020).
    ApgdCe { steps: usize, restarts: usize },
    /// The same on the difference of logits ratio, towards each of the strongest wrong classes.
    ApgdT { steps: usize, restarts: usize, targets: usize },
    /// The fast adaptive boundary attack (Croce & Hein 2020): the nearest point of another class, towards each
    /// of the strongest wrong classes.
    Fab { steps: usize, restarts: usize, targets: usize },
    /// Random squares, without gradients (Andriushchenko et al. 2020).
    Square { queries: usize, restarts: usize },
}

/// What PGD raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgdLoss {
    CrossEntropy,
    /// The margin towards each wrong class in turn (Gowal et al. 2019): on a linear model it is exact.
    Targeted,
}

impl Attack {
    pub fn name(&self) -> &'static str {
        match self {
            Attack::Fgsm => "fgsm",
            Attack::Pgd { loss: PgdLoss::CrossEntropy, .. } => "pgd",
            Attack::Pgd { loss: PgdLoss::Targeted, .. } => "pgd-t",
            Attack::ApgdCe { .. } => "apgd-ce",
            Attack::ApgdT { .. } => "apgd-t",
            Attack::Fab { .. } => "fab-t",
            Attack::Square { .. } => "square",
        }
    }

    /// The budget in words that fix it.
    pub fn budget(&self) -> String {
        match *self {
            Attack::Fgsm => "1 step".into(),
            Attack::Pgd { steps, restarts, step, loss } => {
                let step = step.unwrap_or(2.5 / steps.max(1) as f64);
                let targets = if loss == PgdLoss::Targeted { " × every wrong class" } else { "" };
                format!("{steps} steps of {step:.4} eps × {restarts} restarts{targets}")
            }
            Attack::ApgdCe { steps, restarts } => format!("{steps} steps × {restarts} restarts"),
            Attack::ApgdT { steps, restarts, targets } | Attack::Fab { steps, restarts, targets } => {
                format!("{steps} steps × {restarts} restarts × {targets} targets")
            }
            Attack::Square { queries, restarts } => format!("{queries} queries × {restarts} restarts"),
        }
    }

    fn restarts(&self) -> usize {
        match *self {
            Attack::Fgsm => 1,
            Attack::Pgd { restarts, .. }
            | Attack::ApgdCe { restarts, .. }
            | Attack::ApgdT { restarts, .. }
            | Attack::Fab { restarts, .. }
            | Attack::Square { restarts, .. } => restarts,
        }
    }

    /// How many wrong classes are aimed at; None: at none in particular.
    fn targets(&self, n_classes: usize) -> Option<usize> {
        match *self {
            Attack::Pgd { loss: PgdLoss::Targeted, .. } => Some(n_classes - 1),
            Attack::ApgdT { targets, .. } | Attack::Fab { targets, .. } => Some(targets.min(n_classes - 1)),
            _ => None,
        }
    }

    fn steps(&self) -> usize {
        match *self {
            Attack::Fgsm => 1,
            Attack::Pgd { steps, .. }
            | Attack::ApgdCe { steps, .. }
            | Attack::ApgdT { steps, .. }
            | Attack::Fab { steps, .. } => steps,
            Attack::Square { queries, .. } => queries,
        }
    }

    fn check(&self, victim: &Victim<'_>, threat: Threat) -> Result<(), RobustError> {
        if self.steps() == 0 || self.restarts() == 0 || self.targets(2) == Some(0) {
            return Err(RobustError::parameter("budget", "steps, restarts and targets begin at 1"));
        }
        if let Attack::Pgd { step: Some(step), .. } = self {
            crate::error::positive("step", *step)?;
        }
        if matches!(self, Attack::ApgdT { .. }) && victim.n_classes() < Objective::DlrTargeted.classes_min() {
            return Err(RobustError::unsupported(
                "apgd-t",
                format!("its loss needs four classes and the model has {}", victim.n_classes()),
                "use apgd-ce and fab-t",
            ));
        }
        if let Attack::Square { .. } = self {
            square::check(victim.domain(), threat.norm)?;
        }
        Ok(())
    }
}

/// Rows `u` of the domain `[n, width]` with their labels.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub u: &'a [f32],
    pub labels: &'a [u32],
}

/// What is left after an attack.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether the model still answers the row rightly.
    pub robust: Vec<bool>,
    /// `[n, width]`: the row that fools the model, or the row itself.
    pub adversarial: Vec<f32>,
    pub spent: Spent,
}

/// The rows that an attack works on, copied together, with their places among all rows.
pub(crate) struct Batch {
    pub places: Vec<usize>,
    pub u: Vec<f32>,
    pub labels: Vec<u32>,
    /// A wrong class of each row to aim at.
    pub targets: Option<Vec<u32>>,
    seed: u64,
    /// Counts passes over the rows: restarts and targets.
    pass: u64,
    restart: usize,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The generator of row `i` in this pass.
    pub fn rng(&self, i: usize) -> ChaCha8Rng {
        crate::generator(self.seed, (self.pass << 40) | self.places[i] as u64)
    }

    /// Whether the rows and their targets have been attacked before, from another start.
    pub fn restarted(&self) -> bool {
        self.restart > 0
    }

    pub fn aims(&self, objective: Objective) -> Vec<Aim> {
        let target = |i: usize| self.targets.as_ref().map(|t| t[i]);
        (0..self.len()).map(|i| Aim { objective, label: self.labels[i], target: target(i) }).collect()
    }
}

/// For each row of a batch the point that an attack believes to fool the model.
pub(crate) type Found = Vec<Option<Vec<f32>>>;

/// Runs one attack on the rows that the model answers rightly and that `open` names (None: all).
///
/// # Errors
/// A budget or model that the attack does not know, rows outside the domain, cancellation.
pub fn attack(
    victim: &mut Victim<'_>,
    rows: Rows<'_>,
    open: Option<&[bool]>,
    threat: Threat,
    attack: Attack,
    seed: u64,
) -> Result<Outcome, RobustError> {
    attack.check(victim, threat)?;
    let before = victim.spent();
    let mut all = rows.u.to_vec();
    victim.domain().admit(&mut all)?;
    let (n, width, n_classes) = (rows.labels.len(), victim.domain().len(), victim.n_classes());
    if all.len() != n * width || rows.labels.iter().any(|&l| l as usize >= n_classes) {
        return Err(RobustError::Rows(format!("{n} labels below {n_classes} for {} numbers", all.len())));
    }
    if open.is_some_and(|open| open.len() != n) {
        return Err(RobustError::Rows(format!("{n} rows, but another number of open ones")));
    }
    let clean = victim.logits(&all)?;
    let likeliest = clean.chunks_exact(n_classes).map(lyceum_models::answer::likeliest);
    let mut robust: Vec<bool> = likeliest.zip(rows.labels).map(|(a, &l)| a == l).collect();
    let mut adversarial = all.clone();
    let mut pass = 0;
    for restart in 0..attack.restarts() {
        for rank in 0..attack.targets(n_classes).unwrap_or(1) {
            let places: Vec<usize> = (0..n).filter(|&i| robust[i] && open.is_none_or(|o| o[i])).collect();
            if places.is_empty() {
                break;
            }
            let target = |&i: &usize| nth_wrong(&clean[i * n_classes..][..n_classes], rows.labels[i], rank);
            let batch = Batch {
                u: places.iter().flat_map(|&i| &all[i * width..(i + 1) * width]).copied().collect(),
                labels: places.iter().map(|&i| rows.labels[i]).collect(),
                targets: attack.targets(n_classes).map(|_| places.iter().map(target).collect()),
                places,
                seed,
                pass,
                restart,
            };
            pass += 1;
            let found = once(victim, &batch, threat, attack)?;
            keep(victim, &batch, threat, found, &mut robust, &mut adversarial)?;
        }
    }
    Ok(Outcome { robust, adversarial, spent: victim.spent() - before })
}

/// The wrong class of this rank, from the strongest.
fn nth_wrong(z: &[f32], label: u32, rank: usize) -> u32 {
    let wrong = descending(z).into_iter().filter(|&j| j as u32 != label);
    wrong.into_iter().nth(rank).expect("there are as many wrong classes as targets: bug") as u32
}

fn once(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    attack: Attack,
) -> Result<Found, RobustError> {
    match attack {
        Attack::Fgsm => fgsm::run(victim, batch, threat),
        Attack::Pgd { steps, step, loss, .. } => {
            let objective = match loss {
                PgdLoss::CrossEntropy => Objective::CrossEntropy,
                PgdLoss::Targeted => Objective::Margin,
            };
            pgd::run(victim, batch, threat, objective, steps, step.unwrap_or(2.5 / steps as f64))
        }
        Attack::ApgdCe { steps, .. } => apgd::run(victim, batch, threat, Objective::CrossEntropy, steps),
        Attack::ApgdT { steps, .. } => apgd::run(victim, batch, threat, Objective::DlrTargeted, steps),
        Attack::Fab { steps, .. } => fab::run(victim, batch, threat, steps),
        Attack::Square { queries, .. } => square::run(victim, batch, threat, queries),
    }
}

/// Cuts what was found to the threat, scores it again, and keeps what really fools the model.
fn keep(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    found: Found,
    robust: &mut [bool],
    adversarial: &mut [f32],
) -> Result<(), RobustError> {
    let width = victim.domain().len();
    let domain = victim.domain();
    let (mut rows, mut points) = (Vec::new(), Vec::new());
    for (i, point) in found.into_iter().enumerate() {
        let Some(mut point) = point else { continue };
        Ball::new(domain, threat.norm, threat.eps, &batch.u[i * width..(i + 1) * width]).project(&mut point);
        rows.push(i);
        points.extend(point);
    }
    let answers = victim.answers(&points)?;
    for ((&i, answer), point) in rows.iter().zip(answers).zip(points.chunks_exact(width)) {
        if answer != batch.labels[i] {
            let place = batch.places[i];
            robust[place] = false;
            adversarial[place * width..(place + 1) * width].copy_from_slice(point);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
