//! Examples for language models: conversations, prompts with completions, preferences.
//!
//! [`lines`] judges a file as it is uploaded, without a model: every error with its line, pointer and hint.
//! [`render`] writes an example as the model's own template does and says which tokens are learnt. [`load`] does
//! both for the files of a fine-tuning. This module knows no weights.

pub mod lines;
pub mod render;
#[cfg(test)]
mod tests;

pub use lines::{Format, Line, judge};
pub use render::{Rendered, Words};

use crate::data::dataset::Dataset;
use crate::data::report::{DataError, Issue, Place, Report, Warning, io};
use crate::data::sequences::Sequences;
use crate::order::{Order, generator};
use crate::preview::SeenToken;
use crate::run;
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::DataFile;
use lyceum_types::spec::TrainSpec;
use lyceum_types::spec::tune::{Method, TooLong, TuneSpec};
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, HashSet};

/// The examples of a fine-tuning.
#[derive(Clone, Debug)]
pub struct Chats {
    pub train: Dataset,
    pub valid: Option<Dataset>,
    pub files: Vec<DataFile>,
    /// Lines (from 0) of each part, in the order of the file.
    pub split: BTreeMap<String, Vec<u64>>,
    pub warnings: Vec<Warning>,
}

/// The generator's stream that says which lines are held out.
const STREAM_SPLIT: u64 = 1 << 41;

/// Reads, judges and renders the files of a spec; `context` is the longest sequence that the base reads.
///
/// # Errors
/// All that is wrong with the files; nothing runs with a part of them.
pub fn load(
    spec: &TuneSpec,
    words: Words<'_>,
    context: usize,
    base_dir: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Chats, DataError> {
    let (mut report, base_dir) = (Report::default(), base_dir.into());
    let longest = spec.data.max_tokens.unwrap_or(context).min(context);
    let mut files = Vec::new();
    let mut read = |role: &str, shown: &str, report: &mut Report| -> Result<Part, DataError> {
        let path = base_dir.join(shown);
        let bytes = path.read().map_err(|source| io(path.path(), source))?;
        let (format, lines) = judge(&bytes, shown, control, report)?;
        if let Some(format) = format {
            check_method(spec.method, format, shown, report);
        }
        let n = lines.len() as u64;
        files.push(DataFile {
            role: role.to_owned(),
            path: shown.to_owned(),
            sha256: crate::checkpoint::digest(&bytes),
            rows: n,
        });
        let limits = Limits { longest, too_long: spec.data.too_long };
        render_all(&lines, words, limits, shown, control, report)
    };
    let train = read("train", &spec.data.train, &mut report)?;
    let valid = match &spec.data.valid {
        Some(shown) => Some(read("valid", shown, &mut report)?),
        None => None,
    };
    report.into_result()?;
    let (train, valid) = match (valid, spec.data.valid_fraction) {
        (None, Some(fraction)) => {
            let (train, valid) = train.hold_out(fraction, spec.seed, &spec.data.train)?;
            (train, Some(valid))
        }
        (valid, _) => (train, valid),
    };
    let mut warnings = Vec::new();
    warn(&train, valid.as_ref(), &mut warnings);
    let mut split = BTreeMap::from([("train".to_owned(), train.rows.clone())]);
    split.extend(valid.as_ref().map(|part| ("valid".to_owned(), part.rows.clone())));
    for (name, part, shown) in
        [("train", Some(&train), Some(&spec.data.train)), ("valid", valid.as_ref(), spec.data.valid.as_ref())]
    {
        if part.is_some_and(|part| part.examples.is_empty()) {
            let shown = shown.unwrap_or(&spec.data.train);
            let issue = Issue::new(
                shown,
                "no_examples",
                format!("no example is left for the {name} part"),
                "add examples, or raise data.max_tokens",
            );
            return Err(crate::data::report::one(issue));
        }
    }
    Ok(Chats {
        train: train.into_dataset(spec.method),
        valid: valid.map(|part| part.into_dataset(spec.method)),
        files,
        split,
        warnings,
    })
}

/// One example as it will be read: its row (from 0) and its sequences, of preferences the preferred one first.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub row: u64,
    pub sequences: Vec<Vec<SeenToken>>,
}

/// What an epoch reads and learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    pub n_examples: u64,
    pub n_tokens: u64,
    /// Tokens that are learnt.
    pub n_learnt: u64,
    /// The longest sequence.
    pub longest: u64,
}

/// The first `n` examples of a part, token by token.
pub fn examples(part: &Dataset, n: usize) -> Vec<Seen> {
    let sequences = part.sequences().expect("chats are sequences: bug");
    let seen = |i: usize| Seen { row: part.row_ids()[i], sequences: sequences.example(i) };
    (0..part.len().min(n)).map(seen).collect()
}

