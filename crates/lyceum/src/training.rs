//! A training job from its row to its version: what `train` and `jobs resume` share.
//!
//! Training is synchronous and knows no store; its observer here prints, keeps the job's log, renews the lease
//! and passes a cancellation on.

use crate::bucket::{self, Lease};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::gate::{self, Watch};
use crate::output;
use crate::progress::Progress;
use crate::results;
use lyceum_service::Resident;
use lyceum_store::files::Staging;
use lyceum_store::jobs::kept::{self, LOG};
use lyceum_store::jobs::{self, Claim, Job, Signal};
use lyceum_store::layout::WEIGHTS;
use lyceum_store::ledger::Counts;
use lyceum_store::models::NewVersion;
use lyceum_store::vault::lines::Lines;
use lyceum_store::vault::{self, KeyedPath};
use lyceum_store::{Store, StoreError, data_files, privacy};
use lyceum_train::version::{VersionFiles, VersionName, version_files};
use lyceum_train::{Event, Fitted, Observer, StepEvent, TrainError, Trained};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::{Control, Stop};
use lyceum_types::ids::{JobId, ModelName, Project};
use lyceum_types::manifest::DataFile;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often stdout has a step; the log, which has the lines of a job as `train --json` prints them, has every one.
const LINE_EVERY: Duration = Duration::from_millis(250);
/// How often the row learns the step; the lease is renewed with it.
const REPORT_EVERY: Duration = Duration::from_secs(1);

pub use lyceum_types::spec::Plan;

/// The plan that a job was made with.
pub fn plan_of(job: &Job) -> Result<Plan, Failure> {
    serde_json::from_str(&job.spec).map_err(|error| {
        let message = format!("the spec of job {} cannot be read", job.id);
        let fix = "train it anew from its spec";
        Failure::new(Exit::Failed, "damaged_job", message, error.to_string(), fix)
    })
}

/// Puts a new job into the store.
pub async fn create(context: &Context, store: &Store, plan: &Plan) -> Result<JobId, Failure> {
    let spec = serde_json::to_string(plan).expect("a plan is plain data: bug");
    let steps = plan.spec.train.steps.unwrap_or(0) as u64;
    let new = jobs::NewJob {
        kind: jobs::Kind::Train,
        spec,
        request: None,
        model: plan.spec.name.clone(),
        steps,
        bill: None,
    };
    Ok(jobs::create(store, &context.project, new, Timestamp::now()).await?)
}

/// Which jobs may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Also what has failed, was cancelled or is paused.
    Any,
    /// What waits for its first end.
    Waiting,
}

pub async fn take(context: &Context, store: &Store, id: &JobId, takes: Takes) -> Result<Claim, Failure> {
    let worker = format!("pid {}", std::process::id());
    let now = Timestamp::now();
    Ok(match takes {
        Takes::Any => jobs::claim(store, &context.project, id, &worker, now).await?,
        Takes::Waiting => jobs::claim_waiting(store, &context.project, id, &worker, now).await?,
    })
}

/// Works on a job of this process until it ends, and says how it ended.
pub async fn run(context: &Context, store: &Store, id: &JobId, plan: Plan) -> Result<(), Failure> {
    let claim = take(context, store, id, Takes::Any).await?;
    run_claimed(context, store, claim, plan).await
}

/// Works on a job under a claim until it ends, and says how it ended.
pub async fn run_claimed(context: &Context, store: &Store, claim: Claim, plan: Plan) -> Result<(), Failure> {
    let outcome = carry_out(context, store, claim, plan).await?;
    say_done(context, &outcome)
}

/// Works on a job until it ends. Returns its `done` line.
pub async fn carry_out(
    context: &Context,
    store: &Store,
    claim: Claim,
    plan: Plan,
) -> Result<String, Failure> {
    let claim = Arc::new(claim);
    // First: what follows may fetch models and data, for longer than the claim alone holds.
    let _lease = Lease::hold(store, &claim);
    if let Err(failure) = gate::rehearse(context, store, &plan).await {
        end_failed(store, &claim, &failure).await;
        return Err(failure);
    }
    let files = data_files::folder(store, &claim.project, &plan.base_dir)?;
    let mut observer = JobObserver::begin(context, store, &claim).await?;
    // Its noise is a secret of this machine.
    let bringing = plan.spec.privacy.is_none().then(|| bucket::bring(store, &claim, &mut observer));
    let control = context.control.clone();
    let (plan, result, wish) = tokio::task::spawn_blocking(move || {
        let mut observer = observer;
        let result = lyceum_train::train(&plan.spec, &files, &mut observer, &control);
        (plan, result, observer.close())
    })
    .await
    .map_err(|error| Failure::internal("training broke off", &error))?;
    bucket::brought(bringing, bucket::Ended::of(&result, wish), (store, &claim, &context.control)).await;
    match result {
        Ok(fitted) => publish(context, store, &claim, &plan, fitted).await,
        Err(error) => Err(ended(store, &claim, error, wish).await),
    }
}

