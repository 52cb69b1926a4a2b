//! What every command gets: configuration, output format, the token that Ctrl-C cancels.

use crate::assemble;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Format;
use crate::remote::Access;
use lyceum_service::{Language, Resident, Service, ServiceError};
use lyceum_store::vault::ProjectKey;
use lyceum_store::{Store, StoreError, models};
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::suggest::did_you_mean;
use std::sync::Arc;

pub struct Context {
    pub config: Config,
    pub format: Format,
    /// Cancelled by the first Ctrl-C; the second ends the process.
    pub control: Control,
    /// The command line works for the one project of an installation.
    pub project: Project,
    /// Which server is asked, where one is, and as whom.
    pub access: Access,
    /// The key of this project, where a server handed it to this process.
    pub handed: Option<ProjectKey>,
}

/// A loaded model: one that Lyceum trained, or one that was imported.
pub enum Speaker {
    Trained(Arc<Resident>),
    Language(ModelRef, Arc<Language>),
}

impl Context {
    /// The same for another project: a server's worker knows all.
    pub fn of(&self, project: Project) -> Self {
        let (config, control) = (self.config.clone(), self.control.clone());
        Context { config, control, format: self.format, project, access: Access::default(), handed: None }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub async fn store(&self) -> Result<Store, Failure> {
        let Some(key) = &self.handed else { return assemble::store(&self.config).await };
        // It opens what this project keeps, and nothing else.
        let mut config = self.config.clone();
        config.master_key_file.value = None;
        Ok(assemble::store(&config).await?.handed(self.project.clone(), key.clone()))
    }

    /// A loaded model and the use cases around it.
    pub async fn resident(&self, model: &str) -> Result<(Arc<Service>, Arc<Resident>), Failure> {
        let reference: ModelRef = model.parse()?;
        let store = self.store().await?;
        if let Err(error) = models::resolve(&store, &self.project, &reference).await {
            return Err(self.explain(&store, error).await);
        }
        let service = assemble::service(&self.config, store)?;
        let resident = service.resident(&self.project, &reference).await?;
        Ok((service, resident))
    }

    /// A loaded model of either kind and the use cases around it.
    pub async fn speaker(&self, model: &str) -> Result<(Arc<Service>, Speaker), Failure> {
        let reference: ModelRef = model.parse()?;
        let store = self.store().await?;
        let version = match models::resolve(&store, &self.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(self.explain(&store, error).await),
        };
        let service = assemble::service(&self.config, store)?;
        let speaker = if lyceum_service::language::is_imported(&version) {
            let language = service.language(&self.project, &reference).await?;
            Speaker::Language(reference, language)
        } else {
            Speaker::Trained(service.resident(&self.project, &reference).await?)
        };
        Ok((service, speaker))
    }

    /// A use case's error in words; a missing model gets the name that may have been meant.
    pub async fn told(&self, store: &Store, error: ServiceError) -> Failure {
        match error {
            ServiceError::ModelNotFound { id } => {
                self.explain(store, StoreError::NotFound { what: "model", id }).await
            }
            other => other.into(),
        }
    }

    /// A store's error in words; a missing model gets the name that may have been meant.
    pub async fn explain(&self, store: &Store, error: StoreError) -> Failure {
        let StoreError::NotFound { what: "model", id } = &error else { return error.into() };
        let Ok(versions) = models::list(store, &self.project).await else { return error.into() };
        let name = id.split('@').next().unwrap_or(id);
        let near = did_you_mean(name, versions.iter().map(|version| version.name.as_str()));
        let there: Vec<String> = versions
            .iter()
            .filter(|version| version.name.as_str() == name)
            .map(|version| version.number.to_string())
            .collect();
        let mut failure = Failure::no_model(id, near.filter(|near| *near != name));
        if !there.is_empty() {
            failure.why = format!("of this model there are the versions {}", there.join(", "));
        }
        if !there.is_empty() && id == name {
            failure.why = format!("all its versions ({}) are held by a gate", there.join(", "));
            failure.fix = format!("ask for {name}@{0}, or lyceum promote {name}@{0}", there[there.len() - 1]);
        }
        failure
    }
}
