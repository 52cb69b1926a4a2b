//! Tensors in, tensors out (Open Inference Protocol v2).
//!
//! A model has one input. `input` takes numbers of the model's own raw shape (a row's columns, pixels, steps
//! by channels), which go through the same preparation as everywhere; `text` takes texts.

use crate::guard::texts;
use crate::meter::{Share, metered};
use crate::predict::{argmax, most, n_tokens, prepare, refuse_generators, softmax};
use crate::resident::Resident;
use crate::{Content, Payer, Service, ServiceError};
use lyceum_models::InputShape;
use lyceum_models::prepare::{InputPreparation, OutputPreparation};
use lyceum_store::models;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub inputs: Vec<Tensor>,
    /// Names of the wanted outputs; all when empty.
    pub outputs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    /// The first size counts the examples.
    pub shape: Vec<usize>,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Response {
    pub name: String,
    pub version: u32,
    pub outputs: Vec<OutputTensor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OutputTensor {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub data: OutputData,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OutputData {
    Probabilities(Vec<f32>),
    Values(Vec<f64>),
    Texts(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Metadata {
    pub name: String,
    /// Those that can be asked, from the oldest.
    pub versions: Vec<u32>,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Clone, Debug)]
pub struct TensorMetadata {
    pub name: &'static str,
    pub datatype: &'static str,
    /// Without the first size, which counts examples.
    pub example_shape: Vec<usize>,
}

pub async fn metadata(
    service: &Service,
    project: &Project,
    model: &ModelRef,
) -> Result<Metadata, ServiceError> {
    let resident = service.resident(project, model).await?;
    let name = &resident.version.name;
    let standing = service.standing(project).await?;
    let is_allowed = |version: &models::Version| {
        standing.decided.models.as_ref().is_none_or(|models| models.allows(&version.name, version.number))
    };
    let versions = models::shares::visible(service.store(), project).await?.into_iter();
    let versions = versions.filter(|version| version.name == *name && is_allowed(version));
    let versions = versions.map(|version| version.number);
    Ok(Metadata {
        name: name.to_string(),
        versions: versions.collect(),
        inputs: vec![input_metadata(&resident)],
        outputs: output_metadata(&resident.preparation.output),
    })
}

fn input_metadata(resident: &Resident) -> TensorMetadata {
    match raw_shape(resident) {
        Some(example_shape) => TensorMetadata { name: "input", datatype: "FP32", example_shape },
        None => TensorMetadata { name: "text", datatype: "BYTES", example_shape: vec![] },
    }
}

/// The sizes of one raw example of numbers; `None` for texts.
fn raw_shape(resident: &Resident) -> Option<Vec<usize>> {
    if let InputPreparation::Tabular(encoder) = &resident.preparation.input {
        return Some(vec![encoder.columns.len()]);
    }
    match resident.model.shape.input {
        InputShape::Features { n } => Some(vec![n]),
        InputShape::Image { shape } => Some(shape.to_vec()),
        InputShape::Series { steps, channels } => Some(vec![steps, channels]),
        InputShape::Tokens { .. } | InputShape::Pair { .. } => None,
    }
}

fn output_metadata(output: &OutputPreparation) -> Vec<TensorMetadata> {
    let tensor = |name, datatype, example_shape| TensorMetadata { name, datatype, example_shape };
    match output {
        OutputPreparation::Labels { names } => {
            vec![tensor("probabilities", "FP32", vec![names.len()]), tensor("label", "BYTES", vec![])]
        }
        OutputPreparation::StepLabels { names } => vec![tensor("probabilities", "FP32", vec![names.len()])],
        OutputPreparation::Values { names, .. } => vec![tensor("output", "FP64", vec![names.len()])],
        OutputPreparation::Tokens => vec![],
    }
}

pub async fn create(
    service: &Service,
    payer: &Payer,
    model: &ModelRef,
    request: Request,
) -> Result<Response, ServiceError> {
    let resident = service.resident(&payer.project, model).await?;
    refuse_generators(&resident)?;
    let offered = output_metadata(&resident.preparation.output);
    for (i, name) in request.outputs.iter().enumerate() {
        if !offered.iter().any(|output| output.name == name) {
            let names: Vec<&str> = offered.iter().map(|output| output.name).collect();
            let message = format!("{name:?} is not an output of the model: {}", names.join(", "));
            return Err(ServiceError::invalid(format!("outputs[{i}].name"), "unknown_output", message));
        }
    }
    let mut contents = examples(&resident, request.inputs)?;
    let texts = contents.iter_mut().flat_map(|(path, content)| texts::of_content(path, content)).collect();
    texts::plain(service, &payer.project, texts).await?;
    let prepared = contents.iter().map(|(path, content)| prepare(&resident, content, path));
    let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
    crate::rates::spend(prepared.iter().map(n_tokens).sum())?;
    resident.watch.count(&payer.project, &resident, &prepared);
    let most = most(&prepared);
    let work = async |share: Share| service.predict(&resident, prepared, &share).await;
    let rows = metered(service.ledger(), payer, &resident.version, most, work).await?;
    let wanted = |output: &OutputTensor| {
        request.outputs.is_empty() || request.outputs.iter().any(|name| name == output.name)
    };
    let outputs = outputs(&resident.preparation.output, &rows).into_iter().filter(wanted).collect();
    Ok(Response { name: resident.version.name.to_string(), version: resident.version.number, outputs })
}

/// One raw input an example, with its place in the request.
fn examples(resident: &Resident, inputs: Vec<Tensor>) -> Result<Vec<(String, Content)>, ServiceError> {
    let expected = input_metadata(resident);
    let Ok([tensor]) = <[Tensor; 1]>::try_from(inputs) else {
        let message = format!("the model has one input, {:?}", expected.name);
        return Err(ServiceError::invalid("inputs", "invalid_value", message));
    };
    if tensor.name != expected.name {
        let message = format!("{:?} is not an input of the model: {}", tensor.name, expected.name);
        return Err(ServiceError::invalid("inputs[0].name", "unknown_input", message));
    }
    let (n, example_shape) = (tensor.shape[0], &tensor.shape[1..]);
    if example_shape != expected.example_shape {
        let mut sizes: Vec<String> = vec!["n".into()];
        sizes.extend(expected.example_shape.iter().map(usize::to_string));
        let message = format!("{:?} is not [{}]", tensor.shape, sizes.join(", "));
        return Err(ServiceError::invalid("inputs[0].shape", "wrong_shape", message));
    }
    if n > limits::INSTANCES_MAX {
        let message = format!("{n} examples are more than {}", limits::INSTANCES_MAX);
        return Err(ServiceError::invalid("inputs[0].shape", "invalid_value", message));
    }
    let contents: Vec<Content> = match (tensor.data, expected.datatype) {
        (Data::Numbers(numbers), "FP32") => {
            numbers.chunks_exact(numbers.len() / n).map(|row| Content::Numbers(row.to_vec())).collect()
        }
        (Data::Texts(texts), "BYTES") => texts.into_iter().map(Content::Text).collect(),
        _ => {
            let message = format!("the model takes {}", expected.datatype);
            return Err(ServiceError::invalid("inputs[0].datatype", "invalid_value", message));
        }
    };
    Ok(contents.into_iter().map(|content| ("inputs[0].data".to_owned(), content)).collect())
}

fn outputs(output: &OutputPreparation, rows: &[Vec<f32>]) -> Vec<OutputTensor> {
    let n = rows.len();
    match output {
        OutputPreparation::Labels { names } => {
            let probabilities: Vec<Vec<f64>> = rows.iter().map(|row| softmax(row)).collect();
            let labels = probabilities.iter().map(|row| names[argmax(row)].clone()).collect();
            let flat = probabilities.iter().flatten().map(|&p| p as f32).collect();
            vec![
                OutputTensor {
                    name: "probabilities",
                    shape: vec![n, names.len()],
                    data: OutputData::Probabilities(flat),
                },
                OutputTensor { name: "label", shape: vec![n], data: OutputData::Texts(labels) },
            ]
        }
        OutputPreparation::StepLabels { names } => {
            let steps = rows.first().map_or(0, |row| row.len() / names.len());
            let flat = rows.iter().flat_map(|row| row.chunks_exact(names.len()).flat_map(softmax));
            let data = OutputData::Probabilities(flat.map(|p| p as f32).collect());
            vec![OutputTensor { name: "probabilities", shape: vec![n, steps, names.len()], data }]
        }
        OutputPreparation::Values { names, .. } => {
            let flat = rows.iter().flat_map(|row| output.restore(row)).collect();
            vec![OutputTensor { name: "output", shape: vec![n, names.len()], data: OutputData::Values(flat) }]
        }
        OutputPreparation::Tokens => vec![],
    }
}
