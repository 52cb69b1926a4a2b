//! What an attack proves about ε from below, with one training run (Steinke, Nasr & Jagielski 2023,
//! arXiv:2305.08846).
//!
//! Before training, each of m canaries is included or left out by a fair coin. Afterwards the auditor, who sees
//! a score for each, guesses "in" for the highest, "out" for the lowest, and abstains between. If training is
//! (ε, δ)-private, `r` guesses with at least `v` right have at most the probability (their theorem 5.2)
//! `β + 2mδ·α`, `β = P(B ≥ v)`, `α = max_i P(v > B ≥ v − i)/i`, `B ~ Binomial(r, 1/(1 + e^{−ε}))`.
//! The ε that this rejects is a lower bound with that confidence.

use crate::error::{PrivacyError, in_range};
use serde::{Deserialize, Serialize};
use statrs::function::beta::beta_reg;
use statrs::function::factorial::ln_binomial;

/// What the auditor's guesses came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guesses {
    /// Canaries.
    pub m: u64,
    /// Guesses; the other canaries were abstained from.
    pub r: u64,
    /// Right guesses.
    pub v: u64,
}

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowerBound {
    /// With the confidence, ε is at least this.
    pub epsilon: f64,
    pub delta: f64,
    pub confidence: f64,
    pub guesses: Guesses,
}

/// ε above this is not distinguished.
const EPSILON_MAX: f64 = 40.0;

/// The largest ε that the guesses reject at `delta` with `confidence`.
///
/// # Errors
/// When the counts contradict each other or a probability is out of range.
pub fn lower_bound(guesses: Guesses, delta: f64, confidence: f64) -> Result<LowerBound, PrivacyError> {
    in_range("delta", delta, "at least 0 and below 1", (0.0..1.0).contains(&delta))?;
    in_range("confidence", confidence, "above 0 and below 1", confidence > 0.0 && confidence < 1.0)?;
    if guesses.v > guesses.r || guesses.r > guesses.m {
        let message = format!("{} right of {} guesses on {} canaries", guesses.v, guesses.r, guesses.m);
        return Err(PrivacyError::Scores(message));
    }
    let rejects = |epsilon: f64| p_value(guesses, epsilon, delta) < 1.0 - confidence;
    let epsilon = if !rejects(0.0) {
        0.0
    } else {
        let (mut low, mut high) = (0.0, EPSILON_MAX);
        while high - low > 1e-6 {
            let middle = 0.5 * (low + high);
            if rejects(middle) { low = middle } else { high = middle }
        }
        low
    };
    Ok(LowerBound { epsilon, delta, confidence, guesses })
}

/// The probability of at least `v` right guesses when training is (ε, δ)-private: an upper bound.
pub fn p_value(guesses: Guesses, epsilon: f64, delta: f64) -> f64 {
    let Guesses { m, r, v } = guesses;
    if v == 0 {
        return 1.0;
    }
    let right = 1.0 / (1.0 + (-epsilon).exp());
    // P(B ≥ v) is a regularised incomplete beta function.
    let beta = beta_reg(v as f64, (r - v) as f64 + 1.0, right);
    let (log_right, log_wrong) = (right.ln(), -(epsilon.exp().ln_1p()));
    let (mut alpha, mut sum) = (0.0f64, 0.0);
    for i in 1..=v {
        let k = v - i;
        sum += (ln_binomial(r, k) + k as f64 * log_right + (r - k) as f64 * log_wrong).exp();
        alpha = alpha.max(sum / i as f64);
    }
    (beta + alpha * delta * 2.0 * m as f64).min(1.0)
}

/// Guesses "in" for the `n_in` highest scores and "out" for the `n_out` lowest.
///
/// # Errors
/// When there are fewer scores than guesses, a score is not a number, or the lists differ in length.
pub fn guess(scores: &[f64], included: &[bool], n_in: usize, n_out: usize) -> Result<Guesses, PrivacyError> {
    if scores.len() != included.len() || n_in + n_out > scores.len() {
        let (scores, coins) = (scores.len(), included.len());
        let message = format!("{scores} scores, {coins} coins, {} guesses do not fit", n_in + n_out);
        return Err(PrivacyError::Scores(message));
    }
    if scores.iter().any(|s| s.is_nan()) {
        return Err(PrivacyError::Scores("a canary's score is not a number".into()));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let right_in = order[..n_in].iter().filter(|&&i| included[i]).count();
    let right_out = order[order.len() - n_out..].iter().filter(|&&i| !included[i]).count();
    let (r, v) = (n_in + n_out, right_in + right_out);
    Ok(Guesses { m: scores.len() as u64, r: r as u64, v: v as u64 })
}

/// The best bound over several numbers of guesses, each at the confidence that keeps the whole at
/// `confidence` (Bonferroni).
///
/// # Errors
/// As [`guess`] and [`lower_bound`].
pub fn best_lower_bound(
    scores: &[f64],
    included: &[bool],
    delta: f64,
    confidence: f64,
) -> Result<LowerBound, PrivacyError> {
    let m = scores.len();
    let shares = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
    let each = 1.0 - (1.0 - confidence) / shares.len() as f64;
    let mut best: Option<LowerBound> = None;
    for share in shares {
        let n = ((m as f64 * share / 2.0).ceil() as usize).min(m / 2);
        let found = lower_bound(guess(scores, included, n, n)?, delta, each)?;
        if best.is_none_or(|best| found.epsilon > best.epsilon) {
            best = Some(LowerBound { confidence, ..found });
        }
    }
    best.ok_or_else(|| PrivacyError::Scores("no canary was scored".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_proves_nothing_and_certainty_proves_much() {
        let bound = |r, v, delta| lower_bound(Guesses { m: 1000, r, v }, delta, 0.95).unwrap().epsilon;
        assert_eq!(bound(100, 50, 0.0), 0.0);
        // All right: p = (1/(1 + e^{−ε}))^r; ε where that is 0.05.
        let exact = |r: f64| -(0.05f64.powf(-1.0 / r) - 1.0).ln();
        assert!((bound(100, 100, 0.0) - exact(100.0)).abs() < 1e-4);
        assert!(bound(100, 100, 1e-5) < bound(100, 100, 0.0));
        assert!(bound(100, 90, 1e-5) > bound(100, 80, 1e-5));
    }

    #[test]
    fn contradictions_are_refused_and_scores_are_ranked() {
        assert!(lower_bound(Guesses { m: 5, r: 6, v: 1 }, 0.0, 0.95).is_err());
        assert!(guess(&[1.0], &[true, false], 1, 0).is_err());
        assert!(guess(&[f64::NAN], &[true], 1, 0).is_err());
        let guesses = guess(&[0.1, 3.0, 2.0, -1.0], &[false, true, false, false], 2, 1).unwrap();
        assert_eq!(guesses, Guesses { m: 4, r: 3, v: 2 });
    }
}
