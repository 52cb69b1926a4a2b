//! From text to a [`Spec`]: TOML from a file, JSON from a request; both become one [`tree`] with places, so
//! that both doors have the same grammar and the same errors.
//!
//! The path through it: [`tree`] (text → nodes with line and column) → [`section`] (typed keys of one table,
//! each problem noted, none fatal) → [`data`], [`model`], [`train`] (the three tables) → [`rules`] (what
//! must hold between tables). Every problem of a document is found in one pass. It may not know files: the
//! caller reads the text and resolves the paths that stand in it.

mod choose;
mod data;
mod gate;
mod imported;
mod model;
mod privacy;
mod robust;
mod rules;
mod section;
mod train;
mod tree;
mod tune;

use super::choose::ChooseSpec;
use super::privacy::PrivacySpec;
use super::tune::TuneSpec;
use super::{DataSpec, GateSpec, ModelSpec, Spec, Task, TrainSpec};
use crate::ids::ModelName;
use section::{Problems, Section};
use serde::Serialize;
use std::fmt;
use tree::Node;

/// The longest document that is read.
const SPEC_BYTES_MAX: usize = 1 << 20;

impl Spec {
    /// Reads a job spec. `file_name` is only said in errors.
    ///
    /// # Errors
    /// All problems of the document, each with its key, line and column.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, SpecErrors> {
        read_toml(text, file_name, read)
    }

    /// Reads the same document as JSON, as a request carries it.
    ///
    /// # Errors
    /// All problems of the document, each with its key.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, SpecErrors> {
        read(&tree::from_json(value)).map_err(|problems| SpecErrors { file: None, problems })
    }
}

/// A job spec of either kind: its family says which.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// A family, trained from the start.
    Train(Box<Spec>),
    /// An imported language model, tuned further.
    Tune(Box<TuneSpec>),
}

impl Job {
    /// Reads a job spec. `file_name` is only said in errors.
    ///
    /// # Errors
    /// All problems of the document, each with its key, line and column.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, SpecErrors> {
        read_toml(text, file_name, read_job)
    }

    /// Reads the same document as JSON, as a request carries it.
    ///
    /// # Errors
    /// All problems of the document, each with its key.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, SpecErrors> {
        read_job(&tree::from_json(value)).map_err(|problems| SpecErrors { file: None, problems })
    }
}

/// Whether a job spec, right or wrong, is one that tunes an imported model further.
pub fn tunes(spec: &serde_json::Value) -> bool {
    tune::is_meant(&tree::from_json(spec))
}

fn read_job(root: &Node) -> Result<Job, Vec<Problem>> {
    match tune::is_meant(root) {
        true => tune::read(root).map(|spec| Job::Tune(Box::new(spec))),
        false => read(root).map(|spec| Job::Train(Box::new(spec))),
    }
}

impl ChooseSpec {
    /// Reads what is to be chosen from. `file_name` is only said in errors.
    ///
    /// # Errors
    /// All problems of the document, each with its key, line and column.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, SpecErrors> {
        read_toml(text, file_name, choose::read)
    }

    /// Reads the same document as JSON, as a request carries it.
    ///
    /// # Errors
    /// All problems of the document, each with its key.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, SpecErrors> {
        choose::read(&tree::from_json(value)).map_err(|problems| SpecErrors { file: None, problems })
    }
}

fn read_toml<T>(
    text: &str,
    file_name: &str,
    read: fn(&Node) -> Result<T, Vec<Problem>>,
) -> Result<T, SpecErrors> {
    let file = Some(file_name.to_owned());
    if text.len() > SPEC_BYTES_MAX {
        let problem = Problem {
            key: String::new(),
            line: None,
            column: None,
            code: ProblemCode::OutOfRange,
            message: format!("the document has {} bytes; at most {SPEC_BYTES_MAX} are read", text.len()),
            fix: "give the job spec, not the data".into(),
        };
        return Err(SpecErrors { file, problems: vec![problem] });
    }
    let (root, syntax) = tree::from_toml(text);
    // After a syntax error a table may be half read: its missing keys would be false alarms.
    if !syntax.is_empty() {
        return Err(SpecErrors { file, problems: syntax });
    }
    read(&root).map_err(|problems| SpecErrors { file, problems })
}

/// Everything that is wrong with a document, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpecErrors {
    pub file: Option<String>,
    /// Never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// The key's path, as in `model.conv[1].kernel`; empty for the document itself.
    pub key: String,
    /// From 1; none in JSON.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    pub code: ProblemCode,
    pub message: String,
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    Syntax,
    MissingKey,
    UnknownKey,
    WrongType,
    OutOfRange,
    UnknownValue,
    /// Two keys that cannot stand together.
    Contradiction,
    /// Known, wanted, and not implemented in this version.
    NotYet,
}

