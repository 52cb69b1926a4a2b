//! One step's loss on a grid.
//!
//! With the output z, `L(z) = ln((1 − q) + q·exp((2z − 1)/2σ²))` rises with z, so a cell of losses is a cell of
//! outputs, and its masses under N(0, σ²) and the mixture are differences of Gaussian tails.

use super::Direction;
use crate::math::{log_mix, normal_cdf};
use crate::mechanism::Event;

/// The masses of every cell of one step.
pub(super) struct Step {
    grid: f64,
    /// The first cell's lower end is `first · grid`.
    first: i64,
    /// Under the mixture and under N(0, σ²).
    mixture: Vec<Mass>,
    base: Vec<Mass>,
    /// Below the first cell and above the last, under each.
    below: [f64; 2],
    above: [f64; 2],
}

/// A cell's mass, and a bound on the rounding error of the tails it is the difference of.
#[derive(Clone, Copy)]
struct Mass {
    mass: f64,
    error: f64,
}

/// A step's loss as atoms `(first + i) · grid`, and the mass of an infinite loss.
pub(super) struct Atoms {
    pub grid: f64,
    pub first: i64,
    pub mass: Vec<f64>,
    pub infinite: f64,
}

/// How far losses reach from the least to the greatest within `reach` deviations.
pub(super) fn loss_range(event: &Event, reach: f64) -> f64 {
    let [low, high] = ends(event, reach);
    high - low
}

fn ends(event: &Event, reach: f64) -> [f64; 2] {
    let (q, sigma) = (event.q(), event.sigma());
    let loss = |z: f64| log_mix(q, (2.0 * z - 1.0) / (2.0 * sigma * sigma));
    [loss(-reach * sigma), loss(1.0 + reach * sigma)]
}

/// The output that has this loss; −∞ for losses that none has.
fn output(q: f64, sigma: f64, loss: f64) -> f64 {
    let u = if loss > 30.0 {
        loss - q.ln() + (-(1.0 - q) * (-loss).exp()).ln_1p()
    } else {
        let ratio = loss.exp_m1() / q;
        if ratio <= -1.0 { f64::NEG_INFINITY } else { ratio.ln_1p() }
    };
    sigma * sigma * u + 0.5
}

/// Which tail `P(|N| > |x|)/2` is of: below 0 or above.
#[derive(Clone, Copy)]
struct Tail {
    x: f64,
    mass: f64,
}

impl Tail {
    fn at(x: f64) -> Self {
        Tail { x, mass: normal_cdf(-x.abs()) }
    }

    /// The mass from here to `upper`, and its rounding error.
    fn to(self, upper: Tail) -> Mass {
        let mass = match (self.x > 0.0, upper.x > 0.0) {
            (true, _) => self.mass - upper.mass,
            (false, false) => upper.mass - self.mass,
            (false, true) => 1.0 - self.mass - upper.mass,
        };
        let error = 8.0 * f64::EPSILON * self.mass.max(upper.mass);
        Mass { mass: mass.max(0.0), error }
    }

    fn below(self) -> f64 {
        if self.x > 0.0 { 1.0 - self.mass } else { self.mass }
    }

    fn above(self) -> f64 {
        if self.x > 0.0 { self.mass } else { 1.0 - self.mass }
    }
}

impl Atoms {
    /// Raises the lowest losses, whose share of the tilted mass is at most `share`, to the first of the others:
    /// a long tail below would only widen the window.
    pub(super) fn raise_lowest(&mut self, tilt: f64, share: f64) {
        let log_weight = |(i, m): (usize, &f64)| m.ln() + tilt * (self.first + i as i64) as f64 * self.grid;
        let largest = self.mass.iter().enumerate().map(log_weight).fold(f64::NEG_INFINITY, f64::max);
        let weight = |(i, m)| (log_weight((i, m)) - largest).exp();
        let whole: f64 = self.mass.iter().enumerate().map(weight).sum();
        let (mut below, mut raised, mut n) = (0.0, 0.0, 0);
        for (i, m) in self.mass.iter().enumerate() {
            below += weight((i, m));
            if below > share * whole {
                break;
            }
            raised += m;
            n = i + 1;
        }
        self.mass.drain(..n.min(self.mass.len() - 1));
        self.first += n as i64;
        self.mass[0] += raised;
    }
}

