//! What a training job tells while it runs: its observer prints, keeps the job's log, renews the lease, counts what is
//! paid for, takes privacy of its data set's budget, and passes a cancellation on.
//!
//! Training is synchronous: the observer waits for the store on the runtime that it was made in.

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;
use lyceum_store::jobs::{self, Claim, Signal};
use lyceum_store::ledger::Counts;
use lyceum_store::vault::lines::Lines;
use lyceum_store::vault::{self, KeyedPath};
use lyceum_store::{Store, StoreError, privacy};
use lyceum_train::{Event, Observer, StepEvent, TrainError, Trained};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::{Control, Stop};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The lines of a job, as `train --json` prints them: beside its checkpoints. It has every step; stdout has a
/// step each `LINE_EVERY`.
pub const LOG: &str = "log.jsonl";
const LINE_EVERY: Duration = Duration::from_millis(250);
/// How often the row learns the step; the lease is renewed with it.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What somebody meant who had a job stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
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
    project: lyceum_types::ids::Project,
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
    kept: Option<watch::Sender<Option<KeyedPath>>>,
    wish: Wish,
}

impl JobObserver {
    pub fn new(context: &Context, store: &Store, claim: Arc<Claim>) -> Result<Self, Failure> {
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
            kept: None,
            wish: Wish::End,
        })
    }

    /// Tells of each checkpoint from now on, until it is closed.
    pub fn tell_kept(&mut self, kept: watch::Sender<Option<KeyedPath>>) {
        self.kept = Some(kept);
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
        let line = json!({
            "event": "progress",
            "step": step.step,
            "epoch": step.epoch,
            "loss": step.loss,
            "lr": step.lr,
            "samples_per_s": step.samples_per_s,
            "eta_s": step.eta_s,
        });
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

    fn resumed(&mut self, step: u64, path: &KeyedPath) -> Result<(), TrainError> {
        self.log.flush().map_err(|source| self.log_failed(source))?;
        self.replaces = self.logged_loss(step + 1).map(|loss| (step + 1, loss));
        self.progress.note(&format!("continues after step {step}"));
        let line = json!({ "event": "resumed", "step": step, "path": path.display().to_string() });
        self.line(&line, Where::LogAndOutput)
    }
}

/// Where a line is written.
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
                self.log.flush().map_err(|source| self.log_failed(source))?;
                if let Some(kept) = &self.kept {
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
