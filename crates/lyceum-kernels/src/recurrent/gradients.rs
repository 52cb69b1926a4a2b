//! The gradients of inputs and weights from those of the gates: one product over all rows of all steps.
//!
//! `d_gates` `[B, T, K·H]` is what [`super::backward()`] wrote. GRU's lie as `n r z hn`: the weights of the
//! input want `r z n`, those of the state `r z hn`.

use super::{Cell, Sequence};
use crate::elementwise::{Write, add_into, col_sum};
use crate::matmul::{Epilogue, Mat, Precision, matmul};
use crate::{pool, scratch};

/// Rows that a task joins.
const ROWS: usize = 256;

/// Which of a layer's two sets of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `w_ih`, `b_ih`
    Input,
    /// `w_hh`, `b_hh`
    State,
}

/// `d_x` `[B, T, F]`, from `w_ih` `[G·H, F]`.
///
/// # Panics
/// When a shape is not as written.
pub fn input_gradient(
    seq: &Sequence<'_>,
    w_ih: &[f32],
    d_gates: &[f32],
    out: &mut [f32],
    write: Write,
    precision: Precision,
) {
    let (rows, f, h) = (seq.batch * seq.steps, seq.input, seq.hidden);
    let width = seq.cell.kept() * h;
    assert_eq!(d_gates.len(), rows * width, "recurrent input gradient: d_gates is [B, T, K·H]");
    assert_eq!(w_ih.len(), seq.cell.gates() * h * f, "recurrent input gradient: w_ih is [G·H, F]");
    assert_eq!(out.len(), rows * f, "recurrent input gradient: d_x is [B, T, F]");
    if rows == 0 {
        return;
    }
    let mut product = |first: usize, n: usize, w: &[f32], write: Write| {
        let left = Mat::with_stride(&d_gates[first..], rows, n, width);
        matmul(left, Mat::new(w, n, f), out, write, Epilogue::default(), precision);
    };
    if seq.cell == Cell::Gru {
        let (reset_update, new) = w_ih.split_at(2 * h * f);
        product(h, 2 * h, reset_update, write);
        product(0, h, new, Write::Add);
    } else {
        product(0, width, w_ih, write);
    }
}

/// `d_w_ih` `[G·H, F]` from `right = x` `[B, T, F]`, or `d_w_hh` `[G·H, H]` from `right = h_prev`
/// `[B, T, H]`, which [`super::forward()`] kept.
///
/// # Panics
/// When a shape is not as written.
pub fn weight_gradient(
    seq: &Sequence<'_>,
    side: Side,
    d_gates: &[f32],
    right: &[f32],
    out: &mut [f32],
    write: Write,
    precision: Precision,
) {
    let (rows, h, width) = (seq.batch * seq.steps, seq.hidden, seq.cell.kept() * seq.hidden);
    let columns = match side {
        Side::Input => seq.input,
        Side::State => h,
    };
    assert_eq!(d_gates.len(), rows * width, "recurrent weight gradient: d_gates is [B, T, K·H]");
    assert_eq!(right.len(), rows * columns, "recurrent weight gradient: x or h_prev is [B, T, …]");
    assert_eq!(out.len(), seq.cell.gates() * h * columns, "recurrent weight gradient: [G·H, …]");
    let product = |first: usize, n: usize, out: &mut [f32]| {
        let left = if rows == 0 { &[][..] } else { &d_gates[first..] };
        let left = Mat::with_stride(left, rows, n, width).t();
        matmul(left, Mat::new(right, rows, columns), out, write, Epilogue::default(), precision);
    };
    match (seq.cell, side) {
        (Cell::Gru, Side::Input) => {
            let (reset_update, new) = out.split_at_mut(2 * h * columns);
            product(h, 2 * h, reset_update);
            product(0, h, new);
        }
        (Cell::Gru, Side::State) => product(h, 3 * h, out),
        _ => product(0, width, out),
    }
}

