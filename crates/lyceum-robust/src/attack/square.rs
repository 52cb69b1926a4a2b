//! The Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search without gradients, so a
//! model that only hides its gradients does not stop it. A change is kept where it lowers the margin.
//!
//! L∞: a random square gets ±2ε, cut back to the ball, so that nearly all numbers sit at ±ε; the start is
//! vertical stripes. L2: a square takes over the budget of another square, with a pattern that is large at its
//! middle. Squares shrink on the paper's schedule. Of a series the "square" is a stretch of steps; columns of a
//! table have no order, so there it is a random set of columns, each with its own sign.

use super::{Ball, Batch, Found};
use crate::error::RobustError;
use crate::objective::runner_up;
use crate::threat::Threat;
use crate::victim::Victim;
use lyceum_models::space::Norm;
use lyceum_models::space::{Domain, Layout};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The share of a picture that the first squares cover.
const P_INIT: f64 = 0.8;

/// # Errors
/// The L2 attack anywhere but on pictures of at least 5 by 5 pixels.
pub(super) fn check(domain: &Domain, norm: Norm) -> Result<(), RobustError> {
    match (norm, domain.layout) {
        (Norm::Linf, _) => Ok(()),
        (Norm::L2, Layout::Image { height, width, .. }) if height >= 5 && width >= 5 => Ok(()),
        (Norm::L2, _) => Err(RobustError::unsupported(
            "square (l2)",
            "its pattern of squares needs pictures of at least 5 by 5 pixels",
            "use norm = \"linf\", or pgd, apgd-ce and fab-t for l2",
        )),
    }
}

/// A row on its way.
struct Row {
    place: usize,
    z: Vec<f32>,
    margin: f32,
    rng: ChaCha8Rng,
}

pub(super) fn run(
    victim: &mut Victim<'_>,
    batch: &Batch,
    threat: Threat,
    queries: usize,
) -> Result<Found, RobustError> {
    let (width, domain) = (victim.domain().len(), victim.domain());
    let grid = Grid::of(domain.layout);
    let row = |i: usize| &batch.u[i * width..(i + 1) * width];
    let mut found: Found = vec![None; batch.len()];
    let mut rows: Vec<Row> = (0..batch.len())
        .map(|i| {
            let mut rng = batch.rng(i);
            let mut z = match threat.norm {
                Norm::Linf => grid.stripes(row(i), threat.eps as f32, &mut rng),
                Norm::L2 => grid.tiles(row(i), threat.eps as f32, &mut rng),
            };
            Ball::new(domain, threat.norm, threat.eps, row(i)).project(&mut z);
            Row { place: i, z, margin: f32::INFINITY, rng }
        })
        .collect();
    let mut candidates: Vec<f32> = rows.iter().flat_map(|r| &r.z).copied().collect();
    for query in 0..=queries {
        let logits = victim.logits(&candidates)?;
        let mut still = Vec::with_capacity(rows.len());
        let shapes = candidates.chunks_exact(width).zip(logits.chunks_exact(victim.n_classes()));
        for (mut r, (candidate, z)) in rows.into_iter().zip(shapes) {
            let label = batch.labels[r.place] as usize;
            let margin = z[label] - z[runner_up(z, label)];
            if margin < r.margin || margin < 0.0 {
                r.margin = margin;
                r.z.copy_from_slice(candidate);
            }
            if margin < 0.0 {
                found[r.place] = Some(r.z);
            } else {
                still.push(r);
            }
        }
        rows = still;
        if rows.is_empty() || query == queries {
            break;
        }
        let share = share_of(query);
        candidates.clear();
        for r in &mut rows {
            let (u, start) = (row(r.place), candidates.len());
            candidates.extend_from_slice(&r.z);
            let z = &mut candidates[start..];
            match threat.norm {
                Norm::Linf => grid.repaint(z, share, threat.eps as f32, &mut r.rng),
                Norm::L2 => grid.shift_budget(z, u, share, threat.eps as f32, &mut r.rng),
            }
            Ball::new(domain, threat.norm, threat.eps, u).project(z);
        }
    }
    Ok(found)
}

