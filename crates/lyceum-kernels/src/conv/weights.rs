//! The gradient of the weights: `dw[m, k] = Σ_b s_b Σ_p dy[b, m, p] · planes[b][offset[k] + p]`.
//!
//! For each example the output's gradient is turned so that channels are lanes (`[p][channel]`), and a tile of
//! `KR` taps by `NV` vectors of channels stays in registers over all pixels: no sums across lanes, one
//! broadcast a tap. Groups with few output channels (depthwise) would leave those lanes empty; there pixels
//! are the lanes and each weight is one sum.
//!
//! The batch is cut into pieces by a rule that knows the shape only; each piece sums its examples in order,
//! and the pieces are added in order: the same bits on every number of threads.

use super::planes::Planes;
use super::{ConvShape, Write};
use crate::cpu::{self, CpuPath};
use crate::pool::{self, SendPtr};
use crate::scratch;
use crate::simd::{Simd, on_path};

/// Pieces of the batch that are summed apart, at most.
const PIECES_MAX: usize = 16;
/// Floats that all pieces together may take.
const PARTIALS_LEN_MAX: usize = 1 << 24;

/// `dweight (+)= Σ_b scale[b] · dy[b] ⋆ x[b]`, shapes as in [`super::conv_forward`].
///
/// `dy` is the gradient before the activation; `example_scale` `[B]` weighs examples (None: all ones).
pub fn conv_backward_weight(
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    example_scale: Option<&[f32]>,
    write: Write,
    dweight: &mut [f32],
) {
    shape.check();
    assert_eq!(x.len(), shape.len_x(), "conv: x of {shape:?}");
    assert_eq!(dy.len(), shape.len_y(), "conv: dy of {shape:?}");
    assert_eq!(dweight.len(), shape.len_weight(), "conv: dweight of {shape:?}");
    assert!(example_scale.is_none_or(|s| s.len() == shape.batch), "conv: example scale of {shape:?}");
    let path = cpu::path();
    let layout = Layout::new(path, shape);
    let (n_taps, groups) = (shape.taps(), shape.groups);
    let planes = Planes::of_input(shape, layout.c_in);
    let partial_len = groups * layout.len();
    let n_pieces = PIECES_MAX.min(PARTIALS_LEN_MAX / partial_len).clamp(1, shape.batch.max(1));
    let examples_per_piece = shape.batch.div_ceil(n_pieces).max(1);
    // Where pieces and groups are fewer than threads, blocks of channels are handed out too.
    let n_cuts = (2 * pool::threads()).div_ceil(n_pieces * groups).min(layout.blocks);
    let blocks_per_cut = layout.blocks.div_ceil(n_cuts);
    scratch::with_f32(layout.taps_padded + n_pieces * partial_len, |memory| {
        let (offsets, partials) = memory.split_at_mut(layout.taps_padded);
        let offsets: &mut [u32] = bytemuck::cast_slice_mut(offsets);
        planes.input_offsets(shape, &mut offsets[..n_taps]);
        // Taps past the last repeat it; their sums are not read.
        let last = offsets[n_taps - 1];
        offsets[n_taps..].fill(last);
        let (offsets, out) = (&*offsets, SendPtr(partials.as_mut_ptr()));
        pool::parallel_for(n_pieces * groups * n_cuts, |i| {
            let (piece, g, cut) = (i / n_cuts / groups, i / n_cuts % groups, i % n_cuts);
            let examples = piece * examples_per_piece..((piece + 1) * examples_per_piece).min(shape.batch);
            let blocks = cut * blocks_per_cut..((cut + 1) * blocks_per_cut).min(layout.blocks);
            if blocks.is_empty() {
                return;
            }
            let at = piece * partial_len + g * layout.len() + blocks.start * layout.block_len();
            // SAFETY: pieces, groups and blocks own disjoint parts of the partials, which outlive the tasks.
            let sums = unsafe {
                std::slice::from_raw_parts_mut(out.get().add(at), blocks.len() * layout.block_len())
            };
            sums.fill(0.0);
            let work = Work { shape, layout: &layout, planes, offsets, x, dy, example_scale, g, blocks };
            work.add_examples(path, examples, sums);
        });
        let partials = &*partials;
        pool::for_each_chunk(dweight, n_taps, |channel, row| {
            let (g, m) = (channel / layout.c_out, channel % layout.c_out);
            for (k, dw) in row.iter_mut().enumerate() {
                let at = g * layout.len() + layout.index(m, k);
                let sum: f32 = (0..n_pieces).map(|piece| partials[piece * partial_len + at]).sum();
                *dw = if write == Write::Add { *dw + sum } else { sum };
            }
        });
    });
}

