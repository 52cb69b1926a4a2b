//! Rows of types that have no tile, as rows of the nearest type that has one.

use super::dequantise::{dequantise, number_of_q3_k, scales_of_q3_k};
use super::kind::Stored;
use super::quantise::q8_0;
use std::borrow::Cow;

/// A file's row as the row of its tile type.
pub(super) fn tile_row(kind: Stored, row: &[u8]) -> Cow<'_, [u8]> {
    match kind {
        Stored::Q2K => Cow::Owned(q8_0_of_q2_k(row)),
        Stored::Q3K => Cow::Owned(row.chunks_exact(kind.block_bytes()).flat_map(q6_k_of_q3_k).collect()),
        _ => Cow::Borrowed(row),
    }
}

/// Quantised again: the steps of Q8_0 are at most 1/127 of the largest number of 32.
fn q8_0_of_q2_k(row: &[u8]) -> Vec<u8> {
    let mut numbers = vec![0.0; row.len() / Stored::Q2K.block_bytes() * Stored::Q2K.block_len()];
    dequantise(Stored::Q2K, row, &mut numbers);
    let mut out = Vec::new();
    numbers.chunks_exact(32).for_each(|x| q8_0(x, &mut out));
    out
}

/// The same numbers exactly: the scale of 16 numbers and the numbers themselves fit into more bits.
fn q6_k_of_q3_k(block: &[u8]) -> [u8; 210] {
    let (mask, qs, scales) = (&block[..32], &block[32..96], scales_of_q3_k(&block[96..108]));
    let mut out = [0u8; 210];
    for i in 0..256 {
        let q = (number_of_q3_k(mask, qs, i) + 32) as u8;
        out[i / 128 * 64 + i % 64] |= (q & 15) << (i % 128 / 64 * 4);
        out[128 + i / 128 * 32 + i % 32] |= (q >> 4) << (i % 128 / 32 * 2);
    }
    for (to, scale) in out[192..208].iter_mut().zip(scales) {
        *to = scale as u8;
    }
    out[208..].copy_from_slice(&block[108..]);
    out
}
