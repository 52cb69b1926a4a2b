//! `loss = scale · Σ (y − t)²`. With `scale = 1 / elements` it is the mean squared error.
//! Backward: `dy = 2 · scale · (y − t)`.

use super::{Op, Operation};
use crate::tape::{Backward, Saved, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::matmul::Write;

#[derive(Clone, Copy)]
pub(crate) struct SquaredError {
    y: Var,
    difference: Saved,
    scale: f32,
}

impl Tape<'_> {
    /// The scalar loss of `y` (any shape) against as many numbers.
    pub fn squared_error(&mut self, y: Var, target: &[f32], scale: f32) -> Result<Var, NnError> {
        let shape = self.shape(y);
        if target.len() != shape.len() {
            let want = format!("{} elements, as the target has", target.len());
            return Err(NnError::shape("squared_error", "prediction", shape, want));
        }
        let mut difference = self.take(shape.len());
        for ((d, &y), &t) in difference.iter_mut().zip(self.value(y)).zip(target) {
            *d = y - t;
        }
        let mut value = self.take(1);
        let sum: f64 = difference.iter().map(|&d| f64::from(d) * f64::from(d)).sum();
        value[0] = (sum * f64::from(scale)) as f32;
        let records = self.needs_grad(&[y], &[]);
        let difference = self.save(difference);
        Ok(self.push(
            Op::SquaredError(SquaredError { y, difference, scale }),
            Shape::new(&[]),
            value,
            records,
        ))
    }
}

impl Operation for SquaredError {
    fn name(&self) -> &'static str {
        "squared_error"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.y, |view, dy, dx, write| {
            let factor = 2.0 * self.scale * dy[0];
            for (dx, &d) in dx.iter_mut().zip(view.saved(self.difference)) {
                match write {
                    Write::Overwrite => *dx = factor * d,
                    Write::Add => *dx += factor * d,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(1)
            .mixes_examples()
            .input(&[2, 3])
            .run(|tape, inputs, _| tape.squared_error(inputs[0], &[0.1, 0.2, -0.3, 0.0, 1.0, -1.0], 0.25));
    }
}
