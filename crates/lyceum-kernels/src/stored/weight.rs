//! A weight laid out for products.

use super::dequantise::dequantise;
use super::kind::Stored;
use super::quantise::{QuantiseError, quantise};

/// A weight `[n, k]` (PyTorch's `[out, in]`), laid out once for this processor; the bytes that it was made
/// from are not needed any more.
#[derive(Debug, Clone)]
pub struct StoredWeight {
    kind: Stored,
    bytes: Vec<u8>,
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
        StoredWeight { kind, bytes: bytes.to_vec(), n, k }
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

    /// The type that it is computed as: the same, or where there is no tile for it the nearest.
    pub fn tile_kind(&self) -> Stored {
        self.kind
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
        self.bytes.capacity()
    }

    /// Row `i` as numbers: an embedding is gathered so.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.n && out.len() == self.k, "row {i} of [{}, {}]", self.n, self.k);
        let row_bytes = self.bytes.len() / self.n;
        dequantise(self.kind, &self.bytes[i * row_bytes..][..row_bytes], out);
    }
}
