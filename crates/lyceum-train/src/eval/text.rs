//! Numbers of generated and predicted text. The units of sampling are texts (or windows), never tokens,
//! whose losses depend on each other.

use super::{EvalError, interval, same_length};
use lyceum_types::manifest::Metric;

/// `exp(Σ nats / Σ tokens)` over windows. The interval is the loss's, carried through `exp`.
///
/// # Errors
/// No tokens, slices that disagree, or a loss that is not finite.
pub fn perplexity(nats: &[f64], tokens: &[u64]) -> Result<Metric, EvalError> {
    let loss = interval::ratio("perplexity", nats, &as_f64(tokens))?;
    // exp of an unknown bound stays a number that JSON can carry.
    let exp = |nats: f64| nats.exp().min(f64::MAX);
    Ok(Metric { value: exp(loss.value), ci95: loss.ci95.map(exp), n: loss.n })
}

/// `Σ nats / ln 2 / Σ bytes` over windows: comparable between tokenizers.
///
/// # Errors
/// No bytes, slices that disagree, or a loss that is not finite.
pub fn bits_per_byte(nats: &[f64], bytes: &[u64]) -> Result<Metric, EvalError> {
    let bits: Vec<f64> = nats.iter().map(|nats| nats / std::f64::consts::LN_2).collect();
    interval::ratio("bits_per_byte", &bits, &as_f64(bytes))
}

/// The share of answers that equal their reference letter by letter.
///
/// # Errors
/// No rows, or slices that disagree.
pub fn exact_match<S: AsRef<str>>(answers: &[S], references: &[S]) -> Result<Metric, EvalError> {
    same_length("exact_match", answers.len(), references.len())?;
    let equal =
        answers.iter().zip(references).filter(|(answer, reference)| answer.as_ref() == reference.as_ref());
    interval::wilson(equal.count() as u64, references.len() as u64)
}

/// The share of positions with the right letter; a missing or surplus letter is a wrong one.
///
/// # Errors
/// No letters, or slices that disagree.
pub fn char_accuracy<S: AsRef<str>>(answers: &[S], references: &[S]) -> Result<Metric, EvalError> {
    let metric = "char_accuracy";
    same_length(metric, answers.len(), references.len())?;
    let row = |(answer, reference): (&S, &S)| {
        let (answer, reference) = (answer.as_ref(), reference.as_ref());
        let right = answer.chars().zip(reference.chars()).filter(|(a, b)| a == b).count();
        (right as f64, answer.chars().count().max(reference.chars().count()) as f64)
    };
    let (right, whole): (Vec<f64>, Vec<f64>) = answers.iter().zip(references).map(row).unzip();
    let mut accuracy = interval::ratio(metric, &right, &whole)?;
    accuracy.ci95 = accuracy.ci95.map(|bound| bound.clamp(0.0, 1.0));
    Ok(accuracy)
}

/// Substitutions, insertions and deletions of words over words of the references; above 1 where answers are
/// longer than references.
///
/// # Errors
/// References without a word, or slices that disagree.
pub fn word_error_rate<S: AsRef<str>>(answers: &[S], references: &[S]) -> Result<Metric, EvalError> {
    let metric = "wer";
    same_length(metric, answers.len(), references.len())?;
    let row = |(answer, reference): (&S, &S)| {
        let answer: Vec<&str> = answer.as_ref().split_whitespace().collect();
        let reference: Vec<&str> = reference.as_ref().split_whitespace().collect();
        (edit_distance(&answer, &reference) as f64, reference.len() as f64)
    };
    let (errors, words): (Vec<f64>, Vec<f64>) = answers.iter().zip(references).map(row).unzip();
    let mut rate = interval::ratio(metric, &errors, &words)?;
    rate.ci95[0] = rate.ci95[0].max(0.0);
    Ok(rate)
}

/// Levenshtein's distance, in time `a · b` and memory `b`.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut before: Vec<usize> = (0..=b.len()).collect();
    let mut now = vec![0; b.len() + 1];
    for (i, x) in a.iter().enumerate() {
        now[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before[j] + usize::from(x != y);
            now[j + 1] = replaced.min(before[j + 1] + 1).min(now[j] + 1);
        }
        std::mem::swap(&mut before, &mut now);
    }
    before[b.len()]
}

fn as_f64(counts: &[u64]) -> Vec<f64> {
    counts.iter().map(|count| *count as f64).collect()
}
