//! Element-by-element kernels: a formula over lanes, run over slices on all threads.
//!
//! A formula is a [`Lanewise`] with `IN` inputs and `OUT` outputs. Every element is computed by the same
//! lane operations wherever it lies, so results do not depend on offsets, tails or threads.

#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{Portable, Simd};
use crate::cpu::{self, CpuPath};
use crate::pool::{self, SendPtr};

/// Elements a task takes; slices up to twice as long are done by the calling thread alone.
const CHUNK: usize = 16 * 1024;

/// A formula over lanes.
pub(crate) trait Lanewise<const IN: usize, const OUT: usize>: Sync {
    /// # Safety
    /// The processor has the path `S`.
    unsafe fn lanes<S: Simd>(&self, x: [S::V; IN]) -> [S::V; OUT];
}

/// Applies `op` to every element: `dst[..][i] = op(src[..][i])`. All pointers have `len` elements; a
/// destination may be one of the sources.
///
/// # Safety
/// Sources are readable and destinations writable for `len` floats, and destinations overlap nothing but a
/// source that starts at the same address.
pub(crate) unsafe fn apply<const IN: usize, const OUT: usize, O: Lanewise<IN, OUT>>(
    op: &O,
    src: [*const f32; IN],
    dst: [*mut f32; OUT],
    len: usize,
) {
    let path = cpu::path();
    let n_tasks = if len <= 2 * CHUNK { usize::from(len > 0) } else { len.div_ceil(CHUNK) };
    let (src, dst) = (src.map(|p| SendPtr(p.cast_mut())), dst.map(SendPtr));
    let task = |i: usize| {
        let start = i * CHUNK;
        let n = if n_tasks == 1 { len } else { CHUNK.min(len - start) };
        // SAFETY: `start + n <= len`; tasks touch disjoint ranges.
        unsafe {
            let src = std::array::from_fn(|j| src[j].get().add(start).cast_const());
            let dst = std::array::from_fn(|j| dst[j].get().add(start));
            apply_here(path, op, src, dst, n);
        }
    };
    if n_tasks == 1 { task(0) } else { pool::parallel_for(n_tasks, task) }
}

/// [`apply`] on the calling thread, on a path that was resolved before.
///
/// # Safety
/// As [`apply`]; the processor has `path`.
#[inline]
pub(crate) unsafe fn apply_here<const IN: usize, const OUT: usize, O: Lanewise<IN, OUT>>(
    path: CpuPath,
    op: &O,
    src: [*const f32; IN],
    dst: [*mut f32; OUT],
    len: usize,
) {
    // SAFETY: the caller upholds the pointers' contract and has the path.
    unsafe {
        match path {
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx512 | CpuPath::Amx => avx512(op, src, dst, len),
            #[cfg(target_arch = "x86_64")]
            CpuPath::Avx2 => avx2(op, src, dst, len),
            _ => body::<IN, OUT, Portable, O>(op, src, dst, len),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const IN: usize, const OUT: usize, O: Lanewise<IN, OUT>>(
    op: &O,
    src: [*const f32; IN],
    dst: [*mut f32; OUT],
    len: usize,
) {
    // SAFETY: the caller upholds the contract of `apply`; the features are enabled here.
    unsafe { body::<IN, OUT, Avx2, O>(op, src, dst, len) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<const IN: usize, const OUT: usize, O: Lanewise<IN, OUT>>(
    op: &O,
    src: [*const f32; IN],
    dst: [*mut f32; OUT],
    len: usize,
) {
    // SAFETY: as above.
    unsafe { body::<IN, OUT, Avx512, O>(op, src, dst, len) }
}

#[inline(always)]
unsafe fn body<const IN: usize, const OUT: usize, S: Simd, O: Lanewise<IN, OUT>>(
    op: &O,
    src: [*const f32; IN],
    dst: [*mut f32; OUT],
    len: usize,
) {
    // SAFETY: `i + LANES <= len` for full vectors, `len - i < LANES` elements for the last part.
    unsafe {
        let mut x = [S::zero(); IN];
        let mut i = 0;
        while i + S::LANES <= len {
            for j in 0..IN {
                x[j] = S::load(src[j].add(i));
            }
            let y = op.lanes::<S>(x);
            for j in 0..OUT {
                S::store(dst[j].add(i), y[j]);
            }
            i += S::LANES;
        }
        if i < len {
            for j in 0..IN {
                x[j] = S::load_part(src[j].add(i), len - i);
            }
            let y = op.lanes::<S>(x);
            for j in 0..OUT {
                S::store_part(dst[j].add(i), y[j], len - i);
            }
        }
    }
}
