//! Matrix products: `out (=|+=) op(a) · op(b)`, then bias, activation and residual while the tile is warm.
//!
//! Legend: `m` rows of the result, `n` columns, `k` the length that is summed over.
//!
//! Reading order: this door, `blocks` (who computes what), `panels` and `pack` (what is copied where), `tile`
//! (the innermost loops), `epilogue`. Every number of the result is one chain of multiply-adds over `k` in
//! rising order, so a row has the same bits in a product of one row, of seven, or of a thousand, packed or
//! not, on any number of threads.

mod across;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod blocks;
mod epilogue;
pub(crate) mod pack;
mod packed;
mod panels;
pub mod peak;
#[cfg(test)]
mod tests;
mod tile;

use crate::activation::Activation;
use crate::cpu::{self, CpuPath};
pub use crate::elementwise::Write;
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::lines;
use blocks::{Product, Right, run};
pub(crate) use epilogue::Finish;
use pack::{Lines, Words};
pub use packed::{Packed, matmul_packed};
use panels::Operand;
use tile::Tiles;

/// Whether an operand is used as it is stored or transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trans {
    No,
    Yes,
}

/// How the numbers are multiplied; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Exact f32 products.
    F32,
    /// Inputs rounded to bf16 (nearest even).
    Bf16,
}

/// A matrix as it lies in memory. `rows` and `cols` are those stored; with [`Trans::Yes`] the operand used
/// is the transpose.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    /// Distance between the starts of two stored rows, in numbers.
    pub stride: usize,
    pub trans: Trans,
}

impl<'a> Mat<'a> {
    /// A dense `[rows, cols]` matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        assert!(data.len() >= rows * cols, "a [{rows}, {cols}] matrix in {} numbers", data.len());
        Mat { data, rows, cols, stride: cols, trans: Trans::No }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Mat<'a> {
        let trans = match self.trans {
            Trans::No => Trans::Yes,
            Trans::Yes => Trans::No,
        };
        Mat { trans, ..self }
    }

    /// Rows that start `stride` numbers apart.
    pub fn with_stride(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Mat<'a> {
        assert!(stride >= cols, "rows of {cols} numbers overlap at stride {stride}");
        assert!(rows == 0 || data.len() >= (rows - 1) * stride + cols, "a strided matrix leaves its slice");
        Mat { data, rows, cols, stride, trans: Trans::No }
    }

    /// Rows and columns of the operand as used.
    fn shape(&self) -> (usize, usize) {
        match self.trans {
            Trans::No => (self.rows, self.cols),
            Trans::Yes => (self.cols, self.rows),
        }
    }
}

/// What happens to a finished sum: `out = activation(sum + bias) + residual`.
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// `[n]`, one per output column.
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    /// Receives `sum + bias`, the value before the activation: dense `[m, n]`.
    pub pre: Option<&'a mut [f32]>,
    /// Added after the activation: dense `[m, n]`.
    pub residual: Option<&'a [f32]>,
}

/// `out[m, n] (=|+=) op(a)[m, k] · op(b)[k, n]`, then the epilogue. `out` is dense.
pub fn matmul(
    a: Mat<'_>,
    b: Mat<'_>,
    out: &mut [f32],
    write: Write,
    epilogue: Epilogue<'_>,
    precision: Precision,
) {
    let n = b.shape().1;
    matmul_strided(a, b, out, n, write, epilogue, precision);
}

/// [`matmul`] into rows that start `out_stride` numbers apart; what lies between them is left alone.
/// `pre` and `residual` of the epilogue stay dense.
pub fn matmul_strided(
    a: Mat<'_>,
    b: Mat<'_>,
    out: &mut [f32],
    out_stride: usize,
    write: Write,
    epilogue: Epilogue<'_>,
    precision: Precision,
) {
    let ((m, k), (k_of_b, n)) = (a.shape(), b.shape());
    assert_eq!(k, k_of_b, "matmul: shapes [{m}, {k}] and [{k_of_b}, {n}] do not agree");
    assert!(a.fits() && b.fits(), "matmul: an operand leaves its slice");
    check_out(out, out_stride, m, n);
    let path = cpu::path();
    let (tiles, words) = arithmetic(path, precision);
    let b = Operand { src: b.data.as_ptr(), lines: b.lines_of_columns(), stride: b.stride };
    let a = Operand { src: a.data.as_ptr(), lines: a.lines_of_rows(), stride: a.stride };
    let (out, finish) = (out.as_mut_ptr(), epilogue.checked(m, n));
    let b = Right::Stored(b);
    // SAFETY: the shapes were asserted, the borrow checker keeps `out` and `pre` apart from the operands,
    // and `arithmetic` chose what this processor has.
    unsafe { run(&Product { path, tiles, words, m, n, k, a, b, out, out_stride, write, finish }) }
}

/// The tiles and words of a precision on a path.
fn arithmetic(path: CpuPath, precision: Precision) -> (&'static Tiles, Words) {
    match precision {
        Precision::F32 => (Tiles::f32(path), Words::F32),
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16 if path == CpuPath::Amx => (Tiles::bf16_amx(), Words::Pairs),
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16 if path == CpuPath::Avx512 && cpu::has_bf16() => (Tiles::bf16_pairs(), Words::Pairs),
        Precision::Bf16 => (Tiles::f32(path), Words::Rounded),
    }
}

fn check_out(out: &[f32], stride: usize, m: usize, n: usize) {
    assert!(stride >= n, "matmul: rows of {n} numbers overlap at stride {stride}");
    let len = if m == 0 { 0 } else { (m - 1) * stride + n };
    assert!(
        out.len() == m * stride || out.len() == len,
        "matmul: a [{m}, {n}] result at stride {stride} in {} numbers",
        out.len()
    );
}

impl Mat<'_> {
    fn fits(&self) -> bool {
        self.rows == 0
            || self.stride >= self.cols && self.data.len() >= (self.rows - 1) * self.stride + self.cols
    }

    /// How the lines of memory run when this is the left operand, whose panels hold rows.
    fn lines_of_rows(&self) -> Lines {
        match self.trans {
            Trans::No => Lines::AlongK,
            Trans::Yes => Lines::AcrossK,
        }
    }

    /// The same for the right operand, whose panels hold columns.
    fn lines_of_columns(&self) -> Lines {
        match self.trans {
            Trans::No => Lines::AcrossK,
            Trans::Yes => Lines::AlongK,
        }
    }
}

impl Epilogue<'_> {
    /// The epilogue as pointers, its shapes asserted; `None` when there is nothing to do.
    pub(crate) fn checked(self, m: usize, n: usize) -> Option<Finish> {
        assert!(self.bias.is_none_or(|b| b.len() == n), "matmul: the bias is not [{n}]");
        assert!(self.pre.as_ref().is_none_or(|p| p.len() == m * n), "matmul: `pre` is not [{m}, {n}]");
        assert!(self.residual.is_none_or(|r| r.len() == m * n), "matmul: the residual is not [{m}, {n}]");
        let nothing = self.bias.is_none()
            && self.pre.is_none()
            && self.residual.is_none()
            && self.activation == Activation::None;
        (!nothing).then(|| Finish {
            bias: self.bias.map(<[f32]>::as_ptr),
            activation: self.activation,
            pre: self.pre.map(<[f32]>::as_mut_ptr),
            residual: self.residual.map(<[f32]>::as_ptr),
        })
    }
}
