//! Rows of activations turned into panels: quantised to bytes, rounded to bf16, or as they are, and in the
//! order in which the tiles read them.
//!
//! A panel is some rows side by side at every step along `k`: `[steps][rows]`. With bytes a step is four
//! numbers; beside them stand, for every 32 numbers, a scale and what an integer sum starts from, [`START`]` − offset · sum`
//! of the bytes (weights with an offset), or `scale · sum` (weights with a minimum); or, for every 256, a scale and [`SUMS`] words, each a
//! pair of 16-bit sums in the order in which the small constants of the weights come: of 32 numbers, parts
//! (0, 2), (1, 3), (4, 6), (5, 7), and of 16 numbers the same four by four.
//!
//! A row's scales depend on that row alone.

use super::engine::{Engine, LINE_NUMBERS, Order, Words};
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::lanes_x86::{Avx2, Avx512Vnni, Maddubs};
use super::outliers::Outliers;
use super::tile::{START, SUMS};
#[cfg(target_arch = "x86_64")]
use crate::cpu::CpuPath;
#[cfg(target_arch = "x86_64")]
use crate::matmul::pack;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx512, Simd};
use half::bf16;
use std::mem::MaybeUninit;

/// Smaller numbers than this are zero beside what a product keeps of them, and their inverse overflows.
const LARGEST_MIN: f32 = 1e-30;

/// Panels of all rows, one behind the other: row `r`'s panel begins at `r ·` (words of a row) of its first row.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub kind: Words,
    pub order: Order,
    pub words: *mut i32,
    pub scales: *mut f32,
    pub sums: *mut i32,
    pub shifts: *mut f32,
    pub k: usize,
}

// SAFETY: whoever writes through the pointers in a task writes the panels of rows that no other task has.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

/// Numbers of 32 bits that each array has for a row.
#[derive(Clone, Copy)]
pub(super) struct RowLen {
    pub words: usize,
    pub scales: usize,
    pub sums: usize,
    pub shifts: usize,
}

impl RowLen {
    pub fn of(kind: Words, order: Order, k: usize) -> RowLen {
        let (words, scales, sums, shifts) = match kind {
            Words::Bytes32 { .. } => (k / 4, k / 32, k / 32, 0),
            Words::Bytes32Least => (k / 4, k / 32, 0, k / 32),
            Words::Bytes256 => (k / 4, k / 256, k / 256 * SUMS, 0),
            Words::Pairs if order == Order::Lines => (k.next_multiple_of(LINE_NUMBERS) / 2, 0, 0, 0),
            Words::Pairs => (k.div_ceil(2), 0, 0, 0),
            Words::Rounded | Words::F32 => (k.next_multiple_of(2), 0, 0, 0),
        };
        RowLen { words, scales, sums, shifts }
    }

    pub fn total(self) -> usize {
        self.words + self.scales + self.sums + self.shifts
    }
}

impl Panels {
    /// Panels of `m` rows in `buffer`, which has room for [`RowLen::total`] words a row.
    pub fn new((kind, order): (Words, Order), k: usize, m: usize, buffer: &mut [f32]) -> Panels {
        let len = RowLen::of(kind, order, k);
        assert!(buffer.len() >= m * len.total(), "the panels' buffer is too short: bug");
        let words: *mut f32 = buffer.as_mut_ptr();
        let scales = words.wrapping_add(m * len.words);
        let sums = scales.wrapping_add(m * len.scales);
        let shifts = sums.wrapping_add(m * len.sums);
        Panels { kind, order, words: words.cast(), scales, sums: sums.cast(), shifts, k }
    }

