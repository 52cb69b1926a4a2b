//! A weight laid out for products.

use super::convert::tile_row;
use super::formats::{ROWS, WOVEN};
use super::kind::Stored;
use super::layout::{self, Place, block_parts, float_at};
use super::memory::Memory;
use super::quantise::{self, QuantiseError, quantise};
use crate::pool::{self, SendPtr};
use half::{bf16, f16};
use std::borrow::Cow;
use std::ops::Range;

/// A weight `[n, k]` (PyTorch's `[out, in]`), laid out once; the bytes that it was made from are not needed
/// any more. The layout is the same on every path.
#[derive(Debug)]
pub struct StoredWeight {
    kind: Stored,
    tile_kind: Stored,
    /// Tiles of 16 rows over the whole of `k`, four of them woven; rows that are not there are zeros.
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
        lay_out(kind, n, k, |row| tile_row(kind, &bytes[row * row_bytes..][..row_bytes]))
    }

    /// Quantises dense `[n, k]` numbers and lays them out, a few rows at a time.
    ///
    /// # Panics
    /// When `values` are not `n × k` numbers.
    pub fn from_f32(kind: Stored, values: &[f32], n: usize, k: usize) -> Result<StoredWeight, QuantiseError> {
        assert_eq!(values.len(), n * k, "stored weight: [{n}, {k}] in {} numbers", values.len());
        quantise::check(kind, values, k)?;
        Ok(lay_out(kind, n, k, |row| {
            let mut bytes = Vec::new();
            quantise(kind, &values[row * k..][..k], &mut bytes).expect("checked before: bug");
            Cow::Owned(bytes)
        }))
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
        let (tile_bytes, tile) = (self.tile_bytes(), i / ROWS);
        let first = tile / WOVEN * WOVEN;
        let n_woven = self.n_woven(tile);
        let woven = &self.tiles.bytes()[first * tile_bytes..][..n_woven * tile_bytes];
        row_of(self.tile_kind, woven, i - first * ROWS, n_woven, out);
    }

    pub(super) fn n_tiles(&self) -> usize {
        self.n.div_ceil(ROWS)
    }

    /// Bytes of a tile over the whole of `k`.
    fn tile_bytes(&self) -> usize {
        tile_bytes_of(self.tile_kind, self.k)
    }

    /// Tiles that are woven with tile `t`, itself among them.
    pub(super) fn n_woven(&self, t: usize) -> usize {
        WOVEN.min(self.n_tiles() - t / WOVEN * WOVEN)
    }

    /// Where block `block` of the woven tiles that begin with tile `t` is, or would be: it may be asked for.
    pub(super) fn first_byte(&self, t: usize, block: usize) -> *const u8 {
        let ((head, body), n_woven) = (block_parts(self.tile_kind), self.n_woven(t.min(self.n_tiles() - 1)));
        let skip = t / WOVEN * WOVEN * self.tile_bytes() + block * n_woven * (head + body);
        self.tiles.as_ptr().wrapping_add(skip)
    }

    /// Where the first blocks' head and body of tile `t` are, and the bytes from its block to the next.
    pub(super) fn tile(&self, t: usize) -> (*const u8, *const u8, usize) {
        let ((head, body), n_woven) = (block_parts(self.tile_kind), self.n_woven(t));
        let woven = self.tiles.as_ptr().wrapping_add(t / WOVEN * WOVEN * self.tile_bytes());
        let at = t % WOVEN;
        (
            woven.wrapping_add(at * head),
            woven.wrapping_add(n_woven * head + at * body),
            n_woven * (head + body),
        )
    }
}

/// Lays out rows as `tile_row` gives them, in the tile's type.
fn lay_out<'a>(
    kind: Stored,
    n: usize,
    k: usize,
    tile_row: impl Fn(usize) -> Cow<'a, [u8]> + Sync,
) -> StoredWeight {
    let tile_kind = tile_kind_of(kind);
    let tile_bytes = tile_bytes_of(tile_kind, k);
    let n_tiles = n.div_ceil(ROWS);
    let tiles = Memory::new(n_tiles * tile_bytes);
    let base = SendPtr(tiles.as_ptr());
    pool::parallel_for(n_tiles.div_ceil(WOVEN), |group| {
        let first = group * WOVEN;
        let n_woven = WOVEN.min(n_tiles - first);
        // SAFETY: each task has its own tiles; the memory is this function's alone.
        let woven = unsafe {
            let at = base.get().add(first * tile_bytes);
            at.write_bytes(0, n_woven * tile_bytes);
            std::slice::from_raw_parts_mut(at, n_woven * tile_bytes)
        };
        for row in first * ROWS..n.min((first + n_woven) * ROWS) {
            put_row(tile_kind, &tile_row(row), row - first * ROWS, n_woven, woven);
        }
    });
    StoredWeight { kind, tile_kind, tiles, n, k }
}

