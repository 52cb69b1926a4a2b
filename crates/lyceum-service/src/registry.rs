//! Names that move and versions that go: what the routes and the command line do alike.
//!
//! Functions take the store, because the command line has no server. A server asks [`visible`] first and lets go of
//! what was deleted ([`Service::forget`](crate::Service::forget)).

use crate::language::{self, adapter};
use crate::{Service, ServiceError, cascades};
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::{self, Version};
use lyceum_store::registry::{self, EventKind};
use lyceum_store::{Store, StoreError};
use lyceum_types::ids::{ModelName, ModelRef, Project, VersionRef};
use lyceum_types::manifest::{DataFile, Manifest};

pub use lyceum_store::registry::{
    Act, Actor, Event, Pointer, aliases, approve, history, remove_alias, roll_back, set_alias,
};

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doomed {
    Version(ModelRef),
    /// Every version of the name.
    Name(ModelName),
}

/// Where a version comes from and where it is used.
#[derive(Clone, Debug)]
pub struct Lineage {
    pub version: Version,
    /// What it was trained on; of an imported one, its files.
    pub data: Vec<Source>,
    /// Versions that it was made of.
    pub parents: Vec<Parent>,
    /// Where its files came from; None: it was trained here.
    pub imported_from: Option<String>,
    pub approvals: Vec<Event>,
    pub aliases: Vec<Pointer>,
}

/// A file by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub role: String,
    pub path: String,
    pub sha256: String,
    pub rows: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// `name@3`
    pub id: String,
    pub weights_sha256: String,
}

/// What a promotion changed.
#[derive(Clone, Debug)]
pub struct Promoted {
    /// As it was before.
    pub before: Version,
    /// What the bare name serves now.
    pub served: Version,
}

/// The name and the number of a reference that must name a version by number: what is said of it stays true when
/// newer ones come.
///
/// # Errors
/// It names none.
pub fn numbered(reference: &ModelRef) -> Result<(ModelName, u32), ServiceError> {
    match reference.version {
        VersionRef::Number(number) => Ok((reference.name.clone(), number)),
        _ => {
            let message = format!("{reference} names no version by number; write {}@2", reference.name);
            Err(ServiceError::invalid("model", "version_missing", message))
        }
    }
}

/// The name alone of a reference.
///
/// # Errors
/// It names a version or an alias.
pub fn bare(reference: &ModelRef) -> Result<ModelName, ServiceError> {
    match reference.version {
        VersionRef::Latest => Ok(reference.name.clone()),
        _ => {
            let message = format!("{reference} is one version; write the name alone: {}", reference.name);
            Err(ServiceError::invalid("model", "name_wanted", message))
        }
    }
}

/// Whether the project has the name, or had it, and may ask a version of it.
///
/// # Errors
/// [`ServiceError::ModelNotFound`], which does not tell the two apart.
pub async fn visible(service: &Service, project: &Project, name: &ModelName) -> Result<(), ServiceError> {
    let missing = || ServiceError::ModelNotFound { id: name.to_string() };
    let mut versions = models::list(service.store(), project).await?;
    versions.retain(|version| version.name == *name);
    let standing = service.standing(project).await?;
    if let Some(allowed) = &standing.decided.models {
        let any = versions.iter().any(|version| allowed.allows(name, version.number));
        return if any { Ok(()) } else { Err(missing()) };
    }
    if versions.is_empty() && registry::history(service.store(), project, name).await?.is_empty() {
        return Err(missing());
    }
    Ok(())
}

