//! Rotary positions (Su et al. 2021, arXiv:2104.09864), half-split pairs as in GPT-NeoX and Llama.
//!
//! A head's vector of `D` floats is `D / 2` pairs `(x_i, x_{i + D/2})`, and position `t` turns pair `i` by the
//! angle `t · θ^(-2i / D)`. The gradient turns back.

use crate::elementwise::Write;
use crate::row::{Parts, parallel_rows};

/// Where the heads to turn lie: row `r` begins at `r * stride` and its heads follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    pub heads: usize,
    /// `D`, even.
    pub head_size: usize,
    /// Floats from one row to the next, in both buffers.
    pub stride: usize,
}

/// Fills `cos` and `sin`, both `[positions, head_size / 2]`.
pub fn rope_table(theta: f64, head_size: usize, cos: &mut [f32], sin: &mut [f32]) {
    let half = head_size / 2;
    assert!(head_size > 0 && head_size.is_multiple_of(2), "rope: head size {head_size} is not even");
    assert!(cos.len() == sin.len() && cos.len().is_multiple_of(half), "rope: table lengths");
    for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
        let (position, pair) = (i / half, i % half);
        let angle = position as f64 * theta.powf(-2.0 * pair as f64 / head_size as f64);
        (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
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
    let RopeShape { heads, head_size, stride } = shape;
    let (half, width, rows) = (head_size / 2, heads * head_size, positions.len());
    assert!(head_size > 0 && head_size.is_multiple_of(2), "rope: head size {head_size} is not even");
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
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    let (c, s) = (cos[i], if BACK { -sin[i] } else { sin[i] });
                    let (a, b) = (x1[i] * c - x2[i] * s, x2[i] * c + x1[i] * s);
                    if write == Write::Add {
                        y1[i] += a;
                        y2[i] += b;
                    } else {
                        (y1[i], y2[i]) = (a, b);
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, numbers};

    #[test]
    fn pairs_turn_by_their_angle_and_the_gradient_turns_back() {
        for (rows, heads, head_size, gap) in [(1, 1, 2, 0), (5, 3, 8, 7), (64, 4, 34, 5)] {
            let shape = RopeShape { heads, head_size, stride: heads * head_size + gap };
            let half = head_size / 2;
            let positions: Vec<u32> = (0..rows).map(|r| (r * 5 % 70) as u32).collect();
            let (mut cos, mut sin) = (vec![0.0; 70 * half], vec![0.0; 70 * half]);
            rope_table(10_000.0, head_size, &mut cos, &mut sin);
            let x = numbers(rows * shape.stride, 1);
            let mut y = vec![9.0; x.len()];
            rope(&x, shape, &positions, &cos, &sin, &mut y);
            let mut back = vec![1.0; x.len()];
            rope_backward(&y, shape, &positions, &cos, &sin, &mut back, Write::Add);
            for r in 0..rows {
                for h in 0..heads {
                    for i in 0..half {
                        let at = r * shape.stride + h * head_size + i;
                        let angle = positions[r] as f64 / 10_000f64.powf(2.0 * i as f64 / head_size as f64);
                        let (a, b) = (x[at] as f64, x[at + half] as f64);
                        close(y[at], a * angle.cos() - b * angle.sin(), 1e-6);
                        close(y[at + half], b * angle.cos() + a * angle.sin(), 1e-6);
                        close(back[at], 1.0 + a, 1e-6);
                        close(back[at + half], 1.0 + b, 1e-6);
                    }
                }
                assert!(y[r * shape.stride + heads * head_size..][..gap].iter().all(|&v| v == 9.0));
            }
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let shape = RopeShape { heads: 1, head_size: 16, stride: 16 };
        let (mut cos, mut sin) = (vec![0.0; 100 * 8], vec![0.0; 100 * 8]);
        rope_table(10_000.0, 16, &mut cos, &mut sin);
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
