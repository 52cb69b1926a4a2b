//! Gaussian noise from ChaCha20, added to f32 numbers. It knows nothing of privacy: what key and what deviation
//! are right is its caller's matter.
//!
//! Both numbers of a pair of Box and Muller are used, and one angle gives both; half a turn and a sign are a turn:
//!
//! ```text
//! r = √(-2 ln u),  θ = π/2 · v,  z₁ = r sin θ,  z₂ = ± r cos θ,    u ∈ [2⁻⁶⁴, 1], v ∈ (-1, 1)
//! ```
//!
//! `u` has 64 bits (the tail ends at 9.4 deviations), `v` and the sign have 32.
//!
//! **Values and noise are rounded to one grid before they meet** ([`grid`]: a power of two near `2⁻²⁶` of the
//! deviation, which no value decides). On the grid their sum is exact, so its low bits are the noise's alone and
//! tell nothing of the value, where those of a floating-point sum do (Mironov 2012, "On significance of the
//! least significant bits for differential privacy"). 96 bits a pair hit each of the grid's points many times
//! over. The rounding to f32 at the end sees the sum only.
//!
//! The bodies are plain loops without fused multiply-adds: addition, product, quotient and root are rounded by
//! IEEE 754, so each path, and each little-endian processor, has the same bits.

use crate::chacha::{self, GROUP_WORDS};
use crate::simd::{Simd, on_path};
use crate::{cpu, pool};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2, LN_2};

/// Numbers that one place of the generator serves, and the blocks kept for them (a fraction is used).
pub const CHUNK: usize = 1024;
const CHUNK_BLOCKS: u64 = 1 << 12;

/// Numbers made at a time, in pairs: they and their words stay in the first-level cache.
const PART: usize = 1024;
const PAIRS: usize = PART / 2;
/// Two words for a radius, one for an angle.
const PART_WORDS: usize = 3 * PAIRS;
const _: () = assert!(PART_WORDS.is_multiple_of(GROUP_WORDS) && CHUNK.is_multiple_of(PART));
const _: () = assert!((CHUNK / PART * PART_WORDS / 16) as u64 <= CHUNK_BLOCKS);

/// The step of the grid that noise of this deviation is on: between `2⁻²⁷` and `2⁻²⁶` deviations.
///
/// Rounding moves each value by at most half a step; two vectors of `d` values that were `C` apart are at most
/// `C + √d · step` apart on the grid.
///
/// # Panics
/// When the deviation is not a positive normal number.
pub fn grid(deviation: f64) -> f64 {
    assert!(deviation.is_normal() && deviation > 0.0, "gaussian: a deviation of {deviation} has no grid");
    const EXPONENT: u64 = 0x7ff << 52;
    f64::from_bits(deviation.to_bits() & EXPONENT) * 2f64.powi(-26)
}

/// Rounds each value to the [`grid`] and adds `deviation · z`, where `z` is a function of the key, the stream, and
/// the value's place counted from chunk `first_chunk` on; the same on any number of threads and on every path.
///
/// # Panics
/// As [`grid`].
pub fn add_normal(key: &[u8; 32], stream: u64, first_chunk: u64, deviation: f64, values: &mut [f32]) {
    let path = cpu::path();
    let key = chacha::key_words(key);
    let scale = Scale::new(deviation);
    pool::for_each_chunk(values, CHUNK, |i, values| {
        let mut block = (first_chunk + i as u64) * CHUNK_BLOCKS;
        let mut words = [0; PART_WORDS];
        for values in values.chunks_mut(PART) {
            chacha::fill(path, &key, stream, block, &mut words);
            block += (PART_WORDS / 16) as u64;
            let words = &words;
            if let Ok(values) = values.try_into() {
                on_path!(path, add_part(words: &[u32; PART_WORDS], scale: Scale, values: &mut [f32; PART]));
            } else {
                let mut whole = [0.0; PART];
                whole[..values.len()].copy_from_slice(values);
                let part = &mut whole;
                on_path!(path, add_part(words: &[u32; PART_WORDS], scale: Scale, part: &mut [f32; PART]));
                values.copy_from_slice(&whole[..values.len()]);
            }
        }
    });
}

/// A deviation in steps of its grid.
#[derive(Clone, Copy)]
struct Scale {
    step: f64,
    steps_per_one: f64,
    /// Twice the variance, in squares of steps.
    variances: f64,
}

impl Scale {
    fn new(deviation: f64) -> Self {
        let step = grid(deviation);
        Scale { step, steps_per_one: 1.0 / step, variances: 2.0 * (deviation / step).powi(2) }
    }
}

