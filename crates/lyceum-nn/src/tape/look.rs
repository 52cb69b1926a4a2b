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

#[cfg(test)]
mod tests {
    use crate::{Activation, Examples, Init, NnError, ParamKind, Params, Recording, Tape, Workspace};
    use rand::SeedableRng;

    fn layer() -> (Params, crate::ParamId) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut params = Params::new();
        let w = params.add("w", &[3, 2], ParamKind::Weight, Init::Normal(1.0), &mut rng);
        (params, w)
    }

    #[test]
    fn a_marked_layer_keeps_the_whole_gradient_though_its_activation_is_fused() {
        let (params, w) = layer();
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1)).with_marks();
        let x = tape.entry(&[1, 2], &[0.5, -1.0]).unwrap();
        let y = tape.linear(x, w, None, Activation::Tanh).unwrap();
        tape.mark(y, || "layer".into());
        tape.backward_inputs(y, &[1.0, 2.0, 3.0]);
        assert_eq!(tape.marks(), [("layer".to_owned(), y)]);
        assert_eq!(tape.mark_grad(y), Some(&[1.0, 2.0, 3.0][..]));
        assert_ne!(tape.grad(y), tape.mark_grad(y), "the walk goes on with what is before the activation");
        let mut plain = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1));
        let x = plain.entry(&[1, 2], &[0.5, -1.0]).unwrap();
        plain.mark(x, || panic!("nobody looks, so nothing is named"));
        assert!(plain.marks().is_empty());
    }

    #[test]
    fn the_first_entry_is_replaced_and_no_other() {
        let (params, _) = layer();
        let mut ws = Workspace::new();
        let tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1));
        let mut tape = tape.with_entry(&[7.0, 8.0]);
        let given = tape.input(&[1, 2], &[1.0, 2.0]).unwrap();
        let first = tape.entry(&[1, 2], &[1.0, 2.0]).unwrap();
        let second = tape.entry(&[1, 2], &[1.0, 2.0]).unwrap();
        assert_eq!(tape.value(given), [1.0, 2.0]);
        assert_eq!(tape.value(first), [7.0, 8.0]);
        assert_eq!(tape.value(second), [1.0, 2.0]);
    }

    #[test]
    fn what_has_no_rule_of_relevance_refuses_by_name() {
        let (params, _) = layer();
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::Inputs, Examples::Even(1));
        let x = tape.entry(&[1, 2], &[0.5, -1.0]).unwrap();
        let y = tape.softmax(x).unwrap();
        let refused = tape.relevance(y, &[1.0, 0.0], x, 1e-6);
        assert!(matches!(refused, Err(NnError::NoRelevance { op: "softmax" })), "{refused:?}");
    }
}
