//! Whether stored numbers are numbers: one scale that is infinite or none would make every answer so.

use super::kind::Stored;

impl Stored {
    /// The first block whose scale, minimum or number is infinite or no number; None where all are finite.
    /// `bytes` are whole blocks.
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        // Sign and mantissa do not matter: an exponent of ones is infinity or no number.
        let half = |b: &[u8], at: usize| b[at + 1] & 0x7C == 0x7C;
        let mut blocks = bytes.chunks_exact(self.block_bytes());
        match self {
            Stored::F32 => blocks.position(|b| b[3] & 0x7F == 0x7F && b[2] & 0x80 == 0x80),
            Stored::Bf16 => blocks.position(|b| b[1] & 0x7F == 0x7F && b[0] & 0x80 == 0x80),
            Stored::F16 | Stored::Q4_0 | Stored::Q5_0 | Stored::Q8_0 => blocks.position(|b| half(b, 0)),
            Stored::Q4_1 | Stored::Q5_1 | Stored::Q4K | Stored::Q5K => {
                blocks.position(|b| half(b, 0) || half(b, 2))
            }
            Stored::Q2K => blocks.position(|b| half(b, 80) || half(b, 82)),
            Stored::Q3K => blocks.position(|b| half(b, 108)),
            Stored::Q6K => blocks.position(|b| half(b, 208)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stored;
    use crate::stored::{dequantise, quantise};

    #[test]
    fn a_block_is_not_finite_where_its_numbers_are_not() {
        let mut state = 5u64;
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for kind in Stored::ALL {
            let n = 4 * kind.block_len();
            let numbers: Vec<f32> = (0..n).map(|_| draw(2000) as f32 / 100.0 - 10.0).collect();
            let mut whole = Vec::new();
            if quantise(kind, &numbers, &mut whole).is_err() {
                // Types that are read and not written: any bytes with finite scales.
                whole = (0..4 * kind.block_bytes()).map(|_| draw(0x70) as u8).collect();
            }
            assert_eq!(kind.first_not_finite(&whole), None, "{}", kind.name());
            let mut n_found = 0;
            for _ in 0..2000 {
                let mut bytes = whole.clone();
                let at = draw(bytes.len());
                bytes[at] = if draw(2) == 0 { 0x7F } else { 0xFF };
                let mut out = vec![0.0; n];
                dequantise(kind, &bytes, &mut out);
                let found = kind.first_not_finite(&bytes);
                let block = out.iter().position(|x| !x.is_finite()).map(|i| i / kind.block_len());
                // A scale that is infinite times zeros is no number either: every case shows.
                assert_eq!(found, block, "{} byte {at}", kind.name());
                n_found += usize::from(found.is_some());
            }
            assert!(n_found > 0, "{}", kind.name());
        }
    }
}
