//! Accuracy, F1, the confusion matrix, log-loss and calibration of a classifier.

use super::interval::{self, Z};
use super::{EvalError, finite, same_length};
use lyceum_types::manifest::Metric;
use std::collections::BTreeMap;

/// Equal-width bins of confidence for the expected calibration error (Guo et al. 2017 use 15).
pub const ECE_BINS: usize = 15;

/// What is known of a classifier after it has answered `n` rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// `loss`, `log_loss`, `accuracy`, `f1_macro`, `ece`.
    pub metrics: BTreeMap<String, Metric>,
    /// Of each class; none where a class is neither among the labels nor among the answers.
    pub f1_per_class: Vec<Option<Metric>>,
    /// `[classes, classes]`, rows are labels, columns answers.
    pub confusion: Vec<u64>,
    /// The answer to each row: the likeliest class, the first of equals.
    pub answers: Vec<u32>,
    /// Whether each row was answered rightly: what the paired test compares.
    pub correct: Vec<bool>,
    /// Of each row, in nats.
    pub losses: Vec<f64>,
}

/// `logits`: `[n, classes]` → log-probabilities of the same shape, in f64.
pub fn log_softmax(logits: &[f32], n_classes: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(n_classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
        out.extend(row.iter().map(|logit| f64::from(*logit) - max - sum.ln()));
    }
    out
}

/// `log_probs`: `[n, n_classes]` in nats; `labels`: `[n]`; `seed`: of the bootstrap. F1 has percentile
/// intervals; ECE, which a resample overstates, has the normal interval with the bootstrap's spread.
///
/// # Errors
/// No rows, shapes that disagree, a label beyond the classes, a NaN or an infinite loss.
pub fn classification(
    log_probs: &[f64],
    labels: &[u32],
    n_classes: usize,
    seed: u64,
) -> Result<Classification, EvalError> {
    let metric = "classification";
    let n = labels.len();
    if n == 0 || n_classes == 0 {
        return Err(EvalError::Empty { metric });
    }
    same_length(metric, log_probs.len(), n * n_classes)?;
    if let Some(at) = log_probs.iter().position(|value| value.is_nan()) {
        return Err(EvalError::NotFinite { metric, row: at / n_classes });
    }
    if let Some(row) = labels.iter().position(|label| *label as usize >= n_classes) {
        return Err(EvalError::Label { metric, row, label: labels[row], classes: n_classes });
    }
    let rows = || log_probs.chunks_exact(n_classes);
    let losses: Vec<f64> = rows().zip(labels).map(|(row, label)| -row[*label as usize]).collect();
    finite(metric, &losses)?;
    let answers: Vec<u32> = rows().map(likeliest).collect();
    let confidence: Vec<f64> =
        rows().zip(&answers).map(|(row, answer)| row[*answer as usize].exp()).collect();
    let correct: Vec<bool> = answers.iter().zip(labels).map(|(answer, label)| answer == label).collect();

    let mut confusion = vec![0u64; n_classes * n_classes];
    for (label, answer) in labels.iter().zip(&answers) {
        confusion[*label as usize * n_classes + *answer as usize] += 1;
    }
    let all: Vec<u32> = (0..n as u32).collect();
    let mut counts = Counts::new(n_classes);
    counts.fill(&all, labels, &answers);
    let f1 = counts.f1();
    let ece = calibration_error(&all, &confidence, &correct);

    // One bootstrap for all: every class's F1, their mean, and the calibration error.
    let samples = interval::bootstrap(n, n_classes + 2, seed, |rows, out| {
        counts.fill(rows, labels, &answers);
        let f1 = counts.f1();
        out[..n_classes].copy_from_slice(&f1);
        out[n_classes] = macro_mean(&f1);
        out[n_classes + 1] = calibration_error(rows, &confidence, &correct);
    });
    let of = |value: f64, ci95: [f64; 2]| Metric { value, ci95, n: n as u64 };
    let f1_per_class = f1
        .iter()
        .zip(&samples)
        .map(|(value, samples)| (!value.is_nan()).then(|| of(*value, interval::percentiles(samples))))
        .collect();
    let half = Z * interval::spread(&samples[n_classes + 1]);
    let log_loss = interval::mean(metric, &losses)?;
    let n_correct = correct.iter().filter(|correct| **correct).count() as u64;
    let metrics = BTreeMap::from([
        ("loss".to_owned(), log_loss.clone()),
        ("log_loss".to_owned(), log_loss),
        ("accuracy".to_owned(), interval::wilson(n_correct, n as u64)?),
        ("f1_macro".to_owned(), of(macro_mean(&f1), interval::percentiles(&samples[n_classes]))),
        ("ece".to_owned(), of(ece, [(ece - half).max(0.0), (ece + half).min(1.0)])),
    ]);
    Ok(Classification { metrics, f1_per_class, confusion, answers, correct, losses })
}

fn likeliest(row: &[f64]) -> u32 {
    let mut best = 0;
    for (class, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = class;
        }
    }
    best as u32
}

/// Of each class: rows that are it, rows answered with it, rows that are both.
struct Counts {
    labelled: Vec<u64>,
    answered: Vec<u64>,
    both: Vec<u64>,
}

impl Counts {
    fn new(n_classes: usize) -> Self {
        Counts { labelled: vec![0; n_classes], answered: vec![0; n_classes], both: vec![0; n_classes] }
    }

    fn fill(&mut self, rows: &[u32], labels: &[u32], answers: &[u32]) {
        self.labelled.fill(0);
        self.answered.fill(0);
        self.both.fill(0);
        for row in rows {
            let (label, answer) = (labels[*row as usize] as usize, answers[*row as usize] as usize);
            self.labelled[label] += 1;
            self.answered[answer] += 1;
            if label == answer {
                self.both[label] += 1;
            }
        }
    }

    /// `F1 = 2 tp / (2 tp + fp + fn)`; NaN for a class that is nowhere.
    fn f1(&self) -> Vec<f64> {
        let score = |class: usize| match self.labelled[class] + self.answered[class] {
            0 => f64::NAN,
            whole => 2.0 * self.both[class] as f64 / whole as f64,
        };
        (0..self.both.len()).map(score).collect()
    }
}

/// The mean over the classes that are somewhere, as scikit-learn's `average="macro"`.
fn macro_mean(f1: &[f64]) -> f64 {
    let (sum, count) = f1
        .iter()
        .filter(|value| !value.is_nan())
        .fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}

/// `ECE = Σ_bins |bin| / n · |accuracy − mean confidence|` over the confidence of the given answer. Bins are
/// `(b/15, (b+1)/15]`.
fn calibration_error(rows: &[u32], confidence: &[f64], correct: &[bool]) -> f64 {
    let mut gaps = [0.0f64; ECE_BINS];
    for row in rows {
        let row = *row as usize;
        let bin = (confidence[row] * ECE_BINS as f64).ceil() as usize;
        // Inside a bin, Σ correct − Σ confidence is |bin| times the gap.
        gaps[bin.clamp(1, ECE_BINS) - 1] += f64::from(u8::from(correct[row])) - confidence[row];
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / rows.len() as f64
}
