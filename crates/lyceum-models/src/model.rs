//! A model of any family: parameters, and one forward that trains, serves, is explained and is attacked.

use crate::batch::{Batch, IGNORE, Input, Target};
use crate::causal_lm::{self, CausalLm};
use crate::cnn::Cnn;
use crate::encoder::{self, Encoder, Head};
use crate::layers::Builder;
use crate::mlp::Mlp;
use crate::recurrent::Recurrent;
use crate::transformer::Transformer;
use lyceum_nn::ops::preference::Pairs;
use lyceum_nn::ops::recurrent::Cell;
use lyceum_nn::{NnError, Params, Tape, Var, weights};
use lyceum_types::spec::ModelSpec;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What enters: decided by the data, stored in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputShape {
    /// Rows of numbers, of this many.
    Features { n: usize },
    /// `[channels, height, width]`; log-mel features are one channel, time by mels.
    Image { shape: [usize; 3] },
    /// `[steps, channels]`.
    Series { steps: usize, channels: usize },
    /// Token ids below `vocabulary`, at most `time` of them.
    Tokens { vocabulary: usize, time: usize },
    /// Source and target ids in one vocabulary, at most this many of each.
    Pair { vocabulary: usize, source_time: usize, target_time: usize },
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputShape {
    /// One of `n` classes for each example.
    Classes { n: usize },
    /// `n` numbers for each example.
    Values { n: usize },
    /// One of `vocabulary` tokens at each step.
    Tokens { vocabulary: usize },
    /// One of `n` classes at each step.
    StepClasses { n: usize },
}

impl OutputShape {
    /// Numbers a row of logits has.
    pub fn width(&self) -> usize {
        match *self {
            OutputShape::Classes { n } | OutputShape::Values { n } | OutputShape::StepClasses { n } => n,
            OutputShape::Tokens { vocabulary } => vocabulary,
        }
    }
}

/// Sizes that the data decided and from which, with the spec, the model is built again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    pub input: InputShape,
    pub output: OutputShape,
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The spec's fault: this family cannot take this data.
    #[error("model: {family} cannot take {what}; {fix}")]
    Unsuited { family: &'static str, what: String, fix: String },
    #[error(transparent)]
    Nn(#[from] NnError),
}

/// A forward pass that has been made.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// `[n, outputs]`, or `[n · time, outputs]` for outputs at each step.
    pub logits: Var,
    /// Where gradients with respect to the input arrive: the numbers themselves, or the embedded tokens.
    pub entry: Var,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub params: Params,
    pub shape: ModelShape,
    pub(crate) arch: Arch,
}

#[derive(Clone, Debug)]
pub(crate) enum Arch {
    Mlp(Mlp),
    Cnn(Cnn),
    Recurrent(Recurrent),
    Transformer(Box<Transformer>),
    CausalLm(Box<CausalLm>),
    Encoder(Box<Encoder>),
}

impl Model {
    /// A fresh model; equal seeds give equal parameters.
    pub fn new(spec: &ModelSpec, shape: &ModelShape, seed: u64) -> Result<Self, ModelError> {
        let mut params = Params::new();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let b = &mut Builder { params: &mut params, rng: &mut rng };
        let outputs = shape.output.width();
        let arch = match spec {
            ModelSpec::Mlp(spec) => Arch::Mlp(Mlp::new(b, spec, dense_width("mlp", shape)?, outputs)),
            ModelSpec::Cnn(spec) => Arch::Cnn(Cnn::new(b, spec, &shape.input, outputs)?),
            ModelSpec::Rnn(spec) => Arch::Recurrent(Recurrent::new(b, Cell::RnnTanh, spec, shape)?),
            ModelSpec::Lstm(spec) => Arch::Recurrent(Recurrent::new(b, Cell::Lstm, spec, shape)?),
            ModelSpec::Gru(spec) => Arch::Recurrent(Recurrent::new(b, Cell::Gru, spec, shape)?),
            ModelSpec::Transformer(spec) => Arch::Transformer(Box::new(Transformer::new(b, spec, shape)?)),
        };
        Ok(Model { params, shape: shape.clone(), arch })
    }

    /// A stored model.
    pub fn load(spec: &ModelSpec, shape: &ModelShape, safetensors: &[u8]) -> Result<Self, ModelError> {
        let mut model = Self::new(spec, shape, 0)?;
        weights::load_safetensors(&mut model.params, safetensors)?;
        Ok(model)
    }

    /// A language model that was read from a checkpoint.
    pub fn language(loaded: causal_lm::Loaded) -> Self {
        let causal_lm::Loaded { params, model, .. } = loaded;
        let (vocabulary, time) = (model.config.vocab_size, model.config.max_position_embeddings);
        let shape = ModelShape {
            input: InputShape::Tokens { vocabulary, time },
            output: OutputShape::Tokens { vocabulary },
        };
        Model { params, shape, arch: Arch::CausalLm(Box::new(model)) }
    }

    /// An encoder of texts that was read from a checkpoint: a vector a text, or a number a label.
    pub fn encoder(loaded: encoder::Loaded) -> Self {
        let encoder::Loaded { params, model, .. } = loaded;
        let (vocabulary, time) = (model.config.vocab_size, model.context());
        let output = match &model.config.head {
            Head::Embedding { .. } => OutputShape::Values { n: model.config.hidden_size },
            Head::Classifier { labels } => OutputShape::Classes { n: labels.len() },
            Head::Tokens { labels } => OutputShape::StepClasses { n: labels.len() },
        };
        let shape = ModelShape { input: InputShape::Tokens { vocabulary, time }, output };
        Model { params, shape, arch: Arch::Encoder(Box::new(model)) }
    }

    /// The configuration of an encoder that was read from a checkpoint.
    pub fn encoder_config(&self) -> Option<&encoder::Config> {
        if let Arch::Encoder(encoder) = &self.arch { Some(&encoder.config) } else { None }
    }

    /// The configuration of a language model that was read from a checkpoint.
    pub fn language_config(&self) -> Option<&causal_lm::Config> {
        if let Arch::CausalLm(model) = &self.arch { Some(&model.config) } else { None }
    }

    /// Packs all matrices for serving, those of recurrent layers as whole layers.
    pub fn freeze(&mut self) {
        let layers = match &self.arch {
            Arch::Recurrent(recurrent) => recurrent.layers(),
            _ => Vec::new(),
        };
        for &(cell, weights) in &layers {
            self.params.freeze_cell(cell, weights);
        }
        let in_layer = |id| layers.iter().any(|(_, w)| w.w_ih == id || w.w_hh == id);
        for id in self.params.ids().filter(|&id| !in_layer(id)) {
            self.params.freeze(id);
        }
    }

    /// From inputs to logits.
    pub fn forward(&self, tape: &mut Tape<'_>, input: &Input) -> Result<Forward, NnError> {
        match (&self.arch, input) {
            (Arch::CausalLm(model), input) => model.forward(tape, input),
            (_, Input::Tokens(tokens)) if tokens.packed => Err(wrong_input("model", "rows with padding")),
            (Arch::Mlp(mlp), Input::Dense { .. }) => {
                let entry = dense_entry(tape, input)?;
                Ok(Forward { logits: mlp.forward(tape, entry)?, entry })
            }
            (Arch::Recurrent(recurrent), input) => recurrent.forward(tape, input),
            (Arch::Transformer(transformer), input) => transformer.forward(tape, input),
            (Arch::Encoder(encoder), input) => encoder.forward(tape, input),
            (Arch::Cnn(cnn), Input::Dense { .. }) => {
                let entry = dense_entry(tape, input)?;
                Ok(Forward { logits: cnn.forward(tape, entry)?, entry })
            }
            (Arch::Mlp(_), _) => Err(wrong_input("mlp", "rows of numbers")),
            (Arch::Cnn(_), _) => Err(wrong_input("cnn", "images or series")),
        }
    }

    /// Learns everything from now on: matrices that were laid out for serving become numbers.
    ///
    /// # Errors
    /// A matrix is in blocks of few bits, whose steps are larger than a gradient's.
    pub fn learn_all(&mut self) -> Result<(), NnError> {
        self.params.ids().collect::<Vec<_>>().into_iter().try_for_each(|id| self.params.learn(id))
    }

    /// Whether the outputs are a linear function of the input (and a constant).
    pub fn is_linear(&self) -> bool {
        matches!(&self.arch, Arch::Mlp(mlp) if mlp.is_linear())
    }

    /// Whether each layer's output is a stack of planes (Grad-CAM).
    pub fn is_convolutional(&self) -> bool {
        matches!(self.arch, Arch::Cnn(_))
    }

    /// `scale · Σ` of the loss over the terms of the target: cross-entropy for classes and tokens, squared
    /// error for numbers. With `scale = 1 / terms of the optimiser step`, sums over micro-steps are the mean.
    ///
    /// A language model that was read from a checkpoint makes logits of the steps that have a loss only.
    pub fn loss(&self, tape: &mut Tape<'_>, batch: &Batch, scale: f32) -> Result<(Var, Forward), NnError> {
        if let Target::Preferences { reference, beta, .. } = &batch.target {
            let Asked { targets, offsets, forward } = self.asked(tape, batch)?;
            let pairs = Pairs { offsets: &offsets, reference, beta: *beta };
            return Ok((tape.preference(forward.logits, &targets, pairs, scale)?, forward));
        }
        if let (Arch::CausalLm(_), Target::Steps(_)) = (&self.arch, &batch.target) {
            let Asked { targets, forward, .. } = self.asked(tape, batch)?;
            return Ok((tape.softmax_cross_entropy(forward.logits, &targets, scale)?, forward));
        }
        let forward = self.forward(tape, &batch.input)?;
        let loss = match &batch.target {
            Target::Classes(classes) | Target::Steps(classes) => {
                tape.softmax_cross_entropy(forward.logits, classes, scale)?
            }
            Target::Values { data, .. } => tape.squared_error(forward.logits, data, scale)?,
            Target::None | Target::Preferences { .. } => {
                return Err(wrong_input("loss", "a batch with targets"));
            }
        };
        Ok((loss, forward))
    }

    /// The steps of a language model's batch that have a loss, and their logits.
    ///
    /// # Errors
    /// For other models, and for a batch that asks for nothing.
    pub fn asked(&self, tape: &mut Tape<'_>, batch: &Batch) -> Result<Asked, NnError> {
        let (Arch::CausalLm(model), Input::Tokens(tokens)) = (&self.arch, &batch.input) else {
            return Err(wrong_input("loss", "tokens of a language model"));
        };
        let (Target::Steps(steps) | Target::Preferences { steps, .. }) = &batch.target else {
            return Err(wrong_input("loss", "a class a step"));
        };
        let (mut rows, mut targets, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        let mut start = 0;
        for &length in &tokens.lengths {
            let asked = steps[start..][..length as usize].iter().enumerate();
            for (t, &step) in asked.filter(|(_, step)| **step != IGNORE) {
                rows.push((start + t) as u32);
                targets.push(step);
            }
            offsets.push(rows.len() as u32);
            start += if tokens.packed { length as usize } else { tokens.time };
        }
        if rows.is_empty() {
            return Err(wrong_input("loss", "a batch in which a step has a loss"));
        }
        Ok(Asked { forward: model.forward_rows(tape, &batch.input, &rows)?, targets, offsets })
    }
}

/// What a language model's batch asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The class of each step that has a loss.
    pub targets: Vec<i32>,
    /// The first of each sequence, and the end of the last.
    pub offsets: Vec<u32>,
    /// `logits` are `[targets, V]`.
    pub forward: Forward,
}

/// The input as a value on the tape, under the shape `[n, …]`.
pub(crate) fn dense_entry(tape: &mut Tape<'_>, input: &Input) -> Result<Var, NnError> {
    let Input::Dense { shape, data } = input else { return Err(wrong_input("model", "rows of numbers")) };
    let mut dims = [1; 4];
    let width: usize = shape.iter().product();
    dims[0] = data.len() / width.max(1);
    dims[1..=shape.len()].copy_from_slice(shape);
    tape.entry(&dims[..=shape.len()], data)
}

pub(crate) fn wrong_input(op: &'static str, want: &str) -> NnError {
    NnError::Shape { op, what: "input", got: "another kind of input".into(), want: want.into() }
}

fn dense_width(family: &'static str, shape: &ModelShape) -> Result<usize, ModelError> {
    match shape.input {
        InputShape::Features { n } => Ok(n),
        InputShape::Image { shape: [c, h, w] } => Ok(c * h * w),
        InputShape::Series { steps, channels } => Ok(steps * channels),
        InputShape::Tokens { .. } | InputShape::Pair { .. } => {
            Err(unsuited(family, "text", "use family = \"transformer\" or \"lstm\""))
        }
    }
}

pub(crate) fn unsuited(family: &'static str, what: &str, fix: &str) -> ModelError {
    ModelError::Unsuited { family, what: what.into(), fix: fix.into() }
}
