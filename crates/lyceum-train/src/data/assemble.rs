//! Rows of a source to a data set, through the same preparation that serving uses.

use super::answers::Answers;
use super::dataset::{Dataset, Examples, Targets};
use super::report::{DataError, Issue, Place, Report};
use super::source::{Arrays, Files, Source};
use super::table::Table;
use lyceum_models::prepare::tabular::{Cell, Encoder, number};
use lyceum_models::prepare::{InputPreparation, Preparation, Raw};
use lyceum_types::control::Control;

/// Encodes some rows of a source whose inputs become numbers; all refusals go to `report`.
///
/// `columns` are the table's feature columns in the model's order.
pub(crate) fn dense(
    input: &InputPreparation,
    source: &Source,
    columns: &[usize],
    rows: &[usize],
    control: &Control,
    report: &mut Report,
) -> Result<Vec<f32>, DataError> {
    let shape = input.dense_shape().expect("texts are assembled elsewhere: bug");
    let width: usize = shape.iter().product();
    let mut data = Vec::with_capacity(rows.len() * width);
    let mut numbers = Vec::new();
    for (i, &row) in rows.iter().enumerate() {
        control.check()?;
        let start = data.len();
        match (source, input) {
            (Source::Table(table), InputPreparation::Tabular(encoder)) => {
                table_row(encoder, table, columns, row, &mut data, report);
            }
            (Source::Table(table), _) => {
                if read_numbers(table, columns, row, &mut numbers, report)
                    && let Some(refusal) = numbers_row(input, &numbers, &mut data)
                {
                    report.push(refusal.at_row(table, row));
                }
            }
            (Source::Arrays(arrays), _) => {
                array_numbers(arrays, row, &mut numbers);
                if let Some(error) = numbers_row(input, &numbers, &mut data) {
                    report.push(Issue::prepare(&arrays.file, source.place(row), error.0));
                }
            }
            (Source::Files(files), _) => file_row(input, files, row, &mut data, report)?,
            (Source::Text { .. }, _) => unreachable!("a text is no row of numbers: bug"),
        }
        // A refused row leaves zeros, so that the others keep their places until the report ends the load.
        data.resize(start + width, 0.0);
        debug_assert_eq!(data.len(), (i + 1) * width);
    }
    Ok(data)
}

/// A data set of encoded numbers with its targets.
pub(crate) fn with_targets(
    preparation: &Preparation,
    data: Vec<f32>,
    source: &Source,
    answers: Option<&Answers>,
    rows: &[usize],
    report: &mut Report,
) -> Dataset {
    let shape = preparation.input.dense_shape().expect("texts are assembled elsewhere: bug");
    let targets = encode_targets(preparation, source, answers, rows, report);
    Dataset {
        examples: Examples::Dense { shape, data },
        targets,
        row_ids: row_ids(source, rows),
        texts: None,
        n_truncated: vec![],
    }
}

pub(crate) fn encode_targets(
    preparation: &Preparation,
    source: &Source,
    answers: Option<&Answers>,
    rows: &[usize],
    report: &mut Report,
) -> Targets {
    match answers {
        None => Targets::None,
        Some(answers) => {
            let place = |row: usize| source.place(row);
            answers.encode(&preparation.output, rows, source.file(), &place, report)
        }
    }
}

pub(crate) fn row_ids(source: &Source, rows: &[usize]) -> Vec<u64> {
    rows.iter().map(|&row| source.row_id(row)).collect()
}

struct Refusal(lyceum_models::prepare::PrepareError);

impl Refusal {
    fn at_row(self, table: &Table, row: usize) -> Issue {
        Issue::prepare(&table.file, table.place(row), self.0)
    }
}

/// One row of a table, column by column, so that each bad cell is reported.
fn table_row(
    encoder: &Encoder,
    table: &Table,
    columns: &[usize],
    row: usize,
    data: &mut Vec<f32>,
    report: &mut Report,
) {
    for (column, &index) in encoder.columns.iter().zip(columns) {
        let start = data.len();
        if let Err(error) = column.encode(table.cell(row, index), data) {
            report.push(Issue::prepare(&table.file, table.place(row), error));
            data.resize(start + column.width(), 0.0);
        }
    }
}

/// The numbers of a row; false when a cell is none.
fn read_numbers(
    table: &Table,
    columns: &[usize],
    row: usize,
    numbers: &mut Vec<f64>,
    report: &mut Report,
) -> bool {
    numbers.clear();
    for &column in columns {
        match number(table.cell(row, column)) {
            Ok(Some(x)) => numbers.push(x),
            Ok(None) => report.push(table.issue(
                row,
                column,
                "missing_value",
                "the value is missing",
                "fill it in: pictures and series may have no gaps",
            )),
            Err(problem) => report.push(super::answers::bad_number(table, row, column, problem)),
        }
    }
    numbers.len() == columns.len()
}

fn array_numbers(arrays: &Arrays, row: usize, numbers: &mut Vec<f64>) {
    let width: usize = arrays.shape.iter().product();
    numbers.clear();
    numbers.extend((row * width..(row + 1) * width).map(|i| arrays.numbers.at(i)));
}

fn numbers_row(input: &InputPreparation, numbers: &[f64], data: &mut Vec<f32>) -> Option<Refusal> {
    match input {
        InputPreparation::Tabular(encoder) => {
            let cells: Vec<Cell<'_>> = numbers.iter().map(|&x| Cell::Number(x)).collect();
            encoder.encode(&cells, data)
        }
        InputPreparation::Series(series) => series.encode(numbers.iter().copied(), data),
        InputPreparation::Image(pixels) => pixels.encode_numbers(numbers.iter().map(|&x| x as f32), data),
        _ => {
            let row: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
            input.encode_dense(Raw::Numbers(&row), data)
        }
    }
    .err()
    .map(Refusal)
}

fn file_row(
    input: &InputPreparation,
    files: &Files,
    row: usize,
    data: &mut Vec<f32>,
    report: &mut Report,
) -> Result<(), DataError> {
    let entry = &files.entries[row];
    let bytes = entry.at.read()?;
    let raw = match files.media {
        super::source::Media::Pictures => Raw::ImageFile(&bytes),
        super::source::Media::Sounds => Raw::Wav(&bytes),
    };
    if let Err(error) = input.encode_dense(raw, data) {
        report.push(Issue::new(&entry.shown, error.code, error.message, error.fix).at(Place::File));
    }
    Ok(())
}
