//! A choice from its job's row to its document: what `choose`, `jobs resume` and the server's worker share.

use super::answers::Answers;
use super::{show, wire};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::progress::Progress;
use crate::training::{self, Takes, take};
use lyceum_choose::served::Served;
use lyceum_choose::{ChooseError, Event, Selection, Watch};
use lyceum_service::language::import::hash_of;
use lyceum_service::selections::Plan;
use lyceum_store::jobs::{self, Claim, Job, Signal};
use lyceum_store::ledger::{Counts, bills};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError, data_files, selections};
use lyceum_train::TrainError;
use lyceum_train::data::DataError;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::SelectionId;
use lyceum_types::limits;
use lyceum_types::manifest::DataFile;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the row learns how far the choice is; a cancellation is seen then.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// What a choice gave.
pub struct Chosen {
    pub selection: Selection,
    pub document: Value,
    pub path: PathBuf,
}

/// The plan in a job's row.
pub fn plan(job: &Job) -> Result<Plan, Failure> {
    Plan::from_job(job).map_err(|error| {
        let message = format!("the document of job {} cannot be read", job.id);
        Failure::new(Exit::Failed, "damaged_job", message, error.to_string(), "choose anew")
    })
}

/// A new job that this process works on.
pub async fn begin(context: &Context, store: &Store, plan: &Plan) -> Result<Claim, Failure> {
    let worker = format!("pid {}", std::process::id());
    Ok(jobs::create_claimed(store, &context.project, plan.job(), &worker, Timestamp::now()).await?)
}

/// Chooses under a claim, writes the document and ends the job.
pub async fn carry_out(
    context: &Context,
    store: &Store,
    claim: &Claim,
    plan: &Plan,
) -> Result<Chosen, Failure> {
    // It begins anew: what an attempt did that died is nobody's to pay.
    claim.count(Counts::default());
    if claim.attempt > limits::SELECTION_ATTEMPTS_MAX {
        let message = format!("its process died {} times", claim.attempt - 1);
        jobs::finish_failed(store, claim, &message, Timestamp::now()).await?;
        let why = "it may need more memory than there is";
        return Err(Failure::new(
            Exit::Failed,
            "choice_died",
            message,
            why,
            "choose among smaller candidates",
        ));
    }
    let far = Arc::new(Mutex::new(jobs::Progress { step: 0, steps: 0, message: String::new() }));
    let work = choose_and_register(context, store, claim, plan, far.clone());
    let worked = reporting(store, claim, &context.control, &far, work).await;
    count(store, claim).await;
    match worked {
        Ok(chosen) => {
            let outcome = chosen.document.to_string();
            jobs::finish_done_with(store, claim, &outcome, Timestamp::now()).await?;
            Ok(chosen)
        }
        Err(mut failure) => {
            let (now, is_stopped) = (Timestamp::now(), failure.exit == Exit::Interrupted);
            let message = if is_stopped { "cancelled".to_owned() } else { failure.message.clone() };
            let ended = if is_stopped {
                failure.fix = format!("lyceum jobs resume {} begins the race anew", claim.id());
                jobs::finish_cancelled(store, claim, &message, now).await
            } else {
                jobs::finish_failed(store, claim, &message, now).await
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the job's end was not written");
            }
            Err(failure)
        }
    }
}

/// Counts the seconds that this process spent on processors, up to what the choice is charged at most.
async fn count(store: &Store, claim: &Claim) {
    let bill = bills::find(store, &claim.project, claim.id()).await;
    let most = match bill {
        Ok(Some(bill)) => bill.most.cpu_seconds,
        // Nobody pays.
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "the bill of the choice cannot be read");
            return;
        }
    };
    if let Some(seconds) = cpu_seconds() {
        claim.count(Counts { cpu_seconds: seconds.min(most), ..Counts::default() });
    }
}

/// Whole seconds that all threads of this process, those that have ended too, spent on processors; None: the system does
/// not tell (it is Linux that does, in hundredths).
fn cpu_seconds() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name in brackets, which may have spaces: the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>().ok()?;
    (ticks.len() == 2).then(|| (ticks[0] + ticks[1]).div_ceil(100))
}

