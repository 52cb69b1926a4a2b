//! One bounded piece of work for the device: a few examples through a model, and what is read on the way.

use crate::{ExplainError, Target};
use lyceum_models::Model;
use lyceum_models::batch::Input;
use lyceum_nn::{AttentionMap, Examples, NnError, Recording, Relevance, Tape, Workspace};
use std::sync::Arc;

/// Examples in, scores (and gradients, layers, relevance, attention) out.
pub struct Pass {
    pub(crate) model: Arc<Model>,
    /// A few examples.
    pub(crate) input: Input,
    /// Stands for their entry.
    pub(crate) entry: Option<Vec<f32>>,
    /// One an example.
    pub(crate) targets: Vec<Target>,
    pub(crate) wanted: Wanted,
}

/// What is read beside the scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Nothing.
    Scores,
    /// Gradients of the scores with respect to the entry.
    Gradients,
    /// Values and gradients of the layer with this name.
    Layer(String),
    /// Relevance of the entry, of one example.
    Relevance { epsilon: f32 },
    /// The weights of attention.
    Attention,
    /// The names and sizes of all layers.
    Layers,
}

/// A layer of one pass, `dims` with the examples first.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub name: String,
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
    pub gradients: Vec<f32>,
}

/// What a pass gives; parts that were not wanted are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassResult {
    /// With their classes chosen.
    pub targets: Vec<Target>,
    pub scores: Vec<f64>,
    /// All outputs, `[examples, rows, width]`.
    pub outputs: Vec<f32>,
    /// The entry's numbers, examples first.
    pub entry: Vec<f32>,
    pub gradients: Vec<f32>,
    pub layers: Vec<Layer>,
    pub relevance: Option<Relevance>,
    pub maps: Vec<AttentionMap>,
}

/// Who runs passes: this thread, or one that serves others between two of them.
pub trait Device {
    fn run(&mut self, pass: Pass) -> Result<PassResult, ExplainError>;
}

/// The calling thread.
#[derive(Default)]
pub struct ThisThread {
    ws: Workspace,
}

impl ThisThread {
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn workspace(&mut self) -> &mut Workspace {
        &mut self.ws
    }
}

impl Device for ThisThread {
    fn run(&mut self, pass: Pass) -> Result<PassResult, ExplainError> {
        Ok(pass.run(&mut self.ws)?)
    }
}

impl Pass {
    /// Examples that go forward, and those that go back.
    pub fn passes(&self) -> u64 {
        let n = self.targets.len() as u64;
        match self.wanted {
            Wanted::Scores | Wanted::Attention | Wanted::Layers => n,
            _ => 2 * n,
        }
    }

    /// Does the work; to be called on the device's thread.
    pub fn run(self, ws: &mut Workspace) -> Result<PassResult, NnError> {
        let n = self.targets.len();
        let recording = match self.wanted {
            Wanted::Scores | Wanted::Layers => Recording::Off,
            _ => Recording::Inputs,
        };
        let mut tape = Tape::new(ws, &self.model.params, recording, Examples::Even(n));
        if let Some(entry) = &self.entry {
            tape = tape.with_entry(entry);
        }
        if matches!(self.wanted, Wanted::Layer(_) | Wanted::Layers) {
            tape = tape.with_marks();
        }
        let forward = self.model.forward(&mut tape, &self.input)?;
        let width = self.model.shape.output.width();
        let outputs = tape.value(forward.logits).to_vec();
        let each = outputs.len() / n.max(1);
        let (mut scores, mut seed) = (Vec::with_capacity(n), vec![0.0; outputs.len()]);
        let resolved = |(i, target): (usize, &Target)| target.resolved(&outputs[i * each..][..each], width);
        let targets: Vec<Target> = self.targets.iter().enumerate().map(resolved).collect();
        for (i, target) in targets.iter().enumerate() {
            scores.push(target.score(&outputs[i * each..][..each], width));
            target.add_seed(&outputs[i * each..][..each], width, &mut seed[i * each..][..each]);
        }
        let entry = tape.value(forward.entry).to_vec();
        let mut result = PassResult { targets, scores, outputs, entry, ..PassResult::default() };
        match self.wanted {
            Wanted::Scores => {}
            Wanted::Attention => result.maps = tape.attention_maps(),
            Wanted::Relevance { epsilon } => {
                result.relevance = Some(tape.relevance(forward.logits, &seed, forward.entry, epsilon)?);
            }
            Wanted::Gradients => {
                tape.backward_inputs(forward.logits, &seed);
                result.gradients = gradient(tape.grad(forward.entry), result.entry.len());
            }
            Wanted::Layers => {
                let of = |(name, var): &(String, lyceum_nn::Var)| Layer {
                    name: name.clone(),
                    dims: tape.shape(*var).dims().to_vec(),
                    values: Vec::new(),
                    gradients: Vec::new(),
                };
                result.layers = tape.marks().iter().map(of).collect();
            }
            Wanted::Layer(name) => {
                tape.backward_inputs(forward.logits, &seed);
                if let Some(&(_, var)) = tape.marks().iter().find(|(n, _)| *n == name) {
                    let values = tape.value(var).to_vec();
                    let gradients = gradient(tape.mark_grad(var), values.len());
                    let dims = tape.shape(var).dims().to_vec();
                    result.layers = vec![Layer { name, dims, values, gradients }];
                }
            }
        }
        Ok(result)
    }
}

/// Where nothing flowed the gradient is 0.
fn gradient(found: Option<&[f32]>, len: usize) -> Vec<f32> {
    found.map_or_else(|| vec![0.0; len], <[f32]>::to_vec)
}
