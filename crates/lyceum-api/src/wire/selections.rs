//! The shape of `POST /v1/model_selections` in the document. It is read by the parser of `lyceum choose`, so that both
//! doors have the same grammar and the same words for what is wrong.

use serde_json::Value;
use utoipa::ToSchema;

#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the parser of job specs reads it; this is its shape in the document")]
pub struct SelectionRequest {
    /// `classification`, `regression`, `forecasting`, or of language models that exist `language_modeling`
    pub task: String,
    /// The id of a file (`file_…`; its name says the format), or what `[data]` of a job spec has, with ids of files for
    /// `train`, `valid` and `test`. With the id alone a quarter of the rows is held out to compare on.
    pub data: Value,
    /// The column to predict, where `data` is an id.
    pub target: Option<Value>,
    /// `auto`: the families that can read the data; or models as in `[model]`, each with its own `name` and `train`; and
    /// language models that exist: `{"model": "name@alias", "shots": 4, "instructions": "…"}`.
    pub candidates: Value,
    /// `latency_ms_p95`, `ram_bytes`, `parameters`, `operations`, `explainability`, `epsilon_max`, `usd_per_1k`,
    /// `robust_accuracy`
    pub limits: Option<Value>,
    /// What language models are asked of each text: `{"instructions": "…", "descriptions": {"label": "what it means"}}`
    pub question: Option<Value>,
    /// Of `language_modeling`: `exact_match`, `token_accuracy` or `perplexity`
    pub metric: Option<String>,
    /// `{"minutes": 3}`
    pub budget: Value,
    /// The winner's name.
    pub name: Option<String>,
    /// The first seed, and how many seeds each finalist is trained with.
    pub seed: Option<u64>,
    pub seeds: Option<u64>,
    /// How candidates are trained that do not say it themselves.
    pub train: Option<Value>,
    /// `{"usd_per_cpu_hour": 0.05}`
    pub prices: Option<Value>,
    /// Clients that ask at once in the second measurement of latency.
    pub concurrency: Option<u64>,
}
