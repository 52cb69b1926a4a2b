//! Gaussian noise from ChaCha20, added to f32 numbers. It knows nothing of privacy: what key and what deviation
//! are right is its caller's matter.
//!
//! Half the sum of four Gaussian samples, as two pairs of Box and Muller (radius `√(-2 ln u)`, angle `θ`). By
//! `sin θ + cos θ = √2 sin(θ + π/4)` a pair needs one sine; the sine of a uniform angle is distributed as that of
//! a uniform angle in `[-π/2, π/2]`, so nothing is reduced; and the factors `½ · √2 · √2` are 1:
//!
//! ```text
//! z = √(-ln u₁) · sin(π/2 · v₁) + √(-ln u₂) · sin(π/2 · v₂),    u ∈ [2⁻⁶⁴, 1], v ∈ [-1, 1]
//! ```
//!
//! Each of the four uniforms is made of 64 bits, so one pair's tail ends at 9.4 deviations (at 8.6 with the
//! customary 53 bits), and who would trace `z` back has the same four numbers to find as with the six
//! functions written out.
//!
//! The bodies are plain loops without fused multiply-adds: addition, product, quotient and root are rounded by
//! IEEE 754, so each path, and each little-endian processor, has the same bits.

use crate::chacha::{self, GROUP_WORDS};
use crate::simd::{Simd, on_path};
use crate::{cpu, pool};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2};

/// Numbers that one place of the generator serves, and the blocks kept for them (an eighth is used).
pub const CHUNK: usize = 1024;
const CHUNK_BLOCKS: u64 = 1 << 12;

/// Numbers made at a time: they and their uniforms stay in the first-level cache.
const PART: usize = 128;
/// Four uniforms of two words to a number.
const PART_WORDS: usize = 8 * PART;
const _: () = assert!(PART_WORDS.is_multiple_of(GROUP_WORDS) && CHUNK.is_multiple_of(PART));
const _: () = assert!((CHUNK / PART * PART_WORDS / 16) as u64 <= CHUNK_BLOCKS);

/// Adds `deviation · z` to each value, where `z` is a function of the key, the stream, and the value's place
/// counted from chunk `first_chunk` on; the same on any number of threads and on every path.
pub fn add_normal(key: &[u8; 32], stream: u64, first_chunk: u64, deviation: f64, values: &mut [f32]) {
    let path = cpu::path();
    let key = chacha::key_words(key);
    pool::for_each_chunk(values, CHUNK, |i, values| {
        let mut block = (first_chunk + i as u64) * CHUNK_BLOCKS;
        let mut uniforms = [[0; PART]; 4];
        for values in values.chunks_mut(PART) {
            let words = bytemuck::cast_slice_mut(uniforms.as_flattened_mut());
            chacha::fill(path, &key, stream, block, words);
            block += (PART_WORDS / 16) as u64;
            let uniforms = &uniforms;
            on_path!(path, add_part(uniforms: &[[u64; PART]; 4], deviation: f64, values: &mut [f32]));
        }
    });
}

#[inline(always)]
unsafe fn add_part<S: Simd>(uniforms: &[[u64; PART]; 4], deviation: f64, values: &mut [f32]) {
    let [r1, a1, r2, a2] = uniforms;
    for ((((value, &r1), &a1), &r2), &a2) in values.iter_mut().zip(r1).zip(a1).zip(r2).zip(a2) {
        let z = pair(r1, a1) + pair(r2, a2);
        *value = (f64::from(*value) + deviation * z) as f32;
    }
}

/// `√(-ln u) · sin(π/2 · v)`: half the sum of a pair of Box and Muller, N(0, ½).
#[inline(always)]
fn pair(radius: u64, angle: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1u128 << 64) as f64;
    let u = (radius as f64 + 1.0) * UNIT;
    let v = angle as i64 as f64 * (2.0 * UNIT);
    minus_ln(u).sqrt() * sin(FRAC_PI_2 * v)
}

/// `-ln u` of `0 < u ≤ 1`, normal, as in fdlibm (Sun 1993): `u = 2ᵏ(1 + f)` with `√½ ≤ 1 + f < √2`, and
/// `ln(1 + f) = 2 artanh s` where `s = f/(2 + f)`.
#[inline(always)]
fn minus_ln(u: f64) -> f64 {
    const ROOT_BITS: u64 = FRAC_1_SQRT_2.to_bits();
    const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const L1: f64 = 6.666_666_666_666_735e-1;
    const L2: f64 = 3.999_999_999_940_942e-1;
    const L3: f64 = 2.857_142_874_366_239e-1;
    const L4: f64 = 2.222_219_843_214_978_4e-1;
    const L5: f64 = 1.818_357_216_161_805e-1;
    const L6: f64 = 1.531_383_769_920_937_3e-1;
    const L7: f64 = 1.479_819_860_511_658_6e-1;
    let bits = u.to_bits();
    // How often u must be doubled to reach √½: 0 to 64. The bits of floats are in the floats' order.
    let doublings = (ROOT_BITS + ((1 << 52) - 1) - bits) >> 52;
    let f = f64::from_bits(bits.wrapping_add(doublings << 52)) - 1.0;
    let n = doublings as f64;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even = w * (L2 + w * (L4 + w * L6));
    let odd = z * (L1 + w * (L3 + w * (L5 + w * L7)));
    let half_square = 0.5 * f * f;
    n * LN2_HIGH + ((half_square - (s * (half_square + (even + odd)) - n * LN2_LOW)) - f)
}

