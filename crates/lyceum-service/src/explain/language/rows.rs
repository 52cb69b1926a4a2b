//! Which lines of a fine-tuning pulled an answer where it is: TracIn (Pruthi et al. 2020) over the checkpoints that its
//! job kept.
//!
//! Only the adapter was learnt, so only its numbers have gradients: few, whatever the model's size. The lines are read
//! again from where the job read them, and only where they are still the same bytes. A pass is one line through one
//! checkpoint, forward and back; a turn on the device is one layer of it, or some rows of the head
//! ([`lyceum_explain::language`]).

use super::super::device::{CancelOnDrop, EngineDevice};
use super::super::influence::{InfluenceShown, NAME, RowShown, refuse, refuse_settings, strongest};
use super::super::{Options, TargetShown, Usage, What, refused, run};
use super::target::{self, Target};
use super::text::Left;
use crate::language::Language;
use crate::meter::Share;
use crate::{Service, ServiceError, files};
use lyceum_explain::language::{Turns, line_products};
use lyceum_explain::{ExplainError, MethodInfo};
use lyceum_models::batch::Batch;
use lyceum_store::jobs::{self, kept};
use lyceum_store::{data_files, vault};
use lyceum_train::checkpoint;
use lyceum_train::past::{Past, answer};
use lyceum_train::tune::Base;
use lyceum_train::{TrainError, chat};
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::manifest::TunedReport;
use lyceum_types::spec::tune::{Method, TunePlan};
use std::sync::Arc;
use std::time::Instant;

/// Characters of a line that are shown.
const SHOWN: usize = 120;

/// Why the lines behind this version's answers are not known; None where they can be asked for.
pub(crate) fn refusal(service: &Service, language: &Language) -> Option<String> {
    refusal_of(language).or_else(|| lacks_checkpoints(service, language))
}

/// That of what the version is, whatever its job kept.
fn refusal_of(language: &Language) -> Option<String> {
    let id = language.version.id();
    if language.manifest.privacy.is_some() {
        return Some(format!(
            "{id} was tuned with differential privacy: how much one line counts is what its noise hides"
        ));
    }
    let Some(tuned) = &language.manifest.tuned else {
        return Some(format!("{id} was not fine-tuned here: there is no job that kept checkpoints"));
    };
    if tuned.spec.method != Method::Supervised {
        return Some(format!("{id} learnt preferences: {NAME} follows the loss of answers"));
    }
    if language.added.is_none() {
        return Some(format!(
            "{id} was tuned whole: {NAME} follows the numbers of an adapter; tune with lora"
        ));
    }
    None
}

fn lacks_checkpoints(service: &Service, language: &Language) -> Option<String> {
    let tuned = language.manifest.tuned.as_ref()?;
    let kept = language.version.job.as_ref().map(|job| service.store().layout().checkpoints_dir(job));
    match kept.map(|dir| checkpoint::list(&dir)) {
        Some(Ok(found)) if !found.is_empty() => None,
        _ => Some(format!(
            "job {} has no checkpoints any more: tune again, and keep them with checkpoints_kept under [train]",
            tuned.job
        )),
    }
}

/// The method in a list.
pub(crate) fn info(refusal: Option<String>) -> MethodInfo {
    MethodInfo {
        name: NAME,
        exact: false,
        passes: "checkpoints × (training rows + 1), as many back",
        refusal,
    }
}

/// A question that has been read.
pub(crate) struct Asked {
    language: Arc<Language>,
    example: Batch,
    shown: TargetShown,
    max_passes: u64,
}

impl Asked {
    pub(crate) fn language(&self) -> &Arc<Language> {
        &self.language
    }
}

/// Reads a question, without a pass. Checkpoints that lie elsewhere are looked for by [`have`].
///
/// # Errors
/// What does not fit the version, the prompt or the answer, at its field.
pub(crate) fn read(
    service: &Service,
    language: Arc<Language>,
    what: &What,
    options: &Options,
) -> Result<Asked, ServiceError> {
    refuse(refusal_of(&language))?;
    if service.store().blobs().is_none() {
        refuse(lacks_checkpoints(service, &language))?;
    }
    refuse_settings(options)?;
    let (prompt, said) = super::asked_of(&language, what, options)?;
    let (target, shown) = target::choose(&language, &said, &options.target)?;
    let Target::Said { tokens, range, .. } = &target else {
        let message = format!("{NAME} follows the loss of one answer: leave target.not out");
        return Err(ServiceError::invalid("target", "unsupported_target", message));
    };
    let prompt = prompt.tokens(&language, Left::Nothing)?;
    let n_tokens = prompt.len() + range.end;
    if let Some(context) = service.engine().positions_max(&language.model)
        && n_tokens > context
    {
        let message = format!("{n_tokens} tokens are more than the {context} that the model reads");
        return Err(ServiceError::invalid("prompt", "context_length_exceeded", message));
    }
    let example = answer(&prompt, &tokens[..range.end], range);
    Ok(Asked { language, example, shown, max_passes: options.max_passes })
}

/// Before [`follow`]: what its job kept, from wherever it lies.
///
/// # Errors
/// It kept no checkpoints; the object store.
pub(crate) async fn have(service: &Service, asked: &Asked) -> Result<(), ServiceError> {
    if let Some(job) = &asked.language.version.job {
        kept::have(service.store(), job).await?;
    }
    refuse(lacks_checkpoints(service, &asked.language))
}

