//! Rows of a file, as the model reads them: in the formats of training data.

use super::{Inputs, Rows};
use crate::resident::Resident;
use crate::{Service, ServiceError, files};
use lyceum_models::prepare::PrepareError;
use lyceum_models::prepare::audio::{Clip, read_wav};
use lyceum_store::vault::KeyedPath;
use lyceum_train::data::{self, DataError, Issue, Report, SoundFile};
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Instant;

/// The file's rows with their labels, at most the first `n_max`. Row `i` is the `i`-th of the file.
///
/// # Errors
/// A file that cannot be read as the model's data, or that has no labels.
pub fn rows(
    resident: &Resident,
    path: impl Into<KeyedPath>,
    n_max: Option<usize>,
    control: &Control,
) -> Result<Rows, DataError> {
    let spec = &resident.manifest.spec;
    let path = &path.into();
    let data = data::load_eval(&resident.preparation, spec, path, control)?;
    let no_labels = || {
        let message = "it has no labels: a run needs the right answer of each row";
        let hint = "give the target column, as for training";
        refused(Issue::new(&path.display().to_string(), "no_labels", message, hint))
    };
    let mut labels = data.labels().ok_or_else(no_labels)?.to_vec();
    labels.truncate(n_max.unwrap_or(usize::MAX));
    let inputs = match (data.texts(), data.dense()) {
        (Some(texts), _) => Inputs::Texts(texts[..labels.len()].to_vec()),
        (None, Some((x, width))) => Inputs::Numbers(x[..labels.len() * width].to_vec()),
        (None, None) => return Err(no_labels()),
    };
    let files = data::sound_files(spec, path, control)?;
    let clips = files.map(|files| clips(&files[..labels.len().min(files.len())])).transpose()?;
    let mut numbers = data.row_ids().to_vec();
    numbers.truncate(labels.len());
    // Rows without numbers of their own are called by their place.
    let numbers = (numbers.len() == labels.len()).then(|| Arc::new(numbers));
    Ok(Rows { inputs, labels, clips, numbers })
}

/// The rows of a file that a client brought, in words that tell it nothing of where the file lies.
///
/// # Errors
/// 400 at `data`: what is wrong with the file, or more rows than a run takes. 413: a file that is too large.
pub(super) async fn brought(
    service: &Service,
    project: &Project,
    resident: &Arc<Resident>,
    id: &str,
    first: Option<usize>,
) -> Result<Rows, ServiceError> {
    let path = files::open(service.store(), project, "data", id).await?;
    let found = files::find(service, project, id).await?;
    if found.bytes > limits::ROBUSTNESS_FILE_BYTES_MAX {
        return Err(ServiceError::TooLarge { bytes_max: limits::ROBUSTNESS_FILE_BYTES_MAX });
    }
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let resident = resident.clone();
    let shown = path.display().to_string();
    let read = move || rows(&resident, &path, first, &control);
    let read = tokio::task::spawn_blocking(read).await;
    let rows = read
        .map_err(|error| ServiceError::internal("reading rows broke off", error))?
        .map_err(|error| wrong(error, &shown, &found.name))?;
    let n = rows.labels.len();
    if n > limits::ROBUSTNESS_ROWS_MAX {
        let max = limits::ROBUSTNESS_ROWS_MAX;
        let message =
            format!("the file has {n} rows and a run takes {max}: give \"rows\", the first so many of them");
        return Err(ServiceError::invalid("data", "too_many_rows", message));
    }
    Ok(rows)
}

fn wrong(error: DataError, path: &str, name: &str) -> ServiceError {
    match error {
        DataError::Report(_) => {
            ServiceError::invalid("data", "invalid_data", error.to_string().replace(path, name))
        }
        DataError::Io { source, .. } => ServiceError::internal("a file cannot be read", source),
        DataError::Stopped(_) => ServiceError::DeadlinePassed,
    }
}

/// The sounds of a file, in the order of its rows.
fn clips(files: &[SoundFile]) -> Result<Arc<Vec<Clip>>, DataError> {
    let read = |file: &SoundFile| -> Result<Clip, DataError> {
        let n_bytes = file.n_bytes()?;
        if n_bytes > limits::BODY_BYTES_MAX as u64 {
            let message = format!("has {n_bytes} bytes; at most {} are read", limits::BODY_BYTES_MAX);
            return Err(refused(Issue::new(file.name(), "too_large", message, "cut the clip")));
        }
        let wrong =
            |error: PrepareError| refused(Issue::new(file.name(), error.code, error.message, error.fix));
        read_wav(&file.read()?).map_err(wrong)
    };
    Ok(Arc::new(files.iter().map(read).collect::<Result<_, _>>()?))
}

fn refused(issue: Issue) -> DataError {
    let mut report = Report::default();
    report.push(issue);
    DataError::Report(report)
}
