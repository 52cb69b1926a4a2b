//! Batch normalisation: `y = γ_c · (x − mean_c) / √(var_c + ε) + β_c` (Ioffe & Szegedy 2015).
//!
//! Legend: `[B, C, N]`, `N` the numbers of a channel (1, a length, or height times width). In training, mean
//! and variance are the batch's own (the biased variance; running statistics take the unbiased one); in
//! evaluation they are given, and the operation is one multiplication and addition.

use crate::cpu::{self, CpuPath};
use crate::elementwise::Write;
use crate::pool;
use crate::row::{Parts, load, store};
use crate::simd::{Simd, on_path};

/// Sizes: examples, channels, numbers a channel and example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelShape {
    pub batch: usize,
    pub channels: usize,
    pub n: usize,
}

impl ChannelShape {
    /// Floats in all.
    #[allow(clippy::len_without_is_empty, reason = "the length of a tensor, not of a container")]
    pub fn len(&self) -> usize {
        self.batch * self.channels * self.n
    }

    /// Where `(example, channel)` starts.
    fn at(&self, b: usize, c: usize) -> usize {
        (b * self.channels + c) * self.n
    }
}

/// What the statistics of the normalisation are to the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Computed from this batch: the gradient flows through them.
    Batch,
    /// Given: constants.
    Running,
}

/// Mean and biased variance of each channel over batch and positions; sums of sums in f64.
pub fn channel_stats(shape: ChannelShape, x: &[f32], mean: &mut [f32], var: &mut [f32]) {
    assert_eq!(x.len(), shape.len(), "channel_stats: x of {shape:?}");
    assert!(
        mean.len() == shape.channels && var.len() == shape.channels,
        "channel_stats: outputs of {shape:?}"
    );
    let count = (shape.batch * shape.n) as f64;
    let (path, mean, var) = (cpu::path(), Parts::new(mean), Parts::new(var));
    pool::parallel_for(shape.channels, |c| {
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for b in 0..shape.batch {
            let x = &x[shape.at(b, c)..][..shape.n];
            sum += on_path!(path, total(x: &[f32]) -> f32) as f64;
        }
        let m = (sum / count) as f32;
        for b in 0..shape.batch {
            let x = &x[shape.at(b, c)..][..shape.n];
            squares += on_path!(path, squared_deviations(x: &[f32], m: f32) -> f32) as f64;
        }
        // SAFETY: each channel is one task.
        unsafe {
            mean.part(c, 1)[0] = m;
            var.part(c, 1)[0] = (squares / count) as f32;
        }
    });
}

/// `y = γ · (x − mean) · inv_std + β`, all `[C]` (γ and β absent: 1 and 0).
pub fn batch_norm_forward(
    shape: ChannelShape,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    scale_shift: Option<(&[f32], &[f32])>,
    y: &mut [f32],
) {
    assert!(x.len() == shape.len() && y.len() == x.len(), "batch_norm: x and y of {shape:?}");
    assert!(
        mean.len() == shape.channels && inv_std.len() == shape.channels,
        "batch_norm: statistics of {shape:?}"
    );
    let (path, y) = (cpu::path(), Parts::new(y));
    crate::row::parallel_rows(shape.batch * shape.channels, shape.n, |rows| {
        for i in rows {
            let c = i % shape.channels;
            let (gamma, beta) = scale_shift.map_or((1.0, 0.0), |(g, b)| (g[c], b[c]));
            let (m, factor) = (mean[c], gamma * inv_std[c]);
            let x = &x[i * shape.n..][..shape.n];
            // SAFETY: tasks take different rows.
            let y = unsafe { y.part(i * shape.n, shape.n) };
            on_path!(path, centered_affine(x: &[f32], m: f32, factor: f32, beta: f32, y: &mut [f32]));
        }
    });
}

