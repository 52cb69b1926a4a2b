//! What the tiles of integers need from a processor, with the plain implementation.
//!
//! A vector holds one 32-bit lane for each of `N` rows of the weight: an integer sum, a float, or the four
//! bytes that follow each other along `k`. Integers are exact and every float operation is one rounding, so
//! that all implementations give the same bits.

use half::f16;

/// Vectors of `N` lanes.
///
/// # Safety
/// Every method requires the processor that the implementation is for; pointers must be valid for what a
/// method touches (no alignment is needed).
pub(super) trait Lanes: Copy + 'static {
    const N: usize;
    /// `N` × 32 bits.
    type I: Copy;
    /// `N` floats.
    type F: Copy;

    /// `4 · N` bytes.
    unsafe fn load(p: *const u8) -> Self::I;
    /// `4 · N` bytes.
    unsafe fn store(p: *mut u8, a: Self::I);
    /// The same 32 bits in every lane.
    unsafe fn splat(x: i32) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts of 16-bit and 32-bit lanes; right shifts bring zeros, or copies of the sign where they say so.
    unsafe fn shl16<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn shr16<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn shr16_signed<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn shl32<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn shr32<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn shr32_signed<const S: u32>(a: Self::I) -> Self::I;
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    /// Sets `16` in the bytes of `a` (where it is not set) whose bit is set: `4 · N` bits from memory.
    unsafe fn with_sixteens(a: Self::I, bits: *const u8) -> Self::I;
    /// `acc + Σ uᵢ · sᵢ` over the four bytes of each lane, `u` below 64.
    unsafe fn dot(acc: Self::I, u: Self::I, s: Self::I) -> Self::I;
    /// `acc + Σ (uᵢ − 128 + OFFSET) · sᵢ`, any `u`, `s` above −128.
    unsafe fn dot_wide(acc: Self::I, u: Self::I, s: Self::I) -> Self::I;
    /// What [`Lanes::dot_wide`] leaves of the 128.
    const OFFSET: i32;
    /// `acc + Σ aᵢ · bᵢ` over the two signed halves of each lane.
    unsafe fn dot16(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// The nearest floats, halves to even.
    unsafe fn to_float(a: Self::I) -> Self::F;
    unsafe fn float(x: f32) -> Self::F;
    unsafe fn load_float(p: *const f32) -> Self::F;
    /// `N` halves.
    unsafe fn load_half(p: *const u8) -> Self::F;
    /// Stores the first `n` lanes, or all where `n >= N`.
    unsafe fn store_up_to(p: *mut f32, x: Self::F, n: usize);
    /// Loads the first `n` lanes, or all where `n >= N`; zeros after them.
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::F;
    unsafe fn mul_float(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub_float(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c` in one rounding.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c − a · b` in one rounding.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a · b + c`: in one rounding, but in two where that is no instruction (as [`crate::simd::Simd::fma`]).
    unsafe fn chain(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The floats whose bits these are.
    unsafe fn as_float(a: Self::I) -> Self::F;

    /// The largest bits of `|x|` over 32 numbers: larger than those of infinity where one is NaN.
    unsafe fn largest(x: *const f32) -> u32;
    /// [`Lanes::largest`] at four places.
    #[inline(always)]
    unsafe fn largest_of_four(x: [*const f32; 4]) -> [u32; 4] {
        // SAFETY: the caller's.
        unsafe { [Self::largest(x[0]), Self::largest(x[1]), Self::largest(x[2]), Self::largest(x[3])] }
    }
    /// The nearest integers of `x · inverse`, halves to even, as 32 bytes, and the sums of both sixteen; those
    /// that are not in reach of a byte are of no use.
    unsafe fn bytes_of(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2];
    /// [`bytes_of`](Self::bytes_of) of four times 32 numbers, each times its own inverse; their sums.
    ///
    /// # Safety
    /// The processor has the instructions; each has 32 numbers, and there is room for 128 bytes.
    #[inline(always)]
    unsafe fn bytes_of_four(x: [*const f32; 4], inverses: [f32; 4], to: *mut i8) -> [i32; 4] {
        let mut sums = [0; 4];
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let two = unsafe { Self::bytes_of(x[i], inverses[i], to.add(32 * i)) };
            *sum = two[0] + two[1];
        }
        sums
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain;

const N: usize = 8;

/// Lane by lane.
#[inline(always)]
fn lanes(f: impl FnMut(usize) -> i32) -> [i32; N] {
    std::array::from_fn(f)
}

/// Halves of 16 bits of a lane, each through `f`.
#[inline(always)]
fn halves(a: [i32; N], f: impl Fn(u16) -> u16) -> [i32; N] {
    lanes(|i| {
        let (low, high) = (a[i] as u16, (a[i] >> 16) as u16);
        i32::from(f(low)) | i32::from(f(high)) << 16
    })
}

// SAFETY of every block below: the caller's pointers are valid; nothing asks for features.
impl Lanes for Plain {
    const N: usize = N;
    type I = [i32; N];
    type F = [f32; N];

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::I {
        lanes(|i| unsafe { p.add(4 * i).cast::<i32>().read_unaligned() }.to_le())
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, a: Self::I) {
        for (i, a) in a.iter().enumerate() {
            unsafe { p.add(4 * i).cast::<i32>().write_unaligned(a.to_le()) }
        }
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::I {
        [x; N]
    }
    #[inline(always)]
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shl16<const S: u32>(a: Self::I) -> Self::I {
        halves(a, |x| x << S)
    }
    #[inline(always)]
    unsafe fn shr16<const S: u32>(a: Self::I) -> Self::I {
        halves(a, |x| x >> S)
    }
    #[inline(always)]
    unsafe fn shr16_signed<const S: u32>(a: Self::I) -> Self::I {
        halves(a, |x| (x as i16 >> S) as u16)
    }
    #[inline(always)]
    unsafe fn shl32<const S: u32>(a: Self::I) -> Self::I {
        lanes(|i| a[i] << S)
    }
    #[inline(always)]
    unsafe fn shr32<const S: u32>(a: Self::I) -> Self::I {
        lanes(|i| (a[i] as u32 >> S) as i32)
    }
    #[inline(always)]
    unsafe fn shr32_signed<const S: u32>(a: Self::I) -> Self::I {
        lanes(|i| a[i] >> S)
    }
    #[inline(always)]
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn with_sixteens(a: Self::I, bits: *const u8) -> Self::I {
        lanes(|i| {
            let four = unsafe { *bits.add(i / 2) } >> (i % 2 * 4);
            let bit = |j: u32| i32::from(four >> j & 1) << (8 * j + 4);
            a[i] | bit(0) | bit(1) | bit(2) | bit(3)
        })
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        lanes(|i| {
            let (u, s) = (u[i].to_le_bytes(), s[i].to_le_bytes());
            (0..4).fold(acc[i], |sum, j| sum.wrapping_add(i32::from(u[j]) * i32::from(s[j] as i8)))
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: Self::I, u: Self::I, s: Self::I) -> Self::I {
        unsafe { Self::dot(acc, u, s) }
    }
    const OFFSET: i32 = 128;
    #[inline(always)]
    unsafe fn dot16(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let low = |x: i32| i32::from(x as i16);
        lanes(|i| acc[i].wrapping_add(low(a[i]) * low(b[i]) + (a[i] >> 16) * (b[i] >> 16)))
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn float(x: f32) -> Self::F {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load_float(p: *const f32) -> Self::F {
        std::array::from_fn(|i| unsafe { *p.add(i) })
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u8) -> Self::F {
        std::array::from_fn(|i| f16::from_le_bytes(unsafe { [*p.add(2 * i), *p.add(2 * i + 1)] }).to_f32())
    }
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, x: Self::F, n: usize) {
        for (i, &x) in x.iter().enumerate().take(n) {
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::F {
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn mul_float(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn sub_float(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn chain(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn as_float(a: Self::I) -> Self::F {
        a.map(|x| f32::from_bits(x as u32))
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        (0..32).map(|i| unsafe { *x.add(i) }.abs().to_bits()).fold(0, u32::max)
    }
    #[inline(always)]
    unsafe fn bytes_of(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        let mut sums = [0; 2];
        for i in 0..32 {
            let q = unsafe { *x.add(i) * inverse }.round_ties_even() as i8;
            unsafe { *to.add(i) = q }
            sums[i / 16] += i32::from(q);
        }
        sums
    }
}