    /// Fills the panel of `height` rows that begins at row `first` of `x`.
    ///
    /// # Safety
    /// `x` points at all rows, dense; nobody else touches the panel; the processor has the engine.
    pub unsafe fn fill(
        &self,
        engine: Engine,
        (x, outliers): (*const f32, Option<&Outliers>),
        first: usize,
        height: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.order == Order::Lines {
            // SAFETY: the caller's; only processors with tiles have this order.
            return unsafe { self.fill_lines((x, outliers), first, height) };
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's.
        if matches!(engine, Engine::Amx | Engine::Avx512)
            && unsafe { self.fill_together((x, outliers), first, height) }
        {
            return;
        }
        for i in 0..height {
            let x = x.wrapping_add((first + i) * self.k);
            let row = Row { panels: *self, x, outliers, limit: f32::INFINITY, first, height, i };
            // SAFETY: the caller's.
            unsafe {
                match engine {
                    #[cfg(target_arch = "x86_64")]
                    Engine::Amx | Engine::Avx512 => fill_avx512(row),
                    #[cfg(target_arch = "x86_64")]
                    Engine::AvxVnni | Engine::Avx2 => fill_avx2(row),
                    Engine::Plain => row.fill::<Plain>(),
                }
            }
        }
    }

    /// [`fill`](Self::fill) in [`Order::Lines`].
    ///
    /// # Safety
    /// As [`fill`](Self::fill); the processor has AMX, and AVX-512 with it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn fill_lines(&self, (x, outliers): (*const f32, Option<&Outliers>), first: usize, height: usize) {
        for i in 0..height {
            let x = x.wrapping_add((first + i) * self.k);
            // SAFETY: the caller's.
            unsafe {
                if self.kind == Words::Pairs {
                    let row_words = RowLen::of(self.kind, self.order, self.k).words;
                    let to = self.words.wrapping_add(first * row_words + i * LINE_NUMBERS / 2);
                    crate::matmul::lines(x, self.k, to.cast(), height * 2 * LINE_NUMBERS);
                } else {
                    let limit = f32::INFINITY;
                    fill_avx512(Row { panels: *self, x, outliers, limit, first, height, i });
                }
            }
        }
    }

    /// [`fill`](Self::fill) of panels of several rows: eight of them turn by eight words in registers, instead of word by
    /// word to the places of each. Whether there was a way; the words are the same.
    ///
    /// # Safety
    /// As [`fill`](Self::fill), with [`Engine::Avx512`].
    #[cfg(target_arch = "x86_64")]
    unsafe fn fill_together(
        &self,
        (x, outliers): (*const f32, Option<&Outliers>),
        first: usize,
        height: usize,
    ) -> bool {
        let words = match self.kind {
            Words::Bytes32 { .. } | Words::Bytes32Least | Words::Bytes256 if (2..=8).contains(&height) => {
                // SAFETY: the caller's.
                unsafe { fill_bytes_avx512(self, (x, outliers), first, height) }
                return true;
            }
            Words::F32 => pack::Words::F32,
            Words::Rounded => pack::Words::Rounded,
            Words::Pairs => pack::Words::Pairs,
            Words::Bytes32 { .. } | Words::Bytes32Least | Words::Bytes256 => return false,
        };
        if height < 8 || !self.k.is_multiple_of(2) {
            return false;
        }
        let src = x.wrapping_add(first * self.k);
        let panel = pack::Panel { src, stride: self.k, rows: height, width: height, k: self.k };
        let to = self.words.wrapping_add(first * RowLen::of(self.kind, self.order, self.k).words);
        // SAFETY: the caller's; a panel of eight rows or more spills nothing, and words are pairs only where the
        // processor has them.
        unsafe { pack::pack(CpuPath::Avx512, words, panel, to.cast()) }
        true
    }
}

/// A panel of two to eight rows of bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn fill_bytes_avx512(
    panels: &Panels,
    (x, outliers): (*const f32, Option<&Outliers>),
    first: usize,
    height: usize,
) {
    let mut rows: [Row<'_>; 8] = std::array::from_fn(|i| {
        // What is too many repeats the last row, and is written nowhere.
        let i = i.min(height - 1);
        let x = x.wrapping_add((first + i) * panels.k);
        Row { panels: *panels, x, outliers, limit: f32::INFINITY, first, height, i }
    });
    for i in 0..height {
        // SAFETY: the caller's.
        rows[i].limit = unsafe { rows[i].begin::<Avx512Vnni>() };
    }
    // Numbers that one call makes words of.
    let piece = if panels.kind == Words::Bytes256 { 256 } else { 128 };
    for at in (0..panels.k).step_by(piece) {
        let mut words = [[0i32; 64]; 8];
        for (words, row) in words.iter_mut().zip(&rows[..height]) {
            // SAFETY: the caller's.
            unsafe {
                match panels.kind {
                    Words::Bytes256 => row.block256::<Avx512Vnni>(at / 256, words),
                    _ => row.four_blocks::<Avx512Vnni>(at / 32, &mut words[..32]),
                }
            }
        }
        for part in 0..piece.min(panels.k - at) / 32 {
            let lines = std::array::from_fn(|i| words[i][8 * part..].as_ptr().cast::<f32>());
            let to = panels.words.wrapping_add(first * (panels.k / 4) + (at / 4 + 8 * part) * height);
            let is_last = at + 32 * (part + 1) == panels.k;
            // SAFETY: the panel has eight steps of `height` words for each 32 numbers, and behind all but the last of
            // them there are others, which are written later.
            unsafe { turn_eight(lines, to.cast(), height, is_last) }
        }
    }
}

