//! Fine-tuning of a language model that exists: adapters over weights that stay, or all weights; on answers or on
//! preferences.
//!
//! [`tune`] is handed the opened base, never files of models. It judges and renders the data, says what was left to
//! it, asks the reference what preferences are held against, and takes the steps through the one loop
//! ([`drive`](crate::drive)). What it gives back is measured beside the base on the same rows (`measured`).

mod measured;
mod refuse;

pub use measured::{Answer, OnLines, OnRows, lines_of, on_lines, on_rows};

use crate::chat::{self, Chats, Words};
use crate::checkpoint::{self, Progress};
use crate::data::Dataset;
use crate::drive::{self, Course, drive, probe};
use crate::error::TrainError;
use crate::eval::{self, Verdict};
use crate::observer::{Event, Observer, Trained};
use crate::private::{self, Noise, Promise};
use crate::run::{Run, precision};
use lyceum_models::batch::Input;
use lyceum_models::causal_lm::adapter::Modules;
use lyceum_models::causal_lm::{Adapter, AdapterConfig};
use lyceum_models::probe::Probe;
use lyceum_models::{InputShape, Model};
use lyceum_nn::{Precision, Workspace};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::{Metric, PrivacyReport};
use lyceum_types::spec::TrainSpec;
use lyceum_types::spec::tune::{Origin, TuneSpec};
use measured::{Measured, ask_reference, losses, measure};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows whose outputs are recorded, and how many tokens of each.
const PROBES: usize = 4;
const PROBE_TOKENS: usize = 48;

/// The model that is tuned.
pub struct Base<'a> {
    /// As it is served.
    pub model: Model,
    /// What is added to it already, and is tuned further.
    pub adapter: Option<Arc<Adapter>>,
    pub words: Words<'a>,
    /// `name@3`, and the hash of its weights.
    pub id: String,
    pub sha256: String,
}

impl Base<'_> {
    /// What is tuned further: the adapter, where there is one.
    pub fn origin(&self) -> Origin {
        if self.adapter.is_some() { Origin::Adapter } else { Origin::Whole }
    }

    /// The longest sequence that it reads, in tokens.
    ///
    /// # Errors
    /// When it reads something else.
    fn context(&self) -> Result<usize, TrainError> {
        match self.model.shape.input {
            InputShape::Tokens { time, .. } => Ok(time),
            _ => Err(TrainError::Spec(format!("{} reads no tokens", self.id))),
        }
    }
}

/// A tuned and measured model.
pub struct Tuned {
    /// With its adapter, where it has one.
    pub model: Model,
    /// With every value that was left to the program.
    pub train: TrainSpec,
    pub chats: Chats,
    /// `valid_loss`, …; the base's own on the same rows.
    pub metrics: BTreeMap<String, Metric>,
    pub base_metrics: BTreeMap<String, Metric>,
    /// Against the base, on the validation part.
    pub verdict: Option<Verdict>,
    pub steps: u64,
    pub seconds: f64,
    pub n_trained: u64,
    /// Tokens in the examples of all steps; None: which were drawn is a secret of a private run.
    pub trained_tokens: Option<u64>,
    /// What is promised; None where the spec asks for no privacy.
    pub privacy: Option<PrivacyReport>,
    /// What it said when training ended.
    pub probes: Vec<Probe>,
}

