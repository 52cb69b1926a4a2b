//! Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019) over rows.
//!
//! ```text
//! x̂ = (x - mean) · rstd,   rstd = 1 / √(var + ε)         layer norm: y = x̂ ∘ w + b
//! x̂ = x · rstd,            rstd = 1 / √(mean(x²) + ε)    RMS norm:   y = x̂ ∘ w
//! ```
//! Matrices are row-major `[rows, cols]`; gradients overwrite or are added to what is there, as
//! [`Write`] says. Weight gradients are summed over rows in their order, each task owning columns, so that
//! threads never change a bit.

use crate::elementwise::Write;
use crate::pool::parallel_for;
use crate::row::{Parts, before, load, load_or, parallel_rows, store, sum};
use crate::simd::{Simd, on_path};
use crate::{cpu, pool};

/// `y = (x - mean) · rstd ∘ weight + bias`; saves `mean` and `rstd` (one per row) for the backward calls.
pub fn layer_norm(
    x: &[f32],
    cols: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let rows = check(x.len(), cols, weight, bias);
    assert_eq!((y.len(), mean.len(), rstd.len()), (x.len(), rows, rows), "layer_norm: outputs");
    let path = cpu::path();
    let (y, mean, rstd) = (Parts::new(y), Parts::new(mean), Parts::new(rstd));
    parallel_rows(rows, cols, |range| {
        for r in range {
            let x = &x[r * cols..(r + 1) * cols];
            // SAFETY: every row belongs to one task.
            let (y, m, s) = unsafe { (y.part(r * cols, cols), mean.part(r, 1), rstd.part(r, 1)) };
            (m[0], s[0]) = on_path!(path, layer_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, y: &mut [f32]) -> (f32, f32));
        }
    });
}

/// `y = x · rstd ∘ weight`; saves `rstd` (one per row) for the backward calls.
pub fn rms_norm(x: &[f32], cols: usize, weight: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let rows = check(x.len(), cols, weight, None);
    assert_eq!((y.len(), rstd.len()), (x.len(), rows), "rms_norm: outputs");
    let path = cpu::path();
    let (y, rstd) = (Parts::new(y), Parts::new(rstd));
    parallel_rows(rows, cols, |range| {
        for r in range {
            let x = &x[r * cols..(r + 1) * cols];
            // SAFETY: every row belongs to one task.
            let (y, s) = unsafe { (y.part(r * cols, cols), rstd.part(r, 1)) };
            s[0] = on_path!(path, rms_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32);
        }
    });
}

/// [`rms_norm`] of rows that become their own result; nothing is saved.
pub fn rms_norm_in_place(x: &mut [f32], cols: usize, weight: &[f32], eps: f32) {
    let rows = check(x.len(), cols, weight, None);
    let (path, x) = (cpu::path(), Parts::new(x));
    parallel_rows(rows, cols, |range| {
        for r in range {
            // SAFETY: every row belongs to one task.
            let x = unsafe { x.part(r * cols, cols) };
            on_path!(path, rms_row_in_place(x: &mut [f32], weight: &[f32], eps: f32));
        }
    });
}

/// What the forward call saved about `x`: with `mean` it was layer norm, without it RMS norm.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    pub mean: Option<&'a [f32]>,
    pub rstd: &'a [f32],
}

/// `dx = rstd · (g - mean(g) - x̂ · mean(g ∘ x̂))` with `g = dy ∘ weight`; RMS norm has no `mean(g)` term.
pub fn norm_backward(normed: Normed<'_>, weight: &[f32], dy: &[f32], dx: &mut [f32], write: Write) {
    let Normed { x, cols, mean, rstd } = normed;
    let rows = check(x.len(), cols, weight, None);
    assert_eq!((dy.len(), dx.len(), rstd.len()), (x.len(), x.len(), rows), "norm backward: lengths");
    assert!(mean.is_none_or(|m| m.len() == rows), "norm backward: means");
    let path = cpu::path();
    let chunk = (8192 / cols).max(1) * cols;
    pool::for_each_chunk(dx, chunk, |i, dx| {
        for (r, dx) in (i * chunk / cols..).zip(dx.chunks_exact_mut(cols)) {
            let (x, dy) = (&x[r * cols..(r + 1) * cols], &dy[r * cols..(r + 1) * cols]);
            let (mean, rstd) = (mean.map(|m| m[r]), rstd[r]);
            on_path!(path, row_backward(x: &[f32], mean: Option<f32>, rstd: f32, weight: &[f32], dy: &[f32], dx: &mut [f32], write: Write));
        }
    });
}

