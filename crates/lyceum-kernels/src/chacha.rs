//! The words of ChaCha20 (Bernstein 2008; 20 rounds, 256-bit key, 64-bit block counter, 64-bit stream), many
//! blocks at a time. It knows neither what the words are for nor where keys come from.
//!
//! The words are those of the `rand_chacha` crate, bit for bit on every path. Only their order within a group
//! of 16 blocks differs: word `w` of block `b` lies at `16 w + b`, as vectors hold them, so that nothing is
//! transposed.

use crate::cpu::CpuPath;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd, on_path};

/// Blocks whose words lie side by side, and the words of such a group.
pub(crate) const GROUP_BLOCKS: usize = 16;
pub(crate) const GROUP_WORDS: usize = 16 * GROUP_BLOCKS;

/// A key as ChaCha's eight words.
pub(crate) fn key_words(key: &[u8; 32]) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// Fills whole groups with the words of the blocks from number `block` on.
pub(crate) fn fill(path: CpuPath, key: &[u32; 8], stream: u64, block: u64, out: &mut [u32]) {
    assert_eq!(out.len() % GROUP_WORDS, 0, "chacha: whole groups");
    on_path!(path, groups(key: &[u32; 8], stream: u64, block: u64, out: &mut [u32]));
}

/// Lanes of 32-bit words, one block to a lane.
///
/// # Safety
/// As of [`Simd`].
trait Words: Simd {
    /// Divides [`GROUP_BLOCKS`].
    const BLOCKS: usize;
    /// States that fit into the registers: rounds of one wait for each other, those of two fill the gaps.
    const STATES: usize;
    type W: Copy;

    unsafe fn splat_word(x: u32) -> Self::W;
    unsafe fn load_words(p: *const u32) -> Self::W;
    unsafe fn store_words(p: *mut u32, v: Self::W);
    unsafe fn add_words(a: Self::W, b: Self::W) -> Self::W;
    /// `a ^ b`, turned left by `L` bits; `R = 32 - L`.
    unsafe fn xor_turn<const L: i32, const R: i32>(a: Self::W, b: Self::W) -> Self::W;
}

#[inline(always)]
unsafe fn groups<S: Words>(key: &[u32; 8], stream: u64, block: u64, out: &mut [u32]) {
    let mut at = block;
    let mut pairs = out.chunks_exact_mut(S::STATES * GROUP_WORDS);
    for groups in &mut pairs {
        // SAFETY: the caller has the path; `groups` are as many as there are states.
        unsafe {
            match S::STATES {
                1 => group::<S, 1>(key, stream, at, groups),
                _ => group::<S, 2>(key, stream, at, groups),
            }
        }
        at = at.wrapping_add((S::STATES * GROUP_BLOCKS) as u64);
    }
    for one in pairs.into_remainder().chunks_exact_mut(GROUP_WORDS) {
        // SAFETY: as above; one group, one state.
        unsafe { group::<S, 1>(key, stream, at, one) };
        at = at.wrapping_add(GROUP_BLOCKS as u64);
    }
}

/// `N` groups, a state each.
#[inline(always)]
unsafe fn group<S: Words, const N: usize>(key: &[u32; 8], stream: u64, block: u64, out: &mut [u32]) {
    for first in (0..GROUP_BLOCKS).step_by(S::BLOCKS) {
        // SAFETY: the caller has the path; word 15's last lane is the last group's word `GROUP_WORDS - 1` at most.
        unsafe { blocks::<S, N>(key, stream, block.wrapping_add(first as u64), out.as_mut_ptr().add(first)) }
    }
}

/// `S::BLOCKS` blocks from number `block` on, and as many of each further group; word `w` of group `g` goes to
/// `out + GROUP_WORDS g + 16 w`.
#[inline(always)]
unsafe fn blocks<S: Words, const N: usize>(key: &[u32; 8], stream: u64, block: u64, out: *mut u32) {
    let (mut low, mut high) = ([0; 2 * GROUP_BLOCKS], [0; 2 * GROUP_BLOCKS]);
    for i in 0..N * GROUP_BLOCKS {
        let number = block.wrapping_add(i as u64);
        (low[i], high[i]) = (number as u32, (number >> 32) as u32);
    }
    // SAFETY: the caller has the path and gives the place; `low` and `high` have the words of two groups.
    unsafe {
        let mut x = [start::<S>(key, stream, low.as_ptr(), high.as_ptr()); N];
        if let Some(second) = x.get_mut(1) {
            second[12] = S::load_words(low.as_ptr().add(GROUP_BLOCKS));
            second[13] = S::load_words(high.as_ptr().add(GROUP_BLOCKS));
        }
        let begun = x;
        for _ in 0..10 {
            quarters::<S, N>(&mut x, [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]);
            quarters::<S, N>(&mut x, [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]]);
        }
        for g in 0..N {
            for w in 0..16 {
                let word = S::add_words(x[g][w], begun[g][w]);
                S::store_words(out.add(GROUP_WORDS * g + GROUP_BLOCKS * w), word);
            }
        }
    }
}

