//! What is stored beside a version's weights: enough to serve it, to recompute its numbers, and for later
//! work (calibration, drift, explanation) that must not need the training data again.

use crate::spec::tune::TuneSpec;
use crate::spec::{Spec, TrainSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest's own version; a reader refuses a newer one.
pub const FORMAT_VERSION: u32 = 1;

/// `manifest.json` of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub name: String,
    pub version: u32,
    /// Seconds since 1970.
    pub created: u64,
    pub job: Option<String>,
    pub spec: Spec,
    /// How inputs become numbers and outputs become words: fixed when training began.
    pub preparation: serde_json::Value,
    /// Sizes that the data decided (features, classes, vocabulary), from which the model is built again.
    pub shape: serde_json::Value,
    pub n_parameters: u64,
    /// sha256 of `model.safetensors`.
    pub weights_sha256: String,
    pub data: Vec<DataFile>,
    /// `valid_loss`, `test_accuracy`, … with 95 % intervals.
    pub metrics: BTreeMap<String, Metric>,
    pub baseline: Option<BaselineReport>,
    pub strong_baseline: Option<BaselineReport>,
    /// The paired test against the best simple baseline, in words.
    pub verdict: Option<String>,
    pub steps: u64,
    pub seconds: f64,
    /// Row numbers (from 0, in file order) of each part.
    pub split: BTreeMap<String, Vec<u64>>,
    /// What drift tests compare with: per-feature sketches, from training rows only.
    pub features: Vec<FeatureSketch>,
    /// Probes recorded at the end of training: served outputs must equal them.
    pub probes: serde_json::Value,
    /// What training promises about each example; None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyReport>,
    /// How probabilities were calibrated; None: they are as training left them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationReport>,
    /// Files of the version folder that hold larger records (`valid_logits.safetensors`, …), with sha256.
    pub files: BTreeMap<String, String>,
}

/// What makes an adapter in PEFT's layout: its description, its weights, and a card.
pub const ADAPTER_FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "README.md"];

/// Files beside the weights that say something of a model in Hugging Face's layout.
pub const DESCRIPTION_FILES: [&str; 12] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "model.safetensors.index.json",
    "README.md",
];

/// `manifest.json` of a version that was imported from the files of another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportedManifest {
    pub format_version: u32,
    /// Tells it from the manifest of a trained version, which has no such field.
    pub kind: ImportedKind,
    pub name: String,
    pub version: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// A path or a reference of a hub, as it was asked for.
    pub source: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// `llama`, `qwen3`, `bert`, … as the files say.
    pub family: String,
    pub n_parameters: u64,
    /// What matrices become when it is loaded; None: what they are in the files.
    pub quant: Option<String>,
    /// The longest sequence in tokens.
    pub context: u64,
    /// As the files say it; None: they say none.
    pub licence: Option<String>,
    /// Files of the folder, with sha256.
    pub files: BTreeMap<String, String>,
    /// What an adapter adds to; None: it is a model of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// How it was fine-tuned; None: it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<TunedReport>,
    /// What its fine-tuning promises about each example; None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyReport>,
}

impl ImportedManifest {
    /// The form that matrices are loaded in: a type, or the file's own. The same weights in another form have other numbers.
    pub fn loaded_as(&self) -> &str {
        self.quant.as_deref().unwrap_or("stored")
    }
}

/// Where a fine-tuned model comes from, and how good it was when its training ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedReport {
    pub job: String,
    /// What was tuned.
    pub base: Base,
    pub spec: TuneSpec,
    /// With every value that was left to the program.
    pub train: TrainSpec,
    pub data: Vec<DataFile>,
    /// Lines (from 0) of each part.
    pub split: BTreeMap<String, Vec<u64>>,
    /// Of the validation part: the tuned model's, and the base's.
    pub metrics: BTreeMap<String, Metric>,
    pub base_metrics: BTreeMap<String, Metric>,
    /// The paired test against the base, in words.
    pub verdict: Option<String>,
    pub steps: u64,
    pub seconds: f64,
    /// Numbers that were learnt.
    pub n_trained: u64,
    /// Texts and what was said after them: what is served must say the same.
    pub probes: serde_json::Value,
}

/// The version that an adapter was imported for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// `name@3`
    pub model: String,
    /// Of its weights: what an adapter is added to is known by this, wherever it stands.
    pub sha256: String,
    /// The form its matrices are loaded in ([`ImportedManifest::loaded_as`]); None: not known, as of older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_as: Option<String>,
}

