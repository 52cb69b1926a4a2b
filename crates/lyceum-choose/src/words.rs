//! What answers about texts withstand and rest on, measured for whoever answers: accuracy on texts with typing errors, and
//! how much more an answer loses without the words that leaving out names than without random ones.

use crate::row::{Faithfulness, Robustness};
use crate::served::AskError;
use lyceum_robust::corrupt::Severity;
use lyceum_robust::corrupt::text::{Perturbation, perturb};
use lyceum_train::eval;

/// Held-out rows with typing errors: the first.
const ROWS_MAX: usize = 200;
/// Of 5: 10 % of the letters.
const SEVERITY: u64 = 3;
/// Rows that are explained, and the pieces that a text is cut into.
const EXPLAINED_MAX: usize = 8;
const PIECES_MAX: usize = 16;
/// Orders of the control.
const RANDOM_ORDERS: u64 = 3;
/// Parts that are taken away, as `lyceum_explain` measures comprehensiveness.
const FRACTIONS: [f64; 5] = [0.01, 0.05, 0.1, 0.2, 0.5];

/// Probabilities of the labels for each text.
pub type Answer<'a> = &'a mut dyn FnMut(&[String]) -> Result<Vec<Vec<f64>>, AskError>;

/// Accuracy under typing errors.
///
/// # Errors
/// Whoever answers; no rows.
pub fn typos(rows: &[(String, u32)], seed: u64, answer: Answer<'_>) -> Result<Robustness, AskError> {
    let failed = |error: String| AskError::Failed(error);
    let severity = Severity::new(SEVERITY).map_err(|error| failed(error.to_string()))?;
    let rows = &rows[..rows.len().min(ROWS_MAX)];
    let damaged: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(i, (text, _))| perturb(text, Perturbation::Typos, severity, seed, i as u64))
        .collect();
    let answers = answer(&damaged)?;
    let right = answers.iter().zip(rows).filter(|(p, (_, label))| likeliest(p) == *label as usize).count();
    let accuracy =
        eval::wilson(right as u64, rows.len() as u64).map_err(|error| failed(error.to_string()))?;
    Ok(Robustness { method: "typos, severity 3 of 5 (10 % of the letters)".into(), eps: None, accuracy })
}

/// Comprehensiveness of leaving out, less that of random orders, in the likeliest label's log-probability. None: no
/// row has two pieces, or there was time for fewer than two rows.
///
/// # Errors
/// Whoever answers, in words.
pub fn faithfulness(
    rows: &[(String, u32)],
    seed: u64,
    answer: Answer<'_>,
) -> Result<Option<Faithfulness>, AskError> {
    let mut over = Vec::new();
    for (i, (text, _)) in rows.iter().take(EXPLAINED_MAX).enumerate() {
        let pieces = pieces(text);
        if pieces.len() < 2 {
            continue;
        }
        match one(&pieces, seed.wrapping_add(i as u64), answer) {
            Ok(value) => over.push(value),
            // The rows that there was time for count.
            Err(AskError::Stopped(_)) => break,
            Err(error) => return Err(error),
        }
    }
    if over.len() < 2 {
        return Ok(None);
    }
    let over_random =
        eval::mean("comprehensiveness", &over).map_err(|error| AskError::Failed(error.to_string()))?;
    Ok(Some(Faithfulness { method: "leave_one_out", over_random }))
}

fn one(pieces: &[String], seed: u64, answer: Answer<'_>) -> Result<f64, AskError> {
    let n = pieces.len();
    let without = |left_out: &[usize]| {
        let kept: Vec<&str> = (0..n).filter(|i| !left_out.contains(i)).map(|i| pieces[i].as_str()).collect();
        kept.join(" ")
    };
    let mut asked: Vec<String> = vec![without(&[])];
    asked.extend((0..n).map(|i| without(&[i])));
    let answers = answer(&asked)?;
    let label = likeliest(&answers[0]);
    let log = |p: &[f64]| p[label].max(f64::MIN_POSITIVE).ln();
    let whole = log(&answers[0]);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| log(&answers[a + 1]).total_cmp(&log(&answers[b + 1])));
    let sizes = FRACTIONS.map(|f| ((f * n as f64).ceil() as usize).clamp(1, n - 1));
    let mut orders = vec![order];
    orders.extend((0..RANDOM_ORDERS).map(|k| shuffled(n, seed.wrapping_mul(31).wrapping_add(k))));
    let mut distinct = sizes.to_vec();
    distinct.dedup();
    let asked: Vec<String> =
        orders.iter().flat_map(|order| distinct.iter().map(|&k| without(&order[..k]))).collect();
    let answers = answer(&asked)?;
    let fall = |at: usize| {
        let value = |k: usize| {
            let place = distinct.iter().position(|&other| other == k).expect("it is among them: bug");
            log(&answers[at * distinct.len() + place])
        };
        whole - sizes.iter().map(|&k| value(k)).sum::<f64>() / sizes.len() as f64
    };
    let random = (1..orders.len()).map(fall).sum::<f64>() / RANDOM_ORDERS as f64;
    Ok(fall(0) - random)
}

/// Words, next to each other in at most so many pieces.
fn pieces(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let n = words.len().min(PIECES_MAX);
    (0..n).map(|i| words[i * words.len() / n..(i + 1) * words.len() / n].join(" ")).collect()
}

fn likeliest(p: &[f64]) -> usize {
    (0..p.len()).reduce(|best, i| if p[i] > p[best] { i } else { best }).unwrap_or(0)
}

/// Fisher and Yates, from a generator of 64 bits.
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (next() % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sure of label 0 as long as the text says "good".
    fn simple(texts: &[String]) -> Result<Vec<Vec<f64>>, AskError> {
        Ok(texts
            .iter()
            .map(|text| if text.contains("good") { vec![0.9, 0.1] } else { vec![0.4, 0.6] })
            .collect())
    }

    #[test]
    fn leaving_out_the_word_that_decides_beats_random_words() {
        let rows: Vec<(String, u32)> =
            (0..6).map(|i| (format!("it was a good film number {i} of ten"), 0)).collect();
        let found = faithfulness(&rows, 1, &mut simple).unwrap().unwrap();
        assert!(found.over_random.ci95[0] > 0.0, "{found:?}");
        let mut indifferent = |texts: &[String]| Ok(vec![vec![0.5, 0.5]; texts.len()]);
        assert_eq!(faithfulness(&rows, 1, &mut indifferent).unwrap().unwrap().over_random.value, 0.0);
        assert_eq!(faithfulness(&[("one".into(), 0)], 1, &mut simple).unwrap(), None);
    }

    #[test]
    fn typing_errors_break_the_word() {
        let rows: Vec<(String, u32)> = (0..40).map(|_| ("good good".to_owned(), 0)).collect();
        let plain = typos(&rows, 1, &mut simple).unwrap();
        assert_eq!(plain.accuracy.n, 40);
        let mut deaf = |texts: &[String]| {
            assert!(texts.iter().all(|text| text != "good good"));
            Ok(vec![vec![0.0, 1.0]; texts.len()])
        };
        assert_eq!(typos(&rows, 1, &mut deaf).unwrap().accuracy.value, 0.0);
    }

    #[test]
    fn pieces_hold_every_word_once() {
        let text: Vec<String> = (0..37).map(|i| i.to_string()).collect();
        let cut = pieces(&text.join("  "));
        assert_eq!((cut.len(), cut.join(" ")), (16, text.join(" ")));
    }
}