/// `dbias (+)= Σ_b scale[b] Σ_p dy[b, :, p]`.
pub fn conv_backward_bias(
    shape: &ConvShape,
    dy: &[f32],
    example_scale: Option<&[f32]>,
    write: Write,
    dbias: &mut [f32],
) {
    shape.check();
    assert_eq!(dy.len(), shape.len_y(), "conv: dy of {shape:?}");
    assert_eq!(dbias.len(), shape.out_channels, "conv: dbias of {shape:?}");
    assert!(example_scale.is_none_or(|s| s.len() == shape.batch), "conv: example scale of {shape:?}");
    let [oh, ow] = shape.out();
    let (path, n, channels) = (cpu::path(), oh * ow, shape.out_channels);
    pool::for_each_chunk(dbias, 1, |channel, sum| {
        let mut total = 0.0f32;
        for b in 0..shape.batch {
            let pixels = &dy[(b * channels + channel) * n..][..n];
            let of_example = on_path!(path, sum_on(pixels: &[f32]) -> f32);
            total += of_example * example_scale.map_or(1.0, |s| s[b]);
        }
        sum[0] = if write == Write::Add { sum[0] + total } else { total };
    });
}

/// How sums lie in memory, and the tile.
#[derive(Clone, Copy)]
struct Layout {
    c_in: usize,
    c_out: usize,
    /// Taps rounded up to whole tiles.
    taps_padded: usize,
    /// Taps a tile.
    kr: usize,
    /// Channels a block: `NV` vectors, or one where pixels are the lanes.
    width: usize,
    /// Blocks of channels.
    blocks: usize,
    by_pixels: bool,
}

impl Layout {
    fn new(path: CpuPath, shape: &ConvShape) -> Layout {
        let (c_in, c_out) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let (lanes, taps) = (if path.is_512() { 16 } else { 8 }, shape.taps());
        let base = Layout { c_in, c_out, taps_padded: taps, kr: 1, width: 1, blocks: c_out, by_pixels: true };
        if c_out * 4 <= lanes {
            return base;
        }
        let width = if c_out > lanes { 2 * lanes } else { lanes };
        let most = if lanes == 16 || width == lanes { 8 } else { 6 };
        // The tile that pads least; a tile of few sums waits for its own additions.
        let cost = |kr: usize| taps.div_ceil(kr) * (kr * width / lanes).max(8);
        let kr = (3..=most).rev().filter(|kr| *kr != 7).min_by_key(|&kr| cost(kr)).unwrap_or(most);
        let taps_padded = taps.next_multiple_of(kr);
        Layout { taps_padded, kr, width, blocks: c_out.div_ceil(width), by_pixels: false, ..base }
    }

    fn block_len(&self) -> usize {
        self.taps_padded * self.width
    }

    fn len(&self) -> usize {
        self.blocks * self.block_len()
    }

    /// Where the sum of channel `m` and tap `k` lies.
    fn index(&self, m: usize, k: usize) -> usize {
        m / self.width * self.block_len() + k * self.width + m % self.width
    }
}

/// One task: some examples, one group, some blocks of channels.
struct Work<'a> {
    shape: &'a ConvShape,
    layout: &'a Layout,
    planes: Planes,
    offsets: &'a [u32],
    x: &'a [f32],
    dy: &'a [f32],
    example_scale: Option<&'a [f32]>,
    g: usize,
    blocks: std::ops::Range<usize>,
}

