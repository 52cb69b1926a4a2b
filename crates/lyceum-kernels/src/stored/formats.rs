//! How each type lies in a tile, and how a tile's bytes become vectors for the products.
//!
//! A tile is 16 rows of a weight, a block of it the rows' blocks of a file in another order, so that no byte
//! is added. Four tiles are woven: their first blocks stand together, then their second blocks, so that a
//! product with one row reads one stream from its beginning to its end.
//!
//! ```text
//! heads of the four   scales: f16 of each row [16]; then minima [16] where the type has them
//! bodies of the four:
//!   small scales      [16 rows][4] bytes, three or four times        (types with blocks of 256)
//!   fifth bits        of a group: bit 4 · row + i                    [groups][8] bytes
//!   two bits          of four groups, at 2 · group of a byte         [groups / 4][16 rows][4]
//!   numbers           of a group of four along k                     [groups][16 rows][4] bytes, or
//!                     two groups in the low and high halves          [groups / 2][16 rows][4] bytes
//! ```
//!
//! Types of floats have no head, and blocks of two numbers along `k`.

use super::lanes::Lanes;

/// Rows of a tile, on every path.
pub(super) const ROWS: usize = 16;
/// Tiles that are woven; the last ones may be fewer.
pub(super) const WOVEN: usize = 4;
/// Bytes of one f16 for each row, and of four bytes for each row.
pub(super) const HALVES: usize = 2 * ROWS;
pub(super) const GROUP: usize = 4 * ROWS;
/// Bytes of one bit for each of a group's numbers.
pub(super) const GROUP_BITS: usize = GROUP / 8;

/// Weights that are floats: blocks of two numbers along `k`.
pub(super) trait Floats {
    /// Bytes of a block of a tile.
    const BODY: usize;
    /// The numbers of both steps; `at` as in [`Numbers::pair`].
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    unsafe fn pair<L: Lanes>(body: *const u8, at: usize) -> (L::F, L::F);
}

/// Two of them in a lane, the earlier in the low half.
pub(super) struct Bf16;
impl Floats for Bf16 {
    const BODY: usize = GROUP;
    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, at: usize) -> (L::F, L::F) {
        // SAFETY: the caller's.
        unsafe {
            let both = L::load(body.add(at));
            let high = L::and(both, L::splat(0xFFFF_0000u32 as i32));
            (L::as_float(L::shl32::<16>(both)), L::as_float(high))
        }
    }
}

/// Sixteen of one step, then sixteen of the next.
pub(super) struct F16;
impl Floats for F16 {
    const BODY: usize = 2 * HALVES;
    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, at: usize) -> (L::F, L::F) {
        // SAFETY: the caller's.
        unsafe { (L::load_half(body.add(at / 2)), L::load_half(body.add(HALVES + at / 2))) }
    }
}

/// As [`F16`].
pub(super) struct F32;
impl Floats for F32 {
    const BODY: usize = 2 * GROUP;
    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, at: usize) -> (L::F, L::F) {
        // SAFETY: the caller's.
        unsafe { (L::load_float(body.add(at).cast()), L::load_float(body.add(GROUP + at).cast())) }
    }
}

/// How the numbers of a block are found.
pub(super) trait Numbers {
    /// Whether a number needs all eight bits ([`Lanes::dot_wide`], which has its own offset).
    const WIDE: bool;
    /// What is stored for the number that means zero, in types without minima.
    const ZERO: f32;
    /// The vectors of groups `2 · pair` and `2 · pair + 1` from the body of a tile's block; `at` is where this
    /// vector's rows begin in a group (in bytes).
    ///
    /// # Safety
    /// As [`Lanes`]; the block is whole.
    unsafe fn pair<L: Lanes>(body: *const u8, pair: usize, at: usize) -> (L::I, L::I);
}

/// A type with blocks of 32 and a scale for each.
pub(super) trait Small: Numbers {
    /// Bytes of the head and of the body of a tile's block.
    const HEAD: usize;
    const BODY: usize;
    /// Whether a minimum is added to the numbers; else they have an offset.
    const LEAST: bool;
    /// The scales; `at` as in [`Numbers::pair`].
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    #[inline(always)]
    unsafe fn scale<L: Lanes>(head: *const u8, at: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load_half(head.add(at / 2)) }
    }
    /// The minima, where there are some.
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    #[inline(always)]
    unsafe fn least<L: Lanes>(head: *const u8, at: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load_half(head.add(HALVES + at / 2)) }
    }
}

