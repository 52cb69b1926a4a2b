//! Envelope encryption of what a project keeps.
//!
//! ```text
//! master key     32 bytes in a file outside the data folder; the operator's
//!  └ wraps       a project's key, DATA_DIR/keyring/TENANT/PROJECT.json; made with the project, destroyed by `erase`
//!     └ derives  a key for each document and file (HKDF-SHA256 over a salt of its own), which seals it ([`sealed`])
//! ```
//! A project is encrypted from its first byte or not at all: a key is made before anything is kept, so there is never a
//! plain copy to hunt for. Without the master key what it keeps cannot be read ([`StoreError::Locked`]), and once its key
//! is destroyed nobody reads it again ([`StoreError::Erased`]): that is what erasing a tenant means here. A backup holds
//! the wrapped key as it was; the receipt of an erasure says so.
//!
//! Sealed are kept answers, background runs, files and their names, uploads, batches and what they answer, answers kept
//! for an `Idempotency-Key`, what is asked of jobs and what they say, their checkpoints and logs, the versions that they
//! make with their evidence and cards, and choices. Rows of administration, the audit log, the ledger (counts and
//! amounts) and models that are imported are not.
//!
//! What a sealed file is stands in `lyceum-seal`; here is who has which key. A process that works on one job is handed its
//! project's key ([`Store::handed`](crate::Store::handed)) and never sees the master key. This module knows bytes, paths
//! and keys; not what a document says.

pub mod erase;
mod master;

pub use lyceum_seal::{Contents, KeyedPath, ProjectKey, lines, sealed};
pub use master::MasterKey;

use crate::files::{create_private_dir, sync_dir, write_durably};
use crate::{Layout, Store, StoreError};
use lyceum_seal::{from_hexadecimal, hexadecimal};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FORMAT_VERSION: u32 = 1;

/// A project's key as it lies on the disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    format_version: u32,
    key_id: String,
    master_key_id: String,
    /// The key, sealed by the master key; hexadecimal.
    wrapped: String,
    created_at: i64,
}

/// What is left of a key that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroyed {
    pub key_id: String,
    pub destroyed_at: i64,
}

/// Keys of projects, and the master key that opens them where this process was given it.
#[derive(Clone, Debug)]
pub struct Keyring {
    layout: Layout,
    master: Option<Arc<MasterKey>>,
    /// The key of the one project that this process works for.
    handed: Option<Arc<(Project, ProjectKey)>>,
}

impl Keyring {
    pub(crate) fn locked(layout: Layout) -> Self {
        Self { layout, master: None, handed: None }
    }

    pub(crate) fn with_master(self, master: MasterKey) -> Self {
        Self { master: Some(Arc::new(master)), ..self }
    }

    pub(crate) fn with_handed(self, project: Project, key: ProjectKey) -> Self {
        Self { handed: Some(Arc::new((project, key))), ..self }
    }

    /// By which clients name the master key; `None`: this process has none.
    pub fn master_id(&self) -> Option<&str> {
        self.master.as_deref().map(MasterKey::id)
    }

    /// Makes the key of a project that keeps nothing yet.
    ///
    /// # Errors
    /// This process has no master key; the project has a key, or had one; the disk.
    pub fn create(&self, project: &Project, now: Timestamp) -> Result<(), StoreError> {
        let master =
            self.master.as_deref().ok_or_else(|| locked(project, "this process has no master key"))?;
        let path = self.layout.project_key(project);
        if self.wrapped(project)?.is_some() {
            let message = format!("the project {} has a key already", project.id);
            return Err(StoreError::Refused { code: "already_encrypted", message });
        }
        let key = ProjectKey::draw().map_err(random)?;
        self.write(&path, &wrap(&key, project, master, now.millis())?)
    }

