//! The innermost loops: some rows of activations times some tiles of a weight, over a stretch of `k`.
//!
//! Every number of the result is one chain over `k`, in rising order: integers summed exactly over a block,
//! then one float operation per block (two where minima are added). The chain is the same whatever the
//! tile's height, so a row's bits do not depend on the rows beside it; integers being exact and every float
//! operation being one rounding, nor do they depend on the processor (but where bf16 products are an instruction).

use super::formats::{Floats, GROUP, ROWS, Small, Super};
use super::lanes::Lanes;
use crate::simd::prefetch;
#[cfg(target_arch = "x86_64")]
use crate::simd::prefetch_second;

/// What a sum of integers starts from that is to become a float: the bits of [`START_FLOAT`], whose steps are 1,
/// so that the sum's bits are those of `START_FLOAT + sum` while the sum is within ±2²². Taking that off again
/// is one exact addition, where a conversion would hold up the multiplier.
pub(super) const START: i32 = START_FLOAT.to_bits() as i32;
const START_FLOAT: f32 = 12_582_912.0;

/// The integers of sums that began with [`START`], as floats.
#[inline(always)]
unsafe fn float_of<L: Lanes>(sum: L::I) -> L::F {
    // SAFETY: the caller's.
    unsafe { L::sub_float(L::as_float(sum), L::float(START_FLOAT)) }
}

/// Words of a panel's activations that stand beside each block of 256: see [`super::activations`].
pub(super) const SUMS: usize = 12;

/// One tile's work. The panel's rows lie side by side at every step.
pub(super) struct Tile {
    /// The first weight tile's head and body at this stretch; the next tiles' follow.
    pub heads: *const u8,
    pub bodies: *const u8,
    /// Bytes from a block to the next.
    pub block_step: usize,
    pub n_tiles: usize,
    pub stream: Stream,
    /// What comes after the weight's stretch, where that was opened: it is brought to the second cache meanwhile.
    pub ahead: Ahead,
    /// The panel at this stretch: words along `k`, scales, sums (or what integers start from), minima's
    /// factors.
    pub words: *const i32,
    pub scales: *const f32,
    pub sums: *const i32,
    pub shifts: *const f32,
    /// Blocks of the stretch.
    pub n_blocks: usize,
    pub out: *mut f32,
    pub out_row: usize,
    /// Rows of the panel, which tiles that are for any number of them ask for.
    pub rows: usize,
    /// Columns to store.
    pub cols: usize,
    /// Whether `out` holds the sums of the stretches before.
    pub start: Start,
}

/// Bytes to come.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub at: *const u8,
    pub lines: usize,
}

impl Ahead {
    pub const NOTHING: Ahead = Ahead { at: std::ptr::null(), lines: 0 };

    /// Part `i` of `n`.
    pub fn part(self, i: usize, n: usize) -> Ahead {
        let lines = self.lines.div_ceil(n);
        Ahead { at: self.at.wrapping_add(i * lines * 64), lines }
    }

    /// Asks for all of it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn ask(self) {
        for line in 0..self.lines {
            prefetch_second(self.at.wrapping_add(line * 64).cast());
        }
    }

    /// The part behind this one, which is as long.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn next(self) -> Ahead {
        Ahead { at: self.at.wrapping_add(self.lines * 64), ..self }
    }
}

/// Where a tile finds the weight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// In the cache.
    Cache,
    /// In memory: it is asked for some time before it is used, but for one row of what needs so little work that the
    /// loads themselves run far enough ahead.
    Memory,
    /// The same, asked for twice: far ahead into the second cache, and near into the first, to which a core of this kind
    /// has fewer lines under way than memory takes time for.
    #[cfg(target_arch = "x86_64")]
    MemoryByTwo,
}

