//! Rotary positions (Su et al. 2021, arXiv:2104.09864).
//!
//! The first `R` floats of a head are `R / 2` pairs ([`Pairs`] says which floats meet), and position `t` turns
//! pair `i` by the angle `t · f_i`, in the paper `f_i = θ^(-2i / R)` and `R` the whole head. The gradient turns
//! back.

use crate::cpu;
use crate::elementwise::Write;
use crate::row::{Parts, parallel_rows};
use crate::simd::{Simd, on_path};

/// Where the heads to turn lie: row `r` begins at `r * stride` and its heads follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    pub heads: usize,
    pub head_size: usize,
    /// `R`, even and at most `head_size`; the floats behind pass as they are.
    pub rotary: usize,
    pub pairs: Pairs,
    /// Floats from one row to the next, in both buffers.
    pub stride: usize,
}

impl RopeShape {
    /// Sees that everything fits rows of `len` floats in all; how many rows there are.
    fn check(self, positions: &[u32], [cos, sin]: [&[f32]; 2], len: usize) -> usize {
        let RopeShape { heads, head_size, rotary, stride, .. } = self;
        let (width, rows) = (heads * head_size, positions.len());
        let fits = rotary > 0 && rotary.is_multiple_of(2) && rotary <= head_size;
        assert!(fits, "rope: {rotary} of the {head_size} floats of a head cannot be pairs");
        assert!(width <= stride, "rope: {heads} heads of {head_size} in rows of {stride}");
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + width };
        assert!(len >= needed, "rope: {rows} rows need {needed} floats");
        let n_positions = cos.len() / (rotary / 2);
        assert_eq!(cos.len(), sin.len(), "rope: table lengths");
        let bad = positions.iter().find(|&&p| p as usize >= n_positions);
        assert!(bad.is_none(), "rope: position {bad:?} is not in 0..{n_positions}");
        rows
    }
}

/// Which two floats of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `(x_i, x_{i + R/2})`, as in GPT-NeoX and Hugging Face's Llama.
    Halves,
    /// `(x_{2i}, x_{2i + 1})`, as in the paper and GGUF's Llama.
    Neighbours,
}

/// `f_i = θ^(-2i / rotary)` for all pairs.
pub fn rope_frequencies(theta: f64, rotary: usize) -> Vec<f64> {
    (0..rotary / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary as f64)).collect()
}

/// Fills `cos` and `sin`, both `[positions, frequencies]`, times `scale`.
pub fn rope_table(frequencies: &[f64], scale: f64, cos: &mut [f32], sin: &mut [f32]) {
    let half = frequencies.len();
    assert!(half > 0 && cos.len() == sin.len() && cos.len().is_multiple_of(half), "rope: table lengths");
    for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
        let angle = (i / half) as f64 * frequencies[i % half];
        (*cos, *sin) = ((angle.cos() * scale) as f32, (angle.sin() * scale) as f32);
    }
}

/// `x[r] = rotation(positions[r]) · x[r]`; only the floats of the heads are touched.
pub fn rope(x: &mut [f32], shape: RopeShape, positions: &[u32], cos: &[f32], sin: &[f32]) {
    let rows = shape.check(positions, [cos, sin], x.len());
    let RopeShape { heads, head_size, rotary, stride, .. } = shape;
    let (half, width, path, x) = (rotary / 2, heads * head_size, cpu::path(), Parts::new(x));
    parallel_rows(rows, width, |range| {
        for r in range {
            let at = positions[r] as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            // SAFETY: every row belongs to one task.
            let row = unsafe { x.part(r * stride, width) };
            on_path!(path, turn_row(row: &mut [f32], shape: RopeShape, cos: &[f32], sin: &[f32]));
        }
    });
}

/// The heads of one row, in their place; the path is for the compiler, which makes its vectors.
#[inline(always)]
unsafe fn turn_row<S: Simd>(row: &mut [f32], shape: RopeShape, cos: &[f32], sin: &[f32]) {
    let turn = |(x1, x2): (&mut f32, &mut f32), (c, s): (&f32, &f32)| {
        (*x1, *x2) = (*x1 * c - *x2 * s, *x2 * c + *x1 * s);
    };
    for head in row.chunks_exact_mut(shape.head_size) {
        let (pairs, _) = head.split_at_mut(shape.rotary);
        let angles = cos.iter().zip(sin);
        match shape.pairs {
            Pairs::Halves => {
                let (first, second) = pairs.split_at_mut(shape.rotary / 2);
                first.iter_mut().zip(second).zip(angles).for_each(|(pair, angle)| turn(pair, angle));
            }
            Pairs::Neighbours => {
                for (two, angle) in pairs.chunks_exact_mut(2).zip(angles) {
                    let [x1, x2] = two else { unreachable!("chunks of two: bug") };
                    turn((x1, x2), angle);
                }
            }
        }
    }
}

