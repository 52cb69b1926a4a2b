//! A version's files as other programs read them: which there are and what they hold. Where they go, the caller knows:
//! into a folder, or as an archive into a stream.
//!
//! Nothing is written on the way, so that what is sealed lies nowhere in plain form.

use crate::language::{Language, adapter, merged, open::OpenError};
use crate::{Service, ServiceError};
use futures_util::stream::{self, Stream};
use lyceum_store::layout::{MANIFEST, WEIGHTS};
use lyceum_store::models::{self, Version};
use lyceum_store::registry::{self, Act};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError};
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::limits;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A form that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    Gguf,
    Peft,
}

impl Format {
    pub const ALL: [Format; 3] = [Format::Safetensors, Format::Gguf, Format::Peft];

    pub fn as_str(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
            Format::Peft => "peft",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Caller: it is not written in this form.
    #[error("{id} is not written as {wanted}")]
    Format { id: String, wanted: &'static str, why: String },
    /// Caller: an adapter and its base have no common files in this form.
    #[error("{id} cannot be merged")]
    Unmergeable { id: String, source: OpenError },
    /// Caller: it has no weights of its own.
    #[error("{id} is a cascade, which has no weights")]
    Cascade { id: String },
    /// Operator: a file is not what was registered.
    #[error("{file} of {id} is damaged")]
    Damaged { id: String, file: String, path: PathBuf, found: String, expected: String },
    /// Operator: the disk.
    #[error("reading {path} failed")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        ExportError::Service(error.into())
    }
}

/// Without a path of this machine.
impl From<ExportError> for ServiceError {
    fn from(error: ExportError) -> Self {
        let message = error.to_string();
        match error {
            ExportError::Format { why, .. } => {
                ServiceError::invalid("format", "unsupported_format", format!("{message}: {why}"))
            }
            ExportError::Unmergeable { source: OpenError::File { problem, .. }, .. } => {
                ServiceError::invalid("format", "unsupported_format", format!("{message}: {problem}"))
            }
            ExportError::Unmergeable { source, .. } => ServiceError::internal("the export", source),
            ExportError::Cascade { .. } => {
                let message = format!("{message}: export its members");
                ServiceError::invalid("model", "unsupported_model", message)
            }
            ExportError::Damaged { ref id, .. } => {
                ServiceError::Damaged { id: id.clone(), source: Box::new(error) }
            }
            ExportError::Read { source, .. } => ServiceError::internal("the export", source),
            ExportError::Service(error) => error,
        }
    }
}

/// What is to be written.
pub struct Export {
    pub version: Version,
    /// The weights' form: one of [`Format`], or as an imported version's files came.
    pub format: String,
    /// By name, which may have folders.
    pub files: Vec<File>,
}

/// One file of an export.
pub struct File {
    pub name: String,
    content: Content,
}

pub(crate) enum Content {
    Kept(KeyedPath),
    Made(Vec<u8>),
    /// An adapter in its base's GGUF file.
    Merged(Arc<Language>),
}

impl File {
    pub(crate) fn new(name: impl Into<String>, content: Content) -> Self {
        File { name: name.into(), content }
    }

    /// How much [`write`](Self::write) writes; what is merged is merged for it.
    ///
    /// # Errors
    /// The disk.
    pub fn n_bytes(&self) -> io::Result<u64> {
        match &self.content {
            Content::Kept(path) => path.n_bytes(),
            Content::Made(bytes) => Ok(bytes.len() as u64),
            Content::Merged(_) => {
                let mut counter = Counter(0);
                self.write(&mut counter)?;
                Ok(counter.0)
            }
        }
    }

