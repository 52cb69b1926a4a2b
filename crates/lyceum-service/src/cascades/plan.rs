//! From a request to a cascade: everything that can be refused without asking a model is refused in [`Plan::new`]; then
//! rows are asked, thresholds fitted, the held-out rows measured and the version published.

use super::measure::{self, Asked};
use super::rows::{self, Rows};
use super::{Said, ask, described, hexadecimal, is_cascade, read, reads_words};
use crate::{Payer, Service, ServiceError, decisions, language, registry};
use futures_util::{StreamExt, TryStreamExt};
use lyceum_robust::cascade;
use lyceum_robust::conformal::{Score, Sets, n_min, rank};
use lyceum_store::files::Staging;
use lyceum_store::models::{self, Made, NewVersion, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_types::cascade::{
    Cascade, CascadeKind, CascadeManifest, CascadeQuestion, CascadeRows, DEFINITION, Escalated, FAMILY,
    Member, Threshold,
};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, VersionRef};
use lyceum_types::limits;
use lyceum_types::manifest::{DataFile, FORMAT_VERSION};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that a member is asked at once where nothing is timed.
const AT_ONCE: usize = 8;

/// What is to become a cascade.
#[derive(Clone, Debug)]
pub struct Ask {
    pub name: ModelName,
    pub small: ModelRef,
    pub large: ModelRef,
    /// Labelled rows that no member was trained on.
    pub data: Source,
    /// Rows to measure on; None: a part of `data`.
    pub test: Option<Source>,
    /// The share of `data` that is held out where there is no `test`.
    pub held_out: f64,
    pub alpha: f64,
    /// The level of the large member's sets; None: the small one's.
    pub large_alpha: Option<f64>,
    pub escalated: Escalated,
    /// What a language model is asked.
    pub instructions: Option<String>,
    /// None: the labels of a member that was trained here.
    pub choices: Option<Choices>,
    pub seed: u64,
}

/// Labels with what they mean.
pub type Choices = Vec<(String, Option<String>)>;

/// A file with labelled rows.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: KeyedPath,
    /// What people call it.
    pub shown: String,
}

/// A cascade that these members and rows allow.
pub struct Plan {
    ask: Ask,
    payer: Payer,
    small: (ModelRef, Member),
    large: (ModelRef, Member),
    question: CascadeQuestion,
    calibration: Part,
    held_out: Part,
    disjoint: String,
}

/// Rows with the places of their labels among the question's.
struct Part {
    file: DataFile,
    rows: Vec<(crate::Content, u32)>,
}

/// What was published.
#[derive(Clone, Debug)]
pub struct Created {
    pub version: Version,
    pub manifest: CascadeManifest,
    pub cascade: Cascade,
}

impl Plan {
    /// # Errors
    /// A member that answers no questions or may not be asked, labels that differ, a file that is wrong, was trained on or
    /// has too few rows for the level.
    pub async fn new(service: &Service, payer: &Payer, ask: Ask) -> Result<Self, ServiceError> {
        check_numbers(&ask)?;
        let small = candidate(service, payer, "small", &ask.small).await?;
        let large = candidate(service, payer, "large", &ask.large).await?;
        if small.version.id() == large.version.id() {
            let message = format!("large: {} is the small member too", large.version.id());
            return Err(ServiceError::invalid("large", "invalid_value", message));
        }
        if [&small, &large].iter().any(|member| member.version.name == ask.name) {
            let message = "name: a member is called so, and its bare name would mean the cascade";
            return Err(ServiceError::invalid("name", "name_taken", message));
        }
        let question = question(&ask, [&small, &large])?;
        let read = |param, source: &Source| read_file(param, source.clone());
        let data = read("data", &ask.data).await?;
        let test = match &ask.test {
            Some(source) => Some(read("test", source).await?),
            None => None,
        };
        let disjoint = disjoint(service, [&small.version, &large.version], (&data, test.as_ref())).await?;
        let (calibration, held_out) = split(&ask, &question, data, test)?;
        let levels = [Some(ask.alpha), (ask.escalated != Escalated::Answer).then(|| large_alpha(&ask))];
        for alpha in levels.into_iter().flatten() {
            let n = calibration.rows.len();
            if n < n_min(alpha) {
                let message = format!(
                    "data: {n} calibration rows are too few for alpha = {alpha}: give at least {}, or a larger alpha",
                    n_min(alpha)
                );
                return Err(ServiceError::invalid("data", "too_few_rows", message));
            }
        }
        let reference = |version: &Version| ModelRef {
            name: version.name.clone(),
            version: VersionRef::Number(version.number),
        };
        Ok(Plan {
            small: (reference(&small.version), small.member),
            large: (reference(&large.version), large.member),
            payer: payer.clone(),
            question,
            calibration,
            held_out,
            disjoint,
            ask,
        })
    }

