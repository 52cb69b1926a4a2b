//! What happened to a training, from its row and the log that its process writes; and its checkpoints that are served.
//!
//! The log only grows, so a line's place in it is its name: an event keeps its id while more come.

use super::{Training, find, log};
use crate::{Service, ServiceError};
use lyceum_store::jobs::{State, kept};
use lyceum_store::models;
use lyceum_store::vault::{self, KeyedPath};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The bytes at a log's end that tell how far its job is.
const TAIL_BYTES: u64 = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub mark: Mark,
    pub at: Timestamp,
    pub level: Level,
    pub message: String,
    pub data: Value,
    /// Whether `data` is numbers of the training.
    pub is_metrics: bool,
}

/// Where an event stands among those of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// What was done with the request: 0 created, 1 judged.
    Asked(u64),
    /// A line of the log that begins at this byte.
    Logged(u64),
    /// What its gate said, at this attempt.
    Judged(u64),
    /// How it ended, or that it is paused, at this attempt.
    Ended(u64),
}

impl Mark {
    /// The id of this job's event.
    pub fn id(self, job: &JobId) -> String {
        let (phase, number) = match self {
            Mark::Asked(number) => ('a', number),
            Mark::Logged(number) => ('b', number),
            Mark::Judged(number) => ('g', number),
            Mark::Ended(number) => ('c', number),
        };
        format!("ftevent_{}_{phase}{number:x}", &job.as_str()["job_".len()..])
    }

    fn parse(text: &str, job: &JobId) -> Option<Mark> {
        let rest = text.strip_prefix("ftevent_")?.strip_prefix(&job.as_str()["job_".len()..])?;
        let rest = rest.strip_prefix('_')?;
        let number = u64::from_str_radix(rest.get(1..)?, 16).ok()?;
        match rest.get(..1)? {
            "a" => Some(Mark::Asked(number)),
            "b" => Some(Mark::Logged(number)),
            "g" => Some(Mark::Judged(number)),
            "c" => Some(Mark::Ended(number)),
            _ => None,
        }
    }
}

/// Which events a page has, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub after: Option<String>,
    pub limit: usize,
}

/// A page of events, newest first, and whether there are more behind it.
pub async fn list(
    service: &Service,
    project: &Project,
    id: &str,
    query: &Query,
) -> Result<(JobId, Vec<Event>, bool), ServiceError> {
    let training = find(service, project, id).await?;
    let job = training.job.id.clone();
    let before = mark(query.after.as_deref(), &job)?;
    let mut events = all(service, training, None).await?;
    events.retain(|event| before.is_none_or(|before| event.mark < before));
    events.reverse();
    let has_more = events.len() > query.limit;
    events.truncate(query.limit);
    Ok((job, events, has_more))
}

fn mark(after: Option<&str>, job: &JobId) -> Result<Option<Mark>, ServiceError> {
    let Some(text) = after else { return Ok(None) };
    let unknown = || ServiceError::invalid("after", "not_found", "this job has no event of this id");
    Mark::parse(text, job).map(Some).ok_or_else(unknown)
}

/// The events of a training as they come, oldest first, until it ends or is paused.
pub struct Followed {
    project: Project,
    pub job: JobId,
    last: Option<Mark>,
    is_over: bool,
}

/// Follows a training from its first event, or from the one after `after`.
pub async fn follow(
    service: &Service,
    project: &Project,
    id: &str,
    after: Option<&str>,
) -> Result<Followed, ServiceError> {
    let job = find(service, project, id).await?.job.id;
    let last = mark(after, &job)?;
    Ok(Followed { project: project.clone(), job, last, is_over: false })
}

