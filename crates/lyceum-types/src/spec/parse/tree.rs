//! A document as nodes with places, whatever it was written in.

use super::{Problem, ProblemCode};
use toml::de::{DeTable, DeValue};

/// Line and column from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Option<Place>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Any 64-bit integer of either sign, and what is beyond is said as it was written.
    Integer(i128),
    Float(f64),
    Text(String),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Option<Place>,
    pub node: Node,
}

impl Node {
    /// The node under these keys; none where a key is absent.
    pub(super) fn find(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| match &node.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.node),
            _ => None,
        })
    }

    /// The value as JSON has it; none where something in it is a date or larger than 64 bits.
    pub(super) fn to_json(&self) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Integer(number) => match i64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => u64::try_from(*number).ok()?.into(),
            },
            Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
            Value::Text(text) => Json::String(text.clone()),
            Value::Date => return None,
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect::<Option<_>>()?),
            Value::Table(entries) => {
                let pair = |entry: &Entry| Some((entry.key.clone(), entry.node.to_json()?));
                Json::Object(entries.iter().map(pair).collect::<Option<_>>()?)
            }
        })
    }

    /// What a person would call this value.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) => "a string",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// The document, and its syntax errors; with any, the document may be incomplete.
pub(super) fn from_toml(text: &str) -> (Node, Vec<Problem>) {
    let lines = Lines::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| {
            let place = error.span().map(|span| lines.place(span.start));
            Problem {
                key: String::new(),
                line: place.map(|place| place.line),
                column: place.map(|place| place.column),
                code: ProblemCode::Syntax,
                message: error.message().to_owned(),
                fix: "correct the TOML at this place".into(),
            }
        })
        .collect();
    let place = Some(lines.place(root.span().start));
    (Node { value: toml_table(root.get_ref(), &lines), place }, problems)
}

fn toml_table(table: &DeTable<'_>, lines: &Lines<'_>) -> Value {
    let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        place: Some(lines.place(key.span().start)),
        node: toml_node(value, lines),
    };
    Value::Table(table.iter().map(entry).collect())
}

fn toml_node(value: &toml::Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Node {
    let place = Some(lines.place(value.span().start));
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        // The parser has checked the digits; what does not fit 128 bits is beyond every bound of ours.
        DeValue::Integer(number) => {
            let negative = number.as_str().starts_with('-');
            let beyond = if negative { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(beyond))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(items.iter().map(|item| toml_node(item, lines)).collect()),
        DeValue::Table(table) => toml_table(table, lines),
    };
    Node { value, place }
}

pub(super) fn from_json(value: &serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::Integer(integer.into()),
            (None, Some(integer)) => Value::Integer(integer.into()),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(entries) => Value::Table(
            entries
                .iter()
                .map(|(key, value)| Entry { key: key.clone(), place: None, node: from_json(value) })
                .collect(),
        ),
    };
    Node { value, place: None }
}

/// Byte offsets of line starts.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1))
            .collect();
        Lines { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        // A byte-order mark has no width.
        let before = String::from_utf8_lossy(before);
        Place { line, column: before.trim_start_matches('\u{feff}').chars().count() + 1 }
    }
}
