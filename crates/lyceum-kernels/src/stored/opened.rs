//! Stretches of a weight with blocks of 256, opened: one byte for each number and floats for its parts' scales.
//! Many rows of activations are multiplied by these, so that bits are taken apart once and not for every panel.
//! (With blocks of 32 that is no faster, there being little to take apart, but where [`super::amx`] wants their numbers
//! with signs.)
//!
//! Opened blocks are types of their own for the tiles: the same integers and the same floats, so the same
//! chains and the same bits as the blocks that they were made from. They lie woven as those do.

use super::formats::{GROUP, Numbers, Super};
use super::lanes::Lanes;
use crate::simd::prefetch;

/// How far ahead the weight is asked for, in bytes.
const AHEAD: usize = 4096;

/// Bytes of an opened tile's numbers.
const BYTES: usize = 64 * GROUP;

macro_rules! opened_super {
    ($(#[$doc:meta])* $name:ident, part $part:literal, words $words:literal) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl Numbers for $name {
            const WIDE: bool = false;
            const ZERO: f32 = 0.0;
            #[inline(always)]
            unsafe fn pair<L: Lanes>(body: *const u8, pair: usize, at: usize) -> (L::I, L::I) {
                // SAFETY: the caller's.
                unsafe {
                    let p = body.add(2 * pair * GROUP + at);
                    (L::load(p), L::load(p.add(GROUP)))
                }
            }
        }
        impl Super for $name {
            const HEAD: usize = (256 / $part + 1) * GROUP;
            const BODY: usize = BYTES + $words * GROUP;
            const PART: usize = $part;
            const OPENED: bool = true;
            #[inline(always)]
            unsafe fn quad<L: Lanes>(_: *const u8, _: usize, _: usize) -> L::I {
                // SAFETY: the caller's.
                unsafe { L::splat(0) }
            }
            #[inline(always)]
            unsafe fn factor<L: Lanes>(_: &mut L::I, head: *const u8, part: usize, at: usize) -> L::F {
                // SAFETY: the caller's.
                unsafe { L::load_float(head.add(part * GROUP + at).cast()) }
            }
            #[inline(always)]
            unsafe fn least<L: Lanes>(head: *const u8, at: usize) -> L::F {
                // SAFETY: the caller's.
                unsafe { L::load_float(head.add(256 / $part * GROUP + at).cast()) }
            }
            #[inline(always)]
            unsafe fn constant<L: Lanes>(body: *const u8, word: usize, at: usize) -> L::I {
                // SAFETY: the caller's.
                unsafe { L::load(body.add(BYTES + word * GROUP + at)) }
            }
        }
    };
}

opened_super!(
    /// Of a type whose parts are 32 numbers: the parts' scales and that of the constants, then bytes, then the
    /// constants.
    Opened32, part 32, words 4
);
opened_super!(
    /// The same with parts of 16.
    Opened16, part 16, words 8
);

/// Some woven tiles of a weight, and where they are opened to.
pub(super) struct Opening {
    /// The first block's heads and bodies, and the bytes from a block to the next.
    pub heads: *const u8,
    pub bodies: *const u8,
    pub block_step: usize,
    pub n_tiles: usize,
    pub n_blocks: usize,
    pub to: *mut u8,
}

pub(super) type OpenFn = unsafe fn(&Opening);

/// A tile's head and body in a block, and the head and body that it becomes.
pub(super) struct Pair {
    pub from: [*const u8; 2],
    pub to: [*mut u8; 2],
}

impl Opening {
    /// Tile `i % n_tiles` in block `i / n_tiles`, given the bytes of heads and bodies.
    #[inline(always)]
    pub fn pair(&self, i: usize, [head, body]: [usize; 2], [to_head, to_body]: [usize; 2]) -> Pair {
        let (block, tile) = (i / self.n_tiles, i % self.n_tiles);
        let from = block * self.block_step;
        let to = self.to.wrapping_add(block * self.n_tiles * (to_head + to_body));
        Pair {
            from: [self.heads.wrapping_add(from + tile * head), self.bodies.wrapping_add(from + tile * body)],
            to: [to.wrapping_add(tile * to_head), to.wrapping_add(self.n_tiles * to_head + tile * to_body)],
        }
    }
}

/// The bytes of `pairs` pairs of groups.
#[inline(always)]
unsafe fn bytes<L: Lanes, F: Numbers>(from: *const u8, to: *mut u8, pairs: usize, at: usize) {
    for pair in 0..pairs {
        // SAFETY: the caller's.
        unsafe {
            let (first, second) = F::pair::<L>(from, pair, at);
            L::store(to.add(2 * pair * GROUP + at), first);
            L::store(to.add((2 * pair + 1) * GROUP + at), second);
        }
    }
}

/// Opens blocks of `F` as blocks of `O`, which has the same parts.
///
/// # Safety
/// The processor is that of `L`; the tiles are there, and room for what they become.
#[inline(always)]
pub(super) unsafe fn open_super<L: Lanes, F: Super, O: Super>(opening: &Opening) {
    const { assert!(F::PART == O::PART) };
    let n_parts = 256 / F::PART;
    // SAFETY: the caller's.
    unsafe {
        for i in 0..opening.n_blocks * opening.n_tiles {
            let Pair { from: [head, body], to: [to_head, to_body] } =
                opening.pair(i, [F::HEAD, F::BODY], [O::HEAD, O::BODY]);
            for line in (0..F::HEAD + F::BODY).step_by(64) {
                prefetch(body.wrapping_add(AHEAD + line).cast());
            }
            for at in (0..GROUP).step_by(4 * L::N) {
                let mut four = L::splat(0);
                for part in 0..n_parts {
                    if part % 4 == 0 {
                        four = F::quad::<L>(body, part / 4, at);
                    }
                    let factor = F::factor::<L>(&mut four, head, part, at);
                    L::store_up_to(to_head.add(part * GROUP + at).cast(), factor, L::N);
                }
                L::store_up_to(to_head.add(n_parts * GROUP + at).cast(), F::least::<L>(head, at), L::N);
                bytes::<L, F>(body, to_body, 32, at);
                for word in 0..n_parts / 2 {
                    L::store(to_body.add(BYTES + word * GROUP + at), F::constant::<L>(body, word, at));
                }
            }
        }
    }
}
