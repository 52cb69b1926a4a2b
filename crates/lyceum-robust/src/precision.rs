//! How far a language model's next-token distributions are from a reference's, over positions of texts: what quantised
//! weights, another instruction set or another way through the model changes.

use crate::error::RobustError;
use crate::share::share;
use lyceum_models::answer::likeliest;
use lyceum_types::manifest::Metric;

/// Equal bins of the likeliest token's probability.
const BINS: usize = 15;

/// Sums over positions; positions are added as they are computed, so that no text's logits are kept.
#[derive(Clone, Debug)]
pub struct Divergence {
    n: u64,
    n_same: u64,
    kl_sum: f64,
    kl_max: f64,
    logit_max: f64,
    logprob_max: f64,
    identical: bool,
    /// Where the text goes on: how sure, and how often right, of ours and of the reference.
    own: Sureness,
    reference: Sureness,
}

#[derive(Clone, Debug)]
struct Sureness {
    n: u64,
    nll_sum: f64,
    sure: [f64; BINS],
    right: [u64; BINS],
}

/// What was found of one environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// Positions at which the likeliest token is the reference's.
    pub agreement: Metric,
    /// `Σ p_ref ln(p_ref / p)`, the mean and the largest, in nats.
    pub kl_mean: f64,
    pub kl_max: f64,
    /// The largest difference of a logit, and of a log-probability.
    pub logit_max: f64,
    pub logprob_max: f64,
    /// Whether all logits are the same bits.
    pub identical: bool,
    /// `exp` of the mean negative log-probability of the tokens that the texts have, ours and the reference's; None: one
    /// token a text.
    pub perplexity: Option<[f64; 2]>,
    /// The expected calibration error of the likeliest token's probability, ours and the reference's.
    pub ece: Option<[f64; 2]>,
}

impl Default for Divergence {
    fn default() -> Self {
        let none = Sureness { n: 0, nll_sum: 0.0, sure: [0.0; BINS], right: [0; BINS] };
        Divergence {
            n: 0,
            n_same: 0,
            kl_sum: 0.0,
            kl_max: 0.0,
            logit_max: 0.0,
            logprob_max: 0.0,
            identical: true,
            own: none.clone(),
            reference: none,
        }
    }
}

impl Divergence {
    /// One position: logits of both, and the token that the text has next.
    pub fn add(&mut self, logits: &[f32], reference: &[f32], next: Option<u32>) {
        let (own, theirs) = (log_softmax(logits), log_softmax(reference));
        let kl: f64 = theirs
            .iter()
            .zip(&own)
            .map(|(&r, &o)| if r > f64::NEG_INFINITY { r.exp() * (r - o) } else { 0.0 })
            .sum();
        // Rounding may leave a hair below zero.
        let kl = kl.max(0.0);
        self.n += 1;
        self.n_same += u64::from(likeliest(logits) == likeliest(reference));
        self.kl_sum += kl;
        self.kl_max = self.kl_max.max(kl);
        let differences = logits.iter().zip(reference).map(|(a, b)| f64::from((a - b).abs()));
        self.logit_max = differences.fold(self.logit_max, f64::max);
        // A token that is impossible to both differs in nothing.
        let differences = own.iter().zip(&theirs).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
        self.logprob_max = differences.fold(self.logprob_max, f64::max);
        self.identical &= logits.iter().zip(reference).all(|(a, b)| a.to_bits() == b.to_bits());
        if let Some(next) = next {
            self.own.add(&own, likeliest(logits), next);
            self.reference.add(&theirs, likeliest(reference), next);
        }
    }

    /// # Errors
    /// No positions.
    pub fn distance(&self) -> Result<Distance, RobustError> {
        let n = self.n as f64;
        let both = |of: fn(&Sureness) -> f64| (self.own.n > 0).then(|| [of(&self.own), of(&self.reference)]);
        Ok(Distance {
            agreement: share(self.n_same, self.n)?,
            kl_mean: self.kl_sum / n,
            kl_max: self.kl_max,
            logit_max: self.logit_max,
            logprob_max: self.logprob_max,
            identical: self.identical,
            perplexity: both(|s| (s.nll_sum / s.n as f64).exp()),
            ece: both(Sureness::ece),
        })
    }
}

impl Sureness {
    fn add(&mut self, log_probabilities: &[f64], answer: u32, next: u32) {
        let confidence = log_probabilities[answer as usize].exp();
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        self.n += 1;
        self.nll_sum -= log_probabilities[next as usize];
        self.sure[bin] += confidence;
        self.right[bin] += u64::from(answer == next);
    }

    /// `Σ |right − Σ confidence| / n`.
    fn ece(&self) -> f64 {
        let gaps = self.right.iter().zip(&self.sure).map(|(&right, sure)| (right as f64 - sure).abs());
        gaps.sum::<f64>() / self.n as f64
    }
}

/// `z − max − ln Σ exp(z − max)`, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&z| (f64::from(z) - max).exp()).sum();
    logits.iter().map(|&z| f64::from(z) - max - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate;

    #[test]
    fn the_same_logits_have_no_distance_and_known_ones_the_known_one() {
        let mut same = Divergence::default();
        same.add(&[1.0, 2.0, -3.0], &[1.0, 2.0, -3.0], Some(1));
        let found = same.distance().unwrap();
        assert!(found.identical && found.kl_mean == 0.0 && found.agreement.value == 1.0);
        // p_ref = (1/2, 1/2), p = (3/4, 1/4): KL = ½ ln(2/3) + ½ ln 2 = ½ ln(4/3).
        let mut other = Divergence::default();
        other.add(&[3.0_f32.ln(), 0.0], &[0.0, 0.0], None);
        let found = other.distance().unwrap();
        assert!((found.kl_mean - 0.5 * (4.0_f64 / 3.0).ln()).abs() < 1e-7, "{found:?}");
        assert!(
            (found.logit_max - 3.0_f64.ln()).abs() < 1e-6 && !found.identical && found.perplexity.is_none()
        );
        // ln ½ − ln ¼.
        assert!((found.logprob_max - 2.0_f64.ln()).abs() < 1e-6, "{found:?}");
        assert!(Divergence::default().distance().is_err());
    }

    #[test]
    fn the_calibration_error_is_that_of_classifiers() {
        let rows: Vec<[f32; 4]> =
            (0..40).map(|i| std::array::from_fn(|c| ((i * 7 + c * 13) % 11) as f32 * 0.4)).collect();
        let next: Vec<u32> = (0..40).map(|i| i % 4).collect();
        let mut found = Divergence::default();
        rows.iter().zip(&next).for_each(|(row, &next)| found.add(row, &[0.0; 4], Some(next)));
        let found = found.distance().unwrap();
        let flat: Vec<f32> = rows.concat();
        let probabilities = calibrate::probabilities(&flat, 4, 1.0);
        let expected = calibrate::reliability(&probabilities, 4, &next, BINS).unwrap().ece;
        assert!((found.ece.unwrap()[0] - expected).abs() < 1e-9, "{found:?} {expected}");
        assert!((found.perplexity.unwrap()[1] - 4.0).abs() < 1e-9);
    }
}
