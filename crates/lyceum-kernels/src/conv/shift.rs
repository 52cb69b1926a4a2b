//! The product whose right-hand side is read in place: `out[m, p] = bias[m] + Σ_k a[m, k] · planes[offset[k] + p]`.
//!
//! A tile is `MR` rows (channels) by `NV` vectors of pixels, all in registers. Vectors are cut along rows of
//! pixels, or along the padded planes where rows are so short that this wastes fewer lanes; lanes between
//! rows are computed and not stored.

use crate::cpu::CpuPath;
use crate::simd::{Simd, on_path};
use std::ops::Range;

/// What follows the sum: ReLU, and whether the result is added to what is there.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    pub relu: bool,
    pub add: bool,
}

/// The left-hand side in tiles `[tile][k][mr]`, and the planes with the offset of each `k`.
pub(super) struct Product<'a> {
    pub packed: &'a [f32],
    pub mr: usize,
    pub offsets: &'a [u32],
    pub planes: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

/// Which pixels: `(row, col)` is read at `source + row·pitch + col` and written at
/// `dest + row·dest_row + col·dest_col` of its plane.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub rows: usize,
    pub cols: usize,
    pub source: usize,
    pub pitch: usize,
    pub dest: usize,
    pub dest_row: usize,
    pub dest_col: usize,
    pub dest_plane: usize,
}

/// Rows of a tile for a product of `m` rows: what registers allow, where that pads least.
pub(super) fn rows_per_tile(path: CpuPath, m: usize) -> usize {
    if path.is_512() {
        return m.next_power_of_two().min(8);
    }
    if m <= 6 {
        return m;
    }
    // Cost of a tile in tenths of a row: few sums wait a little for their own additions.
    [(6, 60), (5, 51), (4, 43)]
        .into_iter()
        .min_by_key(|(mr, cost)| m.div_ceil(*mr) * cost)
        .map_or(6, |(mr, _)| mr)
}

/// Packs `value(m, k)` into tiles; rows past `m` are zeros.
pub(super) fn pack(packed: &mut [f32], m: usize, k: usize, mr: usize, value: impl Fn(usize, usize) -> f32) {
    for (tile, out) in packed.chunks_exact_mut((k * mr).max(1)).enumerate() {
        for i in 0..mr {
            let row = tile * mr + i;
            for kk in 0..k {
                out[kk * mr + i] = if row < m { value(row, kk) } else { 0.0 };
            }
        }
    }
}

/// Packs one column `kk` of a left-hand side of `m` rows and `k` columns.
pub(super) fn pack_column(
    packed: &mut [f32],
    m: usize,
    k: usize,
    mr: usize,
    kk: usize,
    value: impl Fn(usize) -> f32,
) {
    for row in 0..m.next_multiple_of(mr) {
        packed[row / mr * k * mr + kk * mr + row % mr] = if row < m { value(row) } else { 0.0 };
    }
}

