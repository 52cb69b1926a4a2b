//! A trained model as the files of its version folder.
//!
//! Weight files hold no time, path or id, so equal runs give equal files; what differs is in the manifest.

use crate::checkpoint::digest;
use crate::error::TrainError;
use crate::fit::Fitted;
use crate::measure::Measured;
use lyceum_models::bundle;
use lyceum_nn::{NnError, weights};
use lyceum_types::manifest::{BaselineReport, FORMAT_VERSION, Manifest};
use lyceum_types::spec::Spec;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;

/// The validation rows' outputs, in the version's folder.
pub const VALID_LOGITS: &str = "valid_logits.safetensors";
/// Rows of the validation (or training) part whose outputs are recorded.
const PROBES: usize = 8;

/// The trivial method as it was fitted on the training rows. Versions of older programs have none.
pub const TRIVIAL: &str = "trivial_baseline.safetensors";

/// What the version is called.
#[derive(Clone, Debug)]
pub struct VersionName {
    pub name: String,
    pub version: u32,
    /// Seconds since 1970.
    pub created: u64,
    pub job: Option<String>,
}

/// The manifest and the other files of a version, by name.
pub struct VersionFiles {
    pub manifest: Manifest,
    pub files: Vec<(String, Vec<u8>)>,
}

/// Everything that a version's folder holds.
pub fn version_files(spec: &Spec, fitted: &Fitted, name: &VersionName) -> Result<VersionFiles, TrainError> {
    let weights = weights::to_safetensors(&fitted.model.params)?;
    let weights_sha256 = digest(&weights);
    let mut files = vec![("model.safetensors".to_owned(), weights)];
    if !fitted.valid_logits.is_empty() {
        files.push((VALID_LOGITS.to_owned(), valid_logits(fitted)?));
    }
    files.push((TRIVIAL.to_owned(), fitted.trivial.to_bytes()?));
    if let Some(json) = fitted.loaded.preparation.tokenizer().and_then(|t| t.to_json()) {
        files.push(("tokenizer.json".to_owned(), json.into_bytes()));
    }
    let sha256: BTreeMap<String, String> =
        files.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect();
    let report = |m: &Measured| BaselineReport { name: m.name.clone(), metrics: m.metrics.clone() };
    let plain = |value: Result<serde_json::Value, serde_json::Error>| value.expect("plain data: bug");
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: name.name.clone(),
        version: name.version,
        created: name.created,
        job: name.job.clone(),
        spec: spec.clone(),
        preparation: plain(serde_json::to_value(&fitted.loaded.preparation)),
        shape: plain(serde_json::to_value(&fitted.shape)),
        n_parameters: fitted.model.params.n_trainable() as u64,
        weights_sha256,
        data: fitted.loaded.files.clone(),
        metrics: fitted.metrics.clone(),
        baseline: fitted.baseline.as_ref().map(report),
        strong_baseline: fitted.strong_baseline.as_ref().map(report),
        verdict: verdict(fitted),
        steps: fitted.steps,
        seconds: fitted.seconds,
        split: fitted.loaded.split.clone(),
        features: fitted.loaded.features.clone(),
        probes: plain(serde_json::to_value(probes(fitted)?)),
        files: sha256,
    };
    Ok(VersionFiles { manifest, files })
}

/// Both paired tests in words.
pub fn verdict(fitted: &Fitted) -> Option<String> {
    let ((trivial, strong), part) = (fitted.verdict.as_ref()?, fitted.judged_on?);
    Some(format!("on the {part} part it {}; it {}", trivial.sentence, strong.sentence))
}

fn probes(fitted: &Fitted) -> Result<bundle::Probes, TrainError> {
    let part = fitted.loaded.valid.as_ref().filter(|d| !d.is_empty()).unwrap_or(&fitted.loaded.train);
    let rows: Vec<usize> = (0..part.len().min(PROBES)).collect();
    let mut batch = part.new_batch();
    part.fill(&rows, &mut batch);
    Ok(bundle::Probes::record(&fitted.model, batch.input)?)
}

/// Outputs on the validation rows beside what they should have been: `logits [n, width]` and `labels [n]` or
/// `targets [n, width]` (scaled as the preparation says). Calibration and prediction sets are fitted on them.
fn valid_logits(fitted: &Fitted) -> Result<Vec<u8>, TrainError> {
    let width = fitted.shape.output.width();
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let n = fitted.valid_logits.len() / width.max(1);
    let mut parts = vec![("logits", Dtype::F32, vec![n, width], bytes(&fitted.valid_logits))];
    let valid = fitted.loaded.valid.as_ref();
    if let Some(labels) = valid.and_then(|v| v.labels()) {
        let bytes = labels.iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect();
        parts.push(("labels", Dtype::I64, vec![n], bytes));
    } else if let Some((targets, _)) = valid.and_then(|v| v.values()) {
        parts.push(("targets", Dtype::F32, vec![n, width], bytes(targets)));
    }
    let views = parts.iter().map(|(name, dtype, dims, bytes)| {
        Ok((*name, TensorView::new(*dtype, dims.clone(), bytes).map_err(NnError::Safetensors)?))
    });
    let views = views.collect::<Result<Vec<_>, NnError>>()?;
    Ok(safetensors::serialize(views, None).map_err(NnError::Safetensors)?)
}
