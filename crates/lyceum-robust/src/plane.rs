//! The smallest move inside a box that reaches a hyperplane: exact, for both norms.
//!
//! Minimise `‖δ‖` with `w·δ = c` and `lo ≤ u + δ ≤ hi`. Take `c ≥ 0` (else turn `w`). Number `j` may go up to
//! `m_j` in the direction of `w_j`, and in the best move it has gone `min(t·r_j, m_j)` at a common "time" `t`,
//! with `r_j = 1` for L∞ and `r_j = |w_j|` for L2 (the condition of Karush, Kuhn and Tucker). The gain
//! `Σ |w_j| · min(t·r_j, m_j)` rises with `t`, in straight pieces between the times `m_j / r_j` at which
//! numbers reach their bounds: walk over them in order. FAB projects with it (Croce & Hein 2020), and it is the
//! exact distance of a row from a linear model's border.

use lyceum_models::space::Domain;
use lyceum_models::space::Norm;

/// The move to a plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub delta: Vec<f32>,
    /// `‖δ‖`.
    pub length: f64,
    /// Whether the plane lies within reach; if not, `delta` is as far as the box lets go.
    pub reaches: bool,
}

/// The nearest point to row `u` on the plane `w·(u + δ) = w·u + c`.
pub fn nearest(domain: &Domain, norm: Norm, u: &[f32], w: &[f32], c: f64) -> Move {
    let turn = if c < 0.0 { -1.0 } else { 1.0 };
    let (mut room, mut stops) = (vec![0.0f64; u.len()], Vec::with_capacity(u.len()));
    let rate = |j: usize| match norm {
        Norm::Linf => 1.0,
        Norm::L2 => f64::from(w[j].abs()),
    };
    // What one unit of time gains while no number has stopped.
    let mut speed = 0.0;
    for j in 0..u.len() {
        let wj = f64::from(w[j]) * turn;
        let (lo, hi) = domain.bounds(j, u[j]);
        room[j] = f64::from(if wj > 0.0 { hi - u[j] } else { u[j] - lo }).max(0.0);
        if wj != 0.0 && room[j] > 0.0 {
            speed += wj.abs() * rate(j);
            stops.push((room[j] / rate(j), j));
        }
    }
    stops.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut time, mut gained, goal) = (0.0f64, 0.0f64, c.abs());
    let mut reaches = goal == 0.0;
    for &(stop, j) in &stops {
        if reaches {
            break;
        }
        if gained + speed * (stop - time) >= goal {
            time += (goal - gained) / speed;
            reaches = true;
        } else {
            gained += speed * (stop - time);
            time = stop;
            speed -= f64::from(w[j].abs()) * rate(j);
        }
    }
    let delta: Vec<f32> = (0..u.len())
        .map(|j| {
            let wj = f64::from(w[j]) * turn;
            if wj == 0.0 { 0.0 } else { (wj.signum() * (time * rate(j)).min(room[j])) as f32 }
        })
        .collect();
    let length = norm.of(delta.iter().copied());
    Move { delta, length, reaches }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::space::Layout;
    use proptest::prelude::*;

    fn gain(w: &[f32], delta: &[f32]) -> f64 {
        w.iter().zip(delta).map(|(w, d)| f64::from(*w) * f64::from(*d)).sum()
    }

    #[test]
    fn without_bounds_it_is_the_dual_norm() {
        let domain = Domain::boxed(Layout::Features { n: 2 }, f32::NEG_INFINITY, f32::INFINITY);
        let (u, w) = ([1.0, 2.0], [3.0, -4.0]);
        for (norm, length) in [(Norm::Linf, 10.0 / 7.0), (Norm::L2, 2.0)] {
            let found = nearest(&domain, norm, &u, &w, 10.0);
            assert!(found.reaches && (found.length - length).abs() < 1e-6, "{norm:?} {found:?}");
            assert!((gain(&w, &found.delta) - 10.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_plane_out_of_reach_is_said_to_be() {
        let domain = Domain::boxed(Layout::Features { n: 2 }, 0.0, 1.0);
        let found = nearest(&domain, Norm::L2, &[0.5, 0.5], &[1.0, 1.0], -2.0);
        assert!(!found.reaches);
        assert_eq!(found.delta, [-0.5, -0.5]);
    }

    proptest! {
        #[test]
        fn no_random_move_reaches_the_plane_with_less(
            u in prop::collection::vec(0.0f32..1.0, 6),
            w in prop::collection::vec(-1.0f32..1.0, 6),
            v in prop::collection::vec(-1.0f32..1.0, 6),
            c in -1.0f64..1.0,
        ) {
            let domain = Domain::boxed(Layout::Features { n: 6 }, 0.0, 1.0);
            for norm in [Norm::Linf, Norm::L2] {
                let best = nearest(&domain, norm, &u, &w, c);
                prop_assert!(!best.reaches || (gain(&w, &best.delta) - c).abs() < 1e-4);
                // A move in direction v, cut to the box and grown until it reaches the plane, is no shorter.
                let at = |s: f32| -> Vec<f32> {
                    (0..6).map(|j| (u[j] + s * v[j]).clamp(0.0, 1.0) - u[j]).collect()
                };
                for s in (1..400).map(|i| i as f32 * 0.01) {
                    let delta = at(s);
                    if gain(&w, &delta) * c.signum() >= c.abs() {
                        prop_assert!(best.reaches);
                        prop_assert!(norm.of(delta.iter().copied()) >= best.length - 1e-4);
                        break;
                    }
                }
            }
        }
    }
}