/// A type with blocks of 256 whose parts have small integers for scales.
pub(super) trait Super: Numbers {
    const HEAD: usize;
    const BODY: usize;
    /// Numbers that share a small scale: 32 or 16.
    const PART: usize;
    /// Whether a block has floats for its parts' scales ([`super::opened`]): it has no quads then, and lies in the
    /// cache.
    const OPENED: bool = false;
    /// The small scales of parts `4 · quad ..`, a byte each.
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    unsafe fn quad<L: Lanes>(body: *const u8, quad: usize, at: usize) -> L::I;
    /// The scale of part `part`, that of the block times the small one in the lowest byte of `four`, which is shifted
    /// away.
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    unsafe fn factor<L: Lanes>(four: &mut L::I, head: *const u8, part: usize, at: usize) -> L::F;
    /// What the sums of products with [`Super::constant`] are multiplied by before they are taken off.
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    unsafe fn least<L: Lanes>(head: *const u8, at: usize) -> L::F;
    /// What is multiplied with the sums of the activations: word `word` of the minima, or of the scales, two
    /// 16-bit integers that belong together as the words of [`super::activations`].
    ///
    /// # Safety
    /// As [`Numbers::pair`].
    unsafe fn constant<L: Lanes>(body: *const u8, word: usize, at: usize) -> L::I;
}

const LOW: i32 = 0x0F0F_0F0F;

#[inline(always)]
unsafe fn nibbles<L: Lanes>(p: *const u8) -> (L::I, L::I) {
    // SAFETY: the caller's.
    unsafe {
        let (both, mask) = (L::load(p), L::splat(LOW));
        (L::and(both, mask), L::and(L::shr16::<4>(both), mask))
    }
}

/// Halves with a fifth bit for each number.
#[inline(always)]
unsafe fn fives<L: Lanes>(qs: *const u8, bits: *const u8, pair: usize, at: usize) -> (L::I, L::I) {
    // SAFETY: the caller's; eight bytes of bits a group, a byte for two rows.
    unsafe {
        let (low, high) = nibbles::<L>(qs.add(pair * GROUP + at));
        let bits = bits.add(2 * pair * GROUP_BITS + at / 8);
        (L::with_sixteens(low, bits), L::with_sixteens(high, bits.add(GROUP_BITS)))
    }
}

macro_rules! small {
    ($(#[$doc:meta])* $name:ident, head $head:expr, body $body_len:expr, least $least:literal, zero $zero:literal, wide $wide:literal,
     |$body:ident, $pair:ident, $at:ident| $value:expr) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl Numbers for $name {
            const WIDE: bool = $wide;
            const ZERO: f32 = $zero;
            #[inline(always)]
            unsafe fn pair<L: Lanes>($body: *const u8, $pair: usize, $at: usize) -> (L::I, L::I) {
                // SAFETY: the caller's; offsets are inside the block.
                unsafe { $value }
            }
        }
        impl Small for $name {
            const HEAD: usize = $head;
            const BODY: usize = $body_len;
            const LEAST: bool = $least;
        }
    };
}

/// Bytes of the numbers of 32 · 16.
const NIBBLES: usize = 4 * GROUP;
const BITS: usize = 8 * GROUP_BITS;

small!(Q8_0, head HALVES, body 8 * GROUP, least false, zero 128.0, wide true, |body, pair, at| {
    let p = body.add(2 * pair * GROUP + at);
    (L::load(p), L::load(p.add(GROUP)))
});
small!(Q4_0, head HALVES, body NIBBLES, least false, zero 8.0, wide false, |body, pair, at| {
    nibbles::<L>(body.add(pair * GROUP + at))
});
small!(Q4_1, head 2 * HALVES, body NIBBLES, least true, zero 0.0, wide false, |body, pair, at| {
    nibbles::<L>(body.add(pair * GROUP + at))
});
small!(Q5_0, head HALVES, body BITS + NIBBLES, least false, zero 16.0, wide false, |body, pair, at| {
    fives::<L>(body.add(BITS), body, pair, at)
});
small!(Q5_1, head 2 * HALVES, body BITS + NIBBLES, least true, zero 0.0, wide false, |body, pair, at| {
    fives::<L>(body.add(BITS), body, pair, at)
});

/// The scales of parts `4 · half ..` of Q4_K or Q5_K, one in each byte: six bits, of which the first half's
/// are together and the second half's in two places. `group` is 0 for scales and 1 for minima.
#[inline(always)]
unsafe fn six_bits<L: Lanes>(body: *const u8, group: usize, half: usize, at: usize) -> L::I {
    // SAFETY: the caller's.
    unsafe {
        let first = L::load(body.add(group * GROUP + at));
        if half == 0 {
            return L::and(first, L::splat(0x3F3F_3F3F));
        }
        let mut low = L::load(body.add(2 * GROUP + at));
        if group == 1 {
            low = L::shr16::<4>(low);
        }
        let high = L::and(L::shr16::<2>(first), L::splat(0x3030_3030));
        L::or(L::and(low, L::splat(LOW)), high)
    }
}