/// `dweight = Σ_r row_weights[r] · dy[r] ∘ x̂[r]` and `dbias = Σ_r row_weights[r] · dy[r]`. Without row
/// weights every row weighs 1.
pub fn norm_backward_weights(
    normed: Normed<'_>,
    dy: &[f32],
    row_weights: Option<&[f32]>,
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
    write: Write,
) {
    let Normed { x, cols, mean, rstd } = normed;
    let rows = check(x.len(), cols, dweight, dbias.as_deref());
    assert_eq!((dy.len(), rstd.len()), (x.len(), rows), "norm backward weights: lengths");
    assert!(mean.is_none_or(|m| m.len() == rows), "norm backward weights: means");
    assert!(row_weights.is_none_or(|w| w.len() == rows), "norm backward weights: row weights");
    let path = cpu::path();
    let dweight = Parts::new(dweight);
    let dbias = dbias.map(Parts::new);
    const COLS: usize = 32;
    parallel_for(cols.div_ceil(COLS), |task| {
        let (c, n) = (task * COLS, COLS.min(cols - task * COLS));
        // SAFETY: these columns belong to this task.
        let (dw, db) = unsafe { (dweight.part(c, n), dbias.as_ref().map(|b| b.part(c, n))) };
        on_path!(path, columns_backward(normed: Normed<'_>, dy: &[f32], row_weights: Option<&[f32]>, c: usize, dw: &mut [f32], db: Option<&mut [f32]>, write: Write));
    });
}

fn check(len: usize, cols: usize, weight: &[f32], bias: Option<&[f32]>) -> usize {
    assert!(cols > 0 && len.is_multiple_of(cols), "norm: {len} floats in rows of {cols}");
    assert_eq!(weight.len(), cols, "norm: weight");
    assert!(bias.is_none_or(|b| b.len() == cols), "norm: bias");
    len / cols
}

/// `Σ (x - mean)²`.
#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: &[f32], mean: f32) -> f32 {
    // SAFETY: the caller has the path; loads stay inside the row.
    unsafe {
        let m = S::splat(mean);
        let mut s = [S::zero(); 4];
        let (mut i, n, p) = (0, x.len(), x.as_ptr());
        while i + 4 * S::LANES <= n {
            for (j, s) in s.iter_mut().enumerate() {
                let d = S::sub(S::load(p.add(i + j * S::LANES)), m);
                *s = S::fma(d, d, *s);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let d = S::sub(load_or::<S>(p.add(i), n - i, mean), m);
            s[0] = S::fma(d, d, s[0]);
            i += S::LANES;
        }
        S::reduce_add(S::add(S::add(s[0], s[1]), S::add(s[2], s[3])))
    }
}

#[inline(always)]
unsafe fn layer_row<S: Simd>(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
) -> (f32, f32) {
    // SAFETY: `on_path!` has the path; all rows have the length of `x`.
    unsafe {
        let cols = x.len();
        let mean = sum::<S>(x) / cols as f32;
        let rstd = 1.0 / (sum_of_squares::<S>(x, mean) / cols as f32 + eps).sqrt();
        let (m, s) = (S::splat(mean), S::splat(rstd));
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            let hat = S::mul(S::sub(load::<S>(x.as_ptr().add(i), n), m), s);
            let w = load::<S>(weight.as_ptr().add(i), n);
            let v = match bias {
                Some(b) => S::fma(hat, w, load::<S>(b.as_ptr().add(i), n)),
                None => S::mul(hat, w),
            };
            store::<S>(y.as_mut_ptr().add(i), v, n);
            i += S::LANES;
        }
        (mean, rstd)
    }
}

#[inline(always)]
unsafe fn rms_row<S: Simd>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    // SAFETY: `on_path!` has the path; all rows have the length of `x`.
    unsafe { rms::<S>(x.as_ptr(), weight, eps, y.as_mut_ptr()) }
}

#[inline(always)]
unsafe fn rms_row_in_place<S: Simd>(x: &mut [f32], weight: &[f32], eps: f32) {
    let p = x.as_mut_ptr();
    // SAFETY: as above; a row may be its own result.
    unsafe { rms::<S>(p, weight, eps, p) };
}

