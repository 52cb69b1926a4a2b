//! From what was done to what it costs: one door over both accountants.

use crate::error::{PrivacyError, in_range};
use crate::mechanism::Event;
use crate::{pld, rdp};
use serde::{Deserialize, Serialize};

/// How the cost is computed; both are upper bounds for add/remove neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accountant {
    /// Rényi divergences (Mironov 2017; Mironov, Talwar & Zhang 2019).
    Rdp,
    /// Privacy loss distributions: tighter, slower.
    Pld,
}

impl Accountant {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Accountant::Rdp => "rdp",
            Accountant::Pld => "pld",
        }
    }

    /// How its result becomes (ε, δ), which every report names.
    pub fn conversion(self) -> &'static str {
        match self {
            Accountant::Rdp => {
                "Canonne, Kamath & Steinke 2020, proposition 12, over orders 1.1 to 10.9 by 0.1 and 11 to 63"
            }
            Accountant::Pld => {
                "hockey-stick divergence of the composed privacy loss distribution, rounded up"
            }
        }
    }
}

/// What neighbours differ by.
pub const ADJACENCY: &str = "add_remove_one";

/// Whoever sees everything that was released learns at most this much about one example.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guarantee {
    /// +∞ where there was no noise: nothing is promised.
    pub epsilon: f64,
    pub delta: f64,
    pub accountant: Accountant,
    /// The Rényi order that gave ε ([`Accountant::Rdp`] only).
    pub order: Option<f64>,
}

/// The ε of all events together at `delta`.
///
/// # Errors
/// When `delta` is not between 0 and 1.
pub fn epsilon(events: &[Event], delta: f64, accountant: Accountant) -> Result<Guarantee, PrivacyError> {
    in_range("delta", delta, "above 0 and below 1", delta > 0.0 && delta < 1.0)?;
    let events: Vec<Event> = events.iter().copied().filter(|e| !e.is_free()).collect();
    let guarantee = |epsilon, order| Guarantee { epsilon, delta, accountant, order };
    if events.is_empty() {
        return Ok(guarantee(0.0, None));
    }
    if events.iter().any(|e| e.sigma() == 0.0) {
        return Ok(guarantee(f64::INFINITY, None));
    }
    Ok(match accountant {
        Accountant::Rdp => match rdp::epsilon(&events, delta) {
            Some((epsilon, order)) => guarantee(epsilon, Some(order)),
            None => guarantee(f64::INFINITY, None),
        },
        Accountant::Pld => guarantee(pld::epsilon(&events, delta), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(q: f64, sigma: f64, steps: u64, delta: f64, accountant: Accountant) -> f64 {
        epsilon(&[Event::new(q, sigma, steps).unwrap()], delta, accountant).unwrap().epsilon
    }

    #[test]
    fn no_noise_promises_nothing_and_no_step_costs_nothing() {
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            assert_eq!(of(0.1, 0.0, 1, 1e-5, accountant), f64::INFINITY);
            assert_eq!(of(0.0, 0.0, 1, 1e-5, accountant), 0.0);
            assert_eq!(of(0.1, 0.0, 0, 1e-5, accountant), 0.0);
        }
        assert!(epsilon(&[], 0.0, Accountant::Pld).is_err());
        assert!(epsilon(&[], 1.0, Accountant::Rdp).is_err());
    }

    #[test]
    fn the_anchors_hold() {
        let anchors = [
            (0.01, 1.0, 1000, 1e-5, Some(2.1014), 1.8282),
            (0.01, 0.5, 1000, 1e-5, None, 13.361),
            (0.001, 0.8, 10000, 1e-6, Some(1.7036), 0.9473),
            (1.0, 5.0, 100, 1e-5, Some(10.7255), 9.9973),
        ];
        for (q, sigma, steps, delta, by_rdp, by_pld) in anchors {
            if let Some(want) = by_rdp {
                let got = of(q, sigma, steps, delta, Accountant::Rdp);
                assert!((got - want).abs() < 1e-4, "rdp of ({q}, {sigma}, {steps}): {got}, not {want}");
            }
            let got = of(q, sigma, steps, delta, Accountant::Pld);
            assert!((got / by_pld - 1.0).abs() < 2e-4, "pld of ({q}, {sigma}, {steps}): {got}, not {by_pld}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn more_noise_costs_less_more_steps_more_and_the_tighter_accountant_is_tighter(
            q in 0.001f64..0.5, sigma in 0.6f64..4.0, steps in 1u64..2000, exponent in 3i32..9,
        ) {
            let delta = 10f64.powi(-exponent);
            for accountant in [Accountant::Rdp, Accountant::Pld] {
                let here = of(q, sigma, steps, delta, accountant);
                prop_assert!(here.is_finite() && here >= 0.0);
                prop_assert!(of(q, sigma * 1.1, steps, delta, accountant) <= here * 1.0005 + 1e-9);
                prop_assert!(of(q, sigma, steps * 2, delta, accountant) >= here * 0.9995 - 1e-9);
                prop_assert!(of(q, sigma, steps, delta * 10.0, accountant) <= here * 1.0005 + 1e-9);
            }
            let (by_rdp, by_pld) = (of(q, sigma, steps, delta, Accountant::Rdp), of(q, sigma, steps, delta, Accountant::Pld));
            prop_assert!(by_pld <= by_rdp * 1.002 + 1e-4, "{by_pld} above {by_rdp}");
        }
    }
}
