//! Which rows of the training file pulled an answer where it is (TracIn), over the checkpoints that the version's job
//! kept.
//!
//! The rows are read again from where the job read them, and only where they are still the same bytes. A pass is one
//! row through one checkpoint, forward and back; sixteen are one turn on the device.

use super::device::{CancelOnDrop, EngineDevice};
use super::{BaselineChoice, Options, TargetShown, Usage, parts};
use crate::meter::Share;
use crate::resident::Resident;
use crate::{Service, ServiceError, files, predict};
use lyceum_explain::ExplainError;
use lyceum_explain::influence::{gradient, product};
use lyceum_models::batch::{Batch, Target};
use lyceum_models::prepare::OutputPreparation;
use lyceum_store::data_files;
use lyceum_store::jobs::{self, kept};
use lyceum_store::vault;
use lyceum_train::checkpoint::{self, Kept};
use lyceum_train::data::{self, Dataset};
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::spec::Plan;
use std::sync::Arc;
use std::time::Instant;

pub const NAME: &str = "tracin";
/// Rows of one turn on the device.
const TURN: usize = 16;

/// The rows that count most for and against the loss of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct InfluenceShown {
    /// The answer whose loss it is about.
    pub target: TargetShown,
    /// The file as the spec names it.
    pub file: String,
    pub n_rows: usize,
    /// Steps and learning rates.
    pub checkpoints: Vec<(u64, f64)>,
    /// Rows that lowered the loss of the answer, the strongest first.
    pub helped: Vec<RowShown>,
    /// Rows that raised it.
    pub hindered: Vec<RowShown>,
    pub usage: Usage,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RowShown {
    /// From 0, in the file's order.
    pub row: u64,
    /// What the file says that it is: a label, or the beginning of what is answered.
    pub label: String,
    pub influence: f64,
}

/// Why row influence says nothing of this version; None where it can be asked.
pub(super) fn refusal(service: &Service, resident: &Resident) -> Option<String> {
    refusal_of(resident).or_else(|| lacks_checkpoints(service, resident))
}

/// That of what the version is, whatever its job kept.
fn refusal_of(resident: &Resident) -> Option<String> {
    let id = resident.version.id();
    if resident.manifest.privacy.is_some() {
        return Some(format!(
            "{id} was trained with differential privacy: how much one row counts is what its noise hides"
        ));
    }
    if !matches!(resident.preparation.output, OutputPreparation::Labels { .. }) {
        return Some(format!("{id} does not answer with a label: {NAME} follows the loss of a label"));
    }
    if resident.version.job.is_none() {
        return Some(format!("{id} was not trained here: there is no job that kept checkpoints"));
    }
    None
}

fn lacks_checkpoints(service: &Service, resident: &Resident) -> Option<String> {
    let job = resident.version.job.as_ref()?;
    let dir = service.store().layout().checkpoints_dir(job);
    match checkpoint::list(&dir) {
        Ok(found) if !found.is_empty() => None,
        _ => Some(format!(
            "job {job} has no checkpoints any more: train again, and keep them with checkpoints_kept under [train]"
        )),
    }
}

/// Follows the loss of one answer back to the rows.
pub(super) async fn follow(
    (service, project): (&Service, &Project),
    resident: &Arc<Resident>,
    what: &super::What,
    options: &Options,
    share: Share,
) -> Result<InfluenceShown, ServiceError> {
    refuse(refusal_of(resident))?;
    refuse_settings(options)?;
    super::refuse_parts(options)?;
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        return Err(ServiceError::internal("labels were checked", "bug"));
    };
    let read = parts::read(resident, what, options, "input")?;
    // Behind what needs no files: they may have to be fetched.
    if let Some(job) = &resident.version.job {
        kept::have(service.store(), job).await?;
    }
    refuse(lacks_checkpoints(service, resident))?;
    let class = class((service, resident, &share), what, options, names).await?;
    let example = Batch { n: 1, input: read.input, target: Target::Classes(vec![class as i32]) };
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let cancel = CancelOnDrop(control.clone());
    let rows = load(service, project, resident, &control).await?;
    let needed = (rows.checkpoints.len() * (rows.train.len() + 1)) as u64;
    if needed > options.max_passes {
        let too_many = ExplainError::TooManyPasses { method: NAME, needed, max_passes: options.max_passes };
        return Err(super::refused(too_many));
    }
    let mut device = EngineDevice::new(service.engine().clone(), share);
    let (rows, sums) = super::run(move || {
        let sums = sum(&rows, Arc::new(example), &mut device, &control)?;
        Ok((rows, sums))
    })
    .await?;
    drop(cancel);
    let usage = Usage { forward_passes: needed, backward_passes: needed };
    Ok(shown(&rows, &sums, names, names[class].clone(), usage))
}