    /// # Errors
    /// The disk, or who reads.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.content {
            Content::Kept(path) => io::copy(&mut path.open()?.reader(), out).map(drop),
            Content::Made(bytes) => out.write_all(bytes),
            Content::Merged(language) => merged::gguf(language, out).map_err(io::Error::other),
        }
    }
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0 += part.len() as u64;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The files of a version of the project, for a client, with an entry in the audit log.
///
/// # Errors
/// The project has no such model, or is merely given it or its base; what [`of`] says.
pub async fn create(
    service: &Service,
    project: &Project,
    reference: &ModelRef,
    format: Option<Format>,
    act: &Act,
) -> Result<Export, ServiceError> {
    let version = service.own(project, reference).await.map_err(|error| match error {
        // What is not listed is not found either.
        ServiceError::ModelForbidden { id, .. } => ServiceError::ModelNotFound { id },
        other => other,
    })?;
    if adapter::is_adapter(&version) && format.is_some_and(|format| format != Format::Peft) {
        let base = adapter::base_of(service.store(), &version).await?;
        if base.owner != *project {
            let message = format!(
                "{} adds to {}, which is shared with this project to be asked and nothing else: export it as peft",
                version.id(),
                base.id()
            );
            return Err(ServiceError::Refused { code: "shared_model", message });
        }
    }
    let export = of(service.store(), version, format).await?;
    let (name, number) = (&export.version.name, export.version.number);
    registry::exported(service.store(), project, name, number, &export.format, act).await?;
    Ok(export)
}

/// The files of a version, each held to its hash, so that damage is not handed on. `wanted` is the form of the weights;
/// None: the one that they have.
///
/// # Errors
/// It has no such form; its files or those of its base are damaged or gone.
pub async fn of(store: &Store, version: Version, wanted: Option<Format>) -> Result<Export, ExportError> {
    if crate::cascades::is_cascade(&version) {
        return Err(ExportError::Cascade { id: version.id() });
    }
    let checked = version.clone();
    let own = blocking(move || check(&checked)).await?;
    let Some(format) = wanted.filter(|wanted| wanted.as_str() != own) else {
        let folder = version.dir.clone();
        let files = blocking(move || {
            let mut files = Vec::new();
            kept(&folder, "", &mut files)?;
            Ok(files)
        });
        return Ok(Export { files: files.await?, version, format: own });
    };
    if format == Format::Peft || !adapter::is_adapter(&version) {
        let why = format!("it was imported as {own}, and its files are handed on as they are");
        return Err(ExportError::Format { id: version.id(), wanted: format.as_str(), why });
    }
    let base = adapter::base_of(store, &version).await?;
    let added = version.clone();
    let files = blocking(move || {
        let base = Arc::new(Language::open(base)?);
        let language = adapter::read(added, &base)?;
        let id = language.version.id();
        let files = match format {
            Format::Gguf => merged::gguf_of(language),
            _ => merged::safetensors(&language),
        };
        files.map_err(|source| ExportError::Unmergeable { id, source })
    });
    Ok(Export { files: files.await?, version, format: format.as_str().to_owned() })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("the export broke off", error))?
}

/// Holds every file that the manifest names to its hash; the weights' form.
fn check(version: &Version) -> Result<String, ExportError> {
    let read = |path: &KeyedPath| {
        let path = path.path().to_owned();
        move |source| ExportError::Read { path, source }
    };
    let damaged = |why: String| ServiceError::Damaged { id: version.id(), source: why.into() };
    let path = version.dir.join(MANIFEST);
    let text = path.read_to_string().map_err(read(&path))?;
    models::check_manifest(&version.dir, text.as_bytes()).map_err(|error| damaged(error.to_string()))?;
    let manifest: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| damaged(format!("its manifest is no JSON: {error}")))?;
    let mut files: Vec<(&str, &str)> = Vec::new();
    for (file, hash) in manifest["files"].as_object().into_iter().flatten() {
        let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        if file.contains(['\\', ':']) || !file.split('/').all(is_plain) {
            return Err(damaged(format!("{file:?} is no name of a model's file")).into());
        }
        files.push((file, hash.as_str().unwrap_or_default()));
    }
    // A trained version's manifest has no kind, and its weights are named by the row.
    let is_trained = manifest.get("kind").is_none();
    if is_trained {
        files.push((WEIGHTS, &version.sha256));
    }
    for (file, expected) in files {
        let path = version.dir.join(file);
        let found = crate::language::import::hash_of(&path).map_err(read(&path))?;
        if found != expected {
            let (file, path) = (file.to_owned(), path.path().to_owned());
            let expected = expected.to_owned();
            return Err(ExportError::Damaged { id: version.id(), file, path, found, expected });
        }
    }
    let format = if is_trained { Some("safetensors") } else { manifest["format"].as_str() };
    Ok(format.ok_or_else(|| damaged("its manifest names no format".into()))?.to_owned())
}

