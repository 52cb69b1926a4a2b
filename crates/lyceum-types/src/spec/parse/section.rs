//! One table of a document, read key by key. Every read notes its problem and goes on; [`Section::finish`]
//! reports the keys that nobody asked for.

use super::tree::{Entry, Node, Place, Value};
use super::{Problem, ProblemCode};
use crate::suggest::did_you_mean;
use std::cell::RefCell;

/// All problems found so far.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn into_inner(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    pub(super) fn note(
        &self,
        place: Option<Place>,
        key: String,
        code: ProblemCode,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.borrow_mut().push(Problem {
            key,
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            code,
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// What was found so far.
    pub(super) fn all(&self) -> Vec<Problem> {
        self.0.borrow().clone()
    }

    pub(super) fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// Whether this very key has a problem already.
    pub(super) fn at(&self, key: &str) -> bool {
        self.0.borrow().iter().any(|problem| problem.key == key)
    }

    /// Whether this key, or one inside it, has a problem already.
    pub(super) fn touch(&self, key: &str) -> bool {
        self.0.borrow().iter().any(|problem| {
            problem.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// A range of numbers and its words.
#[derive(Clone, Copy)]
pub(super) struct Interval {
    pub words: &'static str,
    pub holds: fn(f64) -> bool,
}

pub(super) const POSITIVE: Interval = Interval { words: "above 0", holds: |v| v > 0.0 };
pub(super) const NOT_NEGATIVE: Interval = Interval { words: "0 or more", holds: |v| v >= 0.0 };
pub(super) const FRACTION: Interval =
    Interval { words: "between 0 and 1, both excluded", holds: |v| v > 0.0 && v < 1.0 };
pub(super) const DECAY: Interval =
    Interval { words: "at least 0 and below 1", holds: |v| (0.0..1.0).contains(&v) };
pub(super) const SHARE: Interval =
    Interval { words: "between 0 and 1, both included", holds: |v| (0.0..=1.0).contains(&v) };
pub(super) const FACTOR: Interval =
    Interval { words: "above 0 and at most 1", holds: |v| v > 0.0 && v <= 1.0 };

pub(super) struct Section<'a> {
    path: String,
    place: Option<Place>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    /// Keys of other kinds of this table (another family, another optimiser) and whose they are.
    elsewhere: Vec<(&'static str, &'static str)>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn root(node: &'a Node, problems: &'a Problems) -> Option<Self> {
        Self::open(node, String::new(), problems)
    }

    pub(super) fn open(node: &'a Node, path: String, problems: &'a Problems) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            let message = format!("must be a table, is {}", node.kind());
            problems.note(node.place, path, ProblemCode::WrongType, message, "write a table of keys");
            return None;
        };
        let place = node.place;
        Some(Section { path, place, entries, known: Vec::new(), elsewhere: Vec::new(), problems })
    }

    /// The full path of a key of this table.
    pub(super) fn path(&self, key: &str) -> String {
        let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        match (self.path.is_empty(), plain) {
            (true, true) => key.to_owned(),
            (true, false) => format!("\"{key}\""),
            (false, true) => format!("{}.{key}", self.path),
            (false, false) => format!("{}.\"{key}\"", self.path),
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    pub(super) fn is_text(&mut self, key: &'static str) -> bool {
        self.entry(key).is_some_and(|entry| matches!(entry.node.value, Value::Text(_)))
    }

    pub(super) fn is_flag(&mut self, key: &'static str) -> bool {
        self.entry(key).is_some_and(|entry| matches!(entry.node.value, Value::Bool(_)))
    }

    /// Whether a key is absent, or says that the program decides.
    pub(super) fn is_left_open(&mut self, key: &'static str) -> bool {
        self.entry(key).is_none_or(|entry| matches!(&entry.node.value, Value::Text(text) if text == "auto"))
    }

    /// Whether this key has a problem already, which a rule over several keys should not repeat.
    pub(super) fn touched(&self, key: &str) -> bool {
        self.problems.touch(&self.path(key))
    }

    /// Notes a problem at a key's value, or at the table when the key is absent.
    pub(super) fn note(
        &mut self,
        key: &'static str,
        code: ProblemCode,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let place = self.entry(key).map_or(self.place, |entry| entry.node.place);
        self.problems.note(place, self.path(key), code, message, fix);
    }

    pub(super) fn require(&mut self, key: &'static str, what: &str, example: &str) {
        if !self.has(key) {
            self.note(key, ProblemCode::MissingKey, format!("is missing: {what}"), format!("add {example}"));
        }
    }

    /// Refuses a key that is known but not implemented, by name.
    pub(super) fn not_yet(&mut self, key: &'static str, what: &str) {
        if let Some(entry) = self.entry(key) {
            let message = format!("{what} is not in this version yet");
            self.problems.note(entry.place, self.path(key), ProblemCode::NotYet, message, "remove this key");
        }
    }

    /// Keys that belong to another kind of this table: unknown here, with a better message.
    pub(super) fn elsewhere(&mut self, keys: &[&'static str], owner: &'static str) {
        self.elsewhere.extend(keys.iter().map(|key| (*key, owner)));
    }

    fn wrong(&self, node: &Node, key: &str, wanted: &str, fix: &str) {
        let message = format!("must be {wanted}, is {}", node.kind());
        self.problems.note(node.place, self.path(key), ProblemCode::WrongType, message, fix);
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = &self.entry(key)?.node;
        match &node.value {
            Value::Text(text) if text.trim().is_empty() => {
                self.note(
                    key,
                    ProblemCode::OutOfRange,
                    "must not be empty",
                    "write a value or remove the key",
                );
                None
            }
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.wrong(node, key, "a string", &format!("write {key} = \"…\""));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = &self.entry(key)?.node;
        match node.value {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.wrong(node, key, "true or false", &format!("write {key} = true or {key} = false"));
                None
            }
        }
    }

    pub(super) fn integer(&mut self, key: &'static str, min: i128, max: i128) -> Option<i128> {
        let node = &self.entry(key)?.node;
        let path = self.path(key);
        integer(node, path, min, max, self.problems)
    }

    /// A count from `min` to `max`.
    pub(super) fn size(&mut self, key: &'static str, min: usize, max: usize) -> Option<usize> {
        self.integer(key, min as i128, max as i128).map(to_size)
    }

    /// A count, or its default, also where it has a problem.
    pub(super) fn size_or(&mut self, key: &'static str, default: usize, min: usize, max: usize) -> usize {
        self.size(key, min, max).unwrap_or(default)
    }

    pub(super) fn number(&mut self, key: &'static str, interval: Interval) -> Option<f64> {
        let node = &self.entry(key)?.node;
        let path = self.path(key);
        number(node, path, interval, self.problems)
    }

    pub(super) fn number_or(&mut self, key: &'static str, default: f64, interval: Interval) -> f64 {
        self.number(key, interval).unwrap_or(default)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, values: &[(&'static str, T)]) -> Option<T> {
        let node = &self.entry(key)?.node;
        let path = self.path(key);
        choice(node, path, values, self.problems)
    }

    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let node = &self.entry(key)?.node;
        Section::open(node, self.path(key), self.problems)
    }

    /// A list of tables.
    pub(super) fn sections(&mut self, key: &'static str) -> Option<Vec<Section<'a>>> {
        let path = self.path(key);
        let problems = self.problems;
        let items = self.list(key, "a list of tables")?;
        let open = |(index, item)| Section::open(item, format!("{path}[{index}]"), problems);
        Some(items.iter().enumerate().filter_map(open).collect())
    }

    /// The nodes of a list.
    pub(super) fn list(&mut self, key: &'static str, wanted: &str) -> Option<&'a [Node]> {
        let node = &self.entry(key)?.node;
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong(node, key, wanted, &format!("write {key} = [ … ]"));
                None
            }
        }
    }

    /// A list of tables that others read.
    pub(super) fn values(&mut self, key: &'static str) -> Option<Vec<serde_json::Value>> {
        let path = self.path(key);
        let problems = self.problems;
        let read = |(index, item): (usize, &Node)| {
            let value = item.to_json().filter(serde_json::Value::is_object);
            if value.is_none() {
                let (path, message) =
                    (format!("{path}[{index}]"), format!("must be a table, is {}", item.kind()));
                let fix = "write a table of strings, numbers, true, false and lists";
                problems.note(item.place, path, ProblemCode::WrongType, message, fix);
            }
            value
        };
        let items = self.list(key, "a list of tables")?;
        let values: Vec<Option<serde_json::Value>> = items.iter().enumerate().map(read).collect();
        values.into_iter().collect()
    }

    /// A list of counts.
    pub(super) fn sizes(&mut self, key: &'static str, min: usize, max: usize) -> Option<Vec<usize>> {
        let path = self.path(key);
        let problems = self.problems;
        let items = self.list(key, "a list of integers")?;
        let read = |(index, item)| {
            integer(item, format!("{path}[{index}]"), min as i128, max as i128, problems).map(to_size)
        };
        // All items are read, so that all problems are found; one bad item spoils the list.
        let values: Vec<Option<usize>> = items.iter().enumerate().map(read).collect();
        values.into_iter().collect()
    }

    /// A list of numbers.
    pub(super) fn numbers(&mut self, key: &'static str, interval: Interval) -> Option<Vec<f64>> {
        let path = self.path(key);
        let problems = self.problems;
        let items = self.list(key, "a list of numbers")?;
        let read = |(index, item)| number(item, format!("{path}[{index}]"), interval, problems);
        let values: Vec<Option<f64>> = items.iter().enumerate().map(read).collect();
        values.into_iter().collect()
    }

    /// One string, or a list of them.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let node = &self.entry(key)?.node;
        match &node.value {
            Value::Text(_) => self.text(key).map(|text| vec![text]),
            Value::List(items) => {
                let read = |(index, item): (usize, &Node)| match &item.value {
                    Value::Text(text) if !text.is_empty() => Some(text.clone()),
                    _ => {
                        let message = format!("must be a column's name, is {}", item.kind());
                        let path = format!("{}[{index}]", self.path(key));
                        self.problems.note(
                            item.place,
                            path,
                            ProblemCode::WrongType,
                            message,
                            "write a string",
                        );
                        None
                    }
                };
                let values: Vec<Option<String>> = items.iter().enumerate().map(read).collect();
                values.into_iter().collect()
            }
            _ => {
                self.wrong(node, key, "a string or a list of strings", &format!("write {key} = [\"…\"]"));
                None
            }
        }
    }

    /// Every key of a table whose keys are the user's own words, each with a choice as its value.
    pub(super) fn choices_by_name<T: Copy>(mut self, values: &[(&'static str, T)]) -> Vec<(String, T)> {
        let entries = std::mem::take(&mut self.entries);
        let read = |entry: &Entry| {
            let path = self.path(&entry.key);
            choice(&entry.node, path, values, self.problems).map(|value| (entry.key.clone(), value))
        };
        entries.iter().filter_map(read).collect()
    }

    /// Every key of a table whose keys are the user's own words, each with a text as its value.
    pub(super) fn texts_by_name(mut self) -> Vec<(String, String)> {
        let entries = std::mem::take(&mut self.entries);
        let read = |entry: &Entry| match &entry.node.value {
            Value::Text(text) if !text.is_empty() => Some((entry.key.clone(), text.clone())),
            _ => {
                let message = format!("must be a text, is {}", entry.node.kind());
                let path = self.path(&entry.key);
                self.problems.note(entry.node.place, path, ProblemCode::WrongType, message, "write a string");
                None
            }
        };
        entries.iter().filter_map(read).collect()
    }

    /// Reports the keys that were not asked for.
    pub(super) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let owner = self.elsewhere.iter().find(|(key, _)| *key == entry.key).map(|(_, owner)| *owner);
            let near = did_you_mean(&entry.key, self.known.iter().copied());
            let (message, fix) = match (owner, near) {
                (Some(owner), _) => (format!("belongs to {owner}"), "remove this key".to_owned()),
                (None, Some(near)) => ("unknown key".to_owned(), format!("did you mean `{near}`?")),
                (None, None) => {
                    ("unknown key".to_owned(), format!("remove it; known here: {}", self.known.join(", ")))
                }
            };
            let path = self.path(&entry.key);
            self.problems.note(entry.place, path, ProblemCode::UnknownKey, message, fix);
        }
    }
}

fn to_size(value: i128) -> usize {
    usize::try_from(value).expect("the bound was checked: bug")
}

fn integer(node: &Node, path: String, min: i128, max: i128, problems: &Problems) -> Option<i128> {
    let Value::Integer(value) = node.value else {
        let message = format!("must be an integer, is {}", node.kind());
        problems.note(node.place, path, ProblemCode::WrongType, message, "write a whole number");
        return None;
    };
    if (min..=max).contains(&value) {
        return Some(value);
    }
    let written = if value == i128::MAX { "larger than any number".to_owned() } else { value.to_string() };
    let (bound, fix) = if value < min {
        (format!("must be at least {min}, is {written}"), format!("write {min} or more"))
    } else {
        (format!("must be at most {max}, is {written}"), format!("write {max} or less"))
    };
    problems.note(node.place, path, ProblemCode::OutOfRange, bound, fix);
    None
}

fn number(node: &Node, path: String, interval: Interval, problems: &Problems) -> Option<f64> {
    let value = match node.value {
        Value::Float(value) => value,
        Value::Integer(value) => value as f64,
        _ => {
            let message = format!("must be a number, is {}", node.kind());
            problems.note(node.place, path, ProblemCode::WrongType, message, "write a number");
            return None;
        }
    };
    if value.is_finite() && (interval.holds)(value) {
        return Some(value);
    }
    let message = format!("must be {}, is {value}", interval.words);
    problems.note(
        node.place,
        path,
        ProblemCode::OutOfRange,
        message,
        format!("write a number {}", interval.words),
    );
    None
}

fn choice<T: Copy>(
    node: &Node,
    path: String,
    values: &[(&'static str, T)],
    problems: &Problems,
) -> Option<T> {
    let names = || values.iter().map(|(name, _)| *name);
    let list = || names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let Value::Text(text) = &node.value else {
        let message = format!("must be one of {}, is {}", list(), node.kind());
        let fix = format!("write one of {}", list());
        problems.note(node.place, path, ProblemCode::WrongType, message, fix);
        return None;
    };
    if let Some((_, value)) = values.iter().find(|(name, _)| name == text) {
        return Some(*value);
    }
    let fix = match did_you_mean(text, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {}", list()),
    };
    let message = format!("\"{text}\" is none of {}", list());
    problems.note(node.place, path, ProblemCode::UnknownValue, message, fix);
    None
}
