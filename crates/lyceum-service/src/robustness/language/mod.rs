//! Runs over an imported language model or an adapter: whether its words depend on where it runs ([`environments`]), and
//! whether its instructions keep what is confided to them ([`redteam`]); [`gate`] says whether that is enough.
//!
//! A [`Plan`] has judged everything that can be refused; carrying it out takes turns on the device as every robustness
//! run does, and pays for its passes: one for every sequence of a pass, be it a piece of a text or one token of an
//! answer. Findings hold numbers and never a text; transcripts of attacks that succeeded are rows of their own.

pub mod environments;
pub mod gate;
pub mod redteam;
mod texts;

pub use environments::{Environment, Environments, Weights, Writer};
pub use gate::{Bounds, Trial, Tried, Verdict};
pub use lyceum_nn::ops::cached_attention::KvStorage;
pub use lyceum_robust::redteam::Family;
pub use redteam::{Canary, Guards, OwnAttack, RedTeam, SECRET_CHARS_MIN, Transcript};
pub use texts::{Prompt, of_file};

use super::Finding;
use super::turns::{PASSES_COVERED, in_turns};
use crate::language::is_imported;
use crate::meter::{Counts, metered_as_it_goes};
use crate::{Language, Payer, Service, ServiceError};
use lyceum_store::models::Version;
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use std::sync::Arc;
use texts::Read;

/// One thing to be found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Environments(Environments),
    RedTeam(Box<RedTeam>),
}

impl Item {
    /// Whether it needs texts that the run is given.
    pub fn reads_texts(&self) -> bool {
        match self {
            Item::Environments(_) => true,
            Item::RedTeam(_) => false,
        }
    }
}

/// What a client asks for.
#[derive(Clone)]
pub struct Asked {
    pub model: ModelRef,
    pub texts: AskedTexts,
    pub suite: Vec<Item>,
    pub seed: u64,
}

/// Where the texts come from.
#[derive(Clone)]
pub enum AskedTexts {
    None,
    Inline(Vec<Prompt>),
    /// A file of `/v1/files`, of which only the first so many are taken.
    File {
        id: String,
        first: Option<usize>,
    },
}

/// What a suite found.
#[derive(Clone, Debug)]
pub struct Run {
    /// `name@3`
    pub model: String,
    pub sha256: String,
    /// Texts.
    pub n: usize,
    pub seed: u64,
    pub findings: Vec<Finding>,
    /// Attacks that succeeded.
    pub transcripts: Vec<Transcript>,
    pub not_evaluated: Vec<String>,
}

/// What is run where no suite is given.
pub fn default_suite() -> Vec<Item> {
    vec![Item::Environments(Environments::default())]
}

/// Whether a reference means a model whose runs are those of this module.
///
/// # Errors
/// There is no such model.
pub async fn is_one(service: &Service, project: &Project, model: &ModelRef) -> Result<bool, ServiceError> {
    Ok(is_imported(&service.resolve(project, model).await?))
}

/// A run that the model and the texts allow.
pub struct Plan {
    service: Arc<Service>,
    payer: Payer,
    language: Arc<Language>,
    texts: Arc<Vec<Read>>,
    suite: Vec<Item>,
    seed: u64,
}

impl Plan {
    /// Loads the model, reads the texts as the project's guard lets a model read them, and judges every item.
    ///
    /// # Errors
    /// Texts that the model cannot read, an item that it does not allow.
    pub async fn new(service: &Arc<Service>, payer: &Payer, asked: Asked) -> Result<Self, ServiceError> {
        let language = service.language(&payer.project, &asked.model).await?;
        if language.model.language_config().is_none() {
            let message = format!("{} writes no text: runs are over models that do", language.version.id());
            return Err(ServiceError::unsupported("model", "unsupported_model", message));
        }
        crate::rates::admit_passes()?;
        let needs = asked.suite.iter().any(Item::reads_texts);
        let texts = match (asked.texts, needs) {
            (AskedTexts::None, true) => {
                let message =
                    "instances: are missing: texts to compare over, or data, the id of a file with them";
                return Err(ServiceError::invalid("instances", "missing_required_parameter", message));
            }
            (AskedTexts::None, false) => Vec::new(),
            (_, false) => {
                let message = "instances: nothing of the suite reads texts: leave them out";
                return Err(ServiceError::invalid("instances", "unsupported_parameter", message));
            }
            (AskedTexts::Inline(prompts), true) => {
                texts::read(service, payer, &language, "instances", prompts).await?
            }
            (AskedTexts::File { id, first }, true) => {
                let prompts = texts::brought(service, &payer.project, &id, first).await?;
                texts::read(service, payer, &language, "data", prompts).await?
            }
        };
        for (k, item) in asked.suite.iter().enumerate() {
            let judged = match item {
                Item::Environments(asked) => environments::judge(service, &language, asked, &texts),
                Item::RedTeam(asked) => redteam::judge(&language, asked),
            };
            judged.map_err(|error| super::at(Some(k), error))?;
        }
        Ok(Plan {
            service: service.clone(),
            payer: payer.clone(),
            language,
            texts: Arc::new(texts),
            suite: asked.suite,
            seed: asked.seed,
        })
    }

