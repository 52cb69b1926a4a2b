//! `/v1/robustness/runs`, and the suite that `lyceum attack` reads: one grammar for both doors.

use super::predict::instances;
use super::{model_ref, with_documents};
use crate::error::ApiError;
use lyceum_kernels::cpu;
use lyceum_nn::Precision;
use lyceum_robust::attack::{Attack, FlagState, PgdLoss};
use lyceum_robust::certify::smooth::Smoothing;
use lyceum_robust::conformal::Score;
use lyceum_robust::corrupt::Severity;
use lyceum_robust::corrupt::audio::Noise;
use lyceum_robust::corrupt::image::Corruption;
use lyceum_robust::corrupt::table::Damage;
use lyceum_robust::corrupt::text::Perturbation;
use lyceum_robust::environments::Environment;
use lyceum_robust::{Norm, RobustError, Threat, calibrate};
use lyceum_service::background::Record;
use lyceum_service::robustness::calibration::{Members, PredictionSet};
use lyceum_service::robustness::certificate::{Certificate, Certify};
use lyceum_service::robustness::strange::Strange;
use lyceum_service::robustness::{
    AskedRows, FailedRow, Finding, Gate, Item, OodAsked, Plan, Promises, Run, SetAsked, default_suite,
};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use lyceum_types::manifest::CalibrationReport;
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
    /// How far any accuracy may be below that of `compare_to`.
    pub max_drop: f64,
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
            (Some(other), Some(gate)) => Some((model_ref(&other)?, gate.max_drop)),
            (None, None) => None,
            (Some(_), None) => return Err(missing("gate")()),
            (None, Some(_)) => return Err(missing("compare_to")()),
        };
        let suite = match self.suite {
            Some(items) => suite(&items)?,
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

/// The items of a suite. An attack without `norm` or `eps` takes those of the item before it.
pub fn suite(items: &[Value]) -> Result<Vec<Item>, ApiError> {
    if items.is_empty() || items.len() > limits::ROBUSTNESS_ITEMS_MAX {
        let message =
            format!("suite: {} items are not between 1 and {}", items.len(), limits::ROBUSTNESS_ITEMS_MAX);
        return Err(ApiError::field("suite", "invalid_value", message));
    }
    let mut last = (None, None);
    items.iter().enumerate().map(|(i, value)| item(i, value, &mut last)).collect()
}

type Last = (Option<Norm>, Option<f64>);

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum ItemBody {
    #[serde(rename = "fgsm")]
    Fgsm { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "pgd")]
    Pgd {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        step: Option<f64>,
        loss: Option<LossBody>,
    },
    #[serde(rename = "apgd-ce")]
    ApgdCe { norm: Option<NormBody>, eps: Option<f64>, steps: Option<u32>, restarts: Option<u32> },
    #[serde(rename = "apgd-t")]
    ApgdT {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        targets: Option<u32>,
    },
    #[serde(rename = "fab-t")]
    Fab {
        norm: Option<NormBody>,
        eps: Option<f64>,
        steps: Option<u32>,
        restarts: Option<u32>,
        targets: Option<u32>,
    },
    #[serde(rename = "square")]
    Square { norm: Option<NormBody>, eps: Option<f64>, queries: Option<u32>, restarts: Option<u32> },
    #[serde(rename = "autoattack")]
    AutoAttack { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "certificate")]
    Certificate { norm: Option<NormBody>, eps: Option<f64> },
    #[serde(rename = "smoothing")]
    Smoothing { sigma: f64, n: Option<u64>, n0: Option<u64>, alpha: Option<f64>, rows: Option<u32> },
    #[serde(rename = "corruptions")]
    Corruptions { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "text")]
    Text { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "tabular")]
    Tabular { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "audio")]
    Audio { only: Option<Vec<String>>, severities: Option<Vec<u64>> },
    #[serde(rename = "environments")]
    Environments { matrix: Option<Vec<String>> },
    #[serde(rename = "calibration")]
    Calibration { bins: Option<u32> },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NormBody {
    Linf,
    L2,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LossBody {
    Ce,
    Targeted,
}

fn item(i: usize, value: &Value, last: &mut Last) -> Result<Item, ApiError> {
    let place = format!("suite[{i}]");
    let wrong =
        |message: String| ApiError::field(place.clone(), "invalid_value", format!("{place}: {message}"));
    let body: ItemBody = serde_json::from_value(value.clone()).map_err(|error| wrong(error.to_string()))?;
    let robust = |error: RobustError| wrong(format!("{error}; {}", error.fix()));
    let mut threat = |norm: Option<NormBody>, eps: Option<f64>| {
        let norm = norm.map(|norm| match norm {
            NormBody::Linf => Norm::Linf,
            NormBody::L2 => Norm::L2,
        });
        last.0 = norm.or(last.0);
        last.1 = eps.or(last.1);
        match *last {
            (norm, Some(eps)) => Threat::new(norm.unwrap_or(Norm::Linf), eps).map_err(robust),
            (_, None) => Err(wrong("eps: is missing, and no item before it has one".into())),
        }
    };
    let count = |given: Option<u32>, default: usize| given.map_or(default, |n| n as usize);
    Ok(match body {
        ItemBody::Fgsm { norm, eps } => Item::Attack { threat: threat(norm, eps)?, attack: Attack::Fgsm },
        ItemBody::Pgd { norm, eps, steps, restarts, step, loss } => {
            let loss = match loss {
                None | Some(LossBody::Ce) => PgdLoss::CrossEntropy,
                Some(LossBody::Targeted) => PgdLoss::Targeted,
            };
            let (steps, restarts) = (count(steps, 40), count(restarts, 3));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::Pgd { steps, restarts, step, loss } }
        }
        ItemBody::ApgdCe { norm, eps, steps, restarts } => {
            let attack = Attack::ApgdCe { steps: count(steps, 100), restarts: count(restarts, 1) };
            Item::Attack { threat: threat(norm, eps)?, attack }
        }
        ItemBody::ApgdT { norm, eps, steps, restarts, targets } => {
            let (steps, restarts, targets) = (count(steps, 100), count(restarts, 1), count(targets, 9));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::ApgdT { steps, restarts, targets } }
        }
        ItemBody::Fab { norm, eps, steps, restarts, targets } => {
            let (steps, restarts, targets) = (count(steps, 100), count(restarts, 1), count(targets, 9));
            Item::Attack { threat: threat(norm, eps)?, attack: Attack::Fab { steps, restarts, targets } }
        }
        ItemBody::Square { norm, eps, queries, restarts } => {
            let attack = Attack::Square { queries: count(queries, 5000), restarts: count(restarts, 1) };
            Item::Attack { threat: threat(norm, eps)?, attack }
        }
        ItemBody::AutoAttack { norm, eps } => Item::AutoAttack { threat: threat(norm, eps)? },
        ItemBody::Certificate { norm, eps } => Item::Certificate { threat: threat(norm, eps)? },
        ItemBody::Smoothing { sigma, n, n0, alpha, rows } => Item::Smoothing {
            smoothing: Smoothing::new(sigma, n0.unwrap_or(100), n.unwrap_or(10_000), alpha.unwrap_or(0.001))
                .map_err(robust)?,
            rows: count(rows, 100),
        },
        ItemBody::Corruptions { only, severities } => Item::Corruptions {
            only: named(only, &Corruption::ALL, Corruption::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Text { only, severities } => Item::Text {
            only: named(only, &Perturbation::ALL, Perturbation::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Tabular { only, severities } => Item::Tabular {
            only: named(only, &Damage::ALL, Damage::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Audio { only, severities } => Item::Audio {
            only: named(only, &Noise::ALL, Noise::name).map_err(wrong)?,
            severities: levels(severities).map_err(robust)?,
        },
        ItemBody::Environments { matrix } => Item::Environments {
            matrix: match matrix {
                None => Environment::matrix(),
                Some(names) => environments(&place, &names)?,
            },
        },
        ItemBody::Calibration { bins } => Item::Calibration { bins: count(bins, calibrate::BINS) },
    })
}

fn named<T: Copy>(
    only: Option<Vec<String>>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Vec<T>, String> {
    let Some(only) = only else { return Ok(all.to_vec()) };
    let find = |text: &String| {
        let known = || all.iter().map(|&t| name(t)).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|&&t| name(t) == text);
        found.copied().ok_or_else(|| format!("only: \"{text}\" is none of {}", known()))
    };
    only.iter().map(find).collect()
}

fn levels(severities: Option<Vec<u64>>) -> Result<Vec<Severity>, RobustError> {
    match severities {
        None => Ok(Severity::ALL.to_vec()),
        Some(levels) => levels.into_iter().map(Severity::new).collect(),
    }
}

/// `f32`, `bf16`, `batch:1`, `avx2`, or several of them with spaces; what is not said is as the model is served,
/// which always comes first.
fn environments(place: &str, names: &[String]) -> Result<Vec<Environment>, ApiError> {
    let served = Environment { path: cpu::path(), precision: Precision::F32, batch: 32 };
    let mut matrix = vec![served];
    for name in names {
        let mut environment = served;
        for word in name.split_whitespace() {
            let path = cpu::available().iter().find(|path| path.name() == word);
            match (word, path, word.strip_prefix("batch:").map(str::parse::<usize>)) {
                ("f32", ..) => environment.precision = Precision::F32,
                ("bf16", ..) => environment.precision = Precision::Bf16,
                (_, Some(path), _) => environment.path = *path,
                (_, _, Some(Ok(batch))) if (1..=1024).contains(&batch) => environment.batch = batch,
                ("q8_0" | "q4_0" | "int8" | "int4", ..) => {
                    let message =
                        format!("{place}.matrix: quantised weights ({word}) are not in this version");
                    return Err(ApiError::not_implemented(format!("{place}.matrix"), message));
                }
                _ => {
                    let paths: Vec<&str> = cpu::available().iter().map(|path| path.name()).collect();
                    let message = format!(
                        "{place}.matrix: \"{word}\" is none of f32, bf16, batch:N, {} on this machine",
                        paths.join(", ")
                    );
                    return Err(ApiError::field(format!("{place}.matrix"), "invalid_value", message));
                }
            }
        }
        if !matrix.contains(&environment) {
            matrix.push(environment);
        }
    }
    Ok(matrix)
}

/// A certificate by randomised smoothing (Cohen et al. 2019).
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Certify)]
pub struct CertifyBody {
    /// The noise's standard deviation, in the unit that the answer names.
    pub sigma: f64,
    /// Samples a row; 1000 where it is not said.
    pub n: Option<u64>,
    /// How likely the certificate may be wrong; 0.001 where it is not said.
    pub alpha: Option<f64>,
    #[serde(default)]
    pub seed: u64,
}

/// A set of labels, or an interval, that holds the truth with probability `1 - alpha`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PredictionSetRequest)]
pub struct PredictionSetBody {
    pub alpha: f64,
    /// `lac` (small sets, the default) or `aps` (sets that are larger for harder rows).
    pub score: Option<ScoreBody>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PredictionSetScore)]
pub enum ScoreBody {
    Lac,
    Aps,
}

/// What a request wants to be promised.
pub fn promises(certify: Option<CertifyBody>, set: Option<PredictionSetBody>, ood: Option<bool>) -> Promises {
    Promises {
        ood: if ood == Some(true) { OodAsked::Yes } else { OodAsked::No },
        certify: certify.map(|body| Certify {
            sigma: body.sigma,
            n: body.n.unwrap_or(1000),
            alpha: body.alpha.unwrap_or(0.001),
            seed: body.seed,
        }),
        prediction_set: set.map(|body| SetAsked {
            alpha: body.alpha,
            score: match body.score {
                None | Some(ScoreBody::Lac) => Score::Lac,
                Some(ScoreBody::Aps) => Score::Aps,
            },
        }),
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Certificate)]
pub struct CertificateBody {
    /// The smoothed classifier's class; null where it abstained.
    pub class: Option<String>,
    /// No row within it (Euclidean, in `unit`) has another class of the smoothed classifier.
    pub radius: f64,
    pub abstained: bool,
    /// The lower bound of the class's probability under the noise.
    pub p_lower: f64,
    pub unit: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PredictionSet)]
pub struct SetBody {
    /// Likeliest first; of a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// One for each number of the answer; of a regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Vec<[f64; 2]>>,
    pub alpha: f64,
    pub n_calibration: usize,
    pub score: &'static str,
    /// What is promised, and what not.
    pub guarantee: String,
}

/// A temperature that is part of the version's weights.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Calibration)]
pub struct CalibrationBody {
    pub method: String,
    pub temperature: f64,
    /// Validation rows that it was fitted on.
    pub n: u64,
    /// The version that was calibrated.
    pub parent: String,
}

impl From<CalibrationReport> for CalibrationBody {
    fn from(report: CalibrationReport) -> Self {
        let CalibrationReport { method, temperature, n, parent, .. } = report;
        CalibrationBody { method, temperature, n, parent }
    }
}

/// How unlike the training rows an input is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OutOfDistribution)]
pub struct OodBody {
    /// Of a table: 1 less the Bonferroni-corrected share of training rows whose strangest feature is as far out.
    pub ood_score: Option<f64>,
    /// That feature, and the share of training rows at least as far out in it.
    pub feature: Option<String>,
    pub tail: Option<f64>,
    /// Of a classifier: the share of validation rows at least as strange by energy (small: strange).
    pub energy_p_value: Option<f64>,
    /// The same by the likeliest class's probability.
    pub max_probability_p_value: Option<f64>,
    pub n_reference: Option<usize>,
}

impl From<Strange> for OodBody {
    fn from(strange: Strange) -> Self {
        let (features, logits) = (strange.features, strange.logits);
        OodBody {
            ood_score: features.as_ref().map(|f| f.score),
            tail: features.as_ref().map(|f| f.tail),
            feature: features.map(|f| f.feature),
            energy_p_value: logits.map(|l| l.energy_p),
            max_probability_p_value: logits.map(|l| l.max_probability_p),
            n_reference: logits.map(|l| l.n_reference),
        }
    }
}

impl From<Certificate> for CertificateBody {
    fn from(certificate: Certificate) -> Self {
        CertificateBody {
            abstained: certificate.class.is_none(),
            class: certificate.class,
            radius: certificate.radius,
            p_lower: certificate.p_lower,
            unit: certificate.unit,
        }
    }
}

impl From<PredictionSet> for SetBody {
    fn from(set: PredictionSet) -> Self {
        let (labels, intervals) = match set.members {
            Members::Labels(labels) => (Some(labels), None),
            Members::Intervals(intervals) => (None, Some(intervals)),
        };
        SetBody {
            labels,
            intervals,
            alpha: set.alpha,
            n_calibration: set.n_calibration,
            score: set.score,
            guarantee: set.guarantee,
        }
    }
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
        "n_failures": null, "not_evaluated": null,
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

fn gate_body(gate: &Gate) -> Value {
    let difference = |(metric, value): &(String, f64)| json!({"metric": metric, "difference": value});
    json!({
        "compare_to": gate.compared_to, "max_drop": gate.max_drop, "passed": gate.passed,
        "differences": gate.differences.iter().map(difference).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(items: Value) -> String {
        suite(items.as_array().unwrap()).unwrap_err().detail.message
    }

    #[test]
    fn a_suite_is_read_and_an_item_takes_the_threat_of_the_one_before() {
        let items = json!([
            {"type": "pgd", "norm": "l2", "eps": 0.5, "steps": 40, "restarts": 5},
            {"type": "square", "queries": 100},
            {"type": "corruptions", "only": ["blur"], "severities": [3]},
            {"type": "smoothing", "sigma": 0.25, "n": 1000, "alpha": 0.001},
            {"type": "environments", "matrix": ["f32", "bf16 batch:1", "portable"]},
            {"type": "calibration"}
        ]);
        let found = suite(items.as_array().unwrap()).unwrap();
        let threat = Threat::new(Norm::L2, 0.5).unwrap();
        assert_eq!(found[1], Item::Attack { threat, attack: Attack::Square { queries: 100, restarts: 1 } });
        let Item::Environments { matrix } = &found[4] else { panic!("environments") };
        assert!(matrix.len() >= 2 && matrix[1].precision == Precision::Bf16);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (items, want) in [
            (json!([]), "suite: 0 items"),
            (json!([{"type": "square"}]), "suite[0]: eps: is missing"),
            (json!([{"type": "pgd", "eps": -1.0}]), "suite[0]: eps: -1 is not above 0"),
            (json!([{"type": "pgd", "eps": 0.1, "step_size": 1}]), "unknown field `step_size`"),
            (json!([{"type": "cw", "eps": 0.1}]), "unknown variant `cw`"),
            (json!([{"type": "corruptions", "only": ["fog"]}]), "\"fog\" is none of gaussian_noise"),
            (json!([{"type": "corruptions", "severities": [6]}]), "severity: 6 is not in 1..=5"),
            (json!([{"type": "smoothing", "sigma": 0.0}]), "sigma: 0 is not above 0"),
            (json!([{"type": "environments", "matrix": ["gpu"]}]), "\"gpu\" is none of"),
        ] {
            let message = refused(items);
            assert!(message.contains(want), "{message}");
        }
        let error = suite(&[json!({"type": "environments", "matrix": ["q8_0"]})]).unwrap_err();
        assert_eq!(error.status.as_u16(), 501);
    }
}
