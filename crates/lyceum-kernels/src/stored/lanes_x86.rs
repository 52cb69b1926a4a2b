//! [`Lanes`] of x86 processors: AVX-512 with VNNI, AVX2 with AVX-VNNI, AVX2.

use super::lanes::Lanes;
use std::arch::x86_64::*;

/// AVX-512 (F, BW, DQ, VL) and AVX512_VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

// SAFETY of every block below: the caller has the instructions and gives valid pointers.
impl Lanes for Avx512Vnni {
    const N: usize = 16;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::I {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, a: Self::I) {
        unsafe { _mm512_storeu_si512(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::I {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shl16<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_slli_epi16::<S>(a) }
    }
    #[inline(always)]
    unsafe fn shr16<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_srli_epi16::<S>(a) }
    }
    #[inline(always)]
    unsafe fn shr16_signed<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_srai_epi16::<S>(a) }
    }
    #[inline(always)]
    unsafe fn shl32<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_slli_epi32::<S>(a) }
    }
    #[inline(always)]
    unsafe fn shr32<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_srli_epi32::<S>(a) }
    }
    #[inline(always)]
    unsafe fn shr32_signed<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm512_srai_epi32::<S>(a) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn with_sixteens(a: Self::I, bits: *const u8) -> Self::I {
        unsafe {
            let mask = bits.cast::<u64>().read_unaligned();
            _mm512_mask_add_epi8(a, mask, a, _mm512_set1_epi8(16))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        unsafe { _mm512_dpbusd_epi32(acc, u, s) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        unsafe { _mm512_dpbusd_epi32(acc, u, s) }
    }
    const OFFSET: i32 = 128;
    #[inline(always)]
    unsafe fn dot16(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn float(x: f32) -> Self::F {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_float(p: *const f32) -> Self::F {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8) -> Self::F {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, x: Self::F, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), x) }
    }
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::F {
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn mul_float(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_float(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn chain(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn as_float(a: Self::I) -> Self::F {
        unsafe { _mm512_castsi512_ps(a) }
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        unsafe {
            let (a, b) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(16).cast()));
            let size = _mm512_set1_epi32(i32::MAX);
            let larger = _mm512_max_epi32(_mm512_and_si512(a, size), _mm512_and_si512(b, size));
            _mm512_reduce_max_epi32(larger) as u32
        }
    }
    #[inline(always)]
    unsafe fn largest_of_four(x: [*const f32; 4]) -> [u32; 4] {
        unsafe {
            let size = _mm512_set1_epi32(i32::MAX);
            let mut m = [_mm512_setzero_si512(); 4];
            for (m, x) in m.iter_mut().zip(x) {
                let (a, b) = (_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(16).cast()));
                *m = _mm512_max_epi32(_mm512_and_si512(a, size), _mm512_and_si512(b, size));
            }
            // Each quarter becomes the largest of the four places, in their order; then the four quarters.
            let ab = _mm512_max_epi32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
            let cd = _mm512_max_epi32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
            let all = _mm512_max_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let half = _mm256_max_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
            let one = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            std::mem::transmute::<__m128i, [u32; 4]>(one)
        }
    }
    #[inline(always)]
    unsafe fn bytes_of(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        unsafe {
            let inverse = _mm512_set1_ps(inverse);
            let first = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inverse));
            let second = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x.add(16)), inverse));
            let (first, second) = (_mm512_cvtepi32_epi8(first), _mm512_cvtepi32_epi8(second));
            _mm_storeu_si128(to.cast(), first);
            _mm_storeu_si128(to.add(16).cast(), second);
            sums_of_bytes(first, second)
        }
    }
    #[inline(always)]
    unsafe fn bytes_of_four(x: [*const f32; 4], inverses: [f32; 4], to: *mut i8) -> [i32; 4] {
        unsafe {
            let (sign, zero) = (_mm512_set1_epi8(-128), _mm512_setzero_si512());
            let mut sums = [0; 4];
            for half in 0..2 {
                let mut parts = [_mm_setzero_si128(); 4];
                for (i, part) in parts.iter_mut().enumerate() {
                    let block = 2 * half + i / 2;
                    let numbers = _mm512_loadu_ps(x[block].add(i % 2 * 16));
                    let scaled = _mm512_mul_ps(numbers, _mm512_set1_ps(inverses[block]));
                    *part = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled));
                }
                let low = _mm256_set_m128i(parts[1], parts[0]);
                let high = _mm256_set_m128i(parts[3], parts[2]);
                let bytes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                _mm512_storeu_si512(to.add(64 * half).cast(), bytes);
                // Eight sums of eight; four of them are a block's. See `sums_of_bytes`.
                let eights = _mm512_sad_epu8(_mm512_xor_si512(bytes, sign), zero);
                let pairs = _mm512_add_epi64(eights, _mm512_permutex_epi64::<0b10_11_00_01>(eights));
                let fours = _mm512_add_epi64(pairs, _mm512_permutex_epi64::<0b01_00_11_10>(pairs));
                let [low, high] = [_mm512_castsi512_si128(fours), _mm512_extracti32x4_epi32::<2>(fours)];
                sums[2 * half] = _mm_cvtsi128_si64(low) as i32 - 32 * 128;
                sums[2 * half + 1] = _mm_cvtsi128_si64(high) as i32 - 32 * 128;
            }
            sums
        }
    }
}

