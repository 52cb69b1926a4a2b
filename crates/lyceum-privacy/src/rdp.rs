//! Rényi differential privacy of the Poisson-subsampled Gaussian (Mironov, Talwar & Zhang 2019,
//! arXiv:1908.10530), add/remove adjacency.
//!
//! With μ₀ = N(0, σ²) and μ = (1 − q)·μ₀ + q·N(1, σ²), an order α > 1 costs a step
//! `D_α(μ‖μ₀) = ln A_α / (α − 1)`, `A_α = E_{z ~ μ₀} ((1 − q) + q·exp((2z − 1)/2σ²))^α`; this direction is the
//! larger one (their theorem 5). For whole α the expectation is a binomial sum of positive terms,
//! `A_α = Σ_k C(α, k) (1 − q)^{α−k} q^k exp((k² − k)/2σ²)`. For fractions the paper has two alternating series
//! that lose all digits or do not converge for some (q, σ, α), and of which some libraries add the terms without
//! their signs; here the expectation is integrated by the
//! trapezoid rule, whose error for this analytic integrand falls with `exp(−2π²σ/h)`. Everything is in
//! logarithms; an order whose result is not finite is dropped.
//!
//! To (ε, δ): `ε = ρ + ln(1 − 1/α) − ln(δα)/(α − 1)` (Canonne, Kamath & Steinke 2020, arXiv:2004.00010,
//! proposition 12), the smallest over the orders.

use crate::math::{log_mix, log_sum_exp};
use crate::mechanism::Event;
use std::f64::consts::PI;
use std::sync::LazyLock;

/// The last fractional order.
const FRACTIONS_END: f64 = 10.9;
/// The largest order.
const ORDER_MAX: usize = 63;
/// The trapezoid's step, in deviations.
const STEP: f64 = 1.0 / 16.0;
/// How many deviations beyond both modes are integrated: the rest is below exp(−72).
const REACH: f64 = 12.0;
/// The most points of the rule.
const POINTS_MAX: usize = 100_000;

/// 1.1, 1.2, …, 10.9, 11, 12, …, 63.
pub static ORDERS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let fractions = (1..100).map(|i| 1.0 + f64::from(i) / 10.0);
    fractions.chain((11..=ORDER_MAX).map(|i| i as f64)).collect()
});

/// `ln n!` for n up to the largest order.
static LOG_FACTORIALS: LazyLock<[f64; ORDER_MAX + 1]> = LazyLock::new(|| {
    let mut table = [0.0; ORDER_MAX + 1];
    for n in 1..=ORDER_MAX {
        table[n] = table[n - 1] + (n as f64).ln();
    }
    table
});

/// The smallest ε over the orders, and the order that gives it; None when every order was dropped.
pub(crate) fn epsilon(events: &[Event], delta: f64) -> Option<(f64, f64)> {
    let costs = costs(events);
    let mut best: Option<(f64, f64)> = None;
    for (&order, &cost) in ORDERS.iter().zip(&costs) {
        let Some(epsilon) = to_epsilon(order, cost, delta) else { continue };
        if best.is_none_or(|(smallest, _)| epsilon < smallest) {
            best = Some((epsilon, order));
        }
    }
    best
}

/// The cost of all events at each of [`ORDERS`]; +∞ where an order was dropped.
pub fn costs(events: &[Event]) -> Vec<f64> {
    let mut total = vec![0.0; ORDERS.len()];
    for event in events.iter().filter(|e| !e.is_free()) {
        let at = Step::new(event.q(), event.sigma());
        for (sum, &order) in total.iter_mut().zip(ORDERS.iter()) {
            let cost = at.cost(order) * event.steps() as f64;
            *sum += if cost.is_finite() { cost.max(0.0) } else { f64::INFINITY };
        }
    }
    total
}

