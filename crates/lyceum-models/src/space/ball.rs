//! The points within ε of one row that the bounds allow.

use super::{Domain, Norm};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The points within `eps` of `centre`, inside the bounds.
pub struct Ball<'a> {
    domain: &'a Domain,
    norm: Norm,
    eps: f32,
    centre: &'a [f32],
}

impl<'a> Ball<'a> {
    pub fn new(domain: &'a Domain, norm: Norm, eps: f64, centre: &'a [f32]) -> Self {
        Ball { domain, norm, eps: eps as f32, centre }
    }

    /// Moves `z` to the nearest point of the ball inside the bounds, which contain the centre `c`.
    ///
    /// For L2 that is `cut(c + s (z − c))` with the one `s ≤ 1` whose length is ε (Karush, Kuhn and Tucker);
    /// numbers that stop at a bound leave their part of ε to the others, and with growing `s` only more of them
    /// stop, so going from one set to the next ends.
    pub fn project(&self, z: &mut [f32]) {
        match self.norm {
            Norm::Linf => {
                for (z, &c) in z.iter_mut().zip(self.centre) {
                    *z = z.clamp(c - self.eps, c + self.eps);
                }
            }
            Norm::L2 => {
                let free: f64 = z.iter().zip(self.centre).map(|(z, c)| f64::from(z - c).powi(2)).sum();
                let eps = f64::from(self.eps);
                let mut s = (eps / free.sqrt()).min(1.0);
                let mut n_stopped = usize::MAX;
                loop {
                    let (mut stopped, mut free, mut n) = (0.0f64, 0.0f64, 0);
                    for (j, (z, &c)) in z.iter().zip(self.centre).enumerate() {
                        let (lo, hi) = self.domain.bounds(j, c);
                        let d = f64::from(z - c);
                        let room = f64::from(if d > 0.0 { hi - c } else { lo - c });
                        if s * d.abs() > room.abs() {
                            stopped += room * room;
                            n += 1;
                        } else {
                            free += d * d;
                        }
                    }
                    if n == n_stopped || free == 0.0 {
                        break;
                    }
                    n_stopped = n;
                    s = (((eps * eps - stopped).max(0.0)) / free).sqrt().clamp(s, 1.0);
                }
                for (z, &c) in z.iter_mut().zip(self.centre) {
                    *z = c + ((f64::from(*z) - f64::from(c)) * s) as f32;
                }
            }
        }
        self.cut(z);
    }

    /// Cuts to the bounds only; numbers that may not move go back.
    pub fn cut(&self, z: &mut [f32]) {
        for (j, (z, &c)) in z.iter_mut().zip(self.centre).enumerate() {
            let (lo, hi) = self.domain.bounds(j, c);
            *z = z.clamp(lo, hi);
        }
    }

    /// A uniformly random point of the ball, cut to the bounds.
    pub fn random(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let movable = self.domain.movable();
        let mut z: Vec<f32> = match self.norm {
            Norm::Linf => {
                (0..self.centre.len()).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * self.eps).collect()
            }
            Norm::L2 => {
                let mut v: Vec<f32> = (0..self.centre.len()).map(|_| gaussian(rng)).collect();
                v.iter_mut().zip(movable).filter(|(_, movable)| !**movable).for_each(|(v, _)| *v = 0.0);
                // A radius of eps·U^(1/d) makes the point uniform.
                let d = movable.iter().filter(|m| **m).count() as f32;
                let radius = self.eps * rng.random::<f32>().powf(1.0 / d);
                let length = (Norm::L2.of(v.iter().copied()) as f32).max(f32::MIN_POSITIVE);
                v.iter_mut().for_each(|v| *v *= radius / length);
                v
            }
        };
        z.iter_mut().zip(self.centre).for_each(|(z, c)| *z += c);
        self.cut(&mut z);
        z
    }

    /// A random point as far from the centre as the ball lets, cut to the bounds: AutoAttack's start.
    pub fn far(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut v: Vec<f32> = (0..self.centre.len())
            .map(|_| match self.norm {
                Norm::Linf => rng.random::<f32>() * 2.0 - 1.0,
                Norm::L2 => gaussian(rng),
            })
            .collect();
        v.iter_mut().zip(self.domain.movable()).filter(|(_, m)| !**m).for_each(|(v, _)| *v = 0.0);
        let length = (self.norm.of(v.iter().copied()) as f32).max(f32::MIN_POSITIVE);
        v.iter_mut().zip(self.centre).for_each(|(v, c)| *v = c + *v * self.eps / length);
        self.cut(&mut v);
        v
    }
}

/// The longest step of length `length` that follows `direction`: its sign, or its unit vector; a zero direction has
/// no step.
pub fn steepest(norm: Norm, direction: &[f32], length: f32, step: &mut [f32]) {
    match norm {
        Norm::Linf => {
            for (s, &g) in step.iter_mut().zip(direction) {
                *s = if g > 0.0 {
                    length
                } else if g < 0.0 {
                    -length
                } else {
                    0.0
                };
            }
        }
        Norm::L2 => {
            // Scaled by the largest entry first: squares of tiny gradients would vanish.
            let largest = direction.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            if largest == 0.0 {
                return step.fill(0.0);
            }
            let norm = Norm::L2.of(direction.iter().map(|g| g / largest)) as f32;
            for (s, &g) in step.iter_mut().zip(direction) {
                *s = g / largest / norm * length;
            }
        }
    }
}

/// N(0, 1) by Box and Muller.
pub fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    let u = 1.0 - rng.random::<f64>();
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Layout;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_projection_is_inside_and_no_inside_point_is_nearer(
            c in prop::collection::vec(0.0f32..1.0, 5),
            z in prop::collection::vec(-2.0f32..3.0, 5),
            v in prop::collection::vec(-1.0f32..1.0, 5),
        ) {
            let domain = Domain::boxed(Layout::Features { n: 5 }, 0.0, 1.0);
            for norm in [Norm::Linf, Norm::L2] {
                let ball = Ball::new(&domain, norm, 0.4, &c);
                let far = |p: &[f32]| Norm::L2.of(p.iter().zip(&z).map(|(p, z)| p - z));
                let size = |p: &[f32]| norm.of(p.iter().zip(&c).map(|(p, c)| p - c));
                let mut p = z.clone();
                ball.project(&mut p);
                prop_assert!(size(&p) <= 0.4 * (1.0 + 1e-6) && p.iter().all(|x| (0.0..=1.0).contains(x)));
                // Any inside point: a random direction from the centre, cut to both.
                let length = norm.of(v.iter().copied()).max(1e-9) as f32;
                let q: Vec<f32> = c.iter().zip(&v).map(|(c, v)| (c + v / length * 0.4).clamp(0.0, 1.0)).collect();
                prop_assert!(far(&p) <= far(&q) + 1e-5);
            }
        }
    }
}
