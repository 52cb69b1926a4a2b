//! Rotary positions (Su et al. 2021, arXiv:2104.09864).
//!
//! The first `R` floats of a head are `R / 2` pairs ([`Pairs`] says which floats meet), and position `t` turns
//! pair `i` by the angle `t · f_i`, in the paper `f_i = θ^(-2i / R)` and `R` the whole head. The gradient turns
//! back.

use crate::elementwise::Write;
use crate::row::{Parts, parallel_rows};

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

/// `out[r] = rotation(positions[r]) · x[r]`; only the floats of the heads are written.
pub fn rope(x: &[f32], shape: RopeShape, positions: &[u32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    turn::<false>(x, shape, positions, cos, sin, out, Write::Overwrite);
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
    turn::<true>(dy, shape, positions, cos, sin, dx, write);
}

fn turn<const BACK: bool>(
    from: &[f32],
    shape: RopeShape,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    to: &mut [f32],
    write: Write,
) {
    let RopeShape { heads, head_size, rotary, pairs, stride } = shape;
    let (half, width, rows) = (rotary / 2, heads * head_size, positions.len());
    let fits = rotary > 0 && rotary.is_multiple_of(2) && rotary <= head_size;
    assert!(fits, "rope: {rotary} of the {head_size} floats of a head cannot be pairs");
    assert!(width <= stride, "rope: {heads} heads of {head_size} in rows of {stride}");
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + width };
    assert!(from.len() >= needed && to.len() >= needed, "rope: {rows} rows need {needed} floats");
    let n_positions = cos.len() / half;
    assert_eq!(cos.len(), sin.len(), "rope: table lengths");
    let bad = positions.iter().find(|&&p| p as usize >= n_positions);
    assert!(bad.is_none(), "rope: position {bad:?} is not in 0..{n_positions}");
    let to = Parts::new(to);
    parallel_rows(rows, width, |range| {
        for r in range {
            let at = positions[r] as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            // SAFETY: every row belongs to one task.
            let row = unsafe { to.part(r * stride, width) };
            let from = from[r * stride..][..width].chunks_exact(head_size);
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
                        turn_head::<BACK>(floats, angles, write);
                    }
                    Pairs::Neighbours => {
                        let y = y.chunks_exact_mut(2).map(|y| {
                            let [a, b] = y else { unreachable!("chunks of two: bug") };
                            (a, b)
                        });
                        turn_head::<BACK>(x.chunks_exact(2).map(|x| (&x[0], &x[1])).zip(y), angles, write);
                    }
                }
            }
        }
    });
}

/// Turns the pairs of one head: what is read, and where it goes.
#[inline(always)]
fn turn_head<'a, const BACK: bool>(
    floats: impl Iterator<Item = ((&'a f32, &'a f32), (&'a mut f32, &'a mut f32))>,
    (cos, sin): (&[f32], &[f32]),
    write: Write,
) {
    for (((x1, x2), (y1, y2)), (c, s)) in floats.zip(cos.iter().zip(sin)) {
        let s = if BACK { -s } else { *s };
        let (a, b) = (x1 * c - x2 * s, x2 * c + x1 * s);
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
            let mut y = vec![9.0; x.len()];
            rope(&x, shape, &positions, &cos, &sin, &mut y);
            let mut back = vec![1.0; x.len()];
            rope_backward(&y, shape, &positions, &cos, &sin, &mut back, Write::Add);
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
                assert!(y[r * shape.stride + heads * head_size..][..gap].iter().all(|&v| v == 9.0));
            }
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let shape = RopeShape { heads: 1, head_size: 16, rotary: 16, pairs: Pairs::Halves, stride: 16 };
        let [cos, sin] = table(10_000.0, 16, 100, 1.0);
        let (q, k) = (numbers(16, 1), numbers(16, 2));
        let score = |tq, tk| {
            let (mut a, mut b) = ([0.0; 16], [0.0; 16]);
            rope(&q, shape, &[tq], &cos, &sin, &mut a);
            rope(&k, shape, &[tk], &cos, &sin, &mut b);
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
        };
        close(score(30, 10), score(90, 70) as f64, 1e-5);
        assert!((score(30, 10) - score(30, 20)).abs() > 1e-3);
    }
}
