//! Data files to examples: read, judged, parted, prepared.
//!
//! [`load`] makes one pass that finds every error before anything runs, with its line, column and fix.
//! Statistics (scales, categories, vocabularies) come from training rows alone and live in the
//! [`Preparation`], which serving applies to requests: a row served is the row trained on.
//!
//! The path: [`source`] reads a file of any format, [`columns`] finds what the spec names, [`answers`] reads
//! the targets, [`split`] parts the rows, [`fit`] learns the scales, [`assemble`] encodes the rows; [`labelled`]
//! walks this path for classification and regression, [`corpus`] for texts, [`series`] for forecasts.

mod answers;
mod archive;
pub mod arrived;
mod assemble;
mod columns;
mod corpus;
mod csv;
pub(crate) mod dataset;
pub mod find;
mod fit;
mod folder;
mod idx;
mod jsonl;
mod judge;
mod labelled;
mod npy;
mod parquet;
pub(crate) mod repeated;
pub mod report;
pub(crate) mod sequences;
mod series;
mod shuffle;
mod sketch;
mod source;
pub mod split;
mod table;
#[cfg(test)]
mod tests;

pub use dataset::Dataset;
pub use report::{DataError, Issue, Report, Warning};
pub use source::SoundFile;

use lyceum_models::prepare::Preparation;
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::{DataFile, FeatureSketch};
use lyceum_types::spec::{Spec, Task};
use source::Source;
use split::Rule;
use std::collections::BTreeMap;

/// Everything that training needs to know about the data.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub preparation: Preparation,
    pub train: Dataset,
    pub valid: Option<Dataset>,
    pub test: Option<Dataset>,
    /// What the training rows look like, for drift tests later.
    pub features: Vec<FeatureSketch>,
    pub files: Vec<DataFile>,
    /// Row numbers (from 0, in file order) of `train`, `valid` and `test`; for one long text the first and
    /// the last character (exclusive) of each part.
    pub split: BTreeMap<String, Vec<u64>>,
    pub warnings: Vec<Warning>,
}

/// Loads the data of a spec; paths are relative to `base_dir`.
pub fn load(spec: &Spec, base_dir: impl Into<KeyedPath>, control: &Control) -> Result<Loaded, DataError> {
    let rule = match (&spec.data.valid, spec.data.valid_fraction) {
        (None, Some(fraction)) => Rule::Fraction(fraction),
        _ => Rule::Whole,
    };
    load_parts(spec, base_dir.into(), rule, control)
}

/// Loads the training file with fold `fold` of `n_folds` as its validation part. Statistics come from the
/// other folds; validation and test files are left alone.
pub fn load_fold(
    spec: &Spec,
    base_dir: impl Into<KeyedPath>,
    fold: usize,
    n_folds: usize,
    control: &Control,
) -> Result<Loaded, DataError> {
    assert!(fold < n_folds, "fold {fold} of {n_folds}: bug");
    let mut spec = spec.clone();
    (spec.data.valid, spec.data.test) = (None, None);
    load_parts(&spec, base_dir.into(), Rule::Fold { fold, n_folds }, control)
}

/// Loads another file for a trained model: with its targets where the file has them (`eval`), else without
/// (`predict`).
pub fn load_eval(
    preparation: &Preparation,
    spec: &Spec,
    path: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Dataset, DataError> {
    let (mut report, path) = (Report::default(), path.into());
    let shown = path.display().to_string();
    let source = source::read(spec, &path, &shown, control, &mut report)?;
    report.into_result()?;
    match spec.task {
        Task::Classification | Task::Regression => labelled::evaluate(preparation, spec, source, control),
        Task::LanguageModeling | Task::SequenceToSequence => {
            corpus::evaluate(preparation, spec, &source, control)
        }
        Task::Forecasting => series::evaluate(preparation, spec, &source, control),
    }
}

/// The sound files that [`load_eval`] reads of this path, a row each in their order; None where it reads no sounds.
///
/// # Errors
/// As [`load_eval`].
pub fn sound_files(
    spec: &Spec,
    path: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Option<Vec<SoundFile>>, DataError> {
    if !matches!(spec.task, Task::Classification | Task::Regression) {
        return Ok(None);
    }
    let (mut report, path) = (Report::default(), path.into());
    let source = source::read(spec, &path, &path.display().to_string(), control, &mut report)?;
    report.into_result()?;
    labelled::sound_files(spec, source, control)
}

/// The texts of a labelled file, a row each in its order, as [`load`] finds them: for models that are asked, not trained.
///
/// # Errors
/// The file has not one column of texts, or a row without one.
pub fn texts(spec: &Spec, path: &KeyedPath, control: &Control) -> Result<Vec<String>, DataError> {
    let mut report = Report::default();
    let source = source::read(spec, path, &path.display().to_string(), control, &mut report)?;
    report.into_result()?;
    labelled::texts(spec, &source, control)
}

fn load_parts(spec: &Spec, base: KeyedPath, rule: Rule, control: &Control) -> Result<Loaded, DataError> {
    let mut report = Report::default();
    let mut files = Vec::new();
    let mut read = |role: &str, shown: Option<&str>| -> Result<Option<Source>, DataError> {
        let Some(shown) = shown else { return Ok(None) };
        let path = base.join(shown);
        let source = match source::read(spec, &path, shown, control, &mut report) {
            Ok(source) => source,
            // Nothing of this file can be looked at, but the other files still can.
            Err(DataError::Report(found)) => {
                found.errors.into_iter().for_each(|issue| report.push(issue));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        files.push(DataFile {
            role: role.to_owned(),
            path: shown.to_owned(),
            sha256: judge::sha256(&path, control)?,
            rows: source.rows() as u64,
        });
        Ok(Some(source))
    };
    let train = read("train", Some(&spec.data.train))?;
    let valid = read("valid", spec.data.valid.as_deref())?;
    let test = read("test", spec.data.test.as_deref())?;
    let Some(train) = train else { return Err(DataError::Report(report)) };
    let sources = Sources { train, valid, test, base };
    let mut loaded = match spec.task {
        Task::Classification | Task::Regression => labelled::load(spec, sources, rule, control, report)?,
        Task::LanguageModeling | Task::SequenceToSequence => {
            corpus::load(spec, &sources, rule, control, report)?
        }
        Task::Forecasting => series::load(spec, &sources, rule, control, report)?,
    };
    loaded.files = files;
    if spec.data.shuffle_labels {
        shuffle::answers(&mut loaded.train, spec.seed);
    }
    judge::warn(&mut loaded, control)?;
    Ok(loaded)
}

/// The files of a spec as they were read.
struct Sources {
    train: Source,
    valid: Option<Source>,
    test: Option<Source>,
    /// The folder that the spec's paths start from.
    base: KeyedPath,
}
