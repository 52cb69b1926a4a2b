//! One row of a table's file, as a request would carry it.

use crate::failure::{Exit, Failure};
use crate::files;
use lyceum_models::prepare::InputPreparation;
use lyceum_service::{Content, Resident};
use lyceum_types::limits;
use serde_json::{Map, Value};
use std::path::Path;

/// Row `number` (from 0) of a .csv or .tsv file with a header: of a table the model's columns by name, of other
/// inputs all numbers but the targets, in their order.
pub fn row(resident: &Resident, path: &Path, number: usize, delimiter: u8) -> Result<Content, Failure> {
    let text = files::read_text(path, limits::BODY_BYTES_MAX as u64)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let failed = |error: csv::Error| wrong(path, "is no table", error.to_string());
    let names = reader.headers().map_err(failed)?.clone();
    let record = match reader.records().nth(number) {
        Some(record) => record.map_err(failed)?,
        None => return Err(wrong(path, &format!("has no row {number}"), "rows are counted from 0".into())),
    };
    let cells = names.iter().zip(&record);
    if let InputPreparation::Tabular(encoder) = &resident.preparation.input {
        let known = |name: &str| encoder.columns.iter().any(|column| column.name == name);
        let features =
            cells.filter(|(name, _)| known(name)).map(|(name, cell)| (name.to_owned(), value(cell)));
        return Ok(Content::Row(features.collect::<Map<_, _>>()));
    }
    let targets = &resident.manifest.spec.data.target;
    let number = |(name, cell): (&str, &str)| {
        cell.trim().parse::<f32>().map_err(|_| {
            let why = format!("column \"{name}\" has \"{cell}\"");
            wrong(path, "has something that is no number", why)
        })
    };
    let features = cells.filter(|(name, _)| !targets.iter().any(|target| target == name));
    Ok(Content::Numbers(features.map(number).collect::<Result<_, _>>()?))
}

/// A number where it is one, nothing where nothing stands, else a word.
fn value(cell: &str) -> Value {
    let cell = cell.trim();
    match cell.parse::<f64>() {
        _ if cell.is_empty() => Value::Null,
        Ok(number) if number.is_finite() => Value::from(number),
        _ => Value::from(cell),
    }
}

fn wrong(path: &Path, what: &str, why: String) -> Failure {
    let mut failure =
        Failure::new(Exit::Failed, "invalid_input", format!("{} {what}", path.display()), why, "see --help");
    failure.place.file = Some(path.display().to_string());
    failure
}
