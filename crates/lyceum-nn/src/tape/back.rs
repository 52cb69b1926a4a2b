//! The walk back: gradients, over the nodes in reverse.
//!
//! The walk calls up to three things of each operation: [`begin`](Operation::begin) once (work that both
//! sides share, such as the gradient before an activation), then the gradient of its inputs and that of its
//! weights, **each only when asked**. The second takes an optional weight per example, and may be asked for
//! again later ([`Tape::backward_weights`]), which is what differentially private training needs: first the
//! norms, then the weighted sum, without a second backward.
//!
//! Below the walk stands what an operation is handed on it: [`View`] to read, [`Backward`] for the gradients of
//! its inputs, [`WeightBackward`] for those of its weights.

use super::{Examples, Saved, SavedIds, Tape, Var};
use crate::ops::{Op, Operation};
use crate::params::{Grads, ParamId, ParamKind, Params};
use crate::{Shape, Workspace};
use lyceum_kernels::elementwise::add_into;
use lyceum_kernels::matmul::{Precision, Write};
use lyceum_kernels::scratch;
use lyceum_kernels::stored::StoredWeight;

impl Tape<'_> {
    /// Gradients of all that was recorded, starting from a scalar loss: those of weights are added to
    /// `grads`, those of watched inputs are readable by [`Tape::grad`]. Values and gradients that are no
    /// longer needed free their memory on the way.
    pub fn backward(&mut self, loss: Var, grads: &mut Grads) {
        assert_eq!(self.shape(loss).len(), 1, "backward starts from a scalar; use backward_from: bug");
        self.backward_from(loss, &[1.0], grads);
    }

    /// As [`Tape::backward`], from any value and the gradient that arrives at it.
    pub fn backward_from(&mut self, from: Var, seed: &[f32], grads: &mut Grads) {
        self.walk(from, seed, Some(grads));
    }

    /// Gradients with respect to values only; everything stays in memory, so that
    /// [`Tape::backward_weights`] can follow, once or more often.
    pub fn backward_inputs(&mut self, from: Var, seed: &[f32]) {
        self.walk(from, seed, None);
    }

    /// After [`Tape::backward_inputs`]: adds the gradients of weights, those of example `i` times
    /// `example_weights[i]`.
    pub fn backward_weights(&mut self, grads: &mut Grads, example_weights: Option<&[f32]>) {
        if let Some(weights) = example_weights {
            assert_eq!(weights.len(), self.examples.n(), "one weight an example: bug");
        }
        for i in (0..self.ws.nodes.len()).rev() {
            if let Some(dy) = self.ws.grads[i].take() {
                self.weights_of(i, &dy, grads, example_weights);
                self.ws.grads[i] = Some(dy);
            }
        }
    }

    /// Calls `f` with every operation that a gradient arrived at, its view and that gradient (as `begin` left
    /// it), when weights are recorded.
    pub(crate) fn for_each_gradient(&self, mut f: impl FnMut(Op, View<'_>, &[f32])) {
        if !self.records_weights() {
            return;
        }
        for (i, dy) in self.ws.grads.iter().enumerate().rev() {
            if let Some(dy) = dy {
                f(self.ws.nodes[i].op, self.view_at(i), dy);
            }
        }
    }

    fn walk(&mut self, from: Var, seed: &[f32], mut grads: Option<&mut Grads>) {
        self.start_walk(from, seed);
        for i in (0..=from.0 as usize).rev() {
            let node = &self.ws.nodes[i];
            let (op, keep, watched) = (node.op, node.keep, node.watched);
            if node.needs_grad
                && !matches!(op, Op::Leaf)
                && let Some(dy) = self.ws.grads[i].take()
            {
                self.note_arrival(i, &dy);
                let mut back = self.back_at(i, dy);
                op.begin(&mut back);
                op.backward_inputs(&mut back);
                let dy = back.dy;
                if let Some(grads) = grads.as_deref_mut() {
                    self.weights_of(i, &dy, grads, None);
                    if watched {
                        self.ws.grads[i] = Some(dy);
                    } else {
                        self.ws.give(dy);
                    }
                } else {
                    self.ws.grads[i] = Some(dy);
                }
            }
            if grads.is_some() && !keep && i != from.0 as usize {
                let value = std::mem::take(&mut self.ws.nodes[i].value);
                self.ws.give(value);
            }
        }
    }

    /// Forgets what an earlier walk left; `seed` is what arrives at `from`.
    pub(super) fn start_walk(&mut self, from: Var, seed: &[f32]) {
        assert_eq!(seed.len(), self.shape(from).len(), "the seed has the value's shape: bug");
        while let Some(old) = self.ws.grads.pop() {
            self.ws.give(old.unwrap_or_default());
        }
        self.ws.grads.resize_with(self.ws.nodes.len(), || None);
        let mut first = self.take(seed.len());
        first.copy_from_slice(seed);
        self.ws.grads[from.0 as usize] = Some(first);
    }

    pub(super) fn back_at(&mut self, at: usize, dy: Vec<f32>) -> Backward<'_> {
        let (params, beside, precision) = (self.params, self.beside, self.precision);
        Backward { ws: self.ws, params, beside, at, dy, precision }
    }

    pub(super) fn view_at(&self, at: usize) -> View<'_> {
        View { ws: self.ws, params: self.params, beside: self.beside, at }
    }

    fn weights_of(&mut self, i: usize, dy: &[f32], grads: &mut Grads, example_weights: Option<&[f32]>) {
        if self.records_weights() {
            let view = View { ws: self.ws, params: self.params, beside: self.beside, at: i };
            let examples = &self.examples;
            let op = self.ws.nodes[i].op;
            op.backward_weights(&mut WeightBackward {
                view,
                dy,
                grads,
                examples,
                example_weights,
                precision: self.precision,
            });
        }
    }
}

