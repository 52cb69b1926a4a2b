//! The accountability card of a version: filled from its manifest and from what was measured of it since, signed,
//! and checked again. How it looks as a page is not known here.
//!
//! Reading order: [`create`], `subject` (what a card is about), `sections` (what the manifest says; `imported` of models that
//! came from other programs' files and of fine-tunes), `promises` (calibration, privacy, explanation),
//! [`measured`] (what lands on later cards), [`seal`] (signature), [`verify`].

mod imported;
pub mod measured;
mod promises;
pub mod seal;
mod sections;
mod subject;
mod verify;

pub use verify::{Check, State, Verification, verify};

use crate::{Service, ServiceError};
use lyceum_store::evidence::{self, Kept};
use lyceum_store::layout::MANIFEST;
use lyceum_types::card::{Card, FORMAT_VERSION, OBJECT, Part, STATEMENT, Sections, SignedBy};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use seal::{Signed, Signer};
use sha2::{Digest, Sha256};
use subject::Subject;

/// The version's card. As long as nothing more is known, the card that was issued before is given again.
///
/// # Errors
/// A model that is not there or cannot be loaded, evidence that cannot be read.
pub async fn create(service: &Service, project: &Project, model: &ModelRef) -> Result<Signed, ServiceError> {
    // What is loaded may be older than a promotion.
    let held = service.own(project, model).await?.held;
    let subject = Subject::load(service, project, model).await?;
    let (store, version) = (service.store(), subject.version().clone());
    let kept = evidence::all(store, &version).await?;
    let last = evidence::card(store, &version).await?;
    let layout = store.layout().clone();
    let issue = move || {
        let signer = Signer::of(&layout)?;
        let sections = gather(&subject, held.as_deref(), kept)?;
        if let Some(last) = last
            && let Ok(signed) = Signed::parse(&last)
            && signed.card.sections == sections
            && signed.card.issued_by == program()
            && signed.is_signed_by(&signer)
        {
            return Ok((signed, false));
        }
        let signed = signer.sign(card(subject.version().id(), sections, &signer, Timestamp::now()))?;
        Ok((signed, true))
    };
    let (signed, is_new) = blocking(issue).await?;
    if is_new {
        evidence::write_card(store, &version, signed.to_json().as_bytes()).await?;
    }
    Ok(signed)
}

fn card(model: String, sections: Sections, signer: &Signer, now: Timestamp) -> Card {
    Card {
        object: OBJECT.into(),
        format_version: FORMAT_VERSION,
        model,
        issued_at: now.date_time(),
        issued_by: program(),
        sections,
        signed_by: SignedBy {
            algorithm: "Ed25519".into(),
            public_key: signer.public_key(),
            over: "the canonical JSON (RFC 8785) of this object without its member `signature`".into(),
            statement: STATEMENT.into(),
        },
    }
}

fn program() -> String {
    format!("lyceum {}", env!("CARGO_PKG_VERSION"))
}

/// Everything that is known of a version now.
fn gather(subject: &Subject, held: Option<&str>, kept: Vec<Kept>) -> Result<Sections, ServiceError> {
    let mut sections = Sections::default();
    let version = subject.version();
    subject.fill(&mut sections)?;
    if let Some(why) = held {
        sections.identity.fact("held back by its gate", why);
    }
    let path = version.dir.join(MANIFEST);
    let manifest = path.read().map_err(|error| ServiceError::internal("reading a manifest failed", error))?;
    sections.identity.fact("manifest.json sha256", seal::hexadecimal(&Sha256::digest(&manifest)));
    let n_kept = kept.len();
    for found in kept {
        let is_ours = found.evidence.weights_sha256 == version.sha256;
        let use_it = if is_ours { "counted" } else { "of other weights: not counted" };
        let identity = &mut sections.identity;
        identity.fact(&format!("{} sha256", found.file), format!("{} ({use_it})", found.sha256));
        if is_ours {
            sections.of_mut(found.evidence.part).take(found.evidence.section);
        }
    }
    sections.identity.fact("measurements since training", n_kept.to_string());
    for part in [Part::Explainability, Part::Robustness, Part::Environments, Part::Cost] {
        subject.say_what_is_missing(part, sections.of_mut(part));
    }
    let problems = sections.problems();
    if problems.is_empty() {
        return Ok(sections);
    }
    Err(ServiceError::internal("a card would have been blank in places", problems.join("; ")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("a card broke off", error))?
}
