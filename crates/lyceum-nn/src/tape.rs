//! One forward pass: values and, where something will be differentiated, what the way back needs.
//!
//! Models call operations on a [`Tape`]; each adds a node. The ways back over the nodes are files of their own:
//! gradients in `back`, relevance in `relevance`; `look` is what explanations see of a pass, `parts` how serving
//! divides one. A tape knows nodes, buffers and parameters, and of an operation only its trait
//! ([`ops`](crate::ops)).

use crate::ops::{Op, Operation};
use crate::params::{ParamId, ParamKind, Params};
use crate::{NnError, Shape, Workspace};
use lyceum_kernels::matmul::Precision;

mod back;
mod look;
mod parts;
pub(crate) mod relevance;
mod row_classes;

pub(crate) use back::{Backward, Slot, View, WeightBackward, write_into};
pub use look::AttentionMap;
pub(crate) use relevance::Ledger;
pub use relevance::Relevance;
pub use row_classes::RowClasses;

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

/// How products with weights in a stored form are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoredProducts {
    /// As they serve: what is multiplied is rounded too (to bytes, to bf16), so that a result has steps as a function of it.
    Served,
    /// Of the numbers that the weights stand for and of unrounded ones: the function whose gradient the way back is. It takes
    /// several times as long.
    Unrounded,
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
    stored_products: StoredProducts,
    row_classes: RowClasses,
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
            stored_products: StoredProducts::Served,
            row_classes: RowClasses::default(),
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

    /// How products with stored weights are computed: as they serve, unless this says otherwise.
    pub fn with_stored_products(mut self, products: StoredProducts) -> Self {
        self.stored_products = products;
        self
    }

    /// The classes of the rows that meet stored weights from now on; all are of bulk unless this says otherwise.
    pub fn set_row_classes(&mut self, classes: RowClasses) {
        self.row_classes = classes;
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
    pub fn stored_products(&self) -> StoredProducts {
        self.stored_products
    }
    pub fn row_classes(&self) -> &RowClasses {
        &self.row_classes
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
