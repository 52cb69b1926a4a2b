//! Measured numbers: how good a model is, how sure that is, and whether it beats a baseline.
//!
//! Everything here is a pure function over plain slices; models, devices and files are unknown. Point values
//! equal scikit-learn's and SciPy's (`fixtures/scripts/eval.py` makes the numbers the tests hold them to).
//! Every number carries a 95 % interval: Wilson's for shares, Student's t for means, the t interval of a
//! ratio for what is summed over texts (rows are the units, never tokens), and a seeded bootstrap for the
//! rest. Rows are taken as independent; what is compared over time says its lags.

mod classification;
mod interval;
mod paired;
mod regression;
mod text;

pub use classification::{Classification, ECE_BINS, classification, log_softmax};
pub use interval::{clopper_pearson, mean, ratio, wilson};
pub use paired::{
    Mcnemar, Outcome, Verdict, compare_classifiers, compare_losses, mcnemar, paired_t, wilcoxon_signed_rank,
};
pub use regression::{Regression, regression};
pub use text::{bits_per_byte, char_accuracy, edit_distance, exact_match, perplexity, word_error_rate};

/// Why a number cannot be computed. Nothing here returns a plausible number instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to measure.
    #[error("{metric}: no rows")]
    Empty { metric: &'static str },
    /// A bug of the caller: two slices of one measurement disagree.
    #[error("{metric}: {left} and {right} do not agree")]
    Lengths { metric: &'static str, left: usize, right: usize },
    /// The model's output is not a number.
    #[error("{metric}: row {row} is not a finite number")]
    NotFinite { metric: &'static str, row: usize },
    /// A label beyond the classes.
    #[error("{metric}: row {row} has the label {label}, and there are {classes} classes")]
    Label { metric: &'static str, row: usize, label: u32, classes: usize },
}

fn same_length(metric: &'static str, left: usize, right: usize) -> Result<(), EvalError> {
    if left == right { Ok(()) } else { Err(EvalError::Lengths { metric, left, right }) }
}

fn finite(metric: &'static str, values: &[f64]) -> Result<(), EvalError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(row) => Err(EvalError::NotFinite { metric, row }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
