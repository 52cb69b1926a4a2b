//! The binary tensor extension of the Open Inference Protocol: after the JSON, whose length
//! `Inference-Header-Content-Length` says, stand the raw bytes of the tensors that say their
//! `binary_data_size`, in the order of the JSON. Numbers are little-endian and row-major; of `BYTES` each
//! text follows its length as a 32-bit number.

use crate::error::ApiError;
use axum::http::HeaderMap;
use lyceum_service::infer::{Data, OutputData};

pub const HEADER: &str = "inference-header-content-length";

/// The JSON of a body, and the raw bytes behind it; None where the header does not speak of any.
pub fn part<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok((body, None)) };
    let param = "Inference-Header-Content-Length";
    let refuse = |why: String| Err(ApiError::field(param, "invalid_value", format!("{param}: {why}")));
    let Some(length) = value.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok()) else {
        return refuse("must be the number of bytes of the JSON".into());
    };
    match body.split_at_checked(length) {
        Some((json, raw)) => Ok((json, Some(raw))),
        None => refuse(format!("{length} bytes of JSON do not fit a body of {}", body.len())),
    }
}

/// Takes the tensors' bytes off one after the other.
pub struct Raw<'a>(pub &'a [u8]);

impl<'a> Raw<'a> {
    pub fn take(&mut self, param: &str, size: u64) -> Result<&'a [u8], ApiError> {
        let taken = usize::try_from(size).ok().and_then(|size| self.0.split_at_checked(size));
        let Some((bytes, rest)) = taken else {
            let message = format!("{param}: {size} bytes are asked for, {} follow the JSON", self.0.len());
            return Err(ApiError::field(param, "invalid_value", message));
        };
        self.0 = rest;
        Ok(bytes)
    }
}

/// The values of a tensor of `n` elements.
pub fn read(path: &str, datatype: &str, bytes: &[u8], n: usize) -> Result<Data, ApiError> {
    let size_param = format!("{path}.parameters.binary_data_size");
    let refuse = |why: String| ApiError::field(&size_param, "invalid_value", format!("{size_param}: {why}"));
    if datatype == "BYTES" {
        return texts(path, bytes, n).map_err(|why| match why {
            Ok(error) => error,
            Err(why) => refuse(why.into()),
        });
    }
    let Some((size, number)) = element(datatype) else {
        let param = format!("{path}.datatype");
        let message = format!(
            "{param}: {datatype:?} is not FP16, BF16, FP32, FP64, INT8 to INT64, UINT8 to UINT64, BOOL or BYTES"
        );
        return Err(ApiError::field(param, "invalid_value", message));
    };
    if bytes.len() != n * size {
        let all = n * size;
        return Err(refuse(format!("{} is not the {all} bytes of {n} {datatype} values", bytes.len())));
    }
    let mut out = Vec::with_capacity(n);
    for (at, bytes) in bytes.chunks_exact(size).enumerate() {
        let value = number(bytes) as f32;
        if !value.is_finite() {
            let param = format!("{path}.data[{at}]");
            let message = format!("{param}: is not a finite 32-bit number");
            return Err(ApiError::field(param, "invalid_value", message));
        }
        out.push(value);
    }
    Ok(Data::Numbers(out))
}

type Number = fn(&[u8]) -> f64;

/// Bytes of an element, and its value.
fn element(datatype: &str) -> Option<(usize, Number)> {
    fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("the chunk has the element's size: bug")
    }
    Some(match datatype {
        "BOOL" => (1, |b| f64::from(u8::from(b[0] != 0))),
        "UINT8" => (1, |b| f64::from(b[0])),
        "INT8" => (1, |b| f64::from(b[0] as i8)),
        "UINT16" => (2, |b| f64::from(u16::from_le_bytes(le(b)))),
        "INT16" => (2, |b| f64::from(i16::from_le_bytes(le(b)))),
        "FP16" => (2, |b| half(u16::from_le_bytes(le(b)))),
        "BF16" => (2, |b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(le(b))) << 16))),
        "UINT32" => (4, |b| f64::from(u32::from_le_bytes(le(b)))),
        "INT32" => (4, |b| f64::from(i32::from_le_bytes(le(b)))),
        "FP32" => (4, |b| f64::from(f32::from_le_bytes(le(b)))),
        "UINT64" => (8, |b| u64::from_le_bytes(le(b)) as f64),
        "INT64" => (8, |b| i64::from_le_bytes(le(b)) as f64),
        "FP64" => (8, |b| f64::from_le_bytes(le(b))),
        _ => return None,
    })
}

