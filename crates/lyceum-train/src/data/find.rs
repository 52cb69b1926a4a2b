//! Which rows of a data file hold a text: for who asks what became of somebody's words. It judges nothing.

use super::report::{DataError, Issue, io, one};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use serde_json::Value;

/// Rows (from 0, as manifests count them) that hold `text`: of CSV and TSV those with a cell that holds it, of JSON
/// lines those with a string that does.
///
/// # Errors
/// A file that cannot be read, or whose rows are in no text.
pub fn rows_with(path: impl Into<KeyedPath>, text: &str, control: &Control) -> Result<Vec<u64>, DataError> {
    let path = path.into();
    let shown = path.display().to_string();
    let bytes = path.read().map_err(|source| io(path.path(), source))?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let extension = path.path().extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match &extension[..] {
        "csv" => cells(bytes, b',', text, &shown, control),
        "tsv" => cells(bytes, b'\t', text, &shown, control),
        "jsonl" | "ndjson" => lines(bytes, control, |line| {
            serde_json::from_str(line).map_or_else(|_| line.contains(text), |value| holds(&value, text))
        }),
        _ => {
            let message = format!("the rows of a .{extension} file are not searched for a text");
            Err(one(Issue::new(&shown, "unknown_format", message, "name the row by its number")))
        }
    }
}

fn cells(
    bytes: &[u8],
    delimiter: u8,
    text: &str,
    shown: &str,
    control: &Control,
) -> Result<Vec<u64>, DataError> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(bytes);
    let (mut found, mut record) = (Vec::new(), csv::ByteRecord::new());
    for row in 0.. {
        control.check()?;
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                if record.iter().any(|cell| String::from_utf8_lossy(cell).contains(text)) {
                    found.push(row);
                }
            }
            Err(error) => {
                return Err(one(Issue::new(shown, "broken_csv", error.to_string(), "check the quotes")));
            }
        }
    }
    Ok(found)
}

fn lines(bytes: &[u8], control: &Control, holds: impl Fn(&str) -> bool) -> Result<Vec<u64>, DataError> {
    let mut found = Vec::new();
    let has_text = |line: &&[u8]| !line.iter().all(u8::is_ascii_whitespace);
    for (row, line) in bytes.split(|&byte| byte == b'\n').filter(has_text).enumerate() {
        control.check()?;
        if holds(String::from_utf8_lossy(line).trim_end_matches('\r')) {
            found.push(row as u64);
        }
    }
    Ok(found)
}

fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(values) => values.iter().any(|value| holds(value, text)),
        Value::Object(fields) => fields.values().any(|value| holds(value, text)),
        Value::Null | Value::Bool(_) => false,
        Value::Number(number) => number.to_string() == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_what_they_say_however_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let found = |name: &str, content: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            rows_with(&path, text, &Control::new())
        };
        let csv = "name,note\nann,\"two\nlines, one row\"\nbob,x\nann,y\n";
        assert_eq!(found("a.csv", csv, "ann").unwrap(), [0, 2]);
        assert_eq!(found("b.csv", csv, "two\nlines").unwrap(), [0]);
        assert_eq!(found("c.csv", csv, "note").unwrap(), [] as [u64; 0], "a header is no row");
        let lines = "{\"messages\":[{\"role\":\"user\",\"content\":\"J\\u00f6rg\"}]}\n{\"prompt\":\"x\",\"completion\":\"y\"}\n";
        assert_eq!(found("a.jsonl", lines, "Jörg").unwrap(), [0]);
        assert_eq!(
            found("b.jsonl", "{\"a\":1}\r\n\r\n{\"a\":\"two\"}", "two").unwrap(),
            [1],
            "a blank line is no row"
        );
        assert!(found("a.txt", "", "x").unwrap_err().to_string().contains("number"));
    }
}
