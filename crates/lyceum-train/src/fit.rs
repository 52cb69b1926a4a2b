//! A whole job: judge the data, train, measure, compare.
//!
//! [`train`] is the door; [`fit`] is the loop, on one screen. Weights, moments and order depend on the spec
//! and the data only, so a run that was stopped anywhere and continues from its checkpoint ends in the same
//! bytes as one that was never stopped.

use crate::baseline::Trivial;
use crate::checkpoint::{self, Progress, Snapshot};
use crate::data::{self, Loaded};
use crate::error::TrainError;
use crate::eval::{self, Verdict};
use crate::measure::{self, Measured};
use crate::observer::{Event, Observer, Silent, StepEvent};
use crate::robust::Robust;
use crate::run::Run;
use lyceum_models::{Model, ModelShape};
use lyceum_nn::{Params, Workspace};
use lyceum_types::control::Control;
use lyceum_types::manifest::Metric;
use lyceum_types::spec::Spec;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Steps that are tried and thrown away for the quote.
const PROBE_STEPS: u64 = 3;
/// Shorter runs are not quoted.
const QUOTED_STEPS_MIN: u64 = 50;
/// Evaluations and checkpoints of a run that is counted in steps, where the spec does not say.
const EVERY_STEPS: u64 = 200;

/// A trained and measured model.
pub struct Fitted {
    pub model: Model,
    pub shape: ModelShape,
    pub loaded: Loaded,
    /// `valid_…`, `test_…`, `cv_…`.
    pub metrics: BTreeMap<String, Metric>,
    pub baseline: Option<Measured>,
    pub strong_baseline: Option<Measured>,
    /// The trivial method as it was fitted on the training part; later evaluations compare with it.
    pub trivial: Trivial,
    /// Against the trivial and the best simple method, on the test part where there is one, else on the
    /// validation part.
    pub verdict: Option<(Verdict, Verdict)>,
    /// The part that baselines and verdict speak of.
    pub judged_on: Option<&'static str>,
    pub valid_logits: Vec<f32>,
    pub steps: u64,
    pub seconds: f64,
}