/// What an operation may read on the way back.
#[derive(Clone, Copy)]
pub(crate) struct View<'v> {
    ws: &'v Workspace,
    params: &'v Params,
    beside: &'v [&'v Params],
    at: usize,
}

impl<'v> View<'v> {
    pub(crate) fn value(&self, var: Var) -> &'v [f32] {
        &self.ws.nodes[var.0 as usize].value
    }
    pub(crate) fn shape(&self, var: Var) -> Shape {
        self.ws.nodes[var.0 as usize].shape
    }
    /// The operation's own output.
    pub(crate) fn output(&self) -> &'v [f32] {
        &self.ws.nodes[self.at].value
    }
    pub(crate) fn output_shape(&self) -> Shape {
        self.ws.nodes[self.at].shape
    }
    pub(crate) fn saved(&self, saved: Saved) -> &'v [f32] {
        &self.ws.saved[saved.0 as usize]
    }
    pub(crate) fn ids(&self, ids: SavedIds) -> &'v [u32] {
        &self.ws.saved_ids[ids.0 as usize]
    }
    pub(crate) fn param(&self, id: ParamId) -> &'v [f32] {
        self.params.value(id)
    }
    /// The model's own parameters, or those beside with this number.
    pub(crate) fn params_of(&self, beside: Option<u32>) -> &'v Params {
        beside.map_or(self.params, |i| self.beside[i as usize])
    }
    pub(crate) fn kind(&self, id: ParamId) -> ParamKind {
        self.params.kind(id)
    }
    pub(crate) fn stored(&self, id: ParamId) -> Option<&'v StoredWeight> {
        self.params.stored(id)
    }
}

/// An operation on its way back to its inputs: the gradient that arrived, and the slots of those it sends on.
pub(crate) struct Backward<'v> {
    ws: &'v mut Workspace,
    params: &'v Params,
    beside: &'v [&'v Params],
    at: usize,
    /// The gradient of the output; `begin` may turn it in place into what both calls start from.
    pub(crate) dy: Vec<f32>,
    pub(crate) precision: Precision,
}

/// A gradient under construction: numbers, and whether to overwrite or add to them.
pub(crate) struct Slot {
    pub(crate) data: Vec<f32>,
    pub(crate) write: Write,
}

