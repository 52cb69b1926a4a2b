//! Softmax over rows, its logarithm, and cross-entropy fused with it.
//!
//! ```text
//! softmax(x)_j = exp(x_j - m) / Σ_k exp(x_k - m),   m = max_k x_k
//! log_softmax(x)_j = x_j - lse,                     lse = m + ln Σ_k exp(x_k - m)
//! cross_entropy(x, t) = lse - x_t
//! ```
//! All matrices are row-major `[rows, cols]` without gaps. Gradients overwrite or
//! are added to what is there, as [`Write`] says.

use crate::elementwise::Write;
use crate::row::{Parts, before, load, load_or, max, parallel_rows, store};
use crate::simd::{Simd, math, on_path};
use crate::{cpu, pool};

/// A target that says "this row has no label": its loss and gradient are zero (PyTorch's `ignore_index`).
pub const IGNORED: i32 = -100;

/// `out = softmax(x)` along rows of `cols`; `out` has the length of `x`.
pub fn softmax(x: &[f32], cols: usize, out: &mut [f32]) {
    rowwise(
        x,
        cols,
        out,
        |path, x, out| on_path!(path, softmax_rows(x: &[f32], cols: usize, out: &mut [f32])),
    );
}

/// `dx += y ∘ (dy - Σ_k dy_k y_k)`, where `y` is softmax's output.
pub fn softmax_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], write: Write) {
    let path = cpu::path();
    backward(
        y,
        dy,
        cols,
        dx,
        |y, dy, dx| on_path!(path, softmax_rows_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], write: Write)),
    );
}

/// `out = log softmax(x)` along rows of `cols`; `out` has the length of `x`.
pub fn log_softmax(x: &[f32], cols: usize, out: &mut [f32]) {
    rowwise(
        x,
        cols,
        out,
        |path, x, out| on_path!(path, log_softmax_rows(x: &[f32], cols: usize, out: &mut [f32])),
    );
}

/// `dx += dy - exp(y) Σ_k dy_k`, where `y` is log-softmax's output.
pub fn log_softmax_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], write: Write) {
    let path = cpu::path();
    backward(
        y,
        dy,
        cols,
        dx,
        |y, dy, dx| on_path!(path, log_softmax_rows_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], write: Write)),
    );
}

/// `losses[r] = lse[r] - logits[r, targets[r]]`, and `lse[r]` for the backward call; 0 for [`IGNORED`] rows.
///
/// # Panics
/// When a target is neither [`IGNORED`] nor in `0..cols`.
pub fn cross_entropy(logits: &[f32], cols: usize, targets: &[i32], losses: &mut [f32], lse: &mut [f32]) {
    let rows = check_targets(logits, cols, targets);
    assert_eq!((losses.len(), lse.len()), (rows, rows), "cross_entropy: losses, lse and targets");
    let path = cpu::path();
    let (losses, lse) = (Parts::new(losses), Parts::new(lse));
    parallel_rows(rows, cols, |range| {
        // SAFETY: row ranges of different tasks do not overlap.
        let (losses, lse) =
            unsafe { (losses.part(range.start, range.len()), lse.part(range.start, range.len())) };
        let x = &logits[range.start * cols..range.end * cols];
        let t = &targets[range];
        on_path!(path, cross_entropy_rows(x: &[f32], cols: usize, t: &[i32], losses: &mut [f32], lse: &mut [f32]));
    });
}

/// `dlogits[r] += scale · row_weights[r] · (softmax(logits[r]) - onehot(targets[r]))`, nothing for
/// [`IGNORED`] rows. `lse` is what [`cross_entropy`] saved; without weights every row weighs 1.
///
/// # Panics
/// When a target is neither [`IGNORED`] nor in `0..cols`.
pub fn cross_entropy_backward(
    logits: &[f32],
    cols: usize,
    targets: &[i32],
    lse: &[f32],
    scale: f32,
    row_weights: Option<&[f32]>,
    dlogits: &mut [f32],
    write: Write,
) {
    let rows = check_targets(logits, cols, targets);
    assert_eq!((lse.len(), dlogits.len()), (rows, logits.len()), "cross_entropy_backward: lse and dlogits");
    assert!(row_weights.is_none_or(|w| w.len() == rows), "cross_entropy_backward: row weights");
    let path = cpu::path();
    let dlogits = Parts::new(dlogits);
    parallel_rows(rows, cols, |range| {
        for r in range {
            // SAFETY: every row belongs to one task.
            let dx = unsafe { dlogits.part(r * cols, cols) };
            let t = targets[r];
            if t == IGNORED {
                if write == Write::Overwrite {
                    dx.fill(0.0);
                }
                continue;
            }
            let weight = scale * row_weights.map_or(1.0, |w| w[r]);
            let (x, lse) = (&logits[r * cols..(r + 1) * cols], lse[r]);
            on_path!(path, cross_entropy_row_backward(x: &[f32], t: i32, lse: f32, weight: f32, dx: &mut [f32], write: Write));
        }
    });
}

