//! What row-wise kernels share: cutting rows into tasks, loading tails, and sums in one fixed order.

use crate::elementwise::Write;
use crate::pool::{SendPtr, parallel_for};
use crate::simd::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// Floats that one task of a row-wise kernel handles, about.
const TASK_LEN: usize = 1 << 13;

/// Runs `f` over ranges of rows on all threads; a range holds about [`TASK_LEN`] floats.
pub(crate) fn parallel_rows(n_rows: usize, cols: usize, f: impl Fn(Range<usize>) + Sync) {
    let step = (TASK_LEN / cols.max(1)).max(1);
    parallel_for(n_rows.div_ceil(step), |task| f(task * step..n_rows.min((task + 1) * step)));
}

/// A mutable slice that the tasks of one kernel share, each taking parts that no other task takes.
pub(crate) struct Parts<'a, T> {
    base: SendPtr<T>,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<'a, T: Send> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { base: SendPtr(slice.as_mut_ptr()), len: slice.len(), slice: PhantomData }
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// While the part lives, no other part overlaps it.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint by contract")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of {}: bug", self.len);
        // SAFETY: inside the slice, and the caller keeps the parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.base.get().add(start), len) }
    }

    /// The length of the whole slice.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A pointer to element `start`, valid inside the slice; what is written through it may not overlap
    /// other parts.
    pub(crate) fn pointer(&self, start: usize) -> *mut T {
        self.base.get().wrapping_add(start)
    }

    /// The same slice, for tasks that take their parts by another rule; the parts stay disjoint over both.
    pub(crate) fn again(&self) -> Parts<'a, T> {
        Parts { base: SendPtr(self.base.get()), len: self.len, slice: PhantomData }
    }
}

/// A full vector, or the first `n < LANES` floats and zeros.
///
/// # Safety
/// The processor has the path `S`; `min(n, LANES)` floats are readable.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's.
    unsafe { if n >= S::LANES { S::load(p) } else { S::load_part(p, n) } }
}

/// A full vector, or the first `n < LANES` floats and `fill` after them.
///
/// # Safety
/// The processor has the path `S`; `min(n, LANES)` floats are readable.
#[inline(always)]
pub(crate) unsafe fn load_or<S: Simd>(p: *const f32, n: usize, fill: f32) -> S::V {
    // SAFETY: the caller's; the array has the lanes of the widest path.
    unsafe {
        if n >= S::LANES {
            S::load(p)
        } else {
            let mut lanes = [fill; 16];
            for i in 0..n {
                lanes[i] = *p.add(i);
            }
            S::load(lanes.as_ptr())
        }
    }
}

/// Writes a full vector, or its first `n < LANES` floats.
///
/// # Safety
/// The processor has the path `S`; `min(n, LANES)` floats are writable.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller's.
    unsafe { if n >= S::LANES { S::store(p, v) } else { S::store_part(p, v, n) } }
}

/// What a kernel adds its gradient to: what is there, or zero.
///
/// # Safety
/// The processor has the path `S`; `min(n, LANES)` floats are readable.
#[inline(always)]
pub(crate) unsafe fn before<S: Simd>(p: *const f32, n: usize, write: Write) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        match write {
            Write::Add => load::<S>(p, n),
            Write::Overwrite => S::zero(),
        }
    }
}

/// The largest of a row, −∞ when it is empty.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn max<S: Simd>(row: &[f32]) -> f32 {
    // SAFETY: the path is the caller's; loads stay inside the row.
    unsafe {
        let mut m = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i < row.len() {
            m = S::max(m, load_or::<S>(row.as_ptr().add(i), row.len() - i, f32::NEG_INFINITY));
            i += S::LANES;
        }
        S::reduce_max(m)
    }
}

/// The sum of a row, lane by lane and then across lanes.
///
/// # Safety
/// The processor has the path `S`.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd>(row: &[f32]) -> f32 {
    // SAFETY: as in `max`.
    unsafe {
        let mut s = [S::zero(); 4];
        let (mut i, n, p) = (0, row.len(), row.as_ptr());
        while i + 4 * S::LANES <= n {
            for (j, s) in s.iter_mut().enumerate() {
                *s = S::add(*s, S::load(p.add(i + j * S::LANES)));
            }
            i += 4 * S::LANES;
        }
        while i < n {
            s[0] = S::add(s[0], load::<S>(p.add(i), n - i));
            i += S::LANES;
        }
        S::reduce_add(S::add(S::add(s[0], s[1]), S::add(s[2], s[3])))
    }
}