/// The gradient of the input. With `S = Σ dy`, `P = Σ dy · x̂` over the channel's `M` numbers:
/// `dx (+)= γ · inv_std · (dy − S/M − x̂ · P/M)` for batch statistics, `γ · inv_std · dy` for given ones.
pub fn batch_norm_backward_input(
    shape: ChannelShape,
    statistics: Statistics,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: Option<&[f32]>,
    dy: &[f32],
    write: Write,
    dx: &mut [f32],
) {
    assert!(x.len() == shape.len() && dy.len() == x.len() && dx.len() == x.len(), "batch_norm: {shape:?}");
    let (path, dx) = (cpu::path(), Parts::new(dx));
    let count = (shape.batch * shape.n) as f64;
    pool::parallel_for(shape.channels, |c| {
        let (m, inv, g) = (mean[c], inv_std[c], gamma.map_or(1.0, |g| g[c]));
        let [sum, product] = match statistics {
            Statistics::Batch => channel_sums(path, shape, c, x, m, dy),
            Statistics::Running => [0.0; 2],
        };
        let factor = g * inv;
        // dx = factor · dy + slope · (x − mean) + offset
        let slope = (-(factor as f64) * (inv as f64) * (inv as f64) * product / count) as f32;
        let offset = (-(factor as f64) * sum / count) as f32;
        for b in 0..shape.batch {
            let at = shape.at(b, c);
            let (x, dy) = (&x[at..][..shape.n], &dy[at..][..shape.n]);
            // SAFETY: each channel is one task.
            let dx = unsafe { dx.part(at, shape.n) };
            let line = Line { factor, slope, mean: m, offset, write };
            on_path!(path, combine(line: Line, x: &[f32], dy: &[f32], dx: &mut [f32]));
        }
    });
}

/// The gradients of γ and β: `dgamma (+)= Σ dy · x̂`, `dbeta (+)= Σ dy`.
pub fn batch_norm_backward_weight(
    shape: ChannelShape,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dy: &[f32],
    dgamma: Option<(&mut [f32], Write)>,
    dbeta: Option<(&mut [f32], Write)>,
) {
    assert!(x.len() == shape.len() && dy.len() == x.len(), "batch_norm: {shape:?}");
    let slots = [dgamma, dbeta].map(|slot| {
        slot.map(|(d, write)| {
            assert_eq!(d.len(), shape.channels, "batch_norm: gradients of {shape:?}");
            (Parts::new(d), write)
        })
    });
    let path = cpu::path();
    pool::parallel_for(shape.channels, |c| {
        let [sum, product] = channel_sums(path, shape, c, x, mean[c], dy);
        for (slot, value) in slots.iter().zip([product * inv_std[c] as f64, sum]) {
            if let Some((parts, write)) = slot {
                // SAFETY: each channel is one task.
                let d = unsafe { parts.part(c, 1) };
                d[0] = value as f32 + if *write == Write::Add { d[0] } else { 0.0 };
            }
        }
    });
}

/// `[Σ dy, Σ dy · (x − mean)]` over one channel.
fn channel_sums(path: CpuPath, shape: ChannelShape, c: usize, x: &[f32], m: f32, dy: &[f32]) -> [f64; 2] {
    let mut sums = [0.0f64; 2];
    for b in 0..shape.batch {
        let at = shape.at(b, c);
        let (x, dy) = (&x[at..][..shape.n], &dy[at..][..shape.n]);
        let [sum, product] = on_path!(path, sums_of(x: &[f32], m: f32, dy: &[f32]) -> [f32; 2]);
        sums[0] += sum as f64;
        sums[1] += product as f64;
    }
    sums
}

/// `dx (+)= factor · dy + slope · (x − mean) + offset`.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub factor: f32,
    pub slope: f32,
    pub mean: f32,
    pub offset: f32,
    pub write: Write,
}

/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn total<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: the caller has the path.
    unsafe { crate::row::sum::<S>(x) }
}

/// `Σ (x − m)²`.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn squared_deviations<S: Simd>(x: &[f32], m: f32) -> f32 {
    // SAFETY: the caller has the path; loads stay inside, and lanes past the end count nothing.
    unsafe {
        let (mean, whole) = (S::splat(m), x.len() / S::LANES * S::LANES);
        let mut acc = S::zero();
        for i in (0..whole).step_by(S::LANES) {
            let d = S::sub(S::load(x.as_ptr().add(i)), mean);
            acc = S::fma(d, d, acc);
        }
        let tail: f32 = x[whole..].iter().map(|x| (x - m) * (x - m)).sum();
        S::reduce_add(acc) + tail
    }
}

