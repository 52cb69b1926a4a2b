//! Fine-tuning of a language model that exists: adapters over weights that stay, or all weights; on answers or on
//! preferences.
//!
//! [`tune`] is handed the opened base, never files of models. It judges and renders the data, says what was left to
//! it, asks the reference what preferences are held against, and takes the steps through the one loop
//! ([`drive`](crate::drive)). What it gives back is measured beside the base on the same rows.

use crate::chat::{self, Chats, Words};
use crate::checkpoint::{self, Progress};
use crate::data::Dataset;
use crate::drive::{self, Course, drive, probe};
use crate::error::TrainError;
use crate::eval::{self, Verdict};
use crate::observer::{Event, Observer, Trained};
use crate::private::{self, Noise, Promise};
use crate::run::Run;
use lyceum_kernels::softmax::cross_entropy;
use lyceum_models::batch::{Input, Target};
use lyceum_models::causal_lm::adapter::Modules;
use lyceum_models::causal_lm::{Adapter, AdapterConfig};
use lyceum_models::probe::Probe;
use lyceum_models::{InputShape, Model};
use lyceum_nn::{Recording, Tape, Workspace};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::{DataFile, Metric, PrivacyReport};
use lyceum_types::spec::TrainSpec;
use lyceum_types::spec::tune::{TuneData, TuneSpec};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens that are read at once when losses are measured.
const TOKENS_MEASURED: usize = 512;
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
    let InputShape::Tokens { time: context, .. } = base.model.shape.input else {
        return Err(TrainError::Spec(format!("{} reads no tokens", base.id)));
    };
    let mut chats = chat::load(spec, base.words, context, base_dir, control)?;
    if spec.privacy.is_some() {
        // Duplicates and overlap are said of the lines.
        chats.warnings.clear();
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
    let train = spec.resolve(chats.train.len());
    refuse_memory(spec, &base)?;
    refuse_private_whole(spec, &base)?;
    let mut promise = Promise::begin(spec, &train, &chats, observer)?;
    let mut ws = Workspace::new();
    let reference = untuned(spec, &base)?;
    for part in [Some(&mut chats.train), chats.valid.as_mut()].into_iter().flatten() {
        ask_reference(&reference, part, &mut ws, control)?;
    }
    let before = match &chats.valid {
        Some(valid) => Some(measure(&reference, valid, &mut ws, control)?),
        None => None,
    };
    if let Some(promise) = &mut promise {
        let size = (base.model.shape.output.width(), context);
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
    let metrics = |model: &Model, ws: &mut Workspace| match &chats.valid {
        Some(valid) => Ok(measure(model, valid, ws, control)?.metrics),
        None => Ok(BTreeMap::new()),
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
    let after = match &chats.valid {
        Some(valid) => Some(measure(&run.model, valid, &mut ws, control)?),
        None => None,
    };
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

/// The base with what a spec learns of it, as it is before the first step: for checkpoints to be read into.
///
/// # Errors
/// As [`tune`].
pub fn untrained(spec: &TuneSpec, base: Base<'_>) -> Result<Model, TrainError> {
    let reference = untuned(spec, &base)?;
    prepared(spec, base, reference)
}

/// A model's loss on lines that a gate compares versions by.
#[derive(Clone, Debug, PartialEq)]
pub struct OnLines {
    pub metrics: BTreeMap<String, Metric>,
    pub file: DataFile,
    /// A loss a line.
    rows: Vec<f64>,
    /// Of what was read: losses of other tokens are not comparable.
    tokens_sha256: String,
}

impl OnLines {
    /// The loss of each line, the mean over its learnt tokens.
    pub fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// The mean loss with its interval.
    pub fn loss(&self) -> Option<&Metric> {
        self.metrics.get("valid_loss")
    }

    /// The paired test of two models on the same lines, in words; None where there is one line.
    ///
    /// # Errors
    /// Lines that the two read as different tokens, losses that are not finite.
    pub fn beside(&self, other: &OnLines, called: &str) -> Result<Option<Verdict>, TrainError> {
        if self.tokens_sha256 != other.tokens_sha256 {
            let message = format!(
                "{called} reads the lines as other tokens, and losses of those say nothing of each other"
            );
            return Err(TrainError::Spec(message));
        }
        if self.rows.len() < 2 {
            return Ok(None);
        }
        Ok(Some(eval::compare_losses(called, "loss", &self.rows, &other.rows, 0)?))
    }
}

/// Measures a model on the lines of `file`, rendered and bounded as the spec's own; preferences are held against
/// `reference`.
///
/// # Errors
/// All that is wrong with the file; an end from outside.
pub fn on_lines(
    spec: &TuneSpec,
    file: &str,
    (side, reference): (&Base<'_>, &Base<'_>),
    base_dir: impl Into<KeyedPath>,
    control: &Control,
) -> Result<OnLines, TrainError> {
    let InputShape::Tokens { time: context, .. } = side.model.shape.input else {
        return Err(TrainError::Spec(format!("{} reads no tokens", side.id)));
    };
    let data = TuneData { train: file.to_owned(), valid: None, valid_fraction: None, ..spec.data.clone() };
    let spec = TuneSpec { data, ..spec.clone() };
    let Chats { train: mut lines, mut files, .. } =
        chat::load(&spec, side.words, context, base_dir, control)?;
    let mut ws = Workspace::new();
    ask_reference(&whole(reference)?, &mut lines, &mut ws, control)?;
    let Measured { metrics, rows } = measure(&whole(side)?, &lines, &mut ws, control)?;
    let mut batch = lines.new_batch();
    lines.fill(&(0..lines.len()).collect::<Vec<_>>(), &mut batch);
    let Input::Tokens(tokens) = &batch.input else { unreachable!("chats are tokens: bug") };
    let offsets = tokens.offsets();
    let numbers = tokens.ids.iter().chain(&offsets);
    let bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
    let file = DataFile { role: "gate".into(), ..files.swap_remove(0) };
    Ok(OnLines { metrics, file, rows, tokens_sha256: checkpoint::digest(&bytes) })
}

/// What a model makes of the references of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct OnRows {
    /// One a line.
    pub answers: Vec<Answer>,
    /// What stands before the last reference of a line, and that reference, as tokens.
    pub lines: Vec<(Vec<u32>, Vec<u32>)>,
    /// Lines (from 0) of the file.
    pub rows: Vec<u64>,
    /// Of what was read: numbers of other tokens are not comparable.
    pub tokens_sha256: String,
}

impl OnRows {
    /// `exact_match`, `token_accuracy` and `perplexity`, of all tokens alike.
    ///
    /// # Errors
    /// No lines, or losses that are not finite.
    pub fn metrics(&self) -> Result<BTreeMap<String, Metric>, eval::EvalError> {
        let nats: Vec<f64> = self.answers.iter().map(|answer| answer.nats).collect();
        let tokens: Vec<u64> = self.answers.iter().map(|answer| answer.n_tokens).collect();
        let whole = self.answers.iter().filter(|answer| answer.n_right == answer.n_tokens).count() as u64;
        let right = self.answers.iter().map(|answer| answer.n_right).sum();
        Ok(BTreeMap::from([
            ("exact_match".to_owned(), eval::wilson(whole, self.answers.len() as u64)?),
            ("token_accuracy".to_owned(), eval::wilson(right, tokens.iter().sum())?),
            ("perplexity".to_owned(), eval::perplexity(&nats, &tokens)?),
        ]))
    }
}

/// Reads the held-out lines of `spec` (or all, where none is held out) and what a model makes of their references.
///
/// # Errors
/// All that is wrong with the files; preferences, which have no one reference; an end from outside.
pub fn on_rows(
    spec: &TuneSpec,
    side: &Base<'_>,
    base_dir: &KeyedPath,
    control: &Control,
) -> Result<OnRows, TrainError> {
    let InputShape::Tokens { time: context, .. } = side.model.shape.input else {
        return Err(TrainError::Spec(format!("{} reads no tokens", side.id)));
    };
    let chats = chat::load(spec, side.words, context, base_dir, control)?;
    let part = chats.valid.unwrap_or(chats.train);
    let answers = answers(&whole(side)?, &part, &mut Workspace::new(), control)?;
    let sequences = part.sequences().expect("chats are sequences: bug");
    let (mut lines, mut bytes) = (Vec::new(), Vec::new());
    for tokens in (0..part.len()).flat_map(|i| sequences.example(i)) {
        let last = tokens.iter().rposition(|token| token.has_loss).map_or(0, |last| last + 1);
        let first = tokens[..last].iter().rposition(|token| !token.has_loss).map_or(0, |before| before + 1);
        let ids =
            |part: &[crate::preview::SeenToken]| part.iter().map(|token| token.id).collect::<Vec<u32>>();
        bytes.extend((tokens.len() as u64).to_le_bytes());
        bytes.extend(
            tokens.iter().flat_map(|token| (token.id << 1 | u32::from(token.has_loss)).to_le_bytes()),
        );
        lines.push((ids(&tokens[..first]), ids(&tokens[first..last])));
    }
    let (rows, tokens_sha256) = (part.row_ids().to_vec(), checkpoint::digest(&bytes));
    Ok(OnRows { answers, lines, rows, tokens_sha256 })
}

/// A model with its adapter.
fn whole(base: &Base<'_>) -> Result<Model, TrainError> {
    let Some(adapter) = &base.adapter else { return Ok(base.model.clone()) };
    let model = base.model.with_adapter(adapter);
    model.map_err(|error| TrainError::Spec(format!("{} cannot be measured: {error}", base.id)))
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

/// A whole model's head reads the learnt tokens alone, whose rows are not the examples': their norms are not known.
fn refuse_private_whole(spec: &TuneSpec, base: &Base<'_>) -> Result<(), TrainError> {
    if spec.privacy.is_none() || spec.lora.is_some() || base.adapter.is_some() {
        return Ok(());
    }
    Err(TrainError::Privacy(format!(
        "training {} whole with differential privacy is not in this version: add lora = {{ rank = 8 }} under [model]",
        base.id
    )))
}

/// Weights, their gradients and two moments of a whole model must fit.
fn refuse_memory(spec: &TuneSpec, base: &Base<'_>) -> Result<(), TrainError> {
    let params = &base.model.params;
    let numbers: usize = params.ids().map(|id| params.shape(id).len()).sum();
    let (needed, Some(available)) = (16 * numbers as u64, available_bytes()) else { return Ok(()) };
    if spec.lora.is_none() && base.adapter.is_none() && needed > available {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        return Err(TrainError::Spec(format!(
            "training {} whole takes {:.1} GiB for weights, gradients and moments, and {:.1} GiB are free; add \
             lora = {{ rank = 8 }} under [model]",
            base.id,
            gib(needed),
            gib(available)
        )));
    }
    Ok(())
}

fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
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

/// Fills in what the base gives each answer of preferences; other data needs no reference.
fn ask_reference(
    base: &Model,
    data: &mut Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<(), TrainError> {
    if !data.sequences().is_some_and(|sequences| sequences.is_pairs()) {
        return Ok(());
    }
    let sums = answers(base, data, ws, control)?.iter().map(|answer| -answer.nats as f32).collect();
    data.sequences_mut().expect("seen above: bug").set_reference(sums);
    Ok(())
}

/// The learnt tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The sum of their negative log-probabilities.
    pub nats: f64,
    pub n_tokens: u64,
    /// Of these, those that were the likeliest.
    pub n_right: u64,
}

/// Every sequence's answer under a model.
fn answers(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<Answer>, TrainError> {
    let sequences = data.sequences().expect("chats are sequences: bug");
    let (mut all, mut batch, mut rows) = (Vec::new(), data.new_batch(), Vec::new());
    let (mut next, n) = (0, data.len());
    while next < n {
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        rows.clear();
        let mut tokens = 0;
        while next < n && (rows.is_empty() || tokens + sequences.n_read(next) <= TOKENS_MEASURED) {
            tokens += sequences.n_read(next);
            rows.push(next);
            next += 1;
        }
        data.fill(&rows, &mut batch);
        let _turn = control.turn().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        control.spend(rows.len() as u64);
        let mut tape = Tape::new(ws, &model.params, Recording::Off, batch.examples());
        let asked = model.asked(&mut tape, &batch)?;
        let (n_rows, width) = (asked.targets.len(), model.shape.output.width());
        let (mut losses, mut lse) = (vec![0.0; n_rows], vec![0.0; n_rows]);
        let logits = tape.value(asked.forward.logits);
        cross_entropy(logits, width, &asked.targets, &mut losses, &mut lse);
        let is_right = |row: &usize| {
            let (own, target) = (&logits[row * width..(row + 1) * width], asked.targets[*row] as usize);
            own.iter().all(|other| *other <= own[target])
        };
        for pair in asked.offsets.windows(2) {
            let rows = pair[0] as usize..pair[1] as usize;
            let nats = losses[rows.clone()].iter().map(|&loss| f64::from(loss)).sum();
            let (n_tokens, n_right) = (rows.len() as u64, rows.filter(is_right).count() as u64);
            all.push(Answer { nats, n_tokens, n_right });
        }
    }
    Ok(all)
}

/// The mean loss of each example's learnt tokens.
fn losses(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<f64>, TrainError> {
    let mean = |answer: Answer| answer.nats / answer.n_tokens.max(1) as f64;
    Ok(answers(model, data, ws, control)?.into_iter().map(mean).collect())
}

struct Measured {
    metrics: BTreeMap<String, Metric>,
    /// A loss an example.
    rows: Vec<f64>,
}

/// Loss, perplexity and accuracy of answers, token by token; of preferences the loss, how often the preferred answer is, and by how much.
fn measure(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Measured, TrainError> {
    let answers = answers(model, data, ws, control)?;
    let mut batch = data.new_batch();
    data.fill(&(0..data.len()).collect::<Vec<_>>(), &mut batch);
    let mut metrics = BTreeMap::new();
    let Target::Preferences { reference, beta, .. } = &batch.target else {
        let nats: Vec<f64> = answers.iter().map(|answer| answer.nats).collect();
        let tokens: Vec<u64> = answers.iter().map(|answer| answer.n_tokens).collect();
        let counts: Vec<f64> = tokens.iter().map(|&n| n as f64).collect();
        metrics.insert("valid_loss".to_owned(), eval::ratio("loss", &nats, &counts)?);
        metrics.insert("valid_perplexity".to_owned(), eval::perplexity(&nats, &tokens)?);
        let right = answers.iter().map(|answer| answer.n_right).sum();
        let accuracy = eval::wilson(right, tokens.iter().sum())?;
        metrics.insert("valid_mean_token_accuracy".to_owned(), accuracy);
        let rows = answers.iter().map(|answer| answer.nats / answer.n_tokens.max(1) as f64).collect();
        return Ok(Measured { metrics, rows });
    };
    let reward = |i: usize| f64::from(*beta) * (-answers[i].nats - f64::from(reference[i]));
    let margins: Vec<f64> = (0..answers.len() / 2).map(|i| reward(2 * i) - reward(2 * i + 1)).collect();
    let loss = |m: &f64| (-m.abs()).exp().ln_1p() + (-m).max(0.0);
    let rows: Vec<f64> = margins.iter().map(loss).collect();
    let preferred = margins.iter().filter(|margin| **margin > 0.0).count() as u64;
    metrics.insert("valid_loss".to_owned(), eval::mean("loss", &rows)?);
    metrics.insert("valid_accuracy".to_owned(), eval::wilson(preferred, margins.len() as u64)?);
    metrics.insert("valid_margin".to_owned(), eval::mean("margin", &margins)?);
    Ok(Measured { metrics, rows })
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