impl Stream {
    /// Asks for what is `ahead` bytes behind `p`, or, where it is asked for twice, as far as that is best.
    #[inline(always)]
    pub fn ask(self, p: *const u8, ahead: usize) {
        match self {
            Stream::Cache => {}
            Stream::Memory => prefetch(p.wrapping_add(ahead).cast()),
            #[cfg(target_arch = "x86_64")]
            Stream::MemoryByTwo => {
                prefetch_second(p.wrapping_add(FAR).cast());
                prefetch(p.wrapping_add(NEAR).cast());
            }
        }
    }
}

/// How far ahead that is, in bytes, for small blocks.
const AHEAD: usize = 4096;
/// How far ahead what is asked for twice.
#[cfg(target_arch = "x86_64")]
const FAR: usize = 16384;
#[cfg(target_arch = "x86_64")]
const NEAR: usize = 2048;

/// What a tile's sums start from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    Output,
}

pub(super) type TileFn = unsafe fn(&Tile);

/// A vector's rows in a block: the head of their scales, their tile's body, and the bytes into its groups.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub head: *const u8,
    pub body: *const u8,
    pub at: usize,
}

impl Tile {
    /// Where each vector's rows begin in the first block: in their tile, or in the last one again where there
    /// are no more.
    #[inline(always)]
    fn columns<L: Lanes, const V: usize>(&self, head: usize, body: usize) -> [Column; V] {
        let per_tile = ROWS / L::N;
        let mut columns = [Column { head: self.heads, body: self.bodies, at: 0 }; V];
        for (v, column) in columns.iter_mut().enumerate() {
            let tile = (v / per_tile).min(self.n_tiles - 1);
            let at = v % per_tile * 4 * L::N;
            let head = self.heads.wrapping_add(tile * head);
            *column = Column { head, body: self.bodies.wrapping_add(tile * body), at };
        }
        columns
    }

    /// Asks for what is `ahead` bytes after part `part` of a block's `n_parts`, if the weight streams by.
    #[inline(always)]
    fn prefetch(&self, column: &Column, ahead: usize, part: usize, n_parts: usize) {
        let len = self.block_step / n_parts;
        let from = column.head.wrapping_add(part * len);
        for at in (0..len).step_by(64) {
            self.stream.ask(from.wrapping_add(at), ahead);
        }
    }