/// The files as an archive, made while it is read: how long it is, and its parts. Who stops reading ends it.
///
/// # Errors
/// The disk.
pub async fn stream(
    export: Export,
) -> Result<(u64, impl Stream<Item = io::Result<Vec<u8>>> + use<>), ServiceError> {
    let export = Arc::new(export);
    let measured = export.clone();
    let n_bytes = tokio::task::spawn_blocking(move || archive_bytes(&measured)).await;
    let n_bytes = n_bytes.map_err(|error| ServiceError::internal("the export broke off", error))?;
    let n_bytes = n_bytes.map_err(|error| ServiceError::internal("the export", error))?;
    let (sender, receiver) = mpsc::channel(PARTS_WAITING_MAX);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PART_BYTES, Parts { sender: sender.clone(), runtime });
        let done = archive(&export, &mut out).and_then(|()| out.flush());
        if let Err(error) = done {
            tracing::warn!(%error, id = export.version.id(), "an export ended early");
            // The archive is shorter than it was said to be, also where nobody hears of it.
            let _ = sender.try_send(Err(error));
        }
    });
    let parts = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    Ok((n_bytes, parts))
}

const PART_BYTES: usize = 256 << 10;
/// Between who makes an archive and who sends it.
const PARTS_WAITING_MAX: usize = 4;

/// Hands on what is written, and waits for who reads.
struct Parts {
    sender: mpsc::Sender<io::Result<Vec<u8>>>,
    runtime: tokio::runtime::Handle,
}

impl Write for Parts {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let sent = self.sender.send_timeout(Ok(part.to_vec()), limits::BODY_TIMEOUT);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client reads no more");
        self.runtime.block_on(sent).map_err(gone)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long [`archive`] is: each file behind its header and padded to a block, and two blocks at the end.
///
/// # Errors
/// The disk.
pub fn archive_bytes(export: &Export) -> io::Result<u64> {
    let mut n_bytes = 2 * BLOCK_BYTES;
    for file in &export.files {
        n_bytes += BLOCK_BYTES + file.n_bytes()?.next_multiple_of(BLOCK_BYTES);
    }
    Ok(n_bytes)
}

/// Writes the files as a tar archive whose bytes the files alone decide.
///
/// # Errors
/// The disk, who reads, or a name that is too long for a header.
pub fn archive(export: &Export, out: &mut dyn Write) -> io::Result<()> {
    for file in &export.files {
        let n_bytes = file.n_bytes()?;
        let mut header = tar::Header::new_ustar();
        header.set_path(&file.name)?;
        header.set_size(n_bytes);
        header.set_mode(0o644);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        file.write(out)?;
        let padding = n_bytes.next_multiple_of(BLOCK_BYTES) - n_bytes;
        out.write_all(&[0; BLOCK_BYTES as usize][..padding as usize])?;
    }
    out.write_all(&[0; 2 * BLOCK_BYTES as usize])
}

/// Of a tar archive.
const BLOCK_BYTES: u64 = 512;

/// Every file of a folder, by name; imported models have folders of their own (`1_Pooling`).
fn kept(folder: &KeyedPath, within: &str, files: &mut Vec<File>) -> Result<(), ExportError> {
    let failed = |source| ExportError::Read { path: folder.path().to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort();
    for name in names {
        let place = folder.join(&name);
        let name = format!("{within}{}", name.to_string_lossy());
        match place.is_dir() {
            true => kept(&place, &format!("{name}/"), files)?,
            false => files.push(File::new(name, Content::Kept(place))),
        }
    }
    Ok(())
}
