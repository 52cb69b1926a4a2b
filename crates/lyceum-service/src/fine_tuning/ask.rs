//! What is asked, as the job spec that `lyceum train` reads: the same grammar, the same words for what is wrong, at the
//! fields of the request.

use super::{Asked, Quote, gate, is_below, tuned_name};
use crate::{Service, ServiceError, files};
use lyceum_types::ids::{JobId, ModelRef, Project};
use lyceum_types::spec::parse::{Job, ProblemCode, SpecErrors};
use lyceum_types::spec::tune::{LR_DPO_FULL, LR_DPO_LORA, LR_FULL, LR_LORA, Method as TuneMethod, TuneSpec};
use lyceum_types::spec::{InputSpec, OptimizerSpec, Spec, TokenizerSpec, TrainSpec};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub model: String,
    pub training_file: String,
    pub validation_file: Option<String>,
    pub method: Method,
    pub suffix: Option<String>,
    pub seed: u64,
    pub metadata: BTreeMap<String, String>,
    /// As `[privacy]` of a job spec.
    pub privacy: Option<Map<String, Value>>,
    /// As `[gate]` of a job spec, with ids of files in the place of paths.
    pub gate: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    Supervised {
        hyperparameters: Hyperparameters,
        lora: Lora,
    },
    Dpo {
        hyperparameters: Hyperparameters,
        beta: Option<f64>,
        lora: Lora,
    },
    /// A job spec, with ids of files in the place of paths.
    Train {
        spec: Map<String, Value>,
    },
}

/// The method that is a job spec.
const TRAIN: &str = "train";

impl Method {
    pub fn as_str(&self) -> &'static str {
        match self {
            Method::Supervised { .. } => "supervised",
            Method::Dpo { .. } => "dpo",
            Method::Train { .. } => TRAIN,
        }
    }

    /// The request's field of one of its keys.
    pub(super) fn place(&self, key: &str) -> String {
        match self {
            Method::Train { .. } => format!("method.train.spec.model.{key}"),
            _ => format!("method.{}.{key}", self.as_str()),
        }
    }
}

/// None: left to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hyperparameters {
    pub n_epochs: Option<u64>,
    pub batch_size: Option<u64>,
    pub learning_rate_multiplier: Option<f64>,
}

/// What of the model is learnt.
#[derive(Clone, Debug, PartialEq)]
pub enum Lora {
    /// An adapter of rank 8; of an adapter, its own factors.
    Auto,
    /// Every weight.
    Whole,
    /// As `[model.lora]` of a job spec.
    As(Map<String, Value>),
}

/// A job spec of either kind.
pub(super) enum Document {
    Tune(Box<TuneSpec>),
    Train(Box<Spec>),
}

impl Document {
    /// Whether it asks for noise.
    pub fn is_private(&self) -> bool {
        match self {
            Document::Tune(spec) => spec.privacy.is_some(),
            Document::Train(spec) => spec.privacy.is_some(),
        }
    }
}

/// The job spec of a request; `files` are the places of its files below the folder of all.
pub(super) async fn document(
    service: &Service,
    project: &Project,
    ask: &Ask,
    files: (String, Option<String>),
    id: &JobId,
) -> Result<Document, ServiceError> {
    let mut body = match &ask.method {
        Method::Train { spec } => train_body(service, project, ask, spec, (files, id)).await?,
        _ => tune_body(service, project, ask, files, id).await?,
    };
    for (key, beside) in [("privacy", &ask.privacy), ("gate", &ask.gate)] {
        let Some(beside) = beside else { continue };
        if !body[key].is_null() {
            let message = format!("the request's {key} and the spec's are two");
            return Err(ServiceError::invalid(place(key), "contradiction", message));
        }
        body[key] = Value::Object(beside.clone());
    }
    if let Some(gate) = body.get_mut("gate") {
        gate::take_files(service, project, ask.places(), gate).await?;
    }
    let document = Job::from_json(&body).map_err(|errors| wrong(ask, errors))?;
    match (document, &ask.method) {
        (Job::Tune(tune), _) => Ok(Document::Tune(tune)),
        (Job::Train(spec), Method::Train { .. }) => {
            answerable(&spec)?;
            Ok(Document::Train(spec))
        }
        (Job::Train(_), _) => {
            let message = format!(
                "{} is a family that is trained from the start: ask with method.type \"train\" and its job spec",
                ask.model
            );
            Err(ServiceError::invalid("model", "unsupported_model", message))
        }
    }
}

