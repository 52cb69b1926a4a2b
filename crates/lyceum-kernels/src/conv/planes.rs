//! Where pixels lie: padded planes, phases of a stride, and the offset of each tap.
//!
//! With stride `s`, padded row `y = s·t + r` lies in phase `r` at row `t`; the tap at distance `d = k·dilation`
//! from output row `o` is then in phase `d mod s` at row `o + d/s`: a fixed distance, whatever `o` is.

use super::ConvShape;
use super::shift::Target;

/// Vectors may read this many floats past the last pixel of the planes (three vectors of 16, with room).
const SLACK: usize = 64;

/// One axis of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub pad: usize,
}

impl Axis {
    /// How many rows of one phase the kernel reaches over.
    fn reach(&self) -> usize {
        (self.kernel - 1) * self.dilation / self.stride
    }

    /// Phases that some tap reads.
    fn n_phases(&self) -> usize {
        self.stride
    }
}

/// The layout of `channels` planes, each of `phases` phases of `rows` rows of `pitch` floats.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    channels: usize,
    phases: usize,
    rows: usize,
    pub pitch: usize,
}

impl Planes {
    /// The planes of an input of `channels` channels.
    pub fn of_input(shape: &ConvShape, channels: usize) -> Planes {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        Planes {
            channels,
            phases: y.n_phases() * x.n_phases(),
            rows: y.output + y.reach(),
            pitch: x.output + x.reach(),
        }
    }

    /// The planes of an output's gradient of `channels` channels: one phase, with room for the kernel's reach
    /// before it and for input rows that no output row lies above.
    pub fn of_output(shape: &ConvShape, channels: usize) -> Planes {
        let size = |a: Axis| a.output.max((a.pad + a.input - 1) / a.stride + 1) + a.reach();
        Planes { channels, phases: 1, rows: size(shape.axis(0)), pitch: size(shape.axis(1)) }
    }

    pub fn len(&self) -> usize {
        self.channels * self.phases * self.rows * self.pitch + SLACK
    }

    /// The offset of each tap `(channel, kh, kw)` of an input's planes.
    pub fn input_offsets(&self, shape: &ConvShape, offsets: &mut [u32]) {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        assert!(self.len() <= u32::MAX as usize, "an image of {} floats is too large", self.len());
        let taps = y.kernel * x.kernel;
        for c in 0..self.channels {
            for kh in 0..y.kernel {
                for kw in 0..x.kernel {
                    let (dy, dx) = (kh * y.dilation, kw * x.dilation);
                    let phase = c * self.phases + dy % y.stride * x.stride + dx % x.stride;
                    let row = phase * self.rows + dy / y.stride;
                    offsets[c * taps + kh * x.kernel + kw] = (row * self.pitch + dx / x.stride) as u32;
                }
            }
        }
    }

    /// Copies an image `[channels, H, W]` into its planes.
    pub fn fill_input(&self, shape: &ConvShape, image: &[f32], planes: &mut [f32]) {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        planes.fill(0.0);
        for c in 0..self.channels {
            for row in 0..y.input {
                let padded = row + y.pad;
                let (phase, t) = (padded % y.stride, padded / y.stride);
                if t >= self.rows {
                    continue;
                }
                let source = &image[(c * y.input + row) * x.input..][..x.input];
                for px in 0..x.stride {
                    let at = ((c * self.phases + phase * x.stride + px) * self.rows + t) * self.pitch;
                    scatter(source, x, px, &mut planes[at..at + self.pitch]);
                }
            }
        }
    }

    /// Copies an output's gradient `[channels, OH, OW]` into its planes.
    pub fn fill_output(&self, shape: &ConvShape, gradient: &[f32], planes: &mut [f32]) {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        planes.fill(0.0);
        for c in 0..self.channels {
            for row in 0..y.output {
                let at = (c * self.rows + row + y.reach()) * self.pitch + x.reach();
                let source = &gradient[(c * y.output + row) * x.output..][..x.output];
                planes[at..at + x.output].copy_from_slice(source);
            }
        }
    }

    /// The offset of each product `(output channel, tap)` of one phase of the input in the gradient's planes.
    pub fn output_offsets(&self, shape: &ConvShape, phase: Phase, offsets: &mut [u32]) {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        assert!(self.len() <= u32::MAX as usize, "a gradient of {} floats is too large", self.len());
        let n_taps = phase.n_taps(shape);
        phase.for_each_tap(shape, |tap, kh, kw| {
            let row = y.reach() - kh * y.dilation / y.stride;
            let col = x.reach() - kw * x.dilation / x.stride;
            for co in 0..self.channels {
                offsets[co * n_taps + tap] = ((co * self.rows + row) * self.pitch + col) as u32;
            }
        });
    }
}

/// Copies the columns of phase `px` of one row to where the phase has them.
fn scatter(source: &[f32], x: Axis, px: usize, row: &mut [f32]) {
    if x.stride == 1 {
        let first = x.pad.min(row.len());
        let n = source.len().min(row.len() - first);
        row[first..first + n].copy_from_slice(&source[..n]);
        return;
    }
    // The first padded column of this phase that is a pixel: the smallest `s·t + px >= pad`.
    let t0 = x.pad.saturating_sub(px).div_ceil(x.stride);
    for t in t0..row.len() {
        match source.get(t * x.stride + px - x.pad) {
            Some(&pixel) => row[t] = pixel,
            None => break,
        }
    }
}

/// The input rows and columns that have the same taps above them.
#[derive(Clone, Copy)]
pub(super) struct Phase {
    y: usize,
    x: usize,
}

/// All phases of the input, in a fixed order.
pub(super) fn phases(shape: &ConvShape) -> impl Iterator<Item = Phase> {
    let [sy, sx] = shape.stride;
    (0..sy * sx).map(move |i| Phase { y: i / sx, x: i % sx })
}

impl Phase {
    /// Runs `f(tap number, kh, kw)` over the taps of this phase.
    pub fn for_each_tap(self, shape: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
        let [y, x] = [shape.axis(0), shape.axis(1)];
        let mut tap = 0;
        for kh in (0..y.kernel).filter(|kh| kh * y.dilation % y.stride == self.y) {
            for kw in (0..x.kernel).filter(|kw| kw * x.dilation % x.stride == self.x) {
                f(tap, kh, kw);
                tap += 1;
            }
        }
    }

    pub fn n_taps(self, shape: &ConvShape) -> usize {
        let mut n = 0;
        self.for_each_tap(shape, |_, _, _| n += 1);
        n
    }

    /// The pixels of this phase, read at `t·pitch + u` of the gradient's planes; None when it has none.
    pub fn target(self, shape: &ConvShape, pitch: usize) -> Option<Target> {
        // Padded row `s·t + r` is input row `s·t + r - pad`.
        let range = |a: Axis, r: usize| {
            let first = a.pad.saturating_sub(r).div_ceil(a.stride);
            let end = (a.pad + a.input).saturating_sub(r).div_ceil(a.stride);
            (first, end.saturating_sub(first), (first * a.stride + r).checked_sub(a.pad))
        };
        let [y, x] = [shape.axis(0), shape.axis(1)];
        let (t, rows, row) = range(y, self.y);
        let (u, cols, col) = range(x, self.x);
        if rows == 0 || cols == 0 {
            return None;
        }
        let (row, col) = (row?, col?);
        Some(Target {
            rows,
            cols,
            source: t * pitch + u,
            pitch,
            dest: row * x.input + col,
            dest_row: y.stride * x.input,
            dest_col: x.stride,
            dest_plane: y.input * x.input,
        })
    }
}
