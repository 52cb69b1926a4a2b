//! Where the panels of an operand are, and how several are packed at once.

use super::pack::{Lines, Panel, Words, pack};
use crate::cpu::CpuPath;
use std::ops::Range;

/// Lines packed at a time where panels share them; a whole number of words.
const LINES: usize = 32;

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
    let Group { x, height, len, fill, panel_words } = group;
    // Lines across `k` are shared by the panels side by side: a few of them at a time stay in L1.
    let step = if x.lines == Lines::AcrossK && panels.len() > 1 { LINES } else { stretch.len };
    for k0 in (0..stretch.len).step_by(step) {
        for i in panels.clone() {
            let rows = height.min(len - i * height);
            let width = if fill { height } else { rows };
            let (first, at) = (i * height, stretch.at + k0);
            let offset = match x.lines {
                Lines::AlongK => first * x.stride + at,
                Lines::AcrossK => at * x.stride + first,
            };
            let src = x.src.wrapping_add(offset);
            let k = step.min(stretch.len - k0);
            let panel = Panel { src, lines: x.lines, stride: x.stride, rows, width, k };
            let dst = to.wrapping_add(i * panel_words + k0 / words.depth() * width);
            // SAFETY: the caller's contract; panels and steps do not overlap.
            unsafe { pack(path, words, panel, dst) }
        }
    }
}