impl ProblemCode {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ProblemCode::Syntax => "syntax",
            ProblemCode::MissingKey => "missing_key",
            ProblemCode::UnknownKey => "unknown_key",
            ProblemCode::WrongType => "wrong_type",
            ProblemCode::OutOfRange => "out_of_range",
            ProblemCode::UnknownValue => "unknown_value",
            ProblemCode::Contradiction => "contradiction",
            ProblemCode::NotYet => "not_yet",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{} (fix: {})", self.message, self.fix)
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let Some(file) = &self.file {
                write!(f, "{file}:")?;
                if problem.line.is_none() {
                    write!(f, " ")?;
                }
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

fn read(root: &Node) -> Result<Spec, Vec<Problem>> {
    let problems = Problems::default();
    let draft = read_root(root, &problems);
    if let Some(draft) = &draft {
        rules::check(draft, root, &problems);
    }
    let mut problems = problems.into_inner();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(draft.and_then(Draft::finish).expect("what is missing was noted: bug"))
}

/// What could be read: tables with defaults where a key has a problem, none where a table is missing or its
/// kind is not known.
struct Draft {
    name: Option<String>,
    task: Option<Task>,
    seed: u64,
    data: Option<DataSpec>,
    model: Option<ModelSpec>,
    train: Option<TrainSpec>,
    privacy: Option<PrivacySpec>,
    gate: Option<GateSpec>,
}

impl Draft {
    fn finish(self) -> Option<Spec> {
        let Draft { name, task, seed, data, model, train, privacy, gate } = self;
        Some(Spec {
            name: name?,
            task: task?,
            seed,
            data: data?,
            model: model?,
            train: train?,
            privacy,
            gate,
        })
    }
}

fn read_root(root: &Node, problems: &Problems) -> Option<Draft> {
    let mut section = Section::root(root, problems)?;
    let (name, task, seed) = read_head(&mut section);
    section.require("data", "the table of the data", "[data] with train = \"rows.csv\"");
    section.require("model", "the table of the model", "[model] with family = \"mlp\"");
    section.require("train", "the table of the training", "[train] with epochs = 20");
    let data = section.section("data").map(data::read);
    let model = section.section("model").and_then(|model| model::read(model, task));
    let train = section.section("train").map(train::read);
    let privacy = section.section("privacy").map(privacy::read);
    let gate = section.section("gate").map(gate::read);
    section.finish();
    Some(Draft { name, task, seed, data, model, train, privacy, gate })
}

/// What both kinds of document begin with.
fn read_head(section: &mut Section<'_>) -> (Option<String>, Option<Task>, u64) {
    let (name, seed) = read_name_and_seed(section);
    section.require("task", "what is to be learnt", "task = \"classification\"");
    let task = section.choice("task", TASKS);
    (name, task, seed)
}

fn read_name_and_seed(section: &mut Section<'_>) -> (Option<String>, u64) {
    section.require("name", "the model's name", "name = \"digits\"");
    let name = section.text("name");
    if let Some(name) = &name
        && let Err(bad) = name.parse::<ModelName>()
    {
        let fix = "use letters, digits, `-`, `_` and `.`, as in name = \"digits-cnn\"";
        section.note("name", ProblemCode::OutOfRange, bad.to_string(), fix);
    }
    let seed = section.integer("seed", 0, i128::from(u64::MAX)).unwrap_or(0);
    (name, u64::try_from(seed).expect("the bound was checked: bug"))
}

/// Names of the tasks as the spec writes them.
const TASKS: &[(&str, Task)] = &[
    ("classification", Task::Classification),
    ("regression", Task::Regression),
    ("language_modeling", Task::LanguageModeling),
    ("sequence_to_sequence", Task::SequenceToSequence),
    ("forecasting", Task::Forecasting),
];

impl Task {
    /// The name as the spec writes it.
    pub fn as_str(self) -> &'static str {
        TASKS
            .iter()
            .find(|(_, task)| *task == self)
            .map(|(name, _)| *name)
            .expect("every task has a name: bug")
    }

    /// The metrics that an evaluation of this task reports, without their part (`valid_`, `test_`).
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            Task::Classification => &["loss", "accuracy", "f1_macro", "log_loss", "ece"],
            Task::Regression | Task::Forecasting => &["loss", "rmse", "mae", "r2"],
            Task::LanguageModeling => {
                &["loss", "perplexity", "bits_per_byte", "exact_match", "char_accuracy"]
            }
            Task::SequenceToSequence => &["loss", "perplexity", "exact_match", "char_accuracy", "wer"],
        }
    }
}

#[cfg(test)]
mod tests;