/// Follows the loss of the answer back to the lines.
pub(crate) async fn follow(
    service: &Service,
    project: &Project,
    asked: &Asked,
    share: Share,
) -> Result<InfluenceShown, ServiceError> {
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let cancel = CancelOnDrop(control.clone());
    let past = Arc::new(open(service, project, &asked.language, &control).await?);
    let needed = (past.kept.len() * (past.n_lines() + 1)) as u64;
    if needed > asked.max_passes {
        let (method, max_passes) = (NAME, asked.max_passes);
        return Err(refused(ExplainError::TooManyPasses { method, needed, max_passes }));
    }
    let mut device = EngineDevice::new(service.engine().clone(), share);
    let (lines, example) = (past.clone(), asked.example.clone());
    let sums = run(move || sum(&lines, &example, &mut device, &control)).await?;
    drop(cancel);
    let row = |line: usize| RowShown {
        row: past.place(line),
        label: shown(&asked.language, &past.learnt(line)),
        influence: sums[line],
    };
    let (helped, hindered) = strongest(&sums, row);
    Ok(InfluenceShown {
        target: asked.shown.clone(),
        file: past
            .files
            .iter()
            .find(|file| file.role == "train")
            .map(|file| file.path.clone())
            .unwrap_or_default(),
        n_rows: past.n_lines(),
        checkpoints: past.kept.iter().map(|kept| (kept.step, kept.lr)).collect(),
        helped,
        hindered,
        usage: Usage { forward_passes: needed, backward_passes: needed },
    })
}

/// What the job learnt from and kept, held to what the version says of it.
async fn open(
    service: &Service,
    project: &Project,
    language: &Arc<Language>,
    control: &Control,
) -> Result<Past, ServiceError> {
    let store = service.store().clone();
    let gone = move |message: String| {
        let message = files::without_folder(&store, &message);
        ServiceError::unsupported("method", "training_rows_unavailable", message)
    };
    let tuned = language.manifest.tuned.clone();
    let (Some(id), Some(tuned)) = (language.version.job.clone(), tuned) else {
        return Err(ServiceError::internal("a job was checked", "bug"));
    };
    let job = jobs::find(service.store(), project, &id).await?;
    let mut plan: TunePlan = serde_json::from_str(&job.spec)
        .map_err(|error| ServiceError::internal("read the job's spec", error))?;
    files::of_job(service.store(), &job, &mut plan.base_dir).await?;
    let reference =
        plan.base.parse().map_err(|error| ServiceError::internal("read the job's base", error))?;
    let base = service.language(project, &reference).await?;
    if base.version.sha256 != plan.base_sha256 {
        return Err(gone(format!("{} is not the model any more that job {id} began with", plan.base)));
    }
    let dir = vault::job_folder(service.store(), project, &id)?.join("checkpoints");
    let base_dir = data_files::folder(service.store(), project, &plan.base_dir)?;
    let control = control.clone();
    let work = move || {
        let words = &base.words;
        let words =
            chat::Words { tokenizer: &words.tokenizer, template: words.template.as_ref(), now: plan.created };
        let begun = Base {
            model: (*base.model).clone(),
            adapter: base.added.as_ref().map(|added| added.adapter.clone()),
            words,
            id: plan.base.clone(),
            sha256: plan.base_sha256.clone(),
        };
        let past = Past::open(&plan.tune, begun, (&base_dir, &dir), &control);
        let past = past.map_err(|error| match error {
            TrainError::Stopped { .. } => ServiceError::DeadlinePassed,
            error => gone(format!(
                "the lines that job {id} learnt from are needed, and cannot be read again: {error}"
            )),
        })?;
        same_lines(&past, &tuned).map_err(gone)?;
        Ok(past)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal("reading training lines broke off", error))?
}

fn same_lines(past: &Past, tuned: &TunedReport) -> Result<(), String> {
    let of = |files: &[lyceum_types::manifest::DataFile]| {
        let train = files.iter().filter(|file| file.role == "train");
        train.map(|file| file.sha256.clone()).collect::<Vec<_>>()
    };
    match of(&past.files) == of(&tuned.data) {
        true => Ok(()),
        false => Err(format!(
            "{} is not the file any more that job {} learnt from",
            tuned.spec.data.train, tuned.job
        )),
    }
}

fn sum(
    past: &Past,
    example: &Batch,
    device: &mut dyn Turns,
    control: &Control,
) -> Result<Vec<f64>, ExplainError> {
    let mut sums = vec![0.0; past.n_lines()];
    for kept in &past.kept {
        control.check().map_err(ExplainError::Stopped)?;
        let model = past.model_at(kept).map_err(|error| ExplainError::Device(error.to_string()))?;
        let lines = (0..past.n_lines()).map(|line| past.line(line));
        let products = line_products(device, &Arc::new(model), example, lines, control)?;
        sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += kept.lr * product);
    }
    match sums.iter().all(|sum| sum.is_finite()) {
        true => Ok(sums),
        false => Err(ExplainError::NotFinite { what: "a row's influence" }),
    }
}

/// The beginning of what a line taught.
fn shown(language: &Language, learnt: &[u32]) -> String {
    let text = language.words.tokenizer.decode(learnt).unwrap_or_default();
    text.trim().chars().take(SHOWN).collect()
}