impl Followed {
    /// What came since; waits where nothing did. None: it is over and all is told.
    pub async fn next(&mut self, service: &Service) -> Result<Option<Vec<Event>>, ServiceError> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            let training = find(service, &self.project, self.job.as_str()).await?;
            self.is_over = !matches!(training.state, State::Queued | State::Running);
            let mut events = all(service, training, self.last).await?;
            events.retain(|event| self.last.is_none_or(|last| event.mark > last));
            if let Some(event) = events.last() {
                self.last = Some(event.mark);
                return Ok(Some(events));
            }
            if !self.is_over {
                tokio::time::sleep(limits::EVENTS_LOOK_EVERY).await;
            }
        }
    }
}

/// Every event since `from`, oldest first.
async fn all(service: &Service, training: Training, from: Option<Mark>) -> Result<Vec<Event>, ServiceError> {
    kept::have_log(service.store(), &training.job.id).await?;
    let path = log(service, &training.job)?;
    let work = move || {
        let start = match from {
            Some(Mark::Logged(at)) => at,
            Some(Mark::Judged(_) | Mark::Ended(_)) => u64::MAX,
            Some(Mark::Asked(_)) | None => 0,
        };
        let mut events = asked(&training);
        let steps = training.job.steps;
        events.extend(lines(&path, start)?.into_iter().filter_map(|(at, line)| logged(at, &line, steps)));
        events.extend(judged(&training));
        events.extend(ended(&training));
        Ok(events)
    };
    super::blocking(work).await
}

/// The lines of a log that begin at `start` or later, each with its place; of a very long one the newest. What is only
/// half written is left for later.
fn lines(path: &KeyedPath, start: u64) -> Result<Vec<(u64, Value)>, ServiceError> {
    match vault::lines::read(path, start, limits::EVENTS_READ_BYTES_MAX) {
        Ok(lines) => Ok(lines
            .into_iter()
            .filter_map(|(at, line)| Some((at, serde_json::from_str(&line).ok()?)))
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ServiceError::internal("reading the log of a job", error)),
    }
}

/// That it was asked for, and what will be done.
fn asked(training: &Training) -> Vec<Event> {
    let (job, quote) = (&training.job, &training.asked.quote);
    let event = |number, message: String, data| Event {
        mark: Mark::Asked(number),
        at: job.created_at,
        level: Level::Info,
        message,
        data,
        is_metrics: false,
    };
    let created = event(0, format!("Created fine-tuning job: {}", job.id), Value::Null);
    let mut words = format!(
        "Files validated: {} training and {} validation examples",
        quote.n_examples, quote.n_validation
    );
    if let (Some(steps), Some(tokens)) = (quote.steps, quote.trained_tokens) {
        let about = if training.asked.privacy.is_some() { "about " } else { "" };
        words += &format!("; {steps} steps will train on {about}{tokens} tokens");
    }
    if let Some(planned) = &training.asked.privacy {
        words += &match planned.epsilon {
            Some(epsilon) => format!(", at ε = {epsilon:.4} and δ = {}", planned.delta),
            None => ", without noise: nothing is promised".to_owned(),
        };
    }
    if let (Some(steps), Some(rows)) = (quote.steps, quote.trained_rows) {
        words += &format!("; {steps} steps will train on {rows} rows at most");
    }
    let data = json!({
        "examples": quote.n_examples, "validation_examples": quote.n_validation, "steps": quote.steps,
        "trained_tokens": quote.trained_tokens, "trained_rows": quote.trained_rows,
        "privacy": training.asked.privacy,
    });
    vec![created, event(1, words, data)]
}

