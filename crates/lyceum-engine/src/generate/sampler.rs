//! From logits to a token: what may be said, penalties, temperature, cuts, and a generator that belongs to the
//! sequence, so that a seed repeats its answer whatever else is in the batch.
//!
//! In this order: `logit_bias` is added; what has been said is penalised; what the mask forbids is removed;
//! temperature; then `min_p`, `top_k` and `top_p` cut. Probabilities that are reported are those of the model
//! (without the tokens that are never said), before all of this.

use super::mask::{BitMask, TokenMask};
use crate::EngineError;
use lyceum_kernels::distribution::{self, BLOCK, Moments};
use lyceum_models::answer::likeliest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (the lower id on a tie).
    pub temperature: f32,
    /// Only the smallest set of tokens whose probability reaches this; 1 is all.
    pub top_p: f32,
    /// Only this many of the most likely tokens; 0 is all.
    pub top_k: usize,
    /// Only tokens at least this likely relative to the likeliest; 0 is all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens in the prompt or the answer; 1 is none
    /// (Keskar et al. 2019, arXiv:1909.05858).
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that are in the answer; 0 is none.
    pub presence_penalty: f32,
    /// Taken from a token's logit as often as it is in the answer; 0 is none.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: u64,
}

impl Default for Sampling {
    /// The most likely token, always.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Why these numbers make no sense for this vocabulary.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), EngineError> {
        let numbers = [
            ("temperature", self.temperature, 0.0..=f32::MAX),
            ("top_p", self.top_p, 0.0..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE..=f32::MAX),
            ("presence_penalty", self.presence_penalty, f32::MIN..=f32::MAX),
            ("frequency_penalty", self.frequency_penalty, f32::MIN..=f32::MAX),
        ];
        for (name, x, range) in numbers {
            if !range.contains(&x) {
                let (low, high) = (range.start(), range.end());
                return Err(EngineError::Input(format!("{name} {x} is not in {low}..={high}")));
            }
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocabulary || !bias.is_finite() {
                let what = format!("logit_bias {bias} of token {id}, in a vocabulary of {vocabulary}");
                return Err(EngineError::Input(what));
            }
        }
        Ok(())
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// The generator of a sequence, and what it has said. A token whose logit is minus infinity is never drawn.
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    mask: Option<Box<dyn TokenMask>>,
    /// Tokens of prompt and answer, and how often each is in the answer; kept only where it is asked for.
    said: HashMap<u32, u32>,
    /// Reused: the logits as changed, what is allowed, weights with their sums, and (logit, id) as far as it is in order.
    logits: Vec<f32>,
    allowed: BitMask,
    weights: Vec<f32>,
    sums: Vec<f64>,
    order: Vec<(f32, u32)>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, mask: Option<Box<dyn TokenMask>>, prompt: &[u32]) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        let said = match sampling.penalises() {
            true => prompt.iter().map(|&id| (id, 0)).collect(),
            false => HashMap::new(),
        };
        let (logits, allowed, weights, sums, order) = Default::default();
        Sampler { sampling, rng, mask, said, logits, allowed, weights, sums, order }
    }

    /// The next token.
    ///
    /// # Errors
    /// When the mask fails or allows nothing: nothing is said rather than something that was not allowed.
    pub(crate) fn next(&mut self, row: &[f32]) -> Result<u32, EngineError> {
        let changes = !self.sampling.logit_bias.is_empty() || !self.said.is_empty() || self.mask.is_some();
        if !changes {
            return Ok(self.sample(row));
        }
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        logits.extend_from_slice(row);
        self.change(&mut logits)?;
        let id = self.sample(&logits);
        let possible = logits[id as usize] > f32::NEG_INFINITY;
        self.logits = logits;
        match possible {
            true => Ok(id),
            false => Err(EngineError::Constraint("no token is allowed here".into())),
        }
    }

    /// Counts a token of the answer. End tokens are not told.
    pub(crate) fn accept(&mut self, id: u32) -> Result<(), EngineError> {
        if self.sampling.penalises() {
            *self.said.entry(id).or_default() += 1;
        }
        self.mask.as_mut().map_or(Ok(()), |mask| mask.accept(id).map_err(EngineError::Constraint))
    }

    fn change(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        for &(id, bias) in &self.sampling.logit_bias {
            logits[id as usize] += bias;
        }
        let Sampling { repetition_penalty: repetition, presence_penalty, frequency_penalty, .. } =
            self.sampling;
        for (&id, &n) in &self.said {
            let x = &mut logits[id as usize];
            *x = if *x > 0.0 { *x / repetition } else { *x * repetition };
            if n > 0 {
                *x -= presence_penalty + frequency_penalty * n as f32;
            }
        }
        if let Some(mask) = &mut self.mask {
            self.allowed.reset(logits.len());
            mask.allowed(&mut self.allowed).map_err(EngineError::Constraint)?;
            let allowed = &self.allowed;
            for (x, _) in logits.iter_mut().zip(0..).filter(|(_, id)| !allowed.contains(*id)) {
                *x = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn sample(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return likeliest(logits);
        }
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        self.weights.resize(logits.len(), 0.0);
        self.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
        distribution::weigh(logits, temperature, &mut self.weights, &mut self.sums);
        let all: f64 = self.sums.iter().sum();
        let chance = self.rng.random::<f64>();
        let mut n = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
        if n == logits.len() && min_p == 0.0 && top_p >= 1.0 {
            return drawn(&self.weights, &self.sums, chance * all);
        }
        let mut order = Descending::new(logits, &mut self.order);
        let weights = &self.weights;
        let mut ranked = |i: usize| {
            let id = order.get(i).1;
            (id, f64::from(weights[id as usize]))
        };
        if min_p > 0.0 {
            n = (0..n).find(|&i| ranked(i).1 < f64::from(min_p)).unwrap_or(n);
        }
        let total = if n == logits.len() { all } else { (0..n).map(|i| ranked(i).1).sum() };
        let mut nucleus = total;
        if top_p < 1.0 {
            nucleus = 0.0;
            for i in 0..n {
                nucleus += ranked(i).1;
                if nucleus >= f64::from(top_p) * total {
                    n = i + 1;
                    break;
                }
            }
        }
        let mut point = chance * nucleus;
        let mut last = ranked(0).0;
        for i in 0..n {
            let (id, weight) = ranked(i);
            if weight == 0.0 {
                break;
            }
            last = id;
            point -= weight;
            if point < 0.0 {
                break;
            }
        }
        last
    }
}

/// The first position at which the weights, summed from the first on, are more than `point`; where rounding leaves none, the
/// last that weighs something, and the first where none does.
fn drawn(weights: &[f32], sums: &[f64], mut point: f64) -> u32 {
    for (block, (part, &sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
        if point >= sum {
            point -= sum;
            continue;
        }
        for (i, &weight) in part.iter().enumerate() {
            point -= f64::from(weight);
            if point < 0.0 {
                return (block * BLOCK + i) as u32;
            }
        }
    }
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0) as u32
}

/// Tokens from the likeliest on (the lower id of equals first), put in order as far as anybody looks: the highest logits are
/// taken out of the row first, then those of a wider range, and all in the end.
struct Descending<'a> {
    row: &'a [f32],
    taken: &'a mut Vec<(f32, u32)>,
    n_sorted: usize,
    /// What is at least this high has been taken.
    floor: Option<f32>,
    /// How far below the likeliest the next floor is.
    reach: f32,
}

