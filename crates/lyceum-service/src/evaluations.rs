//! How good a model that was trained here is on a file of rows with their answers, beside the trivial method that was
//! fitted on its training rows.
//!
//! [`measure`] is the one way to these numbers: `lyceum eval` calls it with a path and the command line's control,
//! [`create`] with a file of `/v1/files` and turns on the device, where every row that goes through the model is a pass
//! that is paid for.

use crate::explain::CancelOnDrop;
use crate::files::without_folder;
use crate::meter::{Counts, metered_as_it_goes};
use crate::resident::Resident;
use crate::robustness::turns::{PASSES_COVERED, in_turns_until};
use crate::{Payer, Service, ServiceError, files};
use lyceum_store::vault::KeyedPath;
use lyceum_train::baseline::Trivial;
use lyceum_train::checkpoint::digest;
use lyceum_train::data::{self, DataError, Dataset};
use lyceum_train::measure::{self, Measured};
use lyceum_train::version::TRIVIAL;
use lyceum_train::{TrainError, eval::EvalError};
use lyceum_types::control::Control;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use lyceum_types::manifest::Metric;
use lyceum_types::spec::Task;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub model: ModelRef,
    /// The id of a file of `/v1/files`.
    pub file: String,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// `name@3`
    pub model: String,
    /// Names without a part: `accuracy`, `rmse`, …
    pub metrics: BTreeMap<String, Metric>,
    pub beside: Beside,
}

/// The trivial method on the same rows.
#[derive(Clone, Debug)]
pub enum Beside {
    Baseline {
        name: String,
        metrics: BTreeMap<String, Metric>,
    },
    /// Why the version has none.
    Missing(String),
}

/// Measures a model on a file as its training data is read; `trivial` is its [`kept_baseline`].
///
/// # Errors
/// A file that is none of the model's data, rows without answers, the end of the time.
pub fn measure(
    resident: &Resident,
    trivial: Option<&Trivial>,
    path: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Evaluation, TrainError> {
    let data = data::load_eval(&resident.preparation, &resident.manifest.spec, path, control)?;
    on_rows(resident, &data, trivial, control)
}

fn on_rows(
    resident: &Resident,
    data: &Dataset,
    trivial: Option<&Trivial>,
    control: &Control,
) -> Result<Evaluation, TrainError> {
    let (spec, preparation) = (&resident.manifest.spec, &resident.preparation);
    let Measured { metrics, .. } = measure::measure_model(&resident.model, preparation, data, spec, control)?;
    let beside = match trivial {
        Some(trivial) => {
            let Measured { name, metrics, .. } = measure::measure_trivial(trivial, preparation, data, spec)?;
            Beside::Baseline { name, metrics }
        }
        None => Beside::Missing(why_none(resident)),
    };
    Ok(Evaluation { model: resident.version.id(), metrics, beside })
}

fn why_none(resident: &Resident) -> String {
    let model = resident.version.id();
    match resident.manifest.privacy {
        Some(_) => format!("{model} is private: a trivial baseline counts training rows, so it keeps none"),
        None => format!(
            "{model} was trained before versions kept their trivial baseline: train it again to have one beside it"
        ),
    }
}

/// The trivial method that was fitted on the model's training rows; none in versions of older programs.
///
/// # Errors
/// A file that is not the one that was kept.
pub fn kept_baseline(resident: &Resident) -> Result<Option<Trivial>, ServiceError> {
    let Some(sha256) = resident.manifest.files.get(TRIVIAL) else {
        // The last value is learnt from nothing.
        return Ok((resident.manifest.spec.task == Task::Forecasting).then_some(Trivial::LastValue));
    };
    let path = resident.version.dir.join(TRIVIAL);
    let damaged = |why: String| {
        let source = format!("{}: {why}", path.display());
        ServiceError::Damaged { id: resident.version.id(), source: source.into() }
    };
    let bytes = path.read().map_err(|error| damaged(error.to_string()))?;
    if digest(&bytes) != *sha256 {
        return Err(damaged("its sha256 is not the manifest's".into()));
    }
    Trivial::from_bytes(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Measures a model on a file that was brought, in turns with what else the device does; with the passes that it took.
/// Dropping the future ends it at its next pass.
///
/// # Errors
/// 404: no such model or file of this project. 400 at `file`: every error of the file. 413: a file that is too large. 422: a
/// model that was imported, a number that these rows do not have. 429: a budget that is used up.
pub async fn create(
    service: &Service,
    payer: &Payer,
    asked: Asked,
) -> Result<(Evaluation, u64), ServiceError> {
    let project = &payer.project;
    let resident = service.resident(project, &asked.model).await?;
    let file = files::have(service, project, &asked.file).await?;
    if file.bytes > limits::FILE_BYTES_MAX {
        return Err(ServiceError::TooLarge { bytes_max: limits::FILE_BYTES_MAX });
    }
    let path = files::open(service.store(), project, "file", &asked.file).await?;
    crate::rates::admit_passes()?;
    let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
    let rows = read(service, &resident, path, deadline).await?;
    let most = Counts { passes: PASSES_COVERED, ..Counts::default() };
    let version = resident.version.clone();
    let store = service.store().clone();
    metered_as_it_goes(service.ledger(), payer, &version, most, |share| {
        in_turns_until(deadline, service.engine(), (share, 0), move |control| {
            let found = on_rows(&resident, &rows.data, rows.trivial.as_ref(), control);
            let found = found.map_err(|error| refused(error, |told| without_folder(&store, told)))?;
            Ok((found, control.spent()))
        })
    })
    .await
}

/// What is measured on.
struct Rows {
    data: Dataset,
    trivial: Option<Trivial>,
}

/// Reads a file before anything is paid: what is wrong with it costs nobody a pass.
async fn read(
    service: &Service,
    resident: &Arc<Resident>,
    path: KeyedPath,
    deadline: Instant,
) -> Result<Rows, ServiceError> {
    let control = Control::new().with_deadline(deadline);
    let _cancel = CancelOnDrop(control.clone());
    let (resident, store) = (resident.clone(), service.store().clone());
    let work = move || {
        let trivial = kept_baseline(&resident)?;
        let data = data::load_eval(&resident.preparation, &resident.manifest.spec, path, &control);
        let data = data.map_err(|error| refused(error.into(), |told| without_folder(&store, told)))?;
        if !measure::has_losses(&data) {
            let message = "its rows have no answers (labels, values), so that nothing can be measured";
            return Err(ServiceError::invalid("file", "invalid_data", message));
        }
        Ok(Rows { data, trivial })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("reading the rows of an evaluation broke off", error))?
}

/// What is wrong with the file, in words without the folder that it lies in.
fn refused(error: TrainError, told: impl Fn(&str) -> String) -> ServiceError {
    match error {
        TrainError::Data(DataError::Report(mut report)) => {
            for issue in &mut report.errors {
                issue.message = told(&issue.message);
            }
            ServiceError::WrongFile { param: "file", report: Box::new(report) }
        }
        TrainError::Data(DataError::Io { source, .. }) => {
            ServiceError::internal("reading a file that was brought", source)
        }
        TrainError::Data(DataError::Stopped(_)) | TrainError::Stopped { .. } => ServiceError::DeadlinePassed,
        TrainError::Spec(why) => ServiceError::invalid("file", "invalid_data", why),
        TrainError::Eval(error @ (EvalError::Empty { .. } | EvalError::NotFinite { .. })) => {
            ServiceError::Uncomputable { message: error.to_string() }
        }
        error => ServiceError::internal("an evaluation broke off", error),
    }
}
