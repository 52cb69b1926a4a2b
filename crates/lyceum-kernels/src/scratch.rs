//! Memory that a kernel needs for the length of one call, kept per thread so that steady work allocates
//! nothing. It starts at the start of a cache line.

use std::cell::RefCell;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Gives `f` a slice of `len` floats with unspecified contents; it is kept for the next call on this thread.
///
/// Calls may nest; each nesting level has its own memory.
pub fn with_f32<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with_lines(len * 4, |lines| {
        // SAFETY: the lines are initialised, hold `len` floats, and any bits are a float.
        f(unsafe { std::slice::from_raw_parts_mut(lines.cast(), len) })
    })
}

/// [`with_f32`], for doubles.
pub fn with_f64<R>(len: usize, f: impl FnOnce(&mut [f64]) -> R) -> R {
    with_lines(len * 8, |lines| {
        // SAFETY: as above, for doubles.
        f(unsafe { std::slice::from_raw_parts_mut(lines.cast(), len) })
    })
}

fn with_lines<R>(bytes: usize, f: impl FnOnce(*mut Line) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let n_lines = bytes.div_ceil(64);
    if buffer.len() < n_lines {
        // What it held is not wanted: a fresh vector saves the copy.
        buffer = vec![Line([0; 64]); n_lines];
    }
    let result = f(buffer.as_mut_ptr());
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_are_apart_aligned_and_kept() {
        let outer = with_f32(100, |a| {
            a.fill(1.0);
            with_f64(100, |b| b.fill(2.0));
            assert!(a.iter().all(|&x| x == 1.0));
            a.as_ptr()
        });
        assert_eq!(outer as usize % 64, 0);
        assert_eq!(with_f32(100, |a| a.as_ptr()), outer);
    }
}