impl<'a> Descending<'a> {
    fn new(row: &'a [f32], taken: &'a mut Vec<(f32, u32)>) -> Self {
        taken.clear();
        Descending { row, taken, n_sorted: 0, floor: None, reach: 4.0 }
    }

    fn get(&mut self, i: usize) -> (f32, u32) {
        let before = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        while i >= self.n_sorted {
            if self.n_sorted == self.taken.len() {
                self.take();
                continue;
            }
            let n = (8 * self.n_sorted).max(64).min(self.taken.len());
            let rest = &mut self.taken[self.n_sorted..];
            let more = n - self.n_sorted;
            if more < rest.len() {
                rest.select_nth_unstable_by(more, before);
            }
            rest[..more].sort_unstable_by(before);
            self.n_sorted = n;
        }
        self.taken[i]
    }

    /// Takes out of the row what comes next.
    fn take(&mut self) {
        let highest = self.row[likeliest(self.row) as usize];
        if highest.is_finite() && self.reach < 1e3 {
            let floor = highest - self.reach;
            distribution::within(self.row, floor..self.floor.unwrap_or(f32::INFINITY), self.taken);
            (self.floor, self.reach) = (Some(floor), 4.0 * self.reach);
        } else {
            let is_left = |x: f32| self.floor.is_none_or(|floor| x < floor || x.is_nan());
            self.taken.extend(self.row.iter().copied().zip(0..).filter(|(x, _)| is_left(*x)));
        }
    }
}

