//! Privacy loss distributions of the Poisson-subsampled Gaussian, composed by Fourier transform.
//!
//! A pair (P, Q) of output distributions on neighbours has the loss `L = ln(dP/dQ)` under P; of independent
//! steps losses add, and `δ(ε) = P(L = ∞) + E max(0, 1 − e^{ε − L})`. Both directions of add/remove are composed
//! ((mixture, N(0, σ²)) and its reverse; Zhu, Dong & Wang 2022, arXiv:2106.08567) and the larger ε is returned.
//!
//! Rounding is always up. A step's loss in the cell (iΔ, (i+1)Δ] becomes two atoms at the cell's ends with the
//! cell's masses under both P and Q ("connect the dots": Doroshenko, Ghazi, Kamath, Kumar & Manurangsi 2022,
//! arXiv:2207.04380), which dominates the step; what lies beyond the grid counts as infinite above and as the
//! lowest atom below. Before the transform the distribution is tilted by `e^{λL}`, λ + 1 the Rényi order that
//! fits ε best: the transform's rounding errors are then relative to what counts at ε, and δ = 1e-15 has as
//! many digits as 1e-5. What wraps around the transform's window only adds; the mass above the window (by a
//! Chernoff bound) and a bound on the transform's rounding errors are added to δ.

mod compose;
mod step;

use crate::mechanism::Event;
use crate::rdp;
use compose::{Window, epsilon_in};
use step::Step;

/// The two orders of a pair of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// P has the example: losses run from ln(1 − q) up without end.
    Remove,
    /// Q has it: losses end at −ln(1 − q).
    Add,
}

/// Cells of one step, and of the composed window.
const STEP_CELLS: f64 = 65_536.0;
const WINDOW_CELLS: f64 = 262_000.0;
/// Cells of the pass that finds the window's size.
const COARSE_CELLS: f64 = 4_096.0;

/// ε of all events at `delta`; an upper bound always. Events have noise, steps and a sampling rate above 0.
pub(crate) fn epsilon(events: &[Event], delta: f64) -> f64 {
    let order = rdp::epsilon(events, delta).map_or(2.0, |(_, order)| order);
    let tilt = order - 1.0;
    let total_steps: u64 = events.iter().map(Event::steps).sum();
    // Beyond this many deviations the steps together have 1e-5 of δ.
    let reach = (2.0 * (1e5 * total_steps as f64 / delta).ln()).sqrt();
    let range = events.iter().map(|e| step::loss_range(e, reach)).fold(0.0, f64::max);
    let directions = [Direction::Remove, Direction::Add];
    let coarse = steps_on(events, range / COARSE_CELLS, reach);
    let width = directions
        .map(|direction| Window::around(&tilted(&coarse, direction, tilt), delta).width())
        .into_iter()
        .fold(0.0, f64::max);
    let grid = (range / STEP_CELLS).max(width / WINDOW_CELLS);
    let fine = steps_on(events, grid, reach);
    let of = |direction| epsilon_in(&tilted(&fine, direction, tilt), delta);
    directions.map(of).into_iter().fold(0.0, f64::max)
}

fn steps_on(events: &[Event], grid: f64, reach: f64) -> Vec<(Step, u64)> {
    events.iter().map(|event| (Step::new(event, grid, reach), event.steps())).collect()
}

fn tilted(steps: &[(Step, u64)], direction: Direction, tilt: f64) -> compose::Terms {
    let terms = steps.iter().map(|(step, n)| (step.atoms(direction), *n));
    compose::Terms::new(terms.collect(), tilt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::normal_cdf;

    /// The exact δ of one Gaussian mechanism (Balle & Wang 2018, arXiv:1805.06530, theorem 8).
    fn gaussian_delta(sigma: f64, epsilon: f64) -> f64 {
        normal_cdf(0.5 / sigma - epsilon * sigma) - epsilon.exp() * normal_cdf(-0.5 / sigma - epsilon * sigma)
    }

    #[test]
    fn composed_gaussians_equal_their_closed_form_from_above() {
        // T steps of N(0, σ²) are one of N(0, σ²/T).
        for (sigma, steps, delta) in
            [(1.0, 1, 1e-5), (5.0, 100, 1e-5), (3.0, 1, 1e-10), (40.0, 1000, 1e-6), (2.0, 20, 1e-12)]
        {
            let event = Event::new(1.0, sigma, steps).unwrap();
            let got = epsilon(&[event], delta);
            let whole = sigma / (steps as f64).sqrt();
            let (mut low, mut high) = (0.0, 1000.0);
            for _ in 0..200 {
                let middle = 0.5 * (low + high);
                if gaussian_delta(whole, middle) > delta { low = middle } else { high = middle }
            }
            assert!(got >= high * (1.0 - 1e-9), "σ {sigma}, T {steps}: {got} is below the exact {high}");
            assert!(got <= high * 1.001 + 1e-6, "σ {sigma}, T {steps}: {got} is far above {high}");
        }
    }

    #[test]
    fn one_subsampled_step_equals_its_closed_form_from_above() {
        // δ(ε) of one step, add direction removed: q·δ_Gauss(ln(1 + (e^ε − 1)/q)) (Balle et al. 2018).
        let (q, sigma, delta) = (0.05, 0.8, 1e-5);
        let exact = |epsilon: f64| q * gaussian_delta(sigma, (epsilon.exp_m1() / q).ln_1p());
        let (mut low, mut high) = (0.0, 100.0);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if exact(middle) > delta { low = middle } else { high = middle }
        }
        let got = epsilon(&[Event::new(q, sigma, 1).unwrap()], delta);
        assert!(got >= high * (1.0 - 1e-9) && got <= high * 1.001, "{got}, exactly {high}");
    }

    #[test]
    fn events_that_differ_compose_to_what_equal_ones_do() {
        let event = |steps| Event::new(0.02, 1.1, steps).unwrap();
        let (whole, parts) = (epsilon(&[event(500)], 1e-5), epsilon(&[event(200), event(300)], 1e-5));
        assert!((whole / parts - 1.0).abs() < 1e-6, "{whole} {parts}");
        let other = Event::new(0.1, 3.0, 50).unwrap();
        assert!(epsilon(&[event(500), other], 1e-5) > whole);
    }
}
