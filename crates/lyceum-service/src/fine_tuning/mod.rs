//! Trainings that are asked for over HTTP: judged whole, put into the queue, watched.
//!
//! Nothing is trained here: the binary's worker gives what waits to `lyceum jobs resume`, in a process of its own. What is
//! asked ([`ask`]) becomes the job spec that `lyceum train` reads, with files of `/v1/files` in the place of paths, those
//! of its [`gate`] too; what happened ([`events`]) is read from the job's own log.

pub mod ask;
pub mod events;
mod gate;
pub mod preview;
pub mod privacy;

pub use ask::{Ask, Hyperparameters, Lora, Method};
pub use gate::Suites;
pub use lyceum_store::jobs::State;
pub use lyceum_store::ledger::Bill;

use crate::meter::{Counts, Payer};
use crate::{Language, Service, ServiceError, files};
use ask::Document;
use lyceum_store::jobs::{self, Job, Kind, NewJob, kept};
use lyceum_store::ledger::bills;
use lyceum_store::vault::{self, KeyedPath};
use lyceum_store::{StoreError, data_files};
use lyceum_train::chat::{self, Words};
use lyceum_train::data::DataError;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use lyceum_types::manifest::ImportedKind;
use lyceum_types::spec::Plan;
use lyceum_types::spec::tune::{Origin, TunePlan, TuneSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a job's row keeps of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub model: String,
    pub training_file: String,
    pub validation_file: Option<String>,
    pub seed: u64,
    pub metadata: BTreeMap<String, String>,
    /// As it was asked, with every value that was left to the program.
    pub method: Value,
    /// `n_epochs`, `batch_size`, …
    pub hyperparameters: Value,
    pub quote: Quote,
    /// What it will cost its training file in privacy; None: nothing is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<privacy::Planned>,
}

/// What a training will do, known before it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub n_examples: u64,
    pub n_validation: u64,
    /// None: the job's process counts them.
    pub steps: Option<u64>,
    /// Tokens in the examples of all steps; None: the model's family reads none.
    pub trained_tokens: Option<u64>,
    /// Rows of all steps, and at most those of its folds; None: it is counted in tokens.
    #[serde(default)]
    pub trained_rows: Option<u64>,
    /// The most passes of its gate; None: it has none.
    #[serde(default)]
    pub gate_passes: Option<u64>,
}

impl Quote {
    fn most(&self) -> Counts {
        Counts {
            // What is counted in rows may say its tokens too.
            training_tokens: self.trained_tokens.filter(|_| self.trained_rows.is_none()).unwrap_or(0),
            training_rows: self.trained_rows.unwrap_or(0),
            passes: self.gate_passes.unwrap_or(0),
            ..Counts::default()
        }
    }
}

/// A training as it is told.
#[derive(Clone, Debug)]
pub struct Training {
    pub job: Job,
    pub asked: Asked,
    /// What its process left unfinished waits for the next one.
    pub state: State,
    /// What it made: `name`, or `name@3` where its spec has a name.
    pub model: Option<String>,
    /// Of one that has ended; None: none was trained on.
    pub trained_tokens: Option<u64>,
    pub trained_rows: Option<u64>,
    /// Passes of its gate, of one that has ended; None: it has no gate, or nobody's key pays for it.
    pub gate_passes: Option<u64>,
    /// The id of the file with what was measured on the way.
    pub result_file: Option<String>,
    pub estimated_finish: Option<Timestamp>,
    /// What its gate said of what it made; null where there is none, and before its end.
    pub gate: Value,
    /// None: nobody's key pays for it.
    pub bill: Option<Bill>,
}

