//! The space of a model's inputs: in which units they may move, how far a move is, and which points are near.
//!
//! Attacks, certificates and adversarial training share it, so that they speak of the same ε. It knows
//! preparations and numbers; it does not know why anybody moves a row.

mod ball;
mod domain;

pub use ball::{Ball, gaussian, steepest};
pub use domain::{Domain, Layout};

/// Why rows cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The caller's fault: inputs of this kind have no small changes.
    #[error("small changes of the input: {reason}")]
    NoSmallChanges { reason: &'static str, fix: &'static str },
    /// The caller's fault: what was said about which numbers may change.
    #[error("may_change: {0}")]
    MayChange(String),
    /// The caller's fault: rows that are not of this space.
    #[error("rows: {0}")]
    Rows(String),
}

/// How the size of a change is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// The largest change of one number.
    Linf,
    /// The Euclidean length.
    L2,
}

impl Norm {
    pub fn name(self) -> &'static str {
        match self {
            Norm::Linf => "linf",
            Norm::L2 => "l2",
        }
    }

    /// `‖v‖`, in f64.
    pub fn of(self, v: impl Iterator<Item = f32>) -> f64 {
        match self {
            Norm::Linf => v.fold(0.0, |m, x| m.max(f64::from(x.abs()))),
            Norm::L2 => v.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt(),
        }
    }

    /// The dual norm of a gradient: `sup { g·v : ‖v‖ ≤ 1 }`.
    pub fn dual(self, g: impl Iterator<Item = f32>) -> f64 {
        match self {
            Norm::Linf => g.map(|x| f64::from(x.abs())).sum(),
            Norm::L2 => Norm::L2.of(g),
        }
    }
}