/// What a row says about a token.
pub(crate) fn report(row: &[f32], id: u32, n_top: usize) -> super::Logprobs {
    let (lse, entropy) = log_sum_exp_and_entropy(row);
    let log = |x: f32| (f64::from(x) - lse) as f32;
    let chosen = row[id as usize];
    let higher = row.iter().filter(|&&x| x > chosen).count();
    let as_high = row[..id as usize].iter().filter(|&&x| x == chosen).count();
    let mut taken = Vec::new();
    let mut order = Descending::new(row, &mut taken);
    let top = (0..n_top.min(row.len())).map(|i| order.get(i));
    // What is never said is no alternative.
    let top = top.filter(|(x, _)| *x > f32::NEG_INFINITY).map(|(x, id)| (id, log(x))).collect();
    super::Logprobs { chosen: log(chosen), rank: 1 + higher + as_high, entropy: entropy as f32, top }
}

/// `log Σ exp` of a row, and the entropy of its softmax.
fn log_sum_exp_and_entropy(logits: &[f32]) -> (f64, f64) {
    let Moments { largest, sum, inner } = distribution::moments(logits);
    (f64::from(largest) + sum.ln(), (sum.ln() - inner / sum).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: &Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling.clone(), None, &[]);
        (0..n).map(|_| sampler.next(logits).unwrap()).collect()
    }

    fn warm(seed: u64) -> Sampling {
        Sampling { temperature: 1.0, seed, ..Sampling::default() }
    }

    #[test]
    fn entropy_is_that_of_the_whole_distribution() {
        let row = [0.3f32, -1.0, 2.5, f32::NEG_INFINITY, 0.0, -90.0];
        let logs: Vec<f64> = log_probabilities(&row).iter().map(|&log| f64::from(log)).collect();
        let want: f64 = logs.iter().filter(|log| log.is_finite()).map(|log| -log.exp() * log).sum();
        for id in 0..2 {
            let found = f64::from(report(&row, id, 2).entropy);
            assert!((found - want).abs() < 1e-6, "{found} {want}");
        }
        let even = report(&[1.5; 8], 3, 0).entropy;
        assert!((f64::from(even) - 8f64.ln()).abs() < 1e-6);
        assert_eq!(report(&[f32::NEG_INFINITY, 4.0], 1, 0).entropy, 0.0, "one choice is no choice");
    }

    fn log_probabilities(row: &[f32]) -> Vec<f32> {
        (0..row.len() as u32).map(|id| report(row, id, 0).chosen).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax_and_a_seed_repeats() {
        let logits = [0.0, 1.0, 2.0];
        let draws = drawn(&warm(3), &logits, 20_000);
        assert_eq!(draws, drawn(&warm(3), &logits, 20_000));
        for (id, want) in log_probabilities(&logits).iter().map(|l| l.exp()).enumerate() {
            let got = draws.iter().filter(|&&d| d as usize == id).count() as f32 / 20_000.0;
            assert!((got - want).abs() < 0.015, "{id}: {got} {want}");
        }
    }

    #[test]
    fn tokens_of_a_large_vocabulary_are_drawn_as_often_as_their_weights_say() {
        let mut logits = vec![-30.0; 2_000];
        let places = [0, 3, 255, 256, 700, 1_999];
        (1..).zip(places).for_each(|(weight, id)| logits[id] = f32::ln(weight as f32));
        // With a cut tokens are drawn from the likeliest on, without one by their ids.
        for top_p in [1.0, 0.9999] {
            let draws = drawn(&Sampling { top_p, ..warm(4) }, &logits, 20_000);
            for (weight, id) in (1..).zip(places) {
                let got = draws.iter().filter(|&&d| d as usize == id).count() as f32 / 20_000.0;
                assert!((got - weight as f32 / 21.0).abs() < 0.015, "{id}: {got}");
            }
        }
    }

    #[test]
    fn an_impossible_token_is_never_drawn_and_the_others_share_its_probability() {
        let logits = [1.0, f32::NEG_INFINITY, 0.5, f32::NEG_INFINITY];
        for temperature in [0.0, 0.7, 2.0] {
            let sampling = Sampling { temperature, ..warm(5) };
            assert!(drawn(&sampling, &logits, 2_000).iter().all(|&id| id == 0 || id == 2), "{temperature}");
        }
        let logprobs = log_probabilities(&logits);
        assert_eq!((logprobs[1], logprobs[3]), (f32::NEG_INFINITY, f32::NEG_INFINITY));
        assert_eq!([logprobs[0], logprobs[2]], log_probabilities(&[1.0, 0.5])[..]);
    }

    #[test]
    fn top_k_top_p_min_p_and_zero_temperature_cut() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        assert!(drawn(&Sampling { top_k: 2, ..warm(1) }, &logits, 500).iter().all(|&d| d == 1 || d == 2));
        assert!(drawn(&Sampling { top_p: 0.4, ..warm(1) }, &logits, 500).iter().all(|&d| d == 1));
        assert!(drawn(&Sampling { min_p: 0.5, ..warm(1) }, &logits, 500).iter().all(|&d| d == 1 || d == 2));
        assert_eq!(drawn(&Sampling { temperature: 0.0, ..warm(1) }, &logits, 1), [1]);
    }

    #[test]
    fn a_large_vocabulary_is_put_in_order_piece_by_piece() {
        let logits: Vec<f32> = (0..5_000).map(|i| ((i * 7919) % 4_999) as f32 / 100.0).collect();
        let mut want: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
        want.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut taken = Vec::new();
        let mut order = Descending::new(&logits, &mut taken);
        assert!((0..5_000).all(|i| order.get(i) == want[i]));
        let far = [-1e30, f32::NEG_INFINITY, 7.0, 7.0, 6.5, -900.0];
        let mut order = Descending::new(&far, &mut taken);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|i| order.get(i).1), [2, 3, 4, 5, 0, 1]);
        let reported = report(&logits, want[7].1, 5);
        assert_eq!(reported.rank, 8);
        assert_eq!(
            reported.top.iter().map(|t| t.0).collect::<Vec<_>>(),
            want[..5].iter().map(|t| t.1).collect::<Vec<_>>()
        );
    }

    #[test]
    fn penalties_and_bias_follow_their_formulas() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            logit_bias: vec![(3, 1.5)],
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, None, &[0, 1]);
        (0..3).for_each(|_| sampler.accept(1).unwrap());
        let mut logits = [4.0, -1.0, 1.0, 0.5];
        sampler.change(&mut logits).unwrap();
        assert_eq!(logits, [2.0, -2.0 - 0.25 - 1.5, 1.0, 2.0]);
    }

    struct Only(Vec<u32>);

    impl TokenMask for Only {
        fn allowed(&mut self, out: &mut BitMask) -> Result<(), String> {
            self.0.iter().for_each(|&id| out.allow(id));
            Ok(())
        }
        fn accept(&mut self, token: u32) -> Result<(), String> {
            if token == 9 { Err("nine was said".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn what_the_mask_forbids_is_never_said_and_no_choice_is_an_error() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..warm(1) };
            let mut sampler = Sampler::new(sampling.clone(), Some(Box::new(Only(vec![1, 3]))), &[]);
            let logits = [9.0, 1.0, 9.0, 1.5];
            assert!((0..200).all(|_| [1, 3].contains(&sampler.next(&logits).unwrap())));
            assert_eq!(sampler.accept(9), Err(EngineError::Constraint("nine was said".into())));
            let mut nothing = Sampler::new(sampling, Some(Box::new(Only(vec![]))), &[]);
            assert!(matches!(nothing.next(&logits), Err(EngineError::Constraint(_))));
        }
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        let refused = |sampling: Sampling| sampling.check(4).unwrap_err().to_string();
        assert!(refused(Sampling { temperature: -1.0, ..warm(1) }).contains("temperature -1"));
        assert!(refused(Sampling { top_p: f32::NAN, ..warm(1) }).contains("top_p"));
        assert!(refused(Sampling { repetition_penalty: 0.0, ..warm(1) }).contains("repetition_penalty"));
        assert!(refused(Sampling { logit_bias: vec![(4, 1.0)], ..warm(1) }).contains("token 4"));
        assert_eq!(warm(1).check(4), Ok(()));
    }
}