    #[inline(always)]
    unsafe fn begin<L: Lanes, const R: usize, const V: usize>(&self, start: Start) -> [[L::F; V]; R] {
        // SAFETY: the tile's output is good for `R` rows of `cols`.
        unsafe {
            let mut sums = [[L::float(0.0); V]; R];
            if start == Start::Output {
                for i in 0..R {
                    for v in 0..V {
                        if v * L::N < self.cols {
                            let from = self.out.add(i * self.out_row + v * L::N);
                            sums[i][v] = L::load_up_to(from, self.cols - v * L::N);
                        }
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn end<L: Lanes, const R: usize, const V: usize>(&self, sums: [[L::F; V]; R]) {
        // SAFETY: as above.
        unsafe {
            for i in 0..R {
                for v in 0..V {
                    if v * L::N < self.cols {
                        let to = self.out.add(i * self.out_row + v * L::N);
                        L::store_up_to(to, sums[i][v], self.cols - v * L::N);
                    }
                }
            }
        }
    }
}

/// Adds a block of 256 to the sums: `whole`, less what the constants say, times the activations' scales.
#[inline(always)]
unsafe fn add_block<L: Lanes, F: Super, const R: usize, const V: usize>(
    sums: &mut [[L::F; V]; R],
    w: &[Column; V],
    whole: [[L::F; V]; R],
    (scales, constants): (*const f32, *const i32),
) {
    // SAFETY: the caller's.
    unsafe {
        let mut part = [[L::splat(START); V]; R];
        let (first, n_words) = if F::PART == 32 { (0, 4) } else { (4, 8) };
        for word in 0..n_words {
            for v in 0..V {
                let constant = F::constant::<L>(w[v].body, word, w[v].at);
                for i in 0..R {
                    let s = L::splat(*constants.add((first + word) * R + i));
                    part[i][v] = L::dot16(part[i][v], constant, s);
                }
            }
        }
        for v in 0..V {
            let d = F::least::<L>(w[v].head, w[v].at);
            for i in 0..R {
                let block = L::fnma(float_of::<L>(part[i][v]), d, whole[i][v]);
                sums[i][v] = L::fma(block, L::float(*scales.add(i)), sums[i][v]);
            }
        }
    }
}

/// Two groups of four along `k`.
#[inline(always)]
unsafe fn dots<L: Lanes, N: super::formats::Numbers, const R: usize, const V: usize>(
    acc: &mut [[L::I; V]; R],
    w: &[Column; V],
    pair: usize,
    words: *const i32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut first = [L::splat(0); V];
        let mut second = first;
        for v in 0..V {
            (first[v], second[v]) = N::pair::<L>(w[v].body, pair, w[v].at);
        }
        for (group, u) in [first, second].into_iter().enumerate() {
            for i in 0..R {
                let s = L::splat(*words.add(group * R + i));
                for v in 0..V {
                    acc[i][v] =
                        if N::WIDE { L::dot_wide(acc[i][v], u[v], s) } else { L::dot(acc[i][v], u[v], s) };
                }
            }
        }
    }
}

/// Blocks of 32: `Σ d_w · d_x · Σ (q − offset) · s`, or with minima `+ Σ least · d_x · Σ s`.
///
/// # Safety
/// The processor is that of `L`; the tile's pointers are good for `n_blocks` blocks and `R` rows.
#[inline(always)]
pub(super) unsafe fn small<L: Lanes, F: Small, const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = t.begin::<L, R, V>(t.start);
        let mut w: [_; V] = t.columns::<L, V>(F::HEAD, F::BODY);
        let (mut words, mut scales, mut starts, mut shifts) = (t.words, t.scales, t.sums, t.shifts);
        for _ in 0..t.n_blocks {
            let mut acc = [[L::splat(START); V]; R];
            if !F::LEAST {
                for i in 0..R {
                    acc[i] = [L::splat(*starts.add(i)); V];
                }
                starts = starts.add(R);
            }
            for pair in 0..4 {
                dots::<L, F, R, V>(&mut acc, &w, pair, words.add(2 * R * pair));
            }
            let mut d = [L::float(0.0); V];
            for v in 0..V {
                d[v] = F::scale::<L>(w[v].head, w[v].at);
            }
            for i in 0..R {
                let scale = L::float(*scales.add(i));
                for v in 0..V {
                    let numbers = L::mul_float(float_of::<L>(acc[i][v]), d[v]);
                    sums[i][v] = L::fma(numbers, scale, sums[i][v]);
                }
            }
            if F::LEAST {
                for v in 0..V {
                    d[v] = F::least::<L>(w[v].head, w[v].at);
                }
                for i in 0..R {
                    let shift = L::float(*shifts.add(i));
                    for v in 0..V {
                        sums[i][v] = L::fma(d[v], shift, sums[i][v]);
                    }
                }
                shifts = shifts.add(R);
            }
            if R > 1 || !F::WIDE || t.stream != Stream::Memory {
                t.prefetch(&w[0], AHEAD, 0, 1);
            }
            for w in &mut w {
                w.head = w.head.wrapping_add(t.block_step);
                w.body = w.body.wrapping_add(t.block_step);
            }
            words = words.add(8 * R);
            scales = scales.add(R);
        }
        t.end::<L, R, V>(sums);
    }
}

/// Blocks of 256: `Σ d_x · (Σ d_w · scale · Σ q · s)`, less the minima's part.
///
/// # Safety
/// As [`small`].
#[inline(always)]
pub(super) unsafe fn super_blocks<L: Lanes, F: Super, const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        let mut w: [_; V] = t.columns::<L, V>(F::HEAD, F::BODY);
        let (mut words, mut scales, mut constants) = (t.words, t.scales, t.sums);
        let n_parts = 256 / F::PART;
        let mut sums = t.begin::<L, R, V>(t.start);
        for _ in 0..t.n_blocks {
            let mut whole = [[L::float(0.0); V]; R];
            let mut four = [L::splat(0); V];
            for part in 0..n_parts {
                if !F::OPENED {
                    t.prefetch(&w[0], t.block_step, part, n_parts);
                    for v in 0..if part % 4 == 0 { V } else { 0 } {
                        four[v] = F::quad::<L>(w[v].body, part / 4, w[v].at);
                    }
                }
                let mut acc = [[L::splat(START); V]; R];
                for pair in part * F::PART / 8..(part + 1) * F::PART / 8 {
                    dots::<L, F, R, V>(&mut acc, &w, pair, words.add(2 * R * pair));
                }
                for v in 0..V {
                    let scale = F::factor::<L>(&mut four[v], w[v].head, part, w[v].at);
                    for i in 0..R {
                        whole[i][v] = L::fma(float_of::<L>(acc[i][v]), scale, whole[i][v]);
                    }
                }
            }
            add_block::<L, F, R, V>(&mut sums, &w, whole, (scales, constants));
            for w in &mut w {
                w.head = w.head.wrapping_add(t.block_step);
                w.body = w.body.wrapping_add(t.block_step);
            }
            words = words.add(64 * R);
            scales = scales.add(R);
            constants = constants.add(SUMS * R);
        }
        t.end::<L, R, V>(sums);
    }
}

