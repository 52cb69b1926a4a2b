//! The fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572):
//! `u + ε · sign(∇_u L)`, or `u + ε · ∇_u L / ‖∇_u L‖₂`.

use super::{Batch, Found};
use crate::error::RobustError;
use crate::objective::Objective;
use crate::threat::Threat;
use crate::victim::Victim;
use lyceum_models::space::steepest;

pub(super) fn run(victim: &mut Victim<'_>, batch: &Batch, threat: Threat) -> Result<Found, RobustError> {
    let width = victim.domain().len();
    let ascent = victim.ascent(&batch.u, &batch.aims(Objective::CrossEntropy))?;
    let rows = batch.u.chunks_exact(width).zip(ascent.directions.chunks_exact(width));
    Ok(rows
        .map(|(u, direction)| {
            let mut point = vec![0.0; width];
            steepest(threat.norm, direction, threat.eps as f32, &mut point);
            point.iter_mut().zip(u).for_each(|(p, u)| *p += u);
            Some(point)
        })
        .collect())
}
