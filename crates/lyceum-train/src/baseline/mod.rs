//! What stands beside every trained model: the trivial answer, and the best simple method.
//!
//! | Task | Trivial | Strong |
//! | --- | --- | --- |
//! | classes from numbers | [`Majority`] | [`Logistic`] |
//! | classes from texts | [`Majority`] | [`TfidfLogistic`] |
//! | numbers | [`Mean`] | [`Linear`] |
//! | forecasts | [`last_value`] | [`seasonal_naive`], [`Linear`] on the window |
//! | language | [`Bigram`] | [`Trigram`] |
//!
//! All are fitted on training rows only and answer row by row, so that the paired tests of [`crate::eval`]
//! can use them. All are deterministic: the same rows give the same bytes on any number of threads. Numbers
//! come as the model sees them; nothing here knows files, tapes or models.

mod kept;
mod lbfgs;
mod linear;
mod logistic;
mod ngram;
mod standardize;
mod tfidf;
mod trivial;

pub use kept::{KeptError, Trivial};
pub use linear::Linear;
pub use logistic::Logistic;
pub use ngram::{Bigram, Trigram};
pub use tfidf::TfidfLogistic;
pub use trivial::{Majority, Mean, last_value, seasonal_naive};

use lyceum_types::control::Stop;

/// Why there is no baseline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// There is nothing to fit.
    #[error("{baseline}: no training rows")]
    Empty { baseline: &'static str },
    /// A season longer than what is seen.
    #[error("seasonal_naive: a season of {season} steps does not fit a window of {window}")]
    Season { season: usize, window: usize },
    /// Texts without a single word.
    #[error("tfidf_logistic: the training texts have no words")]
    NoWords,
}

#[cfg(test)]
mod tests;
