//! Forward: values and, where something will be differentiated, what the way back needs. Backward: one walk
//! over the nodes in reverse.
//!
//! The walk calls up to three things of each operation: [`begin`](Operation::begin) once (work that both
//! sides share, such as the gradient before an activation), then the gradient of its inputs and that of its
//! weights, **each only when asked**. The second takes an optional weight per example, and may be asked for
//! again later ([`Tape::backward_weights`]), which is what differentially private training needs: first the
//! norms, then the weighted sum, without a second backward.

use crate::ops::{Op, Operation};
use crate::params::{Grads, ParamId, ParamKind, Params};
use crate::{NnError, Shape, Workspace};
use lyceum_kernels::matmul::{Precision, Write};
use lyceum_kernels::scratch;
use lyceum_kernels::stored::StoredWeight;

mod look;
mod parts;
pub(crate) mod relevance;

pub use look::AttentionMap;
pub(crate) use relevance::Ledger;
pub use relevance::Relevance;

/// A value on a tape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Var(u32);

/// Numbers that an operation keeps for the way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved(u32);

/// Ids that an operation keeps for the way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedIds(u32);

/// What will be differentiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recording {
    /// Nothing: serving and evaluation.
    Off,
    /// Inputs of the model ([`Tape::entry`]) only: explanation and attacks.
    Inputs,
    /// Parameters only: training.
    Weights,
    /// Both.
    InputsAndWeights,
}

/// Whether operations that differ between the two behave as in training (dropout, batch statistics).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Train,
    Eval,
}

/// The key of a step's dropout masks: the same key draws the same masks, so that a resumed run repeats them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropout {
    pub seed: u64,
    /// Counts micro-steps over the whole run.
    pub step: u64,
}

/// Which rows belong to which example.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Examples {
    /// `n` examples with equally many rows each, in order.
    Even(usize),
    /// Packed: example `i` owns rows `offsets[i]..offsets[i + 1]` of every tensor with `offsets.last()` rows.
    Packed(Vec<u32>),
}

impl Examples {
    pub fn n(&self) -> usize {
        match self {
            Examples::Even(n) => *n,
            Examples::Packed(offsets) => offsets.len().saturating_sub(1),
        }
    }

    /// The elements of example `i` in a tensor of `len` elements.
    ///
    /// # Panics
    /// When the tensor's length is not a whole number of rows.
    pub fn range(&self, i: usize, len: usize) -> std::ops::Range<usize> {
        match self {
            Examples::Even(n) => {
                assert!(*n > 0 && len.is_multiple_of(*n), "{len} elements do not divide into {n} examples");
                i * (len / n)..(i + 1) * (len / n)
            }
            Examples::Packed(offsets) => {
                let rows = *offsets.last().expect("packed examples have an end: bug") as usize;
                assert!(
                    rows > 0 && len.is_multiple_of(rows),
                    "{len} elements do not divide into {rows} rows"
                );
                let width = len / rows;
                offsets[i] as usize * width..offsets[i + 1] as usize * width
            }
        }
    }
}

pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    pub(crate) value: Vec<f32>,
    pub(crate) needs_grad: bool,
    /// The value stays readable after the walk back.
    pub(crate) keep: bool,
    /// The gradient stays readable after the walk back.
    pub(crate) watched: bool,
}

/// One forward pass and its way back. Made anew for each step over a [`Workspace`] that keeps the memory.
pub struct Tape<'a> {
    ws: &'a mut Workspace,
    params: &'a Params,
    /// Parameters of others than the model, which operations read and nobody learns ([`Tape::with_beside`]).
    beside: &'a [&'a Params],
    recording: Recording,
    phase: Phase,
    examples: Examples,
    precision: Precision,
    dropout: Dropout,
    dropout_calls: u64,
    /// Stands for the model's input from its first entry on ([`Tape::with_entry`]).
    entry_value: Option<&'a [f32]>,
    /// Layers are marked ([`Tape::with_marks`]).
    marking: bool,
}

/// Settings, life cycle and reading.
impl<'a> Tape<'a> {
    /// A fresh tape; whatever an earlier one left in the workspace is forgotten.
    pub fn new(ws: &'a mut Workspace, params: &'a Params, recording: Recording, examples: Examples) -> Self {
        ws.reset();
        Tape {
            ws,
            params,
            beside: &[],
            recording,
            phase: Phase::Eval,
            examples,
            precision: Precision::F32,
            dropout: Dropout::default(),
            dropout_calls: 0,
            entry_value: None,
            marking: false,
        }
    }

    /// Behaves as in training; dropout masks are drawn from `key`.
    pub fn training(mut self, key: Dropout) -> Self {
        self.phase = Phase::Train;
        self.dropout = key;
        self
    }

