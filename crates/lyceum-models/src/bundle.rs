//! A stored version as something that answers: manifest and weights to model and preparation.
//!
//! The same code loads what training wrote and what a server serves. Probes, recorded when training ended,
//! must come out the same: a model that does not give them is refused.

use crate::batch::{Input, Tokens};
use crate::model::{Model, ModelError, ModelShape};
use crate::prepare::Preparation;
use lyceum_nn::{Examples, NnError, Recording, Tape, Workspace};
use lyceum_types::manifest::{FORMAT_VERSION, Manifest};
use serde::{Deserialize, Serialize};

/// The largest difference between a probe's recorded output and the loaded model's, relative to the larger
/// of 1 and the output; other instruction sets round differently.
pub const PROBE_TOLERANCE: f32 = 1e-3;

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file's fault, or a newer program's.
    #[error("manifest: format {found} is newer than this program knows ({known})")]
    Newer { found: u32, known: u32 },
    #[error("manifest: \"{field}\" cannot be read")]
    Field { field: &'static str, source: serde_json::Error },
    #[error(
        "model: the weights give another answer to the recorded probes (largest difference {difference})"
    )]
    Probes { difference: f32 },
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A model with its preparation.
#[derive(Debug)]
pub struct Bundle {
    pub model: Model,
    pub preparation: Preparation,
}

/// Builds the model of a manifest from its weights, packs it for serving and checks its probes.
pub fn open(manifest: &Manifest, safetensors: &[u8]) -> Result<Bundle, BundleError> {
    if manifest.format_version > FORMAT_VERSION {
        return Err(BundleError::Newer { found: manifest.format_version, known: FORMAT_VERSION });
    }
    let preparation = field("preparation", &manifest.preparation)?;
    let shape: ModelShape = field("shape", &manifest.shape)?;
    let mut model = Model::load(&manifest.spec.model, &shape, safetensors)?;
    model.freeze();
    if !manifest.probes.is_null() {
        let probes: Probes = field("probes", &manifest.probes)?;
        let difference = probes.difference(&model).map_err(ModelError::Nn)?;
        if difference.is_nan() || difference > PROBE_TOLERANCE {
            return Err(BundleError::Probes { difference });
        }
    }
    Ok(Bundle { model, preparation })
}

/// The inputs that were recorded when training ended, one row each; none where none were recorded.
pub fn probe_rows(manifest: &Manifest) -> Result<Vec<Input>, BundleError> {
    if manifest.probes.is_null() {
        return Ok(Vec::new());
    }
    let probes: Probes = field("probes", &manifest.probes)?;
    Ok(probes.input().rows())
}

fn field<T: serde::de::DeserializeOwned>(
    field: &'static str,
    value: &serde_json::Value,
) -> Result<T, BundleError> {
    serde_json::from_value(value.clone()).map_err(|source| BundleError::Field { field, source })
}

/// Inputs and the outputs that they had when training ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    input: ProbeInput,
    outputs: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ProbeInput {
    Dense { shape: Vec<usize>, data: Vec<f32> },
    Tokens(ProbeTokens),
    Pair { source: ProbeTokens, target: ProbeTokens },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ProbeTokens {
    time: usize,
    ids: Vec<u32>,
    lengths: Vec<u32>,
}

impl Probes {
    /// Runs the model on `input` and keeps both.
    pub fn record(model: &Model, input: Input) -> Result<Self, NnError> {
        let outputs = outputs(model, &input)?;
        let input = match input {
            Input::Dense { shape, data } => ProbeInput::Dense { shape, data },
            Input::Tokens(tokens) => ProbeInput::Tokens(tokens.into()),
            Input::Pair { source, target } => {
                ProbeInput::Pair { source: source.into(), target: target.into() }
            }
        };
        Ok(Probes { input, outputs })
    }

    /// What was put in.
    pub fn input(&self) -> Input {
        match self.input.clone() {
            ProbeInput::Dense { shape, data } => Input::Dense { shape, data },
            ProbeInput::Tokens(tokens) => Input::Tokens(tokens.into()),
            ProbeInput::Pair { source, target } => {
                Input::Pair { source: source.into(), target: target.into() }
            }
        }
    }

    /// The largest difference to the recorded outputs.
    pub fn difference(&self, model: &Model) -> Result<f32, NnError> {
        let found = outputs(model, &self.input())?;
        if found.len() != self.outputs.len() {
            return Ok(f32::INFINITY);
        }
        let relative = |(a, b): (&f32, &f32)| (a - b).abs() / a.abs().max(1.0);
        let differences = self.outputs.iter().zip(&found).map(relative);
        Ok(differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }))
    }
}

fn outputs(model: &Model, input: &Input) -> Result<Vec<f32>, NnError> {
    let n = match input {
        Input::Dense { shape, data } => data.len() / shape.iter().product::<usize>().max(1),
        Input::Tokens(tokens) => tokens.n,
        Input::Pair { source, .. } => source.n,
    };
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(n));
    let forward = model.forward(&mut tape, input)?;
    Ok(tape.value(forward.logits).to_vec())
}

impl From<Tokens> for ProbeTokens {
    fn from(t: Tokens) -> Self {
        ProbeTokens { time: t.time, ids: t.ids, lengths: t.lengths }
    }
}

impl From<ProbeTokens> for Tokens {
    fn from(t: ProbeTokens) -> Self {
        Tokens { n: t.lengths.len(), time: t.time, ids: t.ids, lengths: t.lengths, ..Tokens::default() }
    }
}
