//! Choices among models: what is asked for becomes a job that a process of its own works on, and what was found is
//! a document.
//!
//! A choice trains, and training would keep the device from those who ask; so nothing is trained here. The binary's
//! worker hands waiting jobs to `lyceum jobs resume`, the same code as `lyceum choose`. A choice and its job have the
//! same digits.

use crate::meter::{Counts, Payer};
use crate::{Service, ServiceError, files};
use lyceum_store::jobs::{self, Job, Kind, NewJob, State};
use lyceum_store::ledger::{Bill, UNIT, bills};
use lyceum_store::{StoreError, selections};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, JobId, ModelRef, Project, SelectionId};
use lyceum_types::limits;
use lyceum_types::spec::choose::ChooseSpec;
use lyceum_types::spec::parse::{ProblemCode, SpecErrors};
use lyceum_types::spec::{InputSpec, TokenizerSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Documents that one list gives: the newest.
const LISTED_MAX: usize = 100;
/// The part of the rows that candidates are compared on when the request does not say.
const HELD_OUT: f64 = 0.25;

/// What the row of a job that chooses keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub spec: ChooseSpec,
    /// The folder that the spec's paths are relative to.
    pub base_dir: PathBuf,
    /// Whether the winner becomes a version.
    pub registers: bool,
}

impl Plan {
    pub fn from_job(job: &Job) -> Result<Self, serde_json::Error> {
        serde_json::from_str(&job.spec)
    }

    /// The job that it is.
    pub fn job(&self) -> NewJob {
        let spec = serde_json::to_string(self).expect("a plan is plain data: bug");
        NewJob {
            kind: Kind::Choose,
            spec,
            request: None,
            model: self.spec.name.clone(),
            steps: 0,
            bill: None,
        }
    }

    /// The most that it is charged for: its minutes on every processor that the process has. What it takes beyond them,
    /// because a run that was begun is ended, is nobody's to pay.
    fn most(&self) -> Counts {
        let seconds = (self.spec.budget_minutes * 60.0).ceil() * lyceum_kernels::pool::threads() as f64;
        Counts { cpu_seconds: seconds as u64, ..Counts::default() }
    }
}

/// Takes a request: the document of `lyceum choose` as JSON, with ids of files in the place of paths. `data` may be
/// the id alone; then `target` stands beside it, and a quarter of the rows is held out.
///
/// # Errors
/// What the document cannot say; a budget does not cover its minutes.
pub async fn create(
    service: &Service,
    payer: &Payer,
    mut body: Map<String, Value>,
) -> Result<Value, ServiceError> {
    let project = &payer.project;
    crate::retention::require_kept(service, project, "data", "what is asked and what is found").await?;
    let data = data(service, project, &mut body).await?;
    body.insert("data".into(), Value::Object(data));
    if !body.contains_key("name") {
        let bits = uuid::Uuid::now_v7().as_u128();
        body.insert("name".into(), Value::from(format!("choice-{:012x}", bits & 0xffff_ffff_ffff)));
    }
    let spec = ChooseSpec::from_json(&Value::Object(body)).map_err(wrong)?;
    answerable(&spec)?;
    named(service, project, &spec).await?;
    let waiting = jobs::count_unfinished(service.store(), project, Kind::Choose).await?;
    if waiting >= limits::SELECTIONS_UNFINISHED_MAX {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(60) });
    }
    let folder = service.store().layout().data_files();
    let base_dir = std::path::absolute(&folder)
        .map_err(|error| ServiceError::internal("finding the folder of the files", error))?;
    let plan = Plan { spec, base_dir, registers: true };
    let id = JobId::from_bits(uuid::Uuid::now_v7().as_u128());
    let bill = payer.bill_of_job((&plan.spec.name, 0), plan.most());
    service.ledger().queue(project, &id, NewJob { bill, ..plan.job() }).await?;
    service.selections_wanted.notify_one();
    status(service, &jobs::find(service.store(), project, &id).await?).await
}

