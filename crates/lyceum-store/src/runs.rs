//! Background runs: one JSON document each, rewritten as the run goes on, beside the rows that it found and a lock
//! that says whether the process that works on it lives.
//!
//! A run belongs to the machine that works on it until it ends: then [`keep`] brings it to the object store, where there
//! is one, and every machine has it. Before, no other machine could say whether it is still worked on.

use crate::backup::with_slashes;
use crate::blobs::loose::{self, Copy};
use crate::blobs::release;
use crate::files::{WorkLock, create_private_dir};
use crate::vault::{read_document, write_document};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use std::path::PathBuf;

/// The files of a run: rows before the document that speaks of them.
const EXTENSIONS: [&str; 2] = ["jsonl", "json"];

/// What a run is about; ids begin with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Robustness,
    Explanation,
    Cascade,
    Audit,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Robustness, Kind::Explanation, Kind::Cascade, Kind::Audit];

    fn prefix(self) -> &'static str {
        match self {
            Kind::Robustness => "rob_",
            Kind::Explanation => "expl_",
            Kind::Cascade => "casc_",
            Kind::Audit => "audit_",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Robustness => "robustness run",
            Kind::Explanation => "explanation",
            Kind::Cascade => "cascade",
            Kind::Audit => "privacy audit",
        }
    }
}

/// A prefix and 32 hexadecimal digits: never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(String);

impl RunId {
    /// The id of a run that begins now; ids of a kind sort by their time.
    pub fn new(kind: Kind) -> Self {
        RunId(format!("{}{}", kind.prefix(), uuid::Uuid::now_v7().simple()))
    }

