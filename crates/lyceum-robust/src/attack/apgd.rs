//! Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, algorithm 1), as AutoAttack runs it.
//!
//! Steps begin at 2ε with momentum 0.75; at checkpoints whose distances shrink (22 %, then 3 % less each time,
//! at least 6 % of the steps) a row's step is halved, and the row goes back to its best point, where its loss
//! rose in too few steps (ρ = 0.75) or nothing improved since a checkpoint that did not halve.

use super::{Ball, Batch, Found};
use crate::error::RobustError;
use crate::objective::Objective;
use crate::threat::Threat;
use crate::victim::Victim;
use lyceum_models::answer::likeliest;
use lyceum_models::space::Norm;

const MOMENTUM: f32 = 0.75;
const RISES_MIN: f64 = 0.75;

/// The state of one row.
struct Row {
    z: Vec<f32>,
    previous: Vec<f32>,
    direction: Vec<f32>,
    step: f32,
    best: (f64, Vec<f32>, Vec<f32>),
    best_at_checkpoint: f64,
    halved: bool,
    /// Of each step since the last checkpoint, whether the loss rose.
    rises: usize,
    last_value: f64,
}

pub(super) fn run(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    objective: Objective,
    steps: usize,
) -> Result<Found, RobustError> {
    let (width, classes) = (victim.domain().len(), victim.n_classes());
    let domain = victim.domain();
    let ball = |i: usize| Ball::new(domain, threat.norm, threat.eps, &batch.u[i * width..(i + 1) * width]);
    let aims = batch.aims(objective);
    let mut found: Found = vec![None; batch.len()];
    let start: Vec<f32> = (0..batch.len()).flat_map(|i| ball(i).far(&mut batch.rng(i))).collect();
    let ascent = victim.ascent(&start, &aims)?;
    let fools = |logits: &[f32], k: usize, i: usize| {
        likeliest(&logits[k * classes..(k + 1) * classes]) != batch.labels[i]
    };
    let mut open = Vec::new();
    let mut rows = Vec::new();
    for i in 0..batch.len() {
        let (z, direction) =
            (&start[i * width..(i + 1) * width], &ascent.directions[i * width..(i + 1) * width]);
        if fools(&ascent.logits, i, i) {
            found[i] = Some(z.to_vec());
            continue;
        }
        open.push(i);
        rows.push(Row {
            z: z.to_vec(),
            previous: z.to_vec(),
            direction: direction.to_vec(),
            step: 2.0 * threat.eps as f32,
            best: (ascent.values[i], z.to_vec(), direction.to_vec()),
            best_at_checkpoint: ascent.values[i],
            halved: true,
            rises: 0,
            last_value: ascent.values[i],
        });
    }
    let part = |share: f64| ((share * steps as f64) as usize).max(1);
    let (mut interval, shrink, interval_min) = (part(0.22), part(0.03), part(0.06));
    let mut since_checkpoint = 0;
    for step in 0..steps {
        if open.is_empty() {
            break;
        }
        for (row, &i) in rows.iter_mut().zip(&open) {
            row.advance(&ball(i), threat.norm, if step == 0 { 1.0 } else { MOMENTUM });
        }
        let z: Vec<f32> = rows.iter().flat_map(|r| &r.z).copied().collect();
        let open_aims: Vec<_> = open.iter().map(|&i| aims[i]).collect();
        let ascent = victim.ascent(&z, &open_aims)?;
        since_checkpoint += 1;
        let checkpoint = since_checkpoint == interval;
        let mut still = Vec::with_capacity(open.len());
        let mut kept = Vec::with_capacity(rows.len());
        for (k, (mut row, &i)) in rows.into_iter().zip(&open).enumerate() {
            if fools(&ascent.logits, k, i) {
                found[i] = Some(row.z);
                continue;
            }
            row.direction.copy_from_slice(&ascent.directions[k * width..(k + 1) * width]);
            let value = ascent.values[k];
            row.rises += usize::from(value > row.last_value);
            row.last_value = value;
            if value > row.best.0 {
                row.best.0 = value;
                row.best.1.copy_from_slice(&row.z);
                row.best.2.copy_from_slice(&row.direction);
            }
            if checkpoint {
                row.judge(interval);
            }
            still.push(i);
            kept.push(row);
        }
        (open, rows) = (still, kept);
        if checkpoint {
            since_checkpoint = 0;
            interval = interval.saturating_sub(shrink).max(interval_min);
        }
    }
    Ok(found)
}

impl Row {
    /// One step with momentum: `z ← Π(z + a (Π(z + η s) − z) + (1 − a)(z − z_previous))`.
    fn advance(&mut self, ball: &Ball<'_>, norm: Norm, a: f32) {
        let mut move_by = vec![0.0; self.z.len()];
        lyceum_models::space::steepest(norm, &self.direction, self.step, &mut move_by);
        let mut point: Vec<f32> = self.z.iter().zip(&move_by).map(|(z, s)| z + s).collect();
        ball.project(&mut point);
        for j in 0..point.len() {
            let (z, before) = (self.z[j], self.previous[j]);
            point[j] = z + (point[j] - z) * a + (z - before) * (1.0 - a);
        }
        ball.project(&mut point);
        self.previous = std::mem::replace(&mut self.z, point);
    }

    /// A checkpoint after `interval` steps.
    fn judge(&mut self, interval: usize) {
        let oscillates = self.rises as f64 <= RISES_MIN * interval as f64;
        let stands = !self.halved && self.best_at_checkpoint >= self.best.0;
        self.halved = oscillates || stands;
        self.best_at_checkpoint = self.best.0;
        self.rises = 0;
        if self.halved {
            self.step /= 2.0;
            self.z.copy_from_slice(&self.best.1);
            self.direction.copy_from_slice(&self.best.2);
        }
    }
}