async fn choose_and_register(
    context: &Context,
    store: &Store,
    own: &Claim,
    plan: &Plan,
    far: Arc<Mutex<jobs::Progress>>,
) -> Result<Chosen, Failure> {
    let asked = plan.spec.clone();
    let folder = data_files::folder(store, &context.project, &plan.base_dir)?;
    for file in files_of(plan, &folder).await? {
        training::note_unprotected(store, &context.project, own.id(), &file).await.map_err(Failure::from)?;
    }
    let (control, is_json) = (context.control.clone(), context.is_json());
    let answers = match plan.spec.imported.is_empty() {
        true => None,
        false => Some(Arc::new(Answers::start(context, store)?)),
    };
    let asked_of = answers.clone();
    let work = move || {
        let mut told = Told { is_json, progress: Progress::new("choosing", is_json), n_runs: 0, far };
        let found = {
            let served = asked_of.as_deref().map(|answers| answers as &dyn Served);
            lyceum_choose::choose(&asked, &folder, served, &mut told, &control)
        };
        told.progress.finish();
        found
    };
    let done = tokio::task::spawn_blocking(work).await;
    let selection = done.map_err(|error| Failure::internal("the choice broke off", &error))?;
    let selection = selection.map_err(|error| {
        let is_stopped = matches!(
            error,
            ChooseError::Train(TrainError::Stopped { .. } | TrainError::Data(DataError::Stopped(_)))
        );
        let mut failure = Failure::from(error);
        if is_stopped {
            failure.exit = Exit::Interrupted;
        }
        failure
    })?;
    let id = SelectionId::of_job(own.id());
    let mut document = wire::document(&id, &plan.spec, &selection, Timestamp::now());
    let job = selection.recommendation.as_ref().ok().and_then(|taken| taken.job.clone());
    if let (Some(spec), true) = (job, plan.registers) {
        let plan = training::Plan { spec, base_dir: plan.base_dir.clone() };
        let job = training::create(context, store, &plan).await?;
        let claim = take(context, store, &job, Takes::Any).await?;
        let outcome = training::carry_out(context, store, claim, plan).await?;
        let line: Value = serde_json::from_str(&outcome)
            .map_err(|error| Failure::internal("the outcome of the job cannot be read", &error))?;
        wire::add_registered(&mut document, &line);
    }
    let adapter = selection.recommendation.as_ref().ok().and_then(|taken| taken.tuned.as_ref());
    if let (Some(adapter), Some(answers), true) = (adapter, &answers, plan.registers) {
        let at = (context, store, own);
        let version = answers.adapters().publish(at, adapter, &plan.spec.name).await?;
        document["recommendation"]["model"] = Value::from(version.id());
    }
    let bytes = serde_json::to_vec_pretty(&document).expect("a document is plain data: bug");
    let path = selections::save(store, &context.project, &id, &bytes)?;
    Ok(Chosen { selection, document, path })
}

/// The data files of a choice. Candidates are trained and compared without noise, which a file with a budget does not allow.
async fn files_of(plan: &Plan, folder: &KeyedPath) -> Result<Vec<DataFile>, Failure> {
    let data = &plan.spec.data;
    let parts = [("train", Some(&data.train)), ("valid", data.valid.as_ref()), ("test", data.test.as_ref())];
    let named = parts.into_iter().filter_map(|(role, path)| Some((role.to_owned(), path?.clone())));
    let (named, folder): (Vec<_>, _) = (named.collect(), folder.clone());
    let read = move || {
        // A folder of sounds has no hash of its own; what is not there is told where it is read.
        let file = |(role, path): (String, String)| {
            Some(DataFile { role, sha256: hash_of(folder.join(&path)).ok()?, path, rows: 0 })
        };
        named.into_iter().filter_map(file).collect()
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.map_err(|error| Failure::internal("reading the data broke off", &error))
}

/// Tells the row how far `work` is while it is under way, and cancels it when somebody asks for that.
async fn reporting<T>(
    store: &Store,
    claim: &Claim,
    control: &Control,
    far: &Mutex<jobs::Progress>,
    work: impl Future<Output = T>,
) -> T {
    let reports = async {
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            report(store, claim, control, far).await;
        }
    };
    // Both go on at once: the work may hold the connection that a report waits for.
    tokio::select! {
        done = work => done,
        never = reports => never,
    }
}

