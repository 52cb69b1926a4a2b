//! Element-by-element arithmetic and sums. Sums have one fixed order, whatever the number of threads.

use crate::simd::lanewise::{Lanewise, apply};
use crate::simd::{Simd, on_path};
use crate::{cpu, pool, scratch};

/// Whether a kernel replaces what its output holds or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Overwrite,
    Add,
}

/// Declares a formula: its constants, its inputs and its value.
macro_rules! formula {
    ($name:ident ($($c:ident),*), [$($x:ident),*] => $value:expr) => {
        struct $name { $($c: f32),* }
        impl Lanewise<{ [$(stringify!($x)),*].len() }, 1> for $name {
            #[inline(always)]
            unsafe fn lanes<S: Simd>(&self, [$($x),*]: [S::V; [$(stringify!($x)),*].len()]) -> [S::V; 1] {
                // SAFETY: the caller has the path.
                unsafe { $(let $c = S::splat(self.$c);)* [$value] }
            }
        }
    };
}

formula!(Add(), [a, b] => S::add(a, b));
formula!(Sub(), [a, b] => S::sub(a, b));
formula!(Mul(), [a, b] => S::mul(a, b));
formula!(MulAdd(), [d, a, b] => S::fma(a, b, d));
formula!(Scale(s), [a] => S::mul(a, s));
formula!(Axpy(s), [d, x] => S::fma(x, s, d));

/// `dst += src`.
pub fn add_into(dst: &mut [f32], src: &[f32]) {
    assert_eq!(dst.len(), src.len(), "add_into: lengths do not agree");
    let d = dst.as_mut_ptr();
    // SAFETY: equal lengths; the destination is its own source.
    unsafe { apply(&Add {}, [d.cast_const(), src.as_ptr()], [d], dst.len()) }
}

/// `out = a + b`.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    binary(&Add {}, a, b, out);
}

/// `out = a - b`.
pub fn sub(a: &[f32], b: &[f32], out: &mut [f32]) {
    binary(&Sub {}, a, b, out);
}

/// `out = a * b`.
pub fn mul(a: &[f32], b: &[f32], out: &mut [f32]) {
    binary(&Mul {}, a, b, out);
}

/// `dst += a * b`, with one rounding where the processor fuses them.
pub fn mul_add_into(dst: &mut [f32], a: &[f32], b: &[f32]) {
    assert!(dst.len() == a.len() && dst.len() == b.len(), "mul_add_into: lengths do not agree");
    let d = dst.as_mut_ptr();
    // SAFETY: equal lengths; the destination is its own source.
    unsafe { apply(&MulAdd {}, [d.cast_const(), a.as_ptr(), b.as_ptr()], [d], dst.len()) }
}

/// `x *= s`.
pub fn scale(x: &mut [f32], s: f32) {
    let p = x.as_mut_ptr();
    // SAFETY: the destination is its own source.
    unsafe { apply(&Scale { s }, [p.cast_const()], [p], x.len()) }
}

/// `dst += s * src`.
pub fn axpy(dst: &mut [f32], s: f32, src: &[f32]) {
    assert_eq!(dst.len(), src.len(), "axpy: lengths do not agree");
    let d = dst.as_mut_ptr();
    // SAFETY: equal lengths; the destination is its own source.
    unsafe { apply(&Axpy { s }, [d.cast_const(), src.as_ptr()], [d], dst.len()) }
}

fn binary(op: &impl Lanewise<2, 1>, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(out.len() == a.len() && out.len() == b.len(), "elementwise: lengths do not agree");
    // SAFETY: equal lengths; the borrow checker keeps `out` apart.
    unsafe { apply(op, [a.as_ptr(), b.as_ptr()], [out.as_mut_ptr()], out.len()) }
}

