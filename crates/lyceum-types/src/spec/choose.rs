//! What `lyceum choose` reads: data as in a job spec, candidates or `auto`, limits, and a budget.
//!
//! ```toml
//! name = "digits"
//! task = "classification"
//! seeds = 5
//! candidates = [{ family = "mlp", hidden = [] }, { name = "wide", family = "mlp", hidden = [256] }]
//! [data]                    # as in a job spec; `test` is opened once, for the winner
//! train = "digits.csv"
//! valid_fraction = 0.25     # or folds = 5
//! [limits]
//! parameters = 10_000
//! [budget]
//! minutes = 3
//! ```

use super::{DataSpec, ModelSpec, Task, TrainSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seeds of each finalist when the document does not say: fewer say little about a net.
pub const SEEDS_DEFAULT: usize = 5;
/// Clients of the second measurement of latency.
pub const CONCURRENCY_DEFAULT: usize = 8;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChooseSpec {
    /// The winner's name.
    pub name: String,
    pub task: Task,
    /// The first seed, which also parts the rows.
    pub seed: u64,
    /// How many seeds each finalist is trained with.
    pub seeds: usize,
    pub data: DataSpec,
    /// How candidates are trained that do not say it themselves; None: as their family usually is.
    pub train: Option<TrainSpec>,
    pub candidates: Candidates,
    /// Language models that exist already, behind those that are trained here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<Imported>,
    /// What language models are asked of a labelled text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// What answers of models that write texts are compared by; None where labels are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<AnswerMetric>,
    pub limits: Limits,
    pub budget_minutes: f64,
    pub usd_per_cpu_hour: Option<f64>,
    /// Clients that ask at once in the second measurement of latency.
    pub concurrency: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidates {
    /// The families that can read the data, in usual sizes.
    Auto,
    Listed(Vec<Candidate>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub name: String,
    pub model: ModelSpec,
    pub train: Option<TrainSpec>,
}

/// A language model of the project (or one that is shared with it), an adapter or a fine-tune of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    pub name: String,
    /// `name`, `name@3` or `name@alias`.
    pub model: String,
    /// Training rows that are shown with their labels before a text is asked about; 0: none.
    pub shots: usize,
    /// What this one is asked; None: the document's question.
    pub instructions: Option<String>,
}

/// One question about every labelled text, as `POST /v1/decisions` asks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub instructions: String,
    /// What labels mean, by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub descriptions: BTreeMap<String, String>,
}

/// What answers of models that write texts are compared by, row for row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerMetric {
    /// The likeliest answer is the reference, token for token, its end included.
    ExactMatch,
    /// The share of the reference's tokens that were the likeliest where they stand.
    TokenAccuracy,
    /// e to the mean over rows of a row's nats a token.
    Perplexity,
}

/// What a model must keep to; None: no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// With one client.
    pub latency_ms_p95: Option<f64>,
    pub ram_bytes: Option<u64>,
    pub parameters: Option<u64>,
    /// Floating-point operations of one answer.
    pub operations: Option<u64>,
    pub explainability: Option<Explainability>,
    pub epsilon_max: Option<f64>,
    pub usd_per_1k: Option<f64>,
    /// The least accuracy under the row's attack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robust_accuracy: Option<f64>,
}

/// How well answers must be explainable, weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Explainability {
    /// Some method's attributions were measured to be more faithful than random ones.
    Faithful,
    /// Some method attributes without sampling or approximation.
    Exact,
}

impl Explainability {
    /// The name as the document writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Explainability::Faithful => "faithful",
            Explainability::Exact => "exact",
        }
    }
}

/// What a candidate is called that has no name: its family and sizes.
pub fn usual_name(model: &ModelSpec) -> String {
    let sizes = |sizes: &[usize]| sizes.iter().map(|n| format!("-{n}")).collect::<String>();
    match model {
        ModelSpec::Mlp(mlp) if mlp.hidden.is_empty() => "linear".into(),
        ModelSpec::Mlp(mlp) => format!("mlp{}", sizes(&mlp.hidden)),
        ModelSpec::Cnn(cnn) => {
            let channels: Vec<usize> = cnn.conv.iter().map(|layer| layer.channels).collect();
            format!("cnn{}", sizes(&channels))
        }
        ModelSpec::Rnn(spec) | ModelSpec::Lstm(spec) | ModelSpec::Gru(spec) => {
            let layers = if spec.num_layers > 1 { format!("x{}", spec.num_layers) } else { String::new() };
            let both = if spec.bidirectional { "-bi" } else { "" };
            format!("{}-{}{layers}{both}", model.family(), spec.hidden_size)
        }
        ModelSpec::Transformer(spec) => {
            format!("transformer-{}x{}", spec.d_model, spec.num_encoder_layers.max(spec.num_decoder_layers))
        }
    }
}
