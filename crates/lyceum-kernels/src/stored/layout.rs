//! A file's blocks into tiles, and back: the same bytes in the order of [`super::formats`].

use super::dequantise::{nibble_of_q4_k, number_of_q6_k};
use super::formats::{GROUP, GROUP_BITS, HALVES, ROWS};
use super::kind::Stored;

/// A block's position in a tile: its row.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub row: usize,
}

impl Place {
    /// Where byte `i` of a group's four is.
    fn byte(self, group: usize, i: usize) -> usize {
        group * GROUP + 4 * self.row + i
    }
}

/// The parts of a tile's block, in bytes from its body's beginning, for a type that has tiles of integers.
struct Parts {
    /// f16 scales and minima.
    n_halves: usize,
    /// Groups of four small scales a row.
    n_small: usize,
    /// Numbers along `k`.
    len: usize,
    has_nibbles: bool,
    has_fifth_bits: bool,
    has_two_bits: bool,
}

impl Parts {
    fn of(kind: Stored) -> Parts {
        let (n_halves, n_small) = match kind {
            Stored::Q4_0 | Stored::Q5_0 | Stored::Q8_0 => (1, 0),
            Stored::Q4_1 | Stored::Q5_1 => (2, 0),
            Stored::Q4K | Stored::Q5K => (2, 3),
            Stored::Q6K => (1, 4),
            other => unreachable!("{} has no tile of integers: bug", other.name()),
        };
        let has_fifth_bits = matches!(kind, Stored::Q5_0 | Stored::Q5_1 | Stored::Q5K);
        let (len, has_nibbles, has_two_bits) = (kind.block_len(), kind != Stored::Q8_0, kind == Stored::Q6K);
        Parts { n_halves, n_small, len, has_nibbles, has_fifth_bits, has_two_bits }
    }

    fn bits(&self) -> usize {
        self.n_small * GROUP
    }
    fn qs(&self) -> usize {
        let fifth = if self.has_fifth_bits { self.len / 4 * GROUP_BITS } else { 0 };
        let two = if self.has_two_bits { self.len / 16 * GROUP } else { 0 };
        self.bits() + fifth + two
    }
}

/// Bytes of the head and of the body of a tile's block.
pub(super) fn block_parts(kind: Stored) -> (usize, usize) {
    if kind.block_len() == 1 {
        return (0, 2 * ROWS * kind.block_bytes());
    }
    let head = Parts::of(kind).n_halves * HALVES;
    (head, kind.block_bytes() * ROWS - head)
}

/// Where number `i` of a row is in a tile's blocks of floats: the block, and the byte in its body.
pub(super) fn float_at(kind: Stored, row: usize, i: usize) -> (usize, usize) {
    let at = match kind {
        Stored::F32 => i % 2 * GROUP + 4 * row,
        Stored::F16 => i % 2 * HALVES + 2 * row,
        _ => 4 * row + i % 2 * 2,
    };
    (i / 2, at)
}

/// Where a file's block of `kind` has its halves, its small scales, and its numbers as integers.
struct Opened<'a> {
    halves: [&'a [u8]; 2],
    small: &'a [u8],
    q: [u8; 256],
}

fn open(kind: Stored, block: &[u8]) -> Opened<'_> {
    let nibble = |qs: &[u8], i: usize| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 };
    let fifth = |bits: &[u8], i: usize| (bits[i / 8] >> (i % 8) & 1) << 4;
    let mut q = [0u8; 256];
    let mut fill = |f: &dyn Fn(usize) -> u8| (0..kind.block_len()).for_each(|i| q[i] = f(i));
    let none: &[u8] = &[];
    let (halves, small) = match kind {
        Stored::Q8_0 => {
            q[..32].iter_mut().zip(&block[2..34]).for_each(|(q, byte)| *q = byte ^ 0x80);
            ([&block[..2], none], none)
        }
        Stored::Q4_0 => {
            fill(&|i| nibble(&block[2..], i));
            ([&block[..2], none], none)
        }
        Stored::Q4_1 => {
            fill(&|i| nibble(&block[4..], i));
            ([&block[..2], &block[2..4]], none)
        }
        Stored::Q5_0 => {
            fill(&|i| nibble(&block[6..], i) | fifth(&block[2..], i));
            ([&block[..2], none], none)
        }
        Stored::Q5_1 => {
            fill(&|i| nibble(&block[8..], i) | fifth(&block[4..], i));
            ([&block[..2], &block[2..4]], none)
        }
        Stored::Q4K => {
            fill(&|i| nibble_of_q4_k(&block[16..], i));
            ([&block[..2], &block[2..4]], &block[4..16])
        }
        Stored::Q5K => {
            fill(&|i| super::dequantise::number_of_q5_k(&block[16..], i));
            ([&block[..2], &block[2..4]], &block[4..16])
        }
        Stored::Q6K => {
            fill(&|i| number_of_q6_k(&block[..128], &block[128..192], i));
            ([&block[208..], none], &block[192..208])
        }
        other => unreachable!("{} has no tile of integers: bug", other.name()),
    };
    Opened { halves, small, q }
}

