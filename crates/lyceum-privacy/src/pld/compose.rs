//! Sums of independent losses: tilt, transform, power, transform back, read ε.

use super::step::Atoms;
use realfft::RealFftPlanner;
use realfft::num_complex::Complex;

/// The tilted mass outside the window is at most `2·exp(−OUTSIDE)`.
const OUTSIDE: f64 = 18.0;

/// All steps in one direction, tilted.
pub(super) struct Terms {
    grid: f64,
    tilt: f64,
    list: Vec<Term>,
}

/// One kind of step, repeated.
struct Term {
    n: u64,
    first: i64,
    log_mass: Vec<f64>,
    infinite: f64,
    /// `ln E e^{λL}`
    cumulant: f64,
}

/// The losses that the transform distinguishes.
#[derive(Clone, Copy)]
pub(super) struct Window {
    bottom: f64,
    top: f64,
}

impl Window {
    pub(super) fn width(self) -> f64 {
        self.top - self.bottom
    }

    /// Where the tilted sum of the losses lies but for `2·exp(−OUTSIDE)`, by Chernoff's bound, and as high as
    /// the mass above it must be small against δ.
    pub(super) fn around(terms: &Terms, delta: f64) -> Self {
        let (mean, variance) = terms.moments();
        let deviation = variance.sqrt().max(terms.grid);
        let log_m = terms.cumulant();
        let (mut top, mut bottom) = (f64::INFINITY, f64::NEG_INFINITY);
        // Light tails are bounded best by the largest, heavy ones by small ones.
        for factor in [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0] {
            let s = factor / deviation;
            top = top.min((terms.cumulant_at(terms.tilt + s) - log_m + OUTSIDE) / s);
            bottom = bottom.max((log_m - terms.cumulant_at(terms.tilt - s) - OUTSIDE) / s);
        }
        top = top.max((log_m - delta.ln() - OUTSIDE + 9.0) / terms.tilt).max(mean + terms.grid);
        Window { bottom: bottom.min(mean - terms.grid), top }
    }
}

impl Terms {
    pub(super) fn new(steps: Vec<(Atoms, u64)>, tilt: f64) -> Self {
        let grid = steps.first().map_or(1.0, |(atoms, _)| atoms.grid);
        let total: f64 = steps.iter().map(|(_, n)| *n as f64).sum();
        let term = |(mut atoms, n): (Atoms, u64)| {
            atoms.raise_lowest(tilt, (-OUTSIDE).exp() / total);
            let log_mass = atoms.mass.iter().map(|m| m.ln()).collect();
            let mut term = Term { n, first: atoms.first, log_mass, infinite: atoms.infinite, cumulant: 0.0 };
            term.cumulant = term.cumulant_at(tilt, grid);
            term
        };
        Terms { grid, tilt, list: steps.into_iter().map(term).collect() }
    }

    /// Of the sum of all steps at the tilt, `ln M`.
    fn cumulant(&self) -> f64 {
        self.list.iter().map(|t| t.n as f64 * t.cumulant).sum()
    }

    fn cumulant_at(&self, lambda: f64) -> f64 {
        self.list.iter().map(|t| t.n as f64 * t.cumulant_at(lambda, self.grid)).sum()
    }

    /// Mean and variance of the tilted sum.
    fn moments(&self) -> (f64, f64) {
        let (mut mean, mut variance) = (0.0, 0.0);
        for term in &self.list {
            let (mut first, mut second) = (0.0, 0.0);
            for (loss, p) in term.tilted(self.tilt, self.grid) {
                first += p * loss;
                second += p * loss * loss;
            }
            mean += term.n as f64 * first;
            variance += term.n as f64 * (second - first * first).max(0.0);
        }
        (mean, variance)
    }
}

impl Term {
    fn cumulant_at(&self, lambda: f64, grid: f64) -> f64 {
        let exponent = |i: usize| self.log_mass[i] + lambda * (self.first + i as i64) as f64 * grid;
        let n = self.log_mass.len();
        let largest = (0..n).map(exponent).fold(f64::NEG_INFINITY, f64::max);
        largest + (0..n).map(|i| (exponent(i) - largest).exp()).sum::<f64>().ln()
    }