async fn report(store: &Store, claim: &Claim, control: &Control, far: &Mutex<jobs::Progress>) {
    count(store, claim).await;
    let now = far.lock().map(|far| far.clone()).unwrap_or_else(|poisoned| poisoned.into_inner().clone());
    match jobs::report(store, claim, &now, Timestamp::now()).await {
        Ok(Signal::Continue) => {}
        // Fenced: somebody else works on it now, and what this process does no longer counts.
        // A choice has no middle to go on from: nothing lets one be paused.
        Ok(Signal::Cancel | Signal::Pause) | Err(StoreError::Fenced { .. }) => control.cancel(),
        Err(error) => tracing::warn!(%error, "the choice's progress was not written"),
    }
}

/// `jobs resume` of a choice: what it found, or the race anew. `takes`: how the job may be claimed.
pub async fn resume(context: &Context, store: &Store, job: &Job, takes: Takes) -> Result<(), Failure> {
    if let (jobs::State::Done, Some(outcome)) = (job.state, &job.outcome) {
        return say_found(context, outcome);
    }
    let claim = take(context, store, &job.id, takes).await?;
    let chosen = carry_out(context, store, &claim, &plan(job)?).await?;
    say(context, chosen)
}

/// The result, and the word of failure where no candidate is left.
pub fn say(context: &Context, chosen: Chosen) -> Result<(), Failure> {
    let Chosen { selection, document, path } = chosen;
    if context.is_json() {
        say_lines(document, &path);
    } else {
        show::print(&selection, &document, &path);
    }
    match &selection.recommendation {
        Ok(_) => Ok(()),
        Err(sentence) => Err(nothing_left(sentence)),
    }
}

/// The result of a choice that was made before.
fn say_found(context: &Context, outcome: &str) -> Result<(), Failure> {
    let document: Value = serde_json::from_str(outcome)
        .map_err(|error| Failure::internal("the outcome of the job cannot be read", &error))?;
    if let Some(sentence) = document["nothing_left"].as_str() {
        return Err(nothing_left(sentence));
    }
    if context.is_json() {
        output::json_line(&document);
    } else {
        output::text(document["recommendation"]["sentence"].as_str().unwrap_or_default());
        show::model(&document);
    }
    Ok(())
}

fn nothing_left(sentence: &str) -> Failure {
    let why = "every candidate breaks a limit of the document";
    let fix = "loosen that limit, or name smaller candidates";
    Failure::new(Exit::Failed, "no_candidate", sentence, why, fix)
}

/// A line a row, then the document.
fn say_lines(mut document: Value, path: &Path) {
    for row in document["rows"].as_array().into_iter().flatten() {
        let mut line = json!({ "event": "row" });
        if let (Value::Object(line), Value::Object(row)) = (&mut line, row) {
            line.extend(row.clone());
        }
        output::json_line(&line);
    }
    document["path"] = Value::from(path.display().to_string());
    let mut line = json!({ "event": "done" });
    if let (Value::Object(line), Value::Object(document)) = (&mut line, document) {
        line.extend(document);
    }
    output::json_line(&line);
}

/// Says what happens while it happens.
struct Told {
    is_json: bool,
    progress: Progress,
    n_runs: u64,
    far: Arc<Mutex<jobs::Progress>>,
}

impl Told {
    fn note(&self, message: String) {
        if let Ok(mut far) = self.far.lock() {
            *far = jobs::Progress { step: self.n_runs, steps: 0, message };
        }
    }
}

impl Watch for Told {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Ran { .. } = event {
            self.n_runs += 1;
        }
        match event {
            Event::Entered(row) => self.note(format!("looked at {}", row.name)),
            Event::Ran { name, run, .. } => self.note(ran(name, *run)),
            Event::Measuring { finalists } => self.note(format!("measuring {finalists} finalists")),
        }
        if self.is_json {
            output::json_line(&wire::event(event));
            return;
        }
        match event {
            Event::Entered(row) => {
                if let Some(out) = show::why_out(row) {
                    self.progress.note(&format!("{} does not run: {out}", row.name));
                }
            }
            Event::Ran { name, run, ended } => {
                let what = ran(name, *run);
                match ended {
                    Ok(trial) => {
                        self.progress.at(self.n_runs, self.n_runs, &format!("{what}: {:.1} s", trial.seconds))
                    }
                    Err(out) => self.progress.note(&format!("{what}: {}", show::out(out))),
                }
            }
            Event::Measuring { finalists } => self.progress.note(&format!("measuring {finalists} finalists")),
        }
    }
}

fn ran(name: &str, run: lyceum_choose::race::Run) -> String {
    format!("{name}, seed {}, {:.0} % of the training", run.seed + 1, run.share * 100.0)
}
