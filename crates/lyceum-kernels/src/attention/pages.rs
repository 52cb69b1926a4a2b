//! Where the keys and values of many sequences live: pages of [`PAGE`] positions in one pool, whose size is
//! fixed when it is made.
//!
//! A page of one head of one layer holds its keys as a panel `[D, PAGE]` (a column a position, as the product
//! with a query wants them) and its values `[PAGE, D]`. What is stored is f32, bf16 (rounded to nearest, ties
//! to even), or int8 with one scale for the D numbers of a position: `x ≈ n · max|x| / 127`.

use super::paged::Span;
use crate::pool::parallel_for;
use crate::row::Parts;
use std::ops::{Deref, DerefMut};

/// Positions of a page.
pub const PAGE: usize = 32;

/// What a number is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    F32,
    Bf16,
    Int8,
}

/// Sizes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesShape {
    pub n_layers: usize,
    pub n_pages: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    pub head_size: usize,
    pub storage: Storage,
}

impl PagesShape {
    /// Bytes that one page takes in all layers.
    pub fn page_bytes(&self) -> usize {
        let numbers = 2 * PAGE * self.kv_heads * self.n_layers;
        match self.storage {
            Storage::F32 => numbers * self.head_size * 4,
            Storage::Bf16 => numbers * self.head_size * 2,
            Storage::Int8 => numbers * (self.head_size + 4),
        }
    }
}

/// The pool. Nothing in it is read before it was written: which page holds what is the caller's to know.
#[derive(Debug)]
pub struct Pages {
    shape: PagesShape,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    F32(Aligned<f32>),
    Bf16(Aligned<u16>),
    /// Numbers, and the scales of a page's head: of the keys of each position, then of the values.
    Int8(Aligned<i8>, Vec<f32>),
}

/// Zeros that begin at the start of a cache line: vectors that lie across two lines would be read twice.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    all: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn zeros(zeros: impl FnOnce(usize) -> Vec<T>, len: usize) -> Aligned<T> {
        let all = zeros(len + 64);
        // The vector never grows, so its numbers stay where they are.
        let start = all.as_ptr().align_offset(64).min(64);
        Aligned { all, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.all[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.all[self.start..self.start + self.len]
    }
}

impl Pages {
    /// Takes the memory (the system gives it when it is first written).
    pub fn new(shape: PagesShape) -> Pages {
        let parts = shape.n_layers * shape.n_pages * shape.kv_heads * 2 * PAGE;
        let data = match shape.storage {
            Storage::F32 => Data::F32(Aligned::zeros(|n| vec![0.0; n], parts * shape.head_size)),
            Storage::Bf16 => Data::Bf16(Aligned::zeros(|n| vec![0; n], parts * shape.head_size)),
            Storage::Int8 => {
                Data::Int8(Aligned::zeros(|n| vec![0; n], parts * shape.head_size), vec![0.0; parts])
            }
        };
        Pages { shape, data }
    }

    pub fn shape(&self) -> PagesShape {
        self.shape
    }

    pub fn bytes(&self) -> usize {
        self.shape.n_pages * self.shape.page_bytes()
    }

    /// Which of the heads' pages of the pool.
    pub(super) fn number(&self, layer: usize, page: u32, head: usize) -> usize {
        (layer * self.shape.n_pages + page as usize) * self.shape.kv_heads + head
    }

