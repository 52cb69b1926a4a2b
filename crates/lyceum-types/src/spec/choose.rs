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