/// IEEE 754's 16-bit float: 1 sign bit, 5 of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    let size = match bits >> 10 & 0x1f {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2f64.powi(i32::from(exponent) - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// `n` texts, each after its length. The error is the field's own, or why the bytes are no texts.
fn texts(path: &str, mut bytes: &[u8], n: usize) -> Result<Data, Result<ApiError, &'static str>> {
    let mut texts = Vec::new();
    for at in 0..n {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Err("a text's length is cut off"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest.split_at_checked(length).ok_or(Err("a text is longer than what follows"))?;
        let text = std::str::from_utf8(text).map_err(|_| {
            let param = format!("{path}.data[{at}]");
            Ok(ApiError::field(param.clone(), "invalid_value", format!("{param}: is not UTF-8")))
        })?;
        texts.push(text.to_owned());
        bytes = rest;
    }
    if bytes.is_empty() { Ok(Data::Texts(texts)) } else { Err(Err("more bytes than the shape's texts have")) }
}

/// The raw bytes of an output.
pub fn write(data: &OutputData, out: &mut Vec<u8>) {
    match data {
        OutputData::Probabilities(values) => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
        OutputData::Values(values) => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
        OutputData::Texts(texts) => {
            for text in texts {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_has_its_bytes() {
        let numbers = |datatype: &str, bytes: &[u8], n| match read("inputs[0]", datatype, bytes, n) {
            Ok(Data::Numbers(numbers)) => numbers,
            other => panic!("{datatype}: {other:?}"),
        };
        assert_eq!(numbers("INT8", &[255, 3], 2), [-1.0, 3.0]);
        assert_eq!(numbers("UINT16", &[1, 2], 1), [513.0]);
        assert_eq!(numbers("BOOL", &[0, 7], 2), [0.0, 1.0]);
        assert_eq!(numbers("FP64", &2.5f64.to_le_bytes(), 1), [2.5]);
        assert_eq!(numbers("INT64", &(-9i64).to_le_bytes(), 1), [-9.0]);
        assert_eq!(numbers("BF16", &[0xc0, 0x3f], 1), [1.5]);
        // One, the smallest and the largest finite number, minus two.
        assert_eq!(
            numbers("FP16", &[0x00, 0x3c, 0x01, 0x00, 0xff, 0x7b, 0x00, 0xc0], 4),
            [1.0, 2f32.powi(-24), 65504.0, -2.0]
        );
        let texts = read("inputs[0]", "BYTES", b"\x02\0\0\0ab\0\0\0\0", 2).unwrap();
        assert_eq!(texts, Data::Texts(vec!["ab".into(), String::new()]));
    }

    #[test]
    fn bytes_that_are_no_tensor_are_refused_by_their_field() {
        for (datatype, bytes, param) in [
            ("FP32", &[0u8; 7][..], "inputs[0].parameters.binary_data_size"),
            ("FP32", &[0, 0, 0x80, 0x7f, 0, 0, 0, 0], "inputs[0].data[0]"),
            ("FP16", &[0, 0, 0, 0x7e], "inputs[0].data[1]"),
            ("FP33", &[0; 8], "inputs[0].datatype"),
            ("BYTES", b"\x01\0\0\0a\x05\0\0\0b", "inputs[0].parameters.binary_data_size"),
            ("BYTES", b"\x01\0\0\0a\x01\0\0\0\xff", "inputs[0].data[1]"),
            ("BYTES", b"\x01\0\0\0a\x01\0\0\0bcd", "inputs[0].parameters.binary_data_size"),
        ] {
            let error = read("inputs[0]", datatype, bytes, 2).unwrap_err();
            assert_eq!(error.detail.param.as_deref(), Some(param), "{datatype} {bytes:?}");
        }
    }
}
