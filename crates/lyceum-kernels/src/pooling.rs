//! Pooling over windows and over whole planes, forward and backward.
//!
//! A plane is one channel of one example, `[H, W]` (a series is a plane of height 1). Windows are PyTorch's:
//! padding is −∞ for the maximum and counted zeros for the mean (`count_include_pad`), sizes round down.
//! A NaN in a window is its maximum.

use crate::cpu;
use crate::elementwise::Write;
use crate::row::{self, Parts, load, parallel_rows, store};
use crate::simd::{Simd, on_path};

/// Sizes and windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Batch times channels.
    pub planes: usize,
    /// Height and width of a plane.
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// On both sides; at most half the kernel.
    pub padding: [usize; 2],
}

impl PoolShape {
    /// Height and width of the output; None when the kernel is larger than the padded input or the padding
    /// larger than half the kernel.
    pub fn output(&self) -> Option<[usize; 2]> {
        let mut out = [0; 2];
        for i in 0..2 {
            if self.padding[i] * 2 > self.kernel[i] {
                return None;
            }
            out[i] = (self.input[i] + 2 * self.padding[i]).checked_sub(self.kernel[i])? / self.stride[i] + 1;
        }
        Some(out)
    }

    fn check(&self, x: usize, y: usize) -> [usize; 2] {
        let out = self.output().expect("the window fits the padded input: bug");
        assert_eq!(x, self.planes * self.input[0] * self.input[1], "pooling: x of {self:?}");
        assert_eq!(y, self.planes * out[0] * out[1], "pooling: y of {self:?}");
        out
    }

    /// The rows (`axis` 0) or columns (1) under output `i`.
    #[inline(always)]
    fn window(&self, axis: usize, i: usize) -> (usize, usize) {
        let start = i * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.padding[axis]).min(self.input[axis]);
        (start.saturating_sub(self.padding[axis]), end)
    }
}

/// `y = max of each window`; `indices` receives the place of the maximum in its plane (the first of equals).
pub fn max_pool_forward(shape: &PoolShape, x: &[f32], y: &mut [f32], indices: Option<&mut [u32]>) {
    let [oh, ow] = shape.check(x.len(), y.len());
    assert!(indices.as_ref().is_none_or(|i| i.len() == y.len()), "pooling: indices of {shape:?}");
    let (n_in, n_out) = (shape.input[0] * shape.input[1], oh * ow);
    let (y, indices) = (Parts::new(y), indices.map(Parts::new));
    parallel_rows(shape.planes, n_in, |planes| {
        for p in planes {
            let x = &x[p * n_in..][..n_in];
            // SAFETY: tasks take different planes.
            let (y, at) =
                unsafe { (y.part(p * n_out, n_out), indices.as_ref().map(|i| i.part(p * n_out, n_out))) };
            match (shape.kernel, shape.stride, shape.padding) {
                ([2, 2], [2, 2], [0, 0]) => max_of_fours(shape.input[1], [oh, ow], x, y, at),
                _ => max_of_windows(shape, [oh, ow], x, y, at),
            }
        }
    });
}

/// The common case without branches: windows of 2×2 that do not overlap.
fn max_of_fours(
    width: usize,
    [oh, ow]: [usize; 2],
    x: &[f32],
    y: &mut [f32],
    mut indices: Option<&mut [u32]>,
) {
    for row in 0..oh {
        let start = 2 * row * width;
        let (top, bottom) = (&x[start..][..2 * ow], &x[start + width..][..2 * ow]);
        let y = &mut y[row * ow..][..ow];
        let pairs = top.chunks_exact(2).zip(bottom.chunks_exact(2));
        match indices.as_deref_mut() {
            Some(indices) => {
                let indices = &mut indices[row * ow..][..ow];
                for (i, (a, b)) in pairs.enumerate() {
                    let (mut best, mut at) = (a[0], 0);
                    for (value, place) in [(a[1], 1), (b[0], width), (b[1], width + 1)] {
                        let larger = value > best || value.is_nan();
                        best = if larger { value } else { best };
                        at = if larger { place } else { at };
                    }
                    y[i] = best;
                    indices[i] = (start + 2 * i + at) as u32;
                }
            }
            None => {
                for (i, (a, b)) in pairs.enumerate() {
                    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
                    y[i] = larger(larger(larger(a[0], a[1]), b[0]), b[1]);
                }
            }
        }
    }
}