/// Judges what is asked and its files, and puts the job into the queue with the most that it can cost put aside.
///
/// # Errors
/// At its field, what cannot be trained; of the files every error, with its line; a budget does not cover it.
pub async fn create(
    service: &Arc<Service>,
    payer: &Payer,
    ask: Ask,
    suites: Suites,
) -> Result<Training, ServiceError> {
    let project = &payer.project;
    crate::retention::require_kept(service, project, "training_file", "the examples and what is learnt")
        .await?;
    let waiting = jobs::count_unfinished(service.store(), project, Kind::Train).await?;
    if waiting >= limits::TRAININGS_UNFINISHED_MAX {
        return Err(ServiceError::Overloaded { retry_after: Duration::from_secs(60) });
    }
    let id = JobId::from_bits(uuid::Uuid::now_v7().as_u128());
    let Prepared { document, folder, files } = prepared(service, project, &ask, &id).await?;
    let places = ask.places();
    let Queued { spec, name, priced, asked } = match document {
        Document::Tune(tune) => {
            let of_suite = gate::rehearse_texts(service, payer, &tune, (suites, places)).await?;
            judged(service, project, &ask, (*tune, of_suite), (folder, files)).await?
        }
        Document::Train(spec) => {
            let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
            let (name, plan) = (spec.name.clone(), Plan { spec: *spec, base_dir: folder });
            let (plan, mut quote, planned, rows) = blocking(move || {
                let loaded = lyceum_train::data::load(&plan.spec, &files, &control).map_err(wrong_data)?;
                let gate_rows = gate::judge_rows((&plan.spec, places), &loaded, &files, &control)?;
                let planned = privacy::Planned::of_spec(&plan.spec, &loaded)?;
                let (steps, rows) = lyceum_train::quoted(&plan.spec, &loaded);
                let quote = Quote {
                    n_examples: loaded.train.len() as u64,
                    n_validation: loaded.valid.as_ref().map_or(0, |part| part.len() as u64),
                    steps: Some(steps),
                    trained_tokens: None,
                    trained_rows: Some(rows),
                    gate_passes: None,
                };
                Ok((plan, quote, planned, gate_rows))
            })
            .await?;
            let of_gate = (&plan.spec, rows);
            quote.gate_passes = gate::rehearse_rows(service, payer, of_gate, (suites, places)).await?;
            let mut asked = ask.asked_of(&plan.spec, quote);
            asked.privacy = planned;
            let spec = serde_json::to_string(&plan).expect("a plan is plain data: bug");
            Queued { spec, name, priced: (ask.model.clone(), 0), asked }
        }
    };
    if let Some(planned) = &asked.privacy {
        privacy::afford(service, project, planned).await?;
    }
    let steps = asked.quote.steps.unwrap_or(0);
    let request = serde_json::to_string(&asked).expect("a request is plain data: bug");
    let bill = payer.bill_of_job((&priced.0, priced.1), asked.quote.most());
    let new = NewJob { kind: Kind::Train, spec, request: Some(request), model: name, steps, bill };
    service.ledger().queue(project, &id, new).await?;
    service.trainings_wanted.notify_one();
    find(service, project, id.as_str()).await
}

/// What is asked, as a job spec whose paths are relative to the folder of all files.
struct Prepared {
    document: Document,
    folder: PathBuf,
    files: KeyedPath,
}

/// Reads a request, and whether its files may be learnt from without a promise.
async fn prepared(
    service: &Service,
    project: &Project,
    ask: &Ask,
    id: &JobId,
) -> Result<Prepared, ServiceError> {
    let train = place(service, project, "training_file", &ask.training_file).await?;
    let valid = match &ask.validation_file {
        Some(file) => Some(place(service, project, "validation_file", file).await?),
        None => None,
    };
    let folder = std::path::absolute(service.store().layout().data_files())
        .map_err(|error| ServiceError::internal("finding the folder of the files", error))?;
    let files = data_files::folder(service.store(), project, &folder)?;
    let document = ask::document(service, project, ask, (train, valid), id).await?;
    if !document.is_private() {
        let mut read = vec![("training_file", ask.training_file.as_str())];
        read.extend(ask.validation_file.as_deref().map(|file| ("validation_file", file)));
        crate::privacy::refuse_unprotected(service, project, &read).await?;
    }
    Ok(Prepared { document, folder, files })
}

/// What becomes a job.
struct Queued {
    /// A plan as JSON.
    spec: String,
    name: String,
    /// The model whose price holds, and its version: of a family that is trained from the start, its name and 0.
    priced: (String, u32),
    asked: Asked,
}