/// `sin x` of `|x| ≤ π/2`: Taylor's series up to `x¹⁹/19!`, whose remainder is below 2.6e-16.
#[inline(always)]
fn sin(x: f64) -> f64 {
    /// `±1/(2i + 3)!`
    const C: [f64; 9] = {
        let (mut c, mut i, mut factorial) = ([0.0; 9], 0, 1.0);
        while i < 9 {
            factorial *= ((2 * i + 2) * (2 * i + 3)) as f64;
            c[i] = if i % 2 == 0 { -1.0 } else { 1.0 } / factorial;
            i += 1;
        }
        c
    };
    let y = x * x;
    let mut sum = C[8];
    for i in (0..8).rev() {
        sum = sum * y + C[i];
    }
    x + x * (y * sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_path;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn noise(stream: u64, first_chunk: u64, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        add_normal(&[9; 32], stream, first_chunk, 1.0, &mut values);
        values
    }

    /// Fails unless `f` is within `1e-14` of `want`, relatively.
    fn agree(name: &str, x: f64, got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-14 * want.abs(), "{name}({x:e}) = {got:e}, not {want:e}");
    }

    #[test]
    fn logarithm_and_sine_are_those_of_the_standard_library() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let uniform = (0..200_000).map(|_| (rng.next_u64() as f64 + 1.0) * 2f64.powi(-64));
        let edges =
            (0..=64).flat_map(|k| [1.0, 0.75, FRAC_1_SQRT_2, 0.5f64.next_up()].map(|m| m * 2f64.powi(-k)));
        let edges = edges.flat_map(|u| [u.next_down(), u, u.next_up()]).filter(|&u| u <= 1.0);
        for u in uniform.chain(edges) {
            agree("-ln", u, minus_ln(u), -u.ln());
            assert!(minus_ln(u) >= 0.0, "{u:e}");
            for x in [u * FRAC_PI_2, -u * FRAC_PI_2] {
                agree("sin", x, sin(x), x.sin());
            }
        }
        assert_eq!(sin(0.0), 0.0);
    }

    #[test]
    fn extreme_words_give_finite_numbers() {
        for radius in [0, 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            for angle in [0, 1, (1 << 63) - 1, 1 << 63, u64::MAX] {
                assert!(pair(radius, angle).abs() < 6.67, "{radius} {angle}");
            }
        }
        agree("pair", 0.0, pair(0, 1 << 63), -(64.0 * std::f64::consts::LN_2).sqrt());
    }

    #[test]
    fn every_path_has_the_bits_of_the_formula_over_the_words_of_rand_chacha() {
        // Part, chunk and tail; the slow twin takes words one by one and its functions from the library.
        let n = CHUNK + PART + 77;
        let first = noise(5, 3, n);
        each_path(|| assert_eq!(noise(5, 3, n), first));
        for (i, &got) in first.iter().enumerate() {
            let (chunk, part, at) = (i / CHUNK, i % CHUNK / PART, i % PART);
            let uniform = |which: usize| {
                let word = |index: usize| {
                    let (group, in_group) = (index / GROUP_WORDS, index % GROUP_WORDS);
                    let block = part * PART_WORDS / 16 + group * 16 + in_group % 16;
                    let mut rng = ChaCha20Rng::from_seed([9; 32]);
                    rng.set_stream(5);
                    rng.set_word_pos(((3 + chunk) * 65_536 + 16 * block + in_group / 16) as u128);
                    u64::from(rng.next_u32())
                };
                let index = 2 * (which * PART + at);
                word(index) | word(index + 1) << 32
            };
            let half = |radius: u64, angle: u64| {
                let theta = angle as i64 as f64 / 2f64.powi(63) * FRAC_PI_2;
                (-((radius as f64 + 1.0) / 2f64.powi(64)).ln()).sqrt() * theta.sin()
            };
            let want = half(uniform(0), uniform(1)) + half(uniform(2), uniform(3));
            assert!((f64::from(got) - want).abs() < 1e-6, "{i}: {got} is not {want}");
        }
    }

    #[test]
    fn the_distribution_is_normal_out_to_its_tails() {
        let n = 4_000_000;
        let mut values = noise(1, 0, n);
        values.sort_unstable_by(f32::total_cmp);
        // Φ, known points; a count's deviation is √(n p q).
        let points = [
            (-5.0, 2.866_515_719e-7),
            (-4.0, 3.167_124_183e-5),
            (-3.0, 1.349_898_032e-3),
            (-2.0, 2.275_013_195e-2),
            (-1.0, 1.586_552_539e-1),
            (-0.25, 4.012_936_743e-1),
            (0.0, 0.5),
        ];
        for (x, p) in points {
            let below = values.partition_point(|&v| v < x) as f64;
            let above = (n - values.partition_point(|&v| v <= -x)) as f64;
            let (want, deviation) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
            for count in [below, above] {
                assert!((count - want).abs() < 4.5 * deviation, "Φ({x}): {count}, not {want} ± {deviation}");
            }
        }
    }

    #[test]
    fn chunks_and_streams_have_their_own_numbers() {
        let n = 2 * CHUNK;
        let base = noise(1, 0, n);
        assert_eq!(noise(1, 1, CHUNK), base[CHUNK..]);
        for other in [noise(2, 0, n), noise(1, 2, n), [&base[CHUNK..], &base[..CHUNK]].concat()] {
            let product = base.iter().zip(&other).map(|(a, b)| f64::from(a * b)).sum::<f64>() / n as f64;
            assert!(product.abs() < 0.1, "{product}");
        }
    }
}
