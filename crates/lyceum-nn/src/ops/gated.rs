//! `y = f(g) ⊙ u`: the gated half of a feed-forward layer (GLU variants, Shazeer 2020, arXiv:2002.05202; SwiGLU
//! with SiLU, GEGLU with GELU).
//!
//! x `[…, 2·F]` holds g, then u; y `[…, F]`. Backward: `dg = dy ⊙ u ⊙ f′(g)`, `du = dy ⊙ f(g)`.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Tape, Var};
use crate::{Activation, NnError};
use lyceum_kernels::activation::{activate, activate_backward};
use lyceum_kernels::elementwise::{Write, mul};
use lyceum_kernels::{pool, scratch};

#[derive(Clone, Copy)]
pub(crate) struct Gated {
    x: Var,
    activation: Activation,
}

impl Tape<'_> {
    /// See the module.
    pub fn gated(&mut self, x: Var, activation: Activation) -> Result<Var, NnError> {
        let shape = self.shape(x);
        if shape.rank() == 0 || !shape.last().is_multiple_of(2) {
            return Err(NnError::shape("gated", "input", shape, "[…, 2·F]"));
        }
        let f = shape.last() / 2;
        let mut out = self.take(shape.len() / 2);
        let from = self.value(x);
        pool::for_each_chunk(&mut out, f.max(1), |row, y| {
            let (g, u) = from[row * 2 * f..][..2 * f].split_at(f);
            scratch::with_f32(f, |gate| {
                activate(activation, g, gate);
                mul(gate, u, y);
            });
        });
        let records = self.needs_grad(&[x], &[]);
        Ok(self.push(Op::Gated(Gated { x, activation }), shape.with_last(f), out, records))
    }
}

impl Operation for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let f = view.output_shape().last();
            let x = view.value(self.x);
            pool::for_each_chunk(dx, (2 * f).max(1), |row, dx| {
                let (g, u) = x[row * 2 * f..][..2 * f].split_at(f);
                let (dg, du) = dx.split_at_mut(f);
                let dy = &dy[row * f..][..f];
                scratch::with_f32(f, |part| {
                    mul(dy, u, part);
                    activate_backward(self.activation, g, part, dg, write);
                    activate(self.activation, g, part);
                    match write {
                        Write::Overwrite => mul(dy, part, du),
                        Write::Add => du.iter_mut().zip(dy).zip(&*part).for_each(|((d, dy), a)| *d += dy * a),
                    }
                });
            });
        });
    }

    /// Each factor takes half of the product's relevance (AttnLRP); the activation passes it on by the
    /// identity rule.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        let (f, c, y, x) = {
            let view = back.view();
            let (f, y, x) = (view.output_shape().last(), view.output(), view.value(self.x));
            (f, back.dy.clone(), y.to_vec(), x.to_vec())
        };
        let mut part = vec![0.0; x.len()];
        for (i, (&c, &y)) in c.iter().zip(&y).enumerate() {
            let (row, column) = (i / f, i % f);
            let at = row * 2 * f + column;
            let (g, u, half) = (x[at], x[at + f], 0.5 * c * y);
            for (to, factor) in [(at, g), (at + f, u)] {
                part[to] = ledger.quotient(half, factor);
                ledger.absorbed += f64::from(half) - f64::from(part[to]) * f64::from(factor);
            }
        }
        back.send(self.x, &part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::None] {
            Check::new(3).input(&[3, 2, 10]).run(|tape, x, _| tape.gated(x[0], activation));
        }
    }

    #[test]
    fn wrong_sizes_are_named() {
        Check::new(1).input(&[2, 5]).fails("gated", |tape, x, _| tape.gated(x[0], Activation::Silu));
    }
}
