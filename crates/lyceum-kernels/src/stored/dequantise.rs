//! Stored numbers to f32, exactly: the products and sums that ggml's own definition of each type makes, in
//! its order, so that the bits are the same.

use super::kind::Stored;
use half::{bf16, f16};

/// Turns stored numbers into f32.
///
/// # Panics
/// When `bytes` are not the whole blocks of `out.len()` numbers.
pub fn dequantise(kind: Stored, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(kind.row_bytes(out.len()), Some(bytes.len()), "{}: {} numbers", kind.name(), out.len());
    let blocks = bytes.chunks_exact(kind.block_bytes()).zip(out.chunks_exact_mut(kind.block_len()));
    match kind {
        Stored::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Stored::F16 => blocks.for_each(|(b, out)| out[0] = half_at(b, 0)),
        Stored::Bf16 => blocks.for_each(|(b, out)| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        Stored::Q4_0 => blocks.for_each(|(b, out)| q4_0(b, out)),
        Stored::Q4_1 => blocks.for_each(|(b, out)| q4_1(b, out)),
        Stored::Q5_0 => blocks.for_each(|(b, out)| q5_0(b, out)),
        Stored::Q5_1 => blocks.for_each(|(b, out)| q5_1(b, out)),
        Stored::Q8_0 => blocks.for_each(|(b, out)| q8_0(b, out)),
        Stored::Q2K => blocks.for_each(|(b, out)| q2_k(b, out)),
        Stored::Q3K => blocks.for_each(|(b, out)| q3_k(b, out)),
        Stored::Q4K => blocks.for_each(|(b, out)| q4_k(b, out)),
        Stored::Q5K => blocks.for_each(|(b, out)| q5_k(b, out)),
        Stored::Q6K => blocks.for_each(|(b, out)| q6_k(b, out)),
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// The first sixteen numbers of a block of 32 are in the low halves of its bytes, the others in the high.
fn nibbles(qs: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

/// A fifth bit for each of 32 numbers.
fn fifth_bits(nibbles: [u8; 32], bits: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| nibbles[i] | (bits[i / 8] >> (i % 8) & 1) << 4)
}

/// `d · (q − offset)`.
fn scaled(q: [u8; 32], d: f32, offset: i32, out: &mut [f32]) {
    for (x, q) in out.iter_mut().zip(q) {
        *x = d * (i32::from(q) - offset) as f32;
    }
}

/// `d · q + least`.
fn shifted(q: [u8; 32], d: f32, least: f32, out: &mut [f32]) {
    for (x, q) in out.iter_mut().zip(q) {
        *x = d * f32::from(q) + least;
    }
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    scaled(nibbles(&b[2..]), half_at(b, 0), 8, out);
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    shifted(nibbles(&b[4..]), half_at(b, 0), half_at(b, 2), out);
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    scaled(fifth_bits(nibbles(&b[6..]), &b[2..6]), half_at(b, 0), 16, out);
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    shifted(fifth_bits(nibbles(&b[8..]), &b[4..8]), half_at(b, 0), half_at(b, 2), out);
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (x, &q) in out.iter_mut().zip(&b[2..]) {
        *x = d * f32::from(q as i8);
    }
}

/// The blocks of 256 keep several layers of bits in a byte: numbers `32 · layer + i` of a half of 128 have
/// their two bits at `2 · layer` of byte `i`.
fn two_bits(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, qs, d, d_least) = (&b[..16], &b[16..80], half_at(b, 80), half_at(b, 82));
    for (i, x) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        *x = d * f32::from(scale & 15) * f32::from(two_bits(qs, i)) - d_least * f32::from(scale >> 4);
    }
}

/// The sixteen scales of a Q3_K block, signed: four low bits in the halves of eight bytes, two high bits in
/// four bytes.
pub(super) fn scales_of_q3_k(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Number `i` of a Q3_K block: two bits, and four less where the mask's bit is not set.
pub(super) fn number_of_q3_k(mask: &[u8], qs: &[u8], i: usize) -> i8 {
    let has_bit = mask[i % 32] >> (i / 32) & 1;
    two_bits(qs, i) as i8 - if has_bit == 1 { 0 } else { 4 }
}

fn q3_k(b: &[u8], out: &mut [f32]) {
    let (mask, qs, scales, d) = (&b[..32], &b[32..96], scales_of_q3_k(&b[96..108]), half_at(b, 108));
    for (i, x) in out.iter_mut().enumerate() {
        *x = d * f32::from(scales[i / 16]) * f32::from(number_of_q3_k(mask, qs, i));
    }
}

/// Scale and minimum of the eight parts of a Q4_K or Q5_K block, six bits each in twelve bytes.
pub(super) fn scales_of_q4_k(packed: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| {
        if i < 4 {
            return (packed[i] & 63, packed[i + 4] & 63);
        }
        let low = packed[i + 4];
        (low & 15 | packed[i - 4] >> 6 << 4, low >> 4 | packed[i] >> 6 << 4)
    })
}

/// Four bits of number `i` of a Q4_K or Q5_K block: parts of 32 in turn in the low and the high halves.
pub(super) fn nibble_of_q4_k(qs: &[u8], i: usize) -> u8 {
    qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, d_least, scales, qs) = (half_at(b, 0), half_at(b, 2), scales_of_q4_k(&b[4..16]), &b[16..]);
    for (i, x) in out.iter_mut().enumerate() {
        let (scale, least) = scales[i / 32];
        *x = d * f32::from(scale) * f32::from(nibble_of_q4_k(qs, i)) - d_least * f32::from(least);
    }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, d_least, scales) = (half_at(b, 0), half_at(b, 2), scales_of_q4_k(&b[4..16]));
    for (i, x) in out.iter_mut().enumerate() {
        let (scale, least) = scales[i / 32];
        *x = d * f32::from(scale) * f32::from(number_of_q5_k(&b[16..], i)) - d_least * f32::from(least);
    }
}

/// Number `i` of a Q5_K block from its fifth bits and halves.
pub(super) fn number_of_q5_k(bits_and_qs: &[u8], i: usize) -> u8 {
    let (bits, qs) = bits_and_qs.split_at(32);
    nibble_of_q4_k(qs, i) | (bits[i % 32] >> (i / 32) & 1) << 4
}

/// Number `i` of a Q6_K block, 0 to 63, to be read as `q − 32`.
pub(super) fn number_of_q6_k(low: &[u8], high: &[u8], i: usize) -> u8 {
    let four = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
    four | two_bits(high, i) << 4
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (i, x) in out.iter_mut().enumerate() {
        let q = number_of_q6_k(low, high, i) as i8 - 32;
        *x = d * f32::from(scales[i / 16] as i8) * f32::from(q);
    }
}
