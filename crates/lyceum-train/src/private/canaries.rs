//! What an attacker proves of this very run (Steinke, Nasr & Jagielski 2023, arXiv:2305.08846).
//!
//! Canaries are rows of nobody: random inputs with random labels, made from the spec's seed and the preparation alone,
//! so no row of the data says anything through them and none counts twice. A coin of the run's secret key puts each
//! among the training rows or leaves it out. The attacker knows the canaries and sees the finished model; its score of
//! one is the loss before training less the loss after. How often its guesses are right bounds ε from below
//! ([`lyceum_privacy::audit`]). This attacker sees neither the steps nor the noise, so its bound is far below what the
//! worst one could reach: it can show a promise broken, and never kept.

use super::Noise;
use crate::data::dataset::{Examples, Ragged, Targets};
use crate::data::sequences::Sequences;
use crate::data::{Dataset, Loaded};
use crate::error::TrainError;
use crate::measure::row_losses;
use crate::order::generator;
use lyceum_models::prepare::tabular::{Code, Encoder};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_models::space::Domain;
use lyceum_models::{InputShape, Model};
use lyceum_privacy::audit::best_lower_bound;
use lyceum_privacy::membership;
use lyceum_types::control::Control;
use lyceum_types::manifest::{AuditReport, Metric};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The generator of the canaries' inputs and labels.
const STREAM: u64 = 0xca_0a_12;
/// The step whose draws are the coins: no run has so many.
const COINS: u64 = 1 << 62;
const CONFIDENCE: f64 = 0.95;
/// Of a canary of a fine-tuning.
const SEQUENCE_TOKENS: usize = 16;

/// Rows of nobody, and which of them the run trains on.
#[derive(Clone, Debug)]
pub struct Canaries {
    data: Dataset,
    included: Vec<usize>,
    delta: f64,
}

impl Canaries {
    /// Makes `n` canaries and throws their coins.
    ///
    /// # Errors
    /// A task whose answers are not one label a row.
    pub fn new(n: usize, seed: u64, loaded: &Loaded, noise: &Noise, delta: f64) -> Result<Self, TrainError> {
        let preparation = &loaded.preparation;
        let OutputPreparation::Labels { names } = &preparation.output else {
            let message =
                "privacy.audit: canaries are rows with wrong labels, and these rows have not one label each";
            return Err(TrainError::Spec(message.into()));
        };
        let mut rng = generator(seed, STREAM);
        let examples = examples(n, preparation, &loaded.train, &mut rng)?;
        let classes = (0..n).map(|_| rng.random_range(0..names.len() as u32)).collect();
        let data = Dataset {
            examples,
            targets: Targets::Classes(classes),
            row_ids: Vec::new(),
            texts: None,
            n_truncated: Vec::new(),
        };
        Ok(Self::tossed(data, noise, delta))
    }

    /// Throws the coins of canaries that are made.
    pub fn tossed(data: Dataset, noise: &Noise, delta: f64) -> Self {
        let mut included = Vec::new();
        noise.draw(COINS, data.len(), 0.5, &mut included);
        Canaries { data, included, delta }
    }

    /// The training rows, and after them the canaries that the coins chose.
    pub fn among(&self, train: &Dataset) -> Dataset {
        train.followed_by(&self.data, &self.included)
    }

    /// What the attacker proves, from the weights before and after.
    ///
    /// # Errors
    /// Cancellation, or a loss that is not a number.
    pub fn audit(&self, before: &Model, after: &Model, control: &Control) -> Result<AuditReport, TrainError> {
        self.judge(&row_losses(before, &self.data, control)?, &row_losses(after, &self.data, control)?)
    }