macro_rules! with_least {
    ($name:ident, body $body_len:expr, |$body:ident, $pair:ident, $at:ident| $value:expr) => {
        pub(super) struct $name;
        impl Numbers for $name {
            const WIDE: bool = false;
            const ZERO: f32 = 0.0;
            #[inline(always)]
            unsafe fn pair<L: Lanes>($body: *const u8, $pair: usize, $at: usize) -> (L::I, L::I) {
                // SAFETY: the caller's; offsets are inside the block.
                unsafe { $value }
            }
        }
        impl Super for $name {
            const HEAD: usize = 2 * HALVES;
            const BODY: usize = $body_len;
            const PART: usize = 32;
            #[inline(always)]
            unsafe fn quad<L: Lanes>(body: *const u8, quad: usize, at: usize) -> L::I {
                // SAFETY: the caller's.
                unsafe { six_bits::<L>(body, 0, quad, at) }
            }
            #[inline(always)]
            unsafe fn factor<L: Lanes>(four: &mut L::I, head: *const u8, _: usize, at: usize) -> L::F {
                // SAFETY: the caller's.
                unsafe {
                    let scale = L::and(*four, L::splat(0xFF));
                    *four = L::shr32::<8>(*four);
                    L::mul_float(L::to_float(scale), L::load_half(head.add(at / 2)))
                }
            }
            #[inline(always)]
            unsafe fn least<L: Lanes>(head: *const u8, at: usize) -> L::F {
                // SAFETY: the caller's.
                unsafe { L::load_half(head.add(HALVES + at / 2)) }
            }
            #[inline(always)]
            unsafe fn constant<L: Lanes>(body: *const u8, word: usize, at: usize) -> L::I {
                // SAFETY: the caller's.
                unsafe {
                    let four = six_bits::<L>(body, 1, word / 2, at);
                    let two = if word.is_multiple_of(2) { four } else { L::shr16::<8>(four) };
                    L::and(two, L::splat(0x00FF_00FF))
                }
            }
        }
    };
}

const SUPER_BITS: usize = 64 * GROUP_BITS;
const SUPER_NIBBLES: usize = 32 * GROUP;

/// Where the numbers of Q4_K, or the fifth bits of Q5_K, begin: after three groups of small scales.
const AFTER_SCALES: usize = 3 * GROUP;

with_least!(Q4K, body AFTER_SCALES + SUPER_NIBBLES, |body, pair, at| {
    nibbles::<L>(body.add(AFTER_SCALES + pair * GROUP + at))
});
with_least!(Q5K, body AFTER_SCALES + SUPER_BITS + SUPER_NIBBLES, |body, pair, at| {
    let bits = body.add(AFTER_SCALES);
    fives::<L>(bits.add(SUPER_BITS), bits, pair, at)
});

/// Six bits, `q − 32`, a signed scale for 16 numbers.
pub(super) struct Q6K;

/// Where its parts begin, after four groups of small scales.
const Q6K_HIGH: usize = 4 * GROUP;
const Q6K_LOW: usize = Q6K_HIGH + 16 * GROUP;

impl Numbers for Q6K {
    const WIDE: bool = false;
    const ZERO: f32 = 32.0;
    #[inline(always)]
    unsafe fn pair<L: Lanes>(body: *const u8, pair: usize, at: usize) -> (L::I, L::I) {
        // SAFETY: the caller's; offsets are inside the block.
        unsafe {
            let (low, high) = nibbles::<L>(body.add(Q6K_LOW + pair * GROUP + at));
            let two = L::load(body.add(Q6K_HIGH + pair / 2 * GROUP + at));
            let mask = L::splat(0x3030_3030);
            let (first, second) = if pair.is_multiple_of(2) {
                (L::shl16::<4>(two), L::shl16::<2>(two))
            } else {
                (two, L::shr16::<2>(two))
            };
            (L::or(low, L::and(first, mask)), L::or(high, L::and(second, mask)))
        }
    }
}

impl Super for Q6K {
    const HEAD: usize = HALVES;
    const BODY: usize = Q6K_LOW + SUPER_NIBBLES;
    const PART: usize = 16;
    #[inline(always)]
    unsafe fn quad<L: Lanes>(body: *const u8, quad: usize, at: usize) -> L::I {
        // SAFETY: the caller's.
        unsafe { L::load(body.add(quad * GROUP + at)) }
    }
    #[inline(always)]
    unsafe fn factor<L: Lanes>(four: &mut L::I, head: *const u8, _: usize, at: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe {
            let scale = L::shr32_signed::<24>(L::shl32::<24>(*four));
            *four = L::shr32::<8>(*four);
            L::mul_float(L::to_float(scale), L::load_half(head.add(at / 2)))
        }
    }
    /// The numbers mean `q − 32`.
    #[inline(always)]
    unsafe fn least<L: Lanes>(head: *const u8, at: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::mul_float(L::load_half(head.add(at / 2)), L::float(32.0)) }
    }
    #[inline(always)]
    unsafe fn constant<L: Lanes>(body: *const u8, word: usize, at: usize) -> L::I {
        // SAFETY: the caller's.
        unsafe {
            let four = L::load(body.add(word / 2 * GROUP + at));
            let two = if word.is_multiple_of(2) { L::shl16::<8>(four) } else { four };
            L::shr16_signed::<8>(two)
        }
    }
}
