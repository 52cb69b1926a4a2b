//! Convolutions of one and two dimensions, forward and backward.
//!
//! Images are `[B, C, H, W]`, weights `[C_out, C_in / groups, KH, KW]`, as PyTorch has them; a series is an
//! image of height 1. This module knows neither tapes nor models.
//!
//! No matrix of columns is ever built. An image is copied once into *planes*: with its padding, and cut into
//! its `stride` phases, so that the pixel under a tap of the kernel lies at a fixed distance from the output
//! pixel and neighbours stay neighbours:
//!
//! ```text
//! y[m, oh, ow] = bias[m] + Σ_k w[m, k] · planes[offset[k] + oh · pitch + ow]        k = (channel, tap)
//! ```
//!
//! which is a matrix product whose right-hand side is read in place ([`shift`]). The gradient of the input is
//! the same product over the planes of the output's gradient, once per phase of the input; the gradient of
//! the weights is the product over pixels ([`weights`]).
//!
//! The order of `k` is fixed and one fused multiply-add follows the other, so a pixel's bits depend neither on
//! its tile, nor on its neighbours, nor on the threads. Weight gradients are summed over a partition of the
//! batch that depends on the shape alone.

mod planes;
mod shift;
#[cfg(test)]
mod tests;
mod weights;

pub use weights::{conv_backward_bias, conv_backward_weight};

pub use crate::elementwise::Write;

use crate::activation::{self, Activation};
use crate::pool::{self, SendPtr};
use crate::{cpu, scratch};
use planes::{Axis, Planes};
use shift::{Epilogue, Product, Target};

/// What a convolution is: sizes and geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros before the first row and column.
    pub pad_before: [usize; 2],
    /// Zeros after the last row and column.
    pub pad_after: [usize; 2],
    pub dilation: [usize; 2],
}

impl ConvShape {
    /// Height and width of the output, `(H + pads - dilation · (K - 1) - 1) / stride + 1`; None when the
    /// kernel is larger than the padded input.
    pub fn output(&self) -> Option<[usize; 2]> {
        let mut out = [0; 2];
        for i in 0..2 {
            let padded = self.input[i] + self.pad_before[i] + self.pad_after[i];
            let reach = self.dilation[i] * (self.kernel[i] - 1) + 1;
            out[i] = padded.checked_sub(reach)? / self.stride[i] + 1;
        }
        Some(out)
    }

    /// Floats in the input.
    pub fn len_x(&self) -> usize {
        self.batch * self.in_channels * self.input[0] * self.input[1]
    }

    /// Floats in the output.
    pub fn len_y(&self) -> usize {
        let [oh, ow] = self.out();
        self.batch * self.out_channels * oh * ow
    }

    /// Floats in the weight.
    pub fn len_weight(&self) -> usize {
        self.out_channels * self.taps()
    }

    /// Weights of one output channel: `C_in / groups · KH · KW`.
    fn taps(&self) -> usize {
        self.in_channels / self.groups * self.kernel[0] * self.kernel[1]
    }

    fn out(&self) -> [usize; 2] {
        self.output().expect("the kernel fits the padded input: bug")
    }

    fn check(&self) {
        let positive = [self.groups, self.in_channels, self.out_channels];
        let sizes = [self.kernel, self.stride, self.dilation, self.input];
        let all_positive = positive.iter().chain(sizes.iter().flatten()).all(|&n| n > 0);
        assert!(all_positive, "convolution with a zero size: {self:?}");
        let divide =
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups);
        assert!(divide, "channels do not divide into groups: {self:?}");
    }

    /// The geometry of axis `i` (0 rows, 1 columns).
    fn axis(&self, i: usize) -> Axis {
        Axis {
            input: self.input[i],
            output: self.out()[i],
            kernel: self.kernel[i],
            stride: self.stride[i],
            dilation: self.dilation[i],
            pad: self.pad_before[i],
        }
    }
}

/// `y = act(conv(x, weight) + bias)`.
///
/// `x` `[B, C_in, H, W]`, `weight` `[C_out, C_in / groups, KH, KW]`, `bias` `[C_out]`, `y` `[B, C_out, OH, OW]`.
pub fn conv_forward(
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) {
    shape.check();
    assert_eq!(x.len(), shape.len_x(), "conv: x of {shape:?}");
    assert_eq!(y.len(), shape.len_y(), "conv: y of {shape:?}");
    assert_eq!(weight.len(), shape.len_weight(), "conv: weight of {shape:?}");
    assert!(bias.is_none_or(|b| b.len() == shape.out_channels), "conv: bias of {shape:?}");
    let path = cpu::path();
    let epilogue = Epilogue { relu: activation == Activation::Relu, add: false };
    let out = SendPtr(y.as_mut_ptr());
    let (n_taps, groups) = (shape.taps(), shape.groups);
    let (c_in, c_out) = (shape.in_channels / groups, shape.out_channels / groups);
    let [oh, ow] = shape.out();
    let planes = Planes::of_input(shape, c_in);
    let mr = shift::rows_per_tile(path, c_out);
    let packed_len = c_out.next_multiple_of(mr) * n_taps;
    let target = Target {
        rows: oh,
        cols: ow,
        source: 0,
        pitch: planes.pitch,
        dest: 0,
        dest_row: ow,
        dest_col: 1,
        dest_plane: oh * ow,
    };
    scratch::with_f32(n_taps + groups * packed_len, |memory| {
        let (offsets, packed) = memory.split_at_mut(n_taps);
        let offsets: &mut [u32] = bytemuck::cast_slice_mut(offsets);
        planes.input_offsets(shape, offsets);
        for g in 0..groups {
            let w = &weight[g * c_out * n_taps..][..c_out * n_taps];
            shift::pack(&mut packed[g * packed_len..][..packed_len], c_out, n_taps, mr, |m, k| {
                w[m * n_taps + k]
            });
        }
        let (offsets, packed) = (&*offsets, &*packed);
        for_each_part(shape, c_out, mr, |b, g, rows| {
            let image = &x[(b * groups + g) * c_in * shape.input[0] * shape.input[1]..];
            scratch::with_f32(planes.len(), |buffer| {
                planes.fill_input(shape, image, buffer);
                let product = Product {
                    packed: &packed[g * packed_len..][..packed_len],
                    mr,
                    offsets,
                    planes: buffer,
                    bias: bias.map(|bias| &bias[g * c_out..][..c_out]),
                };
                // SAFETY: `y` holds `[B, groups, c_out, oh, ow]` and this part owns rows `rows` of `(b, g)`;
                // the planes reach past every offset.
                unsafe {
                    let y = out.get().add((b * groups + g) * c_out * oh * ow);
                    shift::run(path, &product, &target, epilogue, rows, y);
                }
            });
        });
    });
    if !matches!(activation, Activation::None | Activation::Relu) {
        activation::activate_in_place(activation, y);
    }
}

