//! Whether a card is genuine, whether the version's files are those that it speaks of, and whether what is cheap to
//! compute again comes out the same.

use super::promises::epsilon_again;
use super::seal::{Signed, Signer};
use super::subject::{Reader, Subject};
use super::{blocking, gather};
use crate::resident::Resident;
use crate::robustness::calibration::{Calibration, Truth};
use crate::{Service, ServiceError};
use lyceum_models::answer::likeliest;
use lyceum_models::prepare::OutputPreparation;
use lyceum_store::evidence::{self, Kept};
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::{self, Version};
use lyceum_types::card::{FORMAT_VERSION, Part};
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::PrivacyReport;
use serde_json::Value;

/// The largest difference of a number that was computed again, relative to the larger of 1 and the number.
const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// `name@3`
    pub model: String,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Passed,
    Failed,
    NotEvaluated,
}

impl Verification {
    /// Nothing failed, and the signature was checked.
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.state != State::Failed)
    }

    fn say(&mut self, name: &'static str, found: Result<String, String>) {
        let (state, detail) = match found {
            Ok(detail) => (State::Passed, detail),
            Err(detail) => (State::Failed, detail),
        };
        self.checks.push(Check { name, state, detail });
    }

    fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        self.checks.push(Check { name, state: State::NotEvaluated, detail: why.into() });
    }
}

/// Checks `given`, or the card that was issued last, against the version's files. What does not hold is in the
/// answer, not an error.
///
/// # Errors
/// A model that is not there, one that has no card yet, or a disk that cannot be read.
pub async fn verify(
    service: &Service,
    project: &Project,
    model: &ModelRef,
    given: Option<Value>,
) -> Result<Verification, ServiceError> {
    let version = service.own(project, model).await?;
    let layout = service.store().layout().clone();
    let reader = Reader::of(service, project, model, &version).await?;
    let signed = match given {
        Some(document) => Signed::of_value(document),
        None => match evidence::card(service.store(), &version).await? {
            Some(bytes) => Signed::parse(&bytes),
            None => {
                let id = format!("{} (no card was issued yet)", version.id());
                return Err(ServiceError::NotFound { what: "card", id });
            }
        },
    };
    // A card names it, and it is read where it lies.
    evidence::have(service.store(), &version).await?;
    let kept = evidence::all(service.store(), &version).await.map_err(ServiceError::from);
    let work = move || {
        let mut found = Verification { model: version.id(), checks: Vec::new() };
        match signed {
            Ok(signed) => check((&version, reader, kept), &signed, &Signer::of(&layout)?, &mut found),
            Err(why) => found.say("readable", Err(format!("it is no card: {why}"))),
        }
        Ok(found)
    };
    blocking(work).await
}

fn check(
    (version, reader, kept): (&Version, Reader, Result<Vec<Kept>, ServiceError>),
    signed: &Signed,
    signer: &Signer,
    found: &mut Verification,
) {
    let card = &signed.card;
    found.say(
        "format",
        match card.format_version <= FORMAT_VERSION {
            true => Ok(format!("format {}", card.format_version)),
            false => Err(format!("format {} is newer than this program knows", card.format_version)),
        },
    );
    found.say("signature", signed.check().map(|()| "it is the signature of these words".into()));
    found.say(
        "key",
        match card.signed_by.public_key == signer.public_key() {
            true => Ok("signed with this data folder's key".into()),
            false => Err("signed with another key than this data folder's".into()),
        },
    );
    found.say(
        "model",
        match card.model == version.id() {
            true => Ok(card.model.clone()),
            false => Err(format!("the card is about {}, not {}", card.model, version.id())),
        },
    );
    files(version, signed, found);
    // Reads every byte again: manifest and weights against their hashes, the model against its probes.
    match reader.read(version.clone()) {
        Ok(subject) => {
            let said = match &subject {
                Subject::Trained(_) => "hashes agree, and the recorded outputs come out",
                Subject::Imported(_) => "hashes agree, and it opens as it is served",
            };
            found.say("weights and probes", Ok(said.into()));
            contents(&subject, kept, signed, found);
            match &subject {
                Subject::Trained(resident) => again(resident, signed, found),
                Subject::Imported(imported) => {
                    for name in ["calibration", "validation accuracy"] {
                        found.skip(name, "the card of an imported or fine-tuned model has none");
                    }
                    epsilon(imported.language.manifest.privacy.as_ref(), signed, found);
                }
            }
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            found.say("weights and probes", Err(format!("{error}{cause}")));
            for name in ["contents", "calibration", "validation accuracy", "epsilon"] {
                found.skip(name, "the version cannot be loaded");
            }
        }
    }
}