/// The sums of sixteen signed bytes each.
#[inline(always)]
unsafe fn sums_of_bytes(first: __m128i, second: __m128i) -> [i32; 2] {
    // SAFETY: the caller has AVX2. The processor sums absolute differences: the bytes are made unsigned by
    // adding 128, sixteen of which are taken off again.
    unsafe {
        let (sign, zero) = (_mm_set1_epi8(-128), _mm_setzero_si128());
        let a = _mm_sad_epu8(_mm_xor_si128(first, sign), zero);
        let b = _mm_sad_epu8(_mm_xor_si128(second, sign), zero);
        let both = _mm_add_epi64(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
        let (a, b) = (_mm_cvtsi128_si64(both) as i32, _mm_extract_epi64::<1>(both) as i32);
        [a - 16 * 128, b - 16 * 128]
    }
}

/// How 256-bit vectors multiply bytes.
pub(super) trait Dot256: Copy + 'static {
    /// As [`Lanes::dot`].
    unsafe fn dot(acc: __m256i, u: __m256i, s: __m256i) -> __m256i;
    /// As [`Lanes::dot_wide`].
    unsafe fn dot_wide(acc: __m256i, u: __m256i, s: __m256i) -> __m256i;
    const OFFSET: i32;
}

/// By AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Vnni;
impl Dot256 for Vnni {
    #[inline(always)]
    unsafe fn dot(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, u, s) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, u, s) }
    }
    const OFFSET: i32 = 128;
}

/// By products in 16 bits, which the bytes' ranges keep from saturating.
#[derive(Clone, Copy)]
pub(super) struct Maddubs;
impl Dot256 for Maddubs {
    #[inline(always)]
    unsafe fn dot(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // At most 2 · 63 · 127 in 16 bits.
        unsafe {
            let pairs = _mm256_maddubs_epi16(u, s);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // The sign moves from the weight to the activation: at most 2 · 128 · 127 in 16 bits.
        unsafe {
            let w = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s, w));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    const OFFSET: i32 = 0;
}

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2<D>(std::marker::PhantomData<D>);

#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
}

// SAFETY of every block below: as above.
impl<D: Dot256> Lanes for Avx2<D> {
    const N: usize = 8;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::I {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, a: Self::I) {
        unsafe { _mm256_storeu_si256(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::I {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn shl16<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn shr16<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn shr16_signed<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_sra_epi16(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn shl32<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn shr32<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn shr32_signed<const S: u32>(a: Self::I) -> Self::I {
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(S as i32)) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn with_sixteens(a: Self::I, bits: *const u8) -> Self::I {
        unsafe {
            // Byte `i` gets the eight bits that hold its own, then that bit alone.
            let bits = _mm256_set1_epi32(bits.cast::<i32>().read_unaligned());
            let of_byte = _mm256_set_epi64x(
                0x0303_0303_0303_0303,
                0x0202_0202_0202_0202,
                0x0101_0101_0101_0101,
                0x0000_0000_0000_0000,
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, of_byte), bit), bit);
            _mm256_or_si256(a, _mm256_and_si256(set, _mm256_set1_epi8(16)))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        unsafe { D::dot(acc, u, s) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        unsafe { D::dot_wide(acc, u, s) }
    }
    const OFFSET: i32 = D::OFFSET;
    #[inline(always)]
    unsafe fn dot16(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn float(x: f32) -> Self::F {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_float(p: *const f32) -> Self::F {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8) -> Self::F {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, x: Self::F, n: usize) {
        unsafe { if n >= 8 { _mm256_storeu_ps(p, x) } else { _mm256_maskstore_ps(p, mask8(n), x) } }
    }
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::F {
        unsafe { if n >= 8 { _mm256_loadu_ps(p) } else { _mm256_maskload_ps(p, mask8(n)) } }
    }
    #[inline(always)]
    unsafe fn mul_float(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_float(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn chain(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn as_float(a: Self::I) -> Self::F {
        unsafe { _mm256_castsi256_ps(a) }
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        unsafe {
            let size = _mm256_set1_epi32(i32::MAX);
            let mut eight = _mm256_setzero_si256();
            for i in [0, 8, 16, 24] {
                let sizes = _mm256_and_si256(_mm256_loadu_si256(x.add(i).cast()), size);
                eight = _mm256_max_epi32(eight, sizes);
            }
            let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as u32
        }
    }
    #[inline(always)]
    unsafe fn bytes_of(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        unsafe {
            let inverse = _mm256_set1_ps(inverse);
            let mut both = [_mm_setzero_si128(); 2];
            for (i, sixteen) in [0, 16].into_iter().zip(&mut both) {
                let a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(i)), inverse));
                let b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.add(i + 8)), inverse));
                // Packing works in halves of 128 bits: the quarters are put in order after it.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
                *sixteen =
                    _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(to.add(i).cast(), *sixteen);
            }
            sums_of_bytes(both[0], both[1])
        }
    }
}
