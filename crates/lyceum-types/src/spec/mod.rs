//! The job spec: what a user writes to have a model trained. `TRAINING.md` of the documents describes it.
//!
//! These types are the parsed form, in which every optional key that has a default has its value. [`parse`]
//! turns TOML or JSON into them, with every unknown key, wrong type and contradiction reported at its place.

pub mod choose;
pub mod parse;
pub mod privacy;
pub mod tune;

use privacy::{PrivacySpec, PublicStatistic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The model's name; versions under it are numbered.
    pub name: String,
    pub task: Task,
    pub seed: u64,
    pub data: DataSpec,
    pub model: ModelSpec,
    pub train: TrainSpec,
    /// None: nothing is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySpec>,
    /// What a new version must stand beside the one that its name serves; None: it is served at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
}

/// Before its name serves a new version, both are tried on the same rows; one that is worse is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateSpec {
    /// A file of rows with labels. None: `data.valid`, or else `data.test`.
    pub data: Option<String>,
    /// Only the first so many of them.
    pub rows: Option<usize>,
    /// Items as `lyceum attack --suite` reads them, unread here. None: its one attack.
    pub suite: Option<Vec<serde_json::Value>>,
    /// How far any accuracy may be below the served version's.
    pub max_drop: f64,
}

impl GateSpec {
    /// The file whose rows decide.
    pub fn file<'s>(&'s self, data: &'s DataSpec) -> Option<&'s str> {
        self.data.as_deref().or(data.valid.as_deref()).or(data.test.as_deref())
    }

