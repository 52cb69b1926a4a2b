//! Adapters: files of low-rank factors (PEFT's layout, or llama.cpp's GGUF) that add to an imported language model.
//!
//! A version of an adapter holds its own few files and remembers its base by the hash of the base's weights. The base
//! is in memory once, whoever adds to it.

use super::import::{Arrival, Copied, ImportError, Imported, copy_file, there_already};
use super::open::{self, OpenError};
use super::{Added, Language, Why, check_files, read_manifest};
use crate::ServiceError;
use lyceum_models::causal_lm::{Adapter, Config};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_store::Store;
use lyceum_store::files::Staging;
use lyceum_store::models::{self, Made, NewVersion, Version};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::KeyedPath;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, Project};
use lyceum_types::manifest::{ADAPTER_FILES, Base, FORMAT_VERSION, ImportedKind, ImportedManifest};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DESCRIPTION: &str = ADAPTER_FILES[0];
const WEIGHTS: &str = ADAPTER_FILES[1];
/// The one file of an adapter that came as GGUF.
const GGUF: &str = "adapter.gguf";

/// Whether a version adds to another.
pub fn is_adapter(version: &Version) -> bool {
    version.task == ImportedKind::Adapter.task()
}

/// Whether a path looks like an adapter: a folder with PEFT's description, or a GGUF file that calls itself one.
pub fn is_importable(path: &Path) -> bool {
    if path.is_dir() {
        // A whole model may have the description of the adapter that went into it.
        let is_whole =
            ["model.safetensors", "model.safetensors.index.json"].iter().any(|f| path.join(f).exists());
        return !is_whole && (path.join(DESCRIPTION).is_file() || path.join(GGUF).is_file());
    }
    let header = open::weights(&path.into()).ok().and_then(|file| Checkpoint::gguf(file).ok());
    let says = header.and_then(|(_, header)| Some(header.value("general.type")?.as_str()? == "adapter"));
    says.unwrap_or(false)
}

