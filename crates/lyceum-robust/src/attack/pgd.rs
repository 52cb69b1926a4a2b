//! Projected gradient ascent (Madry et al. 2018, arXiv:1706.06083): from a random point of the ball,
//! `z ← Π(z + α · steepest(∇L))`. A row stops as soon as it fools the model.

use super::{Ball, Batch, Found};
use crate::error::RobustError;
use crate::objective::Objective;
use crate::threat::Threat;
use crate::victim::{Aim, Victim};
use lyceum_models::answer::likeliest;
use lyceum_models::space::steepest;

/// `step` is in units of eps.
pub(super) fn run(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    objective: Objective,
    steps: usize,
    step: f64,
) -> Result<Found, RobustError> {
    let (width, classes) = (victim.domain().len(), victim.n_classes());
    let domain = victim.domain();
    let ball = |i: usize| Ball::new(domain, threat.norm, threat.eps, &batch.u[i * width..(i + 1) * width]);
    let aims = batch.aims(objective);
    let length = (step * threat.eps) as f32;
    let mut open: Vec<usize> = (0..batch.len()).collect();
    let mut z: Vec<f32> = open.iter().flat_map(|&i| ball(i).random(&mut batch.rng(i))).collect();
    let mut found: Found = vec![None; batch.len()];
    let mut move_by = vec![0.0; width];
    for _ in 0..steps {
        let open_aims: Vec<Aim> = open.iter().map(|&i| aims[i]).collect();
        let ascent = victim.ascent(&z, &open_aims)?;
        let (mut still, mut next) = (Vec::with_capacity(open.len()), Vec::with_capacity(z.len()));
        for (k, &i) in open.iter().enumerate() {
            let point = &z[k * width..(k + 1) * width];
            if likeliest(&ascent.logits[k * classes..(k + 1) * classes]) != batch.labels[i] {
                found[i] = Some(point.to_vec());
                continue;
            }
            steepest(threat.norm, &ascent.directions[k * width..(k + 1) * width], length, &mut move_by);
            still.push(i);
            let start = next.len();
            next.extend(point.iter().zip(&move_by).map(|(z, s)| z + s));
            ball(i).project(&mut next[start..]);
        }
        (open, z) = (still, next);
        if open.is_empty() {
            break;
        }
    }
    // The last step's points have not been looked at.
    for (k, &i) in open.iter().enumerate() {
        found[i] = Some(z[k * width..(k + 1) * width].to_vec());
    }
    Ok(found)
}