/// The numbers of a pair lie half a part from each other.
#[inline(always)]
unsafe fn add_part<S: Simd>(words: &[u32; PART_WORDS], scale: Scale, values: &mut [f32; PART]) {
    let (radii, angles) = words.split_at(2 * PAIRS);
    let radii: &[u64] = bytemuck::cast_slice(radii);
    let (first, second) = values.split_at_mut(PAIRS);
    for (((first, second), &radius), &angle) in first.iter_mut().zip(second).zip(radii).zip(angles) {
        let noise = pair(radius, angle, scale.variances);
        *first = on_grid(*first, noise.0, scale);
        *second = on_grid(*second, noise.1, scale);
    }
}

#[inline(always)]
fn on_grid(value: f32, noise: f64, scale: Scale) -> f32 {
    /// Adding it to a smaller number rounds that to an integer.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    let value = (f64::from(value) * scale.steps_per_one + ROUND) - ROUND;
    let noise = (noise + ROUND) - ROUND;
    ((value + noise) * scale.step) as f32
}

/// Two numbers of N(0, variances / 2).
#[inline(always)]
fn pair(radius: u64, angle: u32, variances: f64) -> (f64, f64) {
    let u = (radius as f64 + 1.0) * 2f64.powi(-64);
    let r = (variances * minus_ln(u)).sqrt();
    let theta = (f64::from(angle as i32 >> 1) + 0.5) * (FRAC_PI_2 * 2f64.powi(-30));
    let (sin, cos) = sin_cos(theta);
    let sign = u64::from(angle & 1) << 63;
    (r * sin, f64::from_bits((r * cos).to_bits() ^ sign))
}

/// `-ln u` of `0 < u ≤ 1`, normal, within 5e-12 of itself: `u = 2ᵏ(1 + f)` with `√½ ≤ 1 + f < √2`, and
/// `ln(1 + f) = 2 artanh s` where `s = f/(2 + f)`.
///
/// The polynomials here and below are minimax fits (Remez), summed by pairs: a sum that waits for each of its
/// terms would be half of the time. Their errors are smooth in the words, and so are those of the
/// distribution's density.
#[inline(always)]
fn minus_ln(u: f64) -> f64 {
    const ROOT_BITS: u64 = FRAC_1_SQRT_2.to_bits();
    /// `(2 artanh s / s - 2) / s²` of `s²`
    const C: [f64; 4] =
        [0.666_666_656_454_554_8, 0.400_003_351_910_421_2, 0.285_373_085_336_692_1, 0.235_821_514_392_524_66];
    let bits = u.to_bits();
    // How often u must be doubled to reach √½: 0 to 64. The bits of floats are in the floats' order.
    let doublings = (ROOT_BITS + ((1 << 52) - 1) - bits) >> 52;
    let f = f64::from_bits(bits.wrapping_add(doublings << 52)) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let sum = (C[0] + z * C[1]) + (z * z) * (C[2] + z * C[3]);
    f64::from(doublings as u32 as i32) * LN_2 - s * (2.0 + z * sum)
}

