//! A calibrated version: the same model with its temperature folded into the last layer, published as the next version.
//!
//! `z / T = (W / T) h + b / T`, so the version's own logits are the calibrated ones, and every door that makes
//! probabilities of them (decisions, `:predict`, `infer`, explanations, prediction sets) is calibrated without knowing
//! it. A version never changes how it answers: who wants the old probabilities asks for the old version. The answer's
//! label is the same, up to ties.

use super::calibration::{Calibration, FILE, Truth};
use crate::resident::Resident;
use crate::{Service, ServiceError};
use lyceum_models::Model;
use lyceum_models::bundle::Probes;
use lyceum_models::prepare::OutputPreparation;
use lyceum_robust::calibrate;
use lyceum_store::files::Staging;
use lyceum_store::layout::{MANIFEST, MANIFEST_SHA256, WEIGHTS};
use lyceum_store::models::{Made, NewVersion, Version, publish_made};
use lyceum_store::tenancy::audit::Act;
use lyceum_store::vault::KeyedPath;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::{CalibrationReport, Manifest};
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

/// Fits a temperature on the validation rows that the version keeps and publishes the calibrated version, which the audit
/// log tells.
///
/// # Errors
/// A model without labels or validation rows, one that is calibrated already, rows on which no temperature is best.
pub async fn publish(
    service: &Service,
    project: &Project,
    model: &ModelRef,
    act: &Act,
) -> Result<(Version, CalibrationReport), ServiceError> {
    service.own(project, model).await?;
    let resident = service.resident(project, model).await?;
    let staging = Staging::of(service.store(), project)?;
    let work = move || fold(&resident, staging);
    let folded = tokio::task::spawn_blocking(work).await;
    let (new, staging, manifest, report) =
        folded.map_err(|error| ServiceError::internal("calibrating broke off", error))??;
    let write = |number| {
        let manifest = Manifest { version: number, ..manifest };
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let made = Made::Calibrated { parent: report.parent.clone() };
    let version = publish_made(service.store(), project, new, staging, write, (made, act)).await?;
    Ok((version, report))
}

type Folded = (NewVersion, Staging, Manifest, CalibrationReport);

fn fold(resident: &Resident, staging: Staging) -> Result<Folded, ServiceError> {
    let id = resident.version.id();
    if resident.manifest.calibration.is_some() {
        let message = format!("{id} is calibrated already");
        return Err(ServiceError::unsupported("model", "already_calibrated", message));
    }
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        let message = format!("{id}: a temperature needs a classifier with one label a row");
        return Err(ServiceError::unsupported("model", "unsupported_model", message));
    };
    let kept = Calibration::of(resident)?;
    let (temperature, before, after) = kept.temperature(names.len(), calibrate::BINS)?;
    let report = CalibrationReport {
        method: "temperature by likelihood, folded into the last layer".into(),
        temperature: temperature.value,
        n: temperature.n,
        bins: calibrate::BINS as u64,
        ece_before: before.ece,
        ece_after: after.ece,
        parent: id,
        parent_sha256: resident.version.sha256.clone(),
    };
    let broke = |error: lyceum_nn::NnError| ServiceError::internal("calibrating a model failed", error);
    let model = scaled(&resident.model, temperature.value).map_err(broke)?;
    let weights = lyceum_nn::weights::to_safetensors(&model.params).map_err(broke)?;
    let logits = scaled_logits(&kept, names.len(), temperature.value)?;
    let mut manifest = resident.manifest.clone();
    manifest.weights_sha256 = sha256(&weights);
    manifest.created = Timestamp::now().seconds().max(0) as u64;
    manifest.job = None;
    manifest.probes = probes(&manifest.probes, &model)?;
    // What depends on how sure the model is was measured of its parent.
    let unsure = |name: &String| !["loss", "ece", "brier"].iter().any(|word| name.contains(word));
    manifest.metrics.retain(|name, _| unsure(name));
    for file in [WEIGHTS, FILE] {
        let content: &[u8] = if file == WEIGHTS { &weights } else { &logits };
        write(&staging.place().join(file), content)?;
        manifest.files.insert(file.to_owned(), sha256(content));
    }
    let copied: Vec<&String> = manifest
        .files
        .keys()
        .filter(|file| ![WEIGHTS, FILE, MANIFEST, MANIFEST_SHA256].contains(&file.as_str()))
        .collect();
    for file in copied {
        let from = resident.version.dir.join(file);
        from.read()
            .and_then(|content| staging.place().join(file).write(&content))
            .map_err(|error| ServiceError::internal("copying a model's file failed", error))?;
    }
    manifest.calibration = Some(report.clone());
    let new = NewVersion {
        name: resident.version.name.clone(),
        family: resident.version.family.clone(),
        task: resident.version.task.clone(),
        n_params: resident.version.n_params,
        bytes: weights.len() as u64,
        sha256: manifest.weights_sha256.clone(),
        job: None,
        // Other probabilities are no reason to serve what its gate held back.
        held: resident.version.held.clone(),
    };
    Ok((new, staging, manifest, report))
}

/// The model with the last layer of its classifier divided by `t`.
fn scaled(model: &Model, t: f64) -> Result<Model, lyceum_nn::NnError> {
    let mut model = model.clone();
    for id in model.params.ids().collect::<Vec<_>>() {
        if matches!(model.params.name(id), "output.weight" | "output.bias") {
            let shape = model.params.shape(id).dims().to_vec();
            let value = model.params.value(id).iter().map(|w| (f64::from(*w) / t) as f32).collect();
            model.params.set(id, &shape, value)?;
        }
    }
    Ok(model)
}

/// The kept rows' logits of the new version, beside the same labels.
fn scaled_logits(kept: &Calibration, width: usize, t: f64) -> Result<Vec<u8>, ServiceError> {
    let Truth::Labels(labels) = &kept.truth else {
        return Err(ServiceError::internal("a classifier's rows have labels", "bug"));
    };
    let logits: Vec<u8> =
        kept.logits.iter().flat_map(|z| ((f64::from(*z) / t) as f32).to_le_bytes()).collect();
    let labels: Vec<u8> = labels.iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect();
    let n = kept.logits.len() / width;
    let broke =
        |error: safetensors::SafeTensorError| ServiceError::internal("writing kept rows failed", error);
    let views = [
        ("logits", TensorView::new(Dtype::F32, vec![n, width], &logits).map_err(broke)?),
        ("labels", TensorView::new(Dtype::I64, vec![n], &labels).map_err(broke)?),
    ];
    safetensors::serialize(views, None).map_err(broke)
}

/// The same probes with the outputs of the new version.
fn probes(recorded: &serde_json::Value, model: &Model) -> Result<serde_json::Value, ServiceError> {
    if recorded.is_null() {
        return Ok(serde_json::Value::Null);
    }
    let broke = |error: serde_json::Error| ServiceError::internal("a version's probes cannot be read", error);
    let recorded: Probes = serde_json::from_value(recorded.clone()).map_err(broke)?;
    let again = Probes::record(model, recorded.input())
        .map_err(|error| ServiceError::internal("recording probes failed", error))?;
    serde_json::to_value(again).map_err(broke)
}

fn write(path: &KeyedPath, content: &[u8]) -> Result<(), ServiceError> {
    path.write(content).map_err(|error| ServiceError::internal("writing a model's file failed", error))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