async fn tune_body(
    service: &Service,
    project: &Project,
    ask: &Ask,
    (train, valid): (String, Option<String>),
    id: &JobId,
) -> Result<Value, ServiceError> {
    let (hyperparameters, lora, beta, is_dpo) = match &ask.method {
        Method::Supervised { hyperparameters, lora } => (hyperparameters, lora, None, false),
        Method::Dpo { hyperparameters, lora, beta } => (hyperparameters, lora, *beta, true),
        Method::Train { .. } => unreachable!("has a body of its own: bug"),
    };
    let mut model = json!({ "family": ask.model });
    let has_adapter = match lora {
        Lora::Whole => false,
        Lora::As(lora) => {
            model["lora"] = Value::Object(lora.clone());
            true
        }
        Lora::Auto => {
            if !is_adapter(service, project, &ask.model).await? {
                model["lora"] = json!({});
            }
            true
        }
    };
    let mut how = json!({ "method": ask.method.as_str() });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            how[key] = value;
        }
    };
    set("beta", beta.map(Value::from));
    set("epochs", hyperparameters.n_epochs.map(Value::from));
    set("batch_size", hyperparameters.batch_size.map(Value::from));
    let rate = hyperparameters.learning_rate_multiplier.map(|by| by * base_rate(is_dpo, has_adapter));
    set("optimizer", rate.map(|lr| json!({ "name": "adamw", "lr": lr, "weight_decay": 0.0 })));
    let mut data = json!({ "train": train });
    if let Some(valid) = valid {
        data["valid"] = valid.into();
    }
    let name = tuned_name(project, &ask.model, ask.suffix.as_deref(), id)?;
    Ok(json!({ "name": name, "seed": ask.seed, "data": data, "model": model, "train": how }))
}

async fn is_adapter(service: &Service, project: &Project, model: &str) -> Result<bool, ServiceError> {
    let reference: ModelRef = model
        .parse()
        .map_err(|error| ServiceError::invalid("model", "invalid_value", format!("model: {error}")))?;
    let version = service.resolve(project, &reference).await?;
    Ok(crate::language::adapter::is_adapter(&version))
}

/// AdamW's rate where nobody says one: what a multiplier multiplies.
fn base_rate(is_dpo: bool, has_adapter: bool) -> f64 {
    match (is_dpo, has_adapter) {
        (false, true) => LR_LORA,
        (false, false) => LR_FULL,
        (true, true) => LR_DPO_LORA,
        (true, false) => LR_DPO_FULL,
    }
}

