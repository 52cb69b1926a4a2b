//! Models that come from elsewhere, whatever they are: a GGUF file, a folder in Hugging Face's layout, an adapter, or a folder
//! that `lyceum export` wrote.
//!
//! [`bring`] looks at what lies there and publishes a version, for the command line and for the routes alike. [`brought`]
//! makes a folder of files that a client uploaded, [`pulled`] asks the hub that the operator configured, and both go on as
//! an [`Underway`](underway::Underway), which a client that leaves ends. Nothing here knows flags, HTTP or how an error is
//! worded for whom: [`BringError`] says what is wrong.

pub mod brought;
mod error;
pub mod pulled;
pub mod trained;
pub mod underway;

pub use error::BringError;

use crate::ServiceError;
use crate::language::adapter::{self, ImportAdapter};
use crate::language::import::{self as language, Arrival, Import, ImportError, Imported, hash_of};
use crate::language::open::{self, GGUF, Layout};
use lyceum_kernels::stored::Stored;
use lyceum_store::layout::{MANIFEST, MANIFEST_SHA256};
use lyceum_store::models::{self, Version};
use lyceum_store::tenancy::Act;
use lyceum_store::{Store, StoreError};
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, Project, VersionRef};
use lyceum_types::manifest::{ADAPTER_FILES, Base, DESCRIPTION_FILES, FORMAT_VERSION, ImportedManifest};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The one file of an adapter that came as GGUF.
const ADAPTER_GGUF: &str = "adapter.gguf";
const KINDS: [Stored; 5] = [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K];

/// What is to be brought in, and what was said beside it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// A file or a folder.
    pub path: PathBuf,
    /// None: as the files call it, else as the path does.
    pub name: Option<ModelName>,
    pub layout: Layout,
    /// What an adapter adds to; None: what its description says.
    pub base: Option<ModelRef>,
    /// Where it comes from; an exported folder says so itself.
    pub source: String,
    /// What a hub says of its licence; the files' own word comes before it.
    pub licence: Option<String>,
    /// Of a model that was trained by Lyceum, all files together: they are read whole.
    pub trained_bytes_max: u64,
}

/// What came of it.
pub enum Brought {
    /// Another program's model.
    Imported(Box<Imported>),
    /// A model that Lyceum trained.
    Trained(Box<Version>, Arrival),
}

/// The type that matrices become, by its name.
///
/// # Errors
/// The names that there are.
pub fn quant(text: &str) -> Result<Stored, String> {
    let names = || KINDS.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let found = KINDS.into_iter().find(|kind| kind.name() == text.to_ascii_lowercase());
    found.ok_or_else(|| format!("there are {}", names()))
}

/// How a request says that a model is to be laid out.
///
/// # Errors
/// 400 at the field.
pub fn layout(quant: Option<&str>, context: Option<u64>) -> Result<Layout, ServiceError> {
    let invalid = |param, message: String| ServiceError::invalid(param, "invalid_value", message);
    let quant = quant.map(self::quant).transpose().map_err(|why| invalid("quant", why))?;
    let context = context.map(usize::try_from).transpose();
    let context = context.map_err(|_| invalid("context", "is no number of tokens".into()))?;
    Ok(Layout { quant, context })
}

/// Publishes what lies at a path as a version, with its entry in the audit log.
///
/// # Errors
/// It is no model; what was said beside it does not go with it; its base is not here.
pub async fn bring(
    store: &Store,
    project: &Project,
    wanted: Wanted,
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    let path = &wanted.path;
    let is_exported = path.join(MANIFEST).exists();
    if !is_exported && adapter::is_importable(path) {
        return of_adapter(store, project, wanted, control, act).await;
    }
    if is_exported && let Some(manifest) = imported_manifest(path) {
        return again(store, project, (wanted, manifest), control, act).await;
    }
    if wanted.base.is_some() {
        return Err(BringError::BaseOfNone { path: wanted.path });
    }
    if !is_exported && language::is_importable(path) {
        let name = match wanted.name {
            Some(name) => name,
            None => language::name_of(path)?,
        };
        let Wanted { path, layout, source, licence, .. } = wanted;
        let request = Import { path, name, source, layout, licence };
        return bring_model(store, project, request, control, act).await;
    }
    if wanted.layout != Layout::default() {
        return Err(BringError::LayoutOfTrained { path: wanted.path });
    }
    let (path, bytes_max) = (wanted.path.clone(), wanted.trained_bytes_max);
    let exported = blocking(move || trained::read(&path, bytes_max)).await??;
    let name = match wanted.name {
        Some(name) => name,
        None => exported.manifest.name.parse()?,
    };
    trained::publish(store, project, exported, name, (wanted.source, act)).await
}