/// Weights that are floats, activations in f32 (rounded before where the weights are bf16).
///
/// # Safety
/// As [`small`].
#[inline(always)]
pub(super) unsafe fn floats<L: Lanes, F: Floats, const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = t.begin::<L, R, V>(t.start);
        let mut w: [_; V] = t.columns::<L, V>(0, F::BODY);
        let mut words: *const f32 = t.words.cast();
        for _ in 0..t.n_blocks {
            t.prefetch(&w[0], AHEAD, 0, 1);
            let mut pairs = [(L::float(0.0), L::float(0.0)); V];
            for v in 0..V {
                pairs[v] = F::pair::<L>(w[v].body, w[v].at);
                w[v].head = w[v].head.wrapping_add(t.block_step);
                w[v].body = w[v].body.wrapping_add(t.block_step);
            }
            for i in 0..R {
                let (x, y) = (L::float(*words.add(i)), L::float(*words.add(R + i)));
                for v in 0..V {
                    sums[i][v] = L::chain(pairs[v].1, y, L::chain(pairs[v].0, x, sums[i][v]));
                }
            }
            words = words.add(2 * R);
        }
        t.end::<L, R, V>(sums);
    }
}

/// bf16 weights and activations by the instruction that multiplies pairs.
///
/// # Safety
/// As [`small`]; the processor has AVX-512 and AVX512_BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn bf16_pairs<const R: usize, const V: usize>(t: &Tile) {
    use super::lanes_x86::Avx512Vnni as L;
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps};
    use std::mem::transmute;
    // SAFETY: the caller's; all types are 512 bits.
    unsafe {
        let mut sums = t.begin::<L, R, V>(t.start);
        let mut w: [_; V] = t.columns::<L, V>(0, GROUP);
        let mut words = t.words;
        for _ in 0..t.n_blocks {
            if R > 1 {
                t.prefetch(&w[0], AHEAD, 0, 1);
            }
            let mut pairs = [L::splat(0); V];
            for v in 0..V {
                pairs[v] = L::load(w[v].body);
                w[v].head = w[v].head.wrapping_add(t.block_step);
                w[v].body = w[v].body.wrapping_add(t.block_step);
            }
            for i in 0..R {
                let x = transmute::<__m512i, __m512bh>(L::splat(*words.add(i)));
                for v in 0..V {
                    let pair = transmute::<__m512i, __m512bh>(pairs[v]);
                    sums[i][v] = _mm512_dpbf16_ps(sums[i][v], pair, x);
                }
            }
            words = words.add(R);
        }
        t.end::<L, R, V>(sums);
    }
}