    /// What the attacker proves, from the loss of each canary before and after.
    ///
    /// # Errors
    /// A loss that is not a number.
    pub fn judge(&self, before: &[f64], after: &[f64]) -> Result<AuditReport, TrainError> {
        let scores: Vec<f64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
        let mut included = vec![false; scores.len()];
        self.included.iter().for_each(|&i| included[i] = true);
        let found = best_lower_bound(&scores, &included, self.delta, CONFIDENCE)?;
        let of = |part: bool| scores.iter().zip(&included).filter(move |(_, i)| **i == part).map(|(s, _)| *s);
        let (members, others): (Vec<f64>, Vec<f64>) = (of(true).collect(), of(false).collect());
        let auc = membership::attack(&members, &others, &[])?.auc;
        let (m, r, v) = (found.guesses.m, found.guesses.r, found.guesses.v);
        Ok(AuditReport {
            method: "one run (Steinke, Nasr and Jagielski 2023): made-up rows with random labels, loss before less after"
                .into(),
            canaries: m,
            guesses: r,
            right: v,
            epsilon_lower: found.epsilon,
            delta: found.delta,
            confidence: found.confidence,
            membership_auc: Some(Metric { value: auc.value, ci95: auc.ci95, n: auc.n }),
            statement: format!(
                "Of {m} made-up rows, half of which took part, an attacker who sees the model told {v} of {r} rightly: \
                 with {:.0} % confidence ε is at least {:.3}. That proves nothing from above: a stronger attacker may tell more.",
                100.0 * found.confidence,
                found.epsilon
            ),
        })
    }
}

/// Random tokens, the second half of each sequence learnt: what no line of the data says. Their length is no line's.
pub fn random_sequences(n: usize, seed: u64, vocabulary: usize, context: usize) -> Dataset {
    let (mut rng, mut sequences) = (generator(seed, STREAM), Sequences::new(None));
    let length = SEQUENCE_TOKENS.min(context).max(2);
    let has_loss: Vec<bool> = (0..length).map(|i| i >= length / 2).collect();
    for _ in 0..n {
        let ids: Vec<u32> = (0..length).map(|_| rng.random_range(0..vocabulary as u32)).collect();
        sequences.push(&ids, &has_loss);
    }
    Dataset::of_sequences(sequences, Vec::new())
}

/// Random inputs as the model takes them.
fn examples(
    n: usize,
    preparation: &Preparation,
    train: &Dataset,
    rng: &mut ChaCha8Rng,
) -> Result<Examples, TrainError> {
    if let InputShape::Tokens { vocabulary, time } = preparation.shape().input {
        let mut ids = Ragged::new();
        for _ in 0..n {
            let length = rng.random_range(1..=time.max(1));
            let row: Vec<u32> = (0..length).map(|_| rng.random_range(0..vocabulary as u32)).collect();
            ids.push(&row);
        }
        return Ok(Examples::Tokens(ids));
    }
    let Examples::Dense { shape, .. } = &train.examples else {
        return Err(TrainError::Spec(
            "privacy.audit: these rows are neither numbers nor one text each".into(),
        ));
    };
    let table = match &preparation.input {
        InputPreparation::Tabular(encoder) => Some(encoder),
        _ => None,
    };
    // A table of nothing but categories has no small changes, and needs no space of them here.
    let domain = Domain::of(preparation).ok();
    let width: usize = shape.iter().product();
    let (mut data, mut row) = (Vec::with_capacity(n * width), Vec::with_capacity(width));
    for _ in 0..n {
        row.clear();
        match (table, &domain) {
            (Some(encoder), _) => cells(encoder, rng, &mut row),
            (None, domain) => row.extend((0..width).map(|j| number(domain.as_ref(), j, rng))),
        }
        match &domain {
            Some(domain) if table.is_none() => domain.to_model(&row, &mut data),
            _ => data.extend_from_slice(&row),
        }
    }
    Ok(Examples::Dense { shape: shape.clone(), data })
}

/// Anywhere between the bounds of a pixel; where there are none, as a standardised number is.
fn number(domain: Option<&Domain>, j: usize, rng: &mut ChaCha8Rng) -> f32 {
    match domain.map(|domain| domain.bounds(j, 0.0)) {
        Some((lo, hi)) if lo.is_finite() && hi.is_finite() => lo + (hi - lo) * rng.random::<f32>(),
        _ => normal(rng),
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// A row of a table: numbers as standardised ones are, any category, nothing missing.
fn cells(encoder: &Encoder, rng: &mut ChaCha8Rng, row: &mut Vec<f32>) {
    for column in &encoder.columns {
        let first = row.len();
        row.resize(first + column.width(), 0.0);
        match &column.code {
            Code::Number { .. } => row[first] = normal(rng),
            Code::Category { values, .. } => row[first + rng.random_range(0..values.len().max(1))] = 1.0,
        }
    }
}
