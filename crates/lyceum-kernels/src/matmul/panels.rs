//! Where the panels of an operand are, and how several are packed at once.

use super::across::{Across, pack_across};
use super::pack::{Lines, Panel, Words, pack};
use crate::cpu::CpuPath;
use std::ops::Range;

/// An operand as it is stored: `stride` numbers between its lines.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub src: *const f32,
    pub lines: Lines,
    pub stride: usize,
}

/// An operand's words for one stretch of `k`.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// Words side by side in the operand itself, `step` apart along `k`.
    Direct { base: *const f32, step: usize },
    /// Packed, `panel` words to the next panel.
    Packed { base: *const f32, panel: usize },
    /// Each task packs what it is about to use.
    Own,
}

/// A stretch of `k`: its first number and its length in numbers.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    pub at: usize,
    pub len: usize,
}

/// The panels of an operand.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub x: Operand,
    /// Rows of a panel (columns, of the right operand), and of the whole operand.
    pub height: usize,
    pub len: usize,
    /// Whether the last panel is as wide as the others, or as wide as its rows.
    pub fill: bool,
    /// From a panel to the next in what is packed.
    pub panel_words: usize,
    /// Numbers along `k` that stand before the stretch in every panel.
    pub skip: usize,
}

/// Packs some panels of a group, each to its place counted from `to`.
///
/// # Safety
/// The operand covers the panels and the stretch, every panel's place has the room that [`pack`] asks for,
/// and the processor has what `path` and `words` need.
pub(super) unsafe fn pack_group(
    path: CpuPath,
    words: Words,
    group: Group,
    panels: Range<usize>,
    stretch: Stretch,
    to: *mut f32,
) {
    let Group { x, height, len, fill, panel_words, skip } = group;
    let skip = skip / words.depth();
    if x.lines == Lines::AcrossK {
        let first = panels.start * height;
        let piece = Across {
            src: x.src.wrapping_add(stretch.at * x.stride + first),
            stride: x.stride,
            len: len.min(panels.end * height) - first,
            k: stretch.len,
            height,
            fill,
            dst: to.wrapping_add(panels.start * panel_words),
            panel_words,
            skip,
        };
        // SAFETY: the caller's contract.
        return unsafe { pack_across(path, words, piece) };
    }
    for i in panels {
        let rows = height.min(len - i * height);
        let width = if fill { height } else { rows };
        let src = x.src.wrapping_add(i * height * x.stride + stretch.at);
        let panel = Panel { src, stride: x.stride, rows, width, k: stretch.len };
        // SAFETY: the caller's contract; panels do not overlap.
        unsafe { pack(path, words, panel, to.wrapping_add(i * panel_words + skip * width)) }
    }
}
