//! The header of a GGUF file.

use super::*;
use crate::checkpoint::ReadAt;
use std::collections::HashSet;

/// Reads metadata and the table of tensors; no weights.
///
/// # Errors
/// Where the file is damaged, the byte and what was expected; a tensor of a type that is not read is refused
/// by the type's name.
pub fn read(file: &dyn ReadAt) -> Result<Header, GgufError> {
    let len = file.n_bytes().map_err(|source| GgufError::Read { at: 0, source })?;
    let mut source = Source { file, len, at: 0, buffer: Vec::new(), buffered_from: 0 };
    if source.array::<4>()? != MAGIC {
        return Err(source.malformed("the file does not begin with \"GGUF\""));
    }
    let version = source.u32()?;
    if !(2..=3).contains(&version) {
        let byte_order = if version.swap_bytes() <= 3 { " (a big-endian file)" } else { "" };
        return Err(GgufError::Unsupported(format!(
            "version {version}{byte_order}; versions 2 and 3 are read"
        )));
    }
    let n_tensors = source.count(TENSORS_MAX, "tensors")?;
    let n_entries = source.count(ENTRIES_MAX, "metadata entries")?;
    let mut metadata = Vec::new();
    let mut keys = HashSet::new();
    for _ in 0..n_entries {
        let key = source.string(NAME_BYTES_MAX, "key")?;
        if !keys.insert(key.clone()) {
            return Err(source.malformed(format!("the key \"{key}\" stands twice")));
        }
        let kind = source.u32()?;
        let value = source.value(kind, &key)?;
        if source.at > METADATA_BYTES_MAX {
            return Err(source.malformed(format!("the metadata is longer than {METADATA_BYTES_MAX} bytes")));
        }
        metadata.push((key, value));
    }
    let mut header = Header { metadata, tensors: Vec::new() };
    let alignment = match header.value("general.alignment") {
        None => ALIGNMENT,
        Some(value) => value.as_u64().filter(|a| a.is_power_of_two() && *a <= 1 << 16).ok_or_else(|| {
            source.malformed(format!("general.alignment is {value:?}, not a power of two up to 65536"))
        })?,
    };
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let tensor = source.tensor()?;
        if !names.insert(tensor.name.clone()) {
            return Err(source.malformed(format!("the tensor \"{}\" stands twice", tensor.name)));
        }
        header.tensors.push(tensor);
    }
    let data = source.at.next_multiple_of(alignment);
    for tensor in &mut header.tensors {
        if !tensor.offset.is_multiple_of(alignment) {
            let (name, offset) = (&tensor.name, tensor.offset);
            return Err(
                source.malformed(format!("tensor \"{name}\": offset {offset} is no multiple of {alignment}"))
            );
        }
        let end = data.checked_add(tensor.offset).and_then(|start| {
            tensor.offset = start;
            start.checked_add(tensor.bytes)
        });
        if end.is_none_or(|end| end > len) {
            let (name, bytes) = (&tensor.name, tensor.bytes);
            let problem = format!("tensor \"{name}\" of {bytes} bytes ends after the file, which has {len}");
            return Err(source.malformed(problem));
        }
    }
    Ok(header)
}

/// The file from a place on, through a buffer.
struct Source<'a> {
    file: &'a dyn ReadAt,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    buffered_from: u64,
}

const BUFFER_BYTES: u64 = 1 << 16;

