//! Memory for weights, in large pages: a weight that streams by at the speed of memory would else miss the
//! table of pages at every fourth kilobyte.
//!
//! Weights smaller than a few large pages share a chunk, one behind the other, which is given back when the last of
//! them is gone. A chunk's pages are taken only as they are written.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::sync::{Arc, Mutex, PoisonError, Weak};

const LINE: usize = 64;
const LARGE_PAGE: usize = 2 << 20;
/// A chunk, and the weights that share one.
const CHUNK: usize = 8 * LARGE_PAGE;
const SHARED_MAX: usize = CHUNK / 2;

/// Bytes that nobody has written yet.
#[derive(Debug)]
pub(super) struct Memory {
    pages: Arc<Pages>,
    at: usize,
    len: usize,
}

/// The chunk that has room left, and where.
static OPEN: Mutex<(Weak<Pages>, usize)> = Mutex::new((Weak::new(), 0));

impl Memory {
    pub fn new(len: usize) -> Memory {
        if len > SHARED_MAX {
            return Memory { pages: Arc::new(Pages::new(len)), at: 0, len };
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, used) = &mut *open;
        let pages = match chunk.upgrade() {
            Some(pages) if *used + len <= CHUNK => pages,
            _ => {
                let pages = Arc::new(Pages::new(CHUNK));
                (*chunk, *used) = (Arc::downgrade(&pages), 0);
                pages
            }
        };
        let at = *used;
        *used = (at + len).next_multiple_of(LINE);
        Memory { pages, at, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.pages.base.wrapping_add(self.at)
    }

    /// The bytes, once all of them are written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is this memory's alone, and whoever made it wrote all of it before anyone reads.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

/// An allocation that begins with a large page.
#[derive(Debug)]
struct Pages {
    base: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is owned; its parts are written only by whoever makes them.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` is not zero.
    fn new(len: usize) -> Pages {
        let layout = Layout::from_size_align(len, LARGE_PAGE).expect("a weight's length is a length: bug");
        assert!(len > 0, "an empty allocation: bug");
        // SAFETY: the length is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        ask_for_large_pages(base, len);
        Pages { base, layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc` with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// A hint; where it is not taken everything works, somewhat slower.
fn ask_for_large_pages(base: *mut u8, len: usize) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(base: *mut u8, len: usize, advice: i32) -> i32;
        }
        const MADV_HUGEPAGE: i32 = 14;
        // SAFETY: the pages belong to this allocation; the advice changes nothing that a program sees.
        unsafe { madvise(base, len, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (base, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_apart_aligned_and_given_back_together() {
        let all: Vec<Memory> = (1..40).map(|i| Memory::new(i * 100_001)).collect();
        for memory in &all {
            assert_eq!(memory.as_ptr() as usize % LINE, 0);
            // SAFETY: the memory is this test's, and that long.
            unsafe { memory.as_ptr().write_bytes(memory.len() as u8, memory.len()) };
        }
        assert!(all.iter().all(|memory| memory.bytes().iter().all(|&x| x == memory.len() as u8)));
        let chunk = Arc::downgrade(&all[0].pages);
        drop(all);
        // Tests beside this one may still have a part of it.
        assert!(chunk.upgrade().is_none_or(|pages| Arc::strong_count(&pages) > 1));
    }
}
