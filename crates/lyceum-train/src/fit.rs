//! A whole job: judge the data, train, measure, compare.
//!
//! [`train`] is the door; [`fit`] is the loop, on one screen. Weights, moments and order depend on the spec
//! and the data only, so a run that was stopped anywhere and continues from its checkpoint ends in the same
//! bytes as one that was never stopped.

use crate::baseline::Trivial;
use crate::checkpoint::{self, Progress};
use crate::data::{self, Loaded};
use crate::drive::{self, Course, drive, probe, save};
use crate::error::TrainError;
use crate::eval::{self, Verdict};
use crate::measure::{self, Measured};
use crate::observer::{Event, Observer, Silent, Trained};
use crate::private::{self, Noise, Private};
use crate::robust::Robust;
use crate::run::Run;
use lyceum_models::{Model, ModelShape};
use lyceum_nn::{Params, Workspace};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::{Metric, PrivacyReport};
use lyceum_types::spec::{RobustSpec, Spec};
use std::collections::BTreeMap;

/// A trained and measured model.
pub struct Fitted {
    pub model: Model,
    pub shape: ModelShape,
    pub loaded: Loaded,
    /// `valid_…`, `test_…`, `cv_…`.
    pub metrics: BTreeMap<String, Metric>,
    pub baseline: Option<Measured>,
    pub strong_baseline: Option<Measured>,
    /// The trivial method as it was fitted on the training part; later evaluations compare with it. A private
    /// run has none.
    pub trivial: Option<Trivial>,
    /// Against the trivial and the best simple method, on the test part where there is one, else on the
    /// validation part.
    pub verdict: Option<(Verdict, Verdict)>,
    /// The part that baselines and verdict speak of.
    pub judged_on: Option<&'static str>,
    pub valid_logits: Vec<f32>,
    pub steps: u64,
    pub seconds: f64,
    /// What is promised; None where the spec asks for no privacy.
    pub privacy: Option<PrivacyReport>,
}

