//! f32 to stored numbers, for weights that come as f32, f16 or bf16: as good as llama.cpp's own quantisers
//! without an importance matrix.

use super::kind::Stored;
use super::quantise_k::q4_k;
use half::{bf16, f16};

/// Why numbers cannot be quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantiseError {
    /// There is no quantiser to this type. The caller's fault.
    NoQuantiser { to: Stored },
    /// Rows are not whole blocks. The caller's fault.
    NotWholeBlocks { to: Stored, n_numbers: usize },
    /// A number that is not finite, and would spoil its block. The model's fault.
    NotFinite { index: usize },
}

impl std::fmt::Display for QuantiseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QuantiseError::NoQuantiser { to } => write!(
                f,
                "quantise: no quantiser to {}; there are f32, f16, bf16, q8_0, q4_0, q4_k",
                to.name()
            ),
            QuantiseError::NotWholeBlocks { to, n_numbers } => write!(
                f,
                "quantise: {n_numbers} numbers are not whole blocks of {} ({})",
                to.block_len(),
                to.name()
            ),
            QuantiseError::NotFinite { index } => write!(f, "quantise: number {index} is not finite"),
        }
    }
}
impl std::error::Error for QuantiseError {}

/// Appends the stored form of `values` to `out`: whole rows, or whole blocks.
///
/// F32, F16, Bf16, Q8_0, Q4_0 and Q4K; what is not finite is refused in blocks.
pub fn quantise(kind: Stored, values: &[f32], out: &mut Vec<u8>) -> Result<(), QuantiseError> {
    let n_bytes = check(kind, values, values.len())?;
    out.reserve(n_bytes);
    let blocks = values.chunks_exact(kind.block_len());
    match kind {
        Stored::F32 => blocks.for_each(|x| out.extend(x[0].to_le_bytes())),
        Stored::F16 => blocks.for_each(|x| out.extend(f16::from_f32(x[0]).to_le_bytes())),
        Stored::Bf16 => blocks.for_each(|x| out.extend(bf16::from_f32(x[0]).to_le_bytes())),
        Stored::Q8_0 => blocks.for_each(|x| q8_0(x, out)),
        Stored::Q4_0 => blocks.for_each(|x| q4_0(x, out)),
        Stored::Q4K => blocks.for_each(|x| q4_k(x, out)),
        _ => unreachable!("refused above: bug"),
    }
    Ok(())
}

/// Whether rows of `k` of these values can be quantised: the bytes of all.
pub(super) fn check(kind: Stored, values: &[f32], k: usize) -> Result<usize, QuantiseError> {
    if !matches!(kind, Stored::F32 | Stored::F16 | Stored::Bf16 | Stored::Q8_0 | Stored::Q4_0 | Stored::Q4K) {
        return Err(QuantiseError::NoQuantiser { to: kind });
    }
    let (Some(_), Some(n_bytes)) = (kind.row_bytes(k), kind.row_bytes(values.len())) else {
        return Err(QuantiseError::NotWholeBlocks { to: kind, n_numbers: k });
    };
    if kind.block_len() > 1
        && let Some(index) = values.iter().position(|x| !x.is_finite())
    {
        return Err(QuantiseError::NotFinite { index });
    }
    Ok(n_bytes)
}

/// One over a scale; zero for a block of zeros.
pub(super) fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The largest size becomes 127.
pub(super) fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let d = largest / 127.0;
    let inverse = inverse(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(x.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// The number of the largest size becomes −8, the end of the range that reaches further.
fn q4_0(x: &[f32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0.0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    let d = largest / -8.0;
    let inverse = inverse(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    let q = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    out.extend((0..16).map(|i| q(x[i]) | q(x[i + 16]) << 4));
}