/// A row of the weight's length from `x` to `y`, which may be one; `rstd`.
#[inline(always)]
unsafe fn rms<S: Simd>(x: *const f32, weight: &[f32], eps: f32, y: *mut f32) -> f32 {
    // SAFETY: the caller's: both are good for the row, and it has the path.
    unsafe {
        let cols = weight.len();
        let squares = sum_of_squares::<S>(std::slice::from_raw_parts(x, cols), 0.0);
        let rstd = 1.0 / (squares / cols as f32 + eps).sqrt();
        let s = S::splat(rstd);
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            let hat = S::mul(load::<S>(x.add(i), n), s);
            store::<S>(y.add(i), S::mul(hat, load::<S>(weight.as_ptr().add(i), n)), n);
            i += S::LANES;
        }
        rstd
    }
}

#[inline(always)]
unsafe fn row_backward<S: Simd>(
    x: &[f32],
    mean: Option<f32>,
    rstd: f32,
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    write: Write,
) {
    // SAFETY: `on_path!` has the path; all rows have the length of `x`.
    unsafe {
        let (cols, m, s) = (x.len(), S::splat(mean.unwrap_or(0.0)), S::splat(rstd));
        let (mut g_sum, mut gx_sum) = (S::zero(), S::zero());
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            // `g` is zero after the end, whatever `x̂` is there.
            let g = S::mul(load::<S>(dy.as_ptr().add(i), n), load::<S>(weight.as_ptr().add(i), n));
            let hat = S::mul(S::sub(load::<S>(x.as_ptr().add(i), n), m), s);
            g_sum = S::add(g_sum, g);
            gx_sum = S::fma(g, hat, gx_sum);
            i += S::LANES;
        }
        let g_mean = if mean.is_some() { S::reduce_add(g_sum) / cols as f32 } else { 0.0 };
        let (g_mean, gx_mean) = (S::splat(g_mean), S::splat(S::reduce_add(gx_sum) / cols as f32));
        i = 0;
        while i < cols {
            let (n, p) = (cols - i, dx.as_mut_ptr().add(i));
            let g = S::mul(load::<S>(dy.as_ptr().add(i), n), load::<S>(weight.as_ptr().add(i), n));
            let hat = S::mul(S::sub(load::<S>(x.as_ptr().add(i), n), m), s);
            let d = S::sub(S::sub(g, g_mean), S::mul(hat, gx_mean));
            store::<S>(p, S::fma(d, s, before::<S>(p, n, write)), n);
            i += S::LANES;
        }
    }
}

