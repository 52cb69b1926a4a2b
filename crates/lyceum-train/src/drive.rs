//! The loop: steps, evaluations and checkpoints of a run, whatever is trained; and its quote.
//!
//! Weights, moments and order depend on the run alone, so one that was stopped anywhere and continues from its
//! checkpoint ends in the same bytes as one that was never stopped. This file knows no spec but the training's.

use crate::checkpoint::{self, Progress, Snapshot};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::observer::{Event, Observer, StepEvent, Trained};
use crate::private::{Noise, Private};
use crate::run::{Run, StepReport};
use lyceum_models::Model;
use lyceum_nn::{Params, Workspace};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::Metric;
use std::collections::BTreeMap;
use std::time::Instant;

/// Steps that are tried and thrown away for the quote.
const PROBE_STEPS: u64 = 3;
/// Shorter runs are not quoted.
pub(crate) const QUOTED_STEPS_MIN: u64 = 50;
/// Evaluations and checkpoints of a run that is counted in steps, where the spec does not say.
const EVERY_STEPS: u64 = 200;

/// Metrics of the validation part, with its name before them.
pub(crate) type Metrics<'a> =
    dyn Fn(&Model, &mut Workspace) -> Result<BTreeMap<String, Metric>, TrainError> + 'a;

/// What the loop needs beside the run.
pub(crate) struct Course<'a> {
    pub train: &'a Dataset,
    /// None: there is no validation part.
    pub metrics: Option<&'a Metrics<'a>>,
    /// Of the spec and the data: a checkpoint continues only the run that made it.
    pub identity: &'a str,
    pub private: Option<(&'a Private, &'a Noise)>,
    /// What the first steps of the run are trained on.
    pub trained: &'a dyn Fn(u64) -> Trained,
    /// Where checkpoints go; None keeps none.
    pub dir: Option<&'a KeyedPath>,
}

/// Takes the steps that are left. What was reached, and the best step's parameters where there are any.
pub(crate) fn drive(
    run: &mut Run,
    course: &Course<'_>,
    mut progress: Progress,
    mut best: Option<Params>,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<(Progress, Option<Params>), TrainError> {
    let noise = course.private.map(|(_, noise)| noise);
    let (started, seconds_before, step_before) = (Instant::now(), progress.seconds, progress.step);
    let mut ws = Workspace::new();
    while progress.step < run.total_steps() && !progress.early.stopped {
        if let Err(stop) = control.check() {
            // What was done since the last checkpoint is kept.
            if let Some(dir) = course.dir.filter(|_| progress.step > step_before) {
                save(dir, course.identity, run, best.as_ref(), &progress, noise, observer)?;
            }
            return Err(TrainError::Stopped { step: progress.step, stop });
        }
        let report = match course.private {
            Some((private, noise)) => {
                run.private_step(course.train, progress.step, &private.mechanism, noise)?
            }
            None => run.step(course.train, progress.step)?,
        };
        progress.step += 1;
        progress.last_loss = Some(report.loss).filter(|loss| loss.is_finite());
        progress.seconds = seconds_before + started.elapsed().as_secs_f64();
        let per_step = started.elapsed().as_secs_f64() / (progress.step - step_before) as f64;
        observer.event(&Event::Step(StepEvent {
            step: progress.step,
            total_steps: run.total_steps(),
            epoch: (progress.step - 1) / run.steps_per_epoch(),
            loss: report.loss,
            grad_norm: report.grad_norm,
            token_accuracy: report.token_accuracy,
            lr: report.lr,
            samples_per_s: report.n_examples as f64 / per_step.max(1e-9),
            eta_s: per_step * (run.total_steps() - progress.step) as f64,
            trained: (course.trained)(progress.step),
        }))?;
        if let Some(metrics) = course.metrics.filter(|_| is_due(progress.step, run.spec.eval_every, run)) {
            let found = metrics(&run.model, &mut ws)?;
            observer.event(&Event::Eval { step: progress.step, metrics: &found })?;
            judge(&found, run, &mut progress, &mut best)?;
        }
        let due = is_due(progress.step, run.spec.checkpoint_every, run);
        if let Some(dir) = course.dir.filter(|_| due || progress.early.stopped) {
            save(dir, course.identity, run, best.as_ref(), &progress, noise, observer)?;
        }
    }
    Ok((progress, best))
}

/// Whether something that happens every so often happens after `step`: as the spec says, else at the end of
/// every epoch of a run that is counted in epochs, else every 200 steps; never twice at the end.
fn is_due(step: u64, every: Option<usize>, run: &Run) -> bool {
    let every = match (every, run.spec.steps) {
        (Some(every), _) => every as u64,
        (None, None) => run.steps_per_epoch(),
        (None, Some(_)) => EVERY_STEPS,
    };
    step.is_multiple_of(every.max(1)) || step == run.total_steps()
}

/// Holds the metrics against the best so far, where the run may stop early.
fn judge(
    metrics: &BTreeMap<String, Metric>,
    run: &Run,
    progress: &mut Progress,
    best: &mut Option<Params>,
) -> Result<(), TrainError> {
    let Some(stopping) = run.spec.early_stopping.as_ref() else { return Ok(()) };
    let Some(metric) = metrics.get(&stopping.metric) else {
        let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
        let message = format!(
            "early_stopping: there is no metric \"{}\"; there are {}",
            stopping.metric,
            known.join(", ")
        );
        return Err(TrainError::Spec(message));
    };
    let rises = ["accuracy", "f1_macro", "r2", "exact_match", "char_accuracy"];
    let larger_is_better = rises.iter().any(|name| stopping.metric.ends_with(name));
    let gain = |best: f64| if larger_is_better { metric.value - best } else { best - metric.value };
    if progress.early.best.is_none_or(|best| gain(best) > stopping.min_delta) {
        progress.early.best = Some(metric.value);
        progress.early.best_step = progress.step;
        progress.early.since_best = 0;
        match best {
            Some(best) => best.clone_from(&run.model.params),
            None => *best = Some(run.model.params.clone()),
        }
    } else {
        progress.early.since_best += 1;
        progress.early.stopped = progress.early.since_best >= stopping.patience as u64;
    }
    Ok(())
}

pub(crate) fn save(
    dir: &KeyedPath,
    identity: &str,
    run: &Run,
    best: Option<&Params>,
    progress: &Progress,
    noise: Option<&Noise>,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let kept = run.spec.checkpoints_kept.unwrap_or(checkpoint::KEPT);
    let snapshot =
        Snapshot { params: &run.model.params, optimizer: &run.optimizer, best, progress, noise, kept };
    observer.before_checkpoint()?;
    let path = checkpoint::write(dir, identity, &snapshot)?;
    observer.event(&Event::Checkpoint { step: progress.step, path: &path })
}

/// Times a few steps of a copy of a run, which is then thrown away, and tells what the run will cost.
pub(crate) fn probe(
    copy: &mut Run,
    observer: &mut dyn Observer,
    mut step: impl FnMut(&mut Run, u64) -> Result<StepReport, TrainError>,
) -> Result<(), TrainError> {
    let (steps, n_parameters) = (copy.total_steps(), copy.model.params.n_trainable());
    step(copy, 0)?;
    let started = Instant::now();
    for number in 1..PROBE_STEPS {
        step(copy, number)?;
    }
    let seconds = started.elapsed().as_secs_f64() / (PROBE_STEPS - 1) as f64 * steps as f64;
    let memory_bytes = resident_bytes();
    observer.event(&Event::Quote { steps, seconds, memory_bytes, n_parameters })
}

/// The process's memory now, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
