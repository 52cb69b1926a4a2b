//! Models of a hub: fetched into the cache that its own tools share, and imported.
//!
//! A server asks the hub that its operator configured, with the operator's token, and only where the operator allows it: a
//! request names a model there and never an address. The command line asks the hub of its own environment.

use super::underway::{Stage, Underway};
use super::{BringError, Brought, Wanted, bring};
use crate::language::import::{Arrival, Imported};
use crate::language::open::Layout;
use crate::language::{is_imported, read_manifest};
use crate::{Service, ServiceError};
use lyceum_hub::{HubError, Pulled, Reference};
use lyceum_store::Store;
use lyceum_store::models::{self, Version};
use lyceum_store::tenancy::Act;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, Project};
use lyceum_types::limits;
use lyceum_types::manifest::ImportedManifest;
use std::sync::Arc;

pub use lyceum_hub::Settings as Hub;

/// A model of a hub that is wanted.
#[derive(Clone, Debug)]
pub struct NewPull {
    pub reference: Reference,
    /// None: as the hub calls it.
    pub name: Option<ModelName>,
    pub layout: Layout,
    /// For adapters; None: what the description says.
    pub base: Option<ModelRef>,
}

impl NewPull {
    fn name(&self) -> Result<ModelName, BringError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => Ok(self.reference.id().parse()?),
        }
    }
}

/// A reference as a request writes it.
///
/// # Errors
/// It is none.
pub fn reference(text: &str) -> Result<Reference, ServiceError> {
    text.parse().map_err(|error| hub_said(error, text))
}

/// Begins to fetch a model from the hub of this server.
///
/// # Errors
/// The operator allows no pulls; another one is under way; the name cannot be a model's.
pub fn begin(
    service: Arc<Service>,
    project: Project,
    new: NewPull,
    act: Act,
) -> Result<Underway, ServiceError> {
    let Some(hub) = service.hub.clone() else {
        let message = "this server fetches nothing from hubs: its operator starts it with --allow-pull (allow_pull = true) \
                       to let keys of the scope admin do so";
        return Err(ServiceError::Refused { code: "pull_not_allowed", message: message.into() });
    };
    new.name().map_err(|error| error.told(std::path::Path::new("")))?;
    let Ok(place) = service.pulling.clone().try_acquire_owned() else {
        let message = "the server fetches another model now: ask again when it is there".into();
        return Err(ServiceError::Conflict { code: "pull_under_way", message });
    };
    Ok(Underway::begin(move |say, control| async move {
        let _place = place;
        let (reference, id) = (new.reference.clone(), new.reference.id());
        let (told, cancel) = (say.clone(), control.clone());
        let fetch = move || {
            let mut report = |p: lyceum_hub::Progress<'_>| {
                told.send_replace(Stage::Fetching {
                    file: p.file.to_owned(),
                    completed: p.done,
                    total: p.whole,
                });
            };
            lyceum_hub::pull(&reference, &hub, &cancel, &mut report)
        };
        let pulled = tokio::task::spawn_blocking(fetch).await;
        let pulled = pulled.map_err(|error| ServiceError::internal("a pull broke off", error))?;
        let pulled = pulled.map_err(|error| hub_said(error, &id))?;
        say.send_replace(Stage::Waiting);
        let turn = service.importing.clone().acquire_owned().await;
        let _turn = turn.map_err(|error| ServiceError::internal("no import has a turn", error))?;
        control.check().map_err(|_| ServiceError::DeadlinePassed)?;
        say.send_replace(Stage::Importing);
        let folder = pulled.path.clone();
        let done = import(service.store(), &project, (new, pulled), &control, &act).await;
        done.map_err(|error| error.told(&folder))
    }))
}

/// Imports what was fetched; where a version of the name came from these very files, it is that one.
///
/// # Errors
/// As [`bring`].
pub async fn import(
    store: &Store,
    project: &Project,
    (new, pulled): (NewPull, Pulled),
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    let name = new.name()?;
    let what = match &pulled.file {
        Some(file) => format!("{}/{file}", new.reference.id()),
        None => new.reference.id(),
    };
    let source = format!("hf.co/{what}@{}", pulled.commit);
    let NewPull { layout, base, .. } = new;
    if let Some((version, manifest)) = there_already(store, project, &name, &source).await?
        && manifest.quant.as_deref() == layout.quant.map(|quant| quant.name())
        && layout.context.is_none_or(|n| n as u64 == manifest.context)
        && base.is_none()
    {
        let (arrival, notes) = (Arrival::AlreadyThere, Vec::new());
        return Ok(Brought::Imported(Box::new(Imported { version, manifest, arrival, notes })));
    }
    let wanted = Wanted {
        path: pulled.path,
        name: Some(name),
        layout,
        base,
        source,
        licence: pulled.licence,
        trained_bytes_max: limits::MODEL_TRAINED_BYTES_MAX,
    };
    bring(store, project, wanted, control, act).await
}

/// The version of this name that came from these very files.
async fn there_already(
    store: &Store,
    project: &Project,
    name: &ModelName,
    source: &str,
) -> Result<Option<(Version, ImportedManifest)>, BringError> {
    let versions = models::list(store, project).await?;
    for version in versions.into_iter().rev().filter(|version| version.name == *name) {
        if !is_imported(&version) {
            continue;
        }
        models::have(store, &version).await?;
        // One that is damaged is no reason not to import it anew.
        if let Ok(manifest) = read_manifest(&version)
            && manifest.source == source
        {
            return Ok(Some((version, manifest)));
        }
    }
    Ok(None)
}

/// What a hub's refusal means to a client; where the hub and its cache are is the operator's.
fn hub_said(error: HubError, id: &str) -> ServiceError {
    let shown: String = id.chars().take(128).collect();
    let refused = |code, why: &str| ServiceError::invalid("ref", code, format!("{shown}: {why}"));
    match error {
        HubError::Reference { .. } => ServiceError::invalid("ref", "invalid_value", error.to_string()),
        HubError::NotFound { .. } => ServiceError::NotFound { what: "model of the hub", id: shown },
        HubError::Denied { .. } => {
            refused("hub_denied", "the hub does not give it to this server; its operator may set HF_TOKEN")
        }
        HubError::Files { problem, .. } => refused("not_a_model", &problem),
        HubError::Offline { .. } => refused(
            "hub_offline",
            "it is not in this server's cache, and the server fetches nothing (HF_HUB_OFFLINE)",
        ),
        HubError::WrongHash { file, .. } => refused(
            "wrong_hash",
            &format!("other bytes of {file} came than the hub announced; they were thrown away"),
        ),
        HubError::Network { .. } | HubError::Truncated { .. } => {
            tracing::warn!(error = %crate::error::chain(&error), "a hub does not answer");
            let message =
                "the hub does not answer; what came is kept, and the next pull goes on with it".into();
            ServiceError::NotReady { message }
        }
        HubError::Stopped(_) => ServiceError::DeadlinePassed,
        HubError::Certificates { .. } | HubError::File { .. } => {
            ServiceError::internal("pulling a model", error)
        }
    }
}