/// Computes rows `rows` (which start at a tile) of all pixels of `target`; `out` is plane 0.
///
/// # Safety
/// The processor has `S`; `out` is valid for every `(plane, pixel)` of the target with planes in `rows`, which
/// nobody else touches; `planes` reaches three vectors past each `source + pixel + offset`.
pub(super) unsafe fn run(
    path: CpuPath,
    product: &Product<'_>,
    target: &Target,
    epilogue: Epilogue,
    rows: Range<usize>,
    out: *mut f32,
) {
    debug_assert!(rows.start.is_multiple_of(product.mr));
    on_path!(path, run_on(product: &Product<'_>, target: &Target, epilogue: Epilogue, rows: Range<usize>,
        out: *mut f32));
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn run_on<S: Simd>(
    product: &Product<'_>,
    target: &Target,
    epilogue: Epilogue,
    rows: Range<usize>,
    out: *mut f32,
) {
    // Rows and vectors of a tile: sums, one operand and a broadcast fill the 16 or 32 registers.
    // SAFETY: passed on.
    unsafe {
        if S::LANES == 16 {
            match product.mr {
                1 => run_rows::<S, 1, 4>(product, target, epilogue, rows, out),
                2 => run_rows::<S, 2, 4>(product, target, epilogue, rows, out),
                4 => run_rows::<S, 4, 4>(product, target, epilogue, rows, out),
                8 => run_rows::<S, 8, 3>(product, target, epilogue, rows, out),
                mr => unreachable!("no tile of {mr} rows: bug"),
            }
        } else {
            match product.mr {
                1 => run_rows::<S, 1, 4>(product, target, epilogue, rows, out),
                2 => run_rows::<S, 2, 4>(product, target, epilogue, rows, out),
                3 => run_rows::<S, 3, 3>(product, target, epilogue, rows, out),
                4 => run_rows::<S, 4, 2>(product, target, epilogue, rows, out),
                5 => run_rows::<S, 5, 2>(product, target, epilogue, rows, out),
                6 => run_rows::<S, 6, 2>(product, target, epilogue, rows, out),
                mr => unreachable!("no tile of {mr} rows: bug"),
            }
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn run_rows<S: Simd, const MR: usize, const NV: usize>(
    product: &Product<'_>,
    target: &Target,
    epilogue: Epilogue,
    rows: Range<usize>,
    out: *mut f32,
) {
    let cuts = Cuts::new(target, S::LANES);
    let mut v = 0;
    while v < cuts.n {
        let nv = NV.min(cuts.n - v);
        // SAFETY: passed on.
        unsafe {
            if nv == NV {
                panel::<S, MR, NV>(product, target, &cuts, v, epilogue, rows.clone(), out);
            } else if nv == 3 {
                panel::<S, MR, 3>(product, target, &cuts, v, epilogue, rows.clone(), out);
            } else if nv == 2 {
                panel::<S, MR, 2>(product, target, &cuts, v, epilogue, rows.clone(), out);
            } else {
                panel::<S, MR, 1>(product, target, &cuts, v, epilogue, rows.clone(), out);
            }
        }
        v += nv;
    }
}

/// How pixels are cut into vectors.
struct Cuts {
    /// Vectors a row, or None when they run along the planes.
    per_row: Option<usize>,
    n: usize,
    lanes: usize,
}

impl Cuts {
    fn new(target: &Target, lanes: usize) -> Cuts {
        let per_row = target.cols.div_ceil(lanes);
        let by_rows = target.rows * per_row;
        let along = ((target.rows - 1) * target.pitch + target.cols).div_ceil(lanes);
        if along < by_rows {
            Cuts { per_row: None, n: along, lanes }
        } else {
            Cuts { per_row: Some(per_row), n: by_rows, lanes }
        }
    }

    /// Where vector `v` is read, and its segments.
    fn vector(&self, target: &Target, v: usize) -> (usize, Segments) {
        let mut segments = Segments { list: [Segment { lane: 0, n: 0, dest: 0 }; 17], n: 0 };
        let dest = |row: usize, col: usize| target.dest + row * target.dest_row + col * target.dest_col;
        if let Some(per_row) = self.per_row {
            let (row, col) = (v / per_row, v % per_row * self.lanes);
            let n = self.lanes.min(target.cols - col);
            segments.push(Segment { lane: 0, n, dest: dest(row, col) });
            return (target.source + row * target.pitch + col, segments);
        }
        let (mut at, end) = (v * self.lanes, (v + 1) * self.lanes);
        while at < end {
            let (row, col) = (at / target.pitch, at % target.pitch);
            if row >= target.rows {
                break;
            }
            if col < target.cols {
                let n = (target.cols - col).min(end - at);
                segments.push(Segment { lane: at - v * self.lanes, n, dest: dest(row, col) });
            }
            at = (row + 1) * target.pitch;
        }
        (target.source + v * self.lanes, segments)
    }
}

/// Lanes `lane..lane + n` of a vector go to `dest`.
#[derive(Clone, Copy)]
struct Segment {
    lane: usize,
    n: usize,
    dest: usize,
}

/// The segments of one vector: at most one a lane, and one more.
struct Segments {
    list: [Segment; 17],
    n: usize,
}

impl Segments {
    fn push(&mut self, segment: Segment) {
        self.list[self.n] = segment;
        self.n += 1;
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn panel<S: Simd, const MR: usize, const NV: usize>(
    product: &Product<'_>,
    target: &Target,
    cuts: &Cuts,
    first: usize,
    epilogue: Epilogue,
    rows: Range<usize>,
    out: *mut f32,
) {
    let vectors: [(usize, Segments); NV] = std::array::from_fn(|v| cuts.vector(target, first + v));
    let k = product.offsets.len();
    let planes = product.planes.as_ptr();
    for row in rows.clone().step_by(MR) {
        // SAFETY: sources and offsets stay inside the planes (the caller's promise); the packed tile of `row`
        // has `k · MR` floats; rows past the range are not stored.
        unsafe {
            let sources: [*const f32; NV] = std::array::from_fn(|v| planes.add(vectors[v].0));
            let bias = |m: usize| product.bias.and_then(|b| b.get(row + m)).copied().unwrap_or(0.0);
            let mut acc: [[S::V; NV]; MR] = std::array::from_fn(|m| [S::splat(bias(m)); NV]);
            let tile = product.packed.as_ptr().add(row * k);
            for (kk, &offset) in product.offsets.iter().enumerate() {
                let b: [S::V; NV] = std::array::from_fn(|v| S::load(sources[v].add(offset as usize)));
                for m in 0..MR {
                    let a = S::splat(*tile.add(kk * MR + m));
                    for v in 0..NV {
                        acc[m][v] = S::fma(a, b[v], acc[m][v]);
                    }
                }
            }
            for m in 0..MR.min(rows.end - row) {
                let plane = out.add((row + m) * target.dest_plane);
                for v in 0..NV {
                    let y = if epilogue.relu { S::max(S::zero(), acc[m][v]) } else { acc[m][v] };
                    let segments = &vectors[v].1;
                    store::<S>(y, &segments.list[..segments.n], target.dest_col, epilogue.add, plane);
                }
            }
        }
    }
}

/// # Safety
/// `plane` is valid for every segment.
#[inline(always)]
unsafe fn store<S: Simd>(y: S::V, segments: &[Segment], step: usize, add: bool, plane: *mut f32) {
    // SAFETY: the caller's promise; the lanes buffer holds two of the widest vectors.
    unsafe {
        if let [Segment { lane: 0, n, dest }] = *segments
            && step == 1
        {
            let at = plane.add(dest);
            if n == S::LANES {
                S::store(at, if add { S::add(S::load(at), y) } else { y });
            } else {
                S::store_part(at, if add { S::add(S::load_part(at, n), y) } else { y }, n);
            }
            return;
        }
        let mut lanes = [0.0f32; 16];
        S::store(lanes.as_mut_ptr(), y);
        for segment in segments {
            for i in 0..segment.n {
                let at = plane.add(segment.dest + i * step);
                let value = lanes[segment.lane + i];
                *at = if add { *at + value } else { value };
            }
        }
    }
}
