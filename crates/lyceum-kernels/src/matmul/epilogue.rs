//! What happens to a finished block while it is in the cache: bias, activation, residual.

use crate::activation::{Activation, Function, Gelu, GeluTanh, Identity, Relu, Sigmoid, Silu, Tanh};
use crate::cpu::CpuPath;
use crate::simd::{Simd, on_path};
use std::ops::Range;

/// An [`super::Epilogue`] whose shapes were checked.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub bias: Option<*const f32>,
    pub activation: Activation,
    pub pre: Option<*mut f32>,
    pub residual: Option<*const f32>,
}

/// A row's part of the epilogue: pointers to its first column.
#[derive(Clone, Copy)]
struct Row {
    out: *mut f32,
    bias: Option<*const f32>,
    pre: Option<*mut f32>,
    residual: Option<*const f32>,
    len: usize,
}

impl Finish {
    /// Finishes the rows and columns of `out`, whose rows lie `stride` apart; `pre` and `residual` are dense
    /// with rows of `n`.
    ///
    /// # Safety
    /// Every pointer is good for the block; nobody else touches the block of `out` and `pre`.
    pub unsafe fn run(
        &self,
        path: CpuPath,
        out: *mut f32,
        stride: usize,
        n: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        for i in rows {
            let dense = i * n + columns.start;
            let row = Row {
                out: out.wrapping_add(i * stride + columns.start),
                bias: self.bias.map(|p| p.wrapping_add(columns.start)),
                pre: self.pre.map(|p| p.wrapping_add(dense)),
                residual: self.residual.map(|p| p.wrapping_add(dense)),
                len: columns.len(),
            };
            let activation = self.activation;
            on_path!(path, finish_row(row: Row, activation: Activation));
        }
    }
}

#[inline(always)]
unsafe fn finish_row<S: Simd>(row: Row, activation: Activation) {
    // SAFETY: the caller's pointers are good for `len` numbers.
    unsafe {
        match activation {
            Activation::None => finish::<S, Identity>(row),
            Activation::Relu => finish::<S, Relu>(row),
            Activation::Gelu => finish::<S, Gelu>(row),
            Activation::GeluTanh => finish::<S, GeluTanh>(row),
            Activation::Silu => finish::<S, Silu>(row),
            Activation::Tanh => finish::<S, Tanh>(row),
            Activation::Sigmoid => finish::<S, Sigmoid>(row),
        }
    }
}

#[inline(always)]
unsafe fn finish<S: Simd, F: Function>(row: Row) {
    for j in (0..row.len).step_by(S::LANES) {
        let left = row.len - j;
        // SAFETY: `left` numbers follow column `j` in every row.
        unsafe {
            let mut x = S::load_up_to(row.out.add(j), left);
            if let Some(bias) = row.bias {
                x = S::add(x, S::load_up_to(bias.add(j), left));
            }
            if let Some(pre) = row.pre {
                S::store_up_to(pre.add(j), x, left);
            }
            x = F::value::<S>(x);
            if let Some(residual) = row.residual {
                x = S::add(x, S::load_up_to(residual.add(j), left));
            }
            S::store_up_to(row.out.add(j), x, left);
        }
    }
}
