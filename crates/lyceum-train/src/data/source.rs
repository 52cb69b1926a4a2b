//! A data file as it was read, before anything is known about what it means: a table, arrays, a folder of
//! files, or one text.

use super::answers::Answers;
use super::report::{DataError, Issue, Place, Report, io, one};
use super::table::{Rows, Table};
use super::{archive, csv, folder, idx, jsonl, npy, parquet};
use lyceum_models::prepare::series::Fields;
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::spec::{InputSpec, Spec};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) enum Source {
    Table(Table),
    Arrays(Arrays),
    Files(Files),
    Text { file: String, text: String },
}

/// Rows of numbers of one shape.
#[derive(Clone, Debug)]
pub(crate) struct Arrays {
    pub file: String,
    /// Of one row.
    pub shape: Vec<usize>,
    pub numbers: Numbers,
    pub answers: Option<Answers>,
    /// What a request calls the channels of a series.
    pub fields: Option<Fields>,
    /// The first row of the file behind each example, where these are windows of a table.
    pub row_ids: Option<Vec<u64>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    U8(Vec<u8>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Numbers {
    pub fn len(&self) -> usize {
        match self {
            Numbers::U8(x) => x.len(),
            Numbers::F32(x) => x.len(),
            Numbers::F64(x) => x.len(),
        }
    }

    pub fn at(&self, i: usize) -> f64 {
        match self {
            Numbers::U8(x) => f64::from(x[i]),
            Numbers::F32(x) => f64::from(x[i]),
            Numbers::F64(x) => x[i],
        }
    }
}

/// Pictures or sounds, one file each.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The folder, archive or manifest, for messages.
    pub file: String,
    pub media: Media,
    pub entries: Vec<Entry>,
    /// None: a folder without classes (prediction).
    pub labelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Pictures,
    Sounds,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub at: At,
    pub shown: String,
    pub label: String,
}

/// Where the bytes of a picture or sound are.
#[derive(Clone, Debug)]
pub(crate) enum At {
    Path(PathBuf),
    /// In memory: a file of an archive.
    Held(Arc<[u8]>),
}

impl At {
    pub fn n_bytes(&self) -> Result<u64, DataError> {
        match self {
            At::Path(path) => Ok(std::fs::metadata(path).map_err(|source| io(path, source))?.len()),
            At::Held(bytes) => Ok(bytes.len() as u64),
        }
    }

    pub fn read(&self) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            At::Path(path) => Ok(Cow::Owned(std::fs::read(path).map_err(|source| io(path, source))?)),
            At::Held(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    }
}

/// A sound, a row of its source.
#[derive(Clone, Debug)]
pub struct SoundFile(pub(super) Entry);

impl SoundFile {
    /// For messages.
    pub fn name(&self) -> &str {
        &self.0.shown
    }

    /// # Errors
    /// What the disk says.
    pub fn n_bytes(&self) -> Result<u64, DataError> {
        self.0.at.n_bytes()
    }

    /// # Errors
    /// What the disk says.
    pub fn read(&self) -> Result<Cow<'_, [u8]>, DataError> {
        self.0.at.read()
    }
}

impl Source {
    pub fn rows(&self) -> usize {
        match self {
            Source::Table(table) => table.rows(),
            Source::Arrays(arrays) => arrays.numbers.len() / arrays.shape.iter().product::<usize>().max(1),
            Source::Files(files) => files.entries.len(),
            Source::Text { .. } => 1,
        }
    }

    pub fn file(&self) -> &str {
        match self {
            Source::Table(table) => &table.file,
            Source::Arrays(arrays) => &arrays.file,
            Source::Files(files) => &files.file,
            Source::Text { file, .. } => file,
        }
    }

    pub fn place(&self, row: usize) -> Place {
        match self {
            Source::Table(table) => table.place(row),
            Source::Arrays(arrays) => {
                Place::Row(arrays.row_ids.as_ref().map_or(row as u64, |row_ids| row_ids[row]))
            }
            Source::Files(_) | Source::Text { .. } => Place::File,
        }
    }