fn check_targets(logits: &[f32], cols: usize, targets: &[i32]) -> usize {
    assert_eq!(logits.len(), targets.len() * cols, "cross entropy: logits [{}, {cols}]", targets.len());
    let bad = targets.iter().position(|&t| t != IGNORED && !(0..cols as i64).contains(&(t as i64)));
    assert!(bad.is_none(), "cross entropy: target of row {bad:?} is not in 0..{cols}");
    targets.len()
}

fn rowwise(x: &[f32], cols: usize, out: &mut [f32], f: impl Fn(cpu::CpuPath, &[f32], &mut [f32]) + Sync) {
    assert_eq!(x.len(), out.len(), "softmax: lengths of input and output");
    assert!(cols > 0 && x.len().is_multiple_of(cols), "softmax: {} floats in rows of {cols}", x.len());
    let path = cpu::path();
    let out = Parts::new(out);
    parallel_rows(x.len() / cols, cols, |rows| {
        let (start, len) = (rows.start * cols, rows.len() * cols);
        // SAFETY: row ranges of different tasks do not overlap.
        f(path, &x[start..start + len], unsafe { out.part(start, len) });
    });
}

fn backward(
    y: &[f32],
    dy: &[f32],
    cols: usize,
    dx: &mut [f32],
    f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    assert_eq!((y.len(), dy.len()), (dx.len(), dx.len()), "softmax backward: lengths");
    assert!(
        cols > 0 && y.len().is_multiple_of(cols),
        "softmax backward: {} floats in rows of {cols}",
        y.len()
    );
    let chunk = (8192 / cols).max(1) * cols;
    pool::for_each_chunk(dx, chunk, |i, dx| {
        let (start, end) = (i * chunk, i * chunk + dx.len());
        f(&y[start..end], &dy[start..end], dx)
    });
}

/// Writes `exp(x - m)` and returns the sum of what it wrote.
#[inline(always)]
pub(crate) unsafe fn exp_row<S: Simd>(x: *const f32, n: usize, m: f32, out: *mut f32) -> f32 {
    // SAFETY: the caller has the path and gives `n` readable and writable floats.
    unsafe {
        let m = S::splat(m);
        let mut s = S::zero();
        let mut i = 0;
        while i < n {
            let e = math::exp::<S>(S::sub(load_or::<S>(x.add(i), n - i, f32::NEG_INFINITY), m));
            store::<S>(out.add(i), e, n - i);
            s = S::add(s, e);
            i += S::LANES;
        }
        S::reduce_add(s)
    }
}

#[inline(always)]
unsafe fn softmax_rows<S: Simd>(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        // SAFETY: `on_path!` has the path; both rows have `cols` floats.
        unsafe {
            let m = max::<S>(x);
            let inverse = S::splat(1.0 / exp_row::<S>(x.as_ptr(), cols, m, out.as_mut_ptr()));
            let mut i = 0;
            while i < cols {
                let p = out.as_mut_ptr().add(i);
                store::<S>(p, S::mul(load::<S>(p, cols - i), inverse), cols - i);
                i += S::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn softmax_rows_backward<S: Simd>(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], write: Write) {
    for ((y, dy), dx) in y.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
        // SAFETY: `on_path!` has the path; the three rows have `cols` floats.
        unsafe {
            let mut s = S::zero();
            let mut i = 0;
            while i < cols {
                let n = cols - i;
                s = S::fma(load::<S>(y.as_ptr().add(i), n), load::<S>(dy.as_ptr().add(i), n), s);
                i += S::LANES;
            }
            let s = S::splat(S::reduce_add(s));
            i = 0;
            while i < cols {
                let (n, p) = (cols - i, dx.as_mut_ptr().add(i));
                let d = S::sub(load::<S>(dy.as_ptr().add(i), n), s);
                store::<S>(p, S::fma(load::<S>(y.as_ptr().add(i), n), d, before::<S>(p, n, write)), n);
                i += S::LANES;
            }
        }
    }
}

/// `ln Σ exp` of a row.
#[inline(always)]
unsafe fn log_sum_exp<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: the caller has the path; loads stay inside the row.
    unsafe {
        let m = max::<S>(x);
        let top = S::splat(m);
        let mut s = S::zero();
        let mut i = 0;
        while i < x.len() {
            let v = load_or::<S>(x.as_ptr().add(i), x.len() - i, f32::NEG_INFINITY);
            s = S::add(s, math::exp::<S>(S::sub(v, top)));
            i += S::LANES;
        }
        m + S::reduce_add(s).ln()
    }
}

