//! `/v1/fine_tuning/jobs`, as OpenAI's, with `method.type` `train` and `lora` beside its hyperparameters.

use crate::error::ApiError;
use crate::wire::{check_metadata, robust_language, robustness, unsupported};
use lyceum_service::fine_tuning::events::{self, Checkpoint, Event};
use lyceum_service::fine_tuning::{
    Ask, Bill, Hyperparameters, Labels, Lora, Method, Query, State, Suites, Training,
};
use lyceum_service::usage::UNIT;
use lyceum_types::ids::JobId;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Suites of gates, as robustness runs have them.
pub const SUITES: Suites = Suites {
    rows: |items| robustness::suite::items(items).map_err(ApiError::into_refusal),
    texts: |items| robust_language::suite(items).map_err(ApiError::into_refusal),
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFineTuningJob {
    /// An imported language model or an adapter of one; with `method.type` `train` also a family as `mlp`.
    pub model: String,
    /// The id of a file.
    pub training_file: String,
    pub validation_file: Option<String>,
    pub method: Option<FineTuningMethod>,
    /// As `method.supervised.hyperparameters`, where there is no `method`.
    #[schema(value_type = Option<Object>)]
    pub hyperparameters: Option<Map<String, Value>>,
    /// Up to 64 letters, digits, `.`, `_` and `-`, in the tuned model's name.
    pub suffix: Option<String>,
    pub seed: Option<u64>,
    pub metadata: Option<BTreeMap<String, String>>,
    /// As `[privacy]` of a job spec: `{"type": "dp_sgd", "target_epsilon": 8, "target_delta": 1e-5, "max_grad_norm": 1.0,
    /// "unit": {"type": "example"}, "accountant": "pld", "audit": {"canaries": 1000}}`.
    #[schema(value_type = Option<Object>)]
    pub privacy: Option<Map<String, Value>>,
    /// As `[gate]` of a job spec, with ids of files in `data` and `texts`: `{"max_rise": 0.02, "data": "file_…"}` of a
    /// fine-tuning. What it tries is billed as passes.
    #[schema(value_type = Option<Object>)]
    pub gate: Option<Map<String, Value>>,
    /// Refused: there are none.
    #[schema(value_type = Option<Vec<Object>>)]
    pub integrations: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FineTuningMethod {
    /// `supervised`, `dpo` or `train`
    #[serde(rename = "type")]
    pub kind: String,
    /// `hyperparameters` (`n_epochs`, `batch_size`, `learning_rate_multiplier`: numbers or `auto`) and `lora`: as
    /// `model.lora` of a job spec, or false: every weight is learnt.
    #[schema(value_type = Option<Object>)]
    pub supervised: Option<Map<String, Value>>,
    /// The same, with `hyperparameters.beta`.
    #[schema(value_type = Option<Object>)]
    pub dpo: Option<Map<String, Value>>,
    /// `spec`: a job spec as `lyceum train` reads it, with ids of files in the place of paths, also in its `gate`.
    #[schema(value_type = Option<Object>)]
    pub train: Option<Map<String, Value>>,
    /// Refused: not in this version.
    #[schema(value_type = Option<Object>)]
    pub reinforcement: Option<Map<String, Value>>,
}

impl CreateFineTuningJob {
    pub fn parse(self) -> Result<Ask, ApiError> {
        if self.integrations.is_some_and(|integrations| !integrations.is_empty()) {
            return Err(unsupported("integrations", "the job's events have its metrics"));
        }
        check_metadata(self.metadata.as_ref())?;
        if let Some(suffix) = &self.suffix {
            let is_plain = suffix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
            if !is_plain || suffix.len() > limits::SUFFIX_CHARS_MAX {
                let message = "suffix: up to 64 letters, digits, '.', '_' and '-'";
                return Err(ApiError::field("suffix", "invalid_value", message));
            }
        }
        super::model_ref(&self.model)?;
        let method = match (self.method, self.hyperparameters) {
            (Some(_), Some(_)) => {
                let message = "hyperparameters: stands beside method, which has its own";
                return Err(ApiError::field("hyperparameters", "contradiction", message));
            }
            (None, hyperparameters) => {
                let mut fields = hyperparameters.unwrap_or_default();
                let hyperparameters = common(&mut fields, "hyperparameters")?;
                nothing_else(&fields, "hyperparameters")?;
                Method::Supervised { hyperparameters, lora: Lora::Auto }
            }
            (Some(method), None) => method.parse()?,
        };
        Ok(Ask {
            model: self.model,
            training_file: self.training_file,
            validation_file: self.validation_file,
            method,
            suffix: self.suffix.filter(|suffix| !suffix.is_empty()),
            seed: self.seed.unwrap_or_else(drawn),
            metadata: self.metadata.unwrap_or_default(),
            privacy: self.privacy,
            gate: self.gate,
        })
    }
}

/// A seed that nobody said.
fn drawn() -> u64 {
    // The low bits of such an id are random.
    u64::from(uuid::Uuid::now_v7().as_u128() as u32 >> 1)
}

impl FineTuningMethod {
    fn parse(self) -> Result<Method, ApiError> {
        let FineTuningMethod { kind, supervised, dpo, train, reinforcement } = self;
        if kind == "reinforcement" || reinforcement.is_some() {
            let message =
                "method.type: reinforcement is not in this version; there are supervised, dpo and train";
            return Err(ApiError::not_implemented("method.type", message));
        }
        let tables = [("supervised", supervised), ("dpo", dpo), ("train", train)];
        let mut own = Map::new();
        for (name, table) in tables {
            match table {
                Some(table) if name == kind => own = table,
                Some(_) => {
                    let param = format!("method.{name}");
                    let message = format!("{param}: the method's type is {kind}");
                    return Err(ApiError::field(param, "contradiction", message));
                }
                None => {}
            }
        }
        match kind.as_str() {
            "supervised" => {
                let (hyperparameters, lora) = tuned(own, "method.supervised", None)?;
                Ok(Method::Supervised { hyperparameters, lora })
            }
            "dpo" => {
                let mut beta = None;
                let (hyperparameters, lora) = tuned(own, "method.dpo", Some(&mut beta))?;
                Ok(Method::Dpo { hyperparameters, beta, lora })
            }
            "train" => {
                let spec = own.remove("spec");
                nothing_else(&own, "method.train")?;
                match spec {
                    Some(Value::Object(spec)) => Ok(Method::Train { spec }),
                    None => {
                        let message = "method.train.spec: the job spec is missing";
                        Err(ApiError::field("method.train.spec", "missing_required_parameter", message))
                    }
                    Some(_) => {
                        let message = "method.train.spec: must be an object";
                        Err(ApiError::field("method.train.spec", "invalid_type", message))
                    }
                }
            }
            _ => {
                let message = "method.type: there are supervised, dpo and train";
                Err(ApiError::field("method.type", "invalid_value", message))
            }
        }
    }
}

/// `hyperparameters` and `lora` of a method; `beta` where it has one.
fn tuned(
    mut own: Map<String, Value>,
    place: &str,
    beta: Option<&mut Option<f64>>,
) -> Result<(Hyperparameters, Lora), ApiError> {
    let at = |key: &str| format!("{place}.{key}");
    let lora = match own.remove("lora") {
        None | Some(Value::Null) => Lora::Auto,
        Some(Value::Bool(false)) => Lora::Whole,
        Some(Value::Object(lora)) => Lora::As(lora),
        Some(_) => {
            let message = format!("{}: must be an object as {{\"rank\": 8}}, or false", at("lora"));
            return Err(ApiError::field(at("lora"), "invalid_type", message));
        }
    };
    let mut fields = match own.remove("hyperparameters") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(_) => {
            let message = format!("{}: must be an object", at("hyperparameters"));
            return Err(ApiError::field(at("hyperparameters"), "invalid_type", message));
        }
    };
    nothing_else(&own, place)?;
    let place = at("hyperparameters");
    let hyperparameters = common(&mut fields, &place)?;
    if let Some(beta) = beta {
        *beta = number(&mut fields, &place, "beta", (1e-6, 1e3))?;
    }
    nothing_else(&fields, &place)?;
    Ok((hyperparameters, lora))
}

fn common(fields: &mut Map<String, Value>, place: &str) -> Result<Hyperparameters, ApiError> {
    Ok(Hyperparameters {
        n_epochs: whole(fields, place, "n_epochs")?,
        batch_size: whole(fields, place, "batch_size")?,
        learning_rate_multiplier: number(fields, place, "learning_rate_multiplier", (1e-6, 1e6))?,
    })
}

/// A number, or `auto`.
fn number(
    fields: &mut Map<String, Value>,
    place: &str,
    key: &str,
    (min, max): (f64, f64),
) -> Result<Option<f64>, ApiError> {
    let param = format!("{place}.{key}");
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word == "auto" => Ok(None),
        Some(value) => match value.as_f64() {
            Some(value) => super::within(&param, value, min, max).map(Some),
            None => {
                let message = format!("{param}: must be a number or \"auto\"");
                Err(ApiError::field(param, "invalid_type", message))
            }
        },
    }
}