/// What a description says its base is called; None where it says nothing.
pub fn base_said(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path.join(DESCRIPTION)).ok()?;
    let description: serde_json::Value = serde_json::from_str(&text).ok()?;
    description["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The version that a hub's model was imported as: the newest whose source is this name of a hub.
pub async fn imported_as(
    store: &Store,
    project: &Project,
    hub: &str,
) -> Result<Option<Version>, ImportError> {
    let sources = [format!("hf.co/{hub}@"), format!("hf.co/{hub}/")].map(|s| s.to_lowercase());
    for version in models::shares::visible(store, project).await?.into_iter().rev() {
        if !super::is_imported(&version) || is_adapter(&version) {
            continue;
        }
        models::have(store, &version).await?;
        // One that is damaged is nobody's base.
        let Ok(manifest) = read_manifest(&version) else { continue };
        let source = manifest.source.to_lowercase();
        if sources.iter().any(|s| source.starts_with(s)) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// What is to be imported.
#[derive(Clone, Debug)]
pub struct ImportAdapter {
    /// A folder in PEFT's layout, or a GGUF file.
    pub path: PathBuf,
    pub name: ModelName,
    pub base: ModelRef,
    /// As the user said where it comes from.
    pub source: String,
    pub licence: Option<String>,
}

/// Copies an adapter, opens it over its base's description, and publishes it.
///
/// # Errors
/// The base is not there or no language model; what the adapter asks for is not supported; its factors do not fit.
pub async fn import(
    store: &Store,
    project: &Project,
    request: ImportAdapter,
    control: &Control,
    act: &Act,
) -> Result<Imported, ImportError> {
    let base = models::shares::ask(store, project, &request.base).await?;
    let unfit = |problem: &str| ImportError::Base { id: base.id(), problem: problem.into() };
    if !super::is_imported(&base) {
        return Err(unfit("was trained here, and adapters add to imported language models"));
    }
    if is_adapter(&base) {
        return Err(unfit("is itself an adapter, and adapters add to whole models"));
    }
    let of_base = read_manifest(&base).map_err(|error| unfit(&error.to_string()))?;
    let loaded_as = Some(of_base.loaded_as().to_owned());
    if of_base.kind != ImportedKind::Language {
        return Err(unfit("does not continue texts"));
    }
    let staging = Staging::create(store.layout())?;
    let (path, dir, base_dir, cancel) =
        (request.path.clone(), staging.path().to_owned(), base.dir.clone(), control.clone());
    let work = move || -> Result<_, ImportError> {
        let copied = copy(&path, &dir, &cancel)?;
        let config = open::description(&base_dir)?;
        let adapter = open(dir.as_path(), &config, &cancel);
        Ok((copied, adapter.map_err(|error| error.of_copy(&dir, &path))?))
    };
    let (copied, adapter) = tokio::task::spawn_blocking(work).await.map_err(ImportError::Broken)??;
    let n_parameters: u64 = adapter.params.ids().map(|id| adapter.params.shape(id).len() as u64).sum();
    let new = NewVersion {
        name: request.name.clone(),
        family: of_base.family.clone(),
        task: ImportedKind::Adapter.task().to_owned(),
        n_params: n_parameters,
        bytes: copied.weights_bytes,
        sha256: copied.weights_sha256.clone(),
        job: None,
        held: None,
    };
    let now = Timestamp::now();
    let mut manifest = ImportedManifest {
        format_version: FORMAT_VERSION,
        kind: ImportedKind::Adapter,
        name: request.name.to_string(),
        version: 0,
        created: now.seconds().max(0) as u64,
        source: request.source,
        format: if copied.files.contains_key(GGUF) { "gguf" } else { "peft" }.to_owned(),
        family: of_base.family,
        n_parameters,
        quant: None,
        context: of_base.context,
        licence: open::licence_of_readme(&staging.place()).or(request.licence),
        files: copied.files,
        base: Some(Base { model: base.id(), sha256: base.sha256.clone(), loaded_as }),
        tuned: None,
        privacy: None,
    };
    let said = adapter.config.base_model_name_or_path.clone();
    let notes =
        said.map(|said| format!("its description names {said} as its base; it adds to {}", base.id()));
    let notes = notes.into_iter().collect();
    if let Some((version, manifest)) = there_already(store, project, &new, &manifest).await? {
        return Ok(Imported { version, manifest, arrival: Arrival::AlreadyThere, notes });
    }
    let made = Made::Imported { source: manifest.source.clone() };
    let write = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let version = models::publish_made(store, project, new, staging, write, (made, act)).await?;
    Ok(Imported { version, manifest, arrival: Arrival::New, notes })
}

fn copy(from: &Path, to: &Path, control: &Control) -> Result<Copied, ImportError> {
    let mut copied = Copied::default();
    if from.is_file() {
        (copied.weights_sha256, copied.weights_bytes) = copy_file(from, &to.join(GGUF), control)?;
        copied.files.insert(GGUF.to_owned(), copied.weights_sha256.clone());
        return Ok(copied);
    }
    if from.join("adapter_model.bin").exists() && !from.join(WEIGHTS).exists() {
        let problem =
            "its factors are a pickle, which can run code when it is read; save them as safetensors";
        return Err(OpenError::File { path: from.to_owned(), problem: problem.into() }.into());
    }
    for name in ADAPTER_FILES.into_iter().chain([GGUF]) {
        let path = from.join(name);
        if path.is_file() {
            let (sha256, bytes) = copy_file(&path, &to.join(name), control)?;
            if name == WEIGHTS || name == GGUF {
                (copied.weights_sha256, copied.weights_bytes) = (sha256.clone(), bytes);
            }
            copied.files.insert(name.to_owned(), sha256);
        }
    }
    Ok(copied)
}

/// Opens an adapter's folder for a base of this description.
pub(super) fn open(
    dir: impl Into<KeyedPath>,
    base: &Config,
    control: &Control,
) -> Result<Adapter, OpenError> {
    let dir = dir.into();
    let gguf = dir.join(GGUF);
    if gguf.is_file() {
        let (checkpoint, header) = Checkpoint::gguf(open::weights(&gguf)?)?;
        return Ok(Adapter::from_gguf(checkpoint, &header, base, control)?);
    }
    let missing =
        |name: &str| OpenError::File { path: dir.path().to_owned(), problem: format!("there is no {name}") };
    let description = open::json(&dir.join(DESCRIPTION))?.ok_or_else(|| missing(DESCRIPTION))?;
    let weights = dir.join(WEIGHTS);
    if !weights.is_file() {
        return Err(missing(WEIGHTS));
    }
    let checkpoint = Checkpoint::safetensors(vec![open::weights(&weights)?])?;
    Ok(Adapter::from_peft(checkpoint, &description, base, control)?)
}

/// Whether an adapter of `base` may be added to a version: the one it was imported for, or one with the same weights in the
/// same form.
pub(crate) fn suits(base: &Base, version: &Version) -> bool {
    let has_form = |form: &String| read_manifest(version).is_ok_and(|manifest| manifest.loaded_as() == form);
    super::is_imported(version)
        && !is_adapter(version)
        && version.sha256 == base.sha256
        && (version.id() == base.model || base.loaded_as.as_ref().is_none_or(has_form))
}

/// The version that an adapter adds to: the one it was imported for, or another with the same weights in the same form.
///
/// # Errors
/// It is gone or has changed: then what to do.
pub async fn base_of(store: &Store, version: &Version) -> Result<Version, ServiceError> {
    let base = read_manifest(version)?.base.ok_or_else(|| ServiceError::Damaged {
        id: version.id(),
        source: "its manifest names no base".into(),
    })?;
    let all = models::shares::visible(store, &version.owner).await?;
    let found = all.iter().filter(|other| suits(&base, other)).max_by_key(|other| other.id() == base.model);
    if let Some(found) = found {
        models::have(store, found).await?;
        return Ok(found.clone());
    }
    let what = match all.iter().any(|other| other.id() == base.model) {
        true => "has other weights than the adapter was imported for",
        false => "is not there any more",
    };
    let form = match base.loaded_as.as_deref() {
        None | Some("stored") => String::new(),
        Some(form) => format!(", --quant {form}"),
    };
    let message = format!(
        "the base {} of {} {what}: import the base again (weights with sha256 {}{form}), or the adapter for another base",
        base.model,
        version.id(),
        base.sha256
    );
    Err(ServiceError::invalid("model", "base_model_missing", message))
}

/// Reads an adapter's folder; `base` is loaded.
pub fn read(version: Version, base: &Arc<Language>) -> Result<Language, ServiceError> {
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let manifest = read_manifest(&version)?;
    check_files(&version, &manifest).map_err(damaged)?;
    let config = base.model.language_config().ok_or_else(|| damaged("its base does not speak".into()))?;
    let adapter = open(&version.dir, config, &Control::new()).map_err(|error| damaged(error.into()))?;
    Ok(Language {
        manifest: ImportedManifest { context: base.manifest.context, ..manifest },
        model: base.model.clone(),
        words: base.words.clone(),
        added: Some(Added { adapter: Arc::new(adapter), base: base.version.clone() }),
        version,
    })
}