/// `y = (x − m) · factor + beta`.
///
/// # Safety
/// The processor has the path `S`; equal lengths.
#[inline(always)]
pub(crate) unsafe fn centered_affine<S: Simd>(x: &[f32], m: f32, factor: f32, beta: f32, y: &mut [f32]) {
    // SAFETY: the caller has the path; loads and stores stay inside.
    unsafe {
        let (m, factor, beta) = (S::splat(m), S::splat(factor), S::splat(beta));
        for i in (0..x.len()).step_by(S::LANES) {
            let d = S::sub(load::<S>(x.as_ptr().add(i), x.len() - i), m);
            store::<S>(y.as_mut_ptr().add(i), S::fma(d, factor, beta), x.len() - i);
        }
    }
}

/// `[Σ dy, Σ dy · (x − m)]`.
///
/// # Safety
/// The processor has the path `S`; equal lengths.
#[inline(always)]
pub(crate) unsafe fn sums_of<S: Simd>(x: &[f32], m: f32, dy: &[f32]) -> [f32; 2] {
    // SAFETY: the caller has the path; loads stay inside, and `dy` is zero past the end.
    unsafe {
        let (mean, n) = (S::splat(m), x.len());
        let (mut sum, mut product) = (S::zero(), S::zero());
        for i in (0..n).step_by(S::LANES) {
            let d = load::<S>(dy.as_ptr().add(i), n - i);
            sum = S::add(sum, d);
            product = S::fma(d, S::sub(load::<S>(x.as_ptr().add(i), n - i), mean), product);
        }
        [S::reduce_add(sum), S::reduce_add(product)]
    }
}

