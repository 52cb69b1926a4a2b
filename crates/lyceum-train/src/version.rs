//! A trained model as the files of its version folder.
//!
//! Weight files hold no time, path or id, so equal runs give equal files; what differs is in the manifest.

use crate::checkpoint::digest;
use crate::error::TrainError;
use crate::fit::Fitted;
use crate::measure::Measured;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::{InputShape, bundle};
use lyceum_nn::{NnError, weights};
use lyceum_types::manifest::{BaselineReport, FORMAT_VERSION, Manifest, PrivacyReport, TunedReport};
use lyceum_types::spec::Spec;
use lyceum_types::spec::privacy::{PrivacySpec, PublicStatistic};
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
    if let Some(trivial) = &fitted.trivial {
        files.push((TRIVIAL.to_owned(), trivial.to_bytes()?));
    }
    if let Some(json) = fitted.loaded.preparation.tokenizer().and_then(|t| t.to_json()) {
        files.push(("tokenizer.json".to_owned(), json.into_bytes()));
    }
    let sha256: BTreeMap<String, String> =
        files.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect();
    let report = |m: &Measured| BaselineReport { name: m.name.clone(), metrics: m.metrics.clone() };
    let plain = |value: Result<serde_json::Value, serde_json::Error>| value.expect("plain data: bug");
    let mut manifest = Manifest {
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
        probes: plain(serde_json::to_value(probes(spec, fitted)?)),
        privacy: fitted.privacy.clone(),
        calibration: None,
        files: sha256,
    };
    if let Some(privacy) = &spec.privacy {
        withhold(&mut manifest, privacy);
    }
    Ok(VersionFiles { manifest, files })
}

/// Takes out of a private version what noise does not protect and nobody declared public. Every field of a
/// manifest is named here, so that a new one does not compile until somebody has said what it tells.
fn withhold(manifest: &mut Manifest, declared: &PrivacySpec) {
    let Manifest {
        // Said by the spec or the program.
        format_version: _,
        name: _,
        version: _,
        created: _,
        job: _,
        spec: _,
        steps: _,
        // Declared public, or fixed by the spec: `private::undeclared` refuses the run otherwise.
        preparation: _,
        shape: _,
        n_parameters: _,
        // Made by the noisy mechanism, and what follows from it.
        weights_sha256: _,
        privacy,
        // A limit that the report names: running time is not protected.
        seconds: _,
        // Of rows that were declared public: the parser refuses other validation and test files.
        metrics: _,
        calibration: _,
        // `tokenizer.json` (declared as the vocabulary) and `valid_logits.safetensors` (of public rows);
        // `trivial_baseline.safetensors` counts training rows: a private run has none.
        files: _,
        // Public rows' or made up: `probes` never takes training rows of a private run.
        probes: _,
        // Taken out.
        data,
        baseline,
        strong_baseline,
        verdict,
        split,
        features,
    } = manifest;
    let mut withheld = vec!["baseline", "strong_baseline", "verdict", "features", "split.train"];
    (*baseline, *strong_baseline, *verdict) = (None, None, None);
    features.clear();
    split.remove("train");
    if !declared.is_public(PublicStatistic::Rows) {
        withheld.extend(["data.train.sha256", "data.train.rows"]);
        for file in data.iter_mut().filter(|file| file.role == "train") {
            (file.sha256, file.rows) = ("withheld".into(), 0);
        }
    }
    if let Some(report) = privacy {
        report.withheld = withheld.into_iter().map(str::to_owned).collect();
    }
}

/// Takes out of a private fine-tuning's report what noise does not protect and nobody declared public; every field is
/// named here too.
pub fn withhold_tuned(tuned: &mut TunedReport, privacy: &mut PrivacyReport, declared: &PrivacySpec) {
    let TunedReport {
        // Said by the spec or the program.
        job: _,
        base: _,
        spec: _,
        steps: _,
        n_trained: _,
        // Decided from the number of lines where that was declared public: the parser refuses it otherwise.
        train: _,
        // A limit that the report names: running time is not protected.
        seconds: _,
        // Of lines that were declared public: the parser refuses other validation files.
        metrics: _,
        base_metrics: _,
        verdict: _,
        // Public lines' or made up.
        probes: _,
        // Taken out.
        data,
        split,
    } = tuned;
    let mut withheld = vec!["tuned.split.train"];
    split.remove("train");
    if !declared.is_public(PublicStatistic::Rows) {
        withheld.extend(["tuned.data.train.sha256", "tuned.data.train.rows"]);
        for file in data.iter_mut().filter(|file| file.role == "train") {
            (file.sha256, file.rows) = ("withheld".into(), 0);
        }
    }
    privacy.withheld = withheld.into_iter().map(str::to_owned).collect();
}

/// Both paired tests in words.
pub fn verdict(fitted: &Fitted) -> Option<String> {
    let ((trivial, strong), part) = (fitted.verdict.as_ref()?, fitted.judged_on?);
    Some(format!("on the {part} part it {}; it {}", trivial.sentence, strong.sentence))
}

fn probes(spec: &Spec, fitted: &Fitted) -> Result<bundle::Probes, TrainError> {
    let has_public_rows = fitted.loaded.valid.as_ref().is_some_and(|d| !d.is_empty());
    if spec.privacy.is_some() && !has_public_rows {
        return Ok(bundle::Probes::record(&fitted.model, made_up(&fitted.shape.input))?);
    }
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

/// Inputs that are nobody's rows.
fn made_up(shape: &InputShape) -> Input {
    let dense = |shape: Vec<usize>| {
        let n = PROBES * shape.iter().product::<usize>();
        Input::Dense { shape, data: (0..n).map(|i| ((i * 37 + i / 7) % 101) as f32 / 50.0 - 1.0).collect() }
    };
    let tokens = |vocabulary: usize, time: usize| {
        let time = time.clamp(1, 16);
        let id = |i: usize| ((i * 7 + i / 16) % vocabulary.max(1)) as u32;
        let ids = (0..PROBES * time).map(id).collect();
        Tokens { n: PROBES, time, ids, lengths: vec![time as u32; PROBES], ..Tokens::default() }
    };
    match *shape {
        InputShape::Features { n } => dense(vec![n]),
        InputShape::Image { shape } => dense(shape.to_vec()),
        InputShape::Series { steps, channels } => dense(vec![steps, channels]),
        InputShape::Tokens { vocabulary, time } => Input::Tokens(tokens(vocabulary, time)),
        InputShape::Pair { vocabulary, source_time, target_time } => {
            Input::Pair { source: tokens(vocabulary, source_time), target: tokens(vocabulary, target_time) }
        }
    }
}
