//! How good a model is on a part of the data, and how good the simple methods are on the same rows.
//!
//! Names are without a part (`accuracy`, `rmse`, …); the caller adds `valid_` or `test_`.

mod baselines;

pub use baselines::{fit_trivial, measure_simple, measure_trivial};

use crate::data::Dataset;
use crate::error::TrainError;
use crate::eval::{self, Verdict, compare_classifiers, compare_losses};
use lyceum_kernels::softmax::cross_entropy;
use lyceum_models::Model;
use lyceum_models::answer::{Bounds, Question};
use lyceum_models::batch::{Batch, IGNORE, Input, Target};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_types::control::Control;
use lyceum_types::manifest::Metric;
use lyceum_types::spec::{Spec, Task};
use std::collections::BTreeMap;

/// Rows of a batch of measurement.
const BATCH: usize = 64;
/// Whole answers are generated for at most this many rows; the metric's `n` says so.
const ANSWERS_MAX: usize = 5_000;
/// Sequences that are generated together.
const ANSWERS_BATCH: usize = 64;
/// Tokens of answers that are made in one turn, where others wait for the device.
const ANSWERS_TOKENS_A_TURN: usize = 2048;

/// What was measured of one model or method.
#[derive(Clone, Debug)]
pub struct Measured {
    pub name: String,
    pub metrics: BTreeMap<String, Metric>,
    /// What paired tests compare, row by row.
    pub rows: RowScores,
    /// Raw outputs of a model with one answer an example, `[n, width]`; empty otherwise.
    pub logits: Vec<f32>,
}

/// A number for each row, smaller is better, or whether it was right.
#[derive(Clone, Debug, PartialEq)]
pub enum RowScores {
    Correct(Vec<bool>),
    /// Mean losses or squared errors of the rows.
    Losses(Vec<f64>),
}

/// A model's outputs over a part, and its losses.
struct Outputs {
    logits: Vec<f32>,
    /// For each example: the sum of its terms' losses in nats (or of squared errors), and their number.
    losses: Vec<(f64, u64)>,
}

