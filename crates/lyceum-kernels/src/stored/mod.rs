//! Weights as they are stored (GGUF's types) and products with them.
//!
//! A [`StoredWeight`] is laid out once, when a model is loaded; [`matmul_stored`] multiplies rows of f32 by
//! one or several of them. This module knows block layouts; it does not know files, names of tensors or
//! models.
//!
//! Reading order: `kind` (the types), `dequantise` and `quantise` (numbers in and out), `weight` (laid out in
//! tiles; `formats` and `layout` say how, `convert` what has no tile), this door, `activations` (rows
//! quantised into panels), `blocks` (who computes what), `outliers` (what stands out of a row, multiplied apart), `opened` (blocks of 256 taken apart once for many rows), `tile` (the innermost loops, written once over
//! `lanes`; `amx` where a processor has tiles of its own), `engine` (which tiles a processor has).

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod blocks;
mod convert;
mod dequantise;
mod engine;
mod finite;
mod formats;
mod kind;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod layout;
mod memory;
mod opened;
mod outliers;
pub mod peak;
mod quantise;
mod quantise_k;
#[cfg(test)]
mod tests;
mod tile;
mod weight;

pub use dequantise::dequantise;
pub use kind::Stored;
pub use quantise::{QuantiseError, quantise};
pub use weight::StoredWeight;

use crate::class::RowClass;
use crate::cpu;
use crate::matmul::Epilogue;
use blocks::Product;
use engine::Engine;

/// Whether products of weights of a type give rows of the two classes different bits here.
pub fn tells_classes_apart(kind: Stored) -> bool {
    Engine::of(cpu::path()).tells_classes_apart(kind)
}

/// `out[m, Σ nᵢ] = x[m, k] · [W₁; W₂; …]ᵀ`, then the epilogue (whose shapes are those of `out`).
///
/// The weights' columns stand side by side in `out`, in the order of `parts`: q, k and v, or gate and up, in
/// one call. A row's bits depend on its class, and not on `m`, the other rows, the other parts or the threads.
///
/// # Panics
/// When shapes do not agree.
pub fn matmul_stored(
    x: &[f32],
    (m, class): (usize, RowClass),
    parts: &[&StoredWeight],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    product(Engine::of(cpu::path()), x, (m, class), parts, out, epilogue);
}

/// [`matmul_stored`] by one of the path's engines.
fn product(
    engine: Engine,
    x: &[f32],
    (m, class): (usize, RowClass),
    parts: &[&StoredWeight],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let Some(first) = parts.first() else {
        assert!(out.is_empty(), "matmul_stored: no weights, but {} results", out.len());
        return;
    };
    let k = first.k();
    let n: usize = parts.iter().map(|w| w.n()).sum();
    assert!(parts.iter().all(|w| w.k() == k), "matmul_stored: weights of different k");
    assert_eq!(x.len(), m * k, "matmul_stored: [{m}, {k}] in {} numbers", x.len());
    assert_eq!(out.len(), m * n, "matmul_stored: a [{m}, {n}] result in {} numbers", out.len());
    let (path, finish) = (cpu::path(), epilogue.checked(m, n));
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the shapes were asserted, the borrow checker keeps `out` and `pre` apart from what is read, and
    // the engine is one of this processor's.
    unsafe {
        if k > 0 {
            let out = out.as_mut_ptr();
            return blocks::run(&Product { path, engine, class, m, k, x, parts, out, n, finish });
        }
        out.fill(0.0);
        if let Some(finish) = finish {
            finish.run(path, out.as_mut_ptr(), n, n, 0..m, 0..n);
        }
    }
}
