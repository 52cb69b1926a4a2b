//! csv and tsv files: a header line, quotes, a byte order mark, both line ends; ragged rows are errors.

use super::report::{DataError, Issue, Place, Report, io, one};
use super::table::{Rows, Table};
use lyceum_models::prepare::tabular::Cell;
use lyceum_seal::Contents;
use lyceum_types::control::Control;
use std::io::Read;
use std::path::Path;

/// Reads a whole file; all its errors go to `report`. The name says what stands between fields.
pub(super) fn read(
    contents: &Contents,
    shown: &str,
    rows: Rows,
    control: &Control,
    report: &mut Report,
) -> Result<Table, DataError> {
    let delimiter = if shown.to_lowercase().ends_with(".tsv") { b'\t' } else { b',' };
    let failed = |source| io(Path::new(shown), source);
    if is_blank(contents).map_err(failed)? {
        return Err(one(Issue::new(
            shown,
            "empty_file",
            "the file is empty",
            "write a header line and one line a row",
        )));
    }
    // A byte order mark is passed over.
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(1 << 16)
        .from_reader(contents.reader());
    let mut record = csv::ByteRecord::new();
    let mut table: Option<Table> = None;
    loop {
        control.check()?;
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                let told = error.to_string();
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(source) => failed(source),
                    _ => one(Issue::new(shown, "broken_csv", told, "check the quotes")),
                });
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        match &mut table {
            None => table = Some(rows.of(header(&record, shown, delimiter, report))),
            Some(table) => row(&record, line, table, report),
        }
    }
    let table = table.expect("a file with text has a first record: bug");
    if table.rows() == 0 && report.is_empty() {
        report.push(Issue::new(
            shown,
            "no_rows",
            "the file has a header but no rows",
            "add one line a row below the header",
        ));
    }
    Ok(table)
}

/// Whether there is nothing but spaces.
fn is_blank(contents: &Contents) -> std::io::Result<bool> {
    let (mut reader, mut part) = (contents.reader(), [0; 1 << 12]);
    let mut is_first = true;
    loop {
        let n = reader.read(&mut part)?;
        let read = &part[..n];
        let read = if is_first { read.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(read) } else { read };
        is_first = false;
        if n == 0 || !read.iter().all(u8::is_ascii_whitespace) {
            return Ok(n == 0);
        }
    }
}

fn header(record: &csv::ByteRecord, shown: &str, delimiter: u8, report: &mut Report) -> Table {
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for (i, field) in record.iter().enumerate() {
        let name = String::from_utf8_lossy(field).trim().to_owned();
        let problem = if name.is_empty() {
            Some(("empty_column_name", format!("column {} has no name", i + 1)))
        } else if names.contains(&name) {
            Some(("duplicate_column", format!("two columns are called {name:?}")))
        } else {
            None
        };
        if let Some((code, message)) = problem {
            report.push(
                Issue::new(shown, code, message, "give each column a name of its own").at(Place::Line(1)),
            );
        }
        names.push(name);
    }
    let other = [b',', b';', b'\t'].into_iter().find(|&d| d != delimiter && names[0].as_bytes().contains(&d));
    if let (1, Some(other)) = (names.len(), other) {
        let hint = match other {
            b'\t' => "call the file .tsv".to_owned(),
            other => format!("separate the fields by commas instead of {:?}", other as char),
        };
        report.push(
            Issue::new(shown, "wrong_delimiter", "the header has one field only", hint).at(Place::Line(1)),
        );
    }
    Table::new(shown, names)
}

fn row(record: &csv::ByteRecord, line: u64, table: &mut Table, report: &mut Report) {
    if record.len() != table.columns.len() {
        report.push(
            Issue::new(
                &table.file,
                "ragged_row",
                format!("{} fields, but the header has {}", record.len(), table.columns.len()),
                "check for a missing or needless delimiter, or quote the field that contains it",
            )
            .at(Place::Line(line)),
        );
        return;
    }
    if let Some(i) = record.iter().position(|field| std::str::from_utf8(field).is_err()) {
        report.push(
            Issue::new(&table.file, "not_utf8", "the field is not UTF-8 text", "save the file as UTF-8")
                .at(Place::Line(line))
                .column(table.columns[i].as_str()),
        );
        return;
    }
    let cells = record.iter().map(|field| match std::str::from_utf8(field).unwrap_or_default() {
        "" => Cell::Missing,
        text => Cell::Text(text),
    });
    table.push_row(Place::Line(line), cells);
}
