//! `/v1/robustness/runs`: what is asked and what was found. [`suite`] is the grammar of a suite; what single requests want to
//! be promised stands in [`promises`](super::promises).

pub mod suite;

use super::predict::instances;
use super::{model_ref, with_documents};
use crate::error::ApiError;
use lyceum_robust::attack::FlagState;
use lyceum_service::background::Record;
use lyceum_service::robustness::{AskedRows, FailedRow, Finding, Gate, Item, Plan, Run, default_suite};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RobustnessRunRequest)]
pub struct Body {
    pub model: String,
    /// Rows as in `:predict`, at most 4096. Of a language model texts, at most 512: a text, `{"prompt", "answer"}` or
    /// `{"messages"}`.
    pub instances: Option<Vec<Value>>,
    /// The right label of each row of `instances`.
    pub labels: Option<Vec<String>>,
    /// In the place of both: the id of a file of `/v1/files` with labelled rows, in the format that the model was
    /// trained on; at most 64 MiB. Of a language model a text a line, or such objects in a file called `.jsonl`.
    pub data: Option<String>,
    /// Only the first so many rows of `data`; a file with more than 4096 needs it.
    pub rows: Option<usize>,
    /// What to run, in this order; without it PGD with 40 steps and 3 restarts, L∞ 0.1; of a language model `environments`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub suite: Option<Vec<Value>>,
    #[serde(default)]
    pub seed: u64,
    /// Another model that gets the same rows and suite.
    pub compare_to: Option<String>,
    pub gate: Option<GateBody>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RobustnessGate)]
pub struct GateBody {
    /// How far any accuracy may be below that of `compare_to`; of language models token agreement, and the share of
    /// attacks that they resist.
    pub max_drop: Option<f64>,
    /// Of a language model: the largest share of chats in which an attack may succeed.
    pub max_attack_success: Option<f64>,
    /// Of a language model: the smallest token agreement of an environment.
    pub min_agreement: Option<f64>,
}

/// A request that cannot be malformed.
pub struct Request {
    pub model: ModelRef,
    pub rows: AskedRows,
    pub suite: Vec<Item>,
    pub seed: u64,
    pub compare: Option<(ModelRef, f64)>,
}

impl Body {
    pub fn parse(self) -> Result<Request, ApiError> {
        let missing = |field: &'static str| {
            move || ApiError::field(field, "missing_required_parameter", format!("{field}: is missing"))
        };
        let rows = match self.data {
            None if self.rows.is_some() => {
                let message = "rows: is of the file that data names, and there is none";
                return Err(ApiError::field("rows", "invalid_value", message));
            }
            None => {
                let instances = self.instances.ok_or_else(missing("instances"))?;
                inline(instances, self.labels.ok_or_else(missing("labels"))?)?
            }
            Some(_) if self.instances.is_some() || self.labels.is_some() => {
                let message = "data: stands beside instances or labels; a run takes its rows from one place";
                return Err(ApiError::field("data", "invalid_value", message));
            }
            Some(id) => {
                if self.rows.is_some_and(|n| n == 0 || n > limits::ROBUSTNESS_ROWS_MAX) {
                    let message = format!("rows: must be between 1 and {}", limits::ROBUSTNESS_ROWS_MAX);
                    return Err(ApiError::field("rows", "invalid_value", message));
                }
                AskedRows::File { id, first: self.rows }
            }
        };
        let compare = match (self.compare_to, self.gate) {
            (
                Some(_),
                Some(GateBody { max_attack_success: Some(_), .. } | GateBody { min_agreement: Some(_), .. }),
            ) => {
                let message = "gate: max_attack_success and min_agreement are bounds of language models";
                return Err(ApiError::field("gate", "unsupported_parameter", message));
            }
            (Some(other), Some(gate)) => {
                Some((model_ref(&other)?, gate.max_drop.ok_or_else(missing("gate.max_drop"))?))
            }
            (None, None) => None,
            (Some(_), None) => return Err(missing("gate")()),
            (None, Some(_)) => return Err(missing("compare_to")()),
        };
        let suite = match self.suite {
            Some(items) => suite::items(&items)?,
            None => default_suite()?,
        };
        Ok(Request { model: model_ref(&self.model)?, rows, suite, seed: self.seed, compare })
    }
}

fn inline(rows: Vec<Value>, labels: Vec<String>) -> Result<AskedRows, ApiError> {
    let n = rows.len();
    if n == 0 || n > limits::ROBUSTNESS_ROWS_MAX || labels.len() != n {
        let message = format!(
            "instances: {n} rows with {} labels; a run takes 1 to {} rows, each with one label",
            labels.len(),
            limits::ROBUSTNESS_ROWS_MAX
        );
        return Err(ApiError::field("instances", "invalid_value", message));
    }
    Ok(AskedRows::Inline { rows: instances(rows)?, labels })
}
/// A run of the command line, which waits for it: the request and the result in one document.
#[derive(Debug, Serialize)]
pub struct RunBody {
    /// `robustness.run`
    object: &'static str,
    id: String,
    created_at: i64,
    /// `completed`
    status: &'static str,
    model: String,
    model_sha256: String,
    /// What one unit of eps, sigma and distance is.
    unit: Option<String>,
    n: usize,
    seed: u64,
    results: Vec<Value>,
    /// AutoAttack's five signs that a robust accuracy may be an illusion.
    flags: Vec<Value>,
    gate: Option<Value>,
    /// Rows that an attack changed so that the answer changed.
    failures: Vec<Value>,
    not_evaluated: Vec<String>,
}

