//! `y = f(conv(x, W) + b)`: convolution over images and series.
//!
//! x `[B, C_in, H, W]` or `[B, C_in, L]`, W `[C_out, C_in / groups, KH, KW]` or `[C_out, C_in / groups, K]`,
//! b `[C_out]`, y `[B, C_out, …]`. As in PyTorch this is a correlation: the kernel is not turned. Backward, with
//! `g = dy ⊙ f′`: `dx = convᵀ(g, W)`, `dW = Σ_b g[b] ⋆ x[b]`, `db = Σ_{b, p} g`.

use super::{Op, Operation};
use crate::norms::ExampleNorms;
use crate::params::ParamId;
use crate::tape::{Backward, Examples, Ledger, Tape, Var, WeightBackward};
use crate::{Activation, NnError, Shape};
use lyceum_kernels::conv::{
    ConvShape, conv_backward_bias, conv_backward_input, conv_backward_weight, conv_forward,
};

/// How the kernel moves. Rows first, then columns; a series has columns only and ignores the rows' numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConvGeometry {
    pub stride: [usize; 2],
    /// Zeros before the first row and column.
    pub pad_before: [usize; 2],
    /// Zeros after the last row and column.
    pub pad_after: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Default for ConvGeometry {
    /// PyTorch's: no padding, every pixel, one group.
    fn default() -> Self {
        ConvGeometry { stride: [1; 2], pad_before: [0; 2], pad_after: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl ConvGeometry {
    /// Equal numbers along both axes, `padding` on both sides.
    pub fn square(stride: usize, padding: usize, dilation: usize, groups: usize) -> Self {
        ConvGeometry {
            stride: [stride; 2],
            pad_before: [padding; 2],
            pad_after: [padding; 2],
            dilation: [dilation; 2],
            groups,
        }
    }

    /// Padding that keeps the size at stride 1: half of `(kernel - 1) · dilation` before, the rest after
    /// (PyTorch's and Keras's "same").
    pub fn same(stride: usize, kernel: usize, dilation: usize, groups: usize) -> Self {
        let total = kernel.saturating_sub(1) * dilation;
        ConvGeometry {
            pad_after: [total - total / 2; 2],
            ..ConvGeometry::square(stride, total / 2, dilation, groups)
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Conv {
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    shape: ConvShape,
    activation: Activation,
}

impl Tape<'_> {
    /// See the module for shapes.
    pub fn conv(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        geometry: ConvGeometry,
        activation: Activation,
    ) -> Result<Var, NnError> {
        let (xs, ws) = (self.shape(x), self.params().shape(weight));
        let shape = conv_shape(xs, ws, geometry)?;
        if let Some(b) = bias.filter(|&b| self.params().shape(b).dims() != [ws[0]]) {
            return Err(NnError::shape("conv", "bias", self.params().shape(b), format!("[{}]", ws[0])));
        }
        let Some([oh, ow]) = shape.output() else {
            let want = format!("at least the reach of kernel {ws} under {geometry:?}");
            return Err(NnError::shape("conv", "input", xs, want));
        };
        let records = match bias {
            Some(b) => self.needs_grad(&[x], &[weight, b]),
            None => self.needs_grad(&[x], &[weight]),
        };
        // ReLU is undone from its result; other functions need the value before them: two operations.
        let fused = if activation == Activation::Relu { Activation::Relu } else { Activation::None };
        let mut out = self.take(shape.len_y());
        let params = self.params();
        let bias_value = bias.map(|b| params.value(b));
        conv_forward(&shape, self.value(x), params.value(weight), bias_value, fused, &mut out);
        let out_shape = match xs.rank() {
            3 => Shape::new(&[xs[0], ws[0], ow]),
            _ => Shape::new(&[xs[0], ws[0], oh, ow]),
        };
        let op = Op::Conv(Conv { x, weight, bias, shape, activation: fused });
        let y = self.push(op, out_shape, out, records);
        if fused == activation { Ok(y) } else { self.activate(y, activation) }
    }
}

/// The kernel's sizes, or what does not fit.
fn conv_shape(x: Shape, weight: Shape, geometry: ConvGeometry) -> Result<ConvShape, NnError> {
    let ConvGeometry { groups, .. } = geometry;
    let moves = geometry.stride.into_iter().chain(geometry.dilation).chain([groups]);
    if x.rank() != weight.rank() || !(3..=4).contains(&x.rank()) {
        let want = format!("[B, C, H, W] or [B, C, L] like weight {weight}");
        return Err(NnError::shape("conv", "input", x, want));
    }
    if moves.into_iter().any(|n| n == 0) || weight.len() == 0 || x.len() == 0 {
        return Err(NnError::shape("conv", "input", x, "sizes, stride, dilation and groups above 0"));
    }
    if x[1] != weight[1] * groups || !weight[0].is_multiple_of(groups) {
        let want = format!("{} channels in {groups} groups for weight {weight}", weight[1] * groups);
        return Err(NnError::shape("conv", "input", x, want));
    }
    let series = x.rank() == 3;
    // The axis of rows that a series does not have.
    let rows = |given: usize, none: usize| if series { none } else { given };
    Ok(ConvShape {
        batch: x[0],
        in_channels: x[1],
        out_channels: weight[0],
        groups,
        input: [rows(x[2], 1), x.last()],
        kernel: [rows(weight[2], 1), weight.last()],
        stride: [rows(geometry.stride[0], 1), geometry.stride[1]],
        pad_before: [rows(geometry.pad_before[0], 0), geometry.pad_before[1]],
        pad_after: [rows(geometry.pad_after[0], 0), geometry.pad_after[1]],
        dilation: [rows(geometry.dilation[0], 1), geometry.dilation[1]],
    })
}

impl Conv {
    fn add_weights(&self, back: &mut WeightBackward<'_>, dy: &[f32], example_scale: Option<&[f32]>) {
        back.grad(self.weight, |view, dw, write| {
            conv_backward_weight(&self.shape, view.value(self.x), dy, example_scale, write, dw);
        });
        if let Some(bias) = self.bias {
            back.grad(bias, |_, db, write| conv_backward_bias(&self.shape, dy, example_scale, write, db));
        }
    }
}

impl Operation for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn begin(&self, back: &mut Backward<'_>) {
        if self.activation == Activation::Relu {
            back.change_dy(|view, dy| {
                super::linear::activate_backward_in_place(Activation::Relu, view.output(), dy)
            });
        }
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.x, |view, dy, dx, write| {
            conv_backward_input(&self.shape, dy, view.param(self.weight), write, dx);
        });
    }

    fn backward_weights(&self, back: &mut WeightBackward<'_>) {
        match (back.example_weights, back.examples) {
            // One image an example: the kernel weighs them.
            (Some(weights), Examples::Even(n)) if *n == self.shape.batch => {
                self.add_weights(back, back.dy, Some(weights))
            }
            _ => back.weighted(back.dy, |back, dy| self.add_weights(back, dy, None)),
        }
    }

    fn example_norms(&self, norms: &mut ExampleNorms<'_>) {
        let (view, dy, examples) = (norms.view, norms.dy, norms.examples);
        let x = view.value(self.x);
        let of = |i: usize| {
            let shape = ConvShape { batch: examples.range(i, self.shape.batch).len(), ..self.shape };
            (shape, &x[examples.range(i, x.len())], &dy[examples.range(i, dy.len())])
        };
        norms.gradients(self.weight, |i, dw, write| {
            let (shape, x, dy) = of(i);
            conv_backward_weight(&shape, x, dy, None, write, dw);
        });
        if let Some(bias) = self.bias {
            norms.gradients(bias, |i, db, write| {
                let (shape, _, dy) = of(i);
                conv_backward_bias(&shape, dy, None, write, db);
            });
        }
    }

    /// The ε-rule, after the identity rule of the activation.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        back.change_dy(|view, dy| {
            // Where a rectifier gave 0 nothing arrives; elsewhere the value before it is the value after it.
            let y = view.output();
            let plane = dy.len() / (self.shape.batch * self.shape.out_channels).max(1);
            let bias = self.bias.map(|b| view.param(b));
            for (i, c) in dy.iter_mut().enumerate() {
                let arrived = *c * y[i];
                *c = ledger.quotient(arrived, y[i]);
                let constant = bias.map_or(0.0, |b| b[i / plane % self.shape.out_channels]);
                ledger.absorbed += f64::from(arrived) - f64::from(*c) * f64::from(y[i] - constant);
            }
        });
        self.backward_inputs(back);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let cases = [
            ([4, 3, 3, 3], [2, 3, 5, 4], ConvGeometry::square(1, 1, 1, 1)),
            ([4, 1, 3, 2], [2, 2, 6, 7], ConvGeometry::square(2, 1, 2, 2)),
            ([2, 2, 4, 4], [2, 2, 5, 5], ConvGeometry::same(1, 4, 1, 1)),
        ];
        for (weight, input, geometry) in cases {
            let check = Check::new(2).input(&input).param("w", &weight).param("b", &weight[..1]);
            check.run(|tape, x, p| tape.conv(x[0], p[0], Some(p[1]), geometry, Activation::Tanh));
        }
        let check = Check::new(2).input(&[2, 3, 9]).param("w", &[4, 3, 4]);
        let geometry = ConvGeometry { stride: [9, 2], ..ConvGeometry::same(2, 4, 1, 1) };
        check.run(|tape, x, p| tape.conv(x[0], p[0], None, geometry, Activation::None));
    }

    #[test]
    fn several_images_an_example_share_its_weight() {
        let check = Check::new(2).input(&[4, 2, 3, 3]).param("w", &[3, 2, 2, 2]).param("b", &[3]);
        let geometry = ConvGeometry::default();
        check.run(|tape, x, p| tape.conv(x[0], p[0], Some(p[1]), geometry, Activation::None));
    }

    #[test]
    fn wrong_sizes_are_named() {
        let refuse = |input: &[usize], weight: &[usize], geometry: ConvGeometry| {
            let check = Check::new(input[0]).input(input).param("w", weight);
            check.fails("conv", |tape, x, p| tape.conv(x[0], p[0], None, geometry, Activation::None));
        };
        refuse(&[2, 3, 5, 5], &[4, 2, 3, 3], ConvGeometry::default());
        refuse(&[2, 3, 5], &[4, 3, 3, 3], ConvGeometry::default());
        refuse(&[2, 3, 5, 2], &[4, 3, 3, 3], ConvGeometry::default());
        refuse(&[2, 4, 5, 5], &[5, 2, 3, 3], ConvGeometry::square(1, 0, 1, 2));
        refuse(&[2, 3, 5, 5], &[4, 3, 3, 3], ConvGeometry::square(0, 0, 1, 1));
    }
}
