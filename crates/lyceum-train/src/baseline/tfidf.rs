//! Texts as weighted words and word pairs, and a logistic regression over them: the simple method that is
//! hardest to beat on short texts.
//!
//! As scikit-learn's `TfidfVectorizer(ngram_range=(1, 2))` and `LogisticRegression(C=10)`: words are runs of
//! at least two letters, digits or `_`, in lower case; a term's weight is its count in the text times
//! `ln((1 + n) / (1 + df)) + 1`; each text has length 1.

use super::BaselineError;
use super::lbfgs::minimize;
use super::logistic::normalize;
use lyceum_types::control::Control;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Terms that are kept, by the number of training texts they stand in.
const TERMS_MAX: usize = 20_000;
/// λ = 1 / C. Rows have length 1, so the classes need larger weights than standardised columns do.
const PENALTY: f64 = 0.1;
const TOLERANCE: f64 = 1e-4;
const ITERATIONS_MAX: usize = 200;

/// A fitted classifier of texts.
#[derive(Clone, Debug)]
pub struct TfidfLogistic {
    /// Term → column and inverse document frequency.
    terms: HashMap<String, (u32, f64)>,
    /// `[n_terms, n_classes]`, then `[n_classes]` of biases.
    weights: Vec<f64>,
    n_classes: usize,
    pub converged: bool,
}

impl TfidfLogistic {
    /// `texts` and `labels`: `[n]`.
    ///
    /// # Errors
    /// No rows, no words, or the control's stop.
    pub fn fit<S: AsRef<str>>(
        texts: &[S],
        labels: &[u32],
        n_classes: usize,
        control: &Control,
    ) -> Result<Self, BaselineError> {
        assert_eq!(texts.len(), labels.len(), "tfidf: texts and labels do not agree: bug");
        if texts.is_empty() {
            return Err(BaselineError::Empty { baseline: "tfidf_logistic" });
        }
        let terms = vocabulary(texts, control)?;
        if terms.is_empty() {
            return Err(BaselineError::NoWords);
        }
        let rows: Vec<Vec<(u32, f64)>> = texts.iter().map(|text| vector(text.as_ref(), &terms)).collect();
        let n_weights = terms.len() * n_classes;
        let mut weights = vec![0.0; n_weights + n_classes];
        let mut scores = vec![0.0; n_classes];
        let count = labels.len() as f64;
        let minimum = minimize(&mut weights, TOLERANCE, ITERATIONS_MAX, control, |weights, gradient| {
            let (matrix, biases) = weights.split_at(n_weights);
            let mut loss = 0.5 * PENALTY * matrix.iter().map(|weight| weight * weight).sum::<f64>();
            gradient[..n_weights].iter_mut().zip(matrix).for_each(|(to, weight)| *to = PENALTY * weight);
            gradient[n_weights..].fill(0.0);
            for (row, label) in rows.iter().zip(labels) {
                score(row, matrix, biases, &mut scores);
                loss -= scores[*label as usize];
                for (class, score) in scores.iter_mut().enumerate() {
                    *score = score.exp() - f64::from(u8::from(class == *label as usize));
                    gradient[n_weights + class] += *score;
                }
                for (term, value) in row {
                    let slots = &mut gradient[*term as usize * n_classes..][..n_classes];
                    slots.iter_mut().zip(&scores).for_each(|(slot, residual)| *slot += value * residual);
                }
            }
            gradient.iter_mut().for_each(|slot| *slot /= count);
            loss / count
        })?;
        Ok(TfidfLogistic { terms, weights, n_classes, converged: minimum.gradient_max <= TOLERANCE })
    }

    /// `[n, n_classes]` in nats. A text without known words gets the classes' biases.
    pub fn log_probs<S: AsRef<str>>(&self, texts: &[S]) -> Vec<f64> {
        let (matrix, biases) = self.weights.split_at(self.terms.len() * self.n_classes);
        let mut out = vec![0.0; texts.len() * self.n_classes];
        for (text, scores) in texts.iter().zip(out.chunks_exact_mut(self.n_classes)) {
            score(&vector(text.as_ref(), &self.terms), matrix, biases, scores);
        }
        out
    }
}

fn score(row: &[(u32, f64)], matrix: &[f64], biases: &[f64], scores: &mut [f64]) {
    scores.copy_from_slice(biases);
    for (term, value) in row {
        let weights = &matrix[*term as usize * scores.len()..][..scores.len()];
        scores.iter_mut().zip(weights).for_each(|(score, weight)| *score += value * weight);
    }
    normalize(scores);
}

/// The words and word pairs of a text, in order.
fn terms_of(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| word.chars().nth(1).is_some())
        .collect();
    let pairs = words.windows(2).map(|pair| format!("{} {}", pair[0], pair[1]));
    words.iter().map(|word| (*word).to_owned()).chain(pairs).collect()
}

fn vocabulary<S: AsRef<str>>(
    texts: &[S],
    control: &Control,
) -> Result<HashMap<String, (u32, f64)>, BaselineError> {
    let mut frequencies: HashMap<String, u64> = HashMap::new();
    for text in texts {
        control.check()?;
        let different: HashSet<String> = terms_of(text.as_ref()).into_iter().collect();
        different.into_iter().for_each(|term| *frequencies.entry(term).or_default() += 1);
    }
    let mut terms: Vec<(String, u64)> = frequencies.into_iter().collect();
    // The order of a hash map is chance; this one is not.
    terms.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    terms.truncate(TERMS_MAX);
    let n = texts.len() as f64;
    let idf = |frequency: u64| ((1.0 + n) / (1.0 + frequency as f64)).ln() + 1.0;
    Ok(terms.into_iter().enumerate().map(|(at, (term, df))| (term, (at as u32, idf(df)))).collect())
}

/// Columns and values of a text, of length 1, in the order of the columns.
fn vector(text: &str, terms: &HashMap<String, (u32, f64)>) -> Vec<(u32, f64)> {
    let mut values: BTreeMap<u32, f64> = BTreeMap::new();
    for term in terms_of(text) {
        if let Some((column, idf)) = terms.get(&term) {
            *values.entry(*column).or_default() += idf;
        }
    }
    let length = values.values().map(|value| value * value).sum::<f64>().sqrt();
    values.into_iter().map(|(column, value)| (column, value / length)).collect()
}
