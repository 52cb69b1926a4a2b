//! From logits to a token: temperature, top-k, top-p, and a generator that belongs to the sequence, so that
//! a seed repeats its answer whatever else is in the batch.

use lyceum_models::answer::likeliest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (the lower id on a tie).
    pub temperature: f32,
    /// Only the smallest set of tokens whose probability reaches this; 1 is all.
    pub top_p: f32,
    /// Only this many of the most likely tokens; 0 is all.
    pub top_k: usize,
    pub seed: u64,
}

/// The generator of a sequence. A token whose logit is minus infinity is never drawn.
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// (logit, id), reused.
    order: Vec<(f32, u32)>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Sampler { sampling, rng: ChaCha8Rng::seed_from_u64(sampling.seed), order: Vec::new() }
    }

    /// The next token.
    pub(crate) fn sample(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return likeliest(logits);
        }
        let Sampling { temperature, top_p, top_k, .. } = self.sampling;
        self.order.clear();
        self.order.extend(logits.iter().zip(0..).map(|(&x, id)| (x, id)));
        let keep = if top_k == 0 { self.order.len() } else { top_k.min(self.order.len()) };
        self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.order.truncate(keep);
        let highest = self.order[0].0;
        // Weights in f64, in descending order: one fixed order of summation.
        let weight = |x: f32| (f64::from(x - highest) / f64::from(temperature)).exp();
        let total: f64 = self.order.iter().map(|&(x, _)| weight(x)).sum();
        let mut nucleus = 0.0;
        let mut n = 0;
        for &(x, _) in &self.order {
            nucleus += weight(x);
            n += 1;
            if nucleus >= f64::from(top_p) * total {
                break;
            }
        }
        let mut point = self.rng.random::<f64>() * nucleus;
        for &(x, id) in &self.order[..n] {
            point -= weight(x);
            if point < 0.0 {
                return id;
            }
        }
        self.order[n - 1].1
    }
}

/// `log softmax` of a row, in f64.
pub(crate) fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - highest).exp()).sum();
    let lse = f64::from(highest) + sum.ln();
    logits.iter().map(|&x| (f64::from(x) - lse) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..n).map(|_| sampler.sample(logits)).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax_and_a_seed_repeats() {
        let logits = [0.0, 1.0, 2.0];
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 3 };
        let drawn = draws(sampling, &logits, 20_000);
        assert_eq!(drawn, draws(sampling, &logits, 20_000));
        for (id, want) in log_probabilities(&logits).iter().map(|l| l.exp()).enumerate() {
            let got = drawn.iter().filter(|&&d| d as usize == id).count() as f32 / 20_000.0;
            assert!((got - want).abs() < 0.015, "{id}: {got} {want}");
        }
    }

    #[test]
    fn an_impossible_token_is_never_drawn_and_the_others_share_its_probability() {
        let logits = [1.0, f32::NEG_INFINITY, 0.5, f32::NEG_INFINITY];
        for temperature in [0.0, 0.7, 2.0] {
            let sampling = Sampling { temperature, top_p: 1.0, top_k: 0, seed: 5 };
            assert!(draws(sampling, &logits, 2_000).iter().all(|&id| id == 0 || id == 2), "{temperature}");
        }
        let logprobs = log_probabilities(&logits);
        assert_eq!((logprobs[1], logprobs[3]), (f32::NEG_INFINITY, f32::NEG_INFINITY));
        assert_eq!([logprobs[0], logprobs[2]], log_probabilities(&[1.0, 0.5])[..]);
    }

    #[test]
    fn top_k_top_p_and_zero_temperature_cut() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        let base = Sampling { temperature: 1.0, top_p: 1.0, top_k: 2, seed: 1 };
        assert!(draws(base, &logits, 500).iter().all(|&d| d == 1 || d == 2));
        assert!(draws(Sampling { top_k: 0, top_p: 0.4, ..base }, &logits, 500).iter().all(|&d| d == 1));
        assert_eq!(draws(Sampling { temperature: 0.0, ..base }, &logits, 1), [1]);
    }
}