fn tile_kind_of(kind: Stored) -> Stored {
    match kind {
        Stored::Q2K => Stored::Q8_0,
        Stored::Q3K => Stored::Q6K,
        kind => kind,
    }
}

fn tile_bytes_of(tile_kind: Stored, k: usize) -> usize {
    let (head, body) = block_parts(tile_kind);
    // Blocks of floats are two numbers.
    k.div_ceil(tile_kind.block_len().max(2)) * (head + body)
}

/// Where a row's tile has its head and body in a block of `n_woven` tiles.
fn parts_of(kind: Stored, row: usize, n_woven: usize) -> (Range<usize>, Range<usize>) {
    let ((head, body), tile) = (block_parts(kind), row / ROWS);
    let bodies = n_woven * head;
    (tile * head..(tile + 1) * head, bodies + tile * body..bodies + (tile + 1) * body)
}

/// Puts row `row` of some woven tiles.
fn put_row(kind: Stored, bytes: &[u8], row: usize, n_woven: usize, woven: &mut [u8]) {
    let (block_bytes, (head, body)) = (kind.block_bytes(), block_parts(kind));
    let (in_head, in_body) = parts_of(kind, row, n_woven);
    let step = n_woven * (head + body);
    if kind.block_len() == 1 {
        for (i, number) in bytes.chunks_exact(block_bytes).enumerate() {
            let (block, at) = float_at(kind, row % ROWS, i);
            woven[block * step + in_body.start + at..][..block_bytes].copy_from_slice(number);
        }
        return;
    }
    for (block, woven) in bytes.chunks_exact(block_bytes).zip(woven.chunks_exact_mut(step)) {
        let (heads, bodies) = woven.split_at_mut(n_woven * head);
        let body = &mut bodies[in_body.start - n_woven * head..in_body.end - n_woven * head];
        layout::put(kind, block, Place { row: row % ROWS }, &mut heads[in_head.clone()], body);
    }
}

/// Row `row` of a tile of floats, from its blocks of two numbers.
fn floats<'a, const BYTES: usize>(
    kind: Stored,
    bodies: impl Iterator<Item = &'a [u8]>,
    row: usize,
    out: &mut [f32],
    number: impl Fn([u8; BYTES]) -> f32,
) {
    let places = [0, 1].map(|i| float_at(kind, row % ROWS, i).1);
    for (body, two) in bodies.zip(out.chunks_mut(2)) {
        for (x, at) in two.iter_mut().zip(places) {
            *x = number(body[at..][..BYTES].try_into().expect("a number's bytes: bug"));
        }
    }
}

/// Row `row` of some woven tiles as numbers.
fn row_of(kind: Stored, woven: &[u8], row: usize, n_woven: usize, out: &mut [f32]) {
    let (head, body) = block_parts(kind);
    let (in_head, in_body) = parts_of(kind, row, n_woven);
    let step = n_woven * (head + body);
    if kind.block_len() == 1 {
        let bodies = woven.chunks_exact(step).map(|woven| &woven[in_body.clone()]);
        return match kind {
            Stored::F32 => floats(kind, bodies, row, out, f32::from_le_bytes),
            Stored::F16 => floats(kind, bodies, row, out, |b| f16::from_le_bytes(b).to_f32()),
            _ => floats(kind, bodies, row, out, |b| bf16::from_le_bytes(b).to_f32()),
        };
    }
    for (woven, out) in woven.chunks_exact(step).zip(out.chunks_exact_mut(kind.block_len())) {
        let parts = (&woven[in_head.clone()], &woven[in_body.clone()]);
        layout::numbers(kind, parts, Place { row: row % ROWS }, out);
    }
}