/// The share of the picture that the square of this query covers.
fn share_of(query: usize) -> f64 {
    let halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
    P_INIT / f64::from(1u32 << halvings.iter().filter(|&&q| query > q).count())
}

/// A row as channels of a plane.
struct Grid {
    channels: usize,
    height: usize,
    width: usize,
    layout: Layout,
}

impl Grid {
    fn of(layout: Layout) -> Self {
        let (channels, height, width) = match layout {
            Layout::Image { channels, height, width } => (channels, height, width),
            Layout::Series { steps, channels } => (channels, 1, steps),
            Layout::Features { n } => (1, 1, n),
        };
        Grid { channels, height, width, layout }
    }

    fn at(&self, channel: usize, y: usize, x: usize) -> usize {
        match self.layout {
            Layout::Series { channels, .. } => x * channels + channel,
            _ => (channel * self.height + y) * self.width + x,
        }
    }

    /// A square's side (the stretch's length where the plane is a line).
    fn side(&self, share: f64, least: usize) -> usize {
        let area = share * (self.height * self.width) as f64;
        let side = if self.height == 1 { area } else { area.sqrt() };
        let room = if self.height == 1 { self.width } else { self.height.min(self.width) };
        (side.round() as usize).max(least).min(room)
    }

    fn corner(&self, side: usize, rng: &mut ChaCha8Rng) -> (usize, usize) {
        let y = if self.height == 1 { 0 } else { rng.random_range(0..=self.height - side) };
        (y, rng.random_range(0..=self.width - side))
    }

    fn stripes(&self, u: &[f32], eps: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut z = u.to_vec();
        for c in 0..self.channels {
            for x in 0..self.width {
                let change = sign(rng) * eps;
                (0..self.height).for_each(|y| z[self.at(c, y, x)] += change);
            }
        }
        z
    }

    fn repaint(&self, z: &mut [f32], share: f64, eps: f32, rng: &mut ChaCha8Rng) {
        let side = self.side(share, 1);
        if let Layout::Features { n } = self.layout {
            let mut columns: Vec<usize> = (0..n).collect();
            columns.shuffle(rng);
            columns[..side].iter().for_each(|&j| z[j] += 2.0 * eps * sign(rng));
            return;
        }
        let (top, left) = self.corner(side, rng);
        let rows = if self.height == 1 { 1 } else { side };
        for c in 0..self.channels {
            let change = 2.0 * eps * sign(rng);
            for y in top..top + rows {
                (left..left + side).for_each(|x| z[self.at(c, y, x)] += change);
            }
        }
    }

    /// The L2 start: a grid of tiles, each with the pattern and a random sign, of length ε together.
    fn tiles(&self, u: &[f32], eps: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let side = self.height.min(self.width) / 5;
        let first = (self.height.min(self.width) - side * 5) / 2;
        let mut delta = vec![0.0; u.len()];
        let tops = (first..).step_by(side).take_while(|top| top + side <= self.height);
        for top in tops {
            for left in (first..).step_by(side).take_while(|left| left + side <= self.width) {
                let pattern = pattern(side, rng);
                for c in 0..self.channels {
                    let s = sign(rng);
                    for (y, x) in square(side) {
                        delta[self.at(c, top + y, left + x)] += pattern[y * side + x] * s;
                    }
                }
            }
        }
        let length = (Norm::L2.of(delta.iter().copied()) as f32).max(f32::MIN_POSITIVE);
        u.iter().zip(&delta).map(|(u, d)| u + d / length * eps).collect()
    }