/// Whether somebody had the training stop.
pub fn is_stop(error: &TrainError) -> bool {
    matches!(error, TrainError::Stopped { .. } | TrainError::Data(lyceum_train::data::DataError::Stopped(_)))
}

/// Writes how a job ended that training gave up, and says what can be done.
pub async fn ended(store: &Store, claim: &Claim, error: TrainError, wish: Wish) -> Failure {
    let (id, now) = (claim.id(), Timestamp::now());
    let stopped = is_stop(&error);
    let message = error.to_string();
    let ended = match (stopped, wish) {
        (true, Wish::Pause) => jobs::finish_paused(store, claim, &message, now).await,
        (true, Wish::Interrupt | Wish::End) => jobs::finish_cancelled(store, claim, &message, now).await,
        (false, _) => jobs::finish_failed(store, claim, &message, now).await,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the job's end was not written");
    }
    let mut failure = Failure::from(error);
    if failure.code == "disk_full" {
        failure.fix = format!("free some space, then lyceum jobs resume {id}; what was kept is whole");
    }
    if stopped {
        let kept = lyceum_train::checkpoint::list(&store.layout().checkpoints_dir(id));
        failure.fix = match kept {
            Ok(kept) if kept.is_empty() => {
                format!("no checkpoint was reached; lyceum jobs resume {id} begins anew")
            }
            _ => format!("lyceum jobs resume {id} continues from the last checkpoint, which was kept"),
        };
    }
    failure
}

/// Writes how a job ended that did not get to its version.
pub async fn end_failed(store: &Store, claim: &Claim, failure: &Failure) {
    end_wished(store, claim, failure, Wish::Interrupt).await;
}

/// As [`end_failed`]; where it was interrupted, by what somebody wished.
pub async fn end_wished(store: &Store, claim: &Claim, failure: &Failure, wish: Wish) {
    let (now, message) = (Timestamp::now(), format!("{}: {}", failure.message, failure.why));
    let ended = match (failure.exit, wish) {
        (Exit::Interrupted, Wish::Pause) => jobs::finish_paused(store, claim, &message, now).await,
        (Exit::Interrupted, _) => jobs::finish_cancelled(store, claim, &message, now).await,
        _ => jobs::finish_failed(store, claim, &message, now).await,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the job's end was not written");
    }
}

