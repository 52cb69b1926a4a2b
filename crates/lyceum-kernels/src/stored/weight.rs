//! A weight laid out for products.

use super::convert::tile_row;
use super::formats::{GROUP, HALVES, ROWS};
use super::kind::Stored;
use super::layout::{self, Place};
use super::memory::Memory;
use super::quantise::{QuantiseError, quantise};
use crate::pool::{self, SendPtr};
use half::{bf16, f16};

/// A weight `[n, k]` (PyTorch's `[out, in]`), laid out once; the bytes that it was made from are not needed
/// any more. The layout is the same on every path.
#[derive(Debug)]
pub struct StoredWeight {
    kind: Stored,
    tile_kind: Stored,
    /// Tiles of 16 rows, each over the whole of `k`; rows that are not there are zeros.
    tiles: Memory,
    n: usize,
    k: usize,
}

impl StoredWeight {
    /// Lays out rows as a file stores them.
    ///
    /// # Panics
    /// When `bytes` are not `n` rows of [`Stored::row_bytes`]`(k)`.
    pub fn pack(kind: Stored, bytes: &[u8], n: usize, k: usize) -> StoredWeight {
        let row_bytes = kind.row_bytes(k);
        assert!(
            row_bytes.and_then(|row| row.checked_mul(n)) == Some(bytes.len()),
            "stored weight: [{n}, {k}] of {} in {} bytes",
            kind.name(),
            bytes.len()
        );
        let row_bytes = row_bytes.unwrap_or_default();
        let tile_kind = tile_kind_of(kind);
        let tile_bytes = tile_bytes_of(tile_kind, k);
        let tiles = Memory::new(n.div_ceil(ROWS) * tile_bytes);
        let base = SendPtr(tiles.as_ptr());
        pool::parallel_for(n.div_ceil(ROWS), |t| {
            // SAFETY: each task has its own tile; the memory is this function's alone.
            let tile = unsafe {
                let at = base.get().add(t * tile_bytes);
                at.write_bytes(0, tile_bytes);
                std::slice::from_raw_parts_mut(at, tile_bytes)
            };
            for row in 0..ROWS.min(n - t * ROWS) {
                let bytes = &bytes[(t * ROWS + row) * row_bytes..][..row_bytes];
                put_row(tile_kind, &tile_row(kind, bytes), row, tile);
            }
        });
        StoredWeight { kind, tile_kind, tiles, n, k }
    }

    /// Quantises dense `[n, k]` numbers and lays them out.
    ///
    /// # Panics
    /// When `values` are not `n × k` numbers.
    pub fn from_f32(kind: Stored, values: &[f32], n: usize, k: usize) -> Result<StoredWeight, QuantiseError> {
        assert_eq!(values.len(), n * k, "stored weight: [{n}, {k}] in {} numbers", values.len());
        if kind.row_bytes(k).is_none() {
            return Err(QuantiseError::NotWholeBlocks { to: kind, n_numbers: k });
        }
        let mut bytes = Vec::new();
        quantise(kind, values, &mut bytes)?;
        Ok(StoredWeight::pack(kind, &bytes, n, k))
    }

    /// The type that it was made from.
    pub fn kind(&self) -> Stored {
        self.kind
    }

    /// The type that it is computed as: the same, or where there is no tile for it the nearest (Q2_K
    /// becomes Q8_0; Q3_K becomes Q6_K, exactly).
    pub fn tile_kind(&self) -> Stored {
        self.tile_kind
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.tiles.len()
    }

    /// Row `i` as numbers: an embedding is gathered so.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not `k` numbers.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.n && out.len() == self.k, "row {i} of [{}, {}]", self.n, self.k);
        let tile_bytes = self.tile_bytes();
        let tile = &self.tiles.bytes()[i / ROWS * tile_bytes..][..tile_bytes];
        row_of(self.tile_kind, tile, i % ROWS, out);
    }

    pub(super) fn n_tiles(&self) -> usize {
        self.n.div_ceil(ROWS)
    }

    /// Bytes from a tile to the next.
    pub(super) fn tile_bytes(&self) -> usize {
        tile_bytes_of(self.tile_kind, self.k)
    }

    /// Where tile `t` begins.
    pub(super) fn tile(&self, t: usize) -> *const u8 {
        self.tiles.as_ptr().wrapping_add(t * self.tile_bytes())
    }
}

fn tile_kind_of(kind: Stored) -> Stored {
    match kind {
        Stored::Q2K => Stored::Q8_0,
        Stored::Q3K => Stored::Q6K,
        kind => kind,
    }
}

fn tile_bytes_of(tile_kind: Stored, k: usize) -> usize {
    match tile_kind {
        Stored::F32 => k.div_ceil(2) * 2 * GROUP,
        Stored::F16 | Stored::Bf16 => k.div_ceil(2) * GROUP,
        kind => k / kind.block_len() * layout::tile_block_bytes(kind),
    }
}

/// Where number `i` of a row is in a tile of floats, in bytes.
fn float_at(kind: Stored, row: usize, i: usize) -> usize {
    match kind {
        Stored::F32 => i * GROUP + 4 * row,
        Stored::F16 => i * HALVES + 2 * row,
        _ => i / 2 * GROUP + 4 * row + i % 2 * 2,
    }
}

fn put_row(kind: Stored, bytes: &[u8], row: usize, tile: &mut [u8]) {
    let block_bytes = kind.block_bytes();
    if kind.block_len() == 1 {
        for (i, number) in bytes.chunks_exact(block_bytes).enumerate() {
            tile[float_at(kind, row, i)..][..block_bytes].copy_from_slice(number);
        }
        return;
    }
    let blocks = tile.chunks_exact_mut(layout::tile_block_bytes(kind));
    for (block, tile) in bytes.chunks_exact(block_bytes).zip(blocks) {
        layout::put(kind, block, Place { row }, tile);
    }
}

fn row_of(kind: Stored, tile: &[u8], row: usize, out: &mut [f32]) {
    if kind.block_len() == 1 {
        for (i, x) in out.iter_mut().enumerate() {
            let b = &tile[float_at(kind, row, i)..];
            *x = match kind {
                Stored::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                Stored::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            };
        }
        return;
    }
    let blocks = tile.chunks_exact(layout::tile_block_bytes(kind));
    for (tile, out) in blocks.zip(out.chunks_exact_mut(kind.block_len())) {
        layout::numbers(kind, tile, Place { row }, out);
    }
}
