//! Memory for weights: aligned to a cache line, and in large pages where there is much of it (a weight that
//! streams by at the speed of memory would else miss the table of pages at every fourth kilobyte).

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

const LINE: usize = 64;
const LARGE_PAGE: usize = 2 << 20;

/// Bytes that nobody has written yet.
#[derive(Debug)]
pub(super) struct Memory {
    base: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is owned, and written only while it is made.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(len: usize) -> Memory {
        let align = if len >= 2 * LARGE_PAGE { LARGE_PAGE } else { LINE };
        let layout = Layout::from_size_align(len, align).expect("a weight's length is a length: bug");
        if len == 0 {
            return Memory { base: std::ptr::without_provenance_mut(align), layout };
        }
        // SAFETY: the length is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        if align == LARGE_PAGE {
            ask_for_large_pages(base, len);
        }
        Memory { base, layout }
    }

    pub fn len(&self) -> usize {
        self.layout.size()
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// The bytes, once all of them are written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: whoever made the memory wrote all of it before anyone reads.
        unsafe { std::slice::from_raw_parts(self.base, self.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.len() > 0 {
            // SAFETY: it came from `alloc` with this layout.
            unsafe { dealloc(self.base, self.layout) }
        }
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