/// Eight words of eight rows, word by word to steps of the first `height` rows. What is written of the others goes under the
/// step behind, which comes later; behind the last there is somebody else's.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn_eight(lines: [*const f32; 8], to: *mut f32, height: usize, is_last: bool) {
    // SAFETY: the caller's.
    unsafe {
        if height == 8 || !is_last {
            return Avx512::transpose8(lines, to, height);
        }
        let mut turned = [0.0f32; 64];
        Avx512::transpose8(lines, turned.as_mut_ptr(), 8);
        for step in 0..8 {
            std::ptr::copy_nonoverlapping(turned[8 * step..].as_ptr(), to.add(step * height), height);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn fill_avx512(row: Row<'_>) {
    // SAFETY: the caller's; the features are enabled here.
    unsafe { row.fill::<Avx512Vnni>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fill_avx2(row: Row<'_>) {
    // SAFETY: as above.
    unsafe { row.fill::<Avx2<Maddubs>>() }
}

/// Row `i` of the panel of `height` rows that begins at row `first`.
struct Row<'a> {
    panels: Panels,
    x: *const f32,
    outliers: Option<&'a Outliers>,
    /// The size above which a number is taken out before it becomes a byte.
    limit: f32,
    first: usize,
    height: usize,
    i: usize,
}

impl Row<'_> {
    /// Where step `step` of this row is in an array of `len` numbers a row.
    #[inline(always)]
    fn at(&self, len: usize, step: usize) -> usize {
        self.first * len + step * self.height + self.i
    }

    #[inline(always)]
    unsafe fn fill<L: Lanes>(mut self) {
        // SAFETY: the caller's.
        unsafe {
            if self.panels.kind.are_bytes() {
                self.limit = self.begin::<L>();
            }
            match self.panels.kind {
                Words::Bytes32 { .. } | Words::Bytes32Least => self.bytes32::<L>(),
                Words::Bytes256 => self.bytes256::<L>(),
                Words::Pairs => self.pairs(),
                Words::Rounded => self.floats(|x| round(x).to_f32()),
                Words::F32 => self.floats(|x| x),
            }
        }
    }

    /// The size above which numbers of this row stand out. The largest size in each block of 32 is left where the block's
    /// scale will be, where it has one.
    #[inline(always)]
    unsafe fn begin<L: Lanes>(&self) -> f32 {
        let Some(outliers) = self.outliers else { return f32::INFINITY };
        let leaves = self.panels.kind != Words::Bytes256;
        let (n_blocks, scales) = (self.panels.k / 32, self.panels.scales);
        // SAFETY: the caller's; the row has a scale for each block.
        unsafe {
            outliers.begin::<L>(self.x, self.first + self.i, |block, largest| {
                if leaves {
                    *scales.add(self.at(n_blocks, block)) = f32::from_bits(largest);
                }
            })
        }
    }

    /// Block `block` of 32 whose largest size has these bits, without what stands out; in `spare` where something
    /// does.
    #[inline(always)]
    unsafe fn part<L: Lanes>(
        &self,
        block: usize,
        largest: &mut u32,
        spare: &mut MaybeUninit<[f32; 32]>,
    ) -> *const f32 {
        let x = self.x.wrapping_add(32 * block);
        let is_even = f32::from_bits(*largest) <= self.limit || f32::from_bits(*largest).is_nan();
        let Some(outliers) = self.outliers.filter(|_| !is_even) else { return x };
        // SAFETY: the caller's: the row has the block.
        unsafe {
            let spare = spare.write(*x.cast::<[f32; 32]>());
            outliers.take(self.first + self.i, block, spare, self.limit);
            *largest = L::largest(spare.as_ptr());
            spare.as_ptr()
        }
    }

    /// Writes words that follow each other along `k`, from step `step` of the panel's `steps`.
    #[inline(always)]
    unsafe fn put(&self, steps: usize, step: usize, words: &[i32]) {
        const LINE_WORDS: usize = LINE_NUMBERS / 4;
        if self.panels.order == Order::Lines {
            for (i, line) in words.chunks_exact(LINE_WORDS).enumerate() {
                let at = self.first * steps
                    + (step / LINE_WORDS + i) * LINE_WORDS * self.height
                    + self.i * LINE_WORDS;
                // SAFETY: the panel has these lines.
                unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), self.panels.words.add(at), LINE_WORDS) }
            }
            return;
        }
        let to = self.panels.words.wrapping_add(self.at(steps, step));
        for (i, &word) in words.iter().enumerate() {
            // SAFETY: the panel has these steps.
            unsafe { *to.add(i * self.height) = word }
        }
    }

    #[inline(always)]
    unsafe fn bytes32<L: Lanes>(&self) {
        let n_blocks = self.panels.k / 32;
        for first in (0..n_blocks).step_by(4) {
            let mut words = [0i32; 32];
            // SAFETY: the row has `k` numbers, the panel a step for each block.
            unsafe {
                self.four_blocks::<L>(first, &mut words);
                self.put(self.panels.k / 4, 8 * first, &words[..8 * 4.min(n_blocks - first)]);
            }
        }
    }

    /// The words of four blocks of 32, or of those that are left; their scales and sums are written.
    #[inline(always)]
    unsafe fn four_blocks<L: Lanes>(&self, first: usize, words: &mut [i32]) {
        let p = &self.panels;
        let n_blocks = p.k / 32;
        // The last one several times at the end.
        let block = |i: usize| (first + i).min(n_blocks - 1);
        // SAFETY: the caller's.
        unsafe {
            let mut x: [*const f32; 4] = std::array::from_fn(|i| self.x.add(32 * block(i)));
            let mut spare = [const { MaybeUninit::uninit() }; 4];
            let mut largest = match self.outliers {
                Some(_) => std::array::from_fn(|i| (*p.scales.add(self.at(n_blocks, block(i)))).to_bits()),
                None => L::largest_of_four(x),
            };
            for i in 0..4.min(n_blocks - first) {
                x[i] = self.part::<L>(first + i, &mut largest[i], &mut spare[i]);
            }
            let (scales, inverses) = scales_of(largest);
            let sums = L::bytes_of_four(x, inverses, words.as_mut_ptr().cast());
            for i in 0..4.min(n_blocks - first) {
                let at = self.at(n_blocks, first + i);
                *p.scales.add(at) = scales[i];
                match p.kind {
                    Words::Bytes32 { offset } => *p.sums.add(at) = START - offset * sums[i],
                    _ => *p.shifts.add(at) = scales[i] * sums[i] as f32,
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn bytes256<L: Lanes>(&self) {
        for block in 0..self.panels.k / 256 {
            let mut words = [0i32; 64];
            // SAFETY: as above.
            unsafe {
                self.block256::<L>(block, &mut words);
                self.put(self.panels.k / 4, 64 * block, &words);
            }
        }
    }

    /// The words of a block of 256; its scale and sums are written.
    #[inline(always)]
    unsafe fn block256<L: Lanes>(&self, block: usize, words: &mut [i32; 64]) {
        let p = &self.panels;
        let n_blocks = p.k / 256;
        let mut sums = [0i32; 16];
        // SAFETY: as above.
        unsafe {
            let mut x: [*const f32; 8] = std::array::from_fn(|i| self.x.add(256 * block + 32 * i));
            let mut spare = [const { MaybeUninit::uninit() }; 8];
            let mut largest = 0;
            for half in [0, 4] {
                let four = L::largest_of_four([x[half], x[half + 1], x[half + 2], x[half + 3]]);
                for (i, mut own) in four.into_iter().enumerate() {
                    let part = half + i;
                    x[part] = self.part::<L>(8 * block + part, &mut own, &mut spare[part]);
                    largest = largest.max(own);
                }
            }
            let (scales, inverses) = scales_of([largest]);
            for part in 0..8 {
                let two = L::bytes_of(x[part], inverses[0], words.as_mut_ptr().add(8 * part).cast());
                sums[2 * part..][..2].copy_from_slice(&two);
            }
            *p.scales.add(self.at(n_blocks, block)) = scales[0];
            for word in 0..SUMS {
                let at = self.at(n_blocks * SUMS, SUMS * block + word);
                *p.sums.add(at) = pair_of_sums(&sums, word);
            }
        }
    }

    /// Some words at a time, so that they are made side by side before they are put apart.
    #[inline(always)]
    unsafe fn pairs(&self) {
        let (k, steps) = (self.panels.k, self.panels.k.div_ceil(2));
        for first in (0..k).step_by(2 * PIECE) {
            let mut words = [0i32; PIECE];
            let len = (2 * PIECE).min(k - first);
            // SAFETY: the row has `k` numbers.
            let x = unsafe { std::slice::from_raw_parts(self.x.add(first), len) };
            for (word, two) in words.iter_mut().zip(x.chunks_exact(2)) {
                let (low, high) = (round(two[0]).to_bits(), round(two[1]).to_bits());
                *word = (u32::from(low) | u32::from(high) << 16) as i32;
            }
            if len % 2 == 1 {
                words[len / 2] = i32::from(round(x[len - 1]).to_bits());
            }
            // SAFETY: the panel has these steps.
            unsafe { self.put(steps, first / 2, &words[..len.div_ceil(2)]) }
        }
    }

    #[inline(always)]
    unsafe fn floats(&self, f: impl Fn(f32) -> f32) {
        let (k, steps) = (self.panels.k, self.panels.k.next_multiple_of(2));
        for first in (0..k).step_by(PIECE) {
            // An odd row ends with a zero.
            let mut words = [0i32; PIECE];
            let len = PIECE.min(k - first);
            // SAFETY: as above.
            let x = unsafe { std::slice::from_raw_parts(self.x.add(first), len) };
            for (word, &x) in words.iter_mut().zip(x) {
                *word = f(x).to_bits() as i32;
            }
            // SAFETY: as above.
            unsafe { self.put(steps, first, &words[..len.min(steps - first).next_multiple_of(2)]) }
        }
    }
}

/// The scales of numbers whose largest sizes have these bits, and their inverses. Where one is not finite
/// the scale is not either, and with it the whole result: never a plausible number instead.
#[inline(always)]
fn scales_of<const N: usize>(largest: [u32; N]) -> ([f32; N], [f32; N]) {
    let (mut scales, mut inverses) = ([0.0; N], [0.0; N]);
    for i in 0..N {
        let largest = f32::from_bits(largest[i]);
        let is_nothing = largest < LARGEST_MIN;
        scales[i] = if is_nothing { 0.0 } else { largest / 127.0 };
        inverses[i] = if is_nothing { 0.0 } else { 127.0 / largest };
    }
    (scales, inverses)
}

/// Words that are made at a time; even.
const PIECE: usize = 64;

/// The nearest bf16, halves to even; what is too small for a normal f32 becomes zero, as in
/// [`crate::matmul`].
#[inline(always)]
fn round(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let bits = if x.abs() < f32::MIN_POSITIVE { bits & 0x8000_0000 } else { rounded };
    bf16::from_bits(if x.is_nan() { 0x7FC0 } else { (bits >> 16) as u16 })
}

/// Word `word` of the sums of a block of 256, given those of 16 numbers.
#[inline(always)]
fn pair_of_sums(sums: &[i32; 16], word: usize) -> i32 {
    let (low, high) = if word < 4 {
        let part = word / 2 * 4 + word % 2;
        let of = |part: usize| sums[2 * part] + sums[2 * part + 1];
        (of(part), of(part + 2))
    } else {
        let part = (word - 4) / 2 * 4 + word % 2;
        (sums[part], sums[part + 2])
    };
    low & 0xFFFF | high << 16
}
