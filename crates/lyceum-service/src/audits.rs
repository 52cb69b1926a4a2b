//! Membership audits: how well losses tell rows that a model was trained on from others, and what canaries inside of its
//! private training proved.
//!
//! Of a model that was trained here a row's score is less its loss (Yeom et al. 2018); of a fine-tuned language model the
//! loss before it was tuned less the loss after, since lines differ in how likely any model finds them. What leaves are
//! areas and rates, never the loss of a row. A [`Plan`] has read both files, so what is wrong with them is told before a
//! run begins; carrying it out takes turns on the device and pays a pass for each row that goes through a model.

use crate::meter::{Counts, metered_as_it_goes};
use crate::resident::Resident;
use crate::robustness::turns::{PASSES_COVERED, in_turns};
use crate::{Engine, Language, Ledger, Payer, Service, ServiceError, files, language};
use lyceum_privacy::membership::{Attack, attack};
use lyceum_store::models::Version;
use lyceum_store::vault::KeyedPath;
use lyceum_train::chat::Words;
use lyceum_train::data::{self, DataError};
use lyceum_train::tune::{Base, lines_of, on_lines};
use lyceum_train::{TrainError, measure};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use lyceum_types::manifest::{AuditReport, PrivacyReport, TunedReport};
use lyceum_types::spec::tune::{Method, TuneSpec};
use std::sync::Arc;
use std::time::Instant;

/// Shares of the others that may be accused.
pub const FPRS: [f64; 3] = [0.1, 0.01, 0.001];

/// What a client asks for: ids of files of `/v1/files`.
pub struct Asked {
    pub model: ModelRef,
    pub members: String,
    pub others: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Audit {
    /// `name@3`
    pub model: String,
    pub sha256: String,
    /// `loss`, or `loss_over_base`
    pub attack: &'static str,
    pub found: Attack,
    /// Of a fine-tuned model, by the loss after alone.
    pub by_loss: Option<Attack>,
    pub n_members: usize,
    pub n_others: usize,
    pub epsilon_claimed: Option<f64>,
    pub delta: Option<f64>,
    pub canaries: Option<AuditReport>,
}

#[derive(Clone)]
enum Subject {
    Rows(Arc<Resident>),
    Lines { before: Arc<Language>, after: Arc<Language>, spec: Box<TuneSpec> },
}

/// A file, and its folder with its name in it.
#[derive(Clone)]
struct Place {
    file: KeyedPath,
    folder: KeyedPath,
    name: String,
}

/// An audit that the model and both files allow.
pub struct Plan {
    subject: Subject,
    members: Place,
    others: Place,
    engine: Engine,
    ledger: Arc<Ledger>,
    payer: Payer,
}

impl Plan {
    /// Loads the model and reads both files as it reads its training data.
    ///
    /// # Errors
    /// A model of another project, one whose rows have no loss of their own, files that are none of its data.
    pub async fn new(service: &Arc<Service>, payer: &Payer, asked: Asked) -> Result<Self, ServiceError> {
        let project = &payer.project;
        let version = service.own(project, &asked.model).await?;
        let subject = match language::is_imported(&version) {
            false => Subject::Rows(service.resident(project, &asked.model).await?),
            true => {
                let after = service.language(project, &asked.model).await?;
                let before = before(service, payer, &after).await?;
                let spec = Box::new(tuned(&after)?.spec.clone());
                Subject::Lines { before, after, spec }
            }
        };
        crate::rates::admit_passes()?;
        let mut places = Vec::new();
        for (param, id) in [("members", &asked.members), ("others", &asked.others)] {
            let file = files::named(service.store(), project, param, id).await?;
            if file.bytes > limits::ROBUSTNESS_FILE_BYTES_MAX {
                return Err(ServiceError::TooLarge { bytes_max: limits::ROBUSTNESS_FILE_BYTES_MAX });
            }
            let place = files::open(service.store(), project, param, id).await?;
            let root = service.store().layout().data_files();
            let Ok(name) = place.path().strip_prefix(&root).map(|name| name.display().to_string()) else {
                return Err(ServiceError::internal("a file lies elsewhere", "bug"));
            };
            let folder = lyceum_store::data_files::folder(service.store(), project, &root)?;
            let place = Place { file: place, folder, name };
            let n = subject.n_rows(&place, (param, &file.name)).await?;
            if !(2..=limits::ROBUSTNESS_ROWS_MAX).contains(&n) {
                let most = limits::ROBUSTNESS_ROWS_MAX;
                let message = format!("{param}: {n} rows are not between 2 and {most}");
                return Err(ServiceError::invalid(param, "invalid_value", message));
            }
            places.push(place);
        }
        let (Some(others), Some(members)) = (places.pop(), places.pop()) else {
            return Err(ServiceError::internal("an audit has no files", "bug"));
        };
        let (engine, ledger) = (service.engine().clone(), service.ledger().clone());
        Ok(Plan { subject, members, others, engine, ledger, payer: payer.clone() })
    }