    /// The precision of matrix products (accumulation is always f32).
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The precision from now on: of what is asked after the walk back.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Parameters beside the model's own, in the order in which operations number them
    /// ([`lora`](crate::ops::lora)). They are read and not learnt.
    pub fn with_beside(mut self, beside: &'a [&'a Params]) -> Self {
        self.beside = beside;
        self
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }
    pub fn precision(&self) -> Precision {
        self.precision
    }
    pub fn recording(&self) -> Recording {
        self.recording
    }
    pub fn examples(&self) -> &Examples {
        &self.examples
    }
    pub fn params(&self) -> &'a Params {
        self.params
    }
    /// Those beside the model's own with this number.
    pub fn beside(&self, i: usize) -> Option<&'a Params> {
        self.beside.get(i).copied()
    }

    /// A value that is given, copied in. No gradient flows to it.
    pub fn input(&mut self, dims: &[usize], data: &[f32]) -> Result<Var, NnError> {
        self.leaf(dims, data)
    }

    /// A value that is given and whose gradient is wanted ([`Tape::grad`]).
    pub fn watched(&mut self, dims: &[usize], data: &[f32]) -> Result<Var, NnError> {
        let var = self.leaf(dims, data)?;
        Ok(self.watch(var))
    }

    /// The input of a model, given as numbers: watched when the recording asks for inputs.
    pub fn entry(&mut self, dims: &[usize], data: &[f32]) -> Result<Var, NnError> {
        let var = self.leaf(dims, data)?;
        Ok(self.watch_entry(var))
    }

    /// The input of a model that an operation has made (an embedding): watched when the recording asks for
    /// inputs.
    pub fn watch_entry(&mut self, var: Var) -> Var {
        self.replace_entry(var);
        match self.recording {
            Recording::Inputs | Recording::InputsAndWeights => self.watch(var),
            Recording::Off | Recording::Weights => var,
        }
    }

    /// Wants the gradient of `var`, unless nothing is recorded.
    fn watch(&mut self, var: Var) -> Var {
        if self.recording != Recording::Off {
            let node = &mut self.ws.nodes[var.0 as usize];
            node.needs_grad = true;
            node.watched = true;
        }
        var
    }

    fn records_weights(&self) -> bool {
        matches!(self.recording, Recording::Weights | Recording::InputsAndWeights)
    }

    fn leaf(&mut self, dims: &[usize], data: &[f32]) -> Result<Var, NnError> {
        let shape = Shape::new(dims);
        if shape.len() != data.len() {
            let want = format!("{} elements", data.len());
            return Err(NnError::shape("input", "shape", shape, want));
        }
        let mut value = self.take(data.len());
        value.copy_from_slice(data);
        let var = self.push(Op::Leaf, shape, value, false);
        self.ws.nodes[var.0 as usize].keep = true;
        Ok(var)
    }

    /// The numbers of a value.
    ///
    /// # Panics
    /// After a walk back that freed it: call [`Tape::keep`] before.
    pub fn value(&self, var: Var) -> &[f32] {
        let node = &self.ws.nodes[var.0 as usize];
        assert!(
            node.value.len() == node.shape.len(),
            "this value was freed, by the walk back (keep it before) or as no longer needed"
        );
        &node.value
    }

    /// Takes a value out of a tape that is at its end, without a copy; [`Workspace::recycle`] keeps the memory for the
    /// next one.
    ///
    /// # Panics
    /// As [`Tape::value`].
    pub fn into_value(self, var: Var) -> Vec<f32> {
        let node = &mut self.ws.nodes[var.0 as usize];
        assert!(node.value.len() == node.shape.len(), "this value was freed: bug");
        std::mem::take(&mut node.value)
    }

    pub fn shape(&self, var: Var) -> Shape {
        self.ws.nodes[var.0 as usize].shape
    }

    /// Gives back the memory of a value that nobody reads any more. Where something is recorded or looked at it
    /// stays: the walk back frees it.
    ///
    /// Reading it afterwards panics.
    pub fn release(&mut self, var: Var) {
        if self.is_bare() {
            let value = std::mem::take(&mut self.ws.nodes[var.0 as usize].value);
            self.ws.give(value);
        }
    }

    /// [`release`](Self::release) of all values between two that nobody keeps: a pass that serves needs the memory of
    /// one layer, not of all.
    pub fn release_between(&mut self, after: Var, before: Var) {
        for i in after.0 + 1..before.0 {
            if !self.ws.nodes[i as usize].keep {
                self.release(Var(i));
            }
        }
    }

    /// Whether nothing is differentiated or looked at.
    fn is_bare(&self) -> bool {
        self.recording == Recording::Off && !self.marking
    }

    /// Keeps the value of `var` readable after the walk back.
    pub fn keep(&mut self, var: Var) {
        self.ws.nodes[var.0 as usize].keep = true;
    }

    /// The gradient of a watched value (or of any value, after [`Tape::backward_inputs`]); None where
    /// nothing flowed.
    pub fn grad(&self, var: Var) -> Option<&[f32]> {
        self.ws.grads.get(var.0 as usize)?.as_deref()
    }
}

