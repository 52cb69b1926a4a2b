//! Cascades: a small model answers where its prediction set has one label, else the question goes to a large one
//! ([`lyceum_robust::cascade`] says what that guarantees and proves it).
//!
//! A cascade is a version without weights of its own. Its members are named by number and by the hashes of their weights
//! and manifests, and asked through [`crate::decisions`] like by anybody else: with their permissions, limits and prices.
//! So a member may be a classifier of any family or an imported language model, and what was calibrated is what is served.
//!
//! Reading order: this file (what is stored), [`plan`] (calibration, measuring, publishing), [`rows`], and [`decide`]
//! (one question at a time).

pub(crate) mod decide;
mod measure;
pub mod plan;
mod rows;

pub(crate) use plan::parts;
pub use plan::{Ask, Choices, Created, Plan, Source};

use crate::{Payer, Service, ServiceError, decisions, registry};
use lyceum_engine::EngineError;
use lyceum_robust::conformal::{Score, Sets};
use lyceum_store::layout::MANIFEST;
use lyceum_store::ledger::Counts;
use lyceum_store::models::{self, Version};
use lyceum_types::cascade::{
    Cascade, CascadeManifest, CascadeQuestion, DEFINITION, FAMILY, Member, Threshold,
};
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::FORMAT_VERSION;
use lyceum_types::spec::ModelSpec;
use sha2::{Digest, Sha256};

/// Whether a version is a cascade.
pub fn is_cascade(version: &Version) -> bool {
    version.family == FAMILY
}

/// A cascade where a model with weights is wanted.
pub(crate) fn refused(version: &Version) -> ServiceError {
    let message =
        format!("{} is a cascade: ask it with POST /v1/decisions, or one of its members here", version.id());
    ServiceError::unsupported("model", "unsupported_model", message)
}

type Why = Box<dyn std::error::Error + Send + Sync>;

/// What is stored of a cascade; every byte is held to its hash.
///
/// # Errors
/// Files that are missing or damaged.
pub fn read(version: &Version) -> Result<(CascadeManifest, Cascade), ServiceError> {
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let file = |name: &str| version.dir.join(name).read().map_err(|error| damaged(error.into()));
    let text = file(MANIFEST)?;
    models::check_manifest(&version.dir, &text).map_err(|error| damaged(error.into()))?;
    let manifest: CascadeManifest = serde_json::from_slice(&text).map_err(|error| damaged(error.into()))?;
    if manifest.format_version > FORMAT_VERSION {
        return Err(damaged(format!("its manifest has format {}", manifest.format_version).into()));
    }
    let definition = file(DEFINITION)?;
    let found = hexadecimal(&Sha256::digest(&definition));
    if found != version.sha256 || found != manifest.definition_sha256 {
        let why = format!("{DEFINITION}: its sha256 is {found}, registered was {}", version.sha256);
        return Err(damaged(why.into()));
    }
    let cascade = serde_json::from_slice(&definition).map_err(|error| damaged(error.into()))?;
    Ok((manifest, cascade))
}

/// The member as it is now, if the project may ask it and it still is what was calibrated.
///
/// # Errors
/// It is gone, may not be asked, or is another one: then which.
pub(crate) async fn member(
    service: &Service,
    project: &Project,
    member: &Member,
) -> Result<(ModelRef, Version), ServiceError> {
    let reference: ModelRef = member.model.parse().map_err(|error| {
        ServiceError::internal("a cascade names its members", format!("{}: {error}", member.model))
    })?;
    let version = match service.resolve(project, &reference).await {
        Err(ServiceError::ModelNotFound { id }) => {
            let message = format!("its member {id} is not there any more: make the cascade again");
            return Err(ServiceError::Conflict { code: "cascade_member_missing", message });
        }
        other => other?,
    };
    let now = described(service, &version).await?;
    if now != *member {
        let message = format!(
            "its member {} is not the one that was calibrated (weights {}, then {}): make the cascade again",
            member.model, now.sha256, member.sha256
        );
        return Err(ServiceError::Conflict { code: "cascade_member_changed", message });
    }
    Ok((reference, version))
}