/// What a line of the log says; None where that is no client's matter.
fn logged(at: u64, line: &Value, steps: u64) -> Option<Event> {
    let step = line["step"].as_u64().unwrap_or_default();
    let of = if steps > 0 { format!("{step}/{steps}") } else { step.to_string() };
    let (message, data, is_metrics) = match line["event"].as_str()? {
        "data" => {
            let (train, valid) = (line["train"].as_u64()?, line["valid"].as_u64()?);
            let message = format!("Training begins: {train} training and {valid} validation examples");
            (message, json!({ "train": train, "valid": valid, "warnings": line["warnings"] }), false)
        }
        "quote" => {
            let seconds = line["seconds"].as_f64()?;
            let data = json!({
                "steps": line["steps"], "seconds": seconds, "memory_bytes": line["memory_bytes"],
                "parameters": line["params"],
            });
            (format!("{} steps will take about {seconds:.0} seconds", line["steps"]), data, false)
        }
        "progress" => {
            let loss = line["loss"].as_f64();
            let words = loss.map_or_else(String::new, |loss| format!(": training loss={loss:.4}"));
            let mut data = json!({
                "step": step, "total_steps": steps, "train_loss": loss, "learning_rate": line["lr"],
                "epoch": line["epoch"],
            });
            for (name, value) in of_training(line) {
                data[name] = value.into();
            }
            (format!("Step {of}{words}"), data, true)
        }
        "eval" => {
            let mut data = json!({ "step": step });
            let mut words = Vec::new();
            for (name, metric) in line["metrics"].as_object()? {
                data[name] = metric["value"].clone();
                words.push(format!("{name}={:.4}", metric["value"].as_f64()?));
            }
            (format!("Step {of}: {}", words.join(", ")), data, true)
        }
        "checkpoint" => (format!("Checkpoint kept at step {step}"), json!({ "step": step }), false),
        "resumed" => (format!("Goes on after step {step}"), json!({ "step": step }), false),
        "stopped_early" => {
            let best = line["best_step"].as_u64()?;
            (
                format!("Stopped early at step {step}; step {best} was best"),
                json!({ "step": step, "best_step": best }),
                false,
            )
        }
        "privacy" => {
            let data = json!({
                "q": line["q"], "sigma": line["sigma"], "steps": line["steps"], "delta": line["delta"],
            });
            ("Its file's privacy ledger has what the job takes".to_owned(), data, false)
        }
        "measuring" => ("Measuring what was trained".to_owned(), Value::Null, false),
        _ => return None,
    };
    let has_warnings = line["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty());
    let level = if has_warnings { Level::Warn } else { Level::Info };
    let at_time = Timestamp::from_millis(line["time"].as_i64()?);
    Some(Event { mark: Mark::Logged(at), at: at_time, level, message, data, is_metrics })
}

/// What its gate said of what it made.
fn judged(training: &Training) -> Option<Event> {
    let (job, gate) = (&training.job, &training.gate);
    let (made, why) = (training.model.as_deref()?, gate["why"].as_str().unwrap_or_default());
    let name = &job.model;
    // Of a name that serves nothing yet the other side was the base.
    let is_served = |other: &str| other.split('@').next() == Some(name.as_str());
    let (level, message) = match (gate["held"].as_bool()?, gate["compared_to"].as_str()) {
        (true, Some(served)) if is_served(served) => {
            (Level::Warn, format!("Its gate holds {made}: {why}; {name} goes on serving {served}"))
        }
        (true, _) => (Level::Warn, format!("Its gate holds {made}: {why}; {name} does not serve it")),
        (false, Some(served)) => (Level::Info, format!("Its gate let it pass beside {served}")),
        (false, None) if why.is_empty() => (Level::Info, "Its gate let it pass".to_owned()),
        (false, None) => (Level::Info, format!("Its gate let it pass: {why}")),
    };
    let at = job.finished_at.unwrap_or(job.created_at);
    let mark = Mark::Judged(u64::from(job.attempt));
    Some(Event { mark, at, level, message, data: gate.clone(), is_metrics: false })
}

/// How it ended, or that it stands still.
fn ended(training: &Training) -> Option<Event> {
    let job = &training.job;
    let (level, message) = match training.state {
        State::Queued | State::Running => return None,
        State::Paused => (Level::Info, "The job is paused".to_owned()),
        State::Cancelled => (Level::Info, "The job was cancelled".to_owned()),
        State::Failed => (Level::Error, job.message.clone()),
        State::Done => {
            let model = training.model.as_deref().unwrap_or_default();
            (Level::Info, format!("The job has successfully completed; new model: {model}"))
        }
    };
    let at = job.finished_at.unwrap_or(job.created_at);
    let mark = Mark::Ended(u64::from(job.attempt));
    Some(Event { mark, at, level, message, data: Value::Null, is_metrics: false })
}

/// When a running job will have taken its last step, as its last line says.
pub(super) fn estimated_finish(path: &KeyedPath) -> Option<Timestamp> {
    let start = std::fs::metadata(path.lies()).ok()?.len().saturating_sub(TAIL_BYTES);
    let lines = lines(path, start).ok()?;
    let line = lines.iter().rev().map(|(_, line)| line).find(|line| line["event"] == "progress")?;
    let left = std::time::Duration::try_from_secs_f64(line["eta_s"].as_f64()?).ok()?;
    Some(Timestamp::from_millis(line["time"].as_i64()?).plus(left))
}

/// A checkpoint under its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub step: u64,
    pub model: String,
    pub at: Timestamp,
    /// `train_loss`, `train_mean_token_accuracy`, `valid_loss`, … at its step.
    pub metrics: BTreeMap<String, f64>,
}