/// The state of the blocks whose numbers `low` and `high` hold, before the rounds.
#[inline(always)]
unsafe fn start<S: Words>(key: &[u32; 8], stream: u64, low: *const u32, high: *const u32) -> [S::W; 16] {
    // SAFETY: the caller has the path and gives the words of `S::BLOCKS` blocks.
    unsafe {
        [
            // "expand 32-byte k"
            S::splat_word(0x6170_7865),
            S::splat_word(0x3320_646e),
            S::splat_word(0x7962_2d32),
            S::splat_word(0x6b20_6574),
            S::splat_word(key[0]),
            S::splat_word(key[1]),
            S::splat_word(key[2]),
            S::splat_word(key[3]),
            S::splat_word(key[4]),
            S::splat_word(key[5]),
            S::splat_word(key[6]),
            S::splat_word(key[7]),
            S::load_words(low),
            S::load_words(high),
            S::splat_word(stream as u32),
            S::splat_word((stream >> 32) as u32),
        ]
    }
}

/// Four quarter rounds of each state, whose steps do not wait for each other.
#[inline(always)]
unsafe fn quarters<S: Words, const N: usize>(x: &mut [[S::W; 16]; N], of: [[usize; 4]; 4]) {
    // SAFETY: the caller has the path.
    unsafe {
        step::<S, N, 16, 16>(x, of, [0, 1, 3]);
        step::<S, N, 12, 20>(x, of, [2, 3, 1]);
        step::<S, N, 8, 24>(x, of, [0, 1, 3]);
        step::<S, N, 7, 25>(x, of, [2, 3, 1]);
    }
}

/// `a += b; c = (c ^ a) <<< L` of all quarters.
#[inline(always)]
unsafe fn step<S: Words, const N: usize, const L: i32, const R: i32>(
    x: &mut [[S::W; 16]; N],
    of: [[usize; 4]; 4],
    [a, b, c]: [usize; 3],
) {
    for words in of {
        for x in &mut *x {
            let (a, b, c) = (words[a], words[b], words[c]);
            // SAFETY: the caller has the path.
            unsafe {
                x[a] = S::add_words(x[a], x[b]);
                x[c] = S::xor_turn::<L, R>(x[c], x[a]);
            }
        }
    }
}

impl Words for Portable {
    const BLOCKS: usize = 1;
    const STATES: usize = 1;
    type W = u32;

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> u32 {
        x
    }
    #[inline(always)]
    unsafe fn load_words(p: *const u32) -> u32 {
        // SAFETY: the caller gives a readable word.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, v: u32) {
        // SAFETY: the caller gives a writable word.
        unsafe { *p = v }
    }
    #[inline(always)]
    unsafe fn add_words(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    unsafe fn xor_turn<const L: i32, const R: i32>(a: u32, b: u32) -> u32 {
        (a ^ b).rotate_left(L as u32)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Words};
    use std::arch::x86_64::*;

    impl Words for Avx2 {
        const BLOCKS: usize = 8;
        const STATES: usize = 1;
        type W = __m256i;

        #[inline(always)]
        unsafe fn splat_word(x: u32) -> __m256i {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_set1_epi32(x as i32) }
        }
        #[inline(always)]
        unsafe fn load_words(p: *const u32) -> __m256i {
            // SAFETY: the caller has AVX2 and gives eight readable words.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_words(p: *mut u32, v: __m256i) {
            // SAFETY: the caller has AVX2 and gives eight writable words.
            unsafe { _mm256_storeu_si256(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_words(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn xor_turn<const L: i32, const R: i32>(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller has AVX2.
            unsafe {
                let x = _mm256_xor_si256(a, b);
                _mm256_or_si256(_mm256_slli_epi32::<L>(x), _mm256_srli_epi32::<R>(x))
            }
        }
    }

    impl Words for Avx512 {
        const BLOCKS: usize = 16;
        const STATES: usize = 2;
        type W = __m512i;

        #[inline(always)]
        unsafe fn splat_word(x: u32) -> __m512i {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_set1_epi32(x as i32) }
        }
        #[inline(always)]
        unsafe fn load_words(p: *const u32) -> __m512i {
            // SAFETY: the caller has AVX-512 and gives sixteen readable words.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_words(p: *mut u32, v: __m512i) {
            // SAFETY: the caller has AVX-512 and gives sixteen writable words.
            unsafe { _mm512_storeu_si512(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn add_words(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn xor_turn<const L: i32, const R: i32>(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_rol_epi32::<L>(_mm512_xor_si512(a, b)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    #[test]
    fn every_path_has_the_words_of_rand_chacha() {
        let mut key = [0; 32];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = (37 * i + 11) as u8;
        }
        // The last: the counter's lower half runs over within a group.
        let places = [(0, 0), (1, 4096), (0x0123_4567_89ab_cdef, 5), (u64::MAX, (3 << 32) - 21)];
        for (stream, block) in places {
            let mut rng = ChaCha20Rng::from_seed(key);
            rng.set_stream(stream);
            rng.set_word_pos(u128::from(block) * 16);
            let want: Vec<u32> = (0..3 * GROUP_WORDS).map(|_| rng.next_u32()).collect();
            for &path in cpu::available() {
                let mut got = vec![0; want.len()];
                fill(path, &key_words(&key), stream, block, &mut got);
                for (i, &want) in want.iter().enumerate() {
                    let (group, b, w) = (i / GROUP_WORDS, i % GROUP_WORDS / 16, i % 16);
                    let at = group * GROUP_WORDS + GROUP_BLOCKS * w + b;
                    assert_eq!(got[at], want, "{path:?}: stream {stream}, block {block}, word {i}");
                }
            }
        }
    }
}