/// The path of a file below the folder of all files.
async fn place(service: &Service, project: &Project, param: &str, id: &str) -> Result<String, ServiceError> {
    let path = files::open(service.store(), project, param, id).await?;
    let name = path.path().file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{id}/{name}"))
}

/// What is tuned, loaded, and what it is.
async fn base_of(
    service: &Service,
    project: &Project,
    ask: &Ask,
    tune: &TuneSpec,
) -> Result<(Arc<Language>, Origin), ServiceError> {
    let reference = tune.base.parse().map_err(StoreError::from)?;
    let language = service.language(project, &reference).await?;
    let whole = language.manifest.kind == ImportedKind::Language;
    if !whole && language.manifest.kind != ImportedKind::Adapter {
        let message = format!("{} makes vectors of texts: it has no answers to learn", language.version.id());
        return Err(ServiceError::unsupported("model", "unsupported_model", message));
    }
    if tune.lora.is_none() && whole && language.manifest.format != "safetensors" {
        let message = format!(
            "{} came as GGUF, whose weights are not trained whole: leave lora out, or import it as safetensors",
            language.version.id()
        );
        return Err(ServiceError::invalid(ask.method.place("lora"), "unsupported_base", message));
    }
    if tune.lora.is_none() && whole && tune.privacy.is_some() {
        let message = "every weight is not learnt with differential privacy in this version: leave lora out";
        return Err(ServiceError::not_implemented(ask.method.place("lora"), message));
    }
    if tune.lora.is_some() && !whole {
        let message =
            format!("{} is an adapter: its own rank and layers are tuned further", language.version.id());
        return Err(ServiceError::invalid(ask.method.place("lora"), "unsupported_base", message));
    }
    Ok((language, if whole { Origin::Whole } else { Origin::Adapter }))
}

/// A fine-tuning whose every example was written by the base's template: its plan, its name, and what will be done; the
/// most passes of its gate's suite are known.
async fn judged(
    service: &Service,
    project: &Project,
    ask: &Ask,
    (tune, of_suite): (TuneSpec, Option<u64>),
    (folder, files): (PathBuf, KeyedPath),
) -> Result<Queued, ServiceError> {
    let (language, origin) = base_of(service, project, ask, &tune).await?;
    let priced = (language.version.name.to_string(), language.version.number);
    let plan = TunePlan {
        base: language.version.id(),
        base_sha256: language.version.sha256.clone(),
        tune,
        base_dir: folder,
        created: Timestamp::now().seconds(),
    };
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let places = ask.places();
    let (plan, train, quote, planned) = blocking(move || {
        let words = Words {
            tokenizer: &language.words.tokenizer,
            template: language.words.template.as_ref(),
            now: plan.created,
        };
        let context = language.manifest.context as usize;
        let chats = chat::load(&plan.tune, words, context, &files, &control).map_err(wrong_data)?;
        let n_valid = chats.valid.as_ref().map_or(0, |part| part.len());
        let n_lines = gate::judge_lines((&plan.tune, places), words, (context, n_valid), &files, &control)?;
        let of_lines = gate::passes_of_lines(&plan.tune, n_lines);
        let train = plan.tune.resolve(chats.train.len(), origin);
        let (trained_tokens, steps) = chat::trained(&train, plan.tune.seed, &chats.train, u64::MAX);
        let planned = privacy::Planned::of_tune(&plan.tune, &train, &chats, steps)?;
        // Of a private run which lines a step draws is a secret: what is expected is told.
        let trained_tokens = match &planned {
            None => trained_tokens,
            Some(planned) => planned.expected(chat::epoch(&chats.train).n_tokens),
        };
        let quote = Quote {
            n_examples: chats.train.len() as u64,
            n_validation: n_valid as u64,
            steps: Some(steps),
            trained_tokens: Some(trained_tokens),
            trained_rows: planned.as_ref().map(|planned| planned.expected_rows),
            gate_passes: of_suite.map(|of_suite| of_suite.saturating_add(of_lines)),
        };
        Ok((plan, train, quote, planned))
    })
    .await?;
    let mut asked = ask.asked(&plan.tune, &train, quote);
    asked.privacy = planned;
    let name = plan.tune.name.clone();
    let spec = serde_json::to_string(&plan).expect("a plan is plain data: bug");
    Ok(Queued { spec, name, priced, asked })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("judging the files broke off", error))?
}