/// The gradients of columns `c..c + dw.len()`, one vector of columns at a time.
#[inline(always)]
unsafe fn columns_backward<S: Simd>(
    normed: Normed<'_>,
    dy: &[f32],
    row_weights: Option<&[f32]>,
    c: usize,
    dw: &mut [f32],
    mut db: Option<&mut [f32]>,
    write: Write,
) {
    let Normed { x, cols, mean, rstd } = normed;
    // SAFETY: `on_path!` has the path; columns `c + i..` of every row are inside `x` and `dy`.
    unsafe {
        let mut i = 0;
        while i < dw.len() {
            let n = dw.len() - i;
            let (mut w_sum, mut b_sum) = (S::zero(), S::zero());
            for r in 0..rstd.len() {
                let at = r * cols + c + i;
                let m = S::splat(mean.map_or(0.0, |m| m[r]));
                let hat = S::mul(S::sub(load::<S>(x.as_ptr().add(at), n), m), S::splat(rstd[r]));
                let mut d = load::<S>(dy.as_ptr().add(at), n);
                if let Some(w) = row_weights {
                    d = S::mul(d, S::splat(w[r]));
                }
                w_sum = S::fma(d, hat, w_sum);
                b_sum = S::add(b_sum, d);
            }
            let p = dw.as_mut_ptr().add(i);
            store::<S>(p, S::add(before::<S>(p, n, write), w_sum), n);
            if let Some(db) = db.as_deref_mut() {
                let p = db.as_mut_ptr().add(i);
                store::<S>(p, S::add(before::<S>(p, n, write), b_sum), n);
            }
            i += S::LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    /// `(y, dx, dw, db)` in f64.
    fn twin(
        x: &[f32],
        cols: usize,
        w: &[f32],
        b: &[f32],
        dy: &[f32],
        row_weights: &[f32],
        center: bool,
    ) -> [Vec<f64>; 4] {
        let mut out = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; cols], vec![0.0; cols]];
        for r in 0..x.len() / cols {
            let x: Vec<f64> = x[r * cols..][..cols].iter().map(|&v| v as f64).collect();
            let n = cols as f64;
            let mean = if center { x.iter().sum::<f64>() / n } else { 0.0 };
            let rstd = 1.0 / (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
            let hat: Vec<f64> = x.iter().map(|v| (v - mean) * rstd).collect();
            let g: Vec<f64> = (0..cols).map(|c| dy[r * cols + c] as f64 * w[c] as f64).collect();
            let g_mean = if center { g.iter().sum::<f64>() / n } else { 0.0 };
            let gx_mean = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n;
            for c in 0..cols {
                let i = r * cols + c;
                out[0][i] = hat[c] * w[c] as f64 + b[c] as f64;
                out[1][i] = rstd * (g[c] - g_mean - hat[c] * gx_mean);
                out[2][c] += row_weights[r] as f64 * dy[i] as f64 * hat[c];
                out[3][c] += row_weights[r] as f64 * dy[i] as f64;
            }
        }
        out
    }

    #[test]
    fn both_norms_and_their_gradients_agree_with_f64() {
        each_path(|| {
            for (rows, cols) in [(1, 1), (3, 5), (9, 32), (70, 131), (300, 48)] {
                let (x, w, b) = (numbers(rows * cols, 1), numbers(cols, 2), numbers(cols, 3));
                let (dy, rw) = (numbers(rows * cols, 4), numbers(rows, 5));
                for center in [true, false] {
                    let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
                    let b = if center { b.clone() } else { vec![0.0; cols] };
                    if center {
                        layer_norm(&x, cols, &w, Some(&b), 1e-5, &mut y, &mut mean, &mut rstd);
                    } else {
                        rms_norm(&x, cols, &w, 1e-5, &mut y, &mut rstd);
                    }
                    let normed =
                        Normed { x: &x, cols, mean: if center { Some(&mean) } else { None }, rstd: &rstd };
                    let (mut dx, mut dw, mut db) = (vec![1.0; x.len()], vec![1.0; cols], vec![1.0; cols]);
                    norm_backward(normed, &w, &dy, &mut dx, Write::Add);
                    norm_backward_weights(normed, &dy, Some(&rw), &mut dw, Some(&mut db), Write::Add);
                    let (mut rx, mut rw2) = (vec![f32::NAN; x.len()], vec![f32::NAN; cols]);
                    norm_backward(normed, &w, &dy, &mut rx, Write::Overwrite);
                    norm_backward_weights(normed, &dy, Some(&rw), &mut rw2, None, Write::Overwrite);
                    (0..x.len()).for_each(|i| close(rx[i] + 1.0, dx[i] as f64, 1e-5));
                    (0..cols).for_each(|c| close(rw2[c] + 1.0, dw[c] as f64, 1e-5));
                    let want = twin(&x, cols, &w, &b, &dy, &rw, center);
                    // A single centred column has variance 0: its rstd of 316 magnifies rounding.
                    let tolerance = if cols == 1 { 1e-3 } else { 2e-5 };
                    (0..x.len()).for_each(|i| close(y[i], want[0][i], tolerance));
                    (0..x.len()).for_each(|i| close(dx[i], 1.0 + want[1][i], tolerance));
                    (0..cols).for_each(|c| close(dw[c], 1.0 + want[2][c], 2e-5));
                    (0..cols).for_each(|c| close(db[c], 1.0 + want[3][c], 2e-5));
                }
            }
        });
    }

    #[test]
    fn without_a_bias_or_weights_they_count_as_zero_and_one() {
        each_path(|| {
            let (x, w, dy) = (numbers(7 * 20, 1), numbers(20, 2), numbers(7 * 20, 3));
            let forward = |bias: Option<&[f32]>| {
                let (mut y, mut m, mut s) = (vec![0.0; 140], vec![0.0; 7], vec![0.0; 7]);
                layer_norm(&x, 20, &w, bias, 1e-5, &mut y, &mut m, &mut s);
                (y, m, s)
            };
            let (y, mean, rstd) = forward(None);
            assert_eq!(y, forward(Some(&[0.0; 20])).0);
            let weights = |row_weights: Option<&[f32]>| {
                let normed = Normed { x: &x, cols: 20, mean: Some(&mean), rstd: &rstd };
                let mut dw = vec![0.0; 20];
                norm_backward_weights(normed, &dy, row_weights, &mut dw, None, Write::Add);
                dw
            };
            assert_eq!(weights(None), weights(Some(&[1.0; 7])));
        });
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_among_others() {
        each_path(|| {
            let (x, w) = (numbers(50 * 301, 1), numbers(301, 2));
            let run = |x: &[f32]| {
                let rows = x.len() / 301;
                let (mut y, mut m, mut s) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
                layer_norm(x, 301, &w, None, 1e-5, &mut y, &mut m, &mut s);
                y
            };
            let all = run(&x);
            assert_eq!(run(&x[17 * 301..][..301]), all[17 * 301..][..301]);
        });
    }
}