/// Applies a [`Line`].
///
/// # Safety
/// The processor has the path `S`; equal lengths.
#[inline(always)]
pub(crate) unsafe fn combine<S: Simd>(line: Line, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    // SAFETY: the caller has the path; loads and stores stay inside.
    unsafe {
        let n = x.len();
        let (factor, slope) = (S::splat(line.factor), S::splat(line.slope));
        let (mean, offset) = (S::splat(line.mean), S::splat(line.offset));
        for i in (0..n).step_by(S::LANES) {
            let at = dx.as_mut_ptr().add(i);
            let centered = S::sub(load::<S>(x.as_ptr().add(i), n - i), mean);
            let value = S::fma(slope, centered, offset);
            let value = S::fma(factor, load::<S>(dy.as_ptr().add(i), n - i), value);
            let value = if line.write == Write::Add { S::add(load::<S>(at, n - i), value) } else { value };
            store::<S>(at, value, n - i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    const SHAPES: [ChannelShape; 4] = [
        ChannelShape { batch: 3, channels: 4, n: 35 },
        ChannelShape { batch: 7, channels: 5, n: 1 },
        ChannelShape { batch: 2, channels: 1, n: 64 },
        ChannelShape { batch: 4, channels: 3, n: 17 },
    ];
    const EPS: f64 = 1e-5;

    /// The channel's numbers in f64.
    fn channel(s: ChannelShape, x: &[f32], c: usize) -> Vec<f64> {
        (0..s.batch).flat_map(|b| x[s.at(b, c)..][..s.n].iter().map(|&x| x as f64)).collect()
    }

    #[test]
    fn training_agrees_with_the_formula_on_every_path() {
        for s in SHAPES {
            // Far from zero, where a one-pass variance would cancel.
            let x: Vec<f32> = numbers(s.len(), 1).iter().map(|x| x + 50.0).collect();
            let (dy, gamma, beta) = (numbers(s.len(), 2), numbers(s.channels, 3), numbers(s.channels, 4));
            each_path(|| {
                let (mut mean, mut var) = (vec![0.0; s.channels], vec![0.0; s.channels]);
                channel_stats(s, &x, &mut mean, &mut var);
                let inv: Vec<f32> = var.iter().map(|v| (1.0 / (*v as f64 + EPS).sqrt()) as f32).collect();
                let (mut y, mut dx) = (vec![0.0; s.len()], vec![1.0; s.len()]);
                let (mut dg, mut db) = (vec![f32::NAN; s.channels], vec![1.0; s.channels]);
                batch_norm_forward(s, &x, &mean, &inv, Some((&gamma, &beta)), &mut y);
                let g = Some(gamma.as_slice());
                batch_norm_backward_input(s, Statistics::Batch, &x, &mean, &inv, g, &dy, Write::Add, &mut dx);
                let slots = (Some((&mut dg[..], Write::Overwrite)), Some((&mut db[..], Write::Add)));
                batch_norm_backward_weight(s, &x, &mean, &inv, &dy, slots.0, slots.1);
                for c in 0..s.channels {
                    let (xs, dys) = (channel(s, &x, c), channel(s, &dy, c));
                    let m = xs.len() as f64;
                    let mu = xs.iter().sum::<f64>() / m;
                    let v = xs.iter().map(|x| (x - mu).powi(2)).sum::<f64>() / m;
                    close(mean[c], mu, 1e-6);
                    close(var[c], v, 1e-5);
                    let inv = 1.0 / (v + EPS).sqrt();
                    let hat: Vec<f64> = xs.iter().map(|x| (x - mu) * inv).collect();
                    let sum: f64 = dys.iter().sum();
                    let product: f64 = dys.iter().zip(&hat).map(|(d, h)| d * h).sum();
                    close(db[c], 1.0 + sum, 1e-5);
                    close(dg[c], product, 1e-4);
                    let (ys, dxs) = (channel(s, &y, c), channel(s, &dx, c));
                    let (g, b) = (gamma[c] as f64, beta[c] as f64);
                    for i in 0..xs.len() {
                        close(ys[i] as f32, g * hat[i] + b, 1e-4);
                        let want = g * inv * (dys[i] - sum / m - hat[i] * product / m);
                        close(dxs[i] as f32, 1.0 + want, 1e-4);
                    }
                }
            });
        }
    }

    #[test]
    fn evaluation_is_an_affine_map_of_each_example_alone() {
        let s = SHAPES[0];
        let (x, dy) = (numbers(s.len(), 1), numbers(s.len(), 2));
        let (mean, gamma, beta) = (numbers(4, 3), numbers(4, 4), numbers(4, 5));
        let inv = [0.5, 1.0, 2.0, 3.0];
        each_path(|| {
            let (mut y, mut dx) = (vec![0.0; s.len()], vec![0.0; s.len()]);
            batch_norm_forward(s, &x, &mean, &inv, Some((&gamma, &beta)), &mut y);
            let (g, statistics) = (Some(gamma.as_slice()), Statistics::Running);
            batch_norm_backward_input(s, statistics, &x, &mean, &inv, g, &dy, Write::Overwrite, &mut dx);
            for i in 0..s.len() {
                let c = i / s.n % s.channels;
                close(y[i], ((x[i] - mean[c]) * gamma[c] * inv[c] + beta[c]) as f64, 1e-5);
                close(dx[i], (dy[i] * gamma[c] * inv[c]) as f64, 1e-5);
            }
            let one = ChannelShape { batch: 1, ..s };
            let mut alone = vec![0.0; one.len()];
            batch_norm_forward(
                one,
                &x[one.len()..][..one.len()],
                &mean,
                &inv,
                Some((&gamma, &beta)),
                &mut alone,
            );
            assert_eq!(alone, y[one.len()..][..one.len()]);
        });
    }

    #[test]
    fn threads_do_not_change_bits() {
        let s = ChannelShape { batch: 9, channels: 13, n: 21 };
        let (x, dy) = (numbers(s.len(), 1), numbers(s.len(), 2));
        let run = || {
            let (mut mean, mut var, mut dx) = (vec![0.0; 13], vec![0.0; 13], vec![0.0; s.len()]);
            channel_stats(s, &x, &mut mean, &mut var);
            let write = Write::Overwrite;
            batch_norm_backward_input(s, Statistics::Batch, &x, &mean, &var, None, &dy, write, &mut dx);
            [mean, var, dx]
        };
        let many = run();
        pool::parallel_for(2, |_| assert_eq!(run(), many));
    }
}
