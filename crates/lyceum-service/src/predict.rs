//! Raw inputs of any kind to labels or numbers.

use crate::explain::{self, Explained};
use crate::guard::texts;
use crate::meter::{Counts, Share, metered};
use crate::resident::Resident;
use crate::robustness::{self, Promised, Promises};
use crate::{Content, Payer, Service, ServiceError};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Prepared, PreparedValue, Raw};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;

#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// The most likely label, and every label with its probability, in the model's order.
    Label {
        label: String,
        probabilities: Vec<(String, f64)>,
    },
    Number(f64),
    Numbers(Vec<f64>),
    /// One prediction a step.
    Steps(Vec<Prediction>),
}

/// One prediction an instance, in their order; and the version that made them.
pub async fn create(
    service: &Service,
    payer: &Payer,
    model: &ModelRef,
    instances: &[Content],
) -> Result<(String, Vec<Prediction>), ServiceError> {
    let (id, predictions, _) =
        create_promised(service, payer, model, instances, &Promises::default()).await?;
    Ok((id, predictions))
}

/// As [`create`], with what is promised of the answers.
pub async fn create_promised(
    service: &Service,
    payer: &Payer,
    model: &ModelRef,
    instances: &[Content],
    promises: &Promises,
) -> Result<(String, Vec<Prediction>, Promised), ServiceError> {
    let resident = service.resident(&payer.project, model).await?;
    refuse_generators(&resident)?;
    let instances = texts::contents(service, &payer.project, ("instances", instances)).await?;
    let prepared = instances.iter().enumerate();
    let prepared = prepared.map(|(i, content)| prepare(&resident, content, &format!("instances[{i}]")));
    let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
    crate::rates::spend(prepared.iter().map(n_tokens).sum())?;
    resident.watch.count(&payer.project, &resident, &prepared);
    let mut most = most(&prepared);
    most.passes += robustness::promises_most(promises, prepared.len());
    if promises.certify.is_some() {
        crate::rates::admit_passes()?;
    }
    let work = async |share: Share| {
        let rows = service.predict(&resident, prepared.clone(), &share).await?;
        let promised = robustness::promise(&resident, &prepared, &rows, promises, &share).await?;
        Ok((rows, promised))
    };
    let (rows, promised) = metered(service.ledger(), payer, &resident.version, most, work).await?;
    let output = &resident.preparation.output;
    let predictions = rows.iter().map(|row| prediction(output, row)).collect();
    Ok((resident.version.id(), predictions, promised))
}

/// As [`create`], and why: one explanation an instance.
pub async fn create_explained(
    service: &Service,
    payer: &Payer,
    model: &ModelRef,
    instances: &[Content],
    options: &explain::Options,
) -> Result<Vec<(Prediction, Explained)>, ServiceError> {
    if instances.len() > limits::EXPLAINED_INSTANCES_MAX {
        let max = limits::EXPLAINED_INSTANCES_MAX;
        let message = format!("{} instances are explained, at most {max} at once", instances.len());
        return Err(ServiceError::invalid("instances", "invalid_value", message));
    }
    let resident = service.resident(&payer.project, model).await?;
    refuse_generators(&resident)?;
    for (i, content) in instances.iter().enumerate() {
        let param = format!("instances[{i}]");
        texts::fixed_content(service, &payer.project, (&param, content), explain::COUNTS).await?;
    }
    crate::rates::admit_passes()?;
    let passes = explain::passes_most(options).saturating_mul(instances.len() as u64);
    let most = Counts { passes, ..Counts::default() };
    let work = async |share: Share| {
        let mut all = Vec::with_capacity(instances.len());
        for (i, content) in instances.iter().enumerate() {
            let (path, asked) = (format!("instances[{i}]"), (content, options));
            let place = (path.as_str(), share.clone());
            let (row, explained) =
                explain::answer_and_explain(service, &payer.project, &resident, asked, place).await?;
            all.push((prediction(&resident.preparation.output, &row), explained));
        }
        Ok(all)
    };
    metered(service.ledger(), &payer.explaining(), &resident.version, most, work).await
}

/// The most that predictions of these read: tokens, or rows where they have none.
pub(crate) fn most(prepared: &[Prepared]) -> Counts {
    let rows = prepared.iter().filter(|row| matches!(row.value, PreparedValue::Dense(_)));
    Counts {
        passes: rows.count() as u64,
        input_tokens: prepared.iter().map(n_tokens).sum(),
        ..Counts::default()
    }
}

