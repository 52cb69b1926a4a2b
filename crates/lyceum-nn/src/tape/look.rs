//! Looking inside a forward pass: another value in the place of the model's input, layers by name with the
//! gradients that arrive at them, and the weights of attention.
//!
//! Nothing here runs in training: an explanation asks for it.

use super::{Tape, Var};
use crate::ops::Op;

/// The probabilities of one attention, `[heads, n_queries, n_keys]` of each example.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    pub batch: usize,
    pub heads: usize,
    pub n_queries: usize,
    pub n_keys: usize,
    /// Queries and keys are the same sequence.
    pub is_self: bool,
    /// `[batch, heads, n_queries, n_keys]`; what a query may not see is 0.
    pub weights: Vec<f32>,
}

impl<'a> Tape<'a> {
    /// The numbers in the first entry of the model ([`Tape::entry`], [`Tape::watch_entry`]) are these, whatever
    /// the input is: embedded tokens half on their way to nothing, for instance. The shape stays.
    ///
    /// # Panics
    /// In the entry, when it has another number of elements.
    pub fn with_entry(mut self, values: &'a [f32]) -> Self {
        self.entry_value = Some(values);
        self
    }

    /// Keeps the layers that a model marks, and the gradients that arrive at them on the way back.
    pub fn with_marks(mut self) -> Self {
        self.marking = true;
        self
    }

    pub(super) fn replace_entry(&mut self, var: Var) {
        if let Some(values) = self.entry_value.take() {
            self.ws.nodes[var.0 as usize].value.copy_from_slice(values);
        }
    }

    /// Called by models: `var` is the output of the layer with this name.
    pub fn mark(&mut self, var: Var, name: impl FnOnce() -> String) {
        if self.marking {
            self.keep(var);
            self.ws.marks.push((name(), var));
        }
    }

    /// The marked layers in the order of the forward pass.
    pub fn marks(&self) -> &[(String, Var)] {
        &self.ws.marks
    }

    /// The whole gradient that arrived at a marked layer; None where nothing flowed.
    pub fn mark_grad(&self, var: Var) -> Option<&[f32]> {
        self.ws.arrived.iter().find(|(at, _)| *at == var).map(|(_, gradient)| &gradient[..])
    }

    pub(super) fn note_arrival(&mut self, i: usize, gradient: &[f32]) {
        let var = Var(i as u32);
        if self.marking && self.ws.marks.iter().any(|(_, at)| *at == var) {
            let mut copy = self.ws.take(gradient.len());
            copy.copy_from_slice(gradient);
            self.ws.arrived.push((var, copy));
        }
    }

    /// The weights of every attention that was recorded, in the order of the forward pass.
    pub fn attention_maps(&self) -> Vec<AttentionMap> {
        let maps = (0..self.ws.nodes.len()).filter_map(|i| match self.ws.nodes[i].op {
            Op::Attention(op) => Some(op.map(self.view_at(i))),
            _ => None,
        });
        maps.collect()
    }
}