/// Judges the data, cross-validates where the spec says so, trains and measures.
pub fn train(
    spec: &Spec,
    base_dir: &Path,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Fitted, TrainError> {
    let loaded = data::load(spec, base_dir, control)?;
    let n = |part: &Option<data::Dataset>| part.as_ref().map_or(0, data::Dataset::len);
    observer.event(&Event::Data {
        n_train: loaded.train.len(),
        n_valid: n(&loaded.valid),
        n_test: n(&loaded.test),
        warnings: &loaded.warnings,
    })?;
    let folds = match spec.data.folds {
        Some(n_folds) => cross_validate(spec, base_dir, n_folds, observer, control)?,
        None => BTreeMap::new(),
    };
    let mut fitted = fit(spec, loaded, observer, control)?;
    fitted.metrics.extend(folds);
    Ok(fitted)
}

/// A model whose weights were trained elsewhere and stand under the same names in `safetensors`. The data of
/// the spec gives what the weights cannot: scales, labels and vocabulary; and it measures the model as one
/// that was trained here.
pub fn adopt(
    spec: &Spec,
    base_dir: &Path,
    safetensors: &[u8],
    control: &Control,
) -> Result<Fitted, TrainError> {
    let loaded = data::load(spec, base_dir, control)?;
    let shape = loaded.preparation.shape();
    let model = Model::load(&spec.model, &shape, safetensors)?;
    finish(spec, model, shape, loaded, 0, 0.0, control)
}

/// Trains on loaded data and measures; continues from the newest checkpoint of the observer's folder.
pub fn fit(
    spec: &Spec,
    loaded: Loaded,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Fitted, TrainError> {
    let Learnt { model, shape, steps, seconds } = learn(spec, &loaded, observer, control)?;
    observer.event(&Event::Measuring)?;
    finish(spec, model, shape, loaded, steps, seconds, control)
}

/// A model that was trained and is not measured yet.
pub struct Learnt {
    pub model: Model,
    pub shape: ModelShape,
    pub steps: u64,
    pub seconds: f64,
}

/// The loop alone: for who compares many models on data that is loaded once.
pub fn learn(
    spec: &Spec,
    loaded: &Loaded,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Learnt, TrainError> {
    let shape = loaded.preparation.shape();
    let model = Model::new(&spec.model, &shape, spec.seed)?;
    if spec.train.early_stopping.is_some() && loaded.valid.is_none() {
        return Err(TrainError::Spec(
            "early_stopping needs a validation part: set valid or valid_fraction".into(),
        ));
    }
    let robust = Robust::plan(&spec.train, &loaded.preparation, &loaded.features, &loaded.train)?;
    let mut run = Run::new(&spec.train, spec.seed, model, &loaded.train).with_robust(robust);
    let identity = identity(spec, loaded);
    let dir = observer.checkpoint_dir();
    let mut progress = Progress::default();
    let mut best: Option<Params> = None;
    let newest = match &dir {
        Some(dir) => checkpoint::list(dir)?.pop(),
        None => None,
    };
    if let Some(path) = newest {
        let restored = checkpoint::read(&path, &identity, &mut run.model.params, &mut run.optimizer)?;
        (progress, best) = (restored.progress, restored.best);
        observer.event(&Event::Resumed { step: progress.step, path: &path })?;
    } else if run.total_steps() >= QUOTED_STEPS_MIN {
        quote(spec, &run, loaded, observer)?;
    }
    let (started, seconds_before, step_before) = (Instant::now(), progress.seconds, progress.step);
    let mut ws = Workspace::new();
    while progress.step < run.total_steps() && !progress.early.stopped {
        if let Err(stop) = control.check() {
            // What was done since the last checkpoint is kept.
            if let Some(dir) = dir.as_deref().filter(|_| progress.step > step_before) {
                save(dir, &identity, &run, best.as_ref(), &progress, observer)?;
            }
            return Err(TrainError::Stopped { step: progress.step, stop });
        }
        let report = run.step(&loaded.train, progress.step)?;
        progress.step += 1;
        progress.last_loss = Some(report.loss);
        progress.seconds = seconds_before + started.elapsed().as_secs_f64();
        let per_step = started.elapsed().as_secs_f64() / (progress.step - step_before) as f64;
        observer.event(&Event::Step(StepEvent {
            step: progress.step,
            total_steps: run.total_steps(),
            epoch: (progress.step - 1) / run.steps_per_epoch(),
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr: report.lr,
            samples_per_s: report.n_examples as f64 / per_step.max(1e-9),
            eta_s: per_step * (run.total_steps() - progress.step) as f64,
        }))?;
        if is_due(progress.step, spec.train.eval_every, spec, &run) && loaded.valid.is_some() {
            evaluate(spec, &run, loaded, &mut progress, &mut best, &mut ws, observer, control)?;
        }
        let due = is_due(progress.step, spec.train.checkpoint_every, spec, &run);
        if let Some(dir) = dir.as_deref().filter(|_| due || progress.early.stopped) {
            save(dir, &identity, &run, best.as_ref(), &progress, observer)?;
        }
    }
    let stopped_early = progress.early.stopped;
    if let Some(params) = best.filter(|_| spec.train.early_stopping.is_some()) {
        run.model.params = params;
    }
    if stopped_early {
        observer.event(&Event::StoppedEarly { step: progress.step, best_step: progress.early.best_step })?;
    }
    Ok(Learnt { model: run.model, shape, steps: progress.step, seconds: progress.seconds })
}

/// Whether something that happens every so often happens after `step`: as the spec says, else at the end of
/// every epoch of a run that is counted in epochs, else every 200 steps; never twice at the end.
fn is_due(step: u64, every: Option<usize>, spec: &Spec, run: &Run) -> bool {
    let every = match (every, spec.train.steps) {
        (Some(every), _) => every as u64,
        (None, None) => run.steps_per_epoch(),
        (None, Some(_)) => EVERY_STEPS,
    };
    step.is_multiple_of(every.max(1)) || step == run.total_steps()
}

#[allow(clippy::too_many_arguments, reason = "the loop's state, split so that the borrow checker sees it")]
fn evaluate(
    spec: &Spec,
    run: &Run,
    loaded: &Loaded,
    progress: &mut Progress,
    best: &mut Option<Params>,
    ws: &mut Workspace,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<(), TrainError> {
    let Some(valid) = &loaded.valid else { return Ok(()) };
    let stopping = spec.train.early_stopping.as_ref();
    let only_loss = stopping.is_none_or(|e| e.metric == "valid_loss");
    let metrics = if only_loss {
        let loss = measure::mean_loss(&run.model, valid, ws, control)?;
        BTreeMap::from([("valid_loss".to_owned(), loss)])
    } else {
        prefixed(
            "valid",
            measure::measure_model(&run.model, &loaded.preparation, valid, spec, control)?.metrics,
        )
    };
    observer.event(&Event::Eval { step: progress.step, metrics: &metrics })?;
    let Some(stopping) = stopping else { return Ok(()) };
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

fn save(
    dir: &Path,
    identity: &str,
    run: &Run,
    best: Option<&Params>,
    progress: &Progress,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let snapshot = Snapshot { params: &run.model.params, optimizer: &run.optimizer, best, progress };
    let path = checkpoint::write(dir, identity, &snapshot)?;
    observer.event(&Event::Checkpoint { step: progress.step, path: &path })
}

/// What a checkpoint belongs to: the spec and the bytes of the data.
fn identity(spec: &Spec, loaded: &Loaded) -> String {
    let mut text = serde_json::to_string(spec).expect("a spec is plain data: bug");
    for file in &loaded.files {
        text.push_str(&file.sha256);
    }
    checkpoint::digest(text.as_bytes())
}

/// Times a few steps of a copy of the run.
fn quote(spec: &Spec, run: &Run, loaded: &Loaded, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let robust = Robust::plan(&spec.train, &loaded.preparation, &loaded.features, &loaded.train)?;
    let mut probe = Run::new(&spec.train, spec.seed, run.model.clone(), &loaded.train).with_robust(robust);
    let n_parameters = run.model.params.n_trainable();
    probe.step(&loaded.train, 0)?;
    let started = Instant::now();
    for step in 1..PROBE_STEPS {
        probe.step(&loaded.train, step)?;
    }
    let seconds = started.elapsed().as_secs_f64() / (PROBE_STEPS - 1) as f64 * run.total_steps() as f64;
    let memory_bytes = resident_bytes();
    observer.event(&Event::Quote { steps: run.total_steps(), seconds, memory_bytes, n_parameters })
}

/// The process's memory now, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn prefixed(part: &str, metrics: BTreeMap<String, Metric>) -> BTreeMap<String, Metric> {
    metrics.into_iter().map(|(name, metric)| (format!("{part}_{name}"), metric)).collect()
}

/// Measures the model on its parts, and the baselines on the last of them.
fn finish(
    spec: &Spec,
    model: Model,
    shape: ModelShape,
    loaded: Loaded,
    steps: u64,
    seconds: f64,
    control: &Control,
) -> Result<Fitted, TrainError> {
    let mut metrics = BTreeMap::new();
    let mut valid_logits = Vec::new();
    let mut judged = None;
    for (part, data) in [("valid", &loaded.valid), ("test", &loaded.test)] {
        let Some(data) = data.as_ref().filter(|d| !d.is_empty()) else { continue };
        let mut measured = measure::measure_model(&model, &loaded.preparation, data, spec, control)?;
        metrics.extend(prefixed(part, std::mem::take(&mut measured.metrics)));
        if part == "valid" {
            valid_logits = std::mem::take(&mut measured.logits);
        }
        judged = Some((part, data, measured));
    }
    let trivial_method = measure::fit_trivial(&loaded.preparation, &loaded.train, spec)?;
    let (mut baseline, mut strong_baseline, mut verdict, mut judged_on) = (None, None, None, None);
    if let Some((part, data, measured)) = judged {
        let mut trivial = measure::measure_trivial(&trivial_method, &loaded.preparation, data, spec)?;
        let mut strong = measure::measure_simple(&loaded.preparation, &loaded.train, data, spec, control)?;
        verdict =
            Some((measure::compare(&measured, &trivial, spec)?, measure::compare(&measured, &strong, spec)?));
        for method in [&mut trivial, &mut strong] {
            method.metrics = prefixed(part, std::mem::take(&mut method.metrics));
        }
        (baseline, strong_baseline, judged_on) = (Some(trivial), Some(strong), Some(part));
    }
    Ok(Fitted {
        model,
        shape,
        loaded,
        metrics,
        baseline,
        strong_baseline,
        trivial: trivial_method,
        verdict,
        judged_on,
        valid_logits,
        steps,
        seconds,
    })
}

/// Trains one model a fold; the mean of each metric over the folds, with its interval.
fn cross_validate(
    spec: &Spec,
    base_dir: &Path,
    n_folds: usize,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<BTreeMap<String, Metric>, TrainError> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for fold in 0..n_folds {
        let loaded = data::load_fold(spec, base_dir, fold, n_folds, control)?;
        let mut spec = spec.clone();
        spec.data.test = None;
        let fitted = fit(&spec, loaded, &mut Silent, control)?;
        observer.event(&Event::Fold { fold, n_folds, metrics: &fitted.metrics })?;
        for (name, metric) in fitted.metrics {
            values.entry(name.replacen("valid_", "cv_", 1)).or_default().push(metric.value);
        }
    }
    let mean = |(name, values): (String, Vec<f64>)| Ok((name, eval::mean("cross-validation", &values)?));
    values.into_iter().map(mean).collect()
}
