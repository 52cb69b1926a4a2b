//! What was found wrong with the data: every error of one pass, with its place and its fix, and the warnings.

use lyceum_models::prepare::PrepareError;
use lyceum_types::control::Stop;
use lyceum_types::limits::DATA_ERRORS_SHOWN_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why data could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The data is wrong; all that is wrong with it. Whose fault: the person who wrote it.
    #[error("{0}")]
    Report(Report),
    /// A file could not be read. Whose fault: the caller's path, or the disk.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Stopped(#[from] Stop),
}

/// All errors of one pass: the first [`DATA_ERRORS_SHOWN_MAX`], and how many there are of each code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub errors: Vec<Issue>,
    pub counts: BTreeMap<String, u64>,
}

/// One error, at its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issue {
    pub file: String,
    /// From 1; the header of a csv file is line 1.
    pub line: Option<u64>,
    pub column: Option<String>,
    /// A JSON pointer within the line, or the index of an array's row.
    pub pointer: Option<String>,
    pub code: String,
    pub message: String,
    pub hint: String,
}

/// Something to know that does not stop the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    pub code: String,
    pub message: String,
    pub hint: String,
}

impl Warning {
    pub fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Warning { code: code.to_owned(), message: message.into(), hint: hint.into() }
    }
}

impl Issue {
    pub fn new(file: &str, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Issue {
            file: file.to_owned(),
            line: None,
            column: None,
            pointer: None,
            code: code.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub fn at(mut self, place: Place) -> Self {
        match place {
            Place::File => {}
            Place::Line(line) => self.line = Some(line),
            Place::Row(row) => self.pointer = Some(format!("/{row}")),
        }
        self
    }

    pub fn column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }

    pub fn pointer(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// A refusal of the preparation, at its place in a file. `column` where the refused field is one.
    pub fn prepare(file: &str, place: Place, error: PrepareError) -> Self {
        Issue::new(file, error.code, error.message, error.fix).at(place).column(error.field)
    }
}

/// Where in a file a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file itself.
    File,
    /// A line of a text file, from 1.
    Line(u64),
    /// A row of an array or of a table without lines, from 0.
    Row(u64),
}

impl Report {
    pub fn push(&mut self, issue: Issue) {
        *self.counts.entry(issue.code.clone()).or_default() += 1;
        if self.errors.len() < DATA_ERRORS_SHOWN_MAX {
            self.errors.push(issue);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn n_errors(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Ok when nothing was found.
    pub fn into_result(self) -> Result<(), DataError> {
        if self.is_empty() { Ok(()) } else { Err(DataError::Report(self)) }
    }
}

/// A report of one error.
pub(crate) fn one(issue: Issue) -> DataError {
    let mut report = Report::default();
    report.push(issue);
    DataError::Report(report)
}

pub(crate) fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io { path: path.to_owned(), source }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(pointer) = &self.pointer {
            write!(f, " at {pointer}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", {column}")?;
        }
        write!(f, ": {} [{}]; {}", self.message, self.code, self.hint)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.n_errors();
        write!(f, "the data has {n} {}", if n == 1 { "error" } else { "errors" })?;
        for issue in &self.errors {
            write!(f, "\n  {issue}")?;
        }
        if n as usize > self.errors.len() {
            let counts: Vec<String> = self.counts.iter().map(|(code, n)| format!("{n} {code}")).collect();
            write!(f, "\n  and {} more ({})", n as usize - self.errors.len(), counts.join(", "))?;
        }
        Ok(())
    }
}

/// The name nearest to a wrong one, as `; did you mean "x"?`, or nothing.
pub(crate) fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let near = |name: &&str| strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase());
    names
        .into_iter()
        .map(|name| (near(&name), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("did you mean {name:?}? "))
        .unwrap_or_default()
}