impl Work<'_> {
    fn add_examples(&self, path: CpuPath, examples: std::ops::Range<usize>, sums: &mut [f32]) {
        let Work { shape, layout, .. } = self;
        let ([ih, iw], [oh, ow]) = (shape.input, shape.out());
        let turned_len = if layout.by_pixels { 0 } else { oh * ow * layout.width };
        scratch::with_f32(self.planes.len() + turned_len, |memory| {
            let (planes, turned) = memory.split_at_mut(self.planes.len());
            for b in examples {
                let scale = self.example_scale.map_or(1.0, |s| s[b]);
                let group = b * shape.groups + self.g;
                self.planes.fill_input(shape, &self.x[group * layout.c_in * ih * iw..], planes);
                let dy = &self.dy[group * layout.c_out * oh * ow..][..layout.c_out * oh * ow];
                for (i, block) in self.blocks.clone().enumerate() {
                    let out = &mut sums[i * layout.block_len()..][..layout.block_len()];
                    let geometry = Geometry { rows: oh, cols: ow, pitch: self.planes.pitch };
                    let (offsets, planes) = (self.offsets, &*planes);
                    if layout.by_pixels {
                        let dy = &dy[block * oh * ow..][..oh * ow];
                        on_path!(path, add_by_pixels(geometry: Geometry, offsets: &[u32], planes: &[f32],
                            dy: &[f32], scale: f32, out: &mut [f32]));
                        continue;
                    }
                    let channels = block * layout.width..((block + 1) * layout.width).min(layout.c_out);
                    turn(&dy[channels.start * oh * ow..channels.end * oh * ow], layout.width, scale, turned);
                    let (turned, layout) = (&*turned, *layout);
                    on_path!(path, add_by_channels(geometry: Geometry, layout: &Layout, offsets: &[u32],
                        planes: &[f32], turned: &[f32], out: &mut [f32]));
                }
            }
        });
    }
}

