//! What a card is about: a version that was trained here, or an imported or fine-tuned model of texts.

use super::{imported, promises, sections};
use crate::language::{self, Language, adapter};
use crate::resident::{self, Resident};
use crate::{Service, ServiceError, explain};
use lyceum_explain::MethodInfo;
use lyceum_store::models::Version;
use lyceum_types::card::{Part, Section, Sections};
use lyceum_types::ids::{ModelRef, Project};
use std::sync::Arc;

pub(super) enum Subject {
    Trained(Arc<Resident>),
    Imported(Imported),
}

/// A model of texts with what can explain it.
pub(super) struct Imported {
    pub language: Arc<Language>,
    pub methods: Vec<MethodInfo>,
}

/// What a version's files are read again with.
pub(super) enum Reader {
    Trained,
    Imported { base: Option<Arc<Language>>, methods: Vec<MethodInfo> },
}

impl Subject {
    pub async fn load(service: &Service, project: &Project, model: &ModelRef) -> Result<Self, ServiceError> {
        let version = service.resolve(project, model).await?;
        if !language::is_imported(&version) {
            return Ok(Subject::Trained(service.resident(project, model).await?));
        }
        let language = service.language(project, model).await?;
        let methods = methods(service, project, model, &language).await?;
        Ok(Subject::Imported(Imported { language, methods }))
    }

    pub fn version(&self) -> &Version {
        match self {
            Subject::Trained(resident) => &resident.version,
            Subject::Imported(imported) => &imported.language.version,
        }
    }

    /// What the manifest and the files say.
    pub fn fill(&self, sections: &mut Sections) -> Result<(), ServiceError> {
        match self {
            Subject::Trained(resident) => {
                sections::fill(resident, sections);
                promises::fill(resident, sections)
            }
            Subject::Imported(imported) => imported::fill(imported, sections),
        }
    }

    pub fn say_what_is_missing(&self, part: Part, section: &mut Section) {
        match self {
            Subject::Trained(resident) => promises::say_what_is_missing(resident, part, section),
            Subject::Imported(imported) => imported::say_what_is_missing(imported, part, section),
        }
    }
}

async fn methods(
    service: &Service,
    project: &Project,
    model: &ModelRef,
    language: &Language,
) -> Result<Vec<MethodInfo>, ServiceError> {
    // Encoders continue nothing that could be explained.
    if !language.manifest.kind.speaks() {
        return Ok(Vec::new());
    }
    Ok(explain::methods(service, project, model).await?.1)
}

impl Reader {
    pub async fn of(
        service: &Service,
        project: &Project,
        model: &ModelRef,
        version: &Version,
    ) -> Result<Self, ServiceError> {
        if !language::is_imported(version) {
            return Ok(Reader::Trained);
        }
        let base = match adapter::is_adapter(version) {
            true => {
                let base = adapter::base_of(service.store(), version).await?;
                Some(service.languages.load(base, language::read).await?)
            }
            false => None,
        };
        let speaks = language::read_manifest(version).is_ok_and(|manifest| manifest.kind.speaks());
        let methods = match speaks {
            true => explain::methods(service, project, model).await?.1,
            false => Vec::new(),
        };
        Ok(Reader::Imported { base, methods })
    }

    /// Reads every byte again.
    pub fn read(self, version: Version) -> Result<Subject, ServiceError> {
        match self {
            Reader::Trained => Ok(Subject::Trained(Arc::new(resident::read(version)?))),
            Reader::Imported { base, methods } => {
                let language = match base {
                    Some(base) => adapter::read(version, &base)?,
                    None => language::read(version)?,
                };
                Ok(Subject::Imported(Imported { language: Arc::new(language), methods }))
            }
        }
    }
}
