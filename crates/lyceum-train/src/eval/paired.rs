//! Two models on the same rows: which is better, and how sure that is, in words.

use super::{EvalError, finite, same_length};
use statrs::distribution::{Binomial, ContinuousCDF, Discrete, DiscreteCDF, Normal, StudentsT};

/// Below this a difference is called one.
const ALPHA: f64 = 0.05;

/// The model against the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Better,
    /// The rows do not tell them apart.
    Tie,
    Worse,
}

/// A paired test's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// Two-sided.
    pub p: f64,
    pub test: &'static str,
    /// To be read after the model's name: "beats the logistic baseline: 97.1 % against 93.0 %, McNemar
    /// p = 0.003".
    pub sentence: String,
}

/// McNemar's test of two classifiers (McNemar 1947), from the rows on which only one is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mcnemar {
    pub only_first: u64,
    pub only_second: u64,
    /// Exact, from the binomial distribution.
    pub p_exact: f64,
    /// Half of the observed outcome's probability is left out, which makes the exact test less conservative
    /// (Fagerland, Lydersen and Laake 2013).
    pub p_mid: f64,
}

/// `first` and `second`: whether each row was answered rightly.
///
/// # Errors
/// Slices that disagree.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<Mcnemar, EvalError> {
    same_length("mcnemar", first.len(), second.len())?;
    let count =
        |a: bool, b: bool| first.iter().zip(second).filter(|(x, y)| **x == a && **y == b).count() as u64;
    let (only_first, only_second) = (count(true, false), count(false, true));
    let n = only_first + only_second;
    if n == 0 {
        return Ok(Mcnemar { only_first, only_second, p_exact: 1.0, p_mid: 1.0 });
    }
    let binomial = Binomial::new(0.5, n).expect("a half is a probability: bug");
    let fewer = only_first.min(only_second);
    let tail = 2.0 * binomial.cdf(fewer);
    let p_mid = (tail - binomial.pmf(fewer)).min(1.0);
    Ok(Mcnemar { only_first, only_second, p_exact: tail.min(1.0), p_mid })
}

/// Whether a classifier beats a baseline on the same rows, by McNemar's mid-p test.
///
/// # Errors
/// No rows, or slices that disagree.
pub fn compare_classifiers(baseline: &str, model: &[bool], other: &[bool]) -> Result<Verdict, EvalError> {
    if model.is_empty() {
        return Err(EvalError::Empty { metric: "mcnemar" });
    }
    let test = mcnemar(model, other)?;
    let share = |correct: &[bool]| {
        let right = correct.iter().filter(|right| **right).count();
        format!("{:.1} %", 100.0 * right as f64 / correct.len() as f64)
    };
    let outcome = outcome(test.p_mid, test.only_first > test.only_second);
    let figures = format!("{} against {}", share(model), share(other));
    let sentence = sentence(outcome, baseline, &figures, "McNemar", test.p_mid);
    Ok(Verdict { outcome, p: test.p_mid, test: "mcnemar_mid_p", sentence })
}

/// Whether a model's errors or losses, one a row and smaller is better, are below a baseline's on the same
/// rows. `lags`: how far rows depend on each other (0 for independent rows; `horizon − 1` for overlapping
/// forecasts), as in Diebold and Mariano (1995) with Harvey, Leybourne and Newbold's (1997) correction: with
/// 0 lags it is Student's paired t test. `metric` is what the figures are called.
///
/// # Errors
/// Fewer than two rows, slices that disagree, or a number that is not finite.
pub fn compare_losses(
    baseline: &str,
    metric: &str,
    model: &[f64],
    other: &[f64],
    lags: usize,
) -> Result<Verdict, EvalError> {
    let (_, p) = paired_t(model, other, lags)?;
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (ours, theirs) = (mean(model), mean(other));
    let outcome = outcome(p, ours < theirs);
    let (test, name) =
        if lags == 0 { ("paired_t", "paired t test") } else { ("diebold_mariano", "Diebold-Mariano") };
    let figures = format!("{metric} {} against {}", figure(ours), figure(theirs));
    let sentence = sentence(outcome, baseline, &figures, name, p);
    Ok(Verdict { outcome, p, test, sentence })
}

