//! Matrix products: `out (=|+=) op(a) · op(b)`, then bias, activation and residual while the tile is warm.
//!
//! Legend: `m` rows of the result, `n` columns, `k` the length that is summed over.

use crate::activation::Activation;
pub use crate::elementwise::Write;

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
    let (m, k) = a.shape();
    let (k2, n) = b.shape();
    assert_eq!(k, k2);
    assert_eq!(out.len(), m * n);
    let round = |x: f32| match precision {
        Precision::F32 => x,
        Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
    };
    let at = |m: &Mat<'_>, i: usize, j: usize| match m.trans {
        Trans::No => round(m.data[i * m.stride + j]),
        Trans::Yes => round(m.data[j * m.stride + i]),
    };
    crate::pool::for_each_chunk(out, n.max(1), |i, row| {
        for (j, x) in row.iter_mut().enumerate() {
            let start = if write == Write::Add { *x } else { 0.0 };
            *x = (0..k).fold(start, |sum, p| at(&a, i, p) * at(&b, p, j) + sum);
            if let Some(bias) = epilogue.bias {
                *x += bias[j];
            }
        }
    });
    if let Some(pre) = epilogue.pre {
        pre.copy_from_slice(out);
    }
    let before = out.to_vec();
    crate::activation::activate(epilogue.activation, &before, out);
    if let Some(r) = epilogue.residual {
        crate::elementwise::add_into(out, r);
    }
}

/// A weight `[n, k]` (PyTorch's `[out, in]`), laid out once for [`matmul_packed`].
#[derive(Debug, Clone)]
pub struct Packed {
    words: Vec<f32>,
    n: usize,
    k: usize,
}

impl Packed {
    pub fn pack(w: &[f32], n: usize, k: usize) -> Packed {
        assert_eq!(w.len(), n * k);
        Packed { words: w.to_vec(), n, k }
    }
    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.words.len() * 4
    }
    pub fn n(&self) -> usize {
        self.n
    }
    pub fn k(&self) -> usize {
        self.k
    }
}

/// `out[m, n] = x[m, k] · wᵀ`, then the epilogue: the bits of [`matmul`] with `w.t()` in f32.
pub fn matmul_packed(x: &[f32], m: usize, w: &Packed, out: &mut [f32], epilogue: Epilogue<'_>) {
    let b = Mat::new(&w.words, w.n, w.k).t();
    matmul(Mat::new(x, m, w.k), b, out, Write::Overwrite, epilogue, Precision::F32);
}