/// Every file whose hash the card names.
fn files(version: &Version, signed: &Signed, found: &mut Verification) {
    let identity = &signed.card.sections.of(Part::Identity).facts;
    let mut n = 0;
    let mut wrong = Vec::new();
    for fact in identity {
        let file = match fact.name.strip_suffix(" sha256") {
            Some("weights") => "model.safetensors",
            Some(file) if !file.contains(['/', '\\']) => file,
            _ => continue,
        };
        n += 1;
        let said = fact.value.split_whitespace().next().unwrap_or_default();
        match crate::language::import::hash_of(version.dir.join(file)) {
            Ok(sha256) if sha256 == said => {}
            Ok(_) => wrong.push(format!("{file} is not the file that the card speaks of")),
            Err(error) => wrong.push(format!("{file}: {error}")),
        }
    }
    let manifest =
        version.dir.join(MANIFEST).read().map_err(|error| error.to_string()).and_then(|bytes| {
            models::check_manifest(&version.dir, &bytes).map_err(|error| error.to_string())
        });
    if let Err(why) = manifest {
        wrong.push(format!("{MANIFEST}: {why}"));
    }
    found.say(
        "files",
        if wrong.is_empty() {
            Ok(format!("{n} hashes and the manifest's agree"))
        } else {
            Err(wrong.join("; "))
        },
    );
}

/// Whether the card says what is known now.
fn contents(
    subject: &Subject,
    kept: Result<Vec<Kept>, ServiceError>,
    signed: &Signed,
    found: &mut Verification,
) {
    let said = &signed.card.sections;
    match kept.and_then(|kept| gather(subject, subject.version().held.as_deref(), kept)) {
        Ok(now) if now == *said => found.say("contents", Ok("the card says what is known now".into())),
        Ok(now) => {
            let differ: Vec<&str> =
                Part::ALL.iter().filter(|&&p| now.of(p) != said.of(p)).map(|p| p.title()).collect();
            let why = format!("other things are known now than the card says: {}", differ.join(", "));
            found.say("contents", Err(why));
        }
        Err(error) => found.say("contents", Err(error.to_string())),
    }
}

/// What is cheap to compute again.
fn again(resident: &Resident, signed: &Signed, found: &mut Verification) {
    let kept = Calibration::of(resident).ok();
    let labels = match (&resident.preparation.output, &kept) {
        (OutputPreparation::Labels { names }, Some(Calibration { logits, truth: Truth::Labels(labels) })) => {
            Some((names.len(), logits, labels))
        }
        _ => None,
    };
    match (labels, number(signed, Part::Calibration, "ece")) {
        (Some((n_classes, logits, labels)), Some(said)) => {
            let p = lyceum_robust::calibrate::probabilities(logits, n_classes, 1.0);
            let bins = lyceum_robust::calibrate::BINS;
            let table = lyceum_robust::calibrate::reliability(&p, n_classes, labels, bins);
            found
                .say("calibration", table.map_err(|error| error.to_string()).and_then(|t| near(said, t.ece)));
        }
        _ => found.skip("calibration", "the card has none"),
    }
    match (labels, number(signed, Part::Quality, "valid_accuracy")) {
        (Some((n_classes, logits, labels)), Some(said)) => {
            let rows = logits.chunks_exact(n_classes).zip(labels);
            let right = rows.filter(|(row, label)| likeliest(row) == **label).count();
            found.say("validation accuracy", near(said, right as f64 / labels.len().max(1) as f64));
        }
        _ => found.skip("validation accuracy", "the version keeps no outputs with labels"),
    }
    epsilon(resident.manifest.privacy.as_ref(), signed, found);
}

fn epsilon(report: Option<&PrivacyReport>, signed: &Signed, found: &mut Verification) {
    match (report, number(signed, Part::Privacy, "epsilon")) {
        (Some(report), Some(said)) => {
            found.say("epsilon", epsilon_again(report).and_then(|again| near(said, again)));
        }
        _ => found.skip("epsilon", "the card promises none"),
    }
}

/// What the card says of its model.
fn number(signed: &Signed, part: Part, name: &str) -> Option<f64> {
    let numbers = &signed.card.sections.of(part).numbers;
    numbers.iter().find(|n| n.name == name && n.of == signed.card.model).map(|n| n.value)
}

fn near(said: f64, again: f64) -> Result<String, String> {
    match (said - again).abs() <= TOLERANCE * said.abs().max(1.0) {
        true => Ok(format!("{again} again")),
        false => Err(format!("the card says {said}, computed again it is {again}")),
    }
}