/// Judges the data, cross-validates where the spec says so, trains and measures.
pub fn train(
    spec: &Spec,
    base_dir: impl Into<KeyedPath>,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Fitted, TrainError> {
    let base_dir = base_dir.into();
    let mut loaded = data::load(spec, base_dir.clone(), control)?;
    if let Some(privacy) = &spec.privacy {
        refuse_undeclared(spec, privacy, &loaded)?;
        // Duplicates, imbalance and overlap are said of the rows.
        loaded.warnings.clear();
    }
    if spec.privacy.is_none() {
        private::tell_unprotected(&loaded.files, observer)?;
    }
    let n = |part: &Option<data::Dataset>| part.as_ref().map_or(0, data::Dataset::len);
    observer.event(&Event::Data {
        n_train: loaded.train.len(),
        n_valid: n(&loaded.valid),
        n_test: n(&loaded.test),
        warnings: &loaded.warnings,
    })?;
    let folds = match spec.data.folds {
        Some(n_folds) => cross_validate(spec, &base_dir, n_folds, observer, control)?,
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
    base_dir: impl Into<KeyedPath>,
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
    let Learnt { model, shape, steps, seconds, privacy } = learn(spec, &loaded, observer, control)?;
    observer.event(&Event::Measuring)?;
    let mut fitted = finish(spec, model, shape, loaded, steps, seconds, control)?;
    if privacy.is_some() {
        observer.checkpoint_dir().as_ref().map_or(Ok(()), checkpoint::forget_noise)?;
    }
    fitted.privacy = privacy;
    Ok(fitted)
}

/// A model that was trained and is not measured yet.
pub struct Learnt {
    pub model: Model,
    pub shape: ModelShape,
    pub steps: u64,
    pub seconds: f64,
    /// What is promised; None where the spec asks for no privacy.
    pub privacy: Option<PrivacyReport>,
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
    let robust = plan_robust(spec, loaded)?;
    let mut run = Run::new(&spec.train, spec.seed, model, &loaded.train).with_robust(robust);
    let steps = run.total_steps();
    let private = match &spec.privacy {
        Some(privacy) => Some(Private::new(spec, privacy, &shape, loaded.train.len(), steps)?),
        None => None,
    };
    let trained = |steps: u64| Trained::Rows(trained_rows(spec, &loaded.train, steps));
    let mut noise: Option<Noise> = None;
    let identity = identity(spec, loaded);
    let dir = observer.checkpoint_dir();
    let mut progress = Progress::default();
    let mut best: Option<Params> = None;
    if let Some(private) = &private {
        for file in loaded.files.iter().filter(|file| file.role == "train") {
            let (event, delta) = (private.event(steps)?, private.delta());
            observer.event(&Event::Private { data_sha256: &file.sha256, event, delta })?;
        }
    }
    let newest = match &dir {
        Some(dir) => checkpoint::list(dir)?.pop(),
        None => None,
    };
    if let Some(path) = newest {
        let restored = checkpoint::read(&path, &identity, &mut run.model.params, &mut run.optimizer)?;
        (progress, best, noise) = (restored.progress, restored.best, restored.noise);
        if private.is_some() && noise.is_none() && progress.step < steps {
            let problem = "its noise key is gone: going on with another would spend more".to_owned();
            return Err(TrainError::Checkpoint { path: path.display().to_string(), problem });
        }
        let trained = trained(progress.step);
        observer.event(&Event::Resumed { step: progress.step, path: &path, trained })?;
    } else if run.total_steps() >= drive::QUOTED_STEPS_MIN {
        quote(spec, &run, loaded, private.as_ref(), observer)?;
    }
    // A run that has taken its steps and forgotten its key has no coins of canaries any more.
    if let (Some(private), None, 0) = (&private, &noise, progress.step) {
        let fresh = match private.insecure_seed() {
            Some(seed) => Noise::insecure(seed),
            None => Noise::from_key(observer.noise_key()?),
        };
        noise = Some(fresh);
        // The key is on disk before its first draw: a run that is killed at once repeats itself too.
        if let Some(dir) = dir.as_ref() {
            save(dir, &identity, &run, best.as_ref(), &progress, noise.as_ref(), observer)?;
        }
    }
    let canaries = match (&private, &noise) {
        (Some(private), Some(noise)) => private.canaries(spec.seed, loaded, noise)?,
        _ => None,
    };
    // How long the run is and what is drawn with which probability are of the rows alone.
    let with_canaries = canaries.as_ref().map(|canaries| canaries.among(&loaded.train));
    let train = with_canaries.as_ref().unwrap_or(&loaded.train);
    let identity = &identity[..];
    let metrics = |model: &Model, ws: &mut Workspace| validation(spec, model, loaded, ws, control);
    let course = Course {
        train,
        metrics: loaded.valid.is_some().then_some(&metrics),
        identity,
        private: private.as_ref().zip(noise.as_ref()),
        trained: &trained,
        dir: dir.as_ref(),
    };
    let (progress, best) = drive(&mut run, &course, progress, best, observer, control)?;
    let stopped_early = progress.early.stopped;
    if let Some(params) = best.filter(|_| spec.train.early_stopping.is_some()) {
        run.model.params = params;
    }
    if stopped_early {
        observer.event(&Event::StoppedEarly { step: progress.step, best_step: progress.early.best_step })?;
    }
    let steps = progress.step;
    let mut privacy = private.as_ref().map(|private| private.report(steps)).transpose()?;
    if let (Some(privacy), Some(canaries)) = (&mut privacy, &canaries) {
        let before = Model::new(&spec.model, &shape, spec.seed)?;
        privacy.audit = Some(canaries.audit(&before, &run.model, control)?);
    } else if let (Some(privacy), true) =
        (&mut privacy, spec.privacy.as_ref().is_some_and(|p| p.audit.is_some()))
    {
        privacy.limits.push(private::AUDIT_LOST.into());
    }
    Ok(Learnt { model: run.model, shape, steps, seconds: progress.seconds, privacy })
}

/// Rows of the first `steps` steps of a run on this part: of a private one, as many as are drawn on average.
fn trained_rows(spec: &Spec, train: &data::Dataset, steps: u64) -> u64 {
    let Some(privacy) = &spec.privacy else {
        return crate::run::order(&spec.train, spec.seed, train).n_examples(steps);
    };
    let expected = spec.train.batch_size * spec.train.accumulate;
    let a_step = match privacy.sampling_rate {
        Some(q) => q * train.len() as f64,
        None => expected.min(train.len()) as f64,
    };
    (a_step * steps as f64).round() as u64
}

/// The steps of a whole run on loaded data, and the most rows that it can be trained on, those of its folds among them.
pub fn quoted(spec: &Spec, loaded: &Loaded) -> (u64, u64) {
    let steps = crate::run::total_steps(&spec.train, spec.seed, &loaded.train);
    let rows = trained_rows(spec, &loaded.train, steps);
    // A fold is trained on a part of all rows; of a text a window may lie across the parts.
    let n_rows = (loaded.train.len() + loaded.valid.as_ref().map_or(0, data::Dataset::len) + 1) as u64;
    let a_step = (spec.train.batch_size * spec.train.accumulate) as u64;
    let a_fold = match (spec.train.steps, spec.train.epochs) {
        (Some(steps), _) => steps as u64 * a_step.min(n_rows),
        (None, epochs) => epochs.unwrap_or(1) as u64 * n_rows,
    };
    (steps, rows + a_fold * spec.data.folds.unwrap_or(0) as u64)
}

/// All statistics that would be published without having been declared, in one message.
fn refuse_undeclared(
    spec: &Spec,
    privacy: &lyceum_types::spec::privacy::PrivacySpec,
    loaded: &Loaded,
) -> Result<(), TrainError> {
    let undeclared = private::undeclared(spec, privacy, loaded);
    if undeclared.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = undeclared
        .iter()
        .map(|u| format!("{} (\"{}\"): {}", u.what, u.statistic.as_str(), u.instead))
        .collect();
    let mut names: Vec<&str> = undeclared.iter().map(|u| u.statistic.as_str()).collect();
    names.dedup();
    Err(TrainError::Privacy(format!(
        "the noise does not protect what follows; change the spec, or, where it is no secret, add {names:?} to \
         privacy.public:\n  {}",
        lines.join("\n  ")
    )))
}

/// What the spec wants known of the validation part while training.
fn validation(
    spec: &Spec,
    model: &Model,
    loaded: &Loaded,
    ws: &mut Workspace,
    control: &Control,
) -> Result<BTreeMap<String, Metric>, TrainError> {
    let Some(valid) = &loaded.valid else { return Ok(BTreeMap::new()) };
    if spec.train.early_stopping.as_ref().is_none_or(|e| e.metric == "valid_loss") {
        let loss = measure::mean_loss(model, valid, ws, control)?;
        return Ok(BTreeMap::from([("valid_loss".to_owned(), loss)]));
    }
    let measured = measure::measure_model(model, &loaded.preparation, valid, spec, control)?;
    Ok(prefixed("valid", measured.metrics))
}

/// What a checkpoint belongs to: the spec and the bytes of the data.
fn identity(spec: &Spec, loaded: &Loaded) -> String {
    let mut text = serde_json::to_string(spec).expect("a spec is plain data: bug");
    for file in &loaded.files {
        text.push_str(&file.sha256);
    }
    // Another generator's noise on steps that were taken already would spend twice.
    if spec.privacy.is_some() {
        text.push_str(private::GENERATOR);
    }
    checkpoint::digest(text.as_bytes())
}

/// How the spec changes inputs while training. A private run's bounds may come from the preparation alone,
/// which was declared public, and not from sketches of the rows.
fn plan_robust(spec: &Spec, loaded: &Loaded) -> Result<Option<Robust>, TrainError> {
    let is_private = spec.privacy.is_some();
    if is_private && matches!(spec.train.robust, Some(RobustSpec::Trades { .. })) {
        return Err(TrainError::Privacy(
            "TRADES learns from pairs of rows, whose norms are not bounded one by one; set train.robust.method = \"adversarial\""
                .into(),
        ));
    }
    let sketches = (!is_private).then_some(&loaded.features[..]);
    Robust::plan(&spec.train, &loaded.preparation, sketches, &loaded.train)
}

/// Times a few steps of a copy of the run.
fn quote(
    spec: &Spec,
    run: &Run,
    loaded: &Loaded,
    private: Option<&Private>,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let robust = plan_robust(spec, loaded)?;
    let mut copy = Run::new(&spec.train, spec.seed, run.model.clone(), &loaded.train).with_robust(robust);
    probe(&mut copy, observer, |copy, step| match private {
        // Thrown away, as all of the probe: nothing of it is seen.
        Some(private) => copy.private_step(&loaded.train, step, &private.mechanism, &Noise::insecure(step)),
        None => copy.step(&loaded.train, step),
    })
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
    let trivial_method = match spec.privacy {
        None => Some(measure::fit_trivial(&loaded.preparation, &loaded.train, spec)?),
        Some(_) => None,
    };
    let (mut baseline, mut strong_baseline, mut verdict, mut judged_on) = (None, None, None, None);
    // Baselines learn from the rows with no noise at all: a private run has none.
    if let (Some((part, data, measured)), Some(method)) = (judged, &trivial_method) {
        let mut trivial = measure::measure_trivial(method, &loaded.preparation, data, spec)?;
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
        privacy: None,
    })
}

/// Trains one model a fold; the mean of each metric over the folds, with its interval.
fn cross_validate(
    spec: &Spec,
    base_dir: &KeyedPath,
    n_folds: usize,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<BTreeMap<String, Metric>, TrainError> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for fold in 0..n_folds {
        let loaded = data::load_fold(spec, base_dir.clone(), fold, n_folds, control)?;
        let mut spec = spec.clone();
        spec.data.test = None;
        let fitted = fit(&spec, loaded, &mut Silent, control)?;
        let trained_rows = trained_rows(&spec, &fitted.loaded.train, fitted.steps);
        observer.event(&Event::Fold { fold, n_folds, metrics: &fitted.metrics, trained_rows })?;
        for (name, metric) in fitted.metrics {
            values.entry(name.replacen("valid_", "cv_", 1)).or_default().push(metric.value);
        }
    }
    let mean = |(name, values): (String, Vec<f64>)| Ok((name, eval::mean("cross-validation", &values)?));
    values.into_iter().map(mean).collect()
}
