//! parquet files, row by row; nested columns and bytes are errors.

use super::report::{DataError, Issue, Place, Report, io, one};
use super::table::{Rows, Table};
use bytes::Bytes;
use lyceum_models::prepare::tabular::Cell;
use lyceum_seal::Contents;
use lyceum_types::control::Control;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use std::io::Read;
use std::path::Path;

/// Reads a whole file; all its errors go to `report`.
pub(super) fn read(
    contents: &Contents,
    shown: &str,
    rows: Rows,
    control: &Control,
    report: &mut Report,
) -> Result<Table, DataError> {
    let failed = |source| io(Path::new(shown), source);
    match contents {
        Contents::Plain(file) => of_rows(file.try_clone().map_err(failed)?, shown, rows, control, report),
        // Its plain bytes are nowhere but in memory.
        Contents::Sealed(_) => {
            let mut bytes = Vec::new();
            contents.reader().read_to_end(&mut bytes).map_err(failed)?;
            of_rows(Bytes::from(bytes), shown, rows, control, report)
        }
    }
}

fn of_rows(
    file: impl ChunkReader + 'static,
    shown: &str,
    rows: Rows,
    control: &Control,
    report: &mut Report,
) -> Result<Table, DataError> {
    let broken = |error: ParquetError| {
        one(Issue::new(
            shown,
            "broken_parquet",
            format!("the file cannot be read: {error}"),
            "the file is cut short or no parquet; write it again (snappy, zstd, gzip or no compression)",
        ))
    };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let columns = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let mut table = rows.of(Table::new(shown, columns));
    for (i, row) in (0u64..).zip(reader.get_row_iter(None).map_err(broken)?) {
        control.check()?;
        let row = row.map_err(broken)?;
        let mut refused = Vec::new();
        // Decimals and dates become text here, and cells borrow it.
        let texts: Vec<Option<String>> = row.get_column_iter().map(|(_, field)| text_of(field)).collect();
        let cells = row.get_column_iter().zip(&texts).enumerate().map(|(c, ((_, field), text))| {
            match (number_of(field), text) {
                (Some(x), _) => Cell::Number(x),
                (None, Some(text)) => Cell::Text(text),
                (None, None) => {
                    if !matches!(field, Field::Null) {
                        refused.push(c);
                    }
                    Cell::Missing
                }
            }
        });
        table.push_row(Place::Row(i), cells);
        for c in refused {
            report.push(
                Issue::new(
                    shown,
                    "not_a_scalar",
                    "bytes or a nested value stand where a single value belongs",
                    "write the column as numbers or strings, or leave it out",
                )
                .at(Place::Row(i))
                .column(table.columns[c].as_str()),
            );
        }
    }
    if table.rows() == 0 {
        return Err(one(Issue::new(shown, "empty_file", "the file has no rows", "write one row an example")));
    }
    Ok(table)
}

fn number_of(field: &Field) -> Option<f64> {
    Some(match field {
        Field::Byte(x) => f64::from(*x),
        Field::Short(x) => f64::from(*x),
        Field::Int(x) => f64::from(*x),
        Field::Long(x) => *x as f64,
        Field::UByte(x) => f64::from(*x),
        Field::UShort(x) => f64::from(*x),
        Field::UInt(x) => f64::from(*x),
        Field::ULong(x) => *x as f64,
        Field::Float16(x) => f64::from(*x),
        Field::Float(x) => f64::from(*x),
        Field::Double(x) => *x,
        // Days, milliseconds, microseconds: numbers that keep the order of time.
        Field::Date(x) | Field::TimeMillis(x) => f64::from(*x),
        Field::TimeMicros(x) | Field::TimestampMillis(x) | Field::TimestampMicros(x) => *x as f64,
        _ => return None,
    })
}

fn text_of(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Bool(yes) => Some(yes.to_string()),
        Field::Decimal(_) => Some(field.to_string()),
        _ => None,
    }
}
