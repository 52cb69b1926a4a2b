//! Weights that stand in files in the types in which others wrote them: GGUF, or safetensors in one file or
//! several shards. Only headers are read here; a tensor's bytes are read when somebody asks, so that a file is
//! never in memory beside the weights that were laid out from it.
//!
//! This module knows names, dimensions, types and places; it does not know what a model needs.

use crate::NnError;
use crate::gguf::{self, GgufError};
use lyceum_kernels::stored::{Stored, dequantise};
use safetensors::tensor::{Dtype, Metadata};
use std::collections::BTreeMap;
use std::io;

/// A file, or anything else that gives bytes from a place.
pub trait ReadAt {
    /// Its length.
    fn n_bytes(&self) -> io::Result<u64>;
    /// Fills `out` from `offset` on; an error where the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|start| self.get(start..)?.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(offset, out)
    }
}

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorAt {
    /// Outermost first.
    pub dims: Vec<usize>,
    pub kind: Stored,
    file: usize,
    offset: u64,
    bytes: u64,
}

/// The tensors of one or more files, by name.
pub struct Checkpoint {
    files: Vec<Box<dyn ReadAt>>,
    tensors: BTreeMap<String, TensorAt>,
}

/// Bytes of a safetensors header (a table of 10,000 tensors takes about 1.5 MB).
const HEADER_BYTES_MAX: u64 = 100 << 20;

impl Checkpoint {
    /// A GGUF file, with its metadata. Tensors keep the file's names.
    pub fn gguf(file: Box<dyn ReadAt>) -> Result<(Self, gguf::Header), GgufError> {
        let header = gguf::read(&*file)?;
        let at = |t: &gguf::TensorInfo| TensorAt {
            dims: t.dims.clone(),
            kind: t.kind,
            file: 0,
            offset: t.offset,
            bytes: t.bytes,
        };
        let tensors = header.tensors.iter().map(|t| (t.name.clone(), at(t))).collect();
        Ok((Checkpoint { files: vec![file], tensors }, header))
    }

    /// One safetensors file, or the shards of one checkpoint.
    ///
    /// # Errors
    /// Where a header is damaged, a name stands in two files, or a type is not f32, f16 or bf16.
    pub fn safetensors(files: Vec<Box<dyn ReadAt>>) -> Result<Self, NnError> {
        let mut tensors = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, tensor) in safetensors_header(&**file, i)? {
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(NnError::Tensor { name, problem: "stands in two files".into() });
                }
            }
        }
        Ok(Checkpoint { files, tensors })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn find(&self, name: &str) -> Option<&TensorAt> {
        self.tensors.get(name)
    }

    /// Takes a tensor's entry out: what is left when a model has all that it needs is foreign to it.
    pub fn remove(&mut self, name: &str) -> Option<TensorAt> {
        self.tensors.remove(name)
    }

    /// The stored bytes; `buffer` is reused and grows to the largest tensor.
    pub fn read<'b>(&self, tensor: &TensorAt, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], NnError> {
        let len =
            usize::try_from(tensor.bytes).map_err(|_| NnError::Weights("a tensor beyond memory".into()))?;
        buffer.resize(len.max(buffer.len()), 0);
        self.files[tensor.file].read_at(tensor.offset, &mut buffer[..len]).map_err(|error| {
            NnError::Weights(format!("reading at byte {} failed: {error}", tensor.offset))
        })?;
        Ok(&buffer[..len])
    }

    /// The tensor as numbers.
    pub fn numbers(&self, tensor: &TensorAt) -> Result<Vec<f32>, NnError> {
        let mut bytes = Vec::new();
        let bytes = self.read(tensor, &mut bytes)?;
        let mut out = vec![0.0; tensor.dims.iter().product()];
        dequantise(tensor.kind, bytes, &mut out);
        Ok(out)
    }
}

fn safetensors_header(file: &dyn ReadAt, number: usize) -> Result<Vec<(String, TensorAt)>, NnError> {
    let damaged = |what: String| NnError::Weights(format!("not a safetensors file: {what}"));
    let read = |offset, out: &mut [u8]| file.read_at(offset, out).map_err(|error| damaged(error.to_string()));
    let len = file.n_bytes().map_err(|error| damaged(error.to_string()))?;
    let mut first = [0; 8];
    read(0, &mut first)?;
    let n = u64::from_le_bytes(first);
    if n > HEADER_BYTES_MAX || n > len.saturating_sub(8) {
        return Err(damaged(format!("a header of {n} bytes in a file of {len}")));
    }
    let mut header = vec![0; n as usize];
    read(8, &mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let (data, mut all) = (8 + n, Vec::new());
    for (name, info) in metadata.tensors() {
        let kind = match info.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::Bf16,
            // Indices and masks that some checkpoints carry beside the weights: no model asks for them.
            Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL => continue,
            other => {
                let problem = format!("has type {other:?}; f32, f16 and bf16 are read");
                return Err(NnError::Tensor { name, problem });
            }
        };
        let (start, end) = info.data_offsets;
        let n = info.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bytes = n.and_then(|n| n.checked_mul(kind.block_bytes() as u64));
        if start > end || bytes != Some((end - start) as u64) || end as u64 > len - data {
            let problem =
                format!("claims bytes {start}..{end} for {:?} in a file of {len} bytes", info.shape);
            return Err(NnError::Tensor { name, problem });
        }
        let offset = data + start as u64;
        let bytes = (end - start) as u64;
        all.push((name, TensorAt { dims: info.shape.clone(), kind, file: number, offset, bytes }));
    }
    Ok(all)
}