/// Puts one row's block into a tile's block, whose bits for this row are zero.
pub(super) fn put(kind: Stored, block: &[u8], at: Place, head: &mut [u8], body: &mut [u8]) {
    let parts = Parts::of(kind);
    let Opened { halves, small, q } = open(kind, block);
    for (i, half) in halves.iter().take(parts.n_halves).enumerate() {
        head[i * HALVES + 2 * at.row..][..2].copy_from_slice(half);
    }
    for (i, four) in small.chunks_exact(4).enumerate() {
        body[at.byte(i, 0)..][..4].copy_from_slice(four);
    }
    let (bits, qs) = (parts.bits(), parts.qs());
    if !parts.has_nibbles {
        for (group, four) in q[..parts.len].chunks_exact(4).enumerate() {
            body[qs + at.byte(group, 0)..][..4].copy_from_slice(four);
        }
        return;
    }
    for (i, &q) in q[..parts.len].iter().enumerate() {
        let (group, j) = (i / 4, i % 4);
        body[qs + at.byte(group / 2, j)] |= (q & 15) << (group % 2 * 4);
        if parts.has_fifth_bits {
            let bit = 4 * at.row + j;
            body[bits + group * GROUP_BITS + bit / 8] |= (q >> 4) << (bit % 8);
        }
        if parts.has_two_bits {
            body[bits + at.byte(group / 4, j)] |= (q >> 4) << (group % 4 * 2);
        }
    }
}

/// One row's numbers from a tile's block, as the file's block would give them.
pub(super) fn numbers(kind: Stored, (head, body): (&[u8], &[u8]), at: Place, out: &mut [f32]) {
    let parts = Parts::of(kind);
    let half = |i: usize| {
        let b = &head[i * HALVES + 2 * at.row..];
        half::f16::from_le_bytes([b[0], b[1]]).to_f32()
    };
    let small = |i: usize| body[at.byte(i / 4, i % 4)];
    let mut q = [0u8; 256];
    let q = &mut q[..parts.len];
    parts.integers(body, at, q);
    let d = half(0);
    // `factor · (q − zero)`.
    let scaled = |(out, q): (&mut [f32], &[u8]), factor: f32, zero: i32| {
        out.iter_mut().zip(q).for_each(|(x, &q)| *x = factor * (i32::from(q) - zero) as f32);
    };
    match kind {
        Stored::Q8_0 => scaled((out, q), d, 128),
        Stored::Q4_0 => scaled((out, q), d, 8),
        Stored::Q5_0 => scaled((out, q), d, 16),
        Stored::Q4_1 | Stored::Q5_1 => {
            let least = half(1);
            out.iter_mut().zip(q.iter()).for_each(|(x, &q)| *x = d * f32::from(q) + least);
        }
        Stored::Q6K => {
            for (part, of_part) in out.chunks_exact_mut(16).zip(q.chunks_exact(16)).enumerate() {
                scaled(of_part, d * f32::from(small(part) as i8), 32);
            }
        }
        _ => {
            let packed: [u8; 12] = std::array::from_fn(small);
            let (scales, d_least) = (super::dequantise::scales_of_q4_k(&packed), half(1));
            for ((out, q), (scale, least)) in out.chunks_exact_mut(32).zip(q.chunks_exact(32)).zip(scales) {
                let (factor, least) = (d * f32::from(scale), d_least * f32::from(least));
                out.iter_mut().zip(q).for_each(|(x, &q)| *x = factor * f32::from(q) - least);
            }
        }
    }
}

impl Parts {
    /// One row's integers, four at a time as they lie in a word.
    fn integers(&self, body: &[u8], at: Place, q: &mut [u8]) {
        let word = |first: usize, group: usize| {
            let four: [u8; 4] = body[first + at.byte(group, 0)..][..4].try_into().expect("four bytes: bug");
            u32::from_le_bytes(four)
        };
        let (bits, qs) = (self.bits(), self.qs());
        if !self.has_nibbles {
            for (group, four) in q.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(qs, group).to_le_bytes());
            }
            return;
        }
        for (pair, eight) in q.chunks_exact_mut(8).enumerate() {
            let both = word(qs, pair);
            let mut fours = [both & 0x0F0F_0F0F, both >> 4 & 0x0F0F_0F0F];
            for (group, four) in fours.iter_mut().enumerate().map(|(i, four)| (2 * pair + i, four)) {
                if self.has_fifth_bits {
                    let of_two_rows = body[bits + group * GROUP_BITS + at.row / 2];
                    let of_row = u32::from(of_two_rows >> (at.row % 2 * 4) & 15);
                    // Bit i of four goes to the lowest bit of byte i.
                    *four |= ((of_row * 0x0020_4081) & 0x0101_0101) << 4;
                }
                if self.has_two_bits {
                    *four |= (word(bits, group / 4) >> (group % 4 * 2) & 0x0303_0303) << 4;
                }
            }
            eight[..4].copy_from_slice(&fours[0].to_le_bytes());
            eight[4..].copy_from_slice(&fours[1].to_le_bytes());
        }
    }
}
