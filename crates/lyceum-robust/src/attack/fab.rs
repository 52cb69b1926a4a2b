//! The fast adaptive boundary attack, targeted (Croce & Hein 2020, arXiv:1907.02044).
//!
//! It looks for the nearest point of the target class instead of using up ε: each step linearises the border
//! `z_t − z_y = 0` at the current point, projects the point and the row itself onto it inside the bounds
//! ([`plane::nearest`]), and goes to a mixture of both, overshooting by η. From a point that fools the model it
//! goes back towards the row by β. A row is done once a point within ε fools the model.

use super::{Batch, Found};
use crate::error::RobustError;
use crate::objective::Objective;
use crate::plane;
use crate::threat::Threat;
use crate::victim::{Aim, Victim};
use lyceum_models::answer::likeliest;
use lyceum_models::space::Domain;
use lyceum_models::space::Norm;
use lyceum_models::space::gaussian;
use rand::RngExt;

const ALPHA_MAX: f32 = 0.1;
const ETA: f32 = 1.05;
const BETA: f32 = 0.9;

pub(super) fn run(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    steps: usize,
) -> Result<Found, RobustError> {
    let (width, classes, domain) = (victim.domain().len(), victim.n_classes(), victim.domain());
    let aims = batch.aims(Objective::Margin);
    let row = |i: usize| &batch.u[i * width..(i + 1) * width];
    let mut z = batch.u.clone();
    // The first pass begins at the row, later ones at a random point half way to ε.
    if batch.restarted() {
        for (i, z) in z.chunks_exact_mut(width).enumerate() {
            jump(batch, i, threat, domain, z);
        }
    }
    let mut found: Found = vec![None; batch.len()];
    let mut open: Vec<usize> = (0..batch.len()).collect();
    for _ in 0..steps {
        let open_aims: Vec<Aim> = open.iter().map(|&i| aims[i]).collect();
        let ascent = victim.ascent(&z, &open_aims)?;
        for (k, &i) in open.iter().enumerate() {
            let point = &mut z[k * width..(k + 1) * width];
            // The direction is the gradient itself: the margin's logit gradient has largest entry 1.
            let w = &ascent.directions[k * width..(k + 1) * width];
            if w.iter().any(|w| *w != 0.0) {
                towards_border(domain, threat.norm, row(i), w, -ascent.values[k], point);
            }
        }
        let logits = victim.logits(&z)?;
        let (mut still, mut next) = (Vec::with_capacity(open.len()), Vec::with_capacity(z.len()));
        for (k, &i) in open.iter().enumerate() {
            let (point, row) = (&z[k * width..(k + 1) * width], row(i));
            if likeliest(&logits[k * classes..(k + 1) * classes]) == batch.labels[i] {
                still.push(i);
                next.extend_from_slice(point);
            } else if threat.norm.of(point.iter().zip(row).map(|(z, u)| z - u)) <= threat.eps {
                found[i] = Some(point.to_vec());
            } else {
                still.push(i);
                next.extend(point.iter().zip(row).map(|(z, u)| u + (z - u) * BETA));
            }
        }
        (open, z) = (still, next);
        if open.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// One step of a point `z` of the row `u`: the border lies where `w·δ = to_border`.
fn towards_border(domain: &Domain, norm: Norm, u: &[f32], w: &[f32], to_border: f64, z: &mut [f32]) {
    let between: f64 = w.iter().zip(u).zip(&*z).map(|((w, u), z)| f64::from(*w) * f64::from(z - u)).sum();
    let from_point = plane::nearest(domain, norm, z, w, to_border);
    let from_row = plane::nearest(domain, norm, u, w, to_border + between);
    let (a, b) = (from_point.length.max(1e-8), from_row.length.max(1e-8));
    let alpha = ((a / (a + b)) as f32).clamp(0.0, ALPHA_MAX);
    for (j, z) in z.iter_mut().enumerate() {
        let (lo, hi) = domain.bounds(j, u[j]);
        let (on, near) = (*z + ETA * from_point.delta[j], u[j] + ETA * from_row.delta[j]);
        *z = (on * (1.0 - alpha) + near * alpha).clamp(lo, hi);
    }
}

fn jump(batch: &Batch, i: usize, threat: Threat, domain: &Domain, z: &mut [f32]) {
    let rng = &mut batch.rng(i);
    let mut v: Vec<f32> = (0..z.len())
        .map(|_| match threat.norm {
            Norm::Linf => rng.random::<f32>() * 2.0 - 1.0,
            Norm::L2 => gaussian(rng),
        })
        .collect();
    v.iter_mut().zip(domain.movable()).filter(|(_, m)| !**m).for_each(|(v, _)| *v = 0.0);
    let length = (threat.norm.of(v.iter().copied()) as f32).max(f32::MIN_POSITIVE);
    for (j, (z, v)) in z.iter_mut().zip(v).enumerate() {
        let (lo, hi) = domain.bounds(j, *z);
        *z = (*z + v * 0.5 * threat.eps as f32 / length).clamp(lo, hi);
    }
}