/// What an epoch of a part reads and learns.
pub fn epoch(part: &Dataset) -> Epoch {
    let sequences = part.sequences().expect("chats are sequences: bug");
    let mut epoch = Epoch { n_examples: part.len() as u64, ..Epoch::default() };
    for tokens in (0..part.len()).flat_map(|i| sequences.example(i)) {
        epoch.n_tokens += tokens.len() as u64;
        epoch.n_learnt += tokens.iter().filter(|token| token.has_loss).count() as u64;
        epoch.longest = epoch.longest.max(tokens.len() as u64);
    }
    epoch
}

/// Tokens in the examples of the first `n` steps of a run, and how many steps there are of these.
pub fn trained(train: &TrainSpec, seed: u64, part: &Dataset, n: u64) -> (u64, u64) {
    let steps = run::total_steps(train, seed, part).min(n);
    (Counter::new(train, seed, part).tokens(steps), steps)
}

/// Counts the tokens that a run is trained on. An epoch has every example once, so only the one that is begun is looked at.
pub struct Counter {
    /// Of each example.
    tokens: Vec<u64>,
    order: Order,
    /// The epoch that was asked for last, and the tokens before each of its steps.
    epoch: Option<u64>,
    before: Vec<u64>,
}

impl Counter {
    pub fn new(train: &TrainSpec, seed: u64, part: &Dataset) -> Self {
        let sequences = part.sequences().expect("chats are sequences: bug");
        let count = |i: usize| sequences.example(i).iter().map(|tokens| tokens.len() as u64).sum();
        let tokens = (0..part.len()).map(count).collect();
        Counter { tokens, order: run::order(train, seed, part), epoch: None, before: Vec::new() }
    }

    /// Tokens in the examples of the first `steps` steps.
    pub fn tokens(&mut self, steps: u64) -> u64 {
        let (epoch, per_epoch) = (self.order.epoch_of(steps), self.order.steps_per_epoch() as u64);
        if self.epoch != Some(epoch) {
            let (mut sum, mut rows) = (0, Vec::new());
            self.before.clear();
            for step in epoch * per_epoch..(epoch + 1) * per_epoch {
                self.before.push(sum);
                for micro in 0..self.order.n_micro_steps(step) {
                    self.order.rows(step, micro, &mut rows);
                    sum += rows.iter().map(|&row| self.tokens[row]).sum::<u64>();
                }
            }
            self.epoch = Some(epoch);
        }
        epoch * self.tokens.iter().sum::<u64>() + self.before[(steps % per_epoch) as usize]
    }
}

/// The rows of each of the first `n` steps of a run, by their place in the part.
pub fn order(train: &TrainSpec, seed: u64, part: &Dataset, n: u64) -> Vec<Vec<usize>> {
    let mut order = run::order(train, seed, part);
    let total = run::total_steps(train, seed, part).min(n);
    let mut step = |step: u64| {
        let (mut all, mut rows) = (Vec::new(), Vec::new());
        for micro in 0..order.n_micro_steps(step) {
            order.rows(step, micro, &mut rows);
            all.extend_from_slice(&rows);
        }
        all
    };
    (0..total).map(&mut step).collect()
}

fn check_method(method: Method, format: Format, shown: &str, report: &mut Report) {
    let problem = match (method, format) {
        (Method::Supervised, Format::Preferences) => {
            let hint = "make the method \"dpo\": train.method of a spec, method.type over HTTP";
            Some(("holds preferences, which supervised training cannot use", hint))
        }
        (Method::Dpo { .. }, Format::Chat | Format::Completions) => Some((
            "holds no preferences, which DPO needs",
            "write input, preferred_output and non_preferred_output, or make the method \"supervised\": train.method of a \
             spec, method.type over HTTP",
        )),
        _ => None,
    };
    if let Some((message, hint)) = problem {
        report.push(Issue::new(shown, "wrong_format", message, hint));
    }
}

#[derive(Clone, Copy)]
struct Limits {
    longest: usize,
    too_long: TooLong,
}

/// Rendered examples of one part: a sequence each, of preferences two.
struct Part {
    examples: Vec<Vec<Rendered>>,
    rows: Vec<u64>,
    n_cut: u64,
    n_dropped: u64,
}

