//! One set of lane operations, an implementation per path, and the door through which kernels enter it.
//!
//! A kernel is written once as an `#[inline(always)] unsafe fn body<S: Simd>(…)` and entered through
//! [`on_path!`], which compiles it once per path inside a function with that path's target features.

pub(crate) mod lanewise;
pub(crate) mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, store_transposed8};

/// A vector of `LANES` floats and what kernels do with it.
///
/// # Safety
/// Every method requires that the processor has the implementing path; pointers must be valid for the lanes
/// that a method touches (no alignment is needed).
pub(crate) trait Simd: Copy + 'static {
    const LANES: usize;
    type V: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    /// The first `n < LANES` floats, zeros after them.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, with one rounding on the SIMD paths and two on the portable one.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// The nearest integer, halves to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^a` for integral `-126 <= a <= 127`.
    unsafe fn exp2_integral(a: Self::V) -> Self::V;
    /// Per lane: `if a > b { yes } else { no }` (`no` on NaN).
    unsafe fn select_gt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    unsafe fn reduce_add(a: Self::V) -> f32;
    unsafe fn reduce_max(a: Self::V) -> f32;
    /// Transposes an 8 × 8 block: `dst[j * dst_step + i] = src[i][j]`, storing rows `j` in rising order.
    unsafe fn transpose8(src: [*const f32; 8], dst: *mut f32, dst_step: usize);

    /// The first `n` floats, zeros after them; a whole vector where `n >= LANES`.
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller has the path and gives `n` readable floats.
        unsafe { if n >= Self::LANES { Self::load(p) } else { Self::load_part(p, n) } }
    }
    /// Stores the first `n` lanes; all of them where `n >= LANES`.
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, v: Self::V, n: usize) {
        // SAFETY: the caller has the path and gives `n` writable floats.
        unsafe { if n >= Self::LANES { Self::store(p, v) } else { Self::store_part(p, v, n) } }
    }
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: the caller has the path.
        unsafe { Self::splat(0.0) }
    }
}

/// Asks for the cache line at `p`; any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// [`prefetch`] into the second cache only.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_second(p: *const f32) {
    // SAFETY: as there.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast()) }
}

/// Runs `body::<S>(args…)` compiled for the given path: `on_path!(path, body(a: A, b: B) -> R)`, where the
/// names are both the arguments' names in scope and the parameters of the compiled functions.
macro_rules! on_path {
    ($path:expr, $body:ident $(::<$g:ident>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller of `on_path!` upholds the body's contract; the features are enabled here.
            unsafe { $body::<$crate::simd::Avx2>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: as above.
            unsafe { $body::<$crate::simd::Avx512>($($arg),*) }
        }
        match $path {
            // SAFETY: `cpu::path` names a path only where the processor has it.
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::CpuPath::Avx512 | $crate::cpu::CpuPath::Amx => unsafe { avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::CpuPath::Avx2 => unsafe { avx2($($arg),*) },
            // SAFETY: the portable path needs no features.
            _ => unsafe { $body::<$crate::simd::Portable>($($arg),*) },
        }
    }};
}
pub(crate) use on_path;