/// `[data]` as the document has it: every id that is given is the path of that file.
async fn data(
    service: &Service,
    project: &Project,
    body: &mut Map<String, Value>,
) -> Result<Map<String, Value>, ServiceError> {
    let target = body.remove("target");
    let mut data = match body.remove("data") {
        Some(Value::String(id)) => Map::from_iter([
            ("train".to_owned(), Value::from(id)),
            ("valid_fraction".to_owned(), Value::from(HELD_OUT)),
        ]),
        Some(Value::Object(data)) => data,
        Some(_) => {
            let message = "must be the id of a file, or what [data] of a job spec has with ids of files";
            return Err(ServiceError::invalid("data", "invalid_type", message));
        }
        None => {
            let message = "the rows to choose on: the id of a file that POST /v1/files gave";
            return Err(ServiceError::invalid("data", "missing_required_parameter", message));
        }
    };
    if let Some(target) = target
        && data.insert("target".into(), target).is_some()
    {
        let message = "stands twice: beside data and in it";
        return Err(ServiceError::invalid("target", "duplicate_parameter", message));
    }
    for part in ["train", "valid", "test"] {
        let Some(value) = data.get_mut(part) else { continue };
        let param = format!("data.{part}");
        let Some(id) = value.as_str() else {
            return Err(ServiceError::invalid(param, "invalid_type", "must be the id of a file"));
        };
        let path = files::open(service.store(), project, &param, id).await?;
        // Candidates are trained and compared without noise.
        crate::privacy::refuse_unprotected(service, project, &[(&param, id)]).await?;
        let name = path.path().file_name().unwrap_or_default().to_string_lossy();
        *value = Value::from(format!("{id}/{name}"));
    }
    Ok(data)
}

/// What a document may say at the command line, and a request may not.
fn answerable(spec: &ChooseSpec) -> Result<(), ServiceError> {
    if let Some(TokenizerSpec::File(_)) = spec.data.tokenizer {
        let message = "a tokenizer's file is not taken over HTTP in this version: char, byte or bpe";
        return Err(ServiceError::not_implemented("data.tokenizer", message));
    }
    if let Some(InputSpec::Audio { .. }) = spec.data.input {
        let message = "sound is a folder of files, which one file of /v1/files does not hold";
        return Err(ServiceError::not_implemented("data.input", message));
    }
    if spec.budget_minutes > limits::SELECTION_MINUTES_MAX {
        let message = format!("at most {} minutes over HTTP", limits::SELECTION_MINUTES_MAX);
        return Err(ServiceError::invalid("budget.minutes", "invalid_value", message));
    }
    Ok(())
}

/// Whether the project may ask the models that the document names, and they write texts.
async fn named(service: &Service, project: &Project, spec: &ChooseSpec) -> Result<(), ServiceError> {
    for imported in &spec.imported {
        let param = format!("candidates: {}", imported.name);
        let reference: ModelRef = imported
            .model
            .parse()
            .map_err(|error: BadId| ServiceError::invalid(&param, "invalid_value", error.to_string()))?;
        let version = service.resolve(project, &reference).await?;
        let speaks =
            crate::language::is_imported(&version) && crate::language::read_manifest(&version)?.kind.speaks();
        if !speaks {
            let message = format!("{} is no imported language model, nor a fine-tune of one", version.id());
            return Err(ServiceError::unsupported(param, "unsupported_model", message));
        }
    }
    Ok(())
}

/// Every problem of the document, at the first one's field.
fn wrong(errors: SpecErrors) -> ServiceError {
    let first = errors.problems.first();
    let param = first.map(|problem| problem.key.clone()).unwrap_or_default();
    let all: Vec<String> = errors
        .problems
        .iter()
        .enumerate()
        .map(|(i, problem)| {
            let key = if i == 0 { String::new() } else { format!("{}: ", problem.key) };
            format!("{key}{}; {}", problem.message, problem.fix)
        })
        .collect();
    match first.map(|problem| problem.code) {
        Some(ProblemCode::NotYet) => ServiceError::not_implemented(param, all.join(". ")),
        code => {
            ServiceError::invalid(param, code.map_or("invalid_value", ProblemCode::as_str), all.join(". "))
        }
    }
}

/// What is known of a choice that has found nothing yet.
async fn status(service: &Service, job: &Job) -> Result<Value, ServiceError> {
    let damaged =
        |source: serde_json::Error| ServiceError::Damaged { id: job.id.to_string(), source: source.into() };
    let plan = Plan::from_job(job).map_err(damaged)?;
    let is_dead = jobs::is_broken_off(service.store(), job, Timestamp::now())?;
    // What its process left unfinished waits for the next one.
    let state = if is_dead { State::Queued.as_str() } else { job.state.as_str() };
    let message = if is_dead { "the process that made it has ended; it begins anew" } else { &job.message };
    let seconds = |at: Option<Timestamp>| at.map(|at| at.seconds());
    let is_over = matches!(job.state, State::Failed | State::Cancelled);
    let bill = bill(service, &job.project, &job.id).await?;
    Ok(json!({
        "id": SelectionId::of_job(&job.id).as_str(), "object": "model_selection", "status": state,
        "created": job.created_at.seconds(), "started": seconds(job.started_at), "finished": seconds(job.finished_at),
        "name": plan.spec.name, "task": plan.spec.task.as_str(), "spec": plan.spec,
        "job": job.id.as_str(), "attempt": job.attempt, "cancel_requested": job.cancel_requested,
        "runs": job.step, "message": (!is_over).then_some(message),
        "error": is_over.then(|| json!({ "message": job.message })),
        "budget": { "minutes": plan.spec.budget_minutes }, "bill": bill,
    }))
}

