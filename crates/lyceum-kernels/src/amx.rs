//! Tiles of 16 rows by 64 bytes and their products (AMX), as the compiler does not offer them yet.
//!
//! A thread lays its tiles out with [`Layout::begin`] and gives them back when the [`Session`] ends; between the two
//! it uses them by the macros. Tiles 0 to 3 are sums, 4 and 5 rows of activations, 6 and 7 weights. Knows nothing of
//! what is multiplied.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_si512, _mm512_permutexvar_epi16,
};
use std::marker::PhantomData;

/// Rows of a tile, and numbers of 32 bits in one of its rows.
pub(crate) const SIDE: usize = 16;
/// Bytes of a tile's row.
pub(crate) const LINE: usize = 64;

/// Whether the processor has tiles of bytes and bf16 and the system lets this process use them; it is asked once for
/// the whole process.
#[cfg(target_os = "linux")]
pub(crate) fn is_granted() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const XSAVE: u32 = 1 << 27;
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    /// `ARCH_REQ_XCOMP_PERM` and the tiles' data, of `asm/prctl.h`.
    const ASK: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    if __cpuid_count(0, 0).eax < 7 || __cpuid_count(1, 0).ecx & XSAVE == 0 {
        return false;
    }
    if __cpuid_count(7, 0).edx & BF16_TILE_INT8 != BF16_TILE_INT8 {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: the system saves extended states, so the register can be read.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    if (u64::from(high) << 32 | u64::from(low)) & TILE_STATE != TILE_STATE {
        return false;
    }
    // SAFETY: changes only what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ASK, TILE_DATA) == 0 }
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_granted() -> bool {
    false
}

/// What the instructions read: the palette, then bytes of a row and rows of each tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Layout([u8; 64]);

impl Layout {
    /// Sums of `rows` rows; activations of as many rows and weights of as many columns as numbers of 32 bits fit
    /// ([`SIDE`]), both `bytes` along `k`.
    pub const fn new(rows: usize, bytes: usize) -> Layout {
        Layout::of([rows, rows], bytes)
    }

    /// For two blocks of rows and lines of [`LINE`] bytes: tiles 0, 1 and 4 are of the first [`SIDE`] rows, 2, 3 and 5 of
    /// those that are left.
    pub const fn of_two(rows: usize) -> Layout {
        let first = if rows < SIDE { rows } else { SIDE };
        // A tile without rows cannot be: one stands for none.
        Layout::of([first, if rows > SIDE { rows - SIDE } else { 1 }], LINE)
    }

    const fn of(rows: [usize; 2], bytes: usize) -> Layout {
        assert!(bytes >= 4 && bytes <= LINE && bytes.is_multiple_of(4));
        let mut layout = [0; 64];
        layout[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            let (n_rows, width) = match tile {
                0 | 1 => (rows[0], LINE),
                2 | 3 => (rows[1], LINE),
                4 => (rows[0], bytes),
                5 => (rows[1], bytes),
                _ => (bytes / 4, LINE),
            };
            assert!(n_rows >= 1 && n_rows <= SIDE);
            layout[16 + 2 * tile] = width as u8;
            layout[48 + tile] = n_rows as u8;
            tile += 1;
        }
        Layout(layout)
    }

    /// Lays this thread's tiles out so until the session ends.
    ///
    /// # Safety
    /// [`is_granted`]; there is no other session on this thread.
    pub unsafe fn begin(&self) -> Session {
        // SAFETY: the caller's.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) self.0.as_ptr(), options(nostack, preserves_flags, readonly))
        }
        Session(PhantomData)
    }
}

/// A thread's tiles while they are laid out.
pub(crate) struct Session(PhantomData<*const ()>);

impl Drop for Session {
    /// Tiles without a layout need not be kept when another thread gets the core.
    fn drop(&mut self) {
        // SAFETY: the session began with a layout.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }
}

/// Tile `$t` from `$p`, rows `$step` bytes apart.
macro_rules! load {
    ($t:literal, $p:expr, $step:expr) => {
        ::std::arch::asm!(
            concat!("tileloadd tmm", $t, ", [{p} + {step}*1]"),
            p = in(reg) $p, step = in(reg) $step, options(nostack, preserves_flags, readonly)
        )
    };
}
pub(crate) use load;

/// Tile `$t` to `$p`, rows `$step` bytes apart.
macro_rules! store {
    ($t:literal, $p:expr, $step:expr) => {
        ::std::arch::asm!(
            concat!("tilestored [{p} + {step}*1], tmm", $t),
            p = in(reg) $p, step = in(reg) $step, options(nostack, preserves_flags)
        )
    };
}
pub(crate) use store;

/// Loads or stores those tiles of sums for which there is a place, and the bytes from a row of it to the next.
macro_rules! sums {
    ($load_or_store:ident, $($t:literal: $place:expr),+) => {
        $(if let Some((p, step)) = $place {
            $crate::amx::$load_or_store!($t, p, step);
        })+
    };
}
pub(crate) use sums;

/// Tile `$t` becomes zero.
macro_rules! zero {
    ($t:literal) => {
        ::std::arch::asm!(concat!("tilezero tmm", $t), options(nostack, preserves_flags, nomem))
    };
}
pub(crate) use zero;

/// Sums `$t` plus the products of bf16 pairs in `$a` and `$b`: in each sum the even numbers of a tile's `k` one after
/// the other, beside them the odd ones, then both.
macro_rules! dot_bf16 {
    ($t:literal, $a:literal, $b:literal) => {
        ::std::arch::asm!(
            concat!("tdpbf16ps tmm", $t, ", tmm", $a, ", tmm", $b),
            options(nostack, preserves_flags, nomem)
        )
    };
}
pub(crate) use dot_bf16;

/// Sums `$t` plus the products of signed bytes in `$a` and `$b`.
macro_rules! dot_bytes {
    ($t:literal, $a:literal, $b:literal) => {
        ::std::arch::asm!(
            concat!("tdpbssd tmm", $t, ", tmm", $a, ", tmm", $b),
            options(nostack, preserves_flags, nomem)
        )
    };
}
pub(crate) use dot_bytes;

/// Each lane's two numbers as bf16, the first in the low half: a row of a tile of the right operand.
///
/// # Safety
/// The processor has AVX-512 and AVX512_BF16; `order` is [`pair_order`]'s.
#[inline(always)]
pub(crate) unsafe fn pairs(first: __m512, second: __m512, order: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
        _mm512_permutexvar_epi16(order, halves)
    }
}

/// The order that [`pairs`] puts halves in: half `i` beside half `16 + i`.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn pair_order() -> __m512i {
    static ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            (order[2 * i], order[2 * i + 1]) = (i as u16, 16 + i as u16);
            i += 1;
        }
        order
    };
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}