/// Writes the version's folder, lets its gate judge it, and makes it visible together with the job's end. Returns the
/// `done` line.
async fn publish(
    context: &Context,
    store: &Store,
    claim: &Claim,
    plan: &Plan,
    fitted: Fitted,
) -> Result<String, Failure> {
    let spec = &plan.spec;
    let created = Timestamp::now();
    let name = VersionName {
        name: spec.name.clone(),
        // The store gives the number; the manifest gets it there.
        version: 0,
        created: created.seconds().max(0) as u64,
        job: Some(claim.id().to_string()),
    };
    let VersionFiles { mut manifest, files } = version_files(spec, &fitted, &name)?;
    let staging = Staging::of(store, &claim.project)?;
    let mut weights = &[][..];
    for (file, content) in &files {
        let path = staging.place().join(file);
        path.write(content).map_err(|error| Failure::file("write", path.path(), &error))?;
        if file == WEIGHTS {
            weights = content;
        }
    }
    let mut new = NewVersion {
        name: spec.name.parse::<ModelName>()?,
        family: spec.model.family().to_owned(),
        task: spec.task.as_str().to_owned(),
        n_params: manifest.n_parameters,
        bytes: weights.len() as u64,
        sha256: manifest.weights_sha256.clone(),
        job: Some(claim.id().clone()),
        held: None,
    };
    let mut gated = match &spec.gate {
        None => None,
        Some(_) => {
            let fresh = Resident::unpublished(&new, manifest.clone(), weights, staging.place())?;
            let fresh = Arc::new(fresh);
            let mut watch = Watch::new(context, store, claim);
            match gate::judge(context, store, (plan, &fresh), &mut watch).await {
                Ok(judged) => judged.map(|judged| (fresh, judged)),
                Err(mut failure) => {
                    end_wished(store, claim, &failure, watch.wish()).await;
                    failure.fix = format!("lyceum jobs resume {} measures again", claim.id());
                    return Err(failure);
                }
            }
        }
    };
    let result_file = match results::keep(store, claim).await {
        Ok(file) => file,
        Err(failure) => {
            end_failed(store, claim, &failure).await;
            return Err(failure);
        }
    };
    new.held = gated.as_ref().and_then(|(_, judged)| judged.held.clone());
    let mut done = json!({
        "event": "done",
        "model": null,
        "job": claim.id().as_str(),
        "steps": manifest.steps,
        "seconds": manifest.seconds,
        "metrics": manifest.metrics,
        "baseline": manifest.baseline.as_ref().map(|report| &report.metrics),
        "baseline_name": manifest.baseline.as_ref().map(|report| &report.name),
        "strong_baseline": manifest.strong_baseline.as_ref().map(|report| &report.metrics),
        "strong_baseline_name": manifest.strong_baseline.as_ref().map(|report| &report.name),
        "verdict": manifest.verdict,
        "privacy": manifest.privacy,
        "gate": gated.as_ref().map(|(_, judged)| &judged.line),
        "result_file": result_file,
        "path": null,
    });
    let write_manifest = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let mut line = String::new();
    let write_outcome = |version: &lyceum_store::models::Version| {
        done["model"] = Value::from(version.id());
        done["path"] = Value::from(version.dir.display().to_string());
        line = done.to_string();
        line.clone()
    };
    let version =
        jobs::finish_done(store, claim, new, staging, write_manifest, write_outcome, Timestamp::now())
            .await?;
    if let Some((fresh, judged)) = &mut gated
        && let Some(fresh) = Arc::get_mut(fresh)
    {
        gate::keep(store, judged, fresh, (&version, plan)).await?;
    }
    Ok(line)
}

