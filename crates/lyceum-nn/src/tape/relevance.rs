//! Layer-wise relevance: one walk back with other rules (Bach et al. 2015, doi:10.1371/journal.pone.0130140;
//! AttnLRP, Achtibat et al. 2024, arXiv:2402.05602).
//!
//! The walk carries *relevance per unit of value*, `c = R / value`, where the walk back carries gradients. A sum
//! then sends the same `c` to all its terms (`R_k = x_k · R / Σ x`), a product with weights sends `Wᵀ·c`, and
//! only what is not linear has a rule of its own:
//!
//! | operation | rule |
//! | --- | --- |
//! | `linear`, `conv` | ε: `c_z = c · z / (z + ε·sign z)`, then `Wᵀ·c_z` |
//! | activation | identity: `R` passes, `c_x = c · f(x) / (x + ε·sign x)` |
//! | norms | their scale is a constant (Ali et al. 2022, arXiv:2202.07304); the mean is a sum |
//! | maximum | the winner takes all |
//! | attention | each factor of a product takes half; softmax as its linearisation |
//! | recurrent cells | the signal takes all, gates nothing (Arras et al. 2017, arXiv:1706.07206) |
//!
//! What goes into constants (biases, positions, the constant term of softmax, ε) leaves the walk and is written
//! down, so that `output = Σ R(entry) + absorbed` is an identity that a test holds.

use super::{Backward, Examples, Tape, Var, write_into};
use crate::NnError;
use crate::ops::{Op, Operation};

/// What the walk is told and writes down.
pub(crate) struct Ledger {
    /// Keeps quotients finite.
    pub(crate) epsilon: f32,
    /// Relevance that went into constants.
    pub(crate) absorbed: f64,
}

impl Ledger {
    /// `a / (z + ε·sign z)`.
    pub(crate) fn quotient(&self, a: f32, z: f32) -> f32 {
        a / if z < 0.0 { z - self.epsilon } else { z + self.epsilon }
    }
}

/// What a walk of relevance found.
#[derive(Clone, Debug, PartialEq)]
pub struct Relevance {
    /// Relevance of each element of the entry.
    pub of_entry: Vec<f32>,
    /// Relevance that went into constants and into inputs beside the entry.
    pub absorbed: f64,
}

impl Tape<'_> {
    /// Relevance of `entry` for `Σ seed · from`; the recording must be that of inputs, of one example.
    ///
    /// # Errors
    /// When an operation on the way has no rule.
    pub fn relevance(
        &mut self,
        from: Var,
        seed: &[f32],
        entry: Var,
        epsilon: f32,
    ) -> Result<Relevance, NnError> {
        assert!(matches!(self.examples, Examples::Even(1)), "relevance is of one example: bug");
        self.start_walk(from, seed);
        let mut ledger = Ledger { epsilon, absorbed: 0.0 };
        for i in (0..=from.0 as usize).rev() {
            let node = &self.ws.nodes[i];
            let (op, needs_grad) = (node.op, node.needs_grad);
            if !needs_grad || i == entry.0 as usize {
                continue;
            }
            let Some(mut dy) = self.ws.grads[i].take() else { continue };
            if matches!(op, Op::Leaf) {
                // An input beside the entry (what a decoder reads): its part is not the entry's.
                ledger.absorbed += inner(&dy, &node.value);
            } else {
                let mut back = self.back_at(i, dy);
                op.relevance(&mut back, &mut ledger)?;
                dy = back.dy;
            }
            self.ws.give(dy);
        }
        let value = &self.ws.nodes[entry.0 as usize].value;
        let of_entry = match &self.ws.grads[entry.0 as usize] {
            Some(c) => c.iter().zip(value).map(|(c, x)| c * x).collect(),
            None => vec![0.0; value.len()],
        };
        Ok(Relevance { of_entry, absorbed: ledger.absorbed })
    }
}

impl Backward<'_> {
    /// Sends `part` to an input, beside what came before; nothing where it is not wanted.
    pub(crate) fn send(&mut self, input: Var, part: &[f32]) {
        self.grad(input, |_, _, dx, write| write_into(dx, part, write));
    }
}

/// `Σ a·b` in f64.
pub(crate) fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