    /// Writes the keys and values of all rows of the spans: row `r` of `x` has its keys at
    /// `r * x_row + keys_at`, its values right behind them.
    ///
    /// # Panics
    /// When a span leaves its pages, a page the pool, or a row `x`.
    pub fn write(&mut self, layer: usize, spans: &[Span<'_>], x: &[f32], x_row: usize, keys_at: usize) {
        let PagesShape { n_layers, n_pages, kv_heads, head_size: d, .. } = self.shape;
        assert!(layer < n_layers, "kv pages: layer {layer} of {n_layers}");
        let width = kv_heads * d;
        for span in spans {
            span.check(n_pages);
            let end = if span.n_rows == 0 { 0 } else { (span.first_row + span.n_rows - 1) * x_row };
            assert!(
                end + keys_at + 2 * width <= x.len() || span.n_rows == 0,
                "kv pages: rows beyond the input"
            );
        }
        let pieces: Vec<Piece> = spans.iter().flat_map(pieces).collect();
        let at = |piece: &Piece, head| ((layer * n_pages + piece.page as usize) * kv_heads + head) * 2 * PAGE;
        let each = |write: &WriteHead<'_>| {
            parallel_for(pieces.len() * kv_heads, |i| {
                let (piece, head) = (&pieces[i / kv_heads], i % kv_heads);
                let first = piece.first_row * x_row + keys_at + head * d;
                let keys = Rows { x: &x[first..], row: x_row, n: piece.n_rows, d };
                let values = Rows { x: &x[first + width..], ..keys };
                write(at(piece, head), piece.column, keys, values);
            });
        };
        match &mut self.data {
            Data::F32(data) => {
                let data = Parts::new(data);
                each(&|at, column, keys, values| {
                    put(&data, at, column, [Some(keys), Some(values)], |_, x| x)
                });
            }
            Data::Bf16(data) => {
                let data = Parts::new(data);
                each(&|at, column, keys, values| {
                    put(&data, at, column, [Some(keys), Some(values)], |_, x| to_bf16(x));
                });
            }
            Data::Int8(data, scales) => {
                let (data, scales) = (Parts::new(data), Parts::new(scales));
                each(&|at, column, keys, values| {
                    for (i, rows) in [keys, values].into_iter().enumerate() {
                        let mut inverses = [0.0f32; PAGE];
                        // SAFETY: a position of a head belongs to one piece.
                        let scales = unsafe { scales.part(at + i * PAGE + column, rows.n) };
                        for (r, scale) in scales.iter_mut().enumerate() {
                            *scale = rows.of(r).iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                            inverses[r] = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
                        }
                        let n = |r: usize, x: f32| (x * inverses[r]).round_ties_even() as i8;
                        put(
                            &data,
                            at,
                            column,
                            if i == 0 { [Some(rows), None] } else { [None, Some(rows)] },
                            n,
                        );
                    }
                });
            }
        }
    }
}

/// The rows of a span that lie in one page.
struct Piece {
    page: u32,
    /// The position of the first in the page.
    column: usize,
    first_row: usize,
    n_rows: usize,
}

fn pieces<'a>(span: &'a Span<'_>) -> impl Iterator<Item = Piece> + 'a {
    let end = span.first_position + span.n_rows;
    let pages = span.first_position / PAGE..end.div_ceil(PAGE);
    pages.filter(|_| span.n_rows > 0).map(move |i| {
        let first = span.first_position.max(i * PAGE);
        Piece {
            page: span.pages[i],
            column: first - i * PAGE,
            first_row: span.first_row + first - span.first_position,
            n_rows: end.min((i + 1) * PAGE) - first,
        }
    })
}

/// The keys or the values of one head in consecutive rows: `n` of `d` numbers, each `row` after the one before.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    row: usize,
    n: usize,
    d: usize,
}

impl Rows<'_> {
    fn of(&self, r: usize) -> &[f32] {
        &self.x[r * self.row..][..self.d]
    }
}

/// Numbers of a row that are turned at a time: a line of the cache.
const NEAR: usize = 16;

/// Writes the keys and the values of one head of a piece: where the head's page begins, the first column, what.
type WriteHead<'a> = dyn Fn(usize, usize, Rows<'_>, Rows<'_>) + Sync + 'a;

/// Writes consecutive positions of one head: keys side by side down the panel, values as rows. `to` is told which row a
/// number comes from.
fn put<T: Send>(
    data: &Parts<'_, T>,
    at: usize,
    column: usize,
    [keys, values]: [Option<Rows<'_>>; 2],
    to: impl Fn(usize, f32) -> T,
) {
    if let Some(keys) = keys {
        assert!(column + keys.n <= PAGE, "kv pages: a piece beyond its page: bug");
        // Some numbers of all rows come near first: rows lie so far apart that their lines drive each other out.
        for first in (0..keys.d).step_by(NEAR) {
            let len = NEAR.min(keys.d - first);
            let mut near = [[0.0f32; NEAR]; PAGE];
            for (r, near) in near.iter_mut().enumerate().take(keys.n) {
                near[..len].copy_from_slice(&keys.of(r)[first..first + len]);
            }
            for c in 0..len {
                // SAFETY: a position of a head belongs to one piece.
                let line = unsafe { data.part(at * keys.d + (first + c) * PAGE + column, keys.n) };
                for (r, (number, near)) in line.iter_mut().zip(&near).enumerate() {
                    *number = to(r, near[c]);
                }
            }
        }
    }
    if let Some(values) = values {
        for r in 0..values.n {
            // SAFETY: as above.
            let line = unsafe { data.part((at + PAGE + column + r) * values.d, values.d) };
            line.iter_mut().zip(values.of(r)).for_each(|(number, &x)| *number = to(r, x));
        }
    }
}

/// Rounded to nearest, ties to even; NaN stays NaN.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