/// `dx[r] = rotation(-positions[r]) · dy[r]`, or added to what is there; only the floats of the heads are
/// touched.
pub fn rope_backward(
    dy: &[f32],
    shape: RopeShape,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    dx: &mut [f32],
    write: Write,
) {
    let RopeShape { heads, head_size, rotary, pairs, stride } = shape;
    let (half, width) = (rotary / 2, heads * head_size);
    let rows = shape.check(positions, [cos, sin], dy.len().min(dx.len()));
    let to = Parts::new(dx);
    parallel_rows(rows, width, |range| {
        for r in range {
            let at = positions[r] as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            // SAFETY: every row belongs to one task.
            let row = unsafe { to.part(r * stride, width) };
            let from = dy[r * stride..][..width].chunks_exact(head_size);
            for (x, y) in from.zip(row.chunks_exact_mut(head_size)) {
                let (x, x_rest) = x.split_at(rotary);
                let (y, y_rest) = y.split_at_mut(rotary);
                match write {
                    Write::Overwrite => y_rest.copy_from_slice(x_rest),
                    Write::Add => y_rest.iter_mut().zip(x_rest).for_each(|(y, x)| *y += x),
                }
                let angles = (cos, sin);
                match pairs {
                    Pairs::Halves => {
                        let (x1, x2) = x.split_at(half);
                        let (y1, y2) = y.split_at_mut(half);
                        let floats = x1.iter().zip(x2).zip(y1.iter_mut().zip(y2));
                        turn_head_back(floats, angles, write);
                    }
                    Pairs::Neighbours => {
                        let y = y.chunks_exact_mut(2).map(|y| {
                            let [a, b] = y else { unreachable!("chunks of two: bug") };
                            (a, b)
                        });
                        turn_head_back(x.chunks_exact(2).map(|x| (&x[0], &x[1])).zip(y), angles, write);
                    }
                }
            }
        }
    });
}

/// Turns the pairs of one head back: what is read, and where it goes.
#[inline(always)]
fn turn_head_back<'a>(
    floats: impl Iterator<Item = ((&'a f32, &'a f32), (&'a mut f32, &'a mut f32))>,
    (cos, sin): (&[f32], &[f32]),
    write: Write,
) {
    for (((x1, x2), (y1, y2)), (c, s)) in floats.zip(cos.iter().zip(sin)) {
        let (a, b) = (x1 * c + x2 * s, x2 * c - x1 * s);
        match write {
            Write::Add => (*y1, *y2) = (*y1 + a, *y2 + b),
            Write::Overwrite => (*y1, *y2) = (a, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, numbers};

    fn table(theta: f64, rotary: usize, n: usize, scale: f64) -> [Vec<f32>; 2] {
        let [mut cos, mut sin] = [vec![0.0; n * rotary / 2], vec![0.0; n * rotary / 2]];
        rope_table(&rope_frequencies(theta, rotary), scale, &mut cos, &mut sin);
        [cos, sin]
    }

    #[test]
    fn pairs_turn_by_their_angle_and_the_gradient_turns_back() {
        let sizes = [(1, 1, 2, 2, 0), (5, 3, 8, 8, 7), (64, 4, 34, 34, 5), (9, 2, 16, 6, 3)];
        for ((rows, heads, head_size, rotary, gap), pairs) in
            sizes.into_iter().flat_map(|sizes| [(sizes, Pairs::Halves), (sizes, Pairs::Neighbours)])
        {
            let shape = RopeShape { heads, head_size, rotary, pairs, stride: heads * head_size + gap };
            let positions: Vec<u32> = (0..rows).map(|r| (r * 5 % 70) as u32).collect();
            let [cos, sin] = table(10_000.0, rotary, 70, 2.0);
            let x = numbers(rows * shape.stride, 1);
            let turned = cpu::available().iter().map(|&path| {
                let mut y = x.clone();
                cpu::with_path(path, || rope(&mut y, shape, &positions, &cos, &sin));
                y
            });
            let turned: Vec<Vec<f32>> = turned.collect();
            let y = &turned[0];
            assert!(turned.iter().all(|other| other == y), "every path has the same bits");
            let mut back = vec![1.0; x.len()];
            rope_backward(y, shape, &positions, &cos, &sin, &mut back, Write::Add);
            for r in 0..rows {
                for h in 0..heads {
                    let head = r * shape.stride + h * head_size;
                    for i in 0..rotary / 2 {
                        let (a, b) = match pairs {
                            Pairs::Halves => (head + i, head + i + rotary / 2),
                            Pairs::Neighbours => (head + 2 * i, head + 2 * i + 1),
                        };
                        let angle = positions[r] as f64 / 10_000f64.powf(2.0 * i as f64 / rotary as f64);
                        let (xa, xb) = (x[a] as f64, x[b] as f64);
                        close(y[a], 2.0 * (xa * angle.cos() - xb * angle.sin()), 1e-6);
                        close(y[b], 2.0 * (xb * angle.cos() + xa * angle.sin()), 1e-6);
                        close(back[a], 1.0 + 4.0 * xa, 1e-6);
                        close(back[b], 1.0 + 4.0 * xb, 1e-6);
                    }
                    for i in head + rotary..head + head_size {
                        assert_eq!((y[i], back[i]), (x[i], 1.0 + x[i]));
                    }
                }
                let behind = r * shape.stride + heads * head_size;
                assert_eq!(y[behind..][..gap], x[behind..][..gap]);
            }
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let shape = RopeShape { heads: 1, head_size: 16, rotary: 16, pairs: Pairs::Halves, stride: 16 };
        let [cos, sin] = table(10_000.0, 16, 100, 1.0);
        let (q, k) = (numbers(16, 1), numbers(16, 2));
        let score = |tq, tk| {
            let (mut a, mut b) = (q.clone(), k.clone());
            rope(&mut a, shape, &[tq], &cos, &sin);
            rope(&mut b, shape, &[tk], &cos, &sin);
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
        };
        close(score(30, 10), score(90, 70) as f64, 1e-5);
        assert!((score(30, 10) - score(30, 20)).abs() > 1e-3);
    }
}