    /// The key of a project; `None`: what it keeps is not encrypted.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Erased`], damage.
    pub fn of(&self, project: &Project) -> Result<Option<ProjectKey>, StoreError> {
        let Some(wrapped) = self.wrapped(project)? else { return Ok(None) };
        if let Some((handed, key)) = self.handed.as_deref()
            && handed == project
            && hexadecimal(key.id()) == wrapped.key_id
        {
            return Ok(Some(key.clone()));
        }
        let master =
            self.master.as_deref().ok_or_else(|| locked(project, "this process has no master key"))?;
        self.unwrap(project, &wrapped, master).map(Some)
    }

    /// Whether what a project keeps is sealed. Needs no master key; an erased project counts.
    ///
    /// # Errors
    /// Damage; the disk.
    pub fn is_encrypted(&self, project: &Project) -> Result<bool, StoreError> {
        match self.wrapped(project) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::Erased { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The id of the master key that opens a project's key.
    ///
    /// # Errors
    /// As [`is_encrypted`](Self::is_encrypted).
    pub fn opened_by(&self, project: &Project) -> Result<Option<String>, StoreError> {
        match self.wrapped(project) {
            Ok(found) => Ok(found.map(|wrapped| wrapped.master_key_id)),
            Err(StoreError::Erased { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Destroys a project's key: overwritten, flushed, removed. Works without the master key. A second call answers as
    /// the first.
    ///
    /// # Errors
    /// The project was never encrypted; the disk.
    pub fn destroy(&self, project: &Project, now: Timestamp) -> Result<Destroyed, StoreError> {
        let wrapped = match self.wrapped(project) {
            Ok(Some(wrapped)) => wrapped,
            Ok(None) => {
                let message =
                    format!("the project {} is not encrypted: there is no key to destroy", project.id);
                return Err(StoreError::Refused { code: "not_encrypted", message });
            }
            Err(StoreError::Erased { .. }) => return self.destroyed(project),
            Err(error) => return Err(error),
        };
        let (path, mark) = (self.layout.project_key(project), self.layout.project_key_destroyed(project));
        let destroyed = Destroyed { key_id: wrapped.key_id, destroyed_at: now.seconds() };
        // The mark first: a crash in between leaves a key that nobody is given any more, and the next call removes it.
        write_durably(&mark, &serde_json::to_vec(&destroyed).expect("plain data: bug"))?;
        shred(&path)?;
        Ok(destroyed)
    }

    /// Wraps every project's key with another master key; what they seal stays as it is.
    ///
    /// # Errors
    /// This process has not the master key that opens one of them; the disk. Keys that were wrapped anew stay so: a
    /// second call goes on.
    pub fn rewrap(&self, to: &MasterKey) -> Result<usize, StoreError> {
        let mut n_wrapped = 0;
        for project in self.projects()? {
            let wrapped = match self.wrapped(&project) {
                Ok(Some(wrapped)) if wrapped.master_key_id != to.id() => wrapped,
                Ok(_) | Err(StoreError::Erased { .. }) => continue,
                Err(error) => return Err(error),
            };
            let master =
                self.master.as_deref().ok_or_else(|| locked(&project, "this process has no master key"))?;
            let key = self.unwrap(&project, &wrapped, master)?;
            let path = self.layout.project_key(&project);
            let anew = wrap(&key, &project, to, wrapped.created_at)?;
            let failed = |error| StoreError::file("replace", &path, error);
            let old = std::fs::OpenOptions::new().write(true).open(&path).map_err(failed)?;
            self.write(&path, &anew)?;
            // It has no name any more; what it held opens nothing with the old master key afterwards.
            overwrite(old).map_err(failed)?;
            n_wrapped += 1;
        }
        Ok(n_wrapped)
    }

    /// Projects that have a key.
    fn projects(&self) -> Result<Vec<Project>, StoreError> {
        let names = |path: &Path| -> Result<Vec<String>, StoreError> {
            match std::fs::read_dir(path) {
                Ok(entries) => {
                    Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(StoreError::file("list", path, error)),
            }
        };
        let root = self.layout.keyring();
        let mut projects = Vec::new();
        for tenant in names(&root)? {
            for file in names(&root.join(&tenant))? {
                if let Some(id) = file.strip_suffix(".json") {
                    let text = |part: &str| crate::layout::text_of_folder(part);
                    projects.push(Project { tenant: text(&tenant), id: text(id) });
                }
            }
        }
        Ok(projects)
    }

    fn wrapped(&self, project: &Project) -> Result<Option<Wrapped>, StoreError> {
        let path = self.layout.project_key(project);
        if self.layout.project_key_destroyed(project).exists() {
            if path.exists() {
                shred(&path)?;
            }
            let at = self.destroyed(project)?.destroyed_at;
            return Err(StoreError::Erased { project: project.id.clone(), at });
        }
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::file("read", &path, error)),
        };
        let damaged = |why: String| StoreError::DamagedFile { path: path.clone(), why };
        let wrapped: Wrapped = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if wrapped.format_version != FORMAT_VERSION {
            return Err(damaged(format!("its format_version is {}", wrapped.format_version)));
        }
        Ok(Some(wrapped))
    }

    fn unwrap(
        &self,
        project: &Project,
        wrapped: &Wrapped,
        master: &MasterKey,
    ) -> Result<ProjectKey, StoreError> {
        if wrapped.master_key_id != master.id() {
            let why = format!(
                "its key is wrapped by the master key {}, and this process has {}",
                wrapped.master_key_id,
                master.id()
            );
            return Err(locked(project, &why));
        }
        let path = self.layout.project_key(project);
        let damaged = |why: &str| StoreError::DamagedFile { path: path.clone(), why: why.into() };
        let sealed = from_hexadecimal(&wrapped.wrapped).ok_or_else(|| damaged("it is not hexadecimal"))?;
        let opened = sealed::open(master.key(), &context(project), &sealed);
        let opened = opened.map_err(|_| damaged("the master key does not open it"))?;
        let key = ProjectKey::of_bytes(&opened).ok_or_else(|| damaged("a key has 32 bytes"))?;
        if hexadecimal(key.id()) != wrapped.key_id {
            return Err(damaged("it holds another key than it says"));
        }
        Ok(key)
    }

    fn write(&self, path: &Path, wrapped: &Wrapped) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(path);
        create_private_dir(folder)?;
        write_durably(path, &serde_json::to_vec(wrapped).expect("plain data: bug"))?;
        sync_dir(folder.parent().unwrap_or(folder))
    }

    fn destroyed(&self, project: &Project) -> Result<Destroyed, StoreError> {
        let path = self.layout.project_key_destroyed(project);
        let text = std::fs::read(&path).map_err(|error| StoreError::file("read", &path, error))?;
        serde_json::from_slice(&text)
            .map_err(|error| StoreError::DamagedFile { path: path.clone(), why: error.to_string() })
    }
}

fn wrap(
    key: &ProjectKey,
    project: &Project,
    master: &MasterKey,
    created_at: i64,
) -> Result<Wrapped, StoreError> {
    Ok(Wrapped {
        format_version: FORMAT_VERSION,
        key_id: hexadecimal(key.id()),
        master_key_id: master.id().to_owned(),
        wrapped: hexadecimal(&sealed::seal(master.key(), &context(project), key.bytes()).map_err(random)?),
        created_at,
    })
}

/// A key that is moved to another project's place does not open there.
fn context(project: &Project) -> String {
    format!("key of {}/{}", project.tenant, project.id)
}

fn locked(project: &Project, why: &str) -> StoreError {
    StoreError::Locked { project: project.id.clone(), why: why.into() }
}

/// Overwrites a small file in its place, flushes and removes it.
fn shred(path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::file("destroy", path, error);
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
    overwrite(file).map_err(failed)?;
    std::fs::remove_file(path).map_err(failed)?;
    sync_dir(path.parent().unwrap_or(path))
}

fn overwrite(mut file: std::fs::File) -> std::io::Result<()> {
    let n = file.metadata()?.len();
    file.write_all(&vec![0; n as usize])?;
    file.sync_all()
}

/// Writes a project's document, sealed where the project is encrypted, whole or not at all.
pub(crate) fn write_document(
    store: &Store,
    project: &Project,
    path: &Path,
    content: &[u8],
) -> Result<(), StoreError> {
    match store.keyring().of(project)? {
        None => write_durably(path, content),
        Some(key) => write_durably(path, &sealed::seal(&key, &place(store, path), content).map_err(random)?),
    }
}

/// Reads what [`write_document`] wrote; `Ok(None)`: there is none.
pub(crate) fn read_document(
    store: &Store,
    project: &Project,
    path: &PathBuf,
) -> Result<Option<Vec<u8>>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::file("read", path, error)),
    };
    let Some(key) = store.keyring().of(project)? else { return Ok(Some(bytes)) };
    let opened = sealed::open(&key, &place(store, path), &bytes);
    opened.map(Some).map_err(|error| StoreError::DamagedFile { path: path.clone(), why: error.to_string() })
}

/// As [`write_document`], for who holds the place.
pub(crate) fn write_place(place: &KeyedPath, content: &[u8]) -> Result<(), StoreError> {
    let form = place.form(content).map_err(|error| StoreError::file("seal", place.path(), error))?;
    write_durably(&place.lies(), &form)
}

/// The bytes of a file that is sealed where there is a key.
pub(crate) fn contents(path: &Path, key: Option<&ProjectKey>, place: &str) -> Result<Contents, StoreError> {
    Contents::open(path, key.map(|key| (key, place))).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => StoreError::DamagedFile { path: path.to_owned(), why: error.to_string() },
        _ => StoreError::file("open", path, error),
    })
}