/// A job spec as it was sent, with the places of files, and with what the request says beside it.
async fn train_body(
    service: &Service,
    project: &Project,
    ask: &Ask,
    spec: &Map<String, Value>,
    ((train, valid), id): ((String, Option<String>), &JobId),
) -> Result<Value, ServiceError> {
    let mut body = spec.clone();
    let table = |body: &mut Map<String, Value>, key: &str| match body.remove(key) {
        None => Ok(Map::new()),
        Some(Value::Object(table)) => Ok(table),
        Some(_) => Err(ServiceError::invalid(place(key), "invalid_type", "must be a table")),
    };
    let mut data = table(&mut body, "data")?;
    for (part, given) in [("train", Some(train)), ("valid", valid), ("test", None)] {
        let param = place(&format!("data.{part}"));
        match (data.get(part).cloned(), given) {
            (Some(Value::String(said)), Some(given)) if given.split('/').next() != Some(&said) => {
                let message = format!("{said} is another file than the request names beside the spec");
                return Err(ServiceError::invalid(param, "contradiction", message));
            }
            (_, Some(given)) => drop(data.insert(part.into(), given.into())),
            (Some(Value::String(said)), None) => {
                let path = files::open(service.store(), project, &param, &said).await?;
                let name = path.path().file_name().unwrap_or_default().to_string_lossy();
                data.insert(part.into(), format!("{said}/{name}").into());
            }
            (Some(_), None) => {
                return Err(ServiceError::invalid(param, "invalid_type", "must be the id of a file"));
            }
            (None, None) => {}
        }
    }
    body.insert("data".into(), Value::Object(data));
    let mut model = table(&mut body, "model")?;
    match model.get("family").map(Value::as_str) {
        None => drop(model.insert("family".into(), ask.model.clone().into())),
        Some(family) if family == Some(&ask.model) => {}
        Some(_) => {
            let message = "the request's model and the spec's model.family are two";
            return Err(ServiceError::invalid(place("model.family"), "contradiction", message));
        }
    }
    body.insert("model".into(), Value::Object(model));
    body.entry("seed").or_insert(ask.seed.into());
    if !body.contains_key("name") {
        let name = tuned_name(project, &ask.model, ask.suffix.as_deref(), id)?;
        body.insert("name".into(), name.into());
    } else if ask.suffix.is_some() {
        let message = "a spec with a name takes no suffix";
        return Err(ServiceError::invalid("suffix", "contradiction", message));
    }
    Ok(Value::Object(body))
}

/// The request's field of a key of a job spec.
pub(super) fn place(key: &str) -> String {
    format!("method.train.spec.{key}")
}

/// What a document may say at the command line, and a request may not.
fn answerable(spec: &Spec) -> Result<(), ServiceError> {
    let not_yet = |key: &str, message: &str| Err(ServiceError::not_implemented(place(key), message));
    if let Some(TokenizerSpec::File(_)) = spec.data.tokenizer {
        return not_yet("data.tokenizer", "a tokenizer's file is not taken over HTTP: char, byte or bpe");
    }
    if let Some(InputSpec::Audio { .. }) = spec.data.input {
        return not_yet(
            "data.input",
            "sound is a folder of files, which one file of /v1/files does not hold",
        );
    }
    let of_gate = spec.gate.as_ref().and_then(|gate| gate.data.as_ref());
    let parts = [Some(&spec.data.train), spec.data.valid.as_ref(), spec.data.test.as_ref(), of_gate];
    assert!(parts.into_iter().flatten().all(|path| is_below(path)), "files have places of their own: bug");
    Ok(())
}

/// Where keys of a job spec stand in a request.
#[derive(Clone, Copy)]
pub(super) struct Places {
    method: &'static str,
    /// Beside the method, and not in its spec.
    has_privacy: bool,
    has_gate: bool,
}

impl Places {
    /// The request's field of a key.
    pub(super) fn field(self, key: &str) -> String {
        if key.starts_with("privacy") && self.has_privacy || key.starts_with("gate") && self.has_gate {
            return key.to_owned();
        }
        let of = format!("method.{}", self.method);
        match key {
            _ if self.method == TRAIN => place(key),
            "train.epochs" => format!("{of}.hyperparameters.n_epochs"),
            "train.batch_size" => format!("{of}.hyperparameters.batch_size"),
            "train.steps" => format!("{of}.hyperparameters.n_epochs"),
            "data.valid" => "validation_file".to_owned(),
            "train.beta" => format!("{of}.hyperparameters.beta"),
            key if key.starts_with("train.optimizer") => {
                format!("{of}.hyperparameters.learning_rate_multiplier")
            }
            key if key.starts_with("model.lora") => format!("{of}.{}", &key["model.".len()..]),
            key if key.starts_with("model") => "model".to_owned(),
            key => key.to_owned(),
        }
    }

