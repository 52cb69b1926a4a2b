//! What a language model makes of lines: the losses of their learnt tokens, and what follows from them.
//!
//! The same numbers judge a tuning beside its base, versions before a gate ([`on_lines`]) and what a model makes of
//! references ([`on_rows`]). Nothing here learns.

use super::Base;
use crate::chat::{self, Chats};
use crate::checkpoint;
use crate::data::Dataset;
use crate::error::TrainError;
use crate::eval::{self, Verdict};
use crate::likeliest::is_likeliest;
use lyceum_kernels::softmax::cross_entropy;
use lyceum_models::Model;
use lyceum_models::batch::{Input, Target};
use lyceum_nn::{Precision, Recording, Tape, Workspace};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::{DataFile, Metric};
use lyceum_types::spec::tune::{TuneData, TuneSpec};
use std::collections::BTreeMap;

/// Tokens that are read at once when losses are measured.
const TOKENS_MEASURED: usize = 512;

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
    let Chats { train: mut lines, mut files, .. } = lines_of(spec, file, side, base_dir, control)?;
    let mut ws = Workspace::new();
    ask_reference(&whole(reference)?, (&mut lines, Precision::F32), &mut ws, control)?;
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

/// The lines of `file`, all of them, as [`on_lines`] reads them for a model.
///
/// # Errors
/// All that is wrong with the file.
pub fn lines_of(
    spec: &TuneSpec,
    file: &str,
    side: &Base<'_>,
    base_dir: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Chats, TrainError> {
    let data = TuneData { train: file.to_owned(), valid: None, valid_fraction: None, ..spec.data.clone() };
    let spec = TuneSpec { data, ..spec.clone() };
    Ok(chat::load(&spec, side.words, side.context()?, base_dir, control)?)
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
    let chats = chat::load(spec, side.words, side.context()?, base_dir, control)?;
    let part = chats.valid.unwrap_or(chats.train);
    let answers = answers(&whole(side)?, (&part, Precision::F32), &mut Workspace::new(), control)?;
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

/// Fills in what the base gives each answer of preferences, in the precision of what is held against it: a policy that is its
/// reference must be told so. Other data needs no reference.
pub(super) fn ask_reference(
    base: &Model,
    (data, precision): (&mut Dataset, Precision),
    ws: &mut Workspace,
    control: &Control,
) -> Result<(), TrainError> {
    if !data.sequences().is_some_and(|sequences| sequences.is_pairs()) {
        return Ok(());
    }
    let sums =
        answers(base, (data, precision), ws, control)?.iter().map(|answer| -answer.nats as f32).collect();
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
    (data, precision): (&Dataset, Precision),
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
        let tape = Tape::new(ws, &model.params, Recording::Off, batch.examples());
        let mut tape = tape.with_precision(precision);
        let asked = model.asked(&mut tape, &batch)?;
        let (n_rows, width) = (asked.targets.len(), model.shape.output.width());
        let (mut losses, mut lse) = (vec![0.0; n_rows], vec![0.0; n_rows]);
        let logits = tape.value(asked.forward.logits);
        cross_entropy(logits, width, &asked.targets, &mut losses, &mut lse);
        let is_right =
            |row: &usize| is_likeliest(&logits[row * width..(row + 1) * width], asked.targets[*row]);
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
pub(super) fn losses(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<f64>, TrainError> {
    let mean = |answer: Answer| answer.nats / answer.n_tokens.max(1) as f64;
    Ok(answers(model, (data, Precision::F32), ws, control)?.into_iter().map(mean).collect())
}

pub(super) struct Measured {
    pub(super) metrics: BTreeMap<String, Metric>,
    /// A loss an example.
    pub(super) rows: Vec<f64>,
}

/// Loss, perplexity and accuracy of answers, token by token; of preferences the loss, how often the preferred answer is, and by how much.
pub(super) fn measure(
    model: &Model,
    data: &Dataset,
    ws: &mut Workspace,
    control: &Control,
) -> Result<Measured, TrainError> {
    let answers = answers(model, (data, Precision::F32), ws, control)?;
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
