//! How much an adversary may change a row, and what an attack has spent.

use crate::error::{RobustError, positive};
use lyceum_models::space::Norm;

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