impl Checkpoint {
    pub fn id(&self, job: &JobId) -> String {
        format!("ftckpt_{}_{}", &job.as_str()["job_".len()..], self.step)
    }
}

/// The checkpoints of a training that can be asked, newest first, after the one with the id `after`; whether there are
/// more.
pub async fn checkpoints(
    service: &Service,
    project: &Project,
    id: &str,
    query: &Query,
) -> Result<(JobId, Vec<Checkpoint>, bool), ServiceError> {
    let training = find(service, project, id).await?;
    let job = training.job.id.clone();
    let prefix = format!("{}:ckpt-step-", training.job.model);
    let mut served = BTreeMap::new();
    for version in models::list(service.store(), project).await? {
        let name = version.name.as_str();
        // A bare name passes over what is held.
        let called = version.held.as_ref().map_or_else(|| name.to_owned(), |_| version.id());
        if name == training.job.model && training.state == State::Done && name.starts_with("ft:") {
            served.insert(training.job.step, (called, version.created_at));
        } else if let Some(step) = name.strip_prefix(&prefix).and_then(|step| step.parse().ok()) {
            served.insert(step, (called, version.created_at));
        }
    }
    kept::have_log(service.store(), &training.job.id).await?;
    let path = log(service, &training.job)?;
    let lines = super::blocking(move || lines(&path, 0)).await?;
    let mut found: Vec<Checkpoint> = served
        .into_iter()
        .map(|(step, (model, at))| Checkpoint { step, model, at, metrics: metrics(&lines, step) })
        .collect();
    found.reverse();
    if let Some(after) = &query.after {
        let Some(place) = found.iter().position(|one| one.id(&job) == *after) else {
            return Err(ServiceError::invalid("after", "not_found", "this job has no checkpoint of this id"));
        };
        found.drain(..=place);
    }
    let has_more = found.len() > query.limit;
    found.truncate(query.limit);
    Ok((job, found, has_more))
}

/// The numbers of a step of training in a line of the log, under OpenAI's names; of private rows there are none.
pub fn of_training(line: &Value) -> impl Iterator<Item = (&'static str, f64)> {
    let names = [("loss", "train_loss"), ("token_accuracy", "train_mean_token_accuracy")];
    names.into_iter().filter_map(|(own, name)| Some((name, line[own].as_f64()?)))
}

/// What the log says of a step, the last time that it was taken.
fn metrics(lines: &[(u64, Value)], step: u64) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::from([("step".to_owned(), step as f64)]);
    for (_, line) in lines.iter().filter(|(_, line)| line["step"] == step) {
        if line["event"] == "progress" {
            metrics.extend(of_training(line).map(|(name, value)| (name.to_owned(), value)));
        }
        for (name, metric) in line["metrics"].as_object().into_iter().flatten() {
            if let Some(value) = metric["value"].as_f64() {
                metrics.insert(name.clone(), value);
            }
        }
    }
    metrics
}
