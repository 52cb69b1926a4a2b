//! Randomised smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918).
//!
//! The smoothed classifier answers `g(u) = argmax_c P(f(u + ε) = c)`, `ε ~ N(0, σ² I)`. Algorithm CERTIFY guesses
//! the class from `n0` samples, bounds its probability from below by Clopper and Pearson over `n` fresh ones, and
//! if the bound `p` is above ½ certifies `g` within the L2 radius `σ Φ⁻¹(p)`; else it abstains. The guarantee is of
//! `g`, not of `f`, and each certificate fails with probability at most `alpha`. Noise falls only on numbers that
//! may change, and the certificate speaks of changes of those.

use crate::error::{RobustError, positive, probability};
use crate::share::lower;
use crate::victim::Victim;
use lyceum_models::space::gaussian;
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};
use statrs::function::beta::beta_reg;

/// The most samples of one row.
pub const SAMPLES_MAX: u64 = 1_000_000;
/// Samples that are held at once.
const BLOCK: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing {
    sigma: f64,
    n0: u64,
    n: u64,
    alpha: f64,
}

impl Smoothing {
    /// # Errors
    /// Numbers outside their ranges.
    pub fn new(sigma: f64, n0: u64, n: u64, alpha: f64) -> Result<Self, RobustError> {
        let (sigma, alpha) = (positive("sigma", sigma)?, probability("alpha", alpha)?);
        for (name, count) in [("n0", n0), ("n", n)] {
            if !(1..=SAMPLES_MAX).contains(&count) {
                return Err(RobustError::parameter(name, format!("{count} is not in 1..={SAMPLES_MAX}")));
            }
        }
        Ok(Smoothing { sigma, n0, n, alpha })
    }

    /// The same noise with one sample.
    pub fn smallest(self) -> Self {
        Smoothing { n0: 1, n: 1, ..self }
    }

    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    pub fn n(&self) -> u64 {
        self.n
    }

    /// Rows through the model that certifying one takes.
    pub fn samples(&self) -> u64 {
        self.n0 + self.n
    }

    /// What `successes` of the `n` samples for a class certify.
    pub fn verdict(&self, class: u32, successes: u64) -> Smoothed {
        let p_lower = lower(successes, self.n, self.alpha);
        let radius = if p_lower > 0.5 { self.sigma * standard().inverse_cdf(p_lower) } else { 0.0 };
        Smoothed { class: (p_lower > 0.5).then_some(class), radius, p_lower, likeliest: class }
    }
}

/// What is known of the smoothed classifier at one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothed {
    /// None: abstained.
    pub class: Option<u32>,
    /// L2, in the domain's units; 0 where it abstained.
    pub radius: f64,
    /// The lower bound of the class's probability.
    pub p_lower: f64,
    /// The class that was guessed, certified or not.
    pub likeliest: u32,
}

/// CERTIFY for one row `u`; equal seeds and row numbers draw equal noise.
///
/// # Errors
/// Cancelled, or a row that does not fit.
pub fn certify(
    victim: &mut Victim<'_>,
    u: &[f32],
    smoothing: Smoothing,
    seed: u64,
    row: u64,
) -> Result<Smoothed, RobustError> {
    let mut admitted = u.to_vec();
    victim.domain().admit(&mut admitted)?;
    let mut rng = crate::generator(seed, row);
    let guess = counts(victim, &admitted, smoothing.sigma, smoothing.n0, &mut rng)?;
    let class = largest(&guess);
    let sampled = counts(victim, &admitted, smoothing.sigma, smoothing.n, &mut rng)?;
    Ok(smoothing.verdict(class as u32, sampled[class]))
}