fn render_all(
    lines: &[Line],
    words: Words<'_>,
    limits: Limits,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Part, DataError> {
    let mut part = Part { examples: Vec::new(), rows: Vec::new(), n_cut: 0, n_dropped: 0 };
    'lines: for (row, line) in lines.iter().enumerate() {
        control.check()?;
        let mut sequences = match render::sequences(line, words) {
            Ok(sequences) => sequences,
            Err(problem) => {
                let issue = Issue::new(shown, problem.code, problem.message, problem.hint);
                report.push(issue.at(Place::Line(line.number)).pointer(problem.pointer));
                continue;
            }
        };
        let mut is_cut = false;
        for sequence in &mut sequences {
            let n = sequence.ids.len();
            // The last token is said and not read.
            if n <= limits.longest + 1 {
                continue;
            }
            match limits.too_long {
                TooLong::Drop => {
                    part.n_dropped += 1;
                    continue 'lines;
                }
                TooLong::Cut if sequence.has_loss[..=limits.longest].contains(&true) => {
                    sequence.cut(limits.longest + 1);
                    is_cut = true;
                }
                TooLong::Cut | TooLong::Error => {
                    let (longest, cut) = (limits.longest, limits.too_long == TooLong::Cut);
                    let message = match cut {
                        true => format!("has {n} tokens; all that is learnt lies beyond {longest}"),
                        false => format!("has {n} tokens; at most {longest} are read"),
                    };
                    let hint = "shorten it, or set data.too_long = \"drop\" (or \"cut\")";
                    report.push(Issue::new(shown, "too_long", message, hint).at(Place::Line(line.number)));
                    continue 'lines;
                }
            }
        }
        part.n_cut += u64::from(is_cut);
        part.examples.push(sequences);
        part.rows.push(row as u64);
    }
    Ok(part)
}

impl Part {
    /// Parts the examples by the seed.
    fn hold_out(self, fraction: f64, seed: u64, shown: &str) -> Result<(Part, Part), DataError> {
        let n = self.examples.len();
        let n_valid = ((n as f64 * fraction).round() as usize).max(1);
        if n_valid >= n {
            let message = format!("{n} examples cannot be parted: none would be left to learn from");
            let hint = "give more examples, or remove valid_fraction";
            return Err(crate::data::report::one(Issue::new(shown, "too_few_examples", message, hint)));
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut generator(seed, STREAM_SPLIT));
        let held: HashSet<usize> = order[..n_valid].iter().copied().collect();
        let (n_cut, n_dropped) = (self.n_cut, self.n_dropped);
        let empty = |n_cut, n_dropped| Part { examples: Vec::new(), rows: Vec::new(), n_cut, n_dropped };
        let (mut train, mut valid) = (empty(n_cut, n_dropped), empty(0, 0));
        for (i, (example, row)) in self.examples.into_iter().zip(self.rows).enumerate() {
            let part = if held.contains(&i) { &mut valid } else { &mut train };
            part.examples.push(example);
            part.rows.push(row);
        }
        Ok((train, valid))
    }

    fn into_dataset(self, method: Method) -> Dataset {
        let mut sequences = Sequences::new(match method {
            Method::Supervised => None,
            Method::Dpo { beta } => Some(beta as f32),
        });
        self.examples.iter().flatten().for_each(|s| sequences.push(&s.ids, &s.has_loss));
        Dataset::of_sequences(sequences, self.rows)
    }
}

/// Duplicates, overlap, and what was cut or left out.
fn warn(train: &Part, valid: Option<&Part>, warnings: &mut Vec<Warning>) {
    let ids = |example: &Vec<Rendered>| example.iter().map(|s| s.ids.clone()).collect::<Vec<_>>();
    let mut seen = HashSet::new();
    let n_duplicates = train.examples.iter().filter(|example| !seen.insert(ids(example))).count();
    if n_duplicates > 0 {
        let message = format!("{n_duplicates} training examples are there more than once");
        warnings.push(Warning::new("duplicates", message, "remove them, unless they should weigh more"));
    }
    let overlap = valid.map_or(0, |valid| valid.examples.iter().filter(|e| seen.contains(&ids(e))).count());
    if overlap > 0 {
        let message = format!("{overlap} validation examples are training examples too");
        warnings.push(Warning::new("overlap", message, "remove them: the validation loss would flatter"));
    }
    for (name, part) in [("training", Some(train)), ("validation", valid)] {
        let Some(part) = part else { continue };
        if part.n_cut > 0 {
            let message = format!("{} {name} examples were cut at data.max_tokens", part.n_cut);
            warnings.push(Warning::new("cut", message, "as data.too_long says"));
        }
        if part.n_dropped > 0 {
            let message =
                format!("{} {name} examples were longer than data.max_tokens and left out", part.n_dropped);
            warnings.push(Warning::new("dropped", message, "as data.too_long says"));
        }
    }
}
