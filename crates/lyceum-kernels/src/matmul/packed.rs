//! Weights laid out once, for serving.

use super::blocks::{Product, Right, run};
use super::pack::{Lines, Panel, Words, pack};
use super::panels::Operand;
use super::tile::PANEL;
use super::{Epilogue, Precision, Tiles, Write, arithmetic, check_out};
use crate::cpu;
use crate::pool;

/// A weight `[n, k]` (PyTorch's `[out, in]`), laid out once for [`matmul_packed`]: panels of 16 outputs, the
/// same on every path.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    panels: Vec<f32>,
    n: usize,
    k: usize,
}

impl Packed {
    /// Lays out a dense `[n, k]` weight.
    pub fn pack(w: &[f32], n: usize, k: usize) -> Packed {
        let mut packed = Packed::default();
        packed.repack(w, n, k);
        packed
    }

    /// Lays out another weight in the same memory: a recurrent layer packs once per step of training and
    /// multiplies at every position.
    pub fn repack(&mut self, w: &[f32], n: usize, k: usize) {
        assert_eq!(w.len(), n * k, "packed weight: [{n}, {k}] in {} numbers", w.len());
        let path = cpu::path();
        self.panels.resize(n.div_ceil(PANEL) * PANEL * k, 0.0);
        (self.n, self.k) = (n, k);
        if k == 0 {
            return;
        }
        pool::for_each_chunk(&mut self.panels, PANEL * k, |j, to| {
            let rows = PANEL.min(n - j * PANEL);
            let lines = &w[j * PANEL * k..][..rows * k];
            let panel = Panel { src: lines.as_ptr(), stride: k, rows, width: PANEL, k };
            // SAFETY: the panel's lines are in `lines`, its words in `to`.
            unsafe { pack(path, Words::F32, panel, to.as_mut_ptr()) }
        });
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.panels.capacity() * size_of::<f32>()
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// `out[m, n] = x[m, k] · wᵀ`, then the epilogue: the bits of [`super::matmul`] with `w.t()` in f32.
pub fn matmul_packed(x: &[f32], m: usize, w: &Packed, out: &mut [f32], epilogue: Epilogue<'_>) {
    let (n, k) = (w.n, w.k);
    assert_eq!(x.len(), m * k, "matmul_packed: [{m}, {k}] in {} numbers", x.len());
    check_out(out, n, m, n);
    let path = cpu::path();
    let (tiles, words): (&Tiles, Words) = arithmetic(path, Precision::F32);
    let a = Operand { src: x.as_ptr(), lines: Lines::AlongK, stride: k };
    let (b, out, finish) = (Right::Panels(w.panels.as_ptr()), out.as_mut_ptr(), epilogue.checked(m, n));
    let write = Write::Overwrite;
    // SAFETY: the shapes were asserted, and the borrow checker keeps `out` and `pre` apart from the operands.
    unsafe { run(&Product { path, tiles, words, m, n, k, a, b, out, out_stride: n, write, finish }) }
}
