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
        Parts { n_halves, n_small, len: kind.block_len(), has_fifth_bits, has_two_bits: kind == Stored::Q6K }
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
    if kind == Stored::Q8_0 {
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
    let (d, bits, qs) = (half(0), parts.bits(), parts.qs());
    let q = |i: usize| {
        let (group, j) = (i / 4, i % 4);
        let mut q = body[qs + at.byte(group / 2, j)] >> (group % 2 * 4) & 15;
        if parts.has_fifth_bits {
            let bit = 4 * at.row + j;
            q |= (body[bits + group * GROUP_BITS + bit / 8] >> (bit % 8) & 1) << 4;
        }
        if parts.has_two_bits {
            q |= (body[bits + at.byte(group / 4, j)] >> (group % 4 * 2) & 3) << 4;
        }
        q
    };
    let mut fill = |f: &dyn Fn(usize) -> f32| out.iter_mut().enumerate().for_each(|(i, x)| *x = f(i));
    match kind {
        Stored::Q8_0 => fill(&|i| d * (i32::from(body[qs + at.byte(i / 4, i % 4)]) - 128) as f32),
        Stored::Q4_0 => fill(&|i| d * (i32::from(q(i)) - 8) as f32),
        Stored::Q5_0 => fill(&|i| d * (i32::from(q(i)) - 16) as f32),
        Stored::Q4_1 | Stored::Q5_1 => fill(&|i| d * f32::from(q(i)) + half(1)),
        Stored::Q6K => fill(&|i| d * f32::from(small(i / 16) as i8) * (i32::from(q(i)) - 32) as f32),
        _ => {
            let packed: [u8; 12] = std::array::from_fn(small);
            let scales = super::dequantise::scales_of_q4_k(&packed);
            let d_least = half(1);
            fill(&|i| {
                let (scale, least) = scales[i / 32];
                d * f32::from(scale) * f32::from(q(i)) - d_least * f32::from(least)
            });
        }
    }
}
