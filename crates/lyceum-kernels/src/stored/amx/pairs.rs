//! Products of bf16 in tiles: sums stay there over a stretch of `k`, 32 numbers at a time.
//!
//! Up to 16 rows meet four of the weight's tiles at once, more meet two and two: four products for four loads, of which
//! the second cache gives as many as it can.

use super::{Aligned, TALL};
use crate::amx::{self, LINE};
use crate::stored::engine::LINE_NUMBERS;
use crate::stored::formats::{GROUP, ROWS};
use crate::stored::tile::{Ahead, Start, Stream, Tile, TileFn};
use std::mem::MaybeUninit;

/// By the shapes.
pub(in crate::stored) static TILES: [TileFn; TALL] = {
    let mut tiles: [TileFn; TALL] = [low; TALL];
    let mut i = ROWS;
    while i < TALL {
        tiles[i] = tall;
        i += 1;
    }
    tiles
};

/// Blocks of two numbers that a line of activations is.
const PAIRS: usize = LINE_NUMBERS / 2;

/// Sums of columns that are not all there: of each of the processor's tiles.
type Edge = Aligned<[[[f32; ROWS]; ROWS]; 2]>;

/// Up to 16 rows by up to four tiles.
///
/// # Safety
/// As [`crate::stored::tile::small`]; the tiles are laid out.
unsafe fn low(t: &Tile) {
    // SAFETY: the caller's.
    unsafe {
        match t.n_tiles {
            1 => sums::<false, 1>(t, 0, t.ahead),
            2 => sums::<false, 2>(t, 0, t.ahead),
            3 => sums::<false, 3>(t, 0, t.ahead),
            _ => sums::<false, 4>(t, 0, t.ahead),
        }
    }
}

/// Up to 32 rows by up to four tiles, two after two.
///
/// # Safety
/// As [`low`].
unsafe fn tall(t: &Tile) {
    let calls = t.n_tiles.div_ceil(2);
    for first in (0..t.n_tiles).step_by(2) {
        let ahead = t.ahead.part(first / 2, calls);
        // SAFETY: the caller's.
        unsafe {
            match t.n_tiles - first {
                1 => sums::<true, 1>(t, first, ahead),
                _ => sums::<true, 2>(t, first, ahead),
            }
        }
    }
}

/// The sums of all rows and of `V` tiles from `first` on.
#[inline(always)]
unsafe fn sums<const TALL: bool, const V: usize>(t: &Tile, first: usize, ahead: Ahead) {
    let out_step = t.out_row * size_of::<f32>();
    let whole = (t.cols - first * ROWS) / ROWS;
    let part = if whole < V { t.cols % ROWS } else { 0 };
    let part_at = t.out.wrapping_add((first + whole) * ROWS);
    let mut edge = MaybeUninit::<Edge>::uninit();
    let edge_at = edge.as_mut_ptr().cast::<f32>();
    // SAFETY: the output is good for the rows of `cols`; blocks and rows of activations are there, and where the last
    // blocks are fewer than a tile takes, a copy stands for them.
    unsafe {
        if part != 0 {
            edge_at.write_bytes(0, 2 * ROWS * ROWS);
        }
        // Sums `i`: of tile `i`, or of tile `i % 2` for block `i / 2` of rows.
        let place = |i: usize| {
            let (v, row) = if TALL { (i % 2, i / 2 * ROWS) } else { (i, 0) };
            match v {
                v if v >= V => None,
                v if v < whole => Some((t.out.wrapping_add((first + v) * ROWS + row * t.out_row), out_step)),
                _ => Some((edge_at.wrapping_add(row * ROWS), LINE)),
            }
        };
        if t.start == Start::Output {
            for i in 0..if part != 0 { t.rows } else { 0 } {
                std::ptr::copy_nonoverlapping(part_at.add(i * t.out_row), edge_at.add(i * ROWS), part);
            }
            amx::sums!(load, "0": place(0), "1": place(1), "2": place(2), "3": place(3));
        } else {
            amx::zero!("0");
            amx::zero!("1");
            amx::zero!("2");
            amx::zero!("3");
        }
        let (mut x, mut w) = (t.words, t.bodies.wrapping_add(first * GROUP));
        let mut ahead = ahead.part(0, (t.n_blocks / PAIRS).max(1));
        for _ in 0..t.n_blocks / PAIRS {
            ahead.ask();
            ahead = ahead.next();
            if t.stream != Stream::Cache {
                ask(t.stream, w, t.block_step);
            }
            step::<TALL, V>(x, w, GROUP, t.block_step);
            x = x.add(t.rows * PAIRS);
            w = w.wrapping_add(PAIRS * t.block_step);
        }
        let rest = t.n_blocks % PAIRS;
        if rest > 0 {
            let mut copy = Aligned([[0u32; ROWS]; 4 * PAIRS]);
            let to = copy.0.as_mut_ptr().cast::<u8>();
            for block in 0..rest {
                for v in 0..V {
                    let from = w.wrapping_add(block * t.block_step + v * GROUP);
                    std::ptr::copy_nonoverlapping(from, to.add((v * PAIRS + block) * GROUP), GROUP);
                }
            }
            step::<TALL, V>(x, to, PAIRS * GROUP, GROUP);
        }
        amx::sums!(store, "0": place(0), "1": place(1), "2": place(2), "3": place(3));
        for i in 0..if part != 0 { t.rows } else { 0 } {
            std::ptr::copy_nonoverlapping(edge_at.add(i * ROWS), part_at.add(i * t.out_row), part);
        }
    }
}

/// 32 numbers along `k`: the rows at `x` by `V` tiles that are `tile` bytes apart, their blocks `block`.
#[inline(always)]
unsafe fn step<const TALL: bool, const V: usize>(x: *const i32, w: *const u8, tile: usize, block: usize) {
    // SAFETY: the caller's.
    unsafe {
        amx::load!("4", x, LINE);
        amx::load!("6", w, block);
        amx::dot_bf16!("0", "4", "6");
        if V > 1 {
            amx::load!("7", w.wrapping_add(tile), block);
            amx::dot_bf16!("1", "4", "7");
        }
        if TALL {
            amx::load!("5", x.wrapping_add(ROWS * PAIRS), LINE);
            amx::dot_bf16!("2", "5", "6");
            if V > 1 {
                amx::dot_bf16!("3", "5", "7");
            }
            return;
        }
        if V > 2 {
            amx::load!("6", w.wrapping_add(2 * tile), block);
            amx::dot_bf16!("2", "4", "6");
        }
        if V > 3 {
            amx::load!("7", w.wrapping_add(3 * tile), block);
            amx::dot_bf16!("3", "4", "7");
        }
    }
}

/// Asks for the weight of a later step.
#[inline(always)]
fn ask(stream: Stream, w: *const u8, block: usize) {
    for line in (0..PAIRS * block).step_by(64) {
        stream.ask(w.wrapping_add(line), super::AHEAD);
    }
}
