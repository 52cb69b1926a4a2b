//! GGUF, versions 2 and 3: one file with a model's metadata, vocabulary and weights.
//!
//! Source: the format's own description (ggml, `docs/gguf.md`). All numbers are little-endian:
//! ```text
//! "GGUF"  version u32  tensors u64  entries u64
//! entry:  key string, type u32, value                       string: length u64, bytes
//! tensor: name string, dims u32, dim u64 each (innermost first), type u32, offset u64
//! padding to `general.alignment` (32), then the tensors' data, each at its offset
//! ```
//! What a header promises is checked against the file's length before anything is allocated, so a damaged or
//! hostile file costs an error, not memory. This module knows the container; it does not know what an
//! architecture needs of it.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::read;
pub use write::{Tensor, write};

use lyceum_kernels::stored::Stored;

/// Bytes of all entries (a vocabulary of 260,000 tokens with its merges takes about 15 MB).
pub const METADATA_BYTES_MAX: u64 = 256 << 20;
pub const ENTRIES_MAX: u64 = 65_536;
pub const TENSORS_MAX: u64 = 65_536;
pub const NAME_BYTES_MAX: u64 = 1024;
pub const DIMS_MAX: u32 = 4;
const ALIGNMENT: u64 = 32;
const MAGIC: [u8; 4] = *b"GGUF";

/// A value of the metadata, in the type in which it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    /// Integers of any width.
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Strings(Vec<String>),
}

impl Value {
    /// A whole number that is not negative, of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(x) => Some(x.into()),
            Value::U16(x) => Some(x.into()),
            Value::U32(x) => Some(x.into()),
            Value::U64(x) => Some(x),
            Value::I8(x) => x.try_into().ok(),
            Value::I16(x) => x.try_into().ok(),
            Value::I32(x) => x.try_into().ok(),
            Value::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(x) = self { Some(*x) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(x) = self { Some(x) } else { None }
    }
}

/// Everything before the weights.
#[derive(Clone, Debug)]
pub struct Header {
    /// In the file's order; no key twice.
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
}

/// Where a tensor stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    /// Outermost first, as PyTorch says them: a matrix is `[out, in]`.
    pub dims: Vec<usize>,
    pub kind: Stored,
    /// From the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl Header {
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file's fault.
    #[error("gguf: at byte {at}: {}", lyceum_types::short::short(problem))]
    Malformed { at: u64, problem: String },
    /// The file is well, and this program cannot use it.
    #[error("gguf: {}", lyceum_types::short::short(.0))]
    Unsupported(String),
    #[error("gguf: reading failed at byte {at}")]
    Read { at: u64, source: std::io::Error },
}

/// ggml's number of a type, its name, and the stored type where it can be read.
const TYPES: [(u32, &str, Option<Stored>); 36] = [
    (0, "F32", Some(Stored::F32)),
    (1, "F16", Some(Stored::F16)),
    (2, "Q4_0", Some(Stored::Q4_0)),
    (3, "Q4_1", Some(Stored::Q4_1)),
    (6, "Q5_0", Some(Stored::Q5_0)),
    (7, "Q5_1", Some(Stored::Q5_1)),
    (8, "Q8_0", Some(Stored::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Stored::Q2K)),
    (11, "Q3_K", Some(Stored::Q3K)),
    (12, "Q4_K", Some(Stored::Q4K)),
    (13, "Q5_K", Some(Stored::Q5K)),
    (14, "Q6_K", Some(Stored::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Stored::Bf16)),
    (31, "Q4_0_4_4", None),
    (32, "Q4_0_4_8", None),
    (33, "Q4_0_8_8", None),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
];

fn type_number(kind: Stored) -> u32 {
    TYPES.iter().find(|(_, _, k)| *k == Some(kind)).expect("every stored type has a number: bug").0
}