/// Sine and cosine of `|x| ≤ π/2`, within 1e-12.
#[inline(always)]
fn sin_cos(x: f64) -> (f64, f64) {
    /// `(sin x / x - 1) / x²` of `x²`
    const S: [f64; 6] = [
        -0.166_666_666_664_023_24,
        0.008_333_333_316_518_095,
        -0.000_198_412_660_109_029,
        2.755_690_145_292_901_3e-6,
        -2.502_846_230_866_268e-8,
        1.538_743_260_321_592e-10,
    ];
    /// `(cos x - 1) / x²` of `x²`
    const C: [f64; 6] = [
        -0.499_999_999_979_384_1,
        0.041_666_666_503_965_93,
        -0.001_388_888_461_230_147_4,
        2.480_107_016_985_224e-5,
        -2.752_566_083_502_366_7e-7,
        1.991_995_108_958_72e-9,
    ];
    let y = x * x;
    let (y2, y4) = (y * y, (y * y) * (y * y));
    let sum = |c: [f64; 6]| ((c[0] + y * c[1]) + y2 * (c[2] + y * c[3])) + y4 * (c[4] + y * c[5]);
    (x + x * (y * sum(S)), 1.0 + y * sum(C))
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

    /// Fails unless `got` is within `tolerance` of `want`, relatively.
    fn agree(name: &str, x: f64, got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() <= tolerance * want.abs(), "{name}({x:e}) = {got:e}, not {want:e}");
    }

    #[test]
    fn logarithm_sine_and_cosine_are_those_of_the_standard_library() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let uniform = (0..200_000).map(|_| (rng.next_u64() as f64 + 1.0) * 2f64.powi(-64));
        let edges =
            (0..=64).flat_map(|k| [1.0, 0.75, FRAC_1_SQRT_2, 0.5f64.next_up()].map(|m| m * 2f64.powi(-k)));
        let edges = edges.flat_map(|u| [u.next_down(), u, u.next_up()]).filter(|&u| u <= 1.0);
        for u in uniform.chain(edges) {
            agree("-ln", u, minus_ln(u), -u.ln(), 1e-11);
            assert!(minus_ln(u) >= 0.0, "{u:e}");
            for x in [u * FRAC_PI_2, -u * FRAC_PI_2] {
                let (sin, cos) = sin_cos(x);
                agree("sin", x, sin, x.sin(), 1e-12);
                assert!((cos - x.cos()).abs() < 1e-11, "cos({x:e}) = {cos:e}");
            }
        }
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
    }

    #[test]
    fn extreme_words_give_finite_numbers() {
        let longest = (128.0 * LN_2).sqrt();
        for radius in [0, 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            for angle in [0, 1, (1 << 31) - 1, 1 << 31, u32::MAX] {
                let (a, b) = pair(radius, angle, 2.0);
                assert!(a.hypot(b) < longest + 1e-9, "{radius} {angle}: {a} {b}");
            }
        }
        agree("pair", 0.0, pair(0, 1 << 31, 2.0).0, -longest, 1e-11);
        // The last bit turns by half a turn about the sine's axis.
        let ((a, b), (c, d)) = (pair(1 << 60, 6, 2.0), pair(1 << 60, 7, 2.0));
        assert!(a == c && b == -d && b > 0.0);
    }

    #[test]
    fn every_path_has_the_bits_of_the_formula_over_the_words_of_rand_chacha() {
        // Part, chunk and tail; the slow twin takes words one by one and its functions from the library.
        let n = CHUNK + PART + 77;
        let first = noise(5, 3, n);
        each_path(|| assert_eq!(noise(5, 3, n), first));
        for (i, &got) in first.iter().enumerate() {
            let (chunk, part, at) = (i / CHUNK, i % CHUNK / PART, i % PART);
            let word = |index: usize| {
                let (group, in_group) = (index / GROUP_WORDS, index % GROUP_WORDS);
                let block = part * PART_WORDS / 16 + group * 16 + in_group % 16;
                let mut rng = ChaCha20Rng::from_seed([9; 32]);
                rng.set_stream(5);
                rng.set_word_pos(((3 + chunk) * 65_536 + 16 * block + in_group / 16) as u128);
                rng.next_u32()
            };
            let of = at % PAIRS;
            let radius = u64::from(word(2 * of)) | u64::from(word(2 * of + 1)) << 32;
            let angle = word(2 * PAIRS + of);
            let r = (-2.0 * ((radius as f64 + 1.0) / 2f64.powi(64)).ln()).sqrt();
            let theta = (f64::from(angle as i32 >> 1) + 0.5) / 2f64.powi(30) * FRAC_PI_2;
            let sign = if angle % 2 == 0 { 1.0 } else { -1.0 };
            let want = if at < PAIRS { r * theta.sin() } else { sign * r * theta.cos() };
            assert!((f64::from(got) - want).abs() < 1e-6, "{i}: {got} is not {want}");
        }
    }

    #[test]
    fn values_and_noise_meet_on_a_grid_that_only_the_deviation_decides() {
        for deviation in [1.0, 1.9, 3e-5, 700.0] {
            let step = grid(deviation);
            assert!(step <= deviation * 2f64.powi(-26) && step > deviation * 2f64.powi(-27));
            let n = PART + 3;
            let with = |value: f32| {
                let mut values = vec![value; n];
                add_normal(&[9; 32], 5, 0, deviation, &mut values);
                values
            };
            let noise = with(0.0);
            assert!(noise.iter().all(|&z| (f64::from(z) / step).fract() == 0.0));
            // Values within half a step are one value; and the sum is the exact one, rounded once.
            let value = (1.2345 * deviation) as f32;
            let steps = (f64::from(value) / step).round_ties_even();
            assert_eq!(with((steps * step) as f32), with(value));
            for (&sum, &z) in with(value).iter().zip(&noise) {
                // What f32 left of the noise is within its last bit.
                let exact = f64::from(z) + steps * step;
                assert!((f64::from(sum) - exact).abs() <= 2.0 * f64::from(f32::EPSILON) * 9.0 * deviation);
            }
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
