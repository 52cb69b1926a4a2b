//! Activations that stand out: a few numbers of a row that are far larger than the others would take the bytes of
//! their whole block. They are taken out before the row becomes bytes, and what they multiply is added in f32.
//!
//! A number stands out where its size is above [`TIMES`] times the mean, over the row's blocks of 32, of the largest
//! size in a block; of a row at most one in [`ONE_IN`] numbers, the first along `k`. In SmolLM2 of 135 M
//! (512 tokens) 0.3 to 0.5 % of the numbers do, and the error of its log-probabilities is halved. The
//! decomposition is that of Dettmers et al., "LLM.int8()" (2022), here by row, so that no row depends on another.

use super::formats::{GROUP, ROWS, Small, Super, WOVEN};
use super::lanes::Lanes;
use super::weight::StoredWeight;
use std::ops::Range;

const TIMES: f32 = 1.75;
const ONE_IN: usize = 32;

/// A number that was taken out of a row, and where along `k` it stood.
#[derive(Clone, Copy)]
#[repr(C)]
struct Outlier {
    k: u32,
    value: f32,
}

/// The outliers of all rows: memory of one product.
#[derive(Clone, Copy)]
pub(super) struct Outliers {
    counts: *mut u32,
    found: *mut Outlier,
    k: usize,
}

// SAFETY: each row is written by one task, and read after all are written.
unsafe impl Send for Outliers {}
// SAFETY: as above.
unsafe impl Sync for Outliers {}

impl Outliers {
    /// Numbers of 32 bits that a row needs.
    pub fn row_len(k: usize) -> usize {
        1 + 2 * most(k)
    }

    pub fn new(k: usize, m: usize, buffer: &mut [f32]) -> Outliers {
        assert!(buffer.len() >= m * Self::row_len(k), "the outliers' buffer is too short: bug");
        let counts = buffer.as_mut_ptr();
        Outliers { counts: counts.cast(), found: counts.wrapping_add(m).cast(), k }
    }

    /// Begins row `row`, which stands at `x`: none were found yet; and the size above which a number stands out. `seen` is
    /// told the bits of each block's largest size.
    ///
    /// # Safety
    /// `x` points at the whole row, which blocks of 32 fill; nobody else touches the row; the processor is that of `L`.
    #[inline(always)]
    pub unsafe fn begin<L: Lanes>(&self, x: *const f32, row: usize, mut seen: impl FnMut(usize, u32)) -> f32 {
        let n_blocks = self.k / 32;
        let mut sum = 0.0;
        // SAFETY: the caller's; blocks are within the row.
        unsafe {
            *self.counts.add(row) = 0;
            for first in (0..n_blocks).step_by(4) {
                let block = |i: usize| x.add(32 * (first + i).min(n_blocks - 1));
                let largest = L::largest_of_four(std::array::from_fn(block));
                for (i, &bits) in largest.iter().enumerate().take(n_blocks - first) {
                    // One after the other: the same sum on every processor.
                    sum += f32::from_bits(bits);
                    seen(first + i, bits);
                }
            }
        }
        // Not a number, or infinite, where one is not finite: then nothing is above it.
        TIMES * (sum / n_blocks as f32)
    }

    /// Takes what is above `limit` out of block `block` of row `row`. Blocks come in rising order.
    ///
    /// # Safety
    /// As [`begin`](Self::begin), which was called for the row.
    pub unsafe fn take(&self, row: usize, block: usize, numbers: &mut [f32; 32], limit: f32) {
        // SAFETY: the caller's; a row has room for so many.
        unsafe {
            let (count, found) = (&mut *self.counts.add(row), self.found.add(row * most(self.k)));
            for (i, number) in numbers.iter_mut().enumerate() {
                if number.abs() > limit && (*count as usize) < most(self.k) {
                    *found.add(*count as usize) = Outlier { k: (32 * block + i) as u32, value: *number };
                    *number = 0.0;
                    *count += 1;
                }
            }
        }
    }

    /// What was taken out of row `row`, by its place.
    ///
    /// # Safety
    /// The row was begun, and all its blocks were taken from.
    unsafe fn of(&self, row: usize) -> &[Outlier] {
        // SAFETY: the caller's: there are so many.
        unsafe {
            std::slice::from_raw_parts(self.found.add(row * most(self.k)), *self.counts.add(row) as usize)
        }
    }
}

/// Outliers that a row has at most.
fn most(k: usize) -> usize {
    k / ONE_IN
}

/// Some woven tiles of a weight and the result whose rows they complete.
pub(super) struct Completion<'a> {
    pub outliers: &'a Outliers,
    pub weight: &'a StoredWeight,
    pub tiles: Range<usize>,
    pub rows: Range<usize>,
    /// The first column of the weight's in the first row.
    pub out: *mut f32,
    pub out_row: usize,
    /// Where what many rows ask for is kept.
    pub known: Option<&'a mut Known>,
}