/// What an imported model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportedKind {
    /// Continues texts.
    Language,
    /// Makes vectors of texts.
    Embedding,
    /// Gives numbers to texts or pairs of texts.
    Classifier,
    /// Gives a label to each token of a text.
    Tagger,
    /// Continues texts, together with the language model that it adds to.
    Adapter,
}

impl ImportedKind {
    /// Whether it continues texts.
    pub fn speaks(self) -> bool {
        matches!(self, ImportedKind::Language | ImportedKind::Adapter)
    }

    /// The task's name in lists of models.
    pub fn task(self) -> &'static str {
        match self {
            ImportedKind::Language => "language_modeling",
            ImportedKind::Embedding => "embedding",
            ImportedKind::Classifier => "scoring",
            ImportedKind::Tagger => "token_classification",
            ImportedKind::Adapter => "adapter",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    pub role: String,
    pub path: String,
    pub sha256: String,
    pub rows: u64,
}

/// A temperature that was fitted on validation rows and is part of the version's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationReport {
    pub method: String,
    pub temperature: f64,
    /// Validation rows that it was fitted on.
    pub n: u64,
    pub bins: u64,
    /// Expected calibration error on those rows before and after: new rows show a little more.
    pub ece_before: f64,
    pub ece_after: f64,
    /// The version that was calibrated, `name@3`, and its weights.
    pub parent: String,
    pub parent_sha256: String,
}

/// A measured number with its 95 % interval and the number of rows behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub value: f64,
    pub ci95: [f64; 2],
    pub n: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineReport {
    /// `majority`, `mean`, `last_value`, `bigram`, `logistic`, `linear`, `tfidf_logistic`, `seasonal_naive`.
    pub name: String,
    pub metrics: BTreeMap<String, Metric>,
}

/// Where a number's distribution is kept, by linear interpolation between order statistics (numpy's default).
pub const SKETCH_QUANTILES: [f64; 15] =
    [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// The guarantee of a privately trained version, with all that it takes to compute it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrivacyReport {
    /// `dp_sgd`
    pub mechanism: String,
    pub events: Vec<PrivacyEvent>,
    /// None: there was no noise, nothing is promised.
    pub epsilon: Option<f64>,
    pub delta: f64,
    /// `rdp` or `pld`, and how its result became (ε, δ).
    pub accountant: String,
    pub conversion: String,
    /// The Rényi order that gave ε.
    pub order: Option<f64>,
    /// What neighbours differ by: `add_remove_one`.
    pub adjacency: String,
    /// What the one is.
    pub unit: String,
    pub max_grad_norm: f64,
    /// What the noisy sum was divided by.
    pub expected_batch: f64,
    /// Where noise and draws came from: `os_key` or `insecure_seed`.
    pub randomness: String,
    /// What the owner of the data declared to be no secret.
    pub public: Vec<String>,
    /// What was left out of this manifest because it would say something about the rows.
    pub withheld: Vec<String>,
    pub limits: Vec<String>,
    /// In plain words.
    pub statement: String,
    /// What made-up rows inside this very run prove of it; None: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
}

/// An audit by canaries: a lower bound of ε, to be held against the upper one that is promised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditReport {
    pub method: String,
    /// Made-up rows, each trained on with probability 1/2.
    pub canaries: u64,
    /// Canaries that the attacker said something of, and how often rightly.
    pub guesses: u64,
    pub right: u64,
    /// ε is at least this, at `delta` and with `confidence`.
    pub epsilon_lower: f64,
    pub delta: f64,
    pub confidence: f64,
    /// How well the attacker's scores tell canaries that took part from those that did not (0.5 is a guess).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership_auc: Option<Metric>,
    /// In plain words.
    pub statement: String,
}

/// Steps of the Poisson-subsampled Gaussian.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrivacyEvent {
    pub q: f64,
    pub sigma: f64,
    pub steps: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureSketch {
    pub name: String,
    pub n: u64,
    pub n_missing: u64,
    pub mean: Option<f64>,
    pub std: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Values at [`SKETCH_QUANTILES`] for numbers.
    pub quantiles: Vec<f64>,
    /// Counts of the most frequent values for categories.
    pub counts: BTreeMap<String, u64>,
}
