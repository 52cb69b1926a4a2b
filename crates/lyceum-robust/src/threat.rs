//! How much an adversary may change a row, and what an attack has spent.

use crate::error::{RobustError, positive};

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

/// All rows within `eps` of the row, in the domain's units, inside its bounds, differing only where it may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threat {
    pub norm: Norm,
    pub eps: f64,
}

impl Threat {
    /// # Errors
    /// `eps` that is not above 0 and finite.
    pub fn new(norm: Norm, eps: f64) -> Result<Self, RobustError> {
        Ok(Threat { norm, eps: positive("eps", eps)? })
    }
}

/// Rows that went through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub forward_rows: u64,
    pub backward_rows: u64,
}

impl std::ops::Sub for Spent {
    type Output = Spent;
    fn sub(self, before: Spent) -> Spent {
        Spent {
            forward_rows: self.forward_rows - before.forward_rows,
            backward_rows: self.backward_rows - before.backward_rows,
        }
    }
}