    /// The members, `name@3` each, and how many rows calibrate and are held out.
    pub fn shown(&self) -> (&str, &str, usize, usize) {
        let (small, large) = (&self.small.1.model, &self.large.1.model);
        (small, large, self.calibration.rows.len(), self.held_out.rows.len())
    }

    /// Asks, fits, measures and publishes; dropped, it has published nothing.
    ///
    /// # Errors
    /// What a member answers instead, a member that went meanwhile, the disk.
    pub async fn carry_out(self, service: &Arc<Service>, control: &Control) -> Result<Created, ServiceError> {
        let small_set = self.fit(service, &self.small.0, self.ask.alpha, control).await?;
        let large_set = match self.ask.escalated {
            Escalated::Answer => None,
            _ => Some(self.fit(service, &self.large.0, large_alpha(&self.ask), control).await?),
        };
        let cascade = Cascade {
            small: self.small.1.clone(),
            large: self.large.1.clone(),
            question: self.question.clone(),
            small_set,
            large_set,
            escalated: self.ask.escalated,
            calibration: CascadeRows {
                file: self.calibration.file.clone(),
                n: self.calibration.rows.len() as u64,
                seed: self.ask.seed,
                disjoint: self.disjoint.clone(),
            },
        };
        let mut asked = Vec::with_capacity(self.held_out.rows.len());
        for (input, truth) in &self.held_out.rows {
            control.check().map_err(|_| stopped())?;
            let small = self.timed(service, &self.small.0, input).await?;
            let large = self.timed(service, &self.large.0, input).await?;
            asked.push(Asked { truth: *truth, small, large });
        }
        let prices = lyceum_store::ledger::prices::list(service.store()).await?;
        let report = measure::report(
            &cascade,
            &asked,
            self.held_out.file.clone(),
            &measure::Prices { list: &prices, project: &self.payer.project },
        )
        .map_err(crate::robustness::refused)?;
        self.publish(service, cascade, report).await
    }

    async fn fit(
        &self,
        service: &Arc<Service>,
        member: &ModelRef,
        alpha: f64,
        control: &Control,
    ) -> Result<Threshold, ServiceError> {
        let one = async |(input, _): &(crate::Content, u32)| {
            control.check().map_err(|_| stopped())?;
            ask(service, &self.payer, member, input, &self.question).await
        };
        let said: Vec<Said> = futures_util::stream::iter(&self.calibration.rows)
            .map(one)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let p: Vec<f64> = said.into_iter().flat_map(|said| said.probabilities).collect();
        let labels: Vec<u32> = self.calibration.rows.iter().map(|(_, label)| *label).collect();
        let Sets { threshold, n_calibration, .. } =
            cascade::fit(&p, self.question.labels.len(), &labels, alpha)
                .map_err(crate::robustness::refused)?;
        let threshold =
            threshold.ok_or_else(|| ServiceError::Uncomputable { message: "no threshold".into() })?;
        let rank = rank(n_calibration, alpha) as u64;
        Ok(Threshold { alpha, score: Score::Lac.name().into(), n: n_calibration as u64, rank, threshold })
    }

