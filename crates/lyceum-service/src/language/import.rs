//! Brings a model that another program wrote into the store: a GGUF file, or a folder in Hugging Face's layout.
//!
//! Files are copied beside (one pass, hashed on the way), opened as they will be served, and published by a
//! rename: a model that cannot be opened is never listed, and what was there before stays. Where a version of the name
//! has the same bytes, laid out alike, the import is that version, and the copy goes.

use super::open::{self, GGUF, Layout, OpenError, Opened};
use lyceum_store::files::Staging;
use lyceum_store::models::{self, Made, NewVersion, Version};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::{Control, Stop};
use lyceum_types::ids::{BadId, ModelName, Project};
use lyceum_types::limits;
use lyceum_types::manifest::{DESCRIPTION_FILES, FORMAT_VERSION, ImportedManifest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Caller: what an adapter is to add to.
    #[error("{id} {problem}")]
    Base { id: String, problem: String },
    #[error("copying {path} failed")]
    Copy { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the import was ended: {0}")]
    Stopped(#[from] Stop),
    #[error("the import broke off")]
    Broken(#[source] tokio::task::JoinError),
}

/// What is to be imported.
#[derive(Clone, Debug)]
pub struct Import {
    /// A GGUF file, or a folder.
    pub path: PathBuf,
    pub name: ModelName,
    /// As the user said where it comes from.
    pub source: String,
    pub layout: Layout,
    /// What a hub says of its licence; the files' own word comes before it.
    pub licence: Option<String>,
}

/// An imported version, and what a user should be told.
pub struct Imported {
    pub version: Version,
    pub manifest: ImportedManifest,
    pub arrival: Arrival,
    pub notes: Vec<String>,
}

/// Whether an import made a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// A version of the name had the same bytes, laid out alike.
    AlreadyThere,
}

/// Whether a path looks like a model that this imports: a GGUF file or a folder with `config.json`.
pub fn is_importable(path: &Path) -> bool {
    if path.is_dir() {
        return path.join("config.json").is_file();
    }
    let mut head = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && &head == b"GGUF"
}

/// A name for a path that was given none: that of the file or folder, in lower case.
pub fn name_of(path: &Path) -> Result<ModelName, BadId> {
    let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let stem = if is_gguf { path.file_stem() } else { path.file_name() };
    let text = stem.map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).parse()
}

/// Copies, opens and publishes, with an entry in the audit log.
pub async fn import(
    store: &Store,
    project: &Project,
    request: Import,
    control: &Control,
    act: &Act,
) -> Result<Imported, ImportError> {
    let staging = Staging::create(store.layout())?;
    let (path, layout, dir, control) =
        (request.path.clone(), request.layout, staging.path().to_owned(), control.clone());
    let work = move || -> Result<_, ImportError> {
        let files = copy(&path, &dir, &control)?;
        let opened = open::folder(dir.as_path(), layout, &control);
        Ok((files, opened.map_err(|error| error.of_copy(&dir, &path))?))
    };
    let (copied, opened) = tokio::task::spawn_blocking(work).await.map_err(ImportError::Broken)??;
    let Copied { files, weights_sha256, weights_bytes } = copied;
    let Opened { model, kind, format, family, licence, notes, .. } = opened;
    let n_parameters: u64 = model.params.ids().map(|id| model.params.shape(id).len() as u64).sum();
    let lyceum_models::InputShape::Tokens { time, .. } = model.shape.input else {
        unreachable!("imported models read tokens: bug")
    };
    let context = time as u64;
    drop(model);
    let new = NewVersion {
        name: request.name.clone(),
        family: family.clone(),
        task: kind.task().to_owned(),
        n_params: n_parameters,
        bytes: weights_bytes,
        sha256: weights_sha256,
        job: None,
        held: None,
    };
    let now = Timestamp::now();
    let mut manifest = ImportedManifest {
        format_version: FORMAT_VERSION,
        kind,
        name: request.name.to_string(),
        version: 0,
        created: now.seconds().max(0) as u64,
        source: request.source,
        format: format.to_owned(),
        family,
        n_parameters,
        quant: layout.quant.map(|quant| quant.name().to_owned()),
        context,
        licence: licence.or(request.licence),
        files,
        base: None,
        tuned: None,
        privacy: None,
    };
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

/// The newest version of the name that is what `manifest` describes, down to the bytes. One that is damaged is no reason
/// not to import it anew.
pub(super) async fn there_already(
    store: &Store,
    project: &Project,
    new: &NewVersion,
    manifest: &ImportedManifest,
) -> Result<Option<(Version, ImportedManifest)>, ImportError> {
    let versions = models::list(store, project).await?;
    let alike = |version: &Version| version.name == new.name && version.sha256 == new.sha256;
    for version in versions.into_iter().rev().filter(alike) {
        if !super::is_imported(&version) {
            continue;
        }
        models::have(store, &version).await?;
        let Ok(there) = super::read_manifest(&version) else { continue };
        if !is_same(&there, manifest) {
            continue;
        }
        let work = move || super::check_files(&version, &there).is_ok().then_some((version, there));
        let whole = tokio::task::spawn_blocking(work).await.map_err(ImportError::Broken)?;
        if whole.is_some() {
            return Ok(whole);
        }
    }
    Ok(None)
}

/// Whether two descriptions are of one model. Where it came from makes no difference but for a hub's reference, by which
/// adapters find their base.
fn is_same(there: &ImportedManifest, new: &ImportedManifest) -> bool {
    let hub = |manifest: &ImportedManifest| manifest.source.starts_with("hf.co/");
    (there.kind, &there.files, &there.quant, there.context, &there.licence, &there.base)
        == (new.kind, &new.files, &new.quant, new.context, &new.licence, &new.base)
        && there.tuned.is_none()
        && (!hub(new) || there.source == new.source)
}

/// Files that were copied.
#[derive(Default)]
pub(super) struct Copied {
    /// Names with sha256.
    pub files: BTreeMap<String, String>,
    /// The hash of the one weight file, or of the shards' hashes in their order.
    pub weights_sha256: String,
    pub weights_bytes: u64,
}

fn copy(from: &Path, to: &Path, control: &Control) -> Result<Copied, ImportError> {
    let mut files = BTreeMap::new();
    if from.is_file() {
        let (sha256, weights_bytes) = copy_file(from, &to.join(GGUF), control)?;
        files.insert(GGUF.to_owned(), sha256.clone());
        return Ok(Copied { files, weights_sha256: sha256, weights_bytes });
    }
    for name in DESCRIPTION_FILES {
        let path = from.join(name);
        if path.is_file() {
            files.insert(name.to_owned(), copy_file(&path, &to.join(name), control)?.0);
        }
    }
    let (mut hashes, mut weights_bytes) = (Vec::new(), 0);
    for path in open::weight_files(&from.into())? {
        let path = path.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (sha256, bytes) = copy_file(path, &to.join(&name), control)?;
        weights_bytes += bytes;
        files.insert(name, sha256.clone());
        hashes.push(sha256);
    }
    let weights_sha256 = match &hashes[..] {
        [one] => one.clone(),
        all => hexadecimal(&Sha256::digest(all.concat())),
    };
    Ok(Copied { files, weights_sha256, weights_bytes })
}

/// Copies one file in pieces; its sha256 and length.
pub(super) fn copy_file(from: &Path, to: &Path, control: &Control) -> Result<(String, u64), ImportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ImportError::Copy { path, source }
    };
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    let mut source = File::open(from).map_err(failed(from))?;
    let mut target = File::create(to).map_err(failed(to))?;
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 4 << 20]);
    loop {
        control.check()?;
        let n = source.read(&mut buffer).map_err(failed(from))?;
        if n == 0 {
            return Ok((hexadecimal(&hash.finalize()), total));
        }
        total += n as u64;
        if total > limits::WEIGHT_FILE_BYTES_MAX {
            let limit = limits::WEIGHT_FILE_BYTES_MAX;
            return Err(failed(from)(io::Error::other(format!("it is longer than {limit} bytes"))));
        }
        hash.update(&buffer[..n]);
        target.write_all(&buffer[..n]).map_err(failed(to))?;
    }
}

/// The sha256 of a file.
pub fn hash_of(path: impl Into<KeyedPath>) -> io::Result<String> {
    let contents = path.into().open()?;
    let (mut file, mut hash, mut buffer) = (contents.reader(), Sha256::new(), vec![0; 4 << 20]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hexadecimal(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