/// The t statistic and two-sided p of the mean of `first − second`. The variance of the mean is the long-run
/// one with Bartlett's weights over `lags` (Newey and West 1987), which is never negative.
///
/// # Errors
/// Fewer than two rows, slices that disagree, or a number that is not finite.
pub fn paired_t(first: &[f64], second: &[f64], lags: usize) -> Result<(f64, f64), EvalError> {
    let metric = "paired test";
    same_length(metric, first.len(), second.len())?;
    finite(metric, first)?;
    finite(metric, second)?;
    let n = first.len();
    if n < 2 {
        return Err(EvalError::Empty { metric });
    }
    let count = n as f64;
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let mean = differences.iter().sum::<f64>() / count;
    let covariance = |lag: usize| {
        let pairs = differences[lag..].iter().zip(&differences);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / count
    };
    let lags = lags.min(n - 1);
    let weighted = |lag: usize| 2.0 * (1.0 - lag as f64 / (lags + 1) as f64) * covariance(lag);
    let variance = covariance(0) + (1..=lags).map(weighted).sum::<f64>();
    if variance <= 0.0 {
        // Every difference is the same: no doubt about its sign, or none to have.
        let sure = if mean == 0.0 { (0.0, 1.0) } else { (f64::MAX.copysign(mean), 0.0) };
        return Ok(sure);
    }
    let h = (lags + 1) as f64;
    let correction = ((count + 1.0 - 2.0 * h + h * (h - 1.0) / count) / count).max(0.0).sqrt();
    let t = correction * mean / (variance / count).sqrt();
    let student = StudentsT::new(0.0, 1.0, count - 1.0).expect("degrees of freedom are above 0: bug");
    Ok((t, (2.0 * student.sf(t.abs())).min(1.0)))
}

/// Wilcoxon's signed-rank test of `first − second`: two-sided p by the normal approximation with the
/// correction for ties and without zeros, for errors with heavy tails.
///
/// # Errors
/// Slices that disagree, or a number that is not finite.
pub fn wilcoxon_signed_rank(first: &[f64], second: &[f64]) -> Result<f64, EvalError> {
    let metric = "wilcoxon";
    same_length(metric, first.len(), second.len())?;
    finite(metric, first)?;
    finite(metric, second)?;
    let mut differences: Vec<f64> =
        first.iter().zip(second).map(|(a, b)| a - b).filter(|difference| *difference != 0.0).collect();
    differences.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = differences.len() as f64;
    let (mut positive, mut ties, mut start) = (0.0, 0.0, 0);
    while start < differences.len() {
        let equal = |difference: &&f64| difference.abs() == differences[start].abs();
        let length = differences[start..].iter().take_while(equal).count();
        // Equal sizes share the mean of their ranks.
        let rank = start as f64 + (length as f64 + 1.0) / 2.0;
        let above = differences[start..start + length].iter().filter(|difference| **difference > 0.0).count();
        positive += rank * above as f64;
        ties += (length as f64).powi(3) - length as f64;
        start += length;
    }
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    if variance <= 0.0 {
        return Ok(1.0);
    }
    let z = (positive - n * (n + 1.0) / 4.0) / variance.sqrt();
    Ok((2.0 * Normal::standard().sf(z.abs())).min(1.0))
}

fn outcome(p: f64, is_better: bool) -> Outcome {
    match (p < ALPHA, is_better) {
        (false, _) => Outcome::Tie,
        (true, true) => Outcome::Better,
        (true, false) => Outcome::Worse,
    }
}

fn sentence(outcome: Outcome, baseline: &str, figures: &str, test: &str, p: f64) -> String {
    let verb = match outcome {
        Outcome::Better => "beats",
        Outcome::Tie => "is not distinguishable from",
        Outcome::Worse => "does not beat",
    };
    let p = if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {}", figure(p)) };
    format!("{verb} the {baseline} baseline: {figures}, {test} {p}")
}

/// A number with three or more significant digits and no needless ones.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e9).contains(&size) => format!("{value:.2e}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.3}"),
        size => format!("{value:.*}", (2.0 - size.log10().floor()) as usize),
    }
}