impl Step {
    pub(super) fn new(event: &Event, grid: f64, reach: f64) -> Self {
        let (q, sigma) = (event.q(), event.sigma());
        let [low, high] = ends(event, reach);
        let (first, last) = ((low / grid).floor() as i64, (high / grid).ceil() as i64);
        let n = (last - first).max(1) as usize;
        let tails = |i: usize| {
            let z = output(q, sigma, (first + i as i64) as f64 * grid);
            (Tail::at(z / sigma), Tail::at((z - 1.0) / sigma))
        };
        let mix = |without: f64, with: f64| (1.0 - q) * without + q * with;
        let (mut mixture, mut base) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let start = tails(0);
        let mut lower = start;
        for i in 1..=n {
            let upper = tails(i);
            let (without, with) = (lower.0.to(upper.0), lower.1.to(upper.1));
            mixture.push(Mass { mass: mix(without.mass, with.mass), error: mix(without.error, with.error) });
            base.push(without);
            lower = upper;
        }
        let below = [mix(start.0.below(), start.1.below()), start.0.below()];
        let above = [mix(lower.0.above(), lower.1.above()), lower.0.above()];
        Step { grid, first, mixture, base, below, above }
    }

    /// The loss in one direction as atoms at the ends of the cells.
    pub(super) fn atoms(&self, direction: Direction) -> Atoms {
        let n = self.mixture.len();
        // Cells by rising loss; in the direction of adding, a cell's loss is the negative one.
        let (p, q, first, low, infinite): (_, _, _, _, f64) = match direction {
            Direction::Remove => (&self.mixture, &self.base, self.first, self.below[0], self.above[0]),
            Direction::Add => {
                (&self.base, &self.mixture, -(self.first + n as i64), self.above[1], self.below[1])
            }
        };
        let mut mass = vec![0.0; n + 1];
        mass[0] = low;
        let rise = -(-self.grid).exp_m1();
        for i in 0..n {
            let cell = if direction == Direction::Remove { i } else { n - 1 - i };
            let (p, q) = (p[cell], q[cell]);
            let scale = ((first + i as i64) as f64 * self.grid).exp();
            // The upper atom's share keeps the mass under Q: a·e^{−l} + b·e^{−l−Δ} = q. Rounding goes up.
            let whole = p.mass + p.error;
            let error = p.error + q.error * scale;
            let up = ((whole - q.mass * scale + error) / rise).clamp(0.0, whole);
            let up = if up.is_finite() { up } else { whole };
            mass[i] += whole - up;
            mass[i + 1] += up;
        }
        Atoms { grid: self.grid, first, mass, infinite }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_keep_both_masses() {
        for (q, sigma) in [(0.3, 0.7), (1e-3, 2.0), (1.0, 1.0)] {
            let event = Event::new(q, sigma, 1).unwrap();
            let step = Step::new(&event, loss_range(&event, 9.0) / 500.0, 9.0);
            for direction in [Direction::Remove, Direction::Add] {
                let atoms = step.atoms(direction);
                let under_p: f64 = atoms.mass.iter().sum::<f64>() + atoms.infinite;
                let loss = |i: usize| (atoms.first + i as i64) as f64 * atoms.grid;
                let under_q: f64 = atoms.mass.iter().enumerate().map(|(i, m)| m * (-loss(i)).exp()).sum();
                assert!((under_p - 1.0).abs() < 1e-12, "{q} {sigma} {direction:?}: {under_p}");
                assert!((under_q - 1.0).abs() < 1e-9, "{q} {sigma} {direction:?}: {under_q}");
            }
        }
    }

    #[test]
    fn an_output_has_the_loss_that_asks_for_it() {
        for loss in [-0.2, 0.0, 1e-9, 3.0, 29.0, 31.0] {
            let z = output(0.3, 0.9, loss);
            let again = log_mix(0.3, (2.0 * z - 1.0) / (2.0 * 0.81));
            assert!((again - loss).abs() < 1e-12, "{loss} {again}");
        }
        assert_eq!(output(0.3, 0.9, -1.0), f64::NEG_INFINITY);
    }
}