fn max_of_windows(
    shape: &PoolShape,
    [oh, ow]: [usize; 2],
    x: &[f32],
    y: &mut [f32],
    mut indices: Option<&mut [u32]>,
) {
    let width = shape.input[1];
    for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
        let ((y0, y1), (x0, x1)) = (shape.window(0, row), shape.window(1, col));
        let mut at = y0 * width + x0;
        let mut best = x[at];
        for i in y0..y1 {
            for j in x0..x1 {
                let value = x[i * width + j];
                if value > best || value.is_nan() {
                    (best, at) = (value, i * width + j);
                }
            }
        }
        y[row * ow + col] = best;
        if let Some(indices) = indices.as_deref_mut() {
            indices[row * ow + col] = at as u32;
        }
    }
}

/// `dx[indices[i]] (+)= dy[i]`, zero elsewhere.
pub fn max_pool_backward(shape: &PoolShape, dy: &[f32], indices: &[u32], write: Write, dx: &mut [f32]) {
    let [oh, ow] = shape.check(dx.len(), dy.len());
    assert_eq!(indices.len(), dy.len(), "pooling: indices of {shape:?}");
    scatter(shape.planes, shape.input[0] * shape.input[1], oh * ow, dy, indices, write, dx);
}

fn scatter(
    planes: usize,
    n_in: usize,
    n_out: usize,
    dy: &[f32],
    indices: &[u32],
    write: Write,
    dx: &mut [f32],
) {
    let dx = Parts::new(dx);
    parallel_rows(planes, n_in, |planes| {
        for p in planes {
            // SAFETY: tasks take different planes.
            let dx = unsafe { dx.part(p * n_in, n_in) };
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            for (d, &at) in dy[p * n_out..][..n_out].iter().zip(&indices[p * n_out..][..n_out]) {
                dx[at as usize] += d;
            }
        }
    });
}

/// `y = mean of each window`, padding counted as zeros.
pub fn avg_pool_forward(shape: &PoolShape, x: &[f32], y: &mut [f32]) {
    let [oh, ow] = shape.check(x.len(), y.len());
    let (n_in, n_out, width) = (shape.input[0] * shape.input[1], oh * ow, shape.input[1]);
    let factor = 1.0 / (shape.kernel[0] * shape.kernel[1]) as f32;
    let y = Parts::new(y);
    parallel_rows(shape.planes, n_in, |planes| {
        for p in planes {
            let x = &x[p * n_in..][..n_in];
            // SAFETY: tasks take different planes.
            let y = unsafe { y.part(p * n_out, n_out) };
            for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
                let ((y0, y1), (x0, x1)) = (shape.window(0, row), shape.window(1, col));
                let sum: f32 = (y0..y1).map(|i| x[i * width + x0..i * width + x1].iter().sum::<f32>()).sum();
                y[row * ow + col] = sum * factor;
            }
        }
    });
}

/// `dx (+)= dy / window size` over each window.
pub fn avg_pool_backward(shape: &PoolShape, dy: &[f32], write: Write, dx: &mut [f32]) {
    let [oh, ow] = shape.check(dx.len(), dy.len());
    let (n_in, n_out, width) = (shape.input[0] * shape.input[1], oh * ow, shape.input[1]);
    let factor = 1.0 / (shape.kernel[0] * shape.kernel[1]) as f32;
    let dx = Parts::new(dx);
    parallel_rows(shape.planes, n_in, |planes| {
        for p in planes {
            // SAFETY: tasks take different planes.
            let dx = unsafe { dx.part(p * n_in, n_in) };
            if write == Write::Overwrite {
                dx.fill(0.0);
            }
            for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
                let ((y0, y1), (x0, x1)) = (shape.window(0, row), shape.window(1, col));
                let d = dy[p * n_out + row * ow + col] * factor;
                for i in y0..y1 {
                    dx[i * width + x0..i * width + x1].iter_mut().for_each(|dx| *dx += d);
                }
            }
        }
    });
}

/// `y[p] = mean of plane p`, planes of `n` numbers.
pub fn global_avg_forward(n: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len() * n, "global_avg: x and y do not agree");
    let (path, y) = (cpu::path(), Parts::new(y));
    parallel_rows(y.len(), n, |planes| {
        // SAFETY: tasks take different planes.
        let y = unsafe { y.part(planes.start, planes.len()) };
        let x = &x[planes.start * n..planes.end * n];
        on_path!(path, means(x: &[f32], n: usize, y: &mut [f32]));
    });
}