pub(super) type CompleteFn = unsafe fn(&mut Completion<'_>);

/// Steps of `k` of some woven tiles as floats, each made when it is first asked for: what stands out stands at few
/// places, and those are the same in many rows.
pub(super) struct Known {
    /// Of each step of `k`, where it is; [`UNKNOWN`].
    places: *mut u32,
    numbers: *mut f32,
    n: u32,
}

const UNKNOWN: u32 = u32::MAX;
/// Steps that are kept at most: they stay in the second cache.
const KNOWN_MAX: usize = 512;
/// Numbers of a step.
const STEP: usize = WOVEN * ROWS;

impl Known {
    /// Numbers of 32 bits that it needs.
    pub fn len(k: usize) -> usize {
        k.next_multiple_of(STEP) + k.min(KNOWN_MAX) * STEP
    }

    /// Nothing known yet.
    pub fn new(k: usize, buffer: &mut [f32]) -> Known {
        assert!(buffer.len() >= Self::len(k), "the buffer of steps is too short: bug");
        buffer[..k].fill(f32::from_bits(UNKNOWN));
        let (places, numbers) = buffer.split_at_mut(k.next_multiple_of(STEP));
        Known { places: places.as_mut_ptr().cast(), numbers: numbers.as_mut_ptr(), n: 0 }
    }

    /// The numbers of step `k`, where they are known.
    ///
    /// # Safety
    /// The weight has the step.
    #[inline(always)]
    unsafe fn of(&self, k: u32) -> Option<*const f32> {
        // SAFETY: the caller's; places are within the numbers.
        unsafe {
            match *self.places.add(k as usize) {
                UNKNOWN => None,
                place => Some(self.numbers.add(place as usize * STEP).cast_const()),
            }
        }
    }

    /// Makes step `k` known where there is room.
    ///
    /// # Safety
    /// As [`complete`].
    #[inline(always)]
    unsafe fn learn<L: Lanes, F: Column>(&mut self, k: u32, weight: &StoredWeight, tiles: Range<usize>) {
        // SAFETY: the caller's; there is room for so many steps.
        unsafe {
            if *self.places.add(k as usize) != UNKNOWN || self.n as usize == weight.k().min(KNOWN_MAX) {
                return;
            }
            let to = self.numbers.add(self.n as usize * STEP);
            for (i, tile) in tiles.enumerate() {
                for at in (0..GROUP).step_by(4 * L::N) {
                    let numbers = column::<L, F>(weight.tile(tile), k, at);
                    L::store_up_to(to.add(i * ROWS + at / 4), numbers, L::N);
                }
            }
            *self.places.add(k as usize) = self.n;
            self.n += 1;
        }
    }
}

/// Step `k` of a tile.
#[inline(always)]
unsafe fn column<L: Lanes, F: Column>(
    (heads, bodies, block_step): (*const u8, *const u8, usize),
    k: u32,
    at: usize,
) -> L::F {
    let (block, i) = (k as usize / F::LEN, k as usize % F::LEN);
    // SAFETY: the caller's.
    unsafe { F::column::<L>(heads.add(block * block_step), bodies.add(block * block_step), i, at) }
}

/// Adds to every row what its outliers multiply, in rising order of their places.
///
/// # Safety
/// The processor is that of `L`; `out` holds the sums of the rows' rests, and is nobody else's.
#[inline(always)]
pub(super) unsafe fn complete<L: Lanes, F: Column>(c: &mut Completion<'_>) {
    for row in c.rows.clone() {
        // SAFETY: the caller's.
        let outliers = unsafe { c.outliers.of(row) };
        if outliers.is_empty() {
            continue;
        }
        if let Some(known) = &mut c.known {
            for outlier in outliers {
                // SAFETY: the caller's.
                unsafe { known.learn::<L, F>(outlier.k, c.weight, c.tiles.clone()) }
            }
        }
        // SAFETY: the caller's.
        if unsafe { complete_known::<L>(c, row, outliers) } {
            continue;
        }
        for (t, tile) in c.tiles.clone().enumerate() {
            let from = c.weight.tile(tile);
            let cols = (c.weight.n() - tile * ROWS).min(ROWS);
            for at in (0..GROUP).step_by(4 * L::N) {
                let first = at / 4;
                if first >= cols {
                    break;
                }
                // SAFETY: the caller's; the tile's rows and columns are there.
                unsafe {
                    let to = c.out.add(row * c.out_row + tile * ROWS + first);
                    let mut sum = L::load_up_to(to, cols - first);
                    for outlier in outliers {
                        let known = match &c.known {
                            Some(known) => known.of(outlier.k),
                            None => None,
                        };
                        let numbers = match known {
                            Some(known) => L::load_float(known.add(t * ROWS + first)),
                            None => column::<L, F>(from, outlier.k, at),
                        };
                        sum = L::fma(numbers, L::float(outlier.value), sum);
                    }
                    L::store_up_to(to, sum, cols - first);
                }
            }
        }
    }
}

/// [`complete`] of one row where the woven tiles are whole and all steps known: all columns at once, so that sums need not
/// wait for each other. Whether it was done; the sums are the same.
///
/// # Safety
/// As [`complete`].
#[inline(always)]
unsafe fn complete_known<L: Lanes>(c: &Completion<'_>, row: usize, outliers: &[Outlier]) -> bool {
    const VECTORS_MAX: usize = STEP / 8;
    const { assert!(STEP / L::N <= VECTORS_MAX) };
    let Some(known) = &c.known else { return false };
    if c.tiles.len() < WOVEN || c.tiles.end * ROWS > c.weight.n() {
        return false;
    }
    // SAFETY: the caller's; the columns are there.
    unsafe {
        let to = c.out.add(row * c.out_row + c.tiles.start * ROWS);
        let mut sums = [L::float(0.0); VECTORS_MAX];
        for v in 0..STEP / L::N {
            sums[v] = L::load_float(to.add(v * L::N));
        }
        for outlier in outliers {
            let Some(numbers) = known.of(outlier.k) else { return false };
            let value = L::float(outlier.value);
            for v in 0..STEP / L::N {
                sums[v] = L::fma(L::load_float(numbers.add(v * L::N)), value, sums[v]);
            }
        }
        for v in 0..STEP / L::N {
            L::store_up_to(to.add(v * L::N), sums[v], L::N);
        }
    }
    true
}

/// A type whose weights can be read one step of `k` at a time.
pub(super) trait Column {
    /// Numbers along `k` of a block.
    const LEN: usize;
    /// Number `i` of the block in each row of a vector; `at` as in [`super::formats::Numbers::pair`].
    ///
    /// # Safety
    /// As [`super::formats::Numbers::pair`].
    unsafe fn column<L: Lanes>(head: *const u8, body: *const u8, i: usize, at: usize) -> L::F;
}

/// Blocks of 32.
pub(super) struct Of32<F>(F);
/// Blocks of 256.
pub(super) struct Of256<F>(F);

impl<F: Small> Column for Of32<F> {
    const LEN: usize = 32;
    #[inline(always)]
    unsafe fn column<L: Lanes>(head: *const u8, body: *const u8, i: usize, at: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe {
            let q = number::<L, F>(body, i, at);
            let scale = F::scale::<L>(head, at);
            match F::LEAST {
                true => L::fma(q, scale, F::least::<L>(head, at)),
                false => L::mul_float(L::sub_float(q, L::float(F::ZERO)), scale),
            }
        }
    }
}

impl<F: Super> Column for Of256<F> {
    const LEN: usize = 256;
    #[inline(always)]
    unsafe fn column<L: Lanes>(head: *const u8, body: *const u8, i: usize, at: usize) -> L::F {
        let part = i / F::PART;
        // SAFETY: the caller's.
        unsafe {
            let q = number::<L, F>(body, i, at);
            let mut four = byte::<L>(F::quad::<L>(body, part / 4, at), part % 4);
            let scale = F::factor::<L>(&mut four, head, part, at);
            if F::PART == 16 {
                return L::mul_float(L::sub_float(q, L::float(F::ZERO)), scale);
            }
            // The minima's words hold parts (0, 2), (1, 3), (4, 6), (5, 7).
            let two = F::constant::<L>(body, part / 4 * 2 + part % 2, at);
            let least = if part % 4 < 2 { two } else { L::shr32::<16>(two) };
            let least = L::to_float(L::and(least, L::splat(0xFFFF)));
            L::fnma(least, F::least::<L>(head, at), L::mul_float(q, scale))
        }
    }
}

/// Number `i` of a block as it is stored: not below zero.
#[inline(always)]
unsafe fn number<L: Lanes, F: super::formats::Numbers>(body: *const u8, i: usize, at: usize) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let (first, second) = F::pair::<L>(body, i / 8, at);
        let four = if i % 8 < 4 { first } else { second };
        L::to_float(L::and(byte::<L>(four, i % 4), L::splat(0xFF)))
    }
}

/// Byte `i` of each lane in the lowest place; what stands above it is of no use.
#[inline(always)]
unsafe fn byte<L: Lanes>(four: L::I, i: usize) -> L::I {
    // SAFETY: the caller's.
    unsafe {
        match i {
            0 => four,
            1 => L::shr32::<8>(four),
            2 => L::shr32::<16>(four),
            _ => L::shr32::<24>(four),
        }
    }
}