/// The mean loss over all terms of a part (what training minimises), with its interval.
pub fn mean_loss(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Metric, TrainError> {
    let outputs = run(model, data, ws, control, false)?;
    let sums: Vec<f64> = outputs.losses.iter().map(|l| l.0).collect();
    let counts: Vec<f64> = outputs.losses.iter().map(|l| l.1 as f64).collect();
    Ok(eval::ratio("loss", &sums, &counts)?)
}

/// The mean loss of each example, for attacks that ask which rows a model was trained on.
pub fn row_losses(model: &Model, data: &Dataset, control: &Control) -> Result<Vec<f64>, TrainError> {
    let outputs = run(model, data, &mut Workspace::new(), control, false)?;
    if outputs.losses.is_empty() {
        return Err(no_targets("the rows' losses"));
    }
    Ok(outputs.losses.iter().map(|&(sum, n)| sum / (n.max(1) as f64)).collect())
}

/// Whether examples of this data have losses: [`row_losses`] finds some.
pub fn has_losses(data: &Dataset) -> bool {
    !matches!(data.new_batch().target, Target::None | Target::Preferences { .. })
}

/// All metrics of a model on a part.
pub fn measure_model(
    model: &Model,
    preparation: &Preparation,
    data: &Dataset,
    spec: &Spec,
    control: &Control,
) -> Result<Measured, TrainError> {
    let mut ws = Workspace::new();
    let keep = matches!(spec.task, Task::Classification | Task::Regression | Task::Forecasting);
    let outputs = run(model, data, &mut ws, control, keep)?;
    let name = spec.model.family().to_owned();
    match (spec.task, &preparation.output) {
        (Task::Classification, OutputPreparation::Labels { names }) => {
            let labels = data.labels().ok_or_else(|| no_targets("classification"))?;
            let log_probs = eval::log_softmax(&outputs.logits, names.len());
            classifier(name, &log_probs, labels, names.len(), spec.seed, outputs.logits)
        }
        (Task::Classification, OutputPreparation::StepLabels { names }) => {
            let steps = labelled_steps(data)?;
            let k = names.len();
            let kept: Vec<f32> =
                steps.places.iter().flat_map(|&i| &outputs.logits[i * k..(i + 1) * k]).copied().collect();
            classifier(name, &eval::log_softmax(&kept, k), &steps.labels, k, spec.seed, Vec::new())
        }
        (Task::Regression | Task::Forecasting, OutputPreparation::Values { .. }) => {
            let (targets, width) = data.values().ok_or_else(|| no_targets("regression"))?;
            let predictions = preparation.output.restore(&outputs.logits);
            let targets = preparation.output.restore(targets);
            let mut measured = regressor(name, &predictions, &targets, width, spec.seed)?;
            let per_row: Vec<f64> = outputs.losses.iter().map(|(sum, n)| sum / (*n).max(1) as f64).collect();
            measured.metrics.insert("loss".into(), eval::mean("loss", &per_row)?);
            measured.logits = outputs.logits;
            Ok(measured)
        }
        _ => {
            let mut measured = language(name, &outputs.losses, data, preparation)?;
            if data.tokens().is_none() && spec.task != Task::Classification {
                let answers = answers(model, preparation, data, spec, &mut ws, control)?;
                exact(&mut measured.metrics, &answers, data, preparation)?;
            }
            Ok(measured)
        }
    }
}

/// The paired test of a model against a baseline on the same rows.
pub fn compare(model: &Measured, baseline: &Measured, spec: &Spec) -> Result<Verdict, TrainError> {
    let lags = match spec.task {
        Task::Forecasting => spec.data.horizon.unwrap_or(1).saturating_sub(1),
        _ => 0,
    };
    match (&model.rows, &baseline.rows) {
        (RowScores::Correct(ours), RowScores::Correct(theirs)) => {
            Ok(compare_classifiers(&baseline.name, ours, theirs)?)
        }
        (RowScores::Losses(ours), RowScores::Losses(theirs)) => {
            let metric = match spec.task {
                Task::Regression | Task::Forecasting => "squared error",
                _ => "loss",
            };
            Ok(compare_losses(&baseline.name, metric, ours, theirs, lags)?)
        }
        _ => Err(no_targets("a comparison of unlike scores")),
    }
}

fn run(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
    keep: bool,
) -> Result<Outputs, TrainError> {
    let mut out = Outputs { logits: Vec::new(), losses: Vec::with_capacity(data.len()) };
    let mut batch = data.new_batch();
    let mut rows = Vec::new();
    for start in (0..data.len()).step_by(BATCH) {
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        rows.clear();
        rows.extend(start..(start + BATCH).min(data.len()));
        data.fill(&rows, &mut batch);
        let _turn = control.turn().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        control.spend(rows.len() as u64);
        let mut tape = Tape::new(ws, &model.params, Recording::Off, Examples::Even(batch.n));
        let forward = model.forward(&mut tape, &batch.input)?;
        let logits = tape.value(forward.logits);
        losses(logits, model.shape.output.width(), &batch, &mut out.losses);
        if keep {
            out.logits.extend_from_slice(logits);
        }
    }
    Ok(out)
}

/// The steps of a part that have a label, each a row of its own.
struct Steps {
    labels: Vec<u32>,
    /// Which rows of the model's outputs they are.
    places: Vec<usize>,
    /// What stands at the step, `[n, width]`.
    features: Vec<f32>,
    width: usize,
}

fn labelled_steps(data: &Dataset) -> Result<Steps, TrainError> {
    let mut batch = data.new_batch();
    let mut steps = Steps { labels: Vec::new(), places: Vec::new(), features: Vec::new(), width: 1 };
    let mut first = 0;
    for start in (0..data.len()).step_by(BATCH) {
        let rows: Vec<usize> = (start..(start + BATCH).min(data.len())).collect();
        data.fill(&rows, &mut batch);
        let (Target::Steps(targets), Input::Dense { shape, data }) = (&batch.target, &batch.input) else {
            return Err(no_targets("a class at each step"));
        };
        steps.width = shape.last().copied().unwrap_or(1);
        for (i, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != IGNORE) {
            steps.labels.push(target as u32);
            steps.places.push(first + i);
            steps.features.extend_from_slice(&data[i * steps.width..(i + 1) * steps.width]);
        }
        first += targets.len();
    }
    Ok(steps)
}

/// Each example's sum of losses and number of terms.
fn losses(logits: &[f32], width: usize, batch: &Batch, out: &mut Vec<(f64, u64)>) {
    match &batch.target {
        Target::Classes(targets) | Target::Steps(targets) => {
            let (mut losses, mut lse) = (vec![0.0; targets.len()], vec![0.0; targets.len()]);
            cross_entropy(logits, width, targets, &mut losses, &mut lse);
            let per = targets.len() / batch.n.max(1);
            for (losses, targets) in losses.chunks(per.max(1)).zip(targets.chunks(per.max(1))) {
                let n = targets.iter().filter(|&&t| t != IGNORE).count() as u64;
                out.push((losses.iter().map(|&l| f64::from(l)).sum(), n));
            }
        }
        Target::Values { width, data } => {
            for (y, t) in logits.chunks(*width).zip(data.chunks(*width)) {
                let sum = y.iter().zip(t).map(|(y, t)| f64::from(y - t) * f64::from(y - t)).sum();
                out.push((sum, *width as u64));
            }
        }
        Target::None | Target::Preferences { .. } => {}
    }
}

fn classifier(
    name: String,
    log_probs: &[f64],
    labels: &[u32],
    n_classes: usize,
    seed: u64,
    logits: Vec<f32>,
) -> Result<Measured, TrainError> {
    let found = eval::classification(log_probs, labels, n_classes, seed)?;
    Ok(Measured { name, metrics: found.metrics, rows: RowScores::Correct(found.correct), logits })
}

fn regressor(
    name: String,
    predictions: &[f64],
    targets: &[f64],
    width: usize,
    seed: u64,
) -> Result<Measured, TrainError> {
    let found = eval::regression(predictions, targets, width, seed)?;
    let rows = RowScores::Losses(found.squared_errors);
    Ok(Measured { name, metrics: found.metrics, rows, logits: Vec::new() })
}

/// Loss, perplexity and bits per byte from each example's nats and tokens.
fn language(
    name: String,
    losses: &[(f64, u64)],
    data: &Dataset,
    preparation: &Preparation,
) -> Result<Measured, TrainError> {
    let nats: Vec<f64> = losses.iter().map(|l| l.0).collect();
    let tokens: Vec<u64> = losses.iter().map(|l| l.1).collect();
    let counts: Vec<f64> = tokens.iter().map(|&n| n as f64).collect();
    let mut metrics = BTreeMap::new();
    metrics.insert("loss".to_owned(), eval::ratio("loss", &nats, &counts)?);
    metrics.insert("perplexity".to_owned(), eval::perplexity(&nats, &tokens)?);
    if let Some(bytes) = target_bytes(data, preparation) {
        metrics.insert("bits_per_byte".to_owned(), eval::bits_per_byte(&nats, &bytes)?);
    }
    let rows = RowScores::Losses(nats.iter().zip(&counts).map(|(l, n)| l / n.max(1.0)).collect());
    Ok(Measured { name, metrics, rows, logits: Vec::new() })
}

/// Bytes of the text that each window of a stream predicts; None where tokens are not bytes of a text.
fn target_bytes(data: &Dataset, preparation: &Preparation) -> Option<Vec<u64>> {
    let (tokens, context, tokenizer) = (data.tokens()?, data.context()?, preparation.tokenizer()?);
    let bytes = |id: &u32| tokenizer.token_bytes(*id).map(|b| b.len() as u64);
    tokens[1..].chunks(context).map(|window| window.iter().map(bytes).sum()).collect()
}

/// The model's own answers to the first rows.
fn answers(
    model: &Model,
    preparation: &Preparation,
    data: &Dataset,
    spec: &Spec,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let tokenizer = preparation.tokenizer();
    let (begin, end) = (tokenizer.and_then(|t| t.bos()), tokenizer.and_then(|t| t.eos()));
    let never = tokenizer.map_or_else(Vec::new, |t| t.never_said());
    let n_max = match &preparation.input {
        InputPreparation::Pair { max_target, .. } => *max_target,
        _ => (0..data.len()).filter_map(|i| data.answer_tokens(i).map(<[u32]>::len)).max().unwrap_or(0) + 1,
    };
    let rows: Vec<usize> = (0..data.len().min(ANSWERS_MAX)).collect();
    let mut all = Vec::with_capacity(rows.len());
    let at_once = match control.shares_a_device() {
        true => (ANSWERS_TOKENS_A_TURN / n_max.max(1)).clamp(1, ANSWERS_BATCH),
        false => ANSWERS_BATCH,
    };
    for rows in rows.chunks(at_once) {
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        let prompts: Vec<Vec<u32>> = rows.iter().map(|&i| question_tokens(data, i)).collect();
        let questions: Vec<Question<'_>> = prompts
            .iter()
            .map(|tokens| match (spec.task, begin) {
                (Task::SequenceToSequence, Some(begin)) => Ok(Question::Source { source: tokens, begin }),
                (Task::SequenceToSequence, None) => Err(no_targets("an answer without a begin token")),
                _ => Ok(Question::Prompt(tokens)),
            })
            .collect::<Result<_, _>>()?;
        let _turn = control.turn().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
        let found = model.answers(ws, &questions, Bounds { end, never: &never, n_tokens_max: n_max })?;
        let asked = prompts.iter().map(Vec::len).zip(&found);
        control
            .spend(asked.map(|(n_prompt, answer)| steps(model, spec, n_prompt, answer.len(), n_max)).sum());
        all.extend(found);
    }
    Ok(all)
}

/// How often a row went through the model for its answer: once a token, and once for the end where it said so.
fn steps(model: &Model, spec: &Spec, n_prompt: usize, n_said: usize, n_max: usize) -> u64 {
    if model.answers_at_once() {
        return 1;
    }
    // The answer to a source begins after one token, and continues a prompt else.
    let n_before = if spec.task == Task::SequenceToSequence { 1 } else { n_prompt };
    let room = model.context().map_or(n_max, |context| n_max.min((context + 1).saturating_sub(n_before)));
    (n_said + 1).min(room) as u64
}

/// What is asked in row `i`: the source, or the prompt of a completion.
fn question_tokens(data: &Dataset, i: usize) -> Vec<u32> {
    let all = data.example_tokens(i).unwrap_or_default();
    let answer = data.answer_tokens(i).unwrap_or_default();
    if data.is_pairs() { all.to_vec() } else { all[..all.len() - answer.len()].to_vec() }
}

fn exact(
    metrics: &mut BTreeMap<String, Metric>,
    answers: &[Vec<u32>],
    data: &Dataset,
    preparation: &Preparation,
) -> Result<(), TrainError> {
    let Some(tokenizer) = preparation.tokenizer() else { return Ok(()) };
    let texts: Vec<String> = answers.iter().map(|ids| tokenizer.decode(ids)).collect();
    let wanted: Vec<String> =
        (0..answers.len()).map(|i| tokenizer.decode(data.answer_tokens(i).unwrap_or_default())).collect();
    metrics.insert("exact_match".into(), eval::exact_match(&texts, &wanted)?);
    metrics.insert("char_accuracy".into(), eval::char_accuracy(&texts, &wanted)?);
    Ok(())
}

fn restore(preparation: &Preparation, scaled: &[f64]) -> Vec<f64> {
    match &preparation.output {
        OutputPreparation::Values { mean, std, .. } => {
            scaled.iter().enumerate().map(|(i, y)| y * std[i % std.len()] + mean[i % mean.len()]).collect()
        }
        _ => scaled.to_vec(),
    }
}

fn no_targets(what: &str) -> TrainError {
    TrainError::Spec(format!("{what} cannot be measured: the data has no such targets"))
}
