//! Memory of a tape, kept between steps so that steady work allocates nothing.

use crate::params::{ParamId, Params};
use crate::tape::{Node, Var};
use std::collections::HashMap;

/// The nodes of a tape and buffers by size class. One per thread that runs models; reused for every step.
#[derive(Default)]
pub struct Workspace {
    pub(crate) nodes: Vec<Node>,
    /// Gradients of nodes, in step with `nodes`.
    pub(crate) grads: Vec<Option<Vec<f32>>>,
    pub(crate) saved: Vec<Vec<f32>>,
    pub(crate) saved_ids: Vec<Vec<u32>>,
    pub(crate) buffer_updates: Vec<(ParamId, Vec<f32>)>,
    /// Layers by name, and the gradients that arrived at them.
    pub(crate) marks: Vec<(String, Var)>,
    pub(crate) arrived: Vec<(Var, Vec<f32>)>,
    /// Those of tapes that run beside each other ([`Tape::in_parts`](crate::Tape::in_parts)).
    pub(crate) parts: Vec<Workspace>,
    free: HashMap<usize, Vec<Vec<f32>>>,
    /// Numbers in `free`; in buffers that are in use now; and in use at once at most so far.
    n_free: usize,
    n_used: usize,
    n_used_max: usize,
    free_ids: Vec<Vec<u32>>,
}

impl Workspace {
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `len` numbers whose contents are unspecified.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let class = size_class(len);
        let found = self.free.get_mut(&class).and_then(Vec::pop);
        self.n_free -= found.as_ref().map_or(0, Vec::capacity);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(class));
        self.n_used += buffer.capacity();
        self.n_used_max = self.n_used_max.max(self.n_used);
        // Within the capacity: nothing is allocated, and numbers that are there stay.
        buffer.resize(len, 0.0);
        buffer
    }

    /// Keeps a buffer for a later [`take`](Self::take) of about the same length.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        let class = buffer.capacity();
        self.n_used = self.n_used.saturating_sub(class);
        if class > 0 && size_class(class) == class {
            self.n_free += class;
            self.free.entry(class).or_default().push(buffer);
        }
    }

    /// Keeps the memory of a value that was taken out ([`Tape::into_value`](crate::Tape::into_value)).
    pub fn recycle(&mut self, value: Vec<f32>) {
        self.give(value);
    }

    pub(crate) fn take_ids(&mut self) -> Vec<u32> {
        self.free_ids.pop().unwrap_or_default()
    }

    pub(crate) fn give_ids(&mut self, mut ids: Vec<u32>) {
        ids.clear();
        self.free_ids.push(ids);
    }

    /// Forgets the last tape and keeps its memory.
    pub(crate) fn reset(&mut self) {
        self.marks.clear();
        while let Some((_, gradient)) = self.arrived.pop() {
            self.give(gradient);
        }
        while let Some(node) = self.nodes.pop() {
            self.give(node.value);
        }
        while let Some(grad) = self.grads.pop() {
            self.give(grad.unwrap_or_default());
        }
        while let Some(saved) = self.saved.pop() {
            self.give(saved);
        }
        while let Some((_, update)) = self.buffer_updates.pop() {
            self.give(update);
        }
        while let Some(ids) = self.saved_ids.pop() {
            self.give_ids(ids);
        }
        self.n_used = 0;
    }

    /// Forgets the last tape, and the kept memory where it is more than twice what was in use at once: where
    /// lengths vary from pass to pass (serving, lines of a fine-tuning), buffers of many classes gather.
    pub fn trim(&mut self) {
        self.reset();
        if self.n_free > 2 * self.n_used_max {
            self.free.clear();
            self.n_free = 0;
        }
    }

    /// Forgets the last tape and says how much memory is kept: what the largest tape so far needed.
    pub fn bytes(&mut self) -> usize {
        self.reset();
        let numbers = |buffers: &Vec<Vec<f32>>| buffers.iter().map(Vec::capacity).sum::<usize>();
        let ids: usize = self.free_ids.iter().map(Vec::capacity).sum();
        let parts: usize = self.parts.iter_mut().map(Workspace::bytes).sum();
        self.free.values().map(numbers).sum::<usize>() * size_of::<f32>() + ids * size_of::<u32>() + parts
    }

    /// Gives the running statistics that the last pass computed to the parameters they belong to.
    pub fn apply_buffer_updates(&mut self, params: &mut Params) {
        for i in 0..self.buffer_updates.len() {
            let (id, value) = (self.buffer_updates[i].0, std::mem::take(&mut self.buffer_updates[i].1));
            params.value_mut(id).copy_from_slice(&value);
            self.give(value);
        }
        self.buffer_updates.clear();
    }

    /// Frees all memory that is not in use.
    pub fn shrink(&mut self) {
        self.reset();
        self.free.clear();
        self.n_free = 0;
        self.free_ids.clear();
        self.parts.clear();
    }
}

/// The capacity that a buffer of `len` numbers has: at most a quarter more, so that batches whose lengths vary
/// share buffers and memory does not grow with every new length.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 8).max(16);
    len.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_lengths_wastes_little_and_is_its_own_class() {
        for len in (0..4000).chain([100_000, 1_000_001]) {
            let class = size_class(len);
            assert!(class >= len && class <= len + (len / 4).max(16), "{len}: {class}");
            assert_eq!(size_class(class), class, "{len}");
        }
    }

    #[test]
    fn buffers_of_many_lengths_are_at_most_twice_what_was_in_use_at_once() {
        let mut ws = Workspace::new();
        for len in (1..200).map(|i| 100 * i) {
            let pair = [ws.take(len), ws.take(len)];
            for buffer in pair {
                ws.give(buffer);
            }
            ws.trim();
            assert!(ws.bytes() <= 2 * 2 * 4 * size_class(len), "{len}: {}", ws.bytes());
        }
        // Steady work keeps its buffers.
        let mut ws = Workspace::new();
        let at = [ws.take(19_900), ws.take(500)].map(|buffer| {
            let at = buffer.as_ptr();
            ws.give(buffer);
            at
        });
        ws.trim();
        let again = [ws.take(19_900), ws.take(500)];
        assert_eq!([again[0].as_ptr(), again[1].as_ptr()], at);
    }

    #[test]
    fn lengths_of_a_class_share_a_buffer() {
        let mut ws = Workspace::new();
        let buffer = ws.take(1000);
        let at = buffer.as_ptr();
        ws.give(buffer);
        let again = ws.take(990);
        assert_eq!((again.len(), again.as_ptr()), (990, at));
        ws.give(again);
        assert_eq!(ws.bytes(), 4 * size_class(1000));
    }
}