    /// None: no run of this kind is called so.
    pub fn parse(kind: Kind, text: &str) -> Option<Self> {
        let digits = text.strip_prefix(kind.prefix())?;
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (digits.len() == 32 && digits.chars().all(is_hex)).then(|| RunId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Takes a run; `Ok(None)` when a living process works on it.
///
/// # Errors
/// The disk.
pub fn own(store: &Store, project: &Project, id: &RunId) -> Result<Option<WorkLock>, StoreError> {
    create_private_dir(&store.layout().runs(project))?;
    WorkLock::try_take(path(store, project, id, "lock"))
}

/// Writes the document, whole or not at all.
///
/// # Errors
/// The disk.
pub fn save(store: &Store, project: &Project, id: &RunId, json: &[u8]) -> Result<(), StoreError> {
    write_document(store, project, &path(store, project, id, "json"), json)
}

/// Writes the rows that a run found, a JSON document a line.
///
/// # Errors
/// The disk.
pub fn save_lines(store: &Store, project: &Project, id: &RunId, lines: &[u8]) -> Result<(), StoreError> {
    write_document(store, project, &path(store, project, id, "jsonl"), lines)
}

/// Brings a run that has ended to the object store, where there is one.
///
/// # Errors
/// The disk; the object store.
pub async fn keep(store: &Store, project: &Project, id: &RunId) -> Result<(), StoreError> {
    let (folder, owner) = (store.layout().runs(project), owner(store, project));
    let files = EXTENSIONS.map(|extension| format!("{}.{extension}", id.0));
    let names: Vec<&str> =
        files.iter().map(String::as_str).filter(|name| folder.join(name).exists()).collect();
    let coming = loose::bring(store, project, (&folder, &names), Timestamp::now()).await?;
    let Some(coming) = coming else { return Ok(()) };
    let mut transaction = store.write().await?;
    let replaced = loose::join(&mut transaction, &coming, &owner).await?;
    transaction.commit().await?;
    release(store, replaced).await;
    Ok(())
}

/// Sees to it that a run that has ended is on this machine, whichever worked on it.
///
/// # Errors
/// The object store does not give it, or other bytes than were written.
pub async fn have(store: &Store, project: &Project, id: &RunId) -> Result<(), StoreError> {
    if store.blobs().is_none() && path(store, project, id, "json").exists() {
        return Ok(());
    }
    let is_its = |name: &str| name.strip_prefix(&id.0).is_some_and(|rest| rest.starts_with('.'));
    loose::have(store, &owner(store, project), |name| is_its(name).then_some(Copy::Constant)).await
}

/// Where runs lie below the data folder.
fn owner(store: &Store, project: &Project) -> String {
    let folder = store.layout().runs(project);
    with_slashes(folder.strip_prefix(store.layout().root()).unwrap_or(&folder))
}

/// # Errors
/// There is no such run.
pub fn read(store: &Store, project: &Project, id: &RunId) -> Result<Vec<u8>, StoreError> {
    read_file(store, project, id, "json")
}

/// # Errors
/// There is no such run, or it has no rows (yet).
pub fn read_lines(store: &Store, project: &Project, id: &RunId) -> Result<Vec<u8>, StoreError> {
    read_file(store, project, id, "jsonl")
}

/// Every run of a kind, oldest first: those of this machine, and those that have ended on any.
///
/// # Errors
/// The disk, the database.
pub async fn list(store: &Store, project: &Project, kind: Kind) -> Result<Vec<RunId>, StoreError> {
    let elsewhere = loose::names(store, &owner(store, project)).await?;
    let mut ids = list_here(store, project, kind)?;
    ids.extend(elsewhere.iter().filter_map(|name| id_of(kind, name)));
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn list_here(store: &Store, project: &Project, kind: Kind) -> Result<Vec<RunId>, StoreError> {
    Ok(names_here(store, project)?.iter().filter_map(|name| id_of(kind, name)).collect())
}

fn names_here(store: &Store, project: &Project) -> Result<Vec<String>, StoreError> {
    let folder = store.layout().runs(project);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::file("list", &folder, error)),
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Runs of this machine that somebody works on, or whose process was gone before every machine had them: a lock lies
/// beside each.
///
/// # Errors
/// The disk.
pub fn owned(store: &Store, project: &Project) -> Result<Vec<(Kind, RunId)>, StoreError> {
    let names = names_here(store, project)?;
    let run = |name: &String| {
        let name = name.strip_suffix(".lock")?;
        Kind::ALL.into_iter().find_map(|kind| Some((kind, RunId::parse(kind, name)?)))
    };
    Ok(names.iter().filter_map(run).collect())
}

/// The run that a file is the document of.
fn id_of(kind: Kind, name: &str) -> Option<RunId> {
    RunId::parse(kind, name.strip_suffix(".json")?)
}

/// Removes the oldest runs beyond `kept`; one that somebody works on stays.
///
/// # Errors
/// The disk, the database.
pub async fn trim(store: &Store, project: &Project, kind: Kind, kept: usize) -> Result<(), StoreError> {
    let ids = list(store, project, kind).await?;
    for id in &ids[..ids.len().saturating_sub(kept)] {
        let Some(_lock) = own(store, project, id)? else { continue };
        let names = EXTENSIONS.map(|extension| format!("{}.{extension}", id.0));
        if store.blobs().is_some() {
            loose::remove(store, &owner(store, project), &names).await?;
        }
        for name in names {
            let path = store.layout().runs(project).join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::file("remove", &path, error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn read_file(store: &Store, project: &Project, id: &RunId, extension: &str) -> Result<Vec<u8>, StoreError> {
    let path = path(store, project, id, extension);
    let found = read_document(store, project, &path)?;
    found.ok_or_else(|| StoreError::NotFound { what: "run", id: id.0.clone() })
}

fn path(store: &Store, project: &Project, id: &RunId, extension: &str) -> PathBuf {
    store.layout().runs(project).join(format!("{}.{extension}", id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_owned_once_found_by_its_project_and_trimmed_when_nobody_works_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(crate::Layout::new(folder.path()), lyceum_types::clock::Timestamp::now());
        let store = store.await.unwrap();
        let ours = Project::default_project();
        let theirs = Project { tenant: "other".into(), id: "default".into() };
        let (first, second) = (RunId::new(Kind::Robustness), RunId::new(Kind::Robustness));
        let lock = own(&store, &ours, &first).unwrap().unwrap();
        assert!(own(&store, &ours, &first).unwrap().is_none(), "somebody works on it");
        for id in [&first, &second] {
            save(&store, &ours, id, b"{}").unwrap();
        }
        save_lines(&store, &ours, &second, b"{}\n").unwrap();
        assert!(matches!(read(&store, &theirs, &first), Err(StoreError::NotFound { .. })));
        assert_eq!(list(&store, &ours, Kind::Robustness).await.unwrap(), [first.clone(), second.clone()]);
        assert!(list(&store, &ours, Kind::Explanation).await.unwrap().is_empty());
        trim(&store, &ours, Kind::Robustness, 0).await.unwrap();
        assert_eq!(list(&store, &ours, Kind::Robustness).await.unwrap(), std::slice::from_ref(&first));
        assert_eq!(owned(&store, &ours).unwrap(), [(Kind::Robustness, first.clone())]);
        drop(lock);
        assert!(owned(&store, &ours).unwrap().is_empty());
        trim(&store, &ours, Kind::Robustness, 0).await.unwrap();
        assert!(list(&store, &ours, Kind::Robustness).await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(store.layout().runs(&ours)).unwrap().count(), 0, "no file is left");
        for wrong in ["rob_", "rob_../../x", "expl_00000000000000000000000000000000"] {
            assert!(RunId::parse(Kind::Robustness, wrong).is_none(), "{wrong}");
        }
    }
}