impl Source<'_> {
    fn malformed(&self, problem: impl Into<String>) -> GgufError {
        GgufError::Malformed { at: self.at, problem: problem.into() }
    }

    /// The next `n` bytes, which the file must have.
    fn take(&mut self, n: u64) -> Result<&[u8], GgufError> {
        if n > self.len - self.at {
            let left = self.len - self.at;
            return Err(self.malformed(format!("{n} bytes expected, the file ends after {left}")));
        }
        let inside =
            self.at >= self.buffered_from && self.at + n <= self.buffered_from + self.buffer.len() as u64;
        if !inside {
            let wanted = n.max(BUFFER_BYTES).min(self.len - self.at);
            self.buffer.resize(wanted as usize, 0);
            self.file
                .read_at(self.at, &mut self.buffer)
                .map_err(|source| GgufError::Read { at: self.at, source })?;
            self.buffered_from = self.at;
        }
        let start = (self.at - self.buffered_from) as usize;
        self.at += n;
        Ok(&self.buffer[start..start + n as usize])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        Ok(self.take(N as u64)?.try_into().expect("N bytes were taken: bug"))
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, max: u64, what: &str) -> Result<u64, GgufError> {
        let n = self.u64()?;
        if n > max {
            return Err(self.malformed(format!("{n} {what}; at most {max} are read")));
        }
        Ok(n)
    }

    fn string(&mut self, max: u64, what: &str) -> Result<String, GgufError> {
        let n = self.u64()?;
        if n > max {
            return Err(self.malformed(format!("a {what} of {n} bytes; at most {max} are read")));
        }
        let bytes = self.take(n)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.malformed(format!("a {what} that is not UTF-8")))
    }

    fn bool(&mut self) -> Result<bool, GgufError> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.malformed(format!("a truth value of {other}"))),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string(METADATA_BYTES_MAX, "text")?),
            9 => self.list(key)?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.malformed(format!("\"{key}\" has type {other}, which is none"))),
        })
    }

    /// The elements of an array: its length is bounded by the bytes that are left before any is read.
    fn list(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let n = self.u64()?;
        let width: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 => return Err(GgufError::Unsupported(format!("\"{key}\" is a list of lists"))),
            other => return Err(self.malformed(format!("\"{key}\" holds type {other}, which is none"))),
        };
        let left = self.len.min(METADATA_BYTES_MAX).saturating_sub(self.at);
        if n.checked_mul(width).is_none_or(|bytes| bytes > left) {
            return Err(self.malformed(format!("\"{key}\" has {n} elements, more than the file can hold")));
        }
        let n = n as usize;
        if kind == 8 {
            let mut all = Vec::with_capacity(n);
            for _ in 0..n {
                all.push(self.string(METADATA_BYTES_MAX, "text")?);
            }
            return Ok(Value::Strings(all));
        }
        if kind == 7 {
            return (0..n).map(|_| self.bool()).collect::<Result<_, _>>().map(Value::Bools);
        }
        let bytes = self.take(n as u64 * width)?;
        let words = bytes.chunks_exact(width as usize);
        macro_rules! integers {
            ($ty:ty) => {
                words.map(|w| <$ty>::from_le_bytes(w.try_into().expect("as wide: bug")) as i64).collect()
            };
        }
        Ok(match kind {
            0 => Value::Integers(integers!(u8)),
            1 => Value::Integers(integers!(i8)),
            2 => Value::Integers(integers!(u16)),
            3 => Value::Integers(integers!(i16)),
            4 => Value::Integers(integers!(u32)),
            5 => Value::Integers(integers!(i32)),
            6 => Value::Floats(
                words.map(|w| f32::from_le_bytes(w.try_into().expect("as wide: bug"))).collect(),
            ),
            12 => {
                let wide = words.map(|w| f64::from_le_bytes(w.try_into().expect("as wide: bug")) as f32);
                Value::Floats(wide.collect())
            }
            10 => {
                let wide: Option<Vec<i64>> = words
                    .map(|w| u64::from_le_bytes(w.try_into().expect("as wide: bug")).try_into().ok())
                    .collect();
                return wide
                    .map(Value::Integers)
                    .ok_or_else(|| self.malformed(format!("\"{key}\" holds a number beyond 2^63")));
            }
            _ => Value::Integers(integers!(i64)),
        })
    }

    /// A line of the table; the offset still counts from the start of the data.
    fn tensor(&mut self) -> Result<TensorInfo, GgufError> {
        let name = self.string(NAME_BYTES_MAX, "tensor's name")?;
        let n_dims = self.u32()?;
        if n_dims == 0 || n_dims > DIMS_MAX {
            return Err(self.malformed(format!("tensor \"{name}\" has {n_dims} dimensions")));
        }
        let mut dims = Vec::new();
        for _ in 0..n_dims {
            dims.push(self.u64()?);
        }
        dims.reverse();
        let number = self.u32()?;
        let offset = self.u64()?;
        let kind = match TYPES.iter().find(|(n, _, _)| *n == number) {
            Some((_, _, Some(kind))) => *kind,
            Some((_, type_name, None)) => {
                let message = format!("tensor \"{name}\" has type {type_name}, which is not read");
                return Err(GgufError::Unsupported(message));
            }
            None => {
                let message = format!("tensor \"{name}\" has type number {number}, which is not known");
                return Err(GgufError::Unsupported(message));
            }
        };
        let innermost = *dims.last().expect("at least one: bug");
        let n = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0 && n < 1 << 40);
        let (Some(n), true) = (n, innermost.is_multiple_of(kind.block_len() as u64)) else {
            let (type_name, block) = (kind.name(), kind.block_len());
            let problem = format!(
                "tensor \"{name}\" of dimensions {dims:?} cannot be {type_name}, whose blocks have {block} numbers"
            );
            return Err(self.malformed(problem));
        };
        let bytes = n / kind.block_len() as u64 * kind.block_bytes() as u64;
        let dims = dims.into_iter().map(|d| d as usize).collect();
        Ok(TensorInfo { name, dims, kind, offset, bytes })
    }
}
