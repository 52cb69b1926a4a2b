//! Whether rows still look like the training rows: one test a feature, corrected for their number.
//!
//! Between two samples the statistics are scipy's. Against a stored sketch ([`sketch`]) they use only what the
//! sketch knows, so that no training row need be kept; where a sketch knows a statistic's lower bound only, that
//! bound is used: it can miss a drift, and cannot invent one. [`counted`] compares two windows of counts.

mod chi2;
pub mod counted;
mod distance;
mod ks;
mod multiple;
pub mod sketch;

pub use chi2::chi_squared;
pub use distance::{PSI_FLOOR, psi, wasserstein};
pub use ks::{ks_p_value, ks_two_samples};
pub use multiple::{benjamini_hochberg, holm};

/// A statistic with its p-value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    pub statistic: f64,
    pub p_value: f64,
}
