//! The multi-layer perceptron: `a⁰ = x; aˡ = f(Wˡ·aˡ⁻¹ + bˡ)`, and a linear layer on top.
//!
//! Parameters: `hidden.{i}.weight`, `hidden.{i}.bias`, `output.weight`, `output.bias`.
//! Input `[n, …]` of any shape, flattened; output `[n, outputs]`.

use crate::layers::{self, Builder, Linear};
use crate::walk::Layer;
use lyceum_nn::{Activation, NnError, ParamId, Tape, Var};
use lyceum_types::spec::MlpSpec;

#[derive(Clone, Debug)]
pub struct Mlp {
    hidden: Vec<Linear>,
    output: Linear,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    pub fn new(b: &mut Builder<'_>, spec: &MlpSpec, inputs: usize, outputs: usize) -> Self {
        let mut width = inputs;
        let mut hidden = Vec::new();
        for (i, &size) in spec.hidden.iter().enumerate() {
            hidden.push(Linear::new(b, &format!("hidden.{i}"), width, size));
            width = size;
        }
        let output = Linear::new(b, "output", width, outputs);
        Mlp { hidden, output, activation: layers::activation(spec.activation), dropout: spec.dropout }
    }

    /// Matrices, and how often an answer multiplies by each.
    pub(crate) fn products(&self) -> Vec<(ParamId, usize)> {
        self.hidden.iter().chain([&self.output]).map(|layer| (layer.weight, 1)).collect()
    }

    /// `x [n, …]` to `[n, outputs]`.
    pub fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Result<Var, NnError> {
        let shape = tape.shape(x);
        let n = shape.first();
        let mut a = tape.reshape(x, &[n, shape.len() / n.max(1)])?;
        for (i, layer) in self.hidden.iter().enumerate() {
            a = layer.forward(tape, a, self.activation)?;
            tape.mark(a, || format!("hidden.{i}"));
            a = tape.dropout(a, self.dropout)?;
        }
        self.output.forward(tape, a, Activation::None)
    }

    /// See [`crate::walk`].
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let hidden = self.hidden.iter().flat_map(|&l| [Layer::Linear(l), Layer::Activate(self.activation)]);
        [Layer::Flatten].into_iter().chain(hidden).chain([Layer::Linear(self.output)]).collect()
    }

    /// Nothing between input and output but one product.
    pub(crate) fn is_linear(&self) -> bool {
        self.hidden.is_empty()
    }
}