/// Names and places of the files that make the model at a path: what another machine needs to import it.
///
/// # Errors
/// There is none, or a file is missing.
pub fn files_of(path: &Path) -> Result<Vec<(String, PathBuf)>, BringError> {
    if path.join(MANIFEST).is_file() {
        let text = trained::read_manifest(path)?;
        let manifest: Value = serde_json::from_slice(&text).map_err(|error| {
            BringError::bad(path, format!("{MANIFEST} cannot be read"), error.to_string())
        })?;
        let mut names = vec![MANIFEST.to_owned(), MANIFEST_SHA256.to_owned()];
        for name in manifest["files"].as_object().into_iter().flat_map(|files| files.keys()) {
            names.push(plain_name(path, name)?.to_owned());
        }
        names.retain(|name| name != MANIFEST_SHA256 || path.join(name).is_file());
        return Ok(names.into_iter().map(|name| (name.clone(), path.join(name))).collect());
    }
    if adapter::is_importable(path) || language::is_importable(path) {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(vec![(name, path.to_owned())]);
        }
        let described: Vec<&str> = match adapter::is_importable(path) {
            true => ADAPTER_FILES.into_iter().chain([ADAPTER_GGUF]).collect(),
            false => DESCRIPTION_FILES.to_vec(),
        };
        let there = described.into_iter().filter(|name| path.join(name).is_file());
        let mut files: Vec<(String, PathBuf)> =
            there.map(|name| (name.to_owned(), path.join(name))).collect();
        if !adapter::is_importable(path) {
            for weights in open::weight_files(&path.into()).map_err(ImportError::from)? {
                let path = weights.path().to_owned();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.push((name, path));
            }
        }
        return Ok(files);
    }
    Err(trained::no_model(path))
}

/// Whether the files at a path say themselves how the model is called.
pub fn has_own_name(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// A name of a manifest's file: one below its folder.
pub(crate) fn plain_name<'a>(folder: &Path, file: &'a str) -> Result<&'a str, BringError> {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    if !file.contains(['\\', ':', '\0']) && file.split('/').all(part) && file != MANIFEST {
        return Ok(file);
    }
    let message = format!("{file:?} is no name of a model's file");
    Err(BringError::bad(folder, message, "it could lead elsewhere".into()))
}

/// The manifest of a folder that was exported of an imported model; None: it is none, or cannot be read.
fn imported_manifest(folder: &Path) -> Option<ImportedManifest> {
    let text = trained::read_manifest(folder).ok()?;
    let value: Value = serde_json::from_slice(&text).ok()?;
    let is_known = value["format_version"].as_u64().is_none_or(|n| n <= u64::from(FORMAT_VERSION));
    // A trained version's has no kind, and a cascade's is another.
    value.get("kind").filter(|_| is_known)?;
    serde_json::from_value(value).ok()
}

/// What is added to a model that was imported before.
async fn of_adapter(
    store: &Store,
    project: &Project,
    wanted: Wanted,
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    if wanted.layout != Layout::default() {
        return Err(BringError::LayoutOfAdapter);
    }
    let base = match wanted.base {
        Some(base) => base,
        None => said_base(store, project, &wanted.path).await?,
    };
    let name = match wanted.name {
        Some(name) => name,
        None => language::name_of(&wanted.path)?,
    };
    let Wanted { path, source, licence, .. } = wanted;
    let request = ImportAdapter { path, name, base, source, licence };
    bring_adapter(store, project, request, control, act).await
}