/// PREDICT for one row: the class that the smoothed classifier answers, or None where the two likeliest are not
/// told apart at level `alpha` (a two-sided binomial test).
///
/// # Errors
/// Cancelled, or a row that does not fit.
pub fn predict(
    victim: &mut Victim<'_>,
    u: &[f32],
    smoothing: Smoothing,
    seed: u64,
    row: u64,
) -> Result<Option<u32>, RobustError> {
    let mut admitted = u.to_vec();
    victim.domain().admit(&mut admitted)?;
    let mut rng = crate::generator(seed, row);
    let counts = counts(victim, &admitted, smoothing.sigma, smoothing.n, &mut rng)?;
    Ok(decide(&counts, smoothing.alpha))
}

/// The class that these counts of answers tell from the second likeliest at level `alpha`; None: abstained.
pub fn decide(counts: &[u64], alpha: f64) -> Option<u32> {
    let first = largest(counts);
    let second = counts.iter().enumerate().filter(|&(c, _)| c != first).map(|(_, &k)| k).max().unwrap_or(0);
    (even_odds(counts[first], second) <= alpha).then_some(first as u32)
}

/// The two-sided p-value of `a` against `b` under equal odds.
pub fn even_odds(a: u64, b: u64) -> f64 {
    let (more, less) = (a.max(b) as f64, a.min(b) as f64);
    if a == b { 1.0 } else { (2.0 * beta_reg(more, less + 1.0, 0.5)).min(1.0) }
}

fn counts(
    victim: &mut Victim<'_>,
    u: &[f32],
    sigma: f64,
    n: u64,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<u64>, RobustError> {
    let movable = victim.domain().movable();
    let mut counts = vec![0; victim.n_classes()];
    let mut left = n;
    let mut noisy = Vec::new();
    while left > 0 {
        let block = left.min(BLOCK);
        noisy.clear();
        for _ in 0..block {
            let noise =
                |(u, movable): (&f32, &bool)| if *movable { u + sigma as f32 * gaussian(rng) } else { *u };
            noisy.extend(u.iter().zip(movable).map(noise));
        }
        for answer in victim.answers(&noisy)? {
            counts[answer as usize] += 1;
        }
        left -= block;
    }
    Ok(counts)
}

fn largest(counts: &[u64]) -> usize {
    let mut best = 0;
    for (c, &k) in counts.iter().enumerate() {
        if k > counts[best] {
            best = c;
        }
    }
    best
}

fn standard() -> Normal {
    Normal::new(0.0, 1.0).expect("a standard normal exists: bug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn radii_and_abstention_equal_cohens_formula() {
        // sigma * scipy.stats.norm.ppf(scipy.stats.beta.ppf(alpha, k, n - k + 1))
        for (k, n, alpha, radius) in [
            (9_900, 10_000, 0.001, 0.553_104_916),
            (10_000, 10_000, 0.001, 0.799_644_379),
            (5_200, 10_000, 0.001, 0.002_821_175),
        ] {
            let smoothing = Smoothing::new(0.25, 100, n, alpha).unwrap();
            let found = smoothing.verdict(3, k);
            assert!((found.radius - radius).abs() < 1e-6, "{k}: {}", found.radius);
            assert_eq!(found.class, Some(3));
        }
        let abstained = Smoothing::new(0.25, 100, 10_000, 0.001).unwrap().verdict(3, 5_100);
        assert_eq!((abstained.class, abstained.radius), (None, 0.0));
    }

    #[test]
    fn equal_odds_equal_scipys_binomial_test() {
        // scipy.stats.binomtest(a, a + b, 0.5).pvalue
        for (a, b, p) in [(60, 40, 0.056_887_933), (8, 2, 0.109_375), (5, 5, 1.0), (100, 0, 1.577_721_8e-30)]
        {
            assert!((even_odds(a, b) - p).abs() < 1e-8 * (1.0 + p), "{a} {b}: {}", even_odds(a, b));
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (s, n0, n, a) in
            [(0.0, 1, 1, 0.1), (1.0, 0, 1, 0.1), (1.0, 1, SAMPLES_MAX + 1, 0.1), (1.0, 1, 1, 1.0)]
        {
            assert!(Smoothing::new(s, n0, n, a).is_err());
        }
    }
}