    /// `name@3`
    pub fn model(&self) -> String {
        self.subject.version().id()
    }

    /// Runs both files through the model. Dropping the future ends it at its next pass.
    ///
    /// # Errors
    /// The deadline, a budget that is used up, or a fault of ours.
    pub async fn carry_out(self) -> Result<Audit, ServiceError> {
        let most = Counts { passes: PASSES_COVERED, ..Counts::default() };
        let version = self.subject.version().clone();
        let Plan { subject, members, others, engine, ledger, payer } = self;
        metered_as_it_goes(&ledger, &payer, &version, most, |share| {
            in_turns(&engine, (share, 0), move |control| subject.audit(&members, &others, control))
        })
        .await
    }
}

impl Subject {
    fn version(&self) -> &Version {
        match self {
            Subject::Rows(resident) => &resident.version,
            Subject::Lines { after, .. } => &after.version,
        }
    }

    /// How many rows a file has, read by what the run reads it with.
    async fn n_rows(
        &self,
        place: &Place,
        (param, name): (&'static str, &str),
    ) -> Result<usize, ServiceError> {
        let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
        let shown = [place.file.display().to_string(), place.name.clone()];
        let (subject, place) = (self.clone(), place.clone());
        let read = tokio::task::spawn_blocking(move || subject.rows_of(&place, &control)).await;
        let read = read.map_err(|error| ServiceError::internal("reading rows broke off", error))?;
        read.map_err(|error| match failed(param, error) {
            ServiceError::Invalid { param, code, message } => {
                let message = shown.iter().fold(message, |message, shown| message.replace(shown, name));
                ServiceError::Invalid { param, code, message }
            }
            other => other,
        })
    }

    fn rows_of(&self, place: &Place, control: &Control) -> Result<usize, TrainError> {
        match self {
            Subject::Rows(resident) => {
                let spec = &resident.manifest.spec;
                let data = data::load_eval(&resident.preparation, spec, &place.file, control)?;
                if !measure::has_losses(&data) {
                    let message = "its rows have no answers (labels, values), and so no losses";
                    return Err(TrainError::Spec(message.to_owned()));
                }
                Ok(data.len())
            }
            Subject::Lines { before, after, spec } => {
                let now = Timestamp::now().seconds();
                let n = |language: &Language| {
                    let side = side(language, now);
                    Ok(lines_of(spec, &place.name, &side, &place.folder, control)?.train.len())
                };
                n(before)?;
                n(after)
            }
        }
    }

    fn audit(&self, members: &Place, others: &Place, control: &Control) -> Result<Audit, ServiceError> {
        let by = |a: &[f64], b: &[f64]| {
            attack(a, b, &FPRS)
                .map_err(|error| ServiceError::invalid("members", "invalid_value", error.to_string()))
        };
        match self {
            Subject::Rows(resident) => {
                let of = |param, place: &Place| {
                    of_rows(resident, &place.file, control).map_err(|error| failed(param, error))
                };
                let (members, others) = (of("members", members)?, of("others", others)?);
                let found = by(&members, &others)?;
                let claimed = resident.manifest.privacy.as_ref();
                Ok(self.told("loss", (found, None), [members.len(), others.len()], claimed))
            }
            Subject::Lines { before, after, spec } => {
                let of = |param, place: &Place| {
                    let file = (place.folder.clone(), &*place.name);
                    of_lines(spec, file, (before, after), control).map_err(|error| failed(param, error))
                };
                let (members, others) = (of("members", members)?, of("others", others)?);
                let column =
                    |rows: &[[f64; 2]], i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f64>>();
                let found = by(&column(&members, 0), &column(&others, 0))?;
                let by_loss = by(&column(&members, 1), &column(&others, 1))?;
                let claimed = after.manifest.privacy.as_ref();
                let n = [members.len(), others.len()];
                Ok(self.told("loss_over_base", (found, Some(by_loss)), n, claimed))
            }
        }
    }

    fn told(
        &self,
        attack: &'static str,
        (found, by_loss): (Attack, Option<Attack>),
        [n_members, n_others]: [usize; 2],
        claimed: Option<&PrivacyReport>,
    ) -> Audit {
        Audit {
            model: self.version().id(),
            sha256: self.version().sha256.clone(),
            attack,
            found,
            by_loss,
            n_members,
            n_others,
            epsilon_claimed: claimed.and_then(|report| report.epsilon),
            delta: claimed.map(|report| report.delta),
            canaries: claimed.and_then(|report| report.audit.clone()),
        }
    }
}

/// What a manifest says of a fine-tuning whose lines have losses.
///
/// # Errors
/// It was not fine-tuned here, or learnt preferences.
pub fn tuned(after: &Language) -> Result<&TunedReport, ServiceError> {
    let id = after.version.id();
    let why = match &after.manifest.tuned {
        Some(tuned) if tuned.spec.method == Method::Supervised => return Ok(tuned),
        Some(_) => "it learnt preferences, whose lines have no loss of their own",
        None => "it was not fine-tuned here, so that nothing is known of its lines",
    };
    let message = format!("{id} cannot be audited: {why}");
    Err(ServiceError::unsupported("model", "unsupported_model", message))
}

/// What a tuned model was tuned from, loaded.
async fn before(service: &Service, payer: &Payer, after: &Language) -> Result<Arc<Language>, ServiceError> {
    let tuned = tuned(after)?;
    let reference =
        tuned.base.model.parse().map_err(|error| ServiceError::internal("a base has no name", error))?;
    let before = service.language(&payer.project, &reference).await?;
    if before.version.sha256 != tuned.base.sha256 {
        let message = format!(
            "{} is not the model any more that {} was tuned from",
            tuned.base.model,
            after.version.id()
        );
        return Err(ServiceError::Refused { code: "base_changed", message });
    }
    Ok(before)
}

/// Less the loss of each row.
///
/// # Errors
/// A file that is none of the model's data, rows without answers, the end of the time.
pub fn of_rows(
    resident: &Resident,
    file: impl Into<KeyedPath>,
    control: &Control,
) -> Result<Vec<f64>, TrainError> {
    let file = file.into();
    let data = data::load_eval(&resident.preparation, &resident.manifest.spec, &file, control)?;
    let losses = measure::row_losses(&resident.model, &data, control)?;
    Ok(losses.into_iter().map(|loss| -loss).collect())
}

/// Of each line: the loss before less the loss after, and less the loss after.
///
/// # Errors
/// A file that is no lines of training, the end of the time.
pub fn of_lines(
    spec: &TuneSpec,
    (folder, file): (KeyedPath, &str),
    (before, after): (&Language, &Language),
    control: &Control,
) -> Result<Vec<[f64; 2]>, TrainError> {
    let now = Timestamp::now().seconds();
    let (before, after) = (side(before, now), side(after, now));
    let losses = |side| on_lines(spec, file, (side, side), &folder, control);
    let (first, last) = (losses(&before)?, losses(&after)?);
    Ok(first.rows().iter().zip(last.rows()).map(|(before, after)| [before - after, -after]).collect())
}

fn side(language: &Language, now: i64) -> Base<'_> {
    let words = &language.words;
    Base {
        model: (*language.model).clone(),
        adapter: language.added.as_ref().map(|added| added.adapter.clone()),
        words: Words { tokenizer: &words.tokenizer, template: words.template.as_ref(), now },
        id: language.version.id(),
        sha256: language.version.sha256.clone(),
    }
}

/// What is wrong with a file, as the field that named it tells it.
fn failed(param: &'static str, error: TrainError) -> ServiceError {
    match error {
        TrainError::Stopped { .. } | TrainError::Data(DataError::Stopped(_)) => ServiceError::DeadlinePassed,
        TrainError::Data(error @ DataError::Report(_)) => {
            ServiceError::invalid(param, "invalid_data", error.to_string())
        }
        TrainError::Spec(why) => ServiceError::invalid(param, "invalid_data", format!("{param}: {why}")),
        error => ServiceError::internal("an audit broke off", error),
    }
}