impl RunBody {
    pub fn new(id: &str, created_at: i64, run: &Run, gate: Option<&Gate>) -> Self {
        RunBody {
            object: "robustness.run",
            id: id.to_owned(),
            created_at,
            status: "completed",
            model: run.model.clone(),
            model_sha256: run.sha256.clone(),
            unit: run.unit.clone(),
            n: run.n,
            seed: run.seed,
            results: run.findings.iter().map(finding).collect(),
            flags: run.signs.iter().map(sign).collect(),
            gate: gate.map(gate_body),
            failures: run.failures.iter().map(failure).collect(),
            not_evaluated: run.not_evaluated.clone(),
        }
    }
}

/// A run as its document stands; what was found is null until it is `completed`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RobustnessRun)]
pub struct RunRecordBody {
    /// `robustness.run`
    object: String,
    id: String,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    /// `queued`, `in_progress`, `completed`, `failed` or `cancelled`
    status: String,
    /// `{"code", "message"}` of a run that failed.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    /// The version that is tried: `name@3`.
    model: String,
    compare_to: Option<String>,
    /// The file that its rows are of; null: they came with the request.
    data: Option<String>,
    n: usize,
    seed: u64,
    model_sha256: Option<String>,
    /// What one unit of eps, sigma and distance is; null for texts.
    unit: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<Vec<Value>>,
    /// AutoAttack's five signs that a robust accuracy may be an illusion.
    #[schema(value_type = Option<Vec<Object>>)]
    flags: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    gate: Option<Value>,
    /// Of language models: what was found of `compare_to`.
    #[schema(value_type = Option<Vec<Object>>)]
    compared_results: Option<Vec<Value>>,
    /// Rows that an attack changed so that the answer changed: `GET /v1/robustness/runs/{id}/failures`.
    n_failures: Option<usize>,
    not_evaluated: Option<Vec<String>>,
}

/// What was asked, as [`record_body`] shows it.
pub fn request_body(plan: &Plan, data: Option<&str>, seed: u64) -> Value {
    let (model, compare_to) = plan.models();
    json!({"model": model, "compare_to": compare_to, "data": data, "n": plan.n(), "seed": seed})
}

/// What was found, as [`record_body`] shows it.
pub fn result_body(run: &Run, gate: Option<&Gate>) -> Value {
    json!({
        "model_sha256": run.sha256, "unit": run.unit, "results": run.findings.iter().map(finding).collect::<Vec<_>>(),
        "flags": run.signs.iter().map(sign).collect::<Vec<_>>(), "gate": gate.map(gate_body),
        "n_failures": run.failures.len(), "not_evaluated": run.not_evaluated,
    })
}

/// The failed rows, a line each.
pub fn lines(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    for failed in &run.failures {
        out.extend(failure(failed).to_string().into_bytes());
        out.push(b'\n');
    }
    out
}

pub fn record_body(record: &Record) -> Value {
    let body = json!({
        "object": "robustness.run", "id": record.id, "created_at": record.created_at,
        "started_at": record.started_at, "finished_at": record.finished_at, "status": record.status.as_str(),
        "error": record.error, "data": null, "model_sha256": null, "unit": null, "results": null, "flags": null, "gate": null,
        "compared_results": null, "n_failures": null, "not_evaluated": null,
    });
    with_documents(body, record)
}

/// A list of runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RobustnessRunList)]
pub struct RunRecordList {
    pub object: &'static str,
    #[schema(value_type = Vec<RunRecordBody>)]
    pub data: Vec<Value>,
}

fn sign(flag: &lyceum_robust::attack::Flag) -> Value {
    let state = match flag.state {
        FlagState::Clear => "clear",
        FlagState::Raised => "raised",
        FlagState::NotEvaluated => "not_evaluated",
    };
    json!({"name": flag.name, "state": state, "detail": flag.detail})
}

fn failure(failed: &FailedRow) -> Value {
    json!({
        "row": failed.row, "method": failed.method, "setting": failed.setting, "label": failed.label,
        "answer": failed.answer, "distance": failed.distance, "adversarial": failed.adversarial,
    })
}

pub(super) fn finding(finding: &Finding) -> Value {
    json!({
        "metric": finding.metric, "method": finding.method, "setting": finding.setting, "value": finding.value,
        "ci95": finding.ci95, "n": finding.n, "budget": finding.budget, "flags": finding.flags,
    })
}

pub(super) fn gate_body(gate: &Gate) -> Value {
    let difference = |(metric, value): &(String, f64)| json!({"metric": metric, "difference": value});
    json!({
        "compare_to": gate.compared_to, "max_drop": gate.max_drop, "passed": gate.passed,
        "differences": gate.differences.iter().map(difference).collect::<Vec<_>>(), "missing": gate.missing,
    })
}