/// Row `i` of `x[rows, cols]` times `s[i]`.
pub fn scale_rows(x: &mut [f32], cols: usize, s: &[f32]) {
    assert_eq!(x.len(), s.len() * cols, "scale_rows: [{}, {cols}] in {} numbers", s.len(), x.len());
    if cols == 0 {
        return;
    }
    let path = cpu::path();
    let rows_per_task = (SUM_CHUNK * 4 / cols).max(1);
    pool::for_each_chunk(x, rows_per_task * cols, |i, piece| {
        for (row, &s) in piece.chunks_exact_mut(cols).zip(&s[i * rows_per_task..]) {
            let p = row.as_mut_ptr();
            // SAFETY: the destination is its own source; `cpu::path` is a path of this processor.
            unsafe { crate::simd::lanewise::apply_here(path, &Scale { s }, [p.cast_const()], [p], cols) }
        }
    });
}

/// Elements summed by one task: partial sums are added in the order of the chunks.
const SUM_CHUNK: usize = 8 * 1024;

/// `Σ x`.
pub fn sum(x: &[f32]) -> f32 {
    let path = cpu::path();
    sum_chunks(x.len(), |start, n| {
        let x = &x[start..start + n];
        f64::from(on_path!(path, sum_body(x: &[f32]) -> f32))
    }) as f32
}

/// `Σ a b`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: lengths do not agree");
    let path = cpu::path();
    sum_chunks(a.len(), |start, n| {
        let (a, b) = (&a[start..start + n], &b[start..start + n]);
        f64::from(on_path!(path, dot_body(a: &[f32], b: &[f32]) -> f32))
    }) as f32
}

/// `Σ x²`, squared and added in f64: the square of a global norm.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let path = cpu::path();
    sum_chunks(x.len(), |start, n| {
        let x = &x[start..start + n];
        on_path!(path, squares_body(x: &[f32]) -> f64)
    })
}

/// Sums `part(start, len)` over chunks of [`SUM_CHUNK`], in their order.
fn sum_chunks(len: usize, part: impl Fn(usize, usize) -> f64 + Sync) -> f64 {
    if len <= 4 * SUM_CHUNK {
        return (0..len).step_by(SUM_CHUNK).map(|start| part(start, SUM_CHUNK.min(len - start))).sum();
    }
    scratch::with_f64(len.div_ceil(SUM_CHUNK), |parts| {
        pool::for_each_chunk(parts, 1, |i, out| {
            out[0] = part(i * SUM_CHUNK, SUM_CHUNK.min(len - i * SUM_CHUNK))
        });
        parts.iter().sum()
    })
}

/// Independent sums that hide the latency of an addition.
const CHAINS: usize = 4;

#[inline(always)]
unsafe fn sum_body<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: the caller has the path; indices stay inside the slice.
    unsafe {
        let mut sums = [S::zero(); CHAINS];
        let (p, n) = (x.as_ptr(), x.len());
        let mut i = 0;
        while i + CHAINS * S::LANES <= n {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::load(p.add(i + c * S::LANES)));
            }
            i += CHAINS * S::LANES;
        }
        while i < n {
            let part = if n - i >= S::LANES { S::load(p.add(i)) } else { S::load_part(p.add(i), n - i) };
            sums[0] = S::add(sums[0], part);
            i += S::LANES;
        }
        S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