/// Everything that is wrong with the files, at the field of the first of them.
fn wrong_data(error: DataError) -> ServiceError {
    wrong_data_at("training_file", error)
}

fn wrong_data_at(param: &'static str, error: DataError) -> ServiceError {
    match error {
        DataError::Report(report) => ServiceError::WrongFile { param, report: Box::new(report) },
        DataError::Io { source, .. } => ServiceError::internal("reading a file that was brought", source),
        DataError::Stopped(_) => ServiceError::DeadlinePassed,
    }
}

/// One training.
pub async fn find(service: &Service, project: &Project, id: &str) -> Result<Training, ServiceError> {
    with_bill(service, told(service, found(service, project, id).await?)?).await
}

/// With what it costs, and what was trained where it ended before its time.
async fn with_bill(service: &Service, mut training: Training) -> Result<Training, ServiceError> {
    let job = &training.job;
    training.bill = bills::find(service.store(), &job.project, &job.id).await?;
    if let Some(bill) = training.bill.as_ref().filter(|bill| bill.settled_at.is_some()) {
        let some = |n: u64| (n > 0).then_some(n);
        training.trained_tokens = training.trained_tokens.or(some(bill.done.training_tokens));
        training.trained_rows = some(bill.done.training_rows);
        training.gate_passes = training.asked.quote.gate_passes.map(|_| bill.done.passes);
    }
    Ok(training)
}

/// The row of a training that was asked for over HTTP.
async fn found(service: &Service, project: &Project, id: &str) -> Result<Job, ServiceError> {
    let unknown = || ServiceError::NotFound { what: "fine-tuning job", id: id.chars().take(64).collect() };
    let asked: JobId = id.parse().map_err(|_| unknown())?;
    match jobs::find(service.store(), project, &asked).await {
        Ok(job) if job.kind == Kind::Train && job.request.is_some() => Ok(job),
        Ok(_) | Err(StoreError::NotFound { .. }) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

fn told(service: &Service, mut job: Job) -> Result<Training, ServiceError> {
    job.message = files::without_folder(service.store(), &job.message);
    let damaged =
        |source: serde_json::Error| ServiceError::Damaged { id: job.id.to_string(), source: source.into() };
    let asked: Asked = serde_json::from_str(job.request.as_deref().unwrap_or_default()).map_err(damaged)?;
    let outcome: Value =
        job.outcome.as_deref().map_or(Ok(Value::Null), serde_json::from_str).map_err(damaged)?;
    let is_dead = jobs::is_broken_off(service.store(), &job, Timestamp::now())?;
    let state = if is_dead { State::Queued } else { job.state };
    let gate = outcome["gate"].clone();
    let model = outcome["model"].as_str().map(|model| match job.model.starts_with("ft:") {
        // Made once: the bare name is this version, unless its gate holds it back.
        true if gate["held"] != true => job.model.clone(),
        _ => model.to_owned(),
    });
    let estimated_finish = match state {
        State::Running => events::estimated_finish(&log(service, &job)?),
        _ => None,
    };
    let trained_tokens = outcome["trained_tokens"].as_u64();
    Ok(Training {
        asked,
        state,
        model,
        trained_tokens,
        trained_rows: None,
        gate_passes: None,
        result_file: outcome["result_file"].as_str().map(str::to_owned),
        estimated_finish,
        gate,
        bill: None,
        job,
    })
}

/// Which trainings a page has, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub after: Option<String>,
    pub limit: u32,
    pub labels: Labels,
}

/// Which metadata the trainings of a page have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// All of these, and others too.
    With(BTreeMap<String, String>),
    Without,
}

impl Default for Labels {
    fn default() -> Self {
        Labels::With(BTreeMap::new())
    }
}

impl Labels {
    fn fit(&self, metadata: &BTreeMap<String, String>) -> bool {
        match self {
            Labels::With(labels) => labels.iter().all(|(key, value)| metadata.get(key) == Some(value)),
            Labels::Without => metadata.is_empty(),
        }
    }
}