#[inline(always)]
unsafe fn log_softmax_rows<S: Simd>(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        // SAFETY: `on_path!` has the path.
        let lse = unsafe { log_sum_exp::<S>(x) };
        out.iter_mut().zip(x).for_each(|(y, x)| *y = x - lse);
    }
}

#[inline(always)]
unsafe fn log_softmax_rows_backward<S: Simd>(
    y: &[f32],
    dy: &[f32],
    cols: usize,
    dx: &mut [f32],
    write: Write,
) {
    for ((y, dy), dx) in y.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
        // SAFETY: `on_path!` has the path; the three rows have `cols` floats.
        unsafe {
            let s = S::splat(-crate::row::sum::<S>(dy));
            let mut i = 0;
            while i < cols {
                let (n, p) = (cols - i, dx.as_mut_ptr().add(i));
                let probability = math::exp::<S>(load::<S>(y.as_ptr().add(i), n));
                let d = S::fma(probability, s, load::<S>(dy.as_ptr().add(i), n));
                store::<S>(p, S::add(before::<S>(p, n, write), d), n);
                i += S::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn cross_entropy_rows<S: Simd>(
    x: &[f32],
    cols: usize,
    t: &[i32],
    losses: &mut [f32],
    lse: &mut [f32],
) {
    for (r, x) in x.chunks_exact(cols).enumerate() {
        if t[r] == IGNORED {
            (losses[r], lse[r]) = (0.0, 0.0);
            continue;
        }
        // SAFETY: `on_path!` has the path.
        lse[r] = unsafe { log_sum_exp::<S>(x) };
        losses[r] = lse[r] - x[t[r] as usize];
    }
}

#[inline(always)]
unsafe fn cross_entropy_row_backward<S: Simd>(
    x: &[f32],
    t: i32,
    lse: f32,
    weight: f32,
    dx: &mut [f32],
    write: Write,
) {
    // SAFETY: `on_path!` has the path; both rows have the same length.
    unsafe {
        let (lse, w) = (S::splat(lse), S::splat(weight));
        let mut i = 0;
        while i < x.len() {
            let (n, p) = (x.len() - i, dx.as_mut_ptr().add(i));
            let probability = math::exp::<S>(S::sub(load::<S>(x.as_ptr().add(i), n), lse));
            store::<S>(p, S::fma(probability, w, before::<S>(p, n, write)), n);
            i += S::LANES;
        }
    }
    dx[t as usize] -= weight;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    fn twin(x: &[f32]) -> (Vec<f64>, f64) {
        let m = x.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v as f64));
        let s: f64 = x.iter().map(|&v| (v as f64 - m).exp()).sum();
        (x.iter().map(|&v| (v as f64 - m).exp() / s).collect(), m + s.ln())
    }

    #[test]
    fn softmax_and_its_logarithm_agree_with_f64() {
        each_path(|| {
            for (rows, cols) in [(1, 1), (3, 7), (5, 8), (2, 33), (40, 301), (1, 4099)] {
                let x: Vec<f32> = numbers(rows * cols, 1).iter().map(|v| v * 6.0).collect();
                let dy = numbers(rows * cols, 2);
                let (mut y, mut ly) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                let (mut dx, mut ldx) = (vec![1.0; x.len()], vec![1.0; x.len()]);
                softmax(&x, cols, &mut y);
                softmax_backward(&y, &dy, cols, &mut dx, Write::Add);
                log_softmax(&x, cols, &mut ly);
                log_softmax_backward(&ly, &dy, cols, &mut ldx, Write::Add);
                let mut replaced = vec![f32::NAN; x.len()];
                log_softmax_backward(&ly, &dy, cols, &mut replaced, Write::Overwrite);
                (0..x.len()).for_each(|i| close(replaced[i] + 1.0, ldx[i] as f64, 1e-5));
                softmax_backward(&y, &dy, cols, &mut replaced, Write::Overwrite);
                (0..x.len()).for_each(|i| close(replaced[i] + 1.0, dx[i] as f64, 1e-5));
                for r in 0..rows {
                    let (p, lse) = twin(&x[r * cols..][..cols]);
                    let dy: Vec<f64> = dy[r * cols..][..cols].iter().map(|&v| v as f64).collect();
                    let dot: f64 = p.iter().zip(&dy).map(|(p, d)| p * d).sum();
                    let total: f64 = dy.iter().sum();
                    for j in 0..cols {
                        let i = r * cols + j;
                        close(y[i], p[j], 2e-6);
                        close(ly[i], x[i] as f64 - lse, 5e-6);
                        close(dx[i], 1.0 + p[j] * (dy[j] - dot), 5e-6);
                        close(ldx[i], 1.0 + dy[j] - p[j] * total, 3e-5);
                    }
                }
            }
        });
    }

    #[test]
    fn cross_entropy_skips_ignored_rows_and_weighs_the_others() {
        each_path(|| {
            for (rows, cols) in [(4, 1), (5, 10), (64, 65), (3, 1000)] {
                let x: Vec<f32> = numbers(rows * cols, 3).iter().map(|v| v * 4.0).collect();
                let weights = numbers(rows, 4);
                let targets: Vec<i32> =
                    (0..rows).map(|r| if r % 4 == 1 { IGNORED } else { (r * 7 % cols) as i32 }).collect();
                let (mut losses, mut lse) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
                let mut dx = vec![0.5; x.len()];
                cross_entropy(&x, cols, &targets, &mut losses, &mut lse);
                cross_entropy_backward(&x, cols, &targets, &lse, 0.25, Some(&weights), &mut dx, Write::Add);
                let mut replaced = vec![f32::NAN; x.len()];
                cross_entropy_backward(
                    &x,
                    cols,
                    &targets,
                    &lse,
                    0.25,
                    Some(&weights),
                    &mut replaced,
                    Write::Overwrite,
                );
                (0..x.len()).for_each(|i| close(replaced[i] + 0.5, dx[i] as f64, 1e-5));
                for r in 0..rows {
                    let (p, want) = twin(&x[r * cols..][..cols]);
                    let ignored = targets[r] == IGNORED;
                    let loss = if ignored { 0.0 } else { want - x[r * cols + targets[r] as usize] as f64 };
                    close(losses[r], loss, 5e-6);
                    for j in 0..cols {
                        let onehot = if j as i32 == targets[r] { 1.0 } else { 0.0 };
                        let d = if ignored { 0.0 } else { 0.25 * weights[r] as f64 * (p[j] - onehot) };
                        close(dx[r * cols + j], 0.5 + d, 2e-6);
                    }
                }
            }
        });
    }

    #[test]
    fn large_logits_do_not_overflow_and_nan_is_not_hidden() {
        each_path(|| {
            let mut y = [0.0; 3];
            softmax(&[1e4, 1e4, -1e4], 3, &mut y);
            assert_eq!(y, [0.5, 0.5, 0.0]);
            softmax(&[0.0, f32::NAN, 1.0], 3, &mut y);
            assert!(y.iter().all(|v| v.is_nan()));
        });
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_others() {
        each_path(|| {
            let (rows, cols) = (301, 77);
            let x = numbers(rows * cols, 5);
            let mut all = vec![0.0; x.len()];
            softmax(&x, cols, &mut all);
            for r in [0, 17, 300] {
                let mut one = vec![0.0; cols];
                softmax(&x[r * cols..][..cols], cols, &mut one);
                assert_eq!(one, all[r * cols..][..cols]);
            }
        });
    }

    #[test]
    #[should_panic(expected = "is not in 0..4")]
    fn a_target_out_of_range_is_refused() {
        cross_entropy(&[0.0; 8], 4, &[0, 4], &mut [0.0; 2], &mut [0.0; 2]);
    }
}