#[inline(always)]
unsafe fn means<S: Simd>(x: &[f32], n: usize, y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x.chunks_exact(n)) {
        // SAFETY: `on_path!` has the path.
        *y = unsafe { row::sum::<S>(x) } / n as f32;
    }
}

/// `dx[p, ·] (+)= dy[p] / n`.
pub fn global_avg_backward(n: usize, dy: &[f32], write: Write, dx: &mut [f32]) {
    assert_eq!(dx.len(), dy.len() * n, "global_avg: dx and dy do not agree");
    let (path, dx) = (cpu::path(), Parts::new(dx));
    parallel_rows(dy.len(), n, |planes| {
        // SAFETY: tasks take different planes.
        let dx = unsafe { dx.part(planes.start * n, planes.len() * n) };
        let dy = &dy[planes];
        on_path!(path, spread(dy: &[f32], n: usize, write: Write, dx: &mut [f32]));
    });
}

#[inline(always)]
unsafe fn spread<S: Simd>(dy: &[f32], n: usize, write: Write, dx: &mut [f32]) {
    for (d, dx) in dy.iter().zip(dx.chunks_exact_mut(n)) {
        // SAFETY: `on_path!` has the path; stores stay inside the plane.
        unsafe {
            let d = S::splat(d / n as f32);
            for i in (0..n).step_by(S::LANES) {
                let at = dx.as_mut_ptr().add(i);
                let value = if write == Write::Add { S::add(load::<S>(at, n - i), d) } else { d };
                store::<S>(at, value, n - i);
            }
        }
    }
}

/// `y[p] = max of plane p`; `indices` receives its place in the plane (the first of equals).
pub fn global_max_forward(n: usize, x: &[f32], y: &mut [f32], indices: Option<&mut [u32]>) {
    assert!(n > 0 && x.len() == y.len() * n, "global_max: x and y do not agree");
    let shape = PoolShape { planes: y.len(), input: [1, n], kernel: [1, n], stride: [1, 1], padding: [0, 0] };
    max_pool_forward(&shape, x, y, indices);
}