/// Whether [`weight_gradients`] can do both sides at once: where both start from the same gates.
pub fn has_joint_gradient(cell: Cell) -> bool {
    cell != Cell::Gru
}

/// `d_w_ih` and `d_w_hh` side by side, `[G·H, F + H]`, in one product over `[x | h_prev]`: the gates' gradients,
/// by far the largest operand, are read and packed once. The bits are those of [`weight_gradient`];
/// [`side_of`] takes a side's part.
///
/// # Panics
/// When a shape is not as written, or the cell has no joint gradient.
pub fn weight_gradients(
    seq: &Sequence<'_>,
    d_gates: &[f32],
    x: &[f32],
    h_prev: &[f32],
    out: &mut [f32],
    precision: Precision,
) {
    assert!(has_joint_gradient(seq.cell), "recurrent weight gradients: a GRU's sides differ in their gates");
    let (rows, f, h) = (seq.batch * seq.steps, seq.input, seq.hidden);
    let (width, columns) = (seq.cell.kept() * h, f + h);
    assert_eq!(d_gates.len(), rows * width, "recurrent weight gradients: d_gates is [B, T, K·H]");
    assert_eq!((x.len(), h_prev.len()), (rows * f, rows * h), "recurrent weight gradients: x, h_prev");
    assert_eq!(out.len(), width * columns, "recurrent weight gradients: [G·H, F + H]");
    scratch::with_f32(rows * columns, |joined| {
        pool::for_each_chunk(joined, ROWS * columns, |i, joined| {
            for (r, row) in joined.chunks_exact_mut(columns).enumerate() {
                let at = i * ROWS + r;
                row[..f].copy_from_slice(&x[at * f..][..f]);
                row[f..].copy_from_slice(&h_prev[at * h..][..h]);
            }
        });
        let left = Mat::new(d_gates, rows, width).t();
        let right = Mat::new(joined, rows, columns);
        matmul(left, right, out, Write::Overwrite, Epilogue::default(), precision);
    });
}

/// A side's part of what [`weight_gradients`] gave, into `out` `[G·H, …]`.
pub fn side_of(seq: &Sequence<'_>, side: Side, joint: &[f32], out: &mut [f32], write: Write) {
    let (f, h) = (seq.input, seq.hidden);
    let part = match side {
        Side::Input => 0..f,
        Side::State => f..f + h,
    };
    for (out, joint) in out.chunks_exact_mut(part.len().max(1)).zip(joint.chunks_exact(f + h)) {
        match write {
            Write::Overwrite => out.copy_from_slice(&joint[part.clone()]),
            Write::Add => out.iter_mut().zip(&joint[part.clone()]).for_each(|(out, x)| *out += x),
        }
    }
}

/// The sums over all rows, `[K·H]`, from which [`bias_gradient`] takes both biases' gradients.
pub fn bias_sums(seq: &Sequence<'_>, d_gates: &[f32], sums: &mut [f32]) {
    assert_eq!(sums.len(), seq.cell.kept() * seq.hidden, "recurrent bias gradient: sums are [K·H]");
    col_sum(d_gates, sums.len(), sums, Write::Overwrite);
}

/// `d_b_ih` or `d_b_hh` `[G·H]`.
pub fn bias_gradient(seq: &Sequence<'_>, side: Side, sums: &[f32], out: &mut [f32], write: Write) {
    let h = seq.hidden;
    let put = |out: &mut [f32], from: &[f32]| match write {
        Write::Overwrite => out.copy_from_slice(from),
        Write::Add => add_into(out, from),
    };
    match (seq.cell, side) {
        (Cell::Gru, Side::Input) => {
            put(&mut out[..2 * h], &sums[h..3 * h]);
            put(&mut out[2 * h..], &sums[..h]);
        }
        (Cell::Gru, Side::State) => put(out, &sums[h..]),
        _ => put(out, sums),
    }
}
