//! Pooling: the maximum or the mean of windows, or of whole planes.
//!
//! x `[B, C, H, W]` or `[B, C, L]`; y the same with smaller planes, or `[B, C]`. Windows as in PyTorch: padding
//! never wins a maximum and counts as zeros in a mean, sizes round down. Backward: a maximum sends its gradient
//! to where it was found, a mean to all its window in equal parts.

use super::{Op, Operation};
use crate::tape::{Backward, Ledger, Saved, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::pooling::{
    PoolShape, avg_pool_backward, avg_pool_forward, global_avg_backward, global_avg_forward,
    global_max_backward, global_max_forward, max_pool_backward, max_pool_forward,
};

/// What is taken of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pooling {
    Max,
    Avg,
}

/// Windows. Rows first, then columns; a series has columns only and ignores the rows' numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// On both sides; at most half the kernel.
    pub padding: [usize; 2],
}

impl Window {
    /// Squares that touch and do not overlap.
    pub fn square(size: usize) -> Self {
        Window { kernel: [size; 2], stride: [size; 2], padding: [0; 2] }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Pool {
    x: Var,
    kind: Kind,
    /// Where each maximum was found: the bits of u32.
    indices: Option<Saved>,
}

#[derive(Clone, Copy)]
enum Kind {
    Windows(PoolShape),
    /// Planes of this many numbers.
    Whole(usize),
}

impl Tape<'_> {
    /// The maximum or mean of each window.
    pub fn pool(&mut self, x: Var, pooling: Pooling, window: Window) -> Result<Var, NnError> {
        let xs = self.shape(x);
        let planes = planes_of(xs)?;
        let series = xs.rank() == 3;
        let rows = |given: usize, none: usize| if series { none } else { given };
        let shape = PoolShape {
            planes,
            input: [rows(xs[2], 1), xs.last()],
            kernel: [rows(window.kernel[0], 1), window.kernel[1]],
            stride: [rows(window.stride[0], 1), window.stride[1]],
            padding: [rows(window.padding[0], 0), window.padding[1]],
        };
        let positive = shape.stride.iter().chain(&shape.kernel).all(|&n| n > 0);
        let Some([oh, ow]) = positive.then(|| shape.output()).flatten() else {
            let want = format!("planes as large as {window:?}, its padding at most half of it");
            return Err(NnError::shape("pool", "input", xs, want));
        };
        let out_shape = match series {
            true => Shape::new(&[xs[0], xs[1], ow]),
            false => Shape::new(&[xs[0], xs[1], oh, ow]),
        };
        self.pooled(x, pooling, Kind::Windows(shape), out_shape)
    }

    /// The maximum or mean of each plane: `[B, C, …]` to `[B, C]`.
    pub fn global_pool(&mut self, x: Var, pooling: Pooling) -> Result<Var, NnError> {
        let xs = self.shape(x);
        let planes = planes_of(xs)?;
        self.pooled(x, pooling, Kind::Whole(xs.len() / planes), Shape::new(&[xs[0], xs[1]]))
    }

    fn pooled(&mut self, x: Var, pooling: Pooling, kind: Kind, out_shape: Shape) -> Result<Var, NnError> {
        let records = self.needs_grad(&[x], &[]);
        let mut out = self.take(out_shape.len());
        let mut found = (records && pooling == Pooling::Max).then(|| self.take(out_shape.len()));
        let indices = found.as_deref_mut().map(bytemuck::cast_slice_mut);
        match (kind, pooling) {
            (Kind::Windows(shape), Pooling::Max) => {
                max_pool_forward(&shape, self.value(x), &mut out, indices)
            }
            (Kind::Windows(shape), Pooling::Avg) => avg_pool_forward(&shape, self.value(x), &mut out),
            (Kind::Whole(n), Pooling::Max) => global_max_forward(n, self.value(x), &mut out, indices),
            (Kind::Whole(n), Pooling::Avg) => global_avg_forward(n, self.value(x), &mut out),
        }
        let indices = found.map(|found| self.save(found));
        Ok(self.push(Op::Pool(Pool { x, kind, indices }), out_shape, out, records))
    }
}

/// Batch times channels of `[B, C, …]`.
fn planes_of(x: Shape) -> Result<usize, NnError> {
    if !(3..=4).contains(&x.rank()) || x.len() == 0 {
        return Err(NnError::shape("pool", "input", x, "[B, C, H, W] or [B, C, L], not empty"));
    }
    Ok(x[0] * x[1])
}

impl Operation for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            let indices = self.indices.map(|i| bytemuck::cast_slice::<f32, u32>(view.saved(i)));
            match (self.kind, indices) {
                (Kind::Windows(shape), Some(at)) => max_pool_backward(&shape, dy, at, write, dx),
                (Kind::Windows(shape), None) => avg_pool_backward(&shape, dy, write, dx),
                (Kind::Whole(n), Some(at)) => global_max_backward(n, dy, at, write, dx),
                (Kind::Whole(n), None) => global_avg_backward(n, dy, write, dx),
            }
        });
    }

    /// The maximum takes all; a mean is a sum without a constant.
    fn relevance(&self, back: &mut Backward<'_>, _ledger: &mut Ledger) -> Result<(), NnError> {
        self.backward_inputs(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    /// Distinct numbers, far enough apart that a small step changes no maximum.
    fn distinct(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37) % 101) as f32 * 0.02 - 1.0).collect()
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let overlapping = Window { kernel: [3, 2], stride: [2, 1], padding: [1, 1] };
        for pooling in [Pooling::Max, Pooling::Avg] {
            for window in [Window::square(2), overlapping] {
                let check = Check::new(2).input_of(&[2, 2, 5, 5], distinct(100));
                check.run(|tape, x, _| tape.pool(x[0], pooling, window));
                let check = Check::new(2).input_of(&[2, 3, 9], distinct(54));
                check.run(|tape, x, _| tape.pool(x[0], pooling, window));
            }
            let check = Check::new(2).input_of(&[2, 2, 5, 5], distinct(100));
            check.run(|tape, x, _| tape.global_pool(x[0], pooling));
        }
    }

    #[test]
    fn wrong_sizes_are_named() {
        let window = Window { padding: [2, 2], ..Window::square(3) };
        Check::new(1).input(&[1, 2, 5, 5]).fails("pool", |t, x, _| t.pool(x[0], Pooling::Max, window));
        Check::new(1)
            .input(&[1, 2, 1, 5])
            .fails("pool", |t, x, _| t.pool(x[0], Pooling::Avg, Window::square(2)));
        Check::new(1).input(&[1, 2]).fails("pool", |t, x, _| t.global_pool(x[0], Pooling::Avg));
    }
}