/// `dx[p, indices[p]] (+)= dy[p]`, zero elsewhere.
pub fn global_max_backward(n: usize, dy: &[f32], indices: &[u32], write: Write, dx: &mut [f32]) {
    assert!(dx.len() == dy.len() * n && indices.len() == dy.len(), "global_max: dx and dy do not agree");
    scatter(dy.len(), n, 1, dy, indices, write, dx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    fn shapes() -> Vec<PoolShape> {
        let make =
            |planes, input, kernel, stride, padding| PoolShape { planes, input, kernel, stride, padding };
        vec![
            make(6, [28, 28], [2, 2], [2, 2], [0, 0]),
            make(3, [7, 9], [2, 2], [2, 2], [0, 0]),
            make(2, [9, 11], [3, 2], [2, 1], [1, 1]),
            make(5, [1, 37], [1, 4], [1, 3], [0, 2]),
            make(1, [5, 5], [5, 5], [1, 1], [0, 0]),
            make(300, [3, 40], [3, 3], [1, 1], [1, 1]),
        ]
    }

    /// Runs `f(output, inputs of its window)` by the definition.
    fn windows(s: &PoolShape, mut f: impl FnMut(usize, &[usize])) {
        let [oh, ow] = s.output().unwrap();
        let [h, w] = s.input;
        for (p, row, col) in
            (0..s.planes).flat_map(|p| (0..oh).flat_map(move |r| (0..ow).map(move |c| (p, r, c))))
        {
            let mut inside = Vec::new();
            for (i, j) in (0..s.kernel[0]).flat_map(|i| (0..s.kernel[1]).map(move |j| (i, j))) {
                let y = (row * s.stride[0] + i).checked_sub(s.padding[0]);
                let x = (col * s.stride[1] + j).checked_sub(s.padding[1]);
                if let (Some(y), Some(x)) = (y, x)
                    && y < h
                    && x < w
                {
                    inside.push((p * h + y) * w + x);
                }
            }
            f((p * oh + row) * ow + col, &inside);
        }
    }

    #[test]
    fn windows_agree_with_their_definition_on_every_path() {
        for s in shapes() {
            let n_out = s.planes * s.output().unwrap().iter().product::<usize>();
            let x = numbers(s.planes * s.input[0] * s.input[1], 1);
            let dy = numbers(n_out, 2);
            let size = (s.kernel[0] * s.kernel[1]) as f64;
            let (mut max, mut avg) = (vec![0.0; n_out], vec![0.0; n_out]);
            let (mut dmax, mut davg) = (vec![0.0f64; x.len()], vec![0.0f64; x.len()]);
            windows(&s, |o, inside| {
                let best = inside.iter().copied().reduce(|a, b| if x[b] > x[a] { b } else { a }).unwrap();
                max[o] = x[best];
                avg[o] = inside.iter().map(|&i| x[i] as f64).sum::<f64>() / size;
                dmax[best] += dy[o] as f64;
                inside.iter().for_each(|&i| davg[i] += dy[o] as f64 / size);
            });
            each_path(|| {
                let (mut y, mut at) = (vec![0.0; n_out], vec![0; n_out]);
                let mut dx = vec![f32::NAN; x.len()];
                max_pool_forward(&s, &x, &mut y, None);
                assert_eq!(y, max, "{s:?}");
                y.fill(0.0);
                max_pool_forward(&s, &x, &mut y, Some(&mut at));
                assert_eq!(y, max, "{s:?}");
                max_pool_backward(&s, &dy, &at, Write::Overwrite, &mut dx);
                dx.iter().zip(&dmax).for_each(|(&got, &want)| close(got, want, 1e-6));
                max_pool_backward(&s, &dy, &at, Write::Add, &mut dx);
                dx.iter().zip(&dmax).for_each(|(&got, &want)| close(got, 2.0 * want, 1e-6));
                avg_pool_forward(&s, &x, &mut y);
                y.iter().zip(&avg).for_each(|(&got, &want)| close(got, want, 1e-6));
                avg_pool_backward(&s, &dy, Write::Overwrite, &mut dx);
                dx.iter().zip(&davg).for_each(|(&got, &want)| close(got, want, 1e-6));
                avg_pool_backward(&s, &dy, Write::Add, &mut dx);
                dx.iter().zip(&davg).for_each(|(&got, &want)| close(got, 2.0 * want, 1e-6));
            });
        }
    }

    #[test]
    fn whole_planes_agree_with_their_definition_on_every_path() {
        for (planes, n) in [(1, 1), (5, 49), (700, 33), (3, 1000)] {
            let (x, dy) = (numbers(planes * n, 1), numbers(planes, 2));
            each_path(|| {
                let (mut avg, mut max, mut at) = (vec![0.0; planes], vec![0.0; planes], vec![0; planes]);
                let (mut davg, mut dmax) = (vec![1.0; x.len()], vec![1.0; x.len()]);
                global_avg_forward(n, &x, &mut avg);
                global_max_forward(n, &x, &mut max, Some(&mut at));
                global_avg_backward(n, &dy, Write::Add, &mut davg);
                global_max_backward(n, &dy, &at, Write::Overwrite, &mut dmax);
                for p in 0..planes {
                    let plane = &x[p * n..][..n];
                    close(avg[p], plane.iter().map(|&x| x as f64).sum::<f64>() / n as f64, 1e-6);
                    assert_eq!(max[p], plane.iter().copied().reduce(f32::max).unwrap());
                    for i in 0..n {
                        close(davg[p * n + i], 1.0 + dy[p] as f64 / n as f64, 1e-6);
                        assert_eq!(dmax[p * n + i], if at[p] as usize == i { dy[p] } else { 0.0 });
                    }
                }
            });
        }
    }

    #[test]
    fn a_nan_is_the_maximum_of_its_window() {
        let s = PoolShape { planes: 1, input: [2, 4], kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
        let mut y = [0.0; 2];
        for place in [0, 1, 4, 5] {
            let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
            x[place] = f32::NAN;
            max_pool_forward(&s, &x, &mut y, None);
            assert!(y[0].is_nan() && y[1] == 8.0, "{place}: {y:?}");
            let mut at = [0; 2];
            max_pool_forward(&s, &x, &mut y, Some(&mut at));
            assert!(y[0].is_nan() && y[1] == 8.0, "{place}: {y:?}");
        }
    }
}
