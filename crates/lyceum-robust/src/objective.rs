//! What an attack raises: a number of one row's logits `z` with label `y`, and the direction in which the
//! logits raise it.
//!
//! Attacks by sign or by normalised steps need only the direction of a gradient, so directions are scaled to
//! a largest entry of 1. That is no detail: with a sure model `p_y` rounds to 1 and `p_y − 1` to 0 in f32, and
//! an attack that multiplies by it stands still; here `−Σ_{j≠y} p_j` is computed in f64 and scaled up.

/// The losses of the attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// `lse(z) − z_y`.
    CrossEntropy,
    /// `z_t − z_y` with `t` the target, or the strongest wrong class where there is none.
    Margin,
    /// `−(z_y − max_{j≠y} z_j) / (z_π1 − z_π3)`: the difference of logits ratio of Croce & Hein 2020.
    Dlr,
    /// `−(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2)`.
    DlrTargeted,
}

const TINY: f64 = 1e-12;

impl Objective {
    /// Classes without which it is not defined.
    pub fn classes_min(self) -> usize {
        match self {
            Objective::CrossEntropy | Objective::Margin => 2,
            Objective::Dlr => 3,
            Objective::DlrTargeted => 4,
        }
    }

    /// The value, and its gradient in `dz` divided by the gradient's largest entry (all 0 where that is 0).
    ///
    /// # Panics
    /// With fewer classes than [`classes_min`](Self::classes_min): attacks refuse that before.
    pub fn ascend(self, z: &[f32], label: usize, target: Option<usize>, dz: &mut [f32]) -> f64 {
        assert!(z.len() >= self.classes_min() && dz.len() == z.len(), "too few classes: bug");
        let mut d = vec![0.0f64; z.len()];
        let at = |i: usize| f64::from(z[i]);
        let value = match self {
            Objective::CrossEntropy => {
                let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let e: Vec<f64> = z.iter().map(|z| f64::from(z - max).exp()).collect();
                let sum: f64 = e.iter().sum();
                let mut others = 0.0;
                for (j, e) in e.iter().enumerate().filter(|&(j, _)| j != label) {
                    d[j] = e / sum;
                    others += d[j];
                }
                d[label] = -others;
                sum.ln() + f64::from(max) - at(label)
            }
            Objective::Margin => {
                let t = target.unwrap_or_else(|| runner_up(z, label));
                (d[label], d[t]) = (-1.0, 1.0);
                at(t) - at(label)
            }
            Objective::Dlr => {
                let order = descending(z);
                let t = if order[0] == label { order[1] } else { order[0] };
                let (over, under) = (at(label) - at(t), at(order[0]) - at(order[2]) + TINY);
                d[label] -= 1.0 / under;
                d[t] += 1.0 / under;
                d[order[0]] += over / (under * under);
                d[order[2]] -= over / (under * under);
                -over / under
            }
            Objective::DlrTargeted => {
                let order = descending(z);
                let t = target.unwrap_or_else(|| runner_up(z, label));
                let over = at(label) - at(t);
                let under = at(order[0]) - 0.5 * (at(order[2]) + at(order[3])) + TINY;
                d[label] -= 1.0 / under;
                d[t] += 1.0 / under;
                d[order[0]] += over / (under * under);
                d[order[2]] -= 0.5 * over / (under * under);
                d[order[3]] -= 0.5 * over / (under * under);
                -over / under
            }
        };
        let largest = d.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (out, d) in dz.iter_mut().zip(&d) {
            *out = if largest > 0.0 { (d / largest) as f32 } else { 0.0 };
        }
        value
    }
}

/// The strongest class that is not the label.
pub(crate) fn runner_up(z: &[f32], label: usize) -> usize {
    let mut best = usize::from(label == 0);
    for j in (0..z.len()).filter(|&j| j != label) {
        if z[j] > z[best] {
            best = j;
        }
    }
    best
}

/// Classes from the strongest to the weakest; equals in their order.
pub(crate) fn descending(z: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const Z: [f32; 5] = [1.2, -0.3, 0.8, 2.5, 0.1];

    #[test]
    fn directions_agree_with_finite_differences() {
        for objective in [Objective::CrossEntropy, Objective::Margin, Objective::Dlr, Objective::DlrTargeted]
        {
            for label in 0..5 {
                let target = Some((label + 2) % 5);
                let mut dz = [0.0; 5];
                objective.ascend(&Z, label, target, &mut dz);
                let numeric: Vec<f64> = (0..5)
                    .map(|j| {
                        let at = |h: f32| {
                            let mut z = Z;
                            z[j] += h;
                            objective.ascend(&z, label, target, &mut [0.0; 5])
                        };
                        (at(1e-2) - at(-1e-2)) / 2e-2
                    })
                    .collect();
                let scale = numeric.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                for j in 0..5 {
                    let error = (f64::from(dz[j]) - numeric[j] / scale).abs();
                    assert!(error < 2e-3, "{objective:?} label {label} logit {j}: {} {numeric:?}", dz[j]);
                }
            }
        }
    }

    #[test]
    fn values_equal_autoattacks() {
        // pyautoattack 0.2: dlr_loss and dlr_loss_targeted of these logits with labels 3 and 0, target 2.
        let value = |o: Objective, label, target| o.ascend(&Z, label, target, &mut [0.0; 5]);
        assert!((value(Objective::Dlr, 3, None) - -(2.5 - 1.2) / (2.5 - 0.8)).abs() < 1e-6);
        assert!((value(Objective::Dlr, 0, None) - (2.5 - 1.2) / (2.5 - 0.8)).abs() < 1e-6);
        let targeted = value(Objective::DlrTargeted, 0, Some(2));
        assert!((targeted - -(1.2 - 0.8) / (2.5 - 0.5 * (0.8 + 0.1))).abs() < 1e-6, "{targeted}");
    }

    #[test]
    fn a_sure_model_still_has_a_direction_and_a_model_beyond_f64_has_none() {
        let mut dz = [0.0; 3];
        Objective::CrossEntropy.ascend(&[200.0, 0.0, 1.0], 0, None, &mut dz);
        assert!((dz[0] + 1.0).abs() < 1e-6 && dz[2] > 0.7, "{dz:?}");
        Objective::CrossEntropy.ascend(&[1e5, 0.0, 1.0], 0, None, &mut dz);
        assert_eq!(dz, [0.0; 3]);
    }
}