    /// The L2 move: square two gives its budget, and what is unused of ε, to square one.
    fn shift_budget(&self, z: &mut [f32], u: &[f32], share: f64, eps: f32, rng: &mut ChaCha8Rng) {
        let mut side = self.side(share, 3);
        if side.is_multiple_of(2) {
            side = if side < self.height.min(self.width) { side + 1 } else { side - 1 };
        }
        let (one, two) = (self.corner(side, rng), self.corner(side, rng));
        let mut delta: Vec<f32> = z.iter().zip(u).map(|(z, u)| z - u).collect();
        let used = Norm::L2.of(delta.iter().copied()) as f32;
        let inside = |(y, x): (usize, usize), (top, left): (usize, usize)| {
            (top..top + side).contains(&y) && (left..left + side).contains(&x)
        };
        let pattern = pattern(side, rng);
        for c in 0..self.channels {
            let mut windows = 0.0;
            for y in 0..self.height {
                for x in 0..self.width {
                    if inside((y, x), one) || inside((y, x), two) {
                        windows += delta[self.at(c, y, x)].powi(2);
                    }
                }
            }
            let own = square(side).map(|(y, x)| delta[self.at(c, one.0 + y, one.1 + x)].powi(2)).sum::<f32>();
            let (own, s) = (own.sqrt() + 1e-12, sign(rng));
            let fresh: Vec<f32> = square(side)
                .map(|(y, x)| pattern[y * side + x] * s + delta[self.at(c, one.0 + y, one.1 + x)] / own)
                .collect();
            let length = Norm::L2.of(fresh.iter().copied()) as f32 + 1e-12;
            let unused = (eps * eps - used * used).max(0.0) / self.channels as f32;
            let budget = (unused + windows).sqrt() / length;
            for (y, x) in square(side) {
                delta[self.at(c, two.0 + y, two.1 + x)] = 0.0;
            }
            for ((y, x), f) in square(side).zip(&fresh) {
                delta[self.at(c, one.0 + y, one.1 + x)] = f * budget;
            }
        }
        let length = (Norm::L2.of(delta.iter().copied()) as f32).max(f32::MIN_POSITIVE);
        for ((z, u), d) in z.iter_mut().zip(u).zip(&delta) {
            *z = u + d / length * eps;
        }
    }
}

fn square(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side).flat_map(move |y| (0..side).map(move |x| (y, x)))
}

fn sign(rng: &mut ChaCha8Rng) -> f32 {
    if rng.random::<bool>() { 1.0 } else { -1.0 }
}

/// The paper's η: two rectangles of opposite sign, each with its mass at the middle, of length 1 together, lying
/// or standing.
fn pattern(side: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let half = side / 2;
    let mut out = vec![0.0f32; side * side];
    rectangle(half, side, &mut out[..half * side]);
    rectangle(side - half, side, &mut out[half * side..]);
    out[half * side..].iter_mut().for_each(|v| *v = -*v);
    let length = Norm::L2.of(out.iter().copied()) as f32;
    out.iter_mut().for_each(|v| *v /= length);
    if rng.random::<bool>() {
        out = square(side).map(|(y, x)| out[x * side + y]).collect();
    }
    out
}

/// `Σ_k 1/k²` over rectangles that grow from the middle, of length 1.
fn rectangle(height: usize, width: usize, out: &mut [f32]) {
    let (half_h, half_w) = (height / 2, width / 2);
    for k in 0..=half_h.max(half_w) {
        let (top, left) = (half_h as isize - k as isize, half_w as isize - k as isize);
        let reach = 2 * k as isize + 1;
        for y in top.max(0)..(top + reach).min(height as isize) {
            for x in left.max(0)..(left + reach).min(width as isize) {
                out[y as usize * width + x as usize] += 1.0 / ((k + 1) * (k + 1)) as f32;
            }
        }
    }
    let length = Norm::L2.of(out.iter().copied()) as f32;
    out.iter_mut().for_each(|v| *v /= length.max(f32::MIN_POSITIVE));
}
