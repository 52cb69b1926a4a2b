//! The innermost loops where the processor has tiles ([`crate::amx`]).
//!
//! Rows that are read ([`RowClass::Bulk`](crate::class::RowClass)) meet weights of every type as bf16 (`pairs`; those in blocks
//! are opened to it, some columns at a time, by `open`): products of bf16 are summed where they are made, while
//! integers would leave the tile after every block to become floats, which takes three times as long. Products of bf16
//! have an order of their own, for one row as for many.
//!
//! Rows of a step ([`RowClass::Step`](crate::class::RowClass)) meet a weight's bytes (`bytes`), with the bits of every other engine.
//!
//! Rows of activations lie behind each other, 32 numbers of a row at a time ([`super::engine::Order::Lines`]).

mod bytes;
mod open;
mod pairs;

pub(super) use bytes::opened as opened_bytes;
pub(super) use open::opened as opened_pairs;
pub(super) use pairs::TILES as BF16;

use super::engine::{Shape, Words};
use super::formats::ROWS;
use super::kind::Stored;
use crate::amx::{LINE, Layout};

/// Rows of tiles of bytes, and the weight's tiles that one call spans.
pub(super) static SHAPES: [Shape; 5] =
    [Shape::new(1, 4), Shape::new(2, 4), Shape::new(4, 4), Shape::new(8, 4), Shape::new(ROWS, 4)];
pub(super) const MAIN: usize = 4;

/// Rows of the tallest tile of pairs: two blocks of a processor's.
const TALL: usize = 2 * ROWS;
/// Rows of tiles of pairs: any number.
pub(super) static PAIRS: [Shape; TALL] = {
    let mut shapes = [Shape::new(1, 4); TALL];
    let mut i = 1;
    while i < TALL {
        shapes[i] = Shape::new(i + 1, 4);
        i += 1;
    }
    shapes
};
pub(super) const PAIRS_MAIN: usize = TALL - 1;

/// How a thread's tiles are laid out for products of words with a type, by a shape.
pub(super) fn layout(words: Words, kind: Stored, shape: usize) -> &'static Layout {
    static PARTS_OF_32: [Layout; 5] = of_bytes(32);
    static PARTS_OF_16: [Layout; 5] = of_bytes(16);
    static OF_PAIRS: [Layout; TALL] = of_pairs();
    match kind {
        _ if words == Words::Pairs => &OF_PAIRS[shape],
        Stored::Q6K => &PARTS_OF_16[shape],
        _ => &PARTS_OF_32[shape],
    }
}

const fn of_bytes(bytes: usize) -> [Layout; 5] {
    let mut layouts = [Layout::new(1, bytes); 5];
    let mut i = 1;
    while i < 5 {
        layouts[i] = Layout::new(1 << i, bytes);
        i += 1;
    }
    layouts
}

const fn of_pairs() -> [Layout; TALL] {
    let mut layouts = [Layout::new(1, LINE); TALL];
    let mut rows = 1;
    while rows <= TALL {
        layouts[rows - 1] = if rows > ROWS { Layout::of_two(rows) } else { Layout::new(rows, LINE) };
        rows += 1;
    }
    layouts
}

/// What tiles are stored to and loaded from.
#[repr(align(64))]
struct Aligned<T>(T);

/// How far ahead a weight is asked for once, in bytes.
const AHEAD: usize = 8192;