async fn bring_model(
    store: &Store,
    project: &Project,
    request: Import,
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    let done = language::import(store, project, request, control, act).await?;
    Ok(Brought::Imported(Box::new(done)))
}

async fn bring_adapter(
    store: &Store,
    project: &Project,
    request: ImportAdapter,
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    let base = request.base.to_string();
    match adapter::import(store, project, request, control, act).await {
        Ok(done) => Ok(Brought::Imported(Box::new(done))),
        Err(ImportError::Store(StoreError::NotFound { what: "model", .. })) => {
            Err(BringError::BaseGone { base })
        }
        Err(error) => Err(error.into()),
    }
}

/// A model that another program wrote and `lyceum export` handed on: what was said of it stays said.
async fn again(
    store: &Store,
    project: &Project,
    (wanted, manifest): (Wanted, ImportedManifest),
    control: &Control,
    act: &Act,
) -> Result<Brought, BringError> {
    let (folder, files) = (wanted.path.clone(), manifest.files.clone());
    let check = move || -> Result<(), BringError> {
        for (file, expected) in &files {
            let path = folder.join(plain_name(&folder, file)?);
            let found = hash_of(&path).map_err(|source| BringError::Read { path, source })?;
            if found != *expected {
                let why = format!("its sha256 is {found}, not {expected}");
                return Err(BringError::bad(&folder, format!("{file} is damaged"), why));
            }
        }
        Ok(())
    };
    blocking(check).await??;
    if manifest.base.is_none() && wanted.base.is_some() {
        return Err(BringError::BaseOfNone { path: wanted.path });
    }
    let name = match wanted.name {
        Some(name) => name,
        None => manifest.name.parse()?,
    };
    let (source, licence) = (manifest.source, manifest.licence);
    if let Some(base) = manifest.base {
        if wanted.layout != Layout::default() {
            return Err(BringError::LayoutOfAdapter);
        }
        let base = match wanted.base {
            Some(base) => base,
            None => exported_base(store, project, base).await?,
        };
        let request = ImportAdapter { path: wanted.path, name, base, source, licence };
        return bring_adapter(store, project, request, control, act).await;
    }
    let laid_out = match &manifest.quant {
        Some(name) => Some(quant(name).map_err(|why| {
            let fix = "use a newer lyceum, or say another type";
            BringError::NotAModel {
                path: wanted.path.clone(),
                message: format!("no type is called {name}"),
                why,
                fix,
            }
        })?),
        None => None,
    };
    let layout = Layout {
        quant: wanted.layout.quant.or(laid_out),
        context: Some(wanted.layout.context.unwrap_or(manifest.context as usize)),
    };
    let file = wanted.path.join(GGUF);
    let path = if file.is_file() { file } else { wanted.path };
    let request = Import { path, name, source, layout, licence };
    bring_model(store, project, request, control, act).await
}

/// The imported model that an adapter's description names as its base.
async fn said_base(store: &Store, project: &Project, path: &Path) -> Result<ModelRef, BringError> {
    let of = path.to_owned();
    let said = blocking(move || adapter::base_said(&of)).await?;
    if let Some(said) = &said
        && let Some(version) = adapter::imported_as(store, project, said).await?
    {
        return Ok(reference(&version));
    }
    Err(BringError::BaseUnknown { path: path.to_owned(), said })
}

/// The version with the weights that an exported adapter was imported for.
async fn exported_base(store: &Store, project: &Project, base: Base) -> Result<ModelRef, BringError> {
    let all = models::list(store, project).await?;
    match all.iter().rev().find(|version| version.sha256 == base.sha256) {
        Some(version) => Ok(reference(version)),
        None => Err(BringError::ExportedBaseGone { model: base.model, sha256: base.sha256 }),
    }
}

fn reference(version: &Version) -> ModelRef {
    ModelRef { name: version.name.clone(), version: VersionRef::Number(version.number) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BringError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ImportError::Broken(error).into())
}
