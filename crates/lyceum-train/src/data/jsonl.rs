//! jsonl files: an object a line; keys are columns.

use super::repeated::{Repeated, escaped, repeated_keys};
use super::report::{DataError, Issue, Place, Report, io, one};
use super::table::Table;
use lyceum_models::prepare::tabular::Cell;
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use serde_json::{Map, Value};

pub(crate) fn read(
    path: &KeyedPath,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Table, DataError> {
    let bytes = path.read().map_err(|source| io(path.path(), source))?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut rows: Vec<(u64, Map<String, Value>)> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    for (line, text) in (1u64..).zip(bytes.split(|&byte| byte == b'\n')) {
        control.check()?;
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Value>(text) {
            Ok(Value::Object(row)) => {
                for Repeated { pointer, message } in repeated_keys(text) {
                    let issue = Issue::new(shown, Repeated::CODE, message, Repeated::HINT);
                    report.push(issue.at(Place::Line(line)).pointer(pointer));
                }
                for name in row.keys() {
                    if !columns.contains(name) {
                        columns.push(name.clone());
                    }
                }
                rows.push((line, row));
            }
            Ok(_) => report.push(
                Issue::new(shown, "not_an_object", "the line is no JSON object", "write {…} on each line")
                    .at(Place::Line(line)),
            ),
            Err(error) => report.push(
                Issue::new(
                    shown,
                    "broken_json",
                    format!("the line is not JSON at character {}: {error}", error.column()),
                    "write one JSON object a line, without line breaks inside it",
                )
                .at(Place::Line(line)),
            ),
        }
    }
    if rows.is_empty() && report.is_empty() {
        return Err(one(Issue::new(
            shown,
            "empty_file",
            "the file is empty",
            "write one JSON object a line, for instance {\"text\": \"…\", \"label\": \"…\"}",
        )));
    }
    let mut table = Table::new(shown, columns);
    for (line, row) in &rows {
        let columns = table.columns.clone();
        let mut cells = Vec::with_capacity(columns.len());
        for name in &columns {
            cells.push(match row.get(name) {
                None | Some(Value::Null) => Cell::Missing,
                Some(Value::Bool(yes)) => Cell::Text(if *yes { "true" } else { "false" }),
                Some(Value::Number(x)) => Cell::Number(x.as_f64().unwrap_or(f64::INFINITY)),
                Some(Value::String(text)) => Cell::Text(text),
                Some(Value::Array(_) | Value::Object(_)) => {
                    report.push(
                        Issue::new(
                            shown,
                            "not_a_scalar",
                            "an array or object stands where a single value belongs",
                            "give numbers, strings, true, false or null; arrays belong in .npz",
                        )
                        .at(Place::Line(*line))
                        .pointer(format!("/{}", escaped(name))),
                    );
                    Cell::Missing
                }
            });
        }
        table.push_row(Place::Line(*line), cells);
    }
    Ok(table)
}
