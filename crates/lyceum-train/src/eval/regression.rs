//! RMSE, MAE and R² of predicted numbers.

use super::{EvalError, finite, interval, same_length};
use lyceum_types::manifest::Metric;
use std::collections::BTreeMap;

/// What is known of a regressor after it has answered `n` rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    /// `rmse`, `mae`, `r2`.
    pub metrics: BTreeMap<String, Metric>,
    /// Squared and absolute error of each row, the mean over its outputs: what the paired test compares.
    pub squared_errors: Vec<f64>,
    pub absolute_errors: Vec<f64>,
}

/// `predictions` and `targets`: `[n, n_outputs]` in the target's own units; `seed`: of the bootstrap. R² is
/// the mean over outputs, each against the mean of these targets (scikit-learn's `uniform_average`).
///
/// # Errors
/// No rows, shapes that disagree, or a number that is not finite.
pub fn regression(
    predictions: &[f64],
    targets: &[f64],
    n_outputs: usize,
    seed: u64,
) -> Result<Regression, EvalError> {
    let metric = "regression";
    if targets.is_empty() || n_outputs == 0 {
        return Err(EvalError::Empty { metric });
    }
    same_length(metric, predictions.len(), targets.len())?;
    let n = targets.len() / n_outputs;
    same_length(metric, targets.len(), n * n_outputs)?;
    let not_finite = |values: &[f64]| {
        finite(metric, values).map_err(|error| match error {
            EvalError::NotFinite { metric, row } => EvalError::NotFinite { metric, row: row / n_outputs },
            other => other,
        })
    };
    not_finite(predictions)?;
    not_finite(targets)?;
    let per_row = |of: fn(f64) -> f64| -> Vec<f64> {
        let pairs = predictions.chunks_exact(n_outputs).zip(targets.chunks_exact(n_outputs));
        pairs.map(|(p, t)| p.iter().zip(t).map(|(p, t)| of(p - t)).sum::<f64>() / n_outputs as f64).collect()
    };
    let squared_errors = per_row(|error| error * error);
    let absolute_errors = per_row(f64::abs);

    // Centred once: sums of squares of large numbers lose their digits.
    let centres: Vec<f64> = (0..n_outputs)
        .map(|output| targets.iter().skip(output).step_by(n_outputs).sum::<f64>() / n as f64)
        .collect();
    let all: Vec<u32> = (0..n as u32).collect();
    let statistics = |rows: &[u32]| {
        let squares: f64 = rows.iter().map(|row| squared_errors[*row as usize]).sum();
        let r2 = (0..n_outputs)
            .map(|output| determination(rows, predictions, targets, n_outputs, output, centres[output]))
            .sum::<f64>();
        ((squares / rows.len() as f64).sqrt(), r2 / n_outputs as f64)
    };
    let (rmse, r2) = statistics(&all);
    let samples = interval::bootstrap(n, 2, seed, |rows, out| (out[0], out[1]) = statistics(rows));
    let of =
        |value: f64, samples: &[f64]| Metric { value, ci95: interval::percentiles(samples), n: n as u64 };
    let metrics = BTreeMap::from([
        ("rmse".to_owned(), of(rmse, &samples[0])),
        ("mae".to_owned(), interval::mean(metric, &absolute_errors)?),
        ("r2".to_owned(), of(r2, &samples[1])),
    ]);
    Ok(Regression { metrics, squared_errors, absolute_errors })
}

/// `R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)²` of one output; targets that are all equal give 1 when every
/// prediction is right and 0 otherwise, as scikit-learn says it.
fn determination(
    rows: &[u32],
    predictions: &[f64],
    targets: &[f64],
    n_outputs: usize,
    output: usize,
    centre: f64,
) -> f64 {
    let (mut residual, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for row in rows {
        let at = *row as usize * n_outputs + output;
        let centred = targets[at] - centre;
        residual += (targets[at] - predictions[at]).powi(2);
        sum += centred;
        squares += centred * centred;
    }
    let whole = squares - sum * sum / rows.len() as f64;
    match (whole > 0.0, residual == 0.0) {
        (true, _) => 1.0 - residual / whole,
        (false, true) => 1.0,
        (false, false) => 0.0,
    }
}