/// Judges the data, trains and measures; continues from the newest checkpoint of the observer's folder.
pub fn tune(
    spec: &TuneSpec,
    base: Base<'_>,
    base_dir: impl Into<KeyedPath>,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Tuned, TrainError> {
    let mut chats = judged(spec, &base, base_dir, observer, control)?;
    let train = spec.resolve(chats.train.len(), base.origin());
    refuse::memory(spec, &base)?;
    refuse::private_whole(spec, &base)?;
    let mut promise = Promise::begin(spec, &train, &chats, observer)?;
    let mut ws = Workspace::new();
    let reference = untuned(spec, &base)?;
    // What is measured is in f32.
    let parts =
        [(Some(&mut chats.train), precision(train.precision)), (chats.valid.as_mut(), Precision::F32)];
    for (part, precision) in parts.into_iter().filter_map(|(part, precision)| Some((part?, precision))) {
        ask_reference(&reference, (part, precision), &mut ws, control)?;
    }
    let before = measure_valid(&reference, &chats, &mut ws, control)?;
    if let Some(promise) = &mut promise {
        let size = (base.model.shape.output.width(), base.context()?);
        promise.make_canaries(spec.seed, size, |data| losses(&reference, data, &mut ws, control))?;
    }
    let identity = identity(spec, &base, &chats);
    let model = prepared(spec, base, reference)?;
    let mut run = Run::new(&train, spec.seed, model, &chats.train);
    let counter = RefCell::new(chat::Counter::new(&train, spec.seed, &chats.train));
    let trained = |steps: u64| match &promise {
        // How many were drawn is no one's to know.
        Some(promise) => {
            Trained::Rows((promise.private.mechanism.expected_batch * steps as f64).round() as u64)
        }
        None => Trained::Tokens(counter.borrow_mut().tokens(steps)),
    };
    let started = start(&mut run, &chats, (&identity, &trained), promise.as_ref(), observer)?;
    let Start { progress, best, noise } = started;
    let canaries = promise.as_ref().zip(noise.as_ref()).and_then(|(promise, noise)| promise.canaries(noise));
    let with_canaries = canaries.as_ref().map(|canaries| canaries.among(&chats.train));
    let metrics = |model: &Model, ws: &mut Workspace| {
        Ok(measure_valid(model, &chats, ws, control)?.map(|measured| measured.metrics).unwrap_or_default())
    };
    let dir = observer.checkpoint_dir();
    let course = Course {
        train: with_canaries.as_ref().unwrap_or(&chats.train),
        metrics: chats.valid.is_some().then_some(&metrics),
        identity: &identity,
        private: promise.as_ref().map(|promise| &promise.private).zip(noise.as_ref()),
        trained: &trained,
        dir: dir.as_ref(),
    };
    let (progress, best) = drive(&mut run, &course, progress, best, observer, control)?;
    if let Some(params) = best.filter(|_| train.early_stopping.is_some()) {
        run.model.params = params;
    }
    if progress.early.stopped {
        observer.event(&Event::StoppedEarly { step: progress.step, best_step: progress.early.best_step })?;
    }
    observer.event(&Event::Measuring)?;
    let after = measure_valid(&run.model, &chats, &mut ws, control)?;
    let verdict = match (&after, &before) {
        (Some(after), Some(before)) if after.rows.len() > 1 => {
            Some(eval::compare_losses("base", "loss", &after.rows, &before.rows, 0)?)
        }
        _ => None,
    };
    let privacy = match &promise {
        None => None,
        Some(promise) => {
            let asked = |data: &Dataset| losses(&run.model, data, &mut ws, control);
            let report = promise.report(progress.step, canaries.as_ref(), asked)?;
            private::forget(observer)?;
            Some(report)
        }
    };
    let trained_tokens = privacy.is_none().then(|| counter.borrow_mut().tokens(progress.step));
    let of = |measured: Option<Measured>| measured.map(|measured| measured.metrics).unwrap_or_default();
    Ok(Tuned {
        n_trained: run.model.params.n_trainable() as u64,
        probes: probes(&run.model, &chats, privacy.is_some())?,
        model: run.model,
        train,
        metrics: of(after),
        base_metrics: of(before),
        verdict,
        steps: progress.step,
        seconds: progress.seconds,
        trained_tokens,
        privacy,
        chats,
    })
}

/// Reads and judges the data, and says what there is of it.
fn judged(
    spec: &TuneSpec,
    base: &Base<'_>,
    base_dir: impl Into<KeyedPath>,
    observer: &mut dyn Observer,
    control: &Control,
) -> Result<Chats, TrainError> {
    let mut chats = chat::load(spec, base.words, base.context()?, base_dir, control)?;
    if spec.privacy.is_some() {
        // Duplicates and overlap are said of the lines.
        chats.warnings.clear();
    } else {
        private::tell_unprotected(&chats.files, observer)?;
    }
    observer.event(&Event::Data {
        n_train: chats.train.len(),
        n_valid: chats.valid.as_ref().map_or(0, Dataset::len),
        n_test: 0,
        warnings: &chats.warnings,
    })?;
    if spec.train.early_stopping.is_some() && chats.valid.is_none() {
        let message = "early_stopping needs a validation part: set valid or valid_fraction";
        return Err(TrainError::Spec(message.into()));
    }
    Ok(chats)
}

/// What a model makes of the validation part, where there is one.
fn measure_valid(
    model: &Model,
    chats: &Chats,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Option<Measured>, TrainError> {
    chats.valid.as_ref().map(|valid| measure(model, valid, ws, control)).transpose()
}

/// The base with what a spec learns of it, as it is before the first step: for checkpoints to be read into.
///
/// # Errors
/// As [`tune`].
pub fn untrained(spec: &TuneSpec, base: Base<'_>) -> Result<Model, TrainError> {
    let reference = untuned(spec, &base)?;
    prepared(spec, base, reference)
}

/// The base as it answers before it is tuned.
fn untuned(spec: &TuneSpec, base: &Base<'_>) -> Result<Model, TrainError> {
    let Some(adapter) = &base.adapter else { return Ok(base.model.clone()) };
    if spec.lora.is_some() {
        let id = &base.id;
        return Err(TrainError::Spec(format!(
            "{id} is an adapter: its own rank and layers are tuned further; remove lora, or tune its base"
        )));
    }
    let model = base.model.with_adapter(adapter);
    model.map_err(|error| TrainError::Spec(format!("{} cannot be tuned: {error}", base.id)))
}

/// The base with what is learnt of it.
fn prepared(spec: &TuneSpec, base: Base<'_>, untuned: Model) -> Result<Model, TrainError> {
    let Base { mut model, id, adapter, .. } = base;
    if let Some(adapter) = adapter {
        let mut model = untuned;
        model.params.ids().for_each(|id| model.params.fix(id));
        for id in adapter.params.ids() {
            let own = model.params.find(adapter.params.name(id)).expect("its adapter stands within: bug");
            model.params.learn(own)?;
        }
        return Ok(model);
    }
    drop(untuned);
    if let Some(lora) = &spec.lora {
        let config = AdapterConfig {
            target_modules: Modules::Named(lora.target.clone()),
            lora_dropout: lora.dropout,
            ..AdapterConfig::new(lora.rank, lora.alpha)
        };
        let learning = model.learning(&config, spec.seed);
        return learning.map_err(|error| TrainError::Spec(format!("{id} takes no such adapter: {error}")));
    }
    model.learn_all().map_err(|error| {
        TrainError::Spec(format!(
            "{id} cannot be trained whole: {error}; add lora = {{ rank = 8 }} under [model], which leaves its \
             weights as they are"
        ))
    })?;
    Ok(model)
}

/// Where a run begins.
struct Start {
    progress: Progress,
    best: Option<lyceum_nn::Params>,
    /// The secret of a private run.
    noise: Option<Noise>,
}

/// Continues from the newest checkpoint, or tells what the run will cost.
fn start(
    run: &mut Run,
    chats: &Chats,
    (identity, trained): (&str, &dyn Fn(u64) -> Trained),
    promise: Option<&Promise>,
    observer: &mut dyn Observer,
) -> Result<Start, TrainError> {
    let dir = observer.checkpoint_dir();
    let newest = match &dir {
        Some(dir) => checkpoint::list(dir)?.pop(),
        None => None,
    };
    if let Some(path) = newest {
        let restored = checkpoint::read(&path, identity, &mut run.model.params, &mut run.optimizer)?;
        let trained = trained(restored.progress.step);
        observer.event(&Event::Resumed { step: restored.progress.step, path: &path, trained })?;
        let checkpoint::Restored { progress, best, noise } = restored;
        let noise = match promise {
            Some(promise) => promise.noise(noise, &progress, observer)?,
            None => None,
        };
        return Ok(Start { progress, best, noise });
    }
    if run.total_steps() >= drive::QUOTED_STEPS_MIN {
        let mut copy = Run::new(&run.spec, run.seed, run.model.clone(), &chats.train);
        probe(&mut copy, observer, |copy, step| match promise {
            // Thrown away, as all of the probe: nothing of it is seen.
            Some(promise) => {
                let mechanism = &promise.private.mechanism;
                copy.private_step(&chats.train, step, mechanism, &Noise::insecure(step))
            }
            None => copy.step(&chats.train, step),
        })?;
    }
    let progress = Progress::default();
    let noise = match promise {
        Some(promise) => promise.noise(None, &progress, observer)?,
        None => None,
    };
    // The key is on disk before its first draw: a run that is killed at once repeats itself too.
    if let (Some(dir), Some(noise)) = (dir.as_ref(), &noise) {
        drive::save(dir, identity, run, None, &progress, Some(noise), observer)?;
    }
    Ok(Start { progress, best: None, noise })
}

/// What a checkpoint belongs to: the spec, the base and the bytes of the data.
fn identity(spec: &TuneSpec, base: &Base<'_>, chats: &Chats) -> String {
    let mut text = serde_json::to_string(spec).expect("a spec is plain data: bug");
    text.push_str(&base.sha256);
    for file in &chats.files {
        text.push_str(&file.sha256);
    }
    // Another generator's noise on steps that were taken already would spend twice.
    if spec.privacy.is_some() {
        text.push_str(private::GENERATOR);
    }
    checkpoint::digest(text.as_bytes())
}

/// The beginnings of a few examples with what is said after them; of a private run without public lines, of tokens
/// that are nobody's.
fn probes(model: &Model, chats: &Chats, is_private: bool) -> Result<Vec<Probe>, TrainError> {
    if is_private && chats.valid.is_none() {
        let vocabulary = model.shape.output.width().max(1);
        let made_up = |i: usize| (0..16).map(|t| ((i * 131 + t * 37 + 11) % vocabulary) as u32).collect();
        return (0..PROBES).map(|i| Ok(Probe::record(model, made_up(i))?)).collect();
    }
    let part = chats.valid.as_ref().unwrap_or(&chats.train);
    let rows: Vec<usize> = (0..part.len().min(PROBES)).collect();
    let mut batch = part.new_batch();
    part.fill(&rows, &mut batch);
    let Input::Tokens(tokens) = &batch.input else { unreachable!("chats are tokens: bug") };
    let starts = tokens.offsets();
    let texts = starts.windows(2).map(|pair| {
        let ids = &tokens.ids[pair[0] as usize..pair[1] as usize];
        Ok(Probe::record(model, ids[..ids.len().min(PROBE_TOKENS)].to_vec())?)
    });
    texts.collect()
}