/// ε at `delta` of a cost at one order; None where the cost is not finite.
pub fn to_epsilon(order: f64, cost: f64, delta: f64) -> Option<f64> {
    if !cost.is_finite() {
        return None;
    }
    // A divergence this small bounds the total variation by δ (Bretagnolle & Huber 1979).
    if delta * delta + (-cost).exp_m1() >= 0.0 {
        return Some(0.0);
    }
    let epsilon = cost + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0);
    epsilon.is_finite().then_some(epsilon.max(0.0))
}

/// One step of one setting.
struct Step {
    q: f64,
    sigma: f64,
    /// `ln((1 − q) + q·exp((2z − 1)/2σ²))` at `z = σ·(−REACH + i·STEP)`.
    log_ratios: Vec<f64>,
}

impl Step {
    fn new(q: f64, sigma: f64) -> Self {
        // Below σ = 0.002 no order gives an ε that anybody wants: fractions are dropped.
        let n = if q < 1.0 { n_points(FRACTIONS_END, sigma).min(POINTS_MAX) } else { 0 };
        let ratio = |i: usize| log_mix(q, (2.0 * sigma * x_at(i) - 1.0) / (2.0 * sigma * sigma));
        Step { q, sigma, log_ratios: (0..n).map(ratio).collect() }
    }

    /// The Rényi divergence of this order.
    fn cost(&self, order: f64) -> f64 {
        if self.q == 1.0 {
            return order / (2.0 * self.sigma * self.sigma);
        }
        let log_a = if order.fract() == 0.0 { self.whole(order as usize) } else { self.fraction(order) };
        log_a / (order - 1.0)
    }

    /// `ln A_α` for whole α.
    fn whole(&self, order: usize) -> f64 {
        let (log_q, log_1q) = (self.q.ln(), (-self.q).ln_1p());
        let choose = |k: usize| LOG_FACTORIALS[order] - LOG_FACTORIALS[k] - LOG_FACTORIALS[order - k];
        let mut terms = [0.0; ORDER_MAX + 1];
        for (k, term) in terms[..=order].iter_mut().enumerate() {
            let kf = k as f64;
            *term = choose(k)
                + kf * log_q
                + (order - k) as f64 * log_1q
                + (kf * kf - kf) / (2.0 * self.sigma * self.sigma);
        }
        log_sum_exp(&terms[..=order])
    }

    /// `ln A_α` for any α up to the last fraction, by the trapezoid rule; +∞ where its points do not reach the
    /// second mode.
    fn fraction(&self, order: f64) -> f64 {
        let n = n_points(order, self.sigma);
        if n > self.log_ratios.len() {
            return f64::INFINITY;
        }
        let exponent = |i: usize| order * self.log_ratios[i] - 0.5 * x_at(i) * x_at(i);
        let largest = (0..n).map(exponent).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..n).map(|i| (exponent(i) - largest).exp()).sum();
        largest + (sum * STEP / (2.0 * PI).sqrt()).ln()
    }
}

fn x_at(i: usize) -> f64 {
    i as f64 * STEP - REACH
}

/// Points from `REACH` below the mode at 0 to `REACH` above the mode at α/σ.
fn n_points(order: f64, sigma: f64) -> usize {
    ((order / sigma + 2.0 * REACH) / STEP) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integral_equals_the_binomial_sum_at_whole_orders() {
        for q in [1e-6, 1e-3, 0.1, 0.9] {
            for sigma in [0.1, 0.3, 0.5, 1.0, 3.0, 50.0] {
                let step = Step::new(q, sigma);
                for order in 2..=10 {
                    let (sum, integral) = (step.whole(order), step.fraction(order as f64));
                    let error = (sum - integral).abs() / sum.abs().max(1.0);
                    assert!(error < 1e-12, "q {q}, σ {sigma}, α {order}: {sum} and {integral}");
                }
            }
        }
    }

    #[test]
    fn costs_rise_with_the_order() {
        let costs = costs(&[Event::new(0.02, 0.7, 100).unwrap()]);
        assert!(costs.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-9)));
    }
}