    /// What keeps a job from having this gate: the key, why, and what to write instead.
    pub fn refusal(
        &self,
        task: Task,
        data: &DataSpec,
        privacy: Option<&PrivacySpec>,
    ) -> Option<[&'static str; 3]> {
        if task != Task::Classification {
            return Some(["gate", "a gate compares accuracies, which classifiers have", "remove [gate]"]);
        }
        if self.file(data).is_none() {
            // Rows that this job holds out may be rows that the served version learnt.
            let why = "names no file of rows that neither version was trained on";
            return Some(["gate.data", why, "add data = \"test.csv\" under [gate]"]);
        }
        if privacy.is_some_and(|privacy| !privacy.is_public(PublicStatistic::Evaluation)) {
            let why = "what a gate finds says something about its rows, which the noise does not protect";
            let fix = "remove [gate], or declare public = [\"evaluation\"] under [privacy]";
            return Some(["gate", why, fix]);
        }
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Classification,
    Regression,
    LanguageModeling,
    SequenceToSequence,
    Forecasting,
}

/// Where rows come from and how they become numbers. Paths are as written; they are relative to the folder
/// of the file that names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    pub train: String,
    pub valid: Option<String>,
    /// Part of `train` held out when there is no `valid`: stratified for classes, the last part for text and
    /// series.
    pub valid_fraction: Option<f64>,
    pub test: Option<String>,
    /// Target columns; empty where the format carries its target (folders, idx, text).
    pub target: Vec<String>,
    /// Feature columns; `["*"]` is every column that is neither target, group, time nor dropped.
    pub features: Vec<String>,
    /// None: inferred from the format and the columns.
    pub input: Option<InputSpec>,
    pub tokenizer: Option<TokenizerSpec>,
    pub columns: BTreeMap<String, ColumnKind>,
    pub missing: Missing,
    pub unseen: Unseen,
    /// None: true for tables and series, false for images, sound and text.
    pub standardize: Option<bool>,
    /// Cross-validation with this many folds, reported beside the final model: stratified for classes, whole
    /// groups where there are any, and with a rolling origin for forecasts.
    pub folds: Option<usize>,
    pub group: Option<String>,
    /// Forecasting: steps seen, steps predicted, and the time column.
    pub window: Option<usize>,
    pub horizon: Option<usize>,
    pub time: Option<String>,
    /// Forecasting: the season's length for the seasonal-naive baseline (None: 1, the last value).
    pub season: Option<usize>,
    /// Gives the training rows each other's answers (of a text: its tokens another order), as a check that the
    /// score falls to the trivial baseline's.
    pub shuffle_labels: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputSpec {
    Tabular,
    /// `shape` is `[channels, height, width]`; `scale` divides (None: 255 for image files and idx, 1 else).
    Image {
        shape: Option<[usize; 3]>,
        scale: Option<f64>,
    },
    Text {
        max_tokens: Option<usize>,
    },
    /// Log-mel features of wav files at `sample_rate`; a file of another rate is an error; clips are padded or cut to `seconds` (a longer clip is an error unless `truncate`).
    Audio {
        sample_rate: u32,
        n_mels: usize,
        window_ms: f64,
        hop_ms: f64,
        seconds: f64,
        truncate: bool,
    },
    /// `channels` numbers a step.
    Series {
        channels: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerSpec {
    Char,
    Byte,
    /// Byte-level BPE trained on the training part, with this many entries.
    Bpe(usize),
    /// A `tokenizer.json`.
    File(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    Number,
    Category,
    Text,
    Time,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    Error,
    Mean,
    Median,
    Indicator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    Error,
    Other,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum ModelSpec {
    Mlp(MlpSpec),
    Cnn(CnnSpec),
    Rnn(RecurrentSpec),
    Lstm(RecurrentSpec),
    Gru(RecurrentSpec),
    Transformer(TransformerSpec),
}

impl ModelSpec {
    /// Every family that a job spec can ask for.
    pub const FAMILIES: [&'static str; 6] = ["mlp", "cnn", "rnn", "lstm", "gru", "transformer"];

    /// The family's name as the spec writes it.
    pub fn family(&self) -> &'static str {
        match self {
            ModelSpec::Mlp(_) => "mlp",
            ModelSpec::Cnn(_) => "cnn",
            ModelSpec::Rnn(_) => "rnn",
            ModelSpec::Lstm(_) => "lstm",
            ModelSpec::Gru(_) => "gru",
            ModelSpec::Transformer(_) => "transformer",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationSpec {
    Relu,
    Gelu,
    GeluTanh,
    Silu,
    Tanh,
    Sigmoid,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MlpSpec {
    pub hidden: Vec<usize>,
    pub activation: ActivationSpec,
    pub dropout: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CnnSpec {
    pub conv: Vec<ConvSpec>,
    pub global_pool: Option<PoolKind>,
    pub hidden: Vec<usize>,
    pub activation: ActivationSpec,
    pub dropout: f64,
}

/// One convolution: conv → norm → activation → pool. With `residual`, the input of the layer that opened
/// the block is added (through a 1×1 convolution where channels differ) before the activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvSpec {
    pub channels: usize,
    pub kernel: usize,
    pub stride: usize,
    /// `Some(0)` when the key is unset, as in PyTorch; none is `padding = "same"`:
    /// `(kernel - 1) * dilation` in all, half on each side, the odd one at the end.
    pub padding: Option<usize>,
    pub dilation: usize,
    pub groups: usize,
    pub norm: Option<ConvNorm>,
    /// Max pooling of this size and stride after the activation.
    pub pool: Option<usize>,
    /// This layer closes a residual block that spans this many layers, itself included.
    pub residual: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvNorm {
    Batch,
    Group,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    Avg,
    Max,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecurrentSpec {
    pub hidden_size: usize,
    pub num_layers: usize,
    pub bidirectional: bool,
    pub dropout: f64,
    pub head: RecurrentHead,
    /// Truncated back-propagation through time: the length of a piece (None: the whole sequence).
    pub bptt: Option<usize>,
    /// Size of the token embedding (None: `hidden_size`); for token inputs only.
    pub embedding_dim: Option<usize>,
    /// Tokens enter as one-hot vectors instead of a learned embedding.
    pub one_hot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecurrentHead {
    /// One answer from the last valid step.
    Last,
    /// One answer a step.
    Step,
    /// The next token at every step.
    Next,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransformerSpec {
    pub variant: TransformerVariant,
    pub d_model: usize,
    pub nhead: usize,
    pub num_encoder_layers: usize,
    pub num_decoder_layers: usize,
    pub dim_feedforward: usize,
    pub context: usize,
    pub positional: Positional,
    pub norm: NormKind,
    pub norm_first: bool,
    pub activation: ActivationSpec,
    pub bias: bool,
    pub tie_embeddings: bool,
    pub dropout: f64,
    pub layer_norm_eps: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformerVariant {
    Decoder,
    Encoder,
    EncoderDecoder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positional {
    Learned,
    Sinusoidal,
    Rope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    Layer,
    Rms,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Exactly one of `epochs` and `steps` is set.
    pub epochs: Option<usize>,
    pub steps: Option<usize>,
    /// Examples a micro-step.
    pub batch_size: usize,
    /// Micro-steps an optimiser step.
    pub accumulate: usize,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    pub grad_clip: Option<f64>,
    pub precision: PrecisionSpec,
    pub early_stopping: Option<EarlyStopping>,
    /// In optimiser steps; None: at the end of each epoch (or every 200 steps).
    pub checkpoint_every: Option<usize>,
    /// The newest checkpoints that stay when the job is done; None: 2. Row influence sums over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints_kept: Option<usize>,
    pub eval_every: Option<usize>,
    /// Training on changed inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robust: Option<RobustSpec>,
}

/// What a job's row keeps: the spec, and the folder that its paths are relative to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub spec: Spec,
    pub base_dir: std::path::PathBuf,
}

/// How training inputs are changed. Sizes are in the units in which the model's inputs are attacked: `pixel / scale`
/// of pictures, training standard deviations of tables and series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum RobustSpec {
    /// Every row is replaced by what PGD makes of it (Madry et al. 2018).
    Adversarial(PgdSpec),
    /// `cross-entropy + beta · KL(clean ‖ changed)` (Zhang et al. 2019).
    Trades {
        #[serde(flatten)]
        pgd: PgdSpec,
        beta: f64,
    },
    /// Normal noise of this standard deviation, as randomised smoothing wants it (Cohen et al. 2019).
    Noise { std: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgdSpec {
    pub norm: NormSpec,
    pub eps: f64,
    pub steps: usize,
    /// The length of a step, in units of eps.
    pub step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormSpec {
    Linf,
    L2,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// Plain or with momentum (`name = "momentum"` is `sgd` with momentum 0.9).
    Sgd {
        lr: f64,
        momentum: f64,
        dampening: f64,
        nesterov: bool,
        weight_decay: f64,
    },
    Adam {
        lr: f64,
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
    },
    Adamw {
        lr: f64,
        betas: [f64; 2],
        eps: f64,
        weight_decay: f64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum ScheduleSpec {
    Constant {
        warmup_steps: usize,
    },
    Linear {
        warmup_steps: usize,
        min_lr: f64,
    },
    Cosine {
        warmup_steps: usize,
        min_lr: f64,
    },
    /// The rate is multiplied by `gamma` every `step_size` optimiser steps.
    Step {
        warmup_steps: usize,
        step_size: usize,
        gamma: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionSpec {
    /// bf16 products where the processor has them, else f32.
    Auto,
    F32,
    Bf16,
}

/// Stops when `metric` has not improved in `patience` evaluations; the best step's weights are registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    pub metric: String,
    pub patience: usize,
    pub min_delta: f64,
}