impl Backward<'_> {
    pub(crate) fn view(&self) -> View<'_> {
        View { ws: self.ws, params: self.params, beside: self.beside, at: self.at }
    }

    /// Whether anybody wants the gradient of this input.
    pub(crate) fn wants(&self, input: Var) -> bool {
        self.ws.nodes[input.0 as usize].needs_grad
    }

    /// Hands `f` the output's gradient for change in place.
    pub(crate) fn change_dy(&mut self, f: impl FnOnce(View<'_>, &mut [f32])) {
        let mut dy = std::mem::take(&mut self.dy);
        f(self.view(), &mut dy);
        self.dy = dy;
    }

    /// Hands `f` saved numbers for change in place (for gradients larger than the output's).
    pub(crate) fn change_saved(&mut self, saved: Saved, f: impl FnOnce(View<'_>, &[f32], &mut [f32])) {
        let mut numbers = std::mem::take(&mut self.ws.saved[saved.0 as usize]);
        f(self.view(), &self.dy, &mut numbers);
        self.ws.saved[saved.0 as usize] = numbers;
    }

    /// Hands `f` (the view, the output's gradient, and) the gradient of `input`, if it is wanted.
    pub(crate) fn grad(&mut self, input: Var, f: impl FnOnce(View<'_>, &[f32], &mut [f32], Write)) {
        self.grads([input], |view, dy, [slot]| {
            if let Some(slot) = slot {
                f(view, dy, &mut slot.data, slot.write);
            }
        });
    }

    /// Hands `input` the output's gradient as it is, as a sum does to its terms.
    pub(crate) fn pass_on(&mut self, input: Var) {
        self.grad(input, |_, dy, dx, write| write_into(dx, dy, write));
    }

    /// As [`grad`](Self::grad) for several inputs at once; unwanted ones are None. An input that appears
    /// twice must be handled by two calls.
    pub(crate) fn grads<const N: usize>(
        &mut self,
        inputs: [Var; N],
        f: impl FnOnce(View<'_>, &[f32], &mut [Option<Slot>; N]),
    ) {
        let mut slots: [Option<Slot>; N] = inputs.map(|input| self.open(input));
        if slots.iter().all(Option::is_none) {
            return;
        }
        f(self.view(), &self.dy, &mut slots);
        for (input, slot) in inputs.into_iter().zip(slots) {
            if let Some(slot) = slot {
                self.ws.grads[input.0 as usize] = Some(slot.data);
            }
        }
    }

    fn open(&mut self, input: Var) -> Option<Slot> {
        if !self.wants(input) {
            return None;
        }
        Some(match self.ws.grads[input.0 as usize].take() {
            Some(data) => Slot { data, write: Write::Add },
            None => {
                let len = self.ws.nodes[input.0 as usize].shape.len();
                Slot { data: self.ws.take(len), write: Write::Overwrite }
            }
        })
    }
}

/// `to = from`, or `to += from`.
pub(crate) fn write_into(to: &mut [f32], from: &[f32], write: Write) {
    match write {
        Write::Overwrite => to.copy_from_slice(from),
        Write::Add => add_into(to, from),
    }
}

/// An operation on its way back to its weights.
pub(crate) struct WeightBackward<'v> {
    pub(crate) view: View<'v>,
    /// What `begin` made of the output's gradient.
    pub(crate) dy: &'v [f32],
    grads: &'v mut Grads,
    pub(crate) examples: &'v Examples,
    pub(crate) example_weights: Option<&'v [f32]>,
    pub(crate) precision: Precision,
}

impl<'v> WeightBackward<'v> {
    /// Hands `f` the gradient of `param` (overwrite or add), if the parameter is learnt.
    pub(crate) fn grad(&mut self, param: ParamId, f: impl FnOnce(View<'v>, &mut [f32], Write)) {
        if self.view.params.kind(param) == ParamKind::Weight {
            let (slot, write) = self.grads.slot(param);
            f(self.view, slot, write);
        }
    }

    /// Whether the parameter is learnt.
    pub(crate) fn learns(&self, param: ParamId) -> bool {
        self.view.params.kind(param) == ParamKind::Weight
    }

    /// Hands `f` a gradient whose rows are those of the examples, each example's times its weight.
    pub(crate) fn weighted(&mut self, rows: &[f32], f: impl FnOnce(&mut Self, &[f32])) {
        let Some(weights) = self.example_weights else { return f(self, rows) };
        let examples = self.examples;
        scratch::with_f32(rows.len(), |scaled| {
            for (i, &weight) in weights.iter().enumerate() {
                let range = examples.range(i, rows.len());
                for (out, &x) in scaled[range.clone()].iter_mut().zip(&rows[range]) {
                    *out = x * weight;
                }
            }
            f(self, scaled);
        });
    }
}