/// `turned[p][channel] = scale · dy[channel][p]`, zeros past the last channel.
fn turn(dy: &[f32], width: usize, scale: f32, turned: &mut [f32]) {
    let n = turned.len() / width;
    if dy.len() < turned.len() {
        turned.fill(0.0);
    }
    // Blocks of eight pixels keep the written lines in the cache.
    for start in (0..n).step_by(8) {
        let end = (start + 8).min(n);
        for (channel, pixels) in dy.chunks_exact(n).enumerate() {
            for p in start..end {
                turned[p * width + channel] = scale * pixels[p];
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    rows: usize,
    cols: usize,
    pitch: usize,
}

#[inline(always)]
unsafe fn add_by_channels<S: Simd>(
    geometry: Geometry,
    layout: &Layout,
    offsets: &[u32],
    planes: &[f32],
    turned: &[f32],
    out: &mut [f32],
) {
    let kr = layout.kr;
    for (tile, offsets) in offsets.chunks_exact(kr).enumerate() {
        let sums = &mut out[tile * kr * layout.width..][..kr * layout.width];
        // SAFETY: `on_path!` has the path; `tile_sums` says what it needs, and the layout gives it.
        unsafe {
            match (layout.width / S::LANES, kr) {
                (1, 3) => tile_sums::<S, 3, 1>(geometry, offsets, planes, turned, sums),
                (1, 4) => tile_sums::<S, 4, 1>(geometry, offsets, planes, turned, sums),
                (1, 5) => tile_sums::<S, 5, 1>(geometry, offsets, planes, turned, sums),
                (1, 6) => tile_sums::<S, 6, 1>(geometry, offsets, planes, turned, sums),
                (1, 8) => tile_sums::<S, 8, 1>(geometry, offsets, planes, turned, sums),
                (2, 3) => tile_sums::<S, 3, 2>(geometry, offsets, planes, turned, sums),
                (2, 4) => tile_sums::<S, 4, 2>(geometry, offsets, planes, turned, sums),
                (2, 5) => tile_sums::<S, 5, 2>(geometry, offsets, planes, turned, sums),
                (2, 6) => tile_sums::<S, 6, 2>(geometry, offsets, planes, turned, sums),
                (2, 8) => tile_sums::<S, 8, 2>(geometry, offsets, planes, turned, sums),
                tile => unreachable!("no tile of {tile:?}: bug"),
            }
        }
    }
}

/// `sums[i][lane] += Σ_p planes[offsets[i] + p] · turned[p][lane]` for `KR` taps and `NV` vectors.
///
/// # Safety
/// The processor has `S`; `turned` has `rows · cols` rows of `NV` vectors, `sums` `KR` of them, and every
/// `offset + row · pitch + col` lies in the planes.
#[inline(always)]
unsafe fn tile_sums<S: Simd, const KR: usize, const NV: usize>(
    geometry: Geometry,
    offsets: &[u32],
    planes: &[f32],
    turned: &[f32],
    sums: &mut [f32],
) {
    debug_assert!(offsets.len() == KR && sums.len() == KR * NV * S::LANES);
    debug_assert!(turned.len() == geometry.rows * geometry.cols * NV * S::LANES);
    // SAFETY: the caller's promise.
    unsafe {
        let at = sums.as_mut_ptr();
        let mut acc: [[S::V; NV]; KR] =
            std::array::from_fn(|i| std::array::from_fn(|v| S::load(at.add((i * NV + v) * S::LANES))));
        let mut d = turned.as_ptr();
        for row in 0..geometry.rows {
            let start = planes.as_ptr().add(row * geometry.pitch);
            let taps: [*const f32; KR] = std::array::from_fn(|i| start.add(offsets[i] as usize));
            for col in 0..geometry.cols {
                let dv: [S::V; NV] = std::array::from_fn(|v| S::load(d.add(v * S::LANES)));
                d = d.add(NV * S::LANES);
                for i in 0..KR {
                    let pixel = S::splat(*taps[i].add(col));
                    for v in 0..NV {
                        acc[i][v] = S::fma(pixel, dv[v], acc[i][v]);
                    }
                }
            }
        }
        for i in 0..KR {
            for v in 0..NV {
                S::store(at.add((i * NV + v) * S::LANES), acc[i][v]);
            }
        }
    }
}

/// `out[k] += scale · Σ_p planes[offsets[k] + p] · dy[p]`, one output channel.
#[inline(always)]
unsafe fn add_by_pixels<S: Simd>(
    geometry: Geometry,
    offsets: &[u32],
    planes: &[f32],
    dy: &[f32],
    scale: f32,
    out: &mut [f32],
) {
    let Geometry { rows, cols, pitch } = geometry;
    let whole = cols / S::LANES * S::LANES;
    for (sum, &offset) in out.iter_mut().zip(offsets) {
        // SAFETY: `on_path!` has the path; rows of `dy` have `cols` floats, and every pixel under a tap lies in
        // the planes.
        unsafe {
            let mut acc = [S::zero(); 2];
            for row in 0..rows {
                let x = planes.as_ptr().add(offset as usize + row * pitch);
                let d = dy.as_ptr().add(row * cols);
                for (i, col) in (0..whole).step_by(S::LANES).enumerate() {
                    acc[i % 2] = S::fma(S::load(x.add(col)), S::load(d.add(col)), acc[i % 2]);
                }
                if whole < cols {
                    let (n, at) = (cols - whole, row % 2);
                    let tail = (S::load_part(x.add(whole), n), S::load_part(d.add(whole), n));
                    acc[at] = S::fma(tail.0, tail.1, acc[at]);
                }
            }
            *sum += scale * S::reduce_add(S::add(acc[0], acc[1]));
        }
    }
}

#[inline(always)]
unsafe fn sum_on<S: Simd>(x: &[f32]) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    // SAFETY: `on_path!` has the path; reads stay inside `x`.
    unsafe {
        let mut acc = S::zero();
        for i in (0..whole).step_by(S::LANES) {
            acc = S::add(acc, S::load(x.as_ptr().add(i)));
        }
        if whole < x.len() {
            acc = S::add(acc, S::load_part(x.as_ptr().add(whole), x.len() - whole));
        }
        S::reduce_add(acc)
    }
}