pub(super) fn refuse(why: Option<String>) -> Result<(), ServiceError> {
    match why {
        None => Ok(()),
        Some(why) => Err(ServiceError::invalid("method", "unsupported_method", why)),
    }
}

/// The loss has no features: what chooses them has no meaning here.
pub(super) fn refuse_settings(options: &Options) -> Result<(), ServiceError> {
    let given = [
        ("granularity", options.granularity.is_some()),
        ("sources", options.sources.is_some()),
        ("quantity", options.quantity.is_some()),
        ("baseline", options.baseline != BaselineChoice::Auto),
        ("evaluate", !options.evaluate.is_empty()),
        ("counterfactual", options.counterfactual.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((param, _)) => {
            let message = format!("{NAME} gives rows their share of a loss, no features: leave it out");
            Err(ServiceError::invalid(param, "unsupported_parameter", message))
        }
    }
}

/// The wished label, or the model's own answer.
async fn class(
    (service, resident, share): (&Service, &Arc<Resident>, &Share),
    what: &super::What,
    options: &Options,
    names: &[String],
) -> Result<usize, ServiceError> {
    let wrong = |message: String| Err(ServiceError::invalid("target", "unsupported_target", message));
    match (&options.target, what) {
        (super::TargetChoice::Label { label, not: None, step: None }, _) => {
            match names.iter().position(|name| name == label) {
                Some(class) => Ok(class),
                None => wrong(format!("{label:?} is not a label of the model: {}", names.join(", "))),
            }
        }
        (super::TargetChoice::Likeliest, super::What::Input(content)) => {
            let prepared = predict::prepare(resident, content, "input")?;
            let outputs = service.predict(resident, vec![prepared], share).await?;
            Ok(predict::argmax(&predict::softmax(&outputs[0])))
        }
        _ => wrong(format!("{NAME} follows the loss of one label: send target.label alone, or no target")),
    }
}

/// What the job learnt from, and what it kept of itself.
struct Rows {
    train: Dataset,
    file: String,
    checkpoints: Vec<Arc<Kept>>,
}

async fn load(
    service: &Service,
    project: &Project,
    resident: &Arc<Resident>,
    control: &Control,
) -> Result<Rows, ServiceError> {
    let store = service.store().clone();
    let changed = move |message: String| {
        let message = files::without_folder(&store, &message);
        ServiceError::unsupported("method", "training_rows_unavailable", message)
    };
    let id =
        resident.version.job.clone().ok_or_else(|| ServiceError::internal("a job was checked", "bug"))?;
    let job = jobs::find(service.store(), project, &id).await?;
    let mut plan: Plan = serde_json::from_str(&job.spec)
        .map_err(|error| ServiceError::internal("read the job's spec", error))?;
    files::of_job(service.store(), &job, &mut plan.base_dir).await?;
    let dir = vault::job_folder(service.store(), project, &id)?.join("checkpoints");
    let files = data_files::folder(service.store(), project, &plan.base_dir)?;
    let (resident, control) = (resident.clone(), control.clone());
    let work = move || {
        let loaded = data::load(&plan.spec, &files, &control).map_err(|error| {
            changed(format!(
                "the rows that job {id} learnt from are needed, and cannot be read again: {error}"
            ))
        })?;
        let of = |files: &[lyceum_types::manifest::DataFile]| {
            let train = files.iter().filter(|file| file.role == "train");
            train.map(|file| file.sha256.clone()).collect::<Vec<_>>()
        };
        if of(&loaded.files) != of(&resident.manifest.data) {
            let name = plan.spec.data.train.clone();
            return Err(changed(format!("{name} is not the file any more that job {id} learnt from")));
        }
        let shape = &resident.model.shape;
        let kept = checkpoint::models(&plan.spec, shape, &loaded.train, &dir)
            .map_err(|error| changed(format!("the checkpoints of job {id} cannot be used: {error}")))?;
        let checkpoints = kept.into_iter().map(Arc::new).collect();
        Ok(Rows { train: loaded.train, file: plan.spec.data.train, checkpoints })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal("reading training rows broke off", error))?
}

fn sum(
    rows: &Rows,
    example: Arc<Batch>,
    device: &mut EngineDevice,
    control: &Control,
) -> Result<Vec<f64>, ExplainError> {
    let mut sums = vec![0.0; rows.train.len()];
    let places: Vec<usize> = (0..rows.train.len()).collect();
    for kept in &rows.checkpoints {
        control.check().map_err(ExplainError::Stopped)?;
        let (of, asked) = (kept.clone(), example.clone());
        let own = Arc::new(device.task(2, move |ws| gradient(&of.model, &asked, ws))??);
        for turn in places.chunks(TURN) {
            control.check().map_err(ExplainError::Stopped)?;
            let batch = |&i: &usize| {
                let mut batch = rows.train.new_batch();
                rows.train.fill(&[i], &mut batch);
                batch
            };
            let batches: Vec<Batch> = turn.iter().map(batch).collect();
            let (of, own) = (kept.clone(), own.clone());
            let n_passes = 2 * batches.len() as u64;
            let found = device.task(n_passes, move |ws| {
                batches.iter().map(|row| product(&of.model, &own, row, ws)).collect::<Result<Vec<f64>, _>>()
            })??;
            for (&i, found) in turn.iter().zip(found) {
                sums[i] += kept.lr * found;
            }
        }
    }
    if sums.iter().any(|sum| !sum.is_finite()) {
        return Err(ExplainError::NotFinite { what: "a row's influence" });
    }
    Ok(sums)
}

fn shown(rows: &Rows, sums: &[f64], names: &[String], label: String, usage: Usage) -> InfluenceShown {
    let row = |i: usize| {
        let mut batch = rows.train.new_batch();
        rows.train.fill(&[i], &mut batch);
        let class = match batch.target {
            Target::Classes(classes) => classes.first().and_then(|&class| usize::try_from(class).ok()),
            _ => None,
        };
        let label = class.and_then(|class| names.get(class)).cloned().unwrap_or_default();
        RowShown { row: rows.train.row_ids()[i], label, influence: sums[i] }
    };
    let (helped, hindered) = strongest(sums, row);
    InfluenceShown {
        target: TargetShown::Label { label, not: None, step: None },
        file: rows.file.clone(),
        n_rows: rows.train.len(),
        checkpoints: rows.checkpoints.iter().map(|kept| (kept.step, kept.lr)).collect(),
        helped,
        hindered,
        usage,
    }
}

/// The rows that lowered a loss most, and those that raised it most.
pub(super) fn strongest(sums: &[f64], row: impl Fn(usize) -> RowShown) -> (Vec<RowShown>, Vec<RowShown>) {
    let mut order: Vec<usize> = (0..sums.len()).collect();
    order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
    let helped = order.iter().filter(|&&i| sums[i] > 0.0).take(limits::INFLUENCE_ROWS).map(|&i| row(i));
    let against = order.iter().rev().filter(|&&i| sums[i] < 0.0);
    (helped.collect(), against.take(limits::INFLUENCE_ROWS).map(|&i| row(i)).collect())
}