#[inline(always)]
unsafe fn dot_body<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller has the path; the lengths agree and indices stay inside the slices.
    unsafe {
        let mut sums = [S::zero(); CHAINS];
        let (p, q, n) = (a.as_ptr(), b.as_ptr(), a.len());
        let mut i = 0;
        while i + CHAINS * S::LANES <= n {
            for (c, sum) in sums.iter_mut().enumerate() {
                let at = i + c * S::LANES;
                *sum = S::fma(S::load(p.add(at)), S::load(q.add(at)), *sum);
            }
            i += CHAINS * S::LANES;
        }
        while i < n {
            let (x, y) = if n - i >= S::LANES {
                (S::load(p.add(i)), S::load(q.add(i)))
            } else {
                (S::load_part(p.add(i), n - i), S::load_part(q.add(i), n - i))
            };
            sums[0] = S::fma(x, y, sums[0]);
            i += S::LANES;
        }
        S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

/// The compiler turns the eight sums into lanes of f64.
#[inline(always)]
unsafe fn squares_body<S: Simd>(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; 16];
    let (full, rest) = x.as_chunks::<16>();
    for x in full {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

/// Columns that a task of [`col_sum`] sums, and rows after which it puts its sums aside (two short chains
/// round less than a long one).
const COL_BLOCK: usize = 64;
const ROW_BLOCK: usize = 128;

/// `out[cols] (=|+=) Σ_rows x[rows, cols]`: the gradient of a bias.
pub fn col_sum(x: &[f32], cols: usize, out: &mut [f32], write: Write) {
    assert_eq!(out.len(), cols, "col_sum: {} sums of {cols} columns", out.len());
    if cols == 0 {
        return;
    }
    assert_eq!(x.len() % cols, 0, "col_sum: rows of {cols} in {} numbers", x.len());
    let path = cpu::path();
    let task = |i: usize, out: &mut [f32]| {
        let start = i * COL_BLOCK;
        on_path!(path, col_sum_body(x: &[f32], cols: usize, start: usize, out: &mut [f32], write: Write));
    };
    if x.len() <= 4 * SUM_CHUNK {
        out.chunks_mut(COL_BLOCK).enumerate().for_each(|(i, out)| task(i, out));
    } else {
        pool::for_each_chunk(out, COL_BLOCK, task);
    }
}

#[inline(always)]
unsafe fn col_sum_body<S: Simd>(x: &[f32], cols: usize, start: usize, out: &mut [f32], write: Write) {
    let rows = x.len() / cols;
    let mut j = 0;
    while j < out.len() {
        let n = (out.len() - j).min(4 * S::LANES);
        // SAFETY: the caller has the path; vector `v` holds columns `start + j + v * LANES ..`, of which
        // `n - v * LANES` are inside `out` and, as `start + out.len() <= cols`, inside a row.
        unsafe {
            let mut totals = [S::zero(); 4];
            for block in (0..rows).step_by(ROW_BLOCK) {
                let mut sums = [S::zero(); 4];
                for row in block..rows.min(block + ROW_BLOCK) {
                    let p = x.as_ptr().add(row * cols + start + j);
                    if n == 4 * S::LANES {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = S::add(*sum, S::load(p.add(v * S::LANES)));
                        }
                    } else {
                        for (v, sum) in sums.iter_mut().enumerate().take(n.div_ceil(S::LANES)) {
                            let left = n - v * S::LANES;
                            let p = p.add(v * S::LANES);
                            let x = if left >= S::LANES { S::load(p) } else { S::load_part(p, left) };
                            *sum = S::add(*sum, x);
                        }
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = S::add(*total, sum);
                }
            }
            for (v, total) in totals.into_iter().enumerate().take(n.div_ceil(S::LANES)) {
                let (left, p) = (n - v * S::LANES, out.as_mut_ptr().add(j + v * S::LANES));
                let full = left >= S::LANES;
                let old = match write {
                    Write::Overwrite => S::zero(),
                    Write::Add if full => S::load(p),
                    Write::Add => S::load_part(p, left),
                };
                let sum = S::add(old, total);
                if full { S::store(p, sum) } else { S::store_part(p, sum, left) }
            }
        }
        j += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin() + 0.1).collect()
    }

    /// Lengths around vectors, chunks and the first parallel one.
    const LENGTHS: [usize; 9] = [0, 1, 7, 16, 31, 1000, 8192, 40_001, 70_003];

    fn close(got: &[f32], want: impl Iterator<Item = f64>) -> bool {
        got.iter().zip(want).all(|(&x, y)| (f64::from(x) - y).abs() <= 3e-7 * (1.0 + y.abs()))
    }

    #[test]
    fn arithmetic_agrees_with_f64_on_every_path() {
        for n in LENGTHS {
            let (a, b, d) = (wave(n, 0.3), wave(n, 0.7), wave(n, 1.1));
            let pairs = || a.iter().zip(&b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
            let mut out = vec![f32::NAN; n];
            for &path in cpu::available() {
                cpu::with_path(path, || {
                    add(&a, &b, &mut out);
                    assert!(close(&out, pairs().map(|(x, y)| x + y)), "add {path:?} {n}");
                    sub(&a, &b, &mut out);
                    assert!(close(&out, pairs().map(|(x, y)| x - y)), "sub {path:?} {n}");
                    mul(&a, &b, &mut out);
                    assert!(close(&out, pairs().map(|(x, y)| x * y)), "mul {path:?} {n}");
                    out.copy_from_slice(&d);
                    add_into(&mut out, &a);
                    assert!(close(&out, a.iter().zip(&d).map(|(&x, &d)| f64::from(x) + f64::from(d))), "{n}");
                    out.copy_from_slice(&d);
                    mul_add_into(&mut out, &a, &b);
                    let want = pairs().zip(&d).map(|((x, y), &d)| x * y + f64::from(d));
                    assert!(close(&out, want), "mul_add_into {path:?} {n}");
                    out.copy_from_slice(&a);
                    scale(&mut out, 1.7);
                    assert!(close(&out, a.iter().map(|&x| f64::from(x) * f64::from(1.7f32))), "scale {n}");
                    out.copy_from_slice(&b);
                    axpy(&mut out, -0.3, &a);
                    let want = pairs().map(|(x, y)| y - f64::from(0.3f32) * x);
                    assert!(close(&out, want), "axpy {path:?} {n}");
                });
            }
        }
    }

    #[test]
    fn sums_agree_with_f64_on_every_path() {
        for n in LENGTHS {
            let (a, b) = (wave(n, 0.3), wave(n, 0.7));
            let exact = |f: fn(f64, f64) -> f64| -> f64 {
                a.iter().zip(&b).map(|(&x, &y)| f(f64::from(x), f64::from(y))).sum()
            };
            let bound = 1e-6 * (1.0 + n as f64);
            for &path in cpu::available() {
                cpu::with_path(path, || {
                    assert!((f64::from(sum(&a)) - exact(|x, _| x)).abs() <= bound, "sum {path:?} {n}");
                    assert!(
                        (f64::from(dot(&a, &b)) - exact(|x, y| x * y)).abs() <= bound,
                        "dot {path:?} {n}"
                    );
                    let squares = exact(|x, _| x * x);
                    assert!((sum_of_squares(&a) - squares).abs() <= 1e-12 * (1.0 + squares), "{path:?} {n}");
                });
            }
        }
    }

    #[test]
    fn sums_have_the_same_bits_on_one_thread_and_on_all() {
        let (a, b) = (wave(300_001, 0.3), wave(300_001, 0.7));
        let mut alone = [0.0; 2];
        let mut squares = 0.0;
        // Inside a task nothing is handed to other threads.
        pool::for_each_chunk(&mut alone, 2, |_, out| out.copy_from_slice(&[sum(&a), dot(&a, &b)]));
        pool::for_each_chunk(std::slice::from_mut(&mut squares), 1, |_, out| out[0] = sum_of_squares(&a));
        assert_eq!(alone, [sum(&a), dot(&a, &b)]);
        assert_eq!(squares, sum_of_squares(&a));
    }

    #[test]
    fn column_sums_and_row_scales_agree_with_f64_on_every_path() {
        for (rows, cols) in [(1, 1), (3, 5), (129, 64), (300, 10), (257, 131), (1000, 129)] {
            let x = wave(rows * cols, 0.37);
            for &path in cpu::available() {
                let (mut new, mut added) = (vec![f32::NAN; cols], vec![3.0; cols]);
                cpu::with_path(path, || {
                    col_sum(&x, cols, &mut new, Write::Overwrite);
                    col_sum(&x, cols, &mut added, Write::Add);
                });
                for j in 0..cols {
                    let want: f64 = (0..rows).map(|i| f64::from(x[i * cols + j])).sum();
                    let bound = 1e-6 * (1.0 + rows as f64);
                    assert!((f64::from(new[j]) - want).abs() < bound, "{path:?} [{rows}, {cols}] {j}");
                    assert!(
                        (f64::from(added[j]) - want - 3.0).abs() < bound,
                        "{path:?} [{rows}, {cols}] {j}"
                    );
                }
                let (s, mut scaled) = (wave(rows, 0.9), x.clone());
                cpu::with_path(path, || scale_rows(&mut scaled, cols, &s));
                assert!(scaled.iter().enumerate().all(|(i, &y)| y == x[i] * s[i / cols]), "{path:?}");
            }
        }
    }
}