    pub fn row_id(&self, row: usize) -> u64 {
        match self {
            Source::Arrays(Arrays { row_ids: Some(row_ids), .. }) => row_ids[row],
            _ => row as u64,
        }
    }
}

/// Reads a file or folder of any format. Errors within it go to `report`; one that leaves nothing to look at
/// is returned.
pub(crate) fn read(
    spec: &Spec,
    path: &KeyedPath,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Source, DataError> {
    if !path.exists() {
        return Err(one(Issue::new(
            shown,
            "file_not_found",
            "there is no such file or folder",
            "check the path: it is relative to the folder of the file that names it",
        )));
    }
    let name = path.path().file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if path.is_dir() {
        return folder::read(path.path(), shown, control, report).map(Source::Files);
    }
    if ends(&[".csv", ".tsv", ".jsonl", ".parquet"]) {
        let contents = || path.open().map_err(|source| io(path.path(), source));
        let table = if ends(&[".jsonl"]) {
            jsonl::read(path, shown, control, report)?
        } else if ends(&[".parquet"]) {
            parquet::read(&contents()?, shown, Rows::Kept, control, report)?
        } else {
            csv::read(&contents()?, shown, Rows::Kept, control, report)?
        };
        return manifest_or_table(spec, path, table, report);
    }
    if ends(&[".npy", ".npz"]) {
        return npy::read(spec, path, shown, control, report);
    }
    if ends(&[".idx", ".idx.gz"]) || name.contains("-idx") {
        return idx::read(spec, path, shown, control, report);
    }
    if ends(&archive::ENDINGS) {
        return archive::read(path, shown, control, report).map(Source::Files);
    }
    if ends(&[".txt"]) {
        return text(path, shown);
    }
    Err(one(unknown(shown)))
}

pub(super) fn unknown(shown: &str) -> Issue {
    Issue::new(
        shown,
        "unknown_format",
        "this kind of file is not read",
        "give a .csv, .tsv, .parquet, .jsonl, .npy, .npz, .idx, .idx.gz or .txt file, or a folder of images \
         or of .wav files per class, also as .zip, .tar or .tar.gz",
    )
}

/// A table of pictures or sounds names them in its `path` column.
fn manifest_or_table(
    spec: &Spec,
    path: &KeyedPath,
    table: Table,
    report: &mut Report,
) -> Result<Source, DataError> {
    let media = match &spec.data.input {
        Some(InputSpec::Image { .. }) => Media::Pictures,
        Some(InputSpec::Audio { .. }) => Media::Sounds,
        _ => return Ok(Source::Table(table)),
    };
    if table.column_index("path").is_none() {
        return Ok(Source::Table(table));
    }
    if path.is_sealed() {
        return Err(one(Issue::new(
            &table.file,
            "sealed_files",
            "the table names other files, and in an encrypted project no file lies beside another",
            "bring pictures as arrays (.npz), or train in a project that is not encrypted",
        )));
    }
    let target = spec.data.target.first().map(String::as_str);
    Ok(Source::Files(folder::manifest(&table, path.path(), target, media, report)))
}

fn text(path: &KeyedPath, shown: &str) -> Result<Source, DataError> {
    let bytes = path.read().map_err(|source| io(path.path(), source))?;
    Ok(Source::Text { file: shown.to_owned(), text: text_of(&bytes, shown)?.to_owned() })
}

pub(super) fn text_of<'a>(bytes: &'a [u8], shown: &str) -> Result<&'a str, DataError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err(one(Issue::new(shown, "empty_file", "the file is empty", "write the text into it")));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
            let issue = Issue::new(shown, "not_utf8", "the text is not UTF-8", "save the file as UTF-8");
            Err(one(issue.at(Place::Line(line))))
        }
    }
}