    async fn timed(
        &self,
        service: &Service,
        member: &ModelRef,
        input: &crate::Content,
    ) -> Result<(Said, f64), ServiceError> {
        let began = std::time::Instant::now();
        let said = ask(service, &self.payer, member, input, &self.question).await?;
        Ok((said, began.elapsed().as_secs_f64()))
    }

    async fn publish(
        self,
        service: &Arc<Service>,
        cascade: Cascade,
        report: lyceum_types::cascade::CascadeReport,
    ) -> Result<Created, ServiceError> {
        let (store, project) = (service.store(), &self.payer.project);
        // A member may have gone while rows were asked.
        super::member(service, project, &cascade.small).await?;
        super::member(service, project, &cascade.large).await?;
        let definition = serde_json::to_vec_pretty(&cascade).expect("a cascade is plain data: bug");
        let sha256 = hexadecimal(&Sha256::digest(&definition));
        let staging = Staging::of(store, project)?;
        staging
            .place()
            .join(DEFINITION)
            .write(&definition)
            .map_err(|error| ServiceError::internal("writing a cascade failed", error))?;
        let act = self.payer.act(Timestamp::now());
        let new = NewVersion {
            name: self.ask.name.clone(),
            family: FAMILY.into(),
            task: "classification".into(),
            n_params: 0,
            bytes: definition.len() as u64,
            sha256: sha256.clone(),
            job: None,
            held: None,
        };
        let mut manifest = CascadeManifest {
            format_version: FORMAT_VERSION,
            kind: CascadeKind::Cascade,
            name: self.ask.name.to_string(),
            version: 0,
            created: act.now.seconds().max(0) as u64,
            definition_sha256: sha256.clone(),
            files: BTreeMap::from([(DEFINITION.to_owned(), sha256)]),
            report,
        };
        let write = |number| {
            manifest.version = number;
            serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
        };
        let made = Made::Cascade { small: cascade.small.model.clone(), large: cascade.large.model.clone() };
        let version = models::publish_made(store, project, new, staging, write, (made, &act)).await?;
        let (manifest, cascade) = read(&version)?;
        Ok(Created { version, manifest, cascade })
    }
}

fn large_alpha(ask: &Ask) -> f64 {
    ask.large_alpha.unwrap_or(ask.alpha)
}

fn check_numbers(ask: &Ask) -> Result<(), ServiceError> {
    let open = |name: &'static str, value: f64| match value > 0.0 && value < 1.0 {
        true => Ok(()),
        false => {
            let message = format!("{name}: {value} is not between 0 and 1");
            Err(ServiceError::invalid(name, "invalid_value", message))
        }
    };
    open("alpha", ask.alpha)?;
    open("held_out", ask.held_out)?;
    match (ask.large_alpha, ask.escalated) {
        (Some(_), Escalated::Answer) => {
            let message = "large_alpha: an escalated answer has no set; ask for \"set\" or \"abstain\"";
            Err(ServiceError::invalid("large_alpha", "invalid_value", message))
        }
        (Some(alpha), _) => open("large_alpha", alpha),
        (None, _) => Ok(()),
    }
}

/// A model that may become a member.
struct Candidate {
    version: Version,
    member: Member,
    /// Of a classifier that was trained here.
    labels: Option<Vec<String>>,
}