/// What the files of versions are sealed for. One name for all of a project, because a version is written before it has
/// its number; which file is whose is told by hashes.
pub(crate) const VERSION: &str = "model version";

/// The folder of a version, which says when it is read why it cannot be.
pub(crate) fn version_place(
    store: &Store,
    owner: &Project,
    path: PathBuf,
    is_sealed: bool,
) -> Result<KeyedPath, StoreError> {
    if !is_sealed {
        return Ok(KeyedPath::plain(path));
    }
    match store.keyring().of(owner) {
        Ok(Some(key)) => Ok(KeyedPath::sealed(path, key, VERSION)),
        Ok(None) => {
            Err(StoreError::DamagedFile { path, why: "it is sealed, and its project has no key".into() })
        }
        Err(error @ (StoreError::Locked { .. } | StoreError::Erased { .. })) => {
            Ok(KeyedPath::closed(path, error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The folder of a job: its log, and its checkpoints below.
///
/// # Errors
/// The project is encrypted and its key cannot be opened.
pub fn job_folder(store: &Store, project: &Project, id: &JobId) -> Result<KeyedPath, StoreError> {
    let path = store.layout().job_dir(id);
    Ok(match store.keyring().of(project)? {
        None => KeyedPath::plain(path),
        Some(key) => KeyedPath::sealed(path, key, &format!("jobs/{id}")),
    })
}

pub(crate) fn random(error: std::io::Error) -> StoreError {
    StoreError::Random(error.to_string())
}

/// Where a document lies below the data folder: what was sealed for one place does not open at another.
fn place(store: &Store, path: &Path) -> String {
    path.strip_prefix(store.layout().root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// A text as a column holds it: sealed where there is a key.
pub(crate) fn seal_text(key: Option<&ProjectKey>, place: &str, text: &str) -> Result<String, StoreError> {
    match key {
        None => Ok(text.to_owned()),
        Some(key) => Ok(hexadecimal(&sealed::seal(key, place, text.as_bytes()).map_err(random)?)),
    }
}

/// What [`seal_text`] wrote.
pub(crate) fn open_text(
    key: Option<&ProjectKey>,
    (table, place): (&'static str, &str),
    text: String,
) -> Result<String, StoreError> {
    let Some(key) = key else { return Ok(text) };
    let damaged = || StoreError::Damaged { table, value: text.chars().take(64).collect() };
    let sealed = from_hexadecimal(&text).ok_or_else(damaged)?;
    let opened = sealed::open(key, place, &sealed).map_err(|_| damaged())?;
    String::from_utf8(opened).map_err(|_| damaged())
}

#[cfg(test)]
mod tests;