/// For the files of operations: making nodes.
impl<'a> Tape<'a> {
    /// A buffer of `len` numbers with unspecified contents.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        self.ws.take(len)
    }

    /// Gives back a buffer of [`take`](Self::take) that did not become a value.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        self.ws.give(buffer);
    }

    /// An empty list of ids with memory of an earlier one.
    pub(crate) fn take_ids(&mut self) -> Vec<u32> {
        self.ws.take_ids()
    }

    /// Gives back a list of [`take_ids`](Self::take_ids).
    pub(crate) fn give_ids(&mut self, ids: Vec<u32>) {
        self.ws.give_ids(ids);
    }

    /// A value's buffer, to become another value's: a copy where the first must stay readable.
    pub(crate) fn take_over(&mut self, var: Var, stays: bool) -> Vec<f32> {
        if !stays && !self.ws.nodes[var.0 as usize].keep {
            return std::mem::take(&mut self.ws.nodes[var.0 as usize].value);
        }
        let mut copy = self.take(self.shape(var).len());
        copy.copy_from_slice(self.value(var));
        copy
    }

    /// Keeps numbers for the way back.
    pub(crate) fn save(&mut self, numbers: Vec<f32>) -> Saved {
        self.ws.saved.push(numbers);
        Saved(self.ws.saved.len() as u32 - 1)
    }

    /// Keeps a copy of ids for the way back.
    pub(crate) fn save_ids(&mut self, ids: &[u32]) -> SavedIds {
        let mut copy = self.ws.take_ids();
        copy.extend_from_slice(ids);
        self.ws.saved_ids.push(copy);
        SavedIds(self.ws.saved_ids.len() as u32 - 1)
    }

    /// Whether a gradient will be wanted of an operation with these inputs and parameters; only then it
    /// saves anything.
    pub(crate) fn needs_grad(&self, inputs: &[Var], params: &[ParamId]) -> bool {
        let weights =
            self.records_weights() && params.iter().any(|&p| self.params.kind(p) == ParamKind::Weight);
        weights || inputs.iter().any(|v| self.ws.nodes[v.0 as usize].needs_grad)
    }

    /// Adds a value made by `op`.
    pub(crate) fn push(&mut self, op: Op, shape: Shape, value: Vec<f32>, needs_grad: bool) -> Var {
        assert_eq!(shape.len(), value.len(), "{}: value and shape {shape} disagree: bug", op.name());
        let op = if needs_grad { op } else { Op::Leaf };
        self.ws.nodes.push(Node { op, shape, value, needs_grad, keep: false, watched: false });
        Var(self.ws.nodes.len() as u32 - 1)
    }

    /// The key of the next dropout mask.
    pub(crate) fn next_dropout(&mut self) -> (Dropout, u64) {
        self.dropout_calls += 1;
        (self.dropout, self.dropout_calls)
    }

    /// A new value for a running statistic, applied by whoever owns the parameters.
    pub(crate) fn update_buffer(&mut self, id: ParamId, value: Vec<f32>) {
        self.ws.buffer_updates.push((id, value));
    }
}

/// The walk back.
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
                f(
                    self.ws.nodes[i].op,
                    View { ws: self.ws, params: self.params, beside: self.beside, at: i },
                    dy,
                );
            }
        }
    }

    fn walk(&mut self, from: Var, seed: &[f32], mut grads: Option<&mut Grads>) {
        assert_eq!(seed.len(), self.shape(from).len(), "the seed has the value's shape: bug");
        while let Some(old) = self.ws.grads.pop() {
            self.ws.give(old.unwrap_or_default());
        }
        self.ws.grads.resize_with(self.ws.nodes.len(), || None);
        let mut first = self.take(seed.len());
        first.copy_from_slice(seed);
        self.ws.grads[from.0 as usize] = Some(first);
        for i in (0..=from.0 as usize).rev() {
            let node = &self.ws.nodes[i];
            let (op, keep, watched) = (node.op, node.keep, node.watched);
            if node.needs_grad
                && !matches!(op, Op::Leaf)
                && let Some(dy) = self.ws.grads[i].take()
            {
                self.note_arrival(i, &dy);
                let (params, beside) = (self.params, self.beside);
                let mut back = Backward { ws: self.ws, params, beside, at: i, dy, precision: self.precision };
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