async fn candidate(
    service: &Service,
    payer: &Payer,
    param: &'static str,
    reference: &ModelRef,
) -> Result<Candidate, ServiceError> {
    let project = &payer.project;
    let version = service.resolve(project, reference).await?;
    let refuse = |why: &str| {
        let message = format!("{param}: {} {why}", version.id());
        Err(ServiceError::unsupported(param, "unsupported_model", message))
    };
    if is_cascade(&version) {
        return refuse("is a cascade itself: name its members");
    }
    let labels = if language::is_imported(&version) {
        if !language::read_manifest(&version)?.kind.speaks() {
            return refuse("is an imported encoder: members answer /v1/decisions, and it does not");
        }
        None
    } else {
        use lyceum_models::prepare::OutputPreparation;
        let resident = service.resident(project, reference).await?;
        match &resident.preparation.output {
            OutputPreparation::Labels { names } => Some(names.clone()),
            _ => return refuse("is not a classifier: decisions need labels"),
        }
    };
    let member = described(service, &version).await?;
    Ok(Candidate { version, member, labels })
}

/// The one question: labels of a member that was trained here, or those that are given.
fn question(ask: &Ask, members: [&Candidate; 2]) -> Result<CascadeQuestion, ServiceError> {
    let own = members.iter().find_map(|member| member.labels.clone());
    let choices: Choices = match (&ask.choices, own) {
        (Some(choices), _) => choices.clone(),
        (None, Some(labels)) => labels.into_iter().map(|label| (label, None)).collect(),
        (None, None) => {
            let message = "choices: language models have no labels of their own: name those of the question";
            return Err(ServiceError::invalid("choices", "missing_value", message));
        }
    };
    let n = choices.len();
    if !(2..=limits::CHOICES_OF_QUESTION_MAX).contains(&n) {
        let message = format!("choices: {n} are not between 2 and {}", limits::CHOICES_OF_QUESTION_MAX);
        return Err(ServiceError::invalid("choices", "invalid_value", message));
    }
    let (labels, descriptions): (Vec<String>, Vec<Option<String>>) = choices.into_iter().unzip();
    let named: Vec<&str> = labels.iter().map(String::as_str).collect();
    for member in members {
        if let Some(own) = &member.labels {
            decisions::places("choices", &named, own)?;
        }
    }
    let instructions = match &ask.instructions {
        Some(words) if !words.trim().is_empty() => words.trim().to_owned(),
        _ if members.iter().any(|member| reads_words(&member.member)) => {
            let message = "instructions: a language model is a member: say what it is asked";
            return Err(ServiceError::invalid("instructions", "missing_value", message));
        }
        _ => String::new(),
    };
    Ok(CascadeQuestion { instructions, labels, descriptions })
}

async fn read_file(param: &'static str, source: Source) -> Result<Rows, ServiceError> {
    let work = move || {
        let shown = source.shown;
        let found = |error: std::io::Error| {
            let message = format!("{param}: {shown} cannot be read: {error}");
            ServiceError::invalid(param, "unreadable_file", message)
        };
        let bytes = source.path.n_bytes().map_err(found)?;
        if bytes > limits::CASCADE_FILE_BYTES_MAX {
            return Err(ServiceError::TooLarge { bytes_max: limits::CASCADE_FILE_BYTES_MAX });
        }
        rows::read(param, &source.path.read().map_err(found)?, &shown)
    };
    let read = tokio::task::spawn_blocking(work).await;
    read.map_err(|error| ServiceError::internal("reading rows broke off", error))?
}