    /// `name@3`
    pub fn model(&self) -> String {
        self.language.version.id()
    }

    pub fn version(&self) -> &Version {
        &self.language.version
    }

    /// Texts that it reads.
    pub fn n(&self) -> usize {
        self.texts.len()
    }

    /// The most passes that the suite takes.
    pub fn passes_most(&self) -> u64 {
        let of_item = |item: &Item| match item {
            Item::RedTeam(asked) => asked.passes_most(),
            Item::Environments(asked) => {
                environments::passes_most((asked, &self.language), self.service.engine(), &self.texts)
            }
        };
        self.suite.iter().map(of_item).fold(0, u64::saturating_add)
    }

    /// Runs the suite. Dropping the future ends it at its next pass.
    ///
    /// # Errors
    /// The deadline, a budget that is used up, or a fault of ours.
    pub async fn carry_out(self) -> Result<Run, ServiceError> {
        let mut run = Run {
            model: self.model(),
            sha256: self.language.version.sha256.clone(),
            n: self.n(),
            seed: self.seed,
            findings: Vec::new(),
            transcripts: Vec::new(),
            not_evaluated: Vec::new(),
        };
        for (k, item) in self.suite.iter().enumerate() {
            let seed = self.seed.wrapping_add(1000 * k as u64);
            match item {
                Item::RedTeam(asked) => {
                    let found =
                        self.attacked(asked, seed).await.map_err(|error| super::at(Some(k), error))?;
                    run.findings.extend(found.findings);
                    run.transcripts.extend(found.transcripts);
                    run.not_evaluated.extend(found.left_out);
                }
                Item::Environments(asked) => {
                    let found = self.environments(asked.clone()).await?;
                    run.findings.extend(found.findings);
                    run.not_evaluated.extend(found.left_out);
                }
            }
        }
        Ok(run)
    }

    /// All its passes are put aside before it begins: how many they are at most is known.
    async fn attacked(&self, asked: &RedTeam, seed: u64) -> Result<redteam::Found, ServiceError> {
        let most = Counts { passes: asked.passes_most(), ..Counts::default() };
        let project = &self.payer.project;
        // The version itself, whatever its name means by now.
        let (name, version) = (self.language.version.name.clone(), self.language.version.number);
        let model = ModelRef { name, version: VersionRef::Number(version) };
        metered_as_it_goes(
            self.service.ledger(),
            &self.payer,
            &self.language.version,
            most,
            |share| async move { redteam::run(&self.service, (project, &model), asked, seed, &share).await },
        )
        .await
    }

    async fn environments(&self, asked: Environments) -> Result<environments::Found, ServiceError> {
        let most = Counts { passes: PASSES_COVERED, ..Counts::default() };
        let (engine, ledger) = (self.service.engine(), self.service.ledger());
        let bench = environments::Bench {
            language: self.language.clone(),
            texts: self.texts.clone(),
            engine: engine.clone(),
            tenant: crate::generation::tenant(&self.payer.project),
            room: self.service.language_room(),
        };
        metered_as_it_goes(ledger, &self.payer, &self.language.version, most, |share| {
            in_turns(engine, (share, 0), move |control| environments::run(&bench, &asked, control))
        })
        .await
    }
}