/// What a choice costs; null where nobody's key pays for it.
async fn bill(service: &Service, project: &Project, job: &JobId) -> Result<Value, ServiceError> {
    let usd = |amount: i64| amount as f64 / UNIT as f64;
    let told = |bill: Bill| {
        json!({
            "cpu_seconds_max": bill.most.cpu_seconds, "usd_max": usd(bill.worst()), "price": bill.price,
            "cpu_seconds": bill.settled_at.map(|_| bill.done.cpu_seconds), "usd": bill.cost().map(usd),
        })
    };
    Ok(bills::find(service.store(), project, job).await?.map_or(Value::Null, told))
}

/// A choice: what it found, or how far it is.
pub async fn find(service: &Service, project: &Project, id: &str) -> Result<Value, ServiceError> {
    let unknown = || ServiceError::NotFound { what: "model selection", id: id.chars().take(64).collect() };
    let asked: SelectionId = id.parse().map_err(|_| unknown())?;
    let job = jobs::find(service.store(), project, &asked.job()).await;
    // What was found lies there a moment before its job has ended, and with it the bill.
    let goes_on = job.as_ref().is_ok_and(|job| matches!(job.state, State::Queued | State::Running));
    if !goes_on && let Some(mut document) = read(service, project, vec![asked.clone()]).await?.pop() {
        let bill = bill(service, project, &asked.job()).await?;
        if !bill.is_null() {
            document["bill"] = bill;
        }
        return Ok(document);
    }
    match job {
        Ok(job) if job.kind == Kind::Choose => status(service, &job).await,
        Ok(_) | Err(StoreError::NotFound { .. }) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

/// The newest choices, newest first.
pub async fn list(service: &Service, project: &Project) -> Result<Vec<Value>, ServiceError> {
    let mut ids = selections::list(service.store(), project)?;
    let found: std::collections::HashSet<SelectionId> = ids.iter().cloned().collect();
    let mut waiting = Vec::new();
    for job in jobs::list(service.store(), project).await? {
        let id = SelectionId::of_job(&job.id);
        if job.kind == Kind::Choose && !found.contains(&id) {
            ids.push(id);
            waiting.push(job);
        }
    }
    ids.sort();
    ids.reverse();
    ids.truncate(LISTED_MAX);
    let mut documents =
        read(service, project, ids.iter().filter(|id| found.contains(id)).cloned().collect()).await?;
    for job in waiting.iter().filter(|job| ids.contains(&SelectionId::of_job(&job.id))) {
        documents.push(status(service, job).await?);
    }
    let id = |document: &Value| document["id"].as_str().unwrap_or_default().to_owned();
    documents.sort_by_key(|document| std::cmp::Reverse(id(document)));
    Ok(documents)
}

/// Asks a choice to end: one that waits ends at once, one that runs within seconds.
pub async fn cancel(service: &Service, project: &Project, id: &str) -> Result<Value, ServiceError> {
    let found = find(service, project, id).await?;
    let over = |state: &str| ServiceError::Conflict {
        code: "selection_over",
        message: format!("the model selection is {state}: there is nothing to cancel"),
    };
    let asked: SelectionId = id.parse().map_err(StoreError::from)?;
    match jobs::cancel(service.store(), project, &asked.job(), Timestamp::now()).await {
        Ok(_) => find(service, project, id).await,
        // What the command line found before choices were jobs.
        Err(StoreError::NotFound { .. }) => Err(over(found["status"].as_str().unwrap_or("done"))),
        Err(StoreError::JobState { state, .. }) => Err(over(&state)),
        Err(error) => Err(error.into()),
    }
}

/// Reads off the runtime; a document that is gone is left out.
async fn read(
    service: &Service,
    project: &Project,
    ids: Vec<SelectionId>,
) -> Result<Vec<Value>, ServiceError> {
    let (store, project) = (service.store().clone(), project.clone());
    let work =
        move || {
            let mut documents = Vec::new();
            for id in ids {
                match selections::find(&store, &project, &id) {
                    Ok(text) => documents.push(serde_json::from_str(&text).map_err(|source| {
                        ServiceError::Damaged { id: id.to_string(), source: source.into() }
                    })?),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(documents)
        };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal("reading broke off", error))?
}
