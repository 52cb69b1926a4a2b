//! Files that somebody brought, judged before anybody says what their columns mean: whether they are of the format that their
//! name says, row by row and picture by picture. What a spec asks of them is judged by the job that reads them.

use super::report::{DataError, Report, io};
use super::table::Rows;
use super::{archive, csv, parquet, source};
use crate::chat;
use lyceum_seal::Contents;
use lyceum_types::control::Control;
use std::io::Read;
use std::path::Path;

/// What is wrong with a file that is brought for training. Arrays are looked at by their jobs alone.
///
/// # Errors
/// What the disk says; a stop.
pub fn judge(contents: &Contents, name: &str, control: &Control) -> Result<Report, DataError> {
    let mut report = Report::default();
    match look(contents, name, control, &mut report) {
        Ok(()) => Ok(report),
        Err(DataError::Report(found)) => {
            found.errors.into_iter().for_each(|issue| report.push(issue));
            Ok(report)
        }
        Err(error) => Err(error),
    }
}

fn look(contents: &Contents, name: &str, control: &Control, report: &mut Report) -> Result<(), DataError> {
    let lower = name.to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    let whole = || {
        let mut bytes = Vec::new();
        contents.reader().read_to_end(&mut bytes).map_err(|source| io(Path::new(name), source))?;
        Ok::<_, DataError>(bytes)
    };
    if ends(&[".jsonl"]) {
        chat::lines::judge(&whole()?, name, control, report)?;
    } else if ends(&[".csv", ".tsv"]) {
        csv::read(contents, name, Rows::Passing, control, report)?;
    } else if ends(&[".parquet"]) {
        parquet::read(contents, name, Rows::Passing, control, report)?;
    } else if ends(&archive::ENDINGS) {
        archive::walk(&whole()?, name, Rows::Passing, control, report)?;
    } else if ends(&[".txt"]) {
        source::text_of(&whole()?, name)?;
    } else if !ends(&[".npy", ".npz", ".idx", ".idx.gz"]) && !lower.contains("-idx") {
        report.push(source::unknown(name));
    }
    Ok(())
}
