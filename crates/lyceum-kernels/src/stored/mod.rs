//! Weights as they are stored (GGUF's types) and products with them.
//!
//! A [`StoredWeight`] is laid out once, when a model is loaded; [`matmul_stored`] multiplies rows of f32 by
//! one or several of them. This module knows block layouts; it does not know files, names of tensors or
//! models.
//!
//! Reading order: [`kind`] (the types), [`dequantise()`] and [`quantise()`] (numbers in and out), [`weight`] (the
//! layout), this door.

mod dequantise;
mod kind;
mod quantise;
mod quantise_k;
#[cfg(test)]
mod tests;
mod weight;

pub use dequantise::dequantise;
pub use kind::Stored;
pub use quantise::{QuantiseError, quantise};
pub use weight::StoredWeight;

use crate::cpu;
use crate::matmul::Epilogue;
use crate::pool::{self, SendPtr};
use crate::scratch;

/// `out[m, Σ nᵢ] = x[m, k] · [W₁; W₂; …]ᵀ`, then the epilogue (whose shapes are those of `out`).
///
/// The weights' columns stand side by side in `out`, in the order of `parts`: q, k and v, or gate and up, in
/// one call. A row's bits do not depend on `m`, on the other rows, on the other parts or on the threads.
///
/// # Panics
/// When shapes do not agree.
pub fn matmul_stored(x: &[f32], m: usize, parts: &[&StoredWeight], out: &mut [f32], epilogue: Epilogue<'_>) {
    let Some(first) = parts.first() else {
        assert!(out.is_empty(), "matmul_stored: no weights, but {} results", out.len());
        return;
    };
    let k = first.k();
    let n: usize = parts.iter().map(|w| w.n()).sum();
    assert!(parts.iter().all(|w| w.k() == k), "matmul_stored: weights of different k");
    assert_eq!(x.len(), m * k, "matmul_stored: [{m}, {k}] in {} numbers", x.len());
    assert_eq!(out.len(), m * n, "matmul_stored: a [{m}, {n}] result in {} numbers", out.len());
    let (path, finish, to) = (cpu::path(), epilogue.checked(m, n), SendPtr(out.as_mut_ptr()));
    let mut column = 0;
    for weight in parts {
        pool::parallel_for(weight.n(), |j| {
            scratch::with_f32(k, |row| {
                weight.row(j, row);
                for (i, x) in x.chunks_exact(k.max(1)).enumerate() {
                    let sum: f64 = x.iter().zip(&*row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    // SAFETY: `i < m` and `column + j < n`; each task has a column of its own.
                    unsafe { *to.get().add(i * n + column + j) = sum as f32 }
                }
            });
        });
        column += weight.n();
    }
    if let Some(finish) = finish {
        // SAFETY: `checked` asserted the shapes; nobody else touches `out`.
        unsafe { finish.run(path, to.get(), n, n, 0..m, 0..n) }
    }
}