/// A page of trainings, and whether there are more behind it.
pub async fn list(
    service: &Service,
    project: &Project,
    query: &Query,
) -> Result<(Vec<Training>, bool), ServiceError> {
    let mut page = jobs::Page { after: None, limit: limits::TRAININGS_LISTED_MAX };
    if let Some(after) = &query.after {
        page.after = Some(
            found(service, project, after)
                .await
                .map_err(|_| {
                    ServiceError::invalid("after", "not_found", "there is no fine-tuning job of this id")
                })?
                .id,
        );
    }
    let mut matching = Vec::new();
    loop {
        let (jobs, has_more) = jobs::list_requested(service.store(), project, &page).await?;
        page.after = jobs.last().map(|job| job.id.clone());
        for job in jobs {
            let training = told(service, job)?;
            if query.labels.fit(&training.asked.metadata) {
                matching.push(training);
            }
        }
        if !has_more || matching.len() > query.limit as usize {
            break;
        }
    }
    let has_more = matching.len() > query.limit as usize;
    matching.truncate(query.limit as usize);
    let mut page = Vec::with_capacity(matching.len());
    for training in matching {
        page.push(with_bill(service, training).await?);
    }
    Ok((page, has_more))
}

/// What may be asked of a training that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ends: what waits or is paused at once, what runs within seconds.
    Cancel,
    /// It stops with a checkpoint and goes on when it is resumed.
    Pause,
    Resume,
}

/// Asks a training to end, to stop for a while, or to go on.
///
/// # Errors
/// 409 where its state does not allow it.
pub async fn change(
    service: &Service,
    project: &Project,
    id: &str,
    change: Change,
) -> Result<Training, ServiceError> {
    let (store, job, now) = (service.store(), found(service, project, id).await?, Timestamp::now());
    let done = match change {
        Change::Cancel => jobs::cancel(store, project, &job.id, now).await.map(drop),
        Change::Pause => jobs::pause(store, project, &job.id, now).await.map(drop),
        Change::Resume => service.ledger().resume(project, &job.id).await?,
    };
    match done {
        Ok(()) => {}
        Err(StoreError::JobState { operation, state, .. }) => {
            let message = format!("the fine-tuning job is {}: it cannot {operation}", status(&state));
            return Err(ServiceError::Conflict { code: "wrong_state", message });
        }
        Err(error) => return Err(error.into()),
    }
    service.trainings_wanted.notify_one();
    find(service, project, id).await
}

/// OpenAI's word for a state.
fn status(state: &str) -> &str {
    if state == State::Done.as_str() { "succeeded" } else { state }
}

/// The name of a tuned model: `ft:BASE:PROJECT:SUFFIX:ID`.
///
/// # Errors
/// It would be longer than a name may be, or the suffix has other letters.
fn tuned_name(
    project: &Project,
    base: &str,
    suffix: Option<&str>,
    id: &JobId,
) -> Result<String, ServiceError> {
    let name = base.split('@').next().unwrap_or(base);
    // What was tuned before is told by its lineage; its name keeps the model at its root.
    let root = name.strip_prefix("ft:").and_then(|rest| rest.split(':').next()).unwrap_or(name);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let owner: String = project.id.chars().map(plain).collect();
    let digits = &id.as_str()[id.as_str().len() - 12..];
    let name = format!("ft:{root}:{owner}:{}:{digits}", suffix.unwrap_or_default());
    let longest = format!("{name}:ckpt-step-{}", u32::MAX);
    match longest.parse::<lyceum_types::ids::ModelName>() {
        Ok(_) => Ok(name),
        Err(error) => {
            let message = format!("the tuned model would be called {name}, and a name {}", error.why);
            Err(ServiceError::invalid("suffix", "invalid_value", message))
        }
    }
}

/// The log of a job.
fn log(service: &Service, job: &Job) -> Result<KeyedPath, ServiceError> {
    Ok(vault::job_folder(service.store(), &job.project, &job.id)?.join(kept::LOG))
}

/// Whether a path leads nowhere but below the folder of files: what a document names must be an id.
fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
