//! Layers as their parameters: named as PyTorch names them, started as PyTorch starts them.

use crate::from_checkpoint::{LoadError, Weights};
use lyceum_nn::{Activation, Init, NnError, ParamId, ParamKind, Params, Tape, Var};
use lyceum_types::spec::ActivationSpec;
use rand_chacha::ChaCha8Rng;

/// Where a builder adds its parameters: the table, a prefix of names, and the generator of their starts.
pub struct Builder<'a> {
    pub params: &'a mut Params,
    pub rng: &'a mut ChaCha8Rng,
}

impl Builder<'_> {
    /// A learnt parameter.
    pub fn weight(&mut self, name: &str, dims: &[usize], init: Init) -> ParamId {
        self.params.add(name, dims, ParamKind::Weight, init, self.rng)
    }

    /// A parameter of the checkpoint that is not learnt by gradient.
    pub fn buffer(&mut self, name: &str, dims: &[usize], kind: ParamKind, init: Init) -> ParamId {
        self.params.add(name, dims, kind, init, self.rng)
    }
}

impl Weights for Builder<'_> {
    fn parameter(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId, LoadError> {
        Ok(self.weight(name, dims, init))
    }

    fn table(&mut self, name: &str, dims: &[usize], init: Init) -> Result<ParamId, LoadError> {
        Ok(self.weight(name, dims, init))
    }
}

/// `torch.nn.Linear`: `NAME.weight [out, in]`, `NAME.bias [out]`, both U(±1/√in).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

impl Linear {
    pub fn new(b: &mut Builder<'_>, name: &str, inputs: usize, outputs: usize) -> Self {
        let init = Init::Uniform(1.0 / (inputs.max(1) as f64).sqrt());
        Self::with(b, name, [inputs, outputs], init, Some(init))
    }

    /// With given starts; no bias where `bias` is None.
    pub fn with(
        b: &mut Builder<'_>,
        name: &str,
        sizes: [usize; 2],
        weight: Init,
        bias: Option<Init>,
    ) -> Self {
        let [inputs, outputs] = sizes;
        Linear {
            weight: b.weight(&format!("{name}.weight"), &[outputs, inputs], weight),
            bias: bias.map(|init| b.weight(&format!("{name}.bias"), &[outputs], init)),
        }
    }

    pub fn forward(&self, tape: &mut Tape<'_>, x: Var, activation: Activation) -> Result<Var, NnError> {
        tape.linear(x, self.weight, self.bias, activation)
    }
}

/// The engine's activation for the spec's word.
pub fn activation(spec: ActivationSpec) -> Activation {
    match spec {
        ActivationSpec::Relu => Activation::Relu,
        ActivationSpec::Gelu => Activation::Gelu,
        ActivationSpec::GeluTanh => Activation::GeluTanh,
        ActivationSpec::Silu => Activation::Silu,
        ActivationSpec::Tanh => Activation::Tanh,
        ActivationSpec::Sigmoid => Activation::Sigmoid,
    }
}