/// The gradient of the input: `dx (+)= convᵀ(dy, weight)`, shapes as in [`conv_forward`].
///
/// `dy` is the gradient before the activation.
pub fn conv_backward_input(shape: &ConvShape, dy: &[f32], weight: &[f32], write: Write, dx: &mut [f32]) {
    shape.check();
    assert_eq!(dx.len(), shape.len_x(), "conv: dx of {shape:?}");
    assert_eq!(dy.len(), shape.len_y(), "conv: dy of {shape:?}");
    assert_eq!(weight.len(), shape.len_weight(), "conv: weight of {shape:?}");
    let path = cpu::path();
    let epilogue = Epilogue { relu: false, add: write == Write::Add };
    let out = SendPtr(dx.as_mut_ptr());
    let groups = shape.groups;
    let (c_in, c_out) = (shape.in_channels / groups, shape.out_channels / groups);
    let [ih, iw] = shape.input;
    let [oh, ow] = shape.out();
    let [kh, kw] = shape.kernel;
    let planes = Planes::of_output(shape, c_out);
    let mr = shift::rows_per_tile(path, c_in);
    let n_products = c_out * kh * kw;
    let packed_len = c_in.next_multiple_of(mr) * n_products;
    scratch::with_f32(n_products + groups * packed_len, |memory| {
        let (offsets, packed) = memory.split_at_mut(n_products);
        let offsets: &mut [u32] = bytemuck::cast_slice_mut(offsets);
        // Each tap belongs to exactly one phase of the input; phases lie one after the other.
        let mut start = 0;
        for phase in planes::phases(shape) {
            let n_taps = phase.n_taps(shape);
            let k = c_out * n_taps;
            planes.output_offsets(shape, phase, &mut offsets[start..start + k]);
            for g in 0..groups {
                let at = g * packed_len + start * c_in.next_multiple_of(mr);
                let piece = &mut packed[at..][..k * c_in.next_multiple_of(mr)];
                phase.for_each_tap(shape, |tap, y, x| {
                    for co in 0..c_out {
                        let from = (g * c_out + co) * c_in * kh * kw + y * kw + x;
                        shift::pack_column(piece, c_in, k, mr, co * n_taps + tap, |ci| {
                            weight[from + ci * kh * kw]
                        });
                    }
                });
            }
            start += k;
        }
        let (offsets, packed) = (&*offsets, &*packed);
        for_each_part(shape, c_in, mr, |b, g, rows| {
            let gradient = &dy[(b * groups + g) * c_out * oh * ow..];
            scratch::with_f32(planes.len(), |buffer| {
                planes.fill_output(shape, gradient, buffer);
                let mut start = 0;
                for phase in planes::phases(shape) {
                    let k = c_out * phase.n_taps(shape);
                    let padded = c_in.next_multiple_of(mr);
                    let product = Product {
                        packed: &packed[g * packed_len + start * padded..][..k * padded],
                        mr,
                        offsets: &offsets[start..start + k],
                        planes: buffer,
                        bias: None,
                    };
                    start += k;
                    let Some(target) = phase.target(shape, planes.pitch) else { continue };
                    // SAFETY: `dx` holds `[B, groups, c_in, ih, iw]` and this part owns rows `rows` of
                    // `(b, g)`; the planes reach past every offset.
                    unsafe {
                        let dx = out.get().add((b * groups + g) * c_in * ih * iw);
                        shift::run(path, &product, &target, epilogue, rows.clone(), dx);
                    }
                }
            });
        });
    });
}

/// Runs `f(example, group, output rows)` for parts that cover the batch: whole examples where there are
/// enough of them, else examples cut between tiles of `mr` rows.
fn for_each_part(
    shape: &ConvShape,
    m: usize,
    mr: usize,
    f: impl Fn(usize, usize, std::ops::Range<usize>) + Sync,
) {
    let n = shape.batch * shape.groups;
    let wanted = if n == 0 { 1 } else { (2 * pool::threads()).div_ceil(n) };
    let rows = m.div_ceil(mr).div_ceil(wanted.min(m.div_ceil(mr))) * mr;
    let n_cuts = m.div_ceil(rows);
    pool::parallel_for(n * n_cuts, |i| {
        let (example, cut) = (i / n_cuts, i % n_cuts);
        f(example / shape.groups, example % shape.groups, cut * rows..((cut + 1) * rows).min(m));
    });
}