/// Deletes one version, or all of a name.
///
/// # Errors
/// [`ServiceError::Conflict`]: an alias points at it, a cascade asks it, or an adapter adds to it and no other version
/// has its weights.
pub async fn delete(
    store: &Store,
    project: &Project,
    doomed: &Doomed,
    act: &Act,
) -> Result<Vec<Version>, ServiceError> {
    let all = models::list(store, project).await?;
    let going: Vec<Version> = match doomed {
        Doomed::Version(reference) => vec![models::find(store, project, reference).await?],
        Doomed::Name(name) => all.iter().filter(|version| version.name == *name).cloned().collect(),
    };
    let stays = |version: &&Version| !going.iter().any(|gone| gone.id() == version.id());
    let staying: Vec<&Version> = all.iter().filter(stays).collect();
    for version in staying.iter().filter(|version| adapter::is_adapter(version)) {
        // Its manifest says what it leans on; one whose files are lost leans on nothing.
        match models::have(store, version).await {
            Ok(()) | Err(StoreError::DamagedFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for version in &going {
        if let Some(adapter) = leaning(version, &staying) {
            let (id, adapter) = (version.id(), adapter.id());
            let message = format!("the adapter {adapter} adds to {id}: delete {adapter} first");
            return Err(ServiceError::Conflict { code: "model_in_use", message });
        }
        if let Some(cascade) = cascades::of_member(version, &staying) {
            let (id, cascade) = (version.id(), cascade.id());
            let message = format!("the cascade {cascade} asks {id}: delete {cascade} first");
            return Err(ServiceError::Conflict { code: "model_in_use", message });
        }
    }
    match doomed {
        Doomed::Version(_) => {
            // What was looked at is what goes, whatever the reference has come to mean.
            let version = &going[0];
            let number = VersionRef::Number(version.number);
            let reference = ModelRef { name: version.name.clone(), version: number };
            Ok(vec![models::delete(store, project, &reference, act).await?])
        }
        Doomed::Name(name) => Ok(models::delete_all(store, project, name, act).await?),
    }
}

/// An adapter among those that stay that would have no base without the version.
fn leaning<'a>(version: &Version, staying: &[&'a Version]) -> Option<&'a Version> {
    if !language::is_imported(version) || adapter::is_adapter(version) {
        return None;
    }
    staying.iter().copied().find(|other| {
        // One whose manifest cannot be read has no base that it could lose.
        let manifest = adapter::is_adapter(other).then(|| language::read_manifest(other).ok()).flatten();
        manifest.and_then(|manifest| manifest.base).is_some_and(|base| {
            let suits = |version: &Version| adapter::suits(&base, version);
            suits(version) && !staying.iter().any(|other| suits(other))
        })
    })
}

/// Lets the bare name serve a version that its gate held back.
pub async fn promote(
    store: &Store,
    project: &Project,
    name: &ModelName,
    number: u32,
    act: &Act,
) -> Result<Promoted, ServiceError> {
    let before = models::promote(store, project, name, number, act).await?;
    let bare = ModelRef { name: name.clone(), version: VersionRef::Latest };
    Ok(Promoted { before, served: models::resolve(store, project, &bare).await? })
}

/// From the bytes of the data to the names that are served.
pub async fn lineage(
    store: &Store,
    project: &Project,
    reference: &ModelRef,
) -> Result<Lineage, ServiceError> {
    let version = models::resolve(store, project, reference).await?;
    let (data, parents, imported_from) = origin(&version)?;
    let mut aliases = registry::aliases(store, project, &version.name).await?;
    aliases.retain(|alias| alias.version == version.number);
    let mut approvals = registry::history(store, project, &version.name).await?;
    approvals.retain(|event| event.kind == EventKind::Approved && event.version == version.number);
    Ok(Lineage { version, data, parents, imported_from, approvals, aliases })
}

/// Data, parents, and where the files of an imported version came from.
pub(crate) type Origin = (Vec<Source>, Vec<Parent>, Option<String>);

/// What a version was made of.
pub(crate) fn origin(version: &Version) -> Result<Origin, ServiceError> {
    if cascades::is_cascade(version) {
        let (data, parents) = cascades::origin(version)?;
        return Ok((data, parents, None));
    }
    if language::is_imported(version) { of_imported(version) } else { of_trained(version) }
}

fn of_trained(version: &Version) -> Result<Origin, ServiceError> {
    type Why = Box<dyn std::error::Error + Send + Sync>;
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let path = version.dir.join(MANIFEST);
    let text = path.read().map_err(|error| {
        ServiceError::internal("reading a model failed", format!("{}: {error}", path.display()))
    })?;
    models::check_manifest(&version.dir, &text).map_err(|error| damaged(error.into()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(error.into()))?;
    let parent = |c: lyceum_types::manifest::CalibrationReport| Parent {
        id: c.parent,
        weights_sha256: c.parent_sha256,
    };
    Ok((rows(manifest.data), manifest.calibration.map(parent).into_iter().collect(), None))
}

fn of_imported(version: &Version) -> Result<Origin, ServiceError> {
    let manifest = language::read_manifest(version)?;
    if let Some(tuned) = manifest.tuned {
        let parent = Parent { id: tuned.base.model, weights_sha256: tuned.base.sha256 };
        return Ok((rows(tuned.data), vec![parent], None));
    }
    let file = |(path, sha256)| Source { role: "file".into(), path, sha256, rows: None };
    let parent = manifest.base.map(|base| Parent { id: base.model, weights_sha256: base.sha256 });
    let files = manifest.files.into_iter().map(file).collect();
    Ok((files, parent.into_iter().collect(), Some(manifest.source)))
}

fn rows(data: Vec<DataFile>) -> Vec<Source> {
    let source = |f: DataFile| Source { role: f.role, path: f.path, sha256: f.sha256, rows: Some(f.rows) };
    data.into_iter().map(source).collect()
}