fn whole(fields: &mut Map<String, Value>, place: &str, key: &str) -> Result<Option<u64>, ApiError> {
    let param = format!("{place}.{key}");
    match fields.get(key) {
        Some(Value::Number(value)) if value.as_u64().is_none() => {
            Err(ApiError::field(param.clone(), "invalid_type", format!("{param}: must be a whole number")))
        }
        _ => Ok(number(fields, place, key, (1.0, 1e6))?.map(|value| value as u64)),
    }
}

fn nothing_else(fields: &Map<String, Value>, place: &str) -> Result<(), ApiError> {
    let Some(key) = fields.keys().next() else { return Ok(()) };
    let shown: String = key.chars().take(64).collect();
    let param = format!("{place}.{shown}");
    let message = format!("{param}: there is no such field");
    Err(ApiError::field(param, "unknown_parameter", message))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningJob {
    pub id: String,
    /// `fine_tuning.job`
    pub object: &'static str,
    pub created_at: i64,
    pub finished_at: Option<i64>,
    pub model: String,
    /// What requests name; null until it is there.
    pub fine_tuned_model: Option<String>,
    pub organization_id: String,
    /// `queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`; files are judged before there is a job.
    pub status: &'static str,
    /// With every value that was left to the program.
    #[schema(value_type = Object)]
    pub hyperparameters: Value,
    #[schema(value_type = Object)]
    pub method: Value,
    pub training_file: String,
    pub validation_file: Option<String>,
    /// When it is done, a CSV file: `step`, `train_loss`, of supervised fine-tuning `train_mean_token_accuracy`, and what
    /// was measured of the validation part.
    pub result_files: Vec<String>,
    /// Tokens in the examples of all steps that were taken; null until it has ended.
    pub trained_tokens: Option<u64>,
    pub error: Option<FineTuningError>,
    pub seed: u64,
    pub estimated_finish: Option<i64>,
    #[schema(value_type = Vec<Object>)]
    pub integrations: Vec<Value>,
    pub metadata: BTreeMap<String, String>,
    pub lyceum: Extension,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningError {
    pub code: &'static str,
    pub message: String,
    pub param: Option<String>,
}

/// What OpenAI's job has no field for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Extension {
    pub step: u64,
    /// 0 while it is not known.
    pub total_steps: u64,
    /// How many times a process began it.
    pub attempt: u32,
    /// It runs and was asked to end, or to stop for a while.
    pub cancel_requested: bool,
    pub pause_requested: bool,
    /// Known before it begins: examples, and tokens in the examples of all steps.
    pub examples: u64,
    pub validation_examples: u64,
    /// Of a private training what is expected: which examples a step draws is a secret.
    pub estimated_tokens: Option<u64>,
    /// Of a training from the start: the rows of all steps, and at most those of its folds.
    pub estimated_rows: Option<u64>,
    /// Rows that it was trained on; null until it has ended.
    pub trained_rows: Option<u64>,
    /// The most passes that its gate makes: they are in `max_cost_usd`. Null: it has no gate.
    pub max_gate_passes: Option<u64>,
    /// Passes that its gate made, which are in `cost_usd`; null until it has ended, and where it has no gate.
    pub gate_passes: Option<u64>,
    /// What it can cost at most, which is put aside until it ends; null where nobody's key pays for it.
    pub max_cost_usd: Option<f64>,
    /// What it cost; null until it has ended.
    pub cost_usd: Option<f64>,
    /// What it will cost its file in privacy (`q`, `sigma`, `steps`, `epsilon`, `delta`, …); null: nothing is promised.
    #[schema(value_type = Option<Object>)]
    pub privacy: Value,
    /// What its gate said (`held`, `why`, `compared_to`, …); null where it has none, and until it has ended. What is held is
    /// served by its number alone.
    #[schema(value_type = Option<Object>)]
    pub gate: Value,
}

impl From<Training> for FineTuningJob {
    fn from(training: Training) -> Self {
        let Training { job, asked, state, model, trained_tokens, .. } = training;
        let (trained_rows, estimated_finish) = (training.trained_rows, training.estimated_finish);
        let (gate, gate_passes, bill) = (training.gate, training.gate_passes, training.bill);
        let usd = |amount: i64| amount as f64 / UNIT as f64;
        let error = (state == State::Failed).then(|| FineTuningError {
            code: "job_failed",
            message: job.message.clone(),
            param: None,
        });
        let is_over = matches!(state, State::Done | State::Failed | State::Cancelled);
        Self {
            id: job.id.to_string(),
            object: "fine_tuning.job",
            created_at: job.created_at.seconds(),
            finished_at: job.finished_at.filter(|_| is_over).map(|at| at.seconds()),
            model: asked.model,
            fine_tuned_model: model,
            organization_id: job.project.tenant,
            status: if state == State::Done { "succeeded" } else { state.as_str() },
            hyperparameters: asked.hyperparameters,
            method: asked.method,
            training_file: asked.training_file,
            validation_file: asked.validation_file,
            result_files: training.result_file.into_iter().collect(),
            trained_tokens,
            error,
            seed: asked.seed,
            estimated_finish: estimated_finish.map(|at| at.seconds()),
            integrations: Vec::new(),
            metadata: asked.metadata,
            lyceum: Extension {
                step: job.step,
                total_steps: job.steps,
                attempt: job.attempt,
                cancel_requested: state == State::Running && job.cancel_requested,
                pause_requested: job.pause_requested,
                examples: asked.quote.n_examples,
                validation_examples: asked.quote.n_validation,
                estimated_tokens: asked.quote.trained_tokens,
                estimated_rows: asked.quote.trained_rows,
                trained_rows,
                max_gate_passes: asked.quote.gate_passes,
                gate_passes,
                max_cost_usd: bill.as_ref().map(|bill| usd(bill.worst())),
                cost_usd: bill.as_ref().and_then(Bill::cost).map(usd),
                privacy: serde_json::to_value(asked.privacy).expect("a quote is plain data: bug"),
                gate,
            },
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningJobList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<FineTuningJob>,
    pub has_more: bool,
}

impl FineTuningJobList {
    pub fn new((trainings, has_more): (Vec<Training>, bool)) -> Self {
        Self { object: "list", data: trainings.into_iter().map(FineTuningJob::from).collect(), has_more }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningEvent {
    pub id: String,
    /// `fine_tuning.job.event`
    pub object: &'static str,
    pub created_at: i64,
    /// `info`, `warn` or `error`
    pub level: &'static str,
    pub message: String,
    #[schema(value_type = Option<Object>)]
    pub data: Value,
    /// `message`, or `metrics`: then `data` has numbers.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

impl FineTuningEvent {
    pub fn new(job: &JobId, event: Event) -> Self {
        Self {
            id: event.mark.id(job),
            object: "fine_tuning.job.event",
            created_at: event.at.seconds(),
            level: event.level.as_str(),
            message: event.message,
            data: event.data,
            kind: if event.is_metrics { "metrics" } else { "message" },
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningEventList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<FineTuningEvent>,
    pub has_more: bool,
}

impl FineTuningEventList {
    pub fn new((job, events, has_more): (JobId, Vec<Event>, bool)) -> Self {
        let data = events.into_iter().map(|event| FineTuningEvent::new(&job, event)).collect();
        Self { object: "list", data, has_more }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningCheckpoint {
    pub id: String,
    /// `fine_tuning.job.checkpoint`
    pub object: &'static str,
    pub created_at: i64,
    /// What requests name.
    pub fine_tuned_model_checkpoint: String,
    pub fine_tuning_job_id: String,
    /// `step`, `train_loss`, of supervised fine-tuning `train_mean_token_accuracy`, and where there is a validation part
    /// `valid_loss` and others.
    pub metrics: BTreeMap<String, f64>,
    pub step_number: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FineTuningCheckpointList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<FineTuningCheckpoint>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

impl FineTuningCheckpointList {
    pub fn new((job, checkpoints, has_more): (JobId, Vec<Checkpoint>, bool)) -> Self {
        let one = |checkpoint: Checkpoint| FineTuningCheckpoint {
            id: checkpoint.id(&job),
            object: "fine_tuning.job.checkpoint",
            created_at: checkpoint.at.seconds(),
            fine_tuned_model_checkpoint: checkpoint.model,
            fine_tuning_job_id: job.to_string(),
            metrics: checkpoint.metrics,
            step_number: checkpoint.step,
        };
        let data: Vec<FineTuningCheckpoint> = checkpoints.into_iter().map(one).collect();
        let id = |one: Option<&FineTuningCheckpoint>| one.map(|one| one.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// A list's query: `after`, `limit`, `metadata[key]=value`, or `metadata=null` for jobs that have none.
pub fn query(pairs: Vec<(String, String)>) -> Result<Query, ApiError> {
    let mut query = Query { limit: 20, ..Query::default() };
    let mut with = BTreeMap::new();
    for (key, value) in pairs {
        let metadata = key.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        match (key.as_str(), metadata) {
            ("after", _) => query.after = Some(value),
            ("limit", _) => query.limit = limit(&value, limits::TRAININGS_LISTED_MAX)?,
            (_, Some(name)) => drop(with.insert(name.to_owned(), value)),
            ("metadata", _) if value == "null" => query.labels = Labels::Without,
            ("metadata", _) => {
                let message = "metadata: is null, or metadata[key]=value";
                return Err(ApiError::field(key, "invalid_value", message));
            }
            _ => return Err(unknown(&key)),
        }
    }
    match query.labels {
        Labels::Without if !with.is_empty() => {
            let message = "metadata: what has none has no key";
            Err(ApiError::field("metadata", "invalid_value", message))
        }
        Labels::Without => Ok(query),
        Labels::With(_) => Ok(Query { labels: Labels::With(with), ..query }),
    }
}

/// A query of events: a page of them, or a stream of all that come.
pub struct EventQuery {
    pub page: events::Query,
    pub is_stream: bool,
}

/// `after`, `limit` and `stream`; checkpoints have no stream.
pub fn event_query(pairs: Vec<(String, String)>, usual: usize) -> Result<EventQuery, ApiError> {
    let mut query = EventQuery { page: events::Query { after: None, limit: usual }, is_stream: false };
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("after", _) => query.page.after = Some(value),
            ("limit", _) => query.page.limit = limit(&value, limits::EVENTS_LISTED_MAX)? as usize,
            ("stream", "true" | "false") => query.is_stream = value == "true",
            ("stream", _) => {
                return Err(ApiError::field("stream", "invalid_value", "stream: must be true or false"));
            }
            _ => return Err(unknown(&key)),
        }
    }
    Ok(query)
}

fn limit(text: &str, max: u32) -> Result<u32, ApiError> {
    let number = text
        .parse()
        .map_err(|_| ApiError::field("limit", "invalid_type", "limit: must be a whole number"))?;
    super::within("limit", number, 1, max)
}

fn unknown(key: &str) -> ApiError {
    let shown: String = key.chars().take(64).collect();
    let message = format!("{shown}: there is no such parameter");
    ApiError::field(shown, "unknown_parameter", message)
}
