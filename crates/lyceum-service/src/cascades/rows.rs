//! Labelled rows of a cascade: a JSON object a line, `{"input": …, "label": …}`. An input is a text, an object of
//! features, or a list of values in the model's order.

use crate::{Content, ServiceError};
use lyceum_train::data::report::{Issue, Place, Report};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Labelled inputs of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub inputs: Vec<Content>,
    /// As the file writes them.
    pub labels: Vec<String>,
    /// Of the file's bytes.
    pub sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    input: Value,
    label: Value,
}

/// Reads a file's bytes; `shown` is its name for people.
///
/// # Errors
/// Everything that is wrong with it, each with its line.
pub fn read(param: &'static str, bytes: &[u8], shown: &str) -> Result<Rows, ServiceError> {
    let mut report = Report::default();
    let mut rows =
        Rows { inputs: Vec::new(), labels: Vec::new(), sha256: super::hexadecimal(&Sha256::digest(bytes)) };
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = Place::Line(i as u64 + 1);
        let line: Line = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(error) => {
                let hint = "write {\"input\": …, \"label\": \"…\"} on each line";
                report.push(Issue::new(shown, "invalid_row", error.to_string(), hint).at(place));
                continue;
            }
        };
        match (input(line.input), label(&line.label)) {
            (Some(input), Some(label)) => {
                rows.inputs.push(input);
                rows.labels.push(label);
            }
            (None, _) => {
                let message = "an input is a text, an object of features or a list of values";
                report.push(Issue::new(shown, "invalid_input", message, "write one of them").at(place));
            }
            (_, None) => {
                let message = format!("{} is no label", line.label);
                let hint = "write the label as a text; whole numbers and booleans are read as their words";
                report.push(Issue::new(shown, "invalid_label", message, hint).at(place));
            }
        }
    }
    if rows.labels.len() > limits::CASCADE_ROWS_MAX {
        let max = limits::CASCADE_ROWS_MAX;
        let message = format!("it has {} rows and {max} are read", rows.labels.len());
        report.push(Issue::new(shown, "too_many_rows", message, "leave some out, at random"));
    }
    if rows.labels.is_empty() && report.is_empty() {
        report.push(Issue::new(shown, "no_rows", "it has no rows", "give labelled rows, one a line"));
    }
    if report.is_empty() {
        Ok(rows)
    } else {
        Err(ServiceError::WrongFile { param, report: Box::new(report) })
    }
}

fn input(value: Value) -> Option<Content> {
    match value {
        Value::String(text) => Some(Content::Text(text)),
        Value::Object(row) => Some(Content::Row(row)),
        Value::Array(values) => Some(Content::Values(values)),
        _ => None,
    }
}

fn label(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_texts_features_or_values_with_a_label() {
        let file = "{\"input\": \"a\", \"label\": \"x\"}\n\n{\"input\": {\"age\": 3}, \"label\": 1}\r\n\
                    {\"label\": true, \"input\": [1, 2]}";
        let rows = read("data", file.as_bytes(), "f.jsonl").unwrap();
        assert_eq!(rows.labels, ["x", "1", "true"]);
        assert_eq!(rows.inputs[0], Content::Text("a".into()));
        assert!(matches!(&rows.inputs[1], Content::Row(row) if row["age"] == 3));
        assert!(matches!(&rows.inputs[2], Content::Values(values) if values.len() == 2));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let file = "{\"input\": \"a\", \"label\": \"x\"}\n{\"input\": 3, \"label\": \"x\"}\n{\"input\": \"a\"}\n\
                    {\"input\": \"a\", \"label\": 1.5}\n{\"input\": \"a\", \"label\": \"x\", \"more\": 1}";
        let Err(ServiceError::WrongFile { param: "data", report }) = read("data", file.as_bytes(), "f")
        else {
            panic!("refused")
        };
        assert_eq!(report.errors.iter().map(|e| e.line.unwrap()).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(read("data", b"\n", "f").is_err());
    }
}
