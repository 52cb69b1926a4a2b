//! A GGUF file, version 3.

use super::*;
use std::io::{self, Write};

/// A tensor to write; its data is asked for when its place in the file has come.
pub struct Tensor<'a> {
    pub name: String,
    /// Outermost first.
    pub dims: Vec<usize>,
    pub kind: Stored,
    /// Gives the stored bytes.
    pub data: Box<dyn Fn() -> io::Result<Vec<u8>> + 'a>,
}

impl Tensor<'_> {
    fn bytes(&self) -> u64 {
        let n: usize = self.dims.iter().product();
        (n / self.kind.block_len() * self.kind.block_bytes()) as u64
    }
}

/// Writes the whole file; one tensor is in memory at a time. `general.alignment` is left at 32.
///
/// # Errors
/// Of the writer, or where a tensor's rows are not whole blocks or its data has another length than its
/// dimensions say.
pub fn write(out: &mut dyn Write, metadata: &[(String, Value)], tensors: &[Tensor<'_>]) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&3u32.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        string(&mut head, key);
        put(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        let innermost = tensor.dims.last().copied().unwrap_or(0);
        if innermost == 0 || !innermost.is_multiple_of(tensor.kind.block_len()) {
            let (name, kind, block) = (&tensor.name, tensor.kind.name(), tensor.kind.block_len());
            return Err(io::Error::other(format!(
                "gguf: tensor \"{name}\" has rows of {innermost} numbers; {kind} has blocks of {block}"
            )));
        }
        string(&mut head, &tensor.name);
        head.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
        for &d in tensor.dims.iter().rev() {
            head.extend_from_slice(&(d as u64).to_le_bytes());
        }
        head.extend_from_slice(&type_number(tensor.kind).to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.write_all(&head)?;
    pad(out, head.len() as u64)?;
    for tensor in tensors {
        let data = (tensor.data)()?;
        if data.len() as u64 != tensor.bytes() {
            let (name, want, got) = (&tensor.name, tensor.bytes(), data.len());
            return Err(io::Error::other(format!("gguf: tensor \"{name}\": {got} bytes, not {want}")));
        }
        out.write_all(&data)?;
        pad(out, data.len() as u64)?;
    }
    Ok(())
}

fn pad(out: &mut dyn Write, len: u64) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT as usize][..(len.next_multiple_of(ALIGNMENT) - len) as usize])
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The number of the type, then the value.
fn put(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, n: u32| out.extend_from_slice(&n.to_le_bytes());
    let list = |out: &mut Vec<u8>, n: u32, len: usize| {
        kind(out, 9);
        kind(out, n);
        out.extend_from_slice(&(len as u64).to_le_bytes());
    };
    macro_rules! number {
        ($n:expr, $x:expr) => {{
            kind(out, $n);
            out.extend_from_slice(&$x.to_le_bytes());
        }};
    }
    match value {
        Value::U8(x) => number!(0, x),
        Value::I8(x) => number!(1, x),
        Value::U16(x) => number!(2, x),
        Value::I16(x) => number!(3, x),
        Value::U32(x) => number!(4, x),
        Value::I32(x) => number!(5, x),
        Value::F32(x) => number!(6, x),
        Value::Bool(x) => number!(7, u8::from(*x)),
        Value::U64(x) => number!(10, x),
        Value::I64(x) => number!(11, x),
        Value::F64(x) => number!(12, x),
        Value::String(x) => {
            kind(out, 8);
            string(out, x);
        }
        // Readers expect token types and the like as i32; what does not fit is written wider.
        Value::Integers(all) if all.iter().all(|&x| i32::try_from(x).is_ok()) => {
            list(out, 5, all.len());
            all.iter().for_each(|&x| out.extend_from_slice(&(x as i32).to_le_bytes()));
        }
        Value::Integers(all) => {
            list(out, 11, all.len());
            all.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
        Value::Floats(all) => {
            list(out, 6, all.len());
            all.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
        Value::Bools(all) => {
            list(out, 7, all.len());
            out.extend(all.iter().map(|&x| u8::from(x)));
        }
        Value::Strings(all) => {
            list(out, 8, all.len());
            all.iter().for_each(|x| string(out, x));
        }
    }
}