    /// Losses and their tilted probabilities.
    fn tilted(&self, tilt: f64, grid: f64) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.log_mass.iter().enumerate().map(move |(i, log_mass)| {
            let loss = (self.first + i as i64) as f64 * grid;
            (loss, (log_mass + tilt * loss - self.cumulant).exp())
        })
    }
}

/// The distribution of the tilted sum on `n` cells around the circle, and a bound on its rounding errors.
fn composed(terms: &Terms, n: usize) -> (Vec<f64>, f64) {
    let mut planner = RealFftPlanner::<f64>::new();
    let (forward, back) = (planner.plan_fft_forward(n), planner.plan_fft_inverse(n));
    let mut total = vec![Complex::new(1.0, 0.0); n / 2 + 1];
    let mut steps = 0.0;
    for term in &terms.list {
        let mut step = forward.make_input_vec();
        for (i, (_, p)) in term.tilted(terms.tilt, terms.grid).enumerate() {
            step[(term.first + i as i64).rem_euclid(n as i64) as usize] += p;
        }
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut step, &mut spectrum).expect("the buffers are the plan's own: bug");
        for (sum, z) in total.iter_mut().zip(&spectrum) {
            *sum *= power(*z, term.n);
        }
        steps += term.n as f64;
    }
    let magnitudes = total.iter().map(|z| 2.0 * z.norm());
    let (mean, square) =
        magnitudes.fold((0.0, 0.0), |(sum, square), m| (sum + m / n as f64, square + m * m / n as f64));
    // Each spectrum's error is at most 32 units, T-fold in its power; the way back adds some of its length.
    let unit = f64::EPSILON;
    let error = unit * (32.0 * steps * mean + 4.0 * (n as f64).log2() * (square / n as f64).sqrt());
    let mut out = back.make_output_vec();
    // Rounding may leave imaginary parts where the plan wants none.
    total[0].im = 0.0;
    total[n / 2].im = 0.0;
    back.process(&mut total, &mut out).expect("the buffers are the plan's own: bug");
    out.iter_mut().for_each(|x| *x /= n as f64);
    (out, error)
}

/// `z^n`; 0 where it is below the smallest that counts.
fn power(z: Complex<f64>, n: u64) -> Complex<f64> {
    let log = 0.5 * z.norm_sqr().ln() * n as f64;
    if log < -80.0 {
        return Complex::new(0.0, 0.0);
    }
    let angle = z.arg() * n as f64;
    Complex::from_polar(log.exp(), angle)
}

/// The smallest ε whose δ, with all that was rounded up, is at most `delta`.
pub(super) fn epsilon_in(terms: &Terms, delta: f64) -> f64 {
    let window = Window::around(terms, delta);
    let first = (window.bottom / terms.grid).floor() as i64;
    let n = ((window.width() / terms.grid) as usize + 2).next_power_of_two();
    let (mass, error) = composed(terms, n);
    let log_m = terms.cumulant();
    let infinite: f64 = terms.list.iter().map(|t| t.n as f64 * t.infinite).sum();
    let last = first + n as i64 - 1;
    let top = last as f64 * terms.grid;
    let extra = infinite + (log_m - terms.tilt * top - OUTSIDE).exp();
    if extra > delta {
        return f64::INFINITY;
    }
    // From above: A = Σ p_j and B = Σ p_j·e^{l − l_j} over the losses l_j ≥ l; δ(l) = A − B + extra.
    let (mut a, mut b) = (0.0, 0.0);
    let fall = (-terms.grid).exp();
    for j in (first..=last).rev() {
        let loss = j as f64 * terms.grid;
        if loss < 0.0 && a - b * (-(loss + terms.grid)).exp() + extra <= delta {
            return 0.0;
        }
        // δ at this loss, from the losses above it.
        if a - b * fall + extra > delta {
            let above = loss + terms.grid;
            let epsilon = above + ((a + extra - delta) / b).ln();
            return epsilon.clamp(loss, above).max(0.0);
        }
        let p = mass[j.rem_euclid(n as i64) as usize].max(0.0) + error;
        let p = p * (log_m - terms.tilt * loss).exp();
        a += p;
        b = b * fall + p;
    }
    (first as f64 * terms.grid).max(0.0)
}