/// The result of a finished job, from its `done` line.
pub fn say_done(context: &Context, outcome: &str) -> Result<(), Failure> {
    let done: Value = serde_json::from_str(outcome)
        .map_err(|error| Failure::internal("the outcome of the job cannot be read", &error))?;
    if context.is_json() {
        output::write_stdout(&format!("{outcome}\n"));
        return refuse_held(&done);
    }
    let text = |key: &str| done[key].as_str().unwrap_or_default().to_owned();
    output::text(format!("{}  {}", text("model"), text("path")));
    let number = |metrics: &Value, name: &str| {
        serde_json::from_value::<lyceum_types::manifest::Metric>(metrics[name].clone())
            .map_or_else(|_| String::new(), |metric| crate::commands::show::metric(&metric))
    };
    let rows: Vec<Vec<String>> = done["metrics"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| {
            let of = |key: &str| number(&done[key], name);
            vec![name.clone(), of("metrics"), of("baseline"), of("strong_baseline")]
        })
        .collect();
    let (trivial, strong) = (text("baseline_name"), text("strong_baseline_name"));
    output::table(&["metric", "model", &trivial, &strong], &rows);
    let verdict = text("verdict");
    if !verdict.is_empty() {
        output::text(verdict);
    }
    if done["gate"]["held"] == false {
        let why = done["gate"]["why"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        output::text(format!("its gate let it pass{why}"));
    }
    refuse_held(&done)
}

/// A version that its gate holds is a job that is done and a command that says no. `done` has its `model` and its `gate`.
pub fn refuse_held(done: &Value) -> Result<(), Failure> {
    if done["gate"]["held"] != true {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (model, why) = (text(&done["model"]), text(&done["gate"]["why"]));
    let name = model.split('@').next().unwrap_or_default();
    // Of a name that serves nothing yet the other side was the base.
    let served = done["gate"]["compared_to"].as_str().filter(|other| other.split('@').next() == Some(name));
    let message = match served {
        Some(served) => format!("{model} is held by its gate: {name} goes on serving {served}"),
        None => format!("{model} is held by its gate: {name} does not serve it"),
    };
    // Losses are what fine-tunings are compared by.
    let how = match done["gate"].get("max_rise") {
        None => "train with train.robust",
        Some(_) => "tune it on more or other lines",
    };
    let fix = format!("{how}, or lyceum promote {model} to serve it all the same");
    Err(Failure::new(Exit::Failed, "gate_refused", message, why, fix))
}

/// What somebody meant who had a job stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ctrl-C: nobody asked for it elsewhere.
    Interrupt,
    End,
    /// It goes on later.
    Pause,
}

/// Prints, logs, reports.
pub struct JobObserver {
    is_json: bool,
    progress: Progress,
    log: Lines,
    log_path: KeyedPath,
    checkpoints: KeyedPath,
    store: Store,
    project: Project,
    claim: Arc<Claim>,
    runtime: tokio::runtime::Handle,
    control: Control,
    printed: Option<Instant>,
    reported: Option<Instant>,
    /// The loss that an earlier attempt had at the step after its last checkpoint.
    replaces: Option<(u64, f64)>,
    /// That folds were trained on.
    folded_rows: u64,
    /// Who is told of the newest checkpoint.
    kept: Vec<watch::Sender<Option<KeyedPath>>>,
    wish: Wish,
}

impl JobObserver {
    /// Begins an attempt: what an earlier one of another machine left is fetched first.
    pub async fn begin(context: &Context, store: &Store, claim: &Arc<Claim>) -> Result<Self, Failure> {
        let begun = match kept::bring_back(store, claim).await {
            Ok(()) => Self::new(context, store, claim.clone()),
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = &begun {
            end_failed(store, claim, failure).await;
        }
        begun
    }

    fn new(context: &Context, store: &Store, claim: Arc<Claim>) -> Result<Self, Failure> {
        let folder = vault::job_folder(store, &claim.project, claim.id())?;
        let log_path = folder.join(LOG);
        let log = Lines::append(log_path.clone());
        let log = log.map_err(|error| Failure::file("write", log_path.path(), &error))?;
        Ok(JobObserver {
            is_json: context.is_json(),
            progress: Progress::new("training", context.is_json()),
            log,
            log_path,
            checkpoints: folder.join("checkpoints"),
            store: store.clone(),
            project: context.project.clone(),
            claim,
            runtime: tokio::runtime::Handle::current(),
            control: context.control.clone(),
            printed: None,
            reported: None,
            replaces: None,
            folded_rows: 0,
            kept: Vec::new(),
            wish: Wish::Interrupt,
        })
    }

    /// Tells of each checkpoint from now on, until it is closed.
    pub fn tell_kept(&mut self, kept: watch::Sender<Option<KeyedPath>>) {
        self.kept.push(kept);
    }

    /// What somebody meant, where the job was stopped.
    pub fn close(mut self) -> Wish {
        if let Err(error) = self.log.flush() {
            tracing::warn!(%error, "the job's log is incomplete");
        }
        self.progress.finish();
        self.wish
    }

    /// A line of the log, with its time; on stdout too with `--json`.
    fn line(&mut self, value: &Value, where_to: Where) -> Result<(), TrainError> {
        let mut stamped = value.clone();
        stamped["time"] = Timestamp::now().millis().into();
        self.log.write(&stamped.to_string()).map_err(|source| self.log_failed(source))?;
        if where_to == Where::LogAndOutput {
            // Whoever reads the log while the job runs sees what its terminal sees.
            self.log.flush().map_err(|source| self.log_failed(source))?;
            if self.is_json {
                output::json_line(value);
            }
        }
        Ok(())
    }

    fn log_failed(&self, source: std::io::Error) -> TrainError {
        TrainError::Io { action: "write", path: self.log_path.display().to_string(), source }
    }

    /// What is paid for, where somebody pays.
    fn count(&self, trained: Trained) {
        self.claim.count(match trained {
            Trained::Tokens(n) => Counts { training_tokens: n, ..Counts::default() },
            Trained::Rows(n) => Counts { training_rows: n + self.folded_rows, ..Counts::default() },
        });
    }

    fn step(&mut self, step: &StepEvent) -> Result<(), TrainError> {
        self.count(step.trained);
        let is_last = step.step == step.total_steps;
        let is_due =
            |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every) || is_last;
        let print = is_due(self.printed, LINE_EVERY);
        if print {
            self.printed = Some(Instant::now());
        }
        let where_to = if print { Where::LogAndOutput } else { Where::Log };
        let mut line = json!({
            "event": "progress",
            "step": step.step,
            "epoch": step.epoch,
            "loss": step.loss,
            "lr": step.lr,
            "samples_per_s": step.samples_per_s,
            "eta_s": step.eta_s,
        });
        if let Some(accuracy) = step.token_accuracy {
            line["token_accuracy"] = accuracy.into();
        }
        self.line(&line, where_to)?;
        if let Some((_, replaced)) = self.replaces.take_if(|(at, _)| *at == step.step) {
            let line = json!({ "event": "replaced", "step": step.step, "loss": step.loss, "replaced_loss": replaced });
            self.line(&line, Where::LogAndOutput)?;
        }
        if print {
            let loss = step.loss;
            // The loss of private rows is not told.
            let loss = if loss.is_nan() { String::new() } else { format!("loss {loss:.4}  ") };
            let message = format!(
                "{loss}lr {:.2e}  {:.0} samples/s  {} left",
                step.lr,
                step.samples_per_s,
                for_people(step.eta_s)
            );
            self.progress.at(step.step, step.total_steps, &message);
        }
        if is_due(self.reported, REPORT_EVERY) {
            self.reported = Some(Instant::now());
            self.report(step.step, step.total_steps)?;
        }
        Ok(())
    }

    /// Tells the row; a lost claim or a cancellation ends the run.
    fn report(&mut self, step: u64, steps: u64) -> Result<(), TrainError> {
        let progress = jobs::Progress { step, steps, message: String::new() };
        let told = jobs::report(&self.store, &self.claim, &progress, Timestamp::now());
        match self.runtime.block_on(told) {
            Ok(Signal::Continue) => Ok(()),
            Ok(signal @ (Signal::Cancel | Signal::Pause)) => {
                self.wish = if signal == Signal::Pause { Wish::Pause } else { Wish::End };
                self.control.cancel();
                Ok(())
            }
            // Somebody else works on it now: what this process does no longer counts.
            Err(StoreError::Fenced { .. }) => Err(TrainError::Stopped { step, stop: Stop::Cancelled }),
            Err(error) => {
                tracing::warn!(%error, "the job's progress was not written");
                Ok(())
            }
        }
    }

    /// The last loss that the log has of this step.
    fn logged_loss(&self, step: u64) -> Option<f64> {
        let lines = vault::lines::read(&self.log_path, 0, u64::MAX).ok()?;
        let loss = |(_, line): (u64, String)| {
            let line: Value = serde_json::from_str(&line).ok()?;
            (line["event"] == "progress" && line["step"] == step).then(|| line["loss"].as_f64())?
        };
        lines.into_iter().rev().find_map(loss)
    }

    /// Takes what a private run costs of its data set's budget, or keeps it from starting.
    fn take(
        &mut self,
        data_sha256: &str,
        event: lyceum_privacy::Event,
        delta: f64,
    ) -> Result<(), TrainError> {
        let setting = (event.q(), event.sigma(), event.steps());
        let mut spend = privacy::spend_of(self.claim.id(), data_sha256, setting, delta);
        spend.created_at = Timestamp::now();
        let judge = |budget: Option<&privacy::Budget>, others: &[privacy::Spend]| {
            lyceum_service::privacy::judge(budget, others, &spend)
        };
        let taken = self.runtime.block_on(privacy::take(&self.store, &self.project, &spend, judge));
        match taken {
            Ok(privacy::Spent::Written) => {}
            Ok(privacy::Spent::Refused(why)) => return Err(TrainError::BudgetExceeded(why)),
            // What is not in the ledger must not happen.
            Err(error) => return Err(TrainError::Privacy(format!("the ledger was not written: {error}"))),
        }
        let (q, sigma, steps) = setting;
        self.progress.note(&format!("privacy: {steps} steps at q = {q:.4} with σ = {sigma:.3}"));
        let line = json!({ "event": "privacy", "q": q, "sigma": sigma, "steps": steps, "delta": delta });
        self.line(&line, Where::LogAndOutput)
    }

    /// Keeps a run without noise from a file that has a budget, and writes down that it reads any other.
    fn note_unprotected(&mut self, file: &DataFile) -> Result<(), TrainError> {
        let noted = note_unprotected(&self.store, &self.project, self.claim.id(), file);
        self.runtime.block_on(noted)
    }

    fn resumed(&mut self, step: u64, path: &KeyedPath) -> Result<(), TrainError> {
        self.log.flush().map_err(|source| self.log_failed(source))?;
        self.replaces = self.logged_loss(step + 1).map(|loss| (step + 1, loss));
        self.progress.note(&format!("continues after step {step}"));
        let line = json!({ "event": "resumed", "step": step, "path": path.display().to_string() });
        self.line(&line, Where::LogAndOutput)
    }
}

/// Keeps a job without noise from a file that has a budget, and writes down that it reads any other.
///
/// # Errors
/// The file has a budget; the ledger cannot be written.
pub async fn note_unprotected(
    store: &Store,
    project: &Project,
    job: &JobId,
    file: &DataFile,
) -> Result<(), TrainError> {
    let new = privacy::Unprotected {
        data_sha256: file.sha256.clone(),
        job: job.to_string(),
        created_at: Timestamp::now(),
    };
    match privacy::note_unprotected(store, project, &new).await {
        Ok(None) => Ok(()),
        Ok(Some(budget)) => {
            let refusal = lyceum_service::privacy::unprotected(&file.path, &budget);
            Err(TrainError::Unprotected(refusal))
        }
        // What is not in the ledger must not happen.
        Err(error) => Err(TrainError::Privacy(format!("the ledger was not written: {error}"))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Where {
    Log,
    LogAndOutput,
}

impl Observer for JobObserver {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        let line = match event {
            Event::Step(step) => return self.step(step),
            Event::Resumed { step, path, trained } => {
                self.count(*trained);
                return self.resumed(*step, path);
            }
            Event::Unprotected { file } => return self.note_unprotected(file),
            Event::Private { data_sha256, event, delta } => return self.take(data_sha256, *event, *delta),
            Event::Data { n_train, n_valid, n_test, warnings } => {
                self.progress
                    .note(&format!("data: {n_train} training, {n_valid} validation, {n_test} test rows"));
                for warning in *warnings {
                    self.progress.note(&format!("warning: {} ({})", warning.message, warning.hint));
                }
                json!({ "event": "data", "train": n_train, "valid": n_valid, "test": n_test, "warnings": warnings })
            }
            Event::Quote { steps, seconds, memory_bytes, n_parameters } => {
                let time = for_people(*seconds);
                let memory = memory_bytes.map_or_else(|| "unknown memory".to_owned(), output::bytes);
                self.progress.note(&format!(
                    "{n_parameters} parameters; {steps} steps will take about {time} and {memory}"
                ));
                json!({
                    "event": "quote", "steps": steps, "seconds": seconds, "memory_bytes": memory_bytes,
                    "params": n_parameters
                })
            }
            Event::Eval { step, metrics } => {
                let words: Vec<String> =
                    metrics.iter().map(|(name, metric)| format!("{name} {:.4}", metric.value)).collect();
                self.progress.note(&format!("step {step}: {}", words.join("  ")));
                json!({ "event": "eval", "step": step, "metrics": metrics })
            }
            Event::Checkpoint { step, path } => {
                for kept in &self.kept {
                    kept.send_replace(Some((*path).clone()));
                }
                json!({ "event": "checkpoint", "step": step, "path": path.display().to_string() })
            }
            Event::StoppedEarly { step, best_step } => {
                self.progress.note(&format!(
                    "stopped early at step {step}; the weights are those of step {best_step}"
                ));
                json!({ "event": "stopped_early", "step": step, "best_step": best_step })
            }
            Event::Fold { fold, n_folds, metrics, trained_rows } => {
                self.folded_rows += trained_rows;
                self.count(Trained::Rows(0));
                self.progress.note(&format!("fold {} of {n_folds} is done", fold + 1));
                json!({ "event": "fold", "fold": fold, "folds": n_folds, "metrics": metrics })
            }
            Event::Measuring => json!({ "event": "measuring" }),
        };
        self.line(&line, Where::LogAndOutput)
    }

    fn checkpoint_dir(&self) -> Option<KeyedPath> {
        Some(self.checkpoints.clone())
    }

    fn before_checkpoint(&mut self) -> Result<(), TrainError> {
        self.log.sync().map_err(|source| self.log_failed(source))
    }

    fn noise_key(&mut self) -> Result<[u8; 32], TrainError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| {
            TrainError::Privacy(format!("the operating system gives no random numbers: {error}"))
        })?;
        Ok(key)
    }
}

/// `1 h 02 min`, `3 min 20 s`, `12 s`
fn for_people(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}
