//! The noise for a cost: the smallest multiplier whose ε is not above the target.

use crate::account::{Accountant, epsilon};
use crate::error::{PrivacyError, in_range};
use crate::mechanism::Event;

/// No larger multiplier is looked at.
pub const SIGMA_MAX: f64 = 10_000.0;
/// How far, in proportion, the answer may lie above the smallest multiplier.
const TOLERANCE: f64 = 1e-4;

/// What a run may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub epsilon: f64,
    pub delta: f64,
}

/// The noise multiplier with which `steps` steps at sampling rate `q`, after what `spent` says was done to the
/// same data before, cost at most the target. By bisection in ln σ; the side that keeps the promise is
/// returned.
///
/// # Errors
/// When the target is out of range, or no multiplier up to [`SIGMA_MAX`] reaches it.
pub fn sigma(
    target: Target,
    q: f64,
    steps: u64,
    spent: &[Event],
    accountant: Accountant,
) -> Result<f64, PrivacyError> {
    in_range("epsilon", target.epsilon, "above 0", target.epsilon > 0.0 && target.epsilon.is_finite())?;
    in_range("q", q, "above 0 and at most 1", q > 0.0 && q <= 1.0)?;
    in_range("steps", steps as f64, "at least 1", steps > 0)?;
    let cost = |sigma: f64, accountant| -> Result<f64, PrivacyError> {
        let mut events = spent.to_vec();
        events.push(Event::new(q, sigma, steps)?);
        Ok(epsilon(&events, target.delta, accountant)?.epsilon)
    };
    // The fast accountant narrows the search; its noise is never too small by much, and is checked.
    let mut high =
        bisect(1e-2, SIGMA_MAX, |s| cost(s, Accountant::Rdp), target.epsilon)?.unwrap_or(SIGMA_MAX);
    if accountant == Accountant::Rdp {
        return if cost(high, accountant)? <= target.epsilon {
            Ok(high)
        } else {
            unreachable(target, spent, accountant)
        };
    }
    while cost(high, accountant)? > target.epsilon {
        if high >= SIGMA_MAX {
            return unreachable(target, spent, accountant);
        }
        high = (high * 1.1).min(SIGMA_MAX);
    }
    let mut low = high * 0.8;
    while low > 1e-3 && cost(low, accountant)? <= target.epsilon {
        (high, low) = (low, low * 0.8);
    }
    let found = bisect(low, high, |s| cost(s, accountant), target.epsilon)?;
    Ok(found.unwrap_or(high))
}

/// The smallest σ between `low` and `high` that costs at most `epsilon`; None when `high` does not.
fn bisect(
    low: f64,
    high: f64,
    cost: impl Fn(f64) -> Result<f64, PrivacyError>,
    epsilon: f64,
) -> Result<Option<f64>, PrivacyError> {
    if cost(high)? > epsilon {
        return Ok(None);
    }
    let (mut low, mut high) = (low.ln(), high.ln());
    while high - low > TOLERANCE {
        let middle = 0.5 * (low + high);
        if cost(middle.exp())? <= epsilon { high = middle } else { low = middle }
    }
    Ok(Some(high.exp()))
}

fn unreachable(target: Target, spent: &[Event], accountant: Accountant) -> Result<f64, PrivacyError> {
    let before = epsilon(spent, target.delta, accountant)?.epsilon;
    let reason = if before >= target.epsilon {
        format!("ε = {before:.4} is spent already")
    } else {
        "the target is too small for this accountant at this δ".to_owned()
    };
    let Target { epsilon, delta } = target;
    Err(PrivacyError::Unreachable { epsilon, delta, sigma_max: SIGMA_MAX, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_found_keeps_the_promise_and_hardly_more() {
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            for (epsilon_target, q, steps) in [(3.0, 0.1, 300), (0.5, 0.01, 1000), (8.0, 1.0, 10)] {
                let target = Target { epsilon: epsilon_target, delta: 1e-5 };
                let found = sigma(target, q, steps, &[], accountant).unwrap();
                let cost =
                    |s| epsilon(&[Event::new(q, s, steps).unwrap()], 1e-5, accountant).unwrap().epsilon;
                assert!(cost(found) <= epsilon_target, "{accountant:?}: {}", cost(found));
                assert!(cost(found * 0.999) > epsilon_target, "{accountant:?}: σ {found} is too large");
            }
        }
    }

    #[test]
    fn what_was_spent_before_asks_for_more_noise_or_leaves_nothing() {
        let target = Target { epsilon: 3.0, delta: 1e-5 };
        let spent = [Event::new(0.1, 2.0, 100).unwrap()];
        let alone = sigma(target, 0.1, 100, &[], Accountant::Pld).unwrap();
        assert!(sigma(target, 0.1, 100, &spent, Accountant::Pld).unwrap() > alone);
        let all = [Event::new(0.1, 1.0, 1000).unwrap()];
        let error = sigma(target, 0.1, 100, &all, Accountant::Pld).unwrap_err().to_string();
        assert!(error.contains("is spent already"), "{error}");
    }
}