    /// The field of the gate's file.
    pub(super) fn gate_data(self) -> &'static str {
        if self.has_gate { "gate.data" } else { "method.train.spec.gate.data" }
    }
}

/// Every problem of the document, at the request's field of the first one.
fn wrong(ask: &Ask, errors: SpecErrors) -> ServiceError {
    let at = |key: &str| ask.places().field(key);
    let first = errors.problems.first();
    let param = first.map(|problem| at(&problem.key)).unwrap_or_default();
    let all: Vec<String> = errors
        .problems
        .iter()
        .map(|problem| format!("{}: {}; {}", at(&problem.key), problem.message, problem.fix))
        .collect();
    match first.map(|problem| problem.code) {
        Some(ProblemCode::NotYet) => ServiceError::not_implemented(param, all.join(". ")),
        code => {
            ServiceError::invalid(param, code.map_or("invalid_value", ProblemCode::as_str), all.join(". "))
        }
    }
}

impl Ask {
    pub(super) fn places(&self) -> Places {
        let method = self.method.as_str();
        Places { method, has_privacy: self.privacy.is_some(), has_gate: self.gate.is_some() }
    }

    /// What the row keeps of a fine-tuning whose `train` was decided.
    pub(super) fn asked(&self, tune: &TuneSpec, train: &TrainSpec, quote: Quote) -> Asked {
        let is_dpo = matches!(tune.method, TuneMethod::Dpo { .. });
        let mut hyperparameters = json!({ "n_epochs": train.epochs, "batch_size": train.batch_size });
        // An adapter is tuned further at the rate of one that is new.
        let lora = match &self.method {
            Method::Supervised { lora, .. } | Method::Dpo { lora, .. } => lora,
            Method::Train { .. } => {
                if tune.lora.is_some() {
                    &Lora::Auto
                } else {
                    &Lora::Whole
                }
            }
        };
        let multiplier = rate(train) / base_rate(is_dpo, *lora != Lora::Whole);
        hyperparameters["learning_rate_multiplier"] = ((multiplier * 1e9).round() / 1e9).into();
        if let TuneMethod::Dpo { beta } = tune.method {
            hyperparameters["beta"] = beta.into();
        }
        let kind = self.method.as_str();
        let method = match &self.method {
            Method::Train { spec } => json!({ "type": kind, kind: { "spec": spec } }),
            _ => json!({ "type": kind, kind: { "hyperparameters": hyperparameters, "lora": tune.lora } }),
        };
        self.kept(method, hyperparameters, tune.seed, quote)
    }

    /// What the row keeps of a training from the start.
    pub(super) fn asked_of(&self, spec: &Spec, quote: Quote) -> Asked {
        let hyperparameters = json!({ "n_epochs": spec.train.epochs, "batch_size": spec.train.batch_size });
        let method = match &self.method {
            Method::Train { spec } => json!({ "type": "train", "train": { "spec": spec } }),
            _ => unreachable!("others tune: bug"),
        };
        self.kept(method, hyperparameters, spec.seed, quote)
    }

    fn kept(&self, method: Value, hyperparameters: Value, seed: u64, quote: Quote) -> Asked {
        Asked {
            model: self.model.clone(),
            training_file: self.training_file.clone(),
            validation_file: self.validation_file.clone(),
            seed,
            metadata: self.metadata.clone(),
            method,
            hyperparameters,
            quote,
            privacy: None,
        }
    }
}

fn rate(train: &TrainSpec) -> f64 {
    match train.optimizer {
        OptimizerSpec::Sgd { lr, .. } | OptimizerSpec::Adam { lr, .. } | OptimizerSpec::Adamw { lr, .. } => {
            lr
        }
    }
}