/// Refuses files that a member is known to be trained on, and says what could not be checked.
async fn disjoint(
    service: &Service,
    members: [&Version; 2],
    (data, test): (&Rows, Option<&Rows>),
) -> Result<String, ServiceError> {
    let (mut known, mut unknown) = (0, Vec::new());
    let files = [("data", Some(data)), ("test", test)];
    for version in members {
        let mut all = vec![version.clone()];
        if language::adapter::is_adapter(version) {
            all.push(language::adapter::base_of(service.store(), version).await?);
        }
        for version in all {
            let (trained_on, _, imported_from) = registry::origin(&version)?;
            if imported_from.is_some() {
                unknown.push(version.id());
                continue;
            }
            for file in trained_on {
                known += 1;
                for (param, rows) in files {
                    if rows.is_some_and(|rows| rows.sha256 == file.sha256) {
                        let message = format!(
                            "{param}: {} has this file as its {} data: thresholds need rows that no member has seen",
                            version.id(),
                            file.role
                        );
                        return Err(ServiceError::invalid(param, "rows_were_trained_on", message));
                    }
                }
            }
        }
    }
    if test.is_some_and(|test| test.sha256 == data.sha256) {
        let message = "test: is the file that calibrates: held-out rows must be others";
        return Err(ServiceError::invalid("test", "rows_calibrate", message));
    }
    let mut said = format!(
        "whole files compared by sha256 with {known} files of the members' training: none is theirs; \
                            single rows were not compared"
    );
    if !unknown.is_empty() {
        said +=
            &format!("; what {} was trained on before it was imported is not known", unknown.join(" and "));
    }
    Ok(said)
}

fn split(
    ask: &Ask,
    question: &CascadeQuestion,
    data: Rows,
    test: Option<Rows>,
) -> Result<(Part, Part), ServiceError> {
    let file = |role: &str, source: &Source, rows: &Rows| DataFile {
        role: role.into(),
        path: source.shown.clone(),
        sha256: rows.sha256.clone(),
        rows: rows.labels.len() as u64,
    };
    let calibration_file = file("calibration", &ask.data, &data);
    let mut rows = labelled("data", question, data)?;
    if let (Some(test), Some(source)) = (test, &ask.test) {
        let held_out = Part { file: file("test", source, &test), rows: labelled("test", question, test)? };
        return Ok((Part { file: calibration_file, rows }, held_out));
    }
    let mut drawn: Vec<_> = rows.into_iter().map(Some).collect();
    let order = order(ask.seed, drawn.len() as u64).into_iter();
    rows = order.map(|i| drawn[i as usize].take().expect("each row has one place: bug")).collect();
    let n = ((rows.len() as f64 * ask.held_out).round() as usize).clamp(1, rows.len());
    let held_out = rows.split_off(rows.len() - n);
    let test_file = DataFile { role: "held_out".into(), ..calibration_file.clone() };
    Ok((Part { file: calibration_file, rows }, Part { file: test_file, rows: held_out }))
}

/// Rows of one file in the order in which they are drawn, so that two parts are exchangeable whatever the order of the file.
fn order(seed: u64, n: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..n).collect();
    order.sort_by_key(|i| -> [u8; 32] {
        Sha256::digest([seed.to_le_bytes(), i.to_le_bytes()].concat()).into()
    });
    order
}

/// Which rows of their files gave the thresholds, and which were held out.
pub(crate) fn parts(calibration: &CascadeRows, held_out: &DataFile) -> [Vec<u64>; 2] {
    if calibration.file.sha256 != held_out.sha256 {
        return [(0..calibration.file.rows).collect(), (0..held_out.rows).collect()];
    }
    let mut fitted = order(calibration.seed, calibration.file.rows);
    let measured = fitted.split_off((calibration.n as usize).min(fitted.len()));
    [fitted, measured]
}

fn labelled(
    param: &'static str,
    question: &CascadeQuestion,
    rows: Rows,
) -> Result<Vec<(crate::Content, u32)>, ServiceError> {
    let place = |(i, label): (usize, String)| {
        let found = question.labels.iter().position(|known| *known == label);
        found.map(|place| place as u32).ok_or_else(|| {
            let message =
                format!("{param}: row {i} has the label {label:?}, which is none of the question's");
            ServiceError::invalid(param, "unknown_label", message)
        })
    };
    let labels = rows.labels.into_iter().enumerate().map(place).collect::<Result<Vec<u32>, _>>()?;
    Ok(rows.inputs.into_iter().zip(labels).collect())
}

fn stopped() -> ServiceError {
    ServiceError::Refused {
        code: "stopped",
        message: "the work was ended before the cascade was made".into(),
    }
}