/// A model that answers with tokens is asked at another door.
pub(crate) fn refuse_generators(resident: &Resident) -> Result<(), ServiceError> {
    if resident.preparation.output == OutputPreparation::Tokens {
        let message = format!("{} generates text: use POST /v1/completions", resident.version.id());
        return Err(ServiceError::invalid("model", "unsupported_model", message));
    }
    Ok(())
}

/// One raw input to numbers; errors name the place `path`.
pub(crate) fn prepare(resident: &Resident, content: &Content, path: &str) -> Result<Prepared, ServiceError> {
    let raw = match content {
        Content::Text(text) => Raw::Text(text),
        Content::File(bytes) if matches!(resident.preparation.input, InputPreparation::Audio(_)) => {
            Raw::Wav(bytes)
        }
        Content::File(bytes) => Raw::ImageFile(bytes),
        Content::Row(row) => Raw::Named(row),
        Content::Values(values) => Raw::Ordered(values),
        Content::Numbers(numbers) => Raw::Numbers(numbers),
    };
    let prepared = resident.preparation.example(raw).map_err(|error| ServiceError::prepare(path, error))?;
    if prepared.n_truncated > 0 {
        let n = n_tokens(&prepared);
        let message = format!(
            "{} tokens are more than the {n} that the model reads",
            n as usize + prepared.n_truncated
        );
        return Err(ServiceError::invalid(path, "context_length_exceeded", message));
    }
    Ok(prepared)
}

/// Tokens of a text; other inputs have none.
pub(crate) fn n_tokens(prepared: &Prepared) -> u64 {
    match &prepared.value {
        PreparedValue::Dense(_) => 0,
        PreparedValue::Tokens(ids) => ids.len() as u64,
        PreparedValue::Pair { source, .. } => source.len() as u64,
    }
}

fn prediction(output: &OutputPreparation, row: &[f32]) -> Prediction {
    match output {
        OutputPreparation::Labels { names } => label(names, row),
        OutputPreparation::StepLabels { names } => {
            Prediction::Steps(row.chunks_exact(names.len()).map(|step| label(names, step)).collect())
        }
        OutputPreparation::Values { .. } | OutputPreparation::Tokens => {
            match output.restore(row).as_slice() {
                [number] => Prediction::Number(*number),
                numbers => Prediction::Numbers(numbers.to_vec()),
            }
        }
    }
}

fn label(names: &[String], logits: &[f32]) -> Prediction {
    let probabilities = softmax(logits);
    let label = names[argmax(&probabilities)].clone();
    Prediction::Label { label, probabilities: names.iter().cloned().zip(probabilities).collect() }
}

/// `p_i = exp(z_i − max z) / Σ_j exp(z_j − max z)`, in f64.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut out: Vec<f64> = logits.iter().map(|&z| f64::from(z - max).exp()).collect();
    let sum: f64 = out.iter().sum();
    out.iter_mut().for_each(|p| *p /= sum);
    out
}

/// The place of the largest; the first of equals.
pub(crate) fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

// A request of the largest size must fit the engine's queue.
const _: () = assert!(limits::INSTANCES_MAX <= limits::TENSOR_ELEMENTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_a_distribution_also_for_large_logits() {
        let p = softmax(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(p, [0.5, 0.5, 0.0]);
        let p = softmax(&[0.0, std::f32::consts::LN_2]);
        assert!((p[1] - 2.0 / 3.0).abs() < 1e-7);
    }

    #[test]
    fn outputs_become_labels_numbers_and_steps() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let labels = OutputPreparation::Labels { names: names.clone() };
        let Prediction::Label { label, probabilities } = prediction(&labels, &[0.0, 2.0]) else {
            panic!("a label")
        };
        assert_eq!((label.as_str(), probabilities[1].0.as_str()), ("b", "b"));
        let steps = prediction(&OutputPreparation::StepLabels { names }, &[0.0, 2.0, 2.0, 0.0]);
        assert!(matches!(steps, Prediction::Steps(steps) if steps.len() == 2));
        let one = OutputPreparation::Values { names: vec!["y".into()], mean: vec![10.0], std: vec![2.0] };
        assert_eq!(prediction(&one, &[1.5]), Prediction::Number(13.0));
    }
}