/// A version as a cascade names it.
pub(crate) async fn described(service: &Service, version: &Version) -> Result<Member, ServiceError> {
    use crate::language::adapter;
    let base_sha256 = match adapter::is_adapter(version) {
        true => Some(adapter::base_of(service.store(), version).await?.sha256),
        false => None,
    };
    let path = version.dir.join(MANIFEST);
    let text = path.read().map_err(|error| ServiceError::Damaged {
        id: version.id(),
        source: format!("{}: {error}", path.display()).into(),
    })?;
    Ok(Member {
        model: version.id(),
        family: version.family.clone(),
        sha256: version.sha256.clone(),
        manifest_sha256: hexadecimal(&Sha256::digest(&text)),
        base_sha256,
    })
}

/// A cascade among these of which the version is a member.
pub(crate) fn of_member<'a>(version: &Version, among: &[&'a Version]) -> Option<&'a Version> {
    among.iter().copied().filter(|other| is_cascade(other)).find(|cascade| {
        // One that cannot be read has no member that it could lose.
        read(cascade).is_ok_and(|(_, cascade)| {
            [&cascade.small, &cascade.large].iter().any(|member| member.model == version.id())
        })
    })
}

/// What a cascade was made of.
pub(crate) fn origin(
    version: &Version,
) -> Result<(Vec<registry::Source>, Vec<registry::Parent>), ServiceError> {
    let (manifest, cascade) = read(version)?;
    let source = |file: lyceum_types::manifest::DataFile| registry::Source {
        role: file.role,
        path: file.path,
        sha256: file.sha256,
        rows: Some(file.rows),
    };
    let parent = |member: Member| registry::Parent { id: member.model, weights_sha256: member.sha256 };
    let mut data = vec![source(cascade.calibration.file)];
    if data[0].sha256 != manifest.report.held_out.sha256 {
        data.push(source(manifest.report.held_out));
    }
    Ok((data, vec![parent(cascade.small), parent(cascade.large)]))
}

/// Whether what it answers depends on how it is asked: a classifier that was trained here knows its labels and no words.
pub(crate) fn reads_words(member: &Member) -> bool {
    !ModelSpec::FAMILIES.contains(&member.family.as_str())
}

/// What a member says of one input.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Of the question's labels, in their order.
    pub probabilities: Vec<f64>,
    pub counts: Counts,
}

impl Said {
    /// The place of the likeliest label.
    pub fn best(&self) -> usize {
        crate::predict::argmax(&self.probabilities)
    }
}

/// Asks a member the cascade's question about an input, as anybody would.
pub(crate) async fn ask(
    service: &Service,
    payer: &Payer,
    member: &ModelRef,
    input: &crate::Content,
    question: &CascadeQuestion,
) -> Result<Said, ServiceError> {
    use decisions::{Answer, ChoiceValue, Kind, Question, Request};
    let choices = question.labels.iter().cloned().map(ChoiceValue::Text).collect();
    let question = Question {
        name: None,
        instructions: question.instructions.clone(),
        kind: Kind::Choice(choices),
        descriptions: question.descriptions.clone(),
    };
    let request = Request {
        model: member.clone(),
        input: input.clone(),
        questions: vec![question],
        explain: None,
        explained: None,
        promises: crate::robustness::Promises::default(),
    };
    // A decision of a cascade asks for decisions of its members, which are none.
    let mut decision = Box::pin(decisions::create(service, payer, request)).await?;
    let Some((_, Answer::Choice { probabilities, .. })) = decision.answers.pop() else {
        return Err(ServiceError::internal("a choice is answered by a choice", EngineError::Stopped));
    };
    let counts = Counts {
        input_tokens: decision.input_tokens,
        cached_tokens: decision.cached_tokens,
        ..Counts::default()
    };
    Ok(Said { probabilities: probabilities.into_iter().map(|(_, p)| p).collect(), counts })
}

/// The sets of a stored threshold.
pub(crate) fn sets(threshold: &Threshold) -> Sets {
    Sets {
        score: Score::Lac,
        alpha: threshold.alpha,
        n_calibration: threshold.n as usize,
        threshold: Some(threshold.threshold),
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
