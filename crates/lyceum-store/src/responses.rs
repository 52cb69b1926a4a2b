//! Answers that a project asked to keep: one JSON document each, until it expires.
//!
//! An id is a UUID that begins with its time, so what has expired is told by its name alone.

use crate::files::{WorkLock, create_private_dir};
use crate::vault::{read_document, write_document};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::path::{Path, PathBuf};

const PREFIX: &str = "resp_";

/// `resp_` and 32 hexadecimal digits: never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResponseId(String);

impl ResponseId {
    /// The id of an answer that begins now; ids sort by their time.
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        ResponseId(format!("{PREFIX}{}", uuid::Uuid::now_v7().simple()))
    }

    /// None: no answer is called so.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (digits.len() == 32 && digits.chars().all(is_hex)).then(|| ResponseId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        // A UUID of version 7 begins with 48 bits of milliseconds since 1970.
        let digits = &self.0[PREFIX.len()..PREFIX.len() + 12];
        let made = i64::from_str_radix(digits, 16).expect("an id has hexadecimal digits: bug");
        now.millis().saturating_sub(made) > limits::RESPONSE_KEPT.as_millis() as i64
    }
}

/// Keeps a document. Those that have expired go, and the oldest beyond [`limits::RESPONSES_MAX`].
///
/// # Errors
/// The disk.
pub fn save(
    store: &Store,
    project: &Project,
    id: &ResponseId,
    json: &[u8],
    now: Timestamp,
) -> Result<(), StoreError> {
    let folder = store.layout().responses(project);
    create_private_dir(&folder)?;
    trim(&folder, limits::RESPONSES_MAX - 1, now)?;
    write_document(store, project, &path(&folder, id), json)
}

/// Takes an answer that is to be made in the background; `Ok(None)` when a living process makes it.
///
/// # Errors
/// The disk.
pub fn own(store: &Store, project: &Project, id: &ResponseId) -> Result<Option<WorkLock>, StoreError> {
    let folder = store.layout().responses(project);
    create_private_dir(&folder)?;
    WorkLock::try_take(folder.join(format!("{}.lock", id.0)))
}

/// # Errors
/// There is none (any more).
pub fn read(
    store: &Store,
    project: &Project,
    id: &ResponseId,
    now: Timestamp,
) -> Result<Vec<u8>, StoreError> {
    let path = path(&store.layout().responses(project), id);
    if id.has_expired(now) {
        remove(&path)?;
        return Err(unknown(id));
    }
    read_document(store, project, &path)?.ok_or_else(|| unknown(id))
}

/// # Errors
/// There is none (any more).
pub fn delete(store: &Store, project: &Project, id: &ResponseId, now: Timestamp) -> Result<(), StoreError> {
    let is_there = remove(&path(&store.layout().responses(project), id))?;
    if is_there && !id.has_expired(now) { Ok(()) } else { Err(unknown(id)) }
}

fn trim(folder: &Path, kept: usize, now: Timestamp) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(folder).map_err(|error| StoreError::file("list", folder, error))?;
    // What has another name was not written here.
    let id = |name: String| ResponseId::parse(name.strip_suffix(".json")?);
    let mut ids: Vec<ResponseId> =
        entries.flatten().filter_map(|entry| id(entry.file_name().to_string_lossy().into_owned())).collect();
    ids.sort();
    let n_over = ids.len().saturating_sub(kept);
    for (i, id) in ids.iter().enumerate() {
        if i >= n_over && !id.has_expired(now) {
            break;
        }
        remove(&path(folder, id))?;
    }
    Ok(())
}

/// False where there was no file.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::file("remove", path, error)),
    }
}

fn unknown(id: &ResponseId) -> StoreError {
    StoreError::NotFound { what: "response", id: id.0.clone() }
}

fn path(folder: &Path, id: &ResponseId) -> PathBuf {
    folder.join(format!("{}.json", id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_its_projects_own_and_goes_when_it_expires_or_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let store = Store::open(crate::Layout::new(folder.path()), now).await.unwrap();
        let ours = Project::default_project();
        let theirs = Project { tenant: "other".into(), id: "default".into() };
        let (first, second) = (ResponseId::new(), ResponseId::new());
        save(&store, &ours, &first, b"{}", now).unwrap();
        save(&store, &ours, &second, b"{\"a\":1}", now).unwrap();
        assert_eq!(read(&store, &ours, &second, now).unwrap(), b"{\"a\":1}");
        assert!(matches!(read(&store, &theirs, &first, now), Err(StoreError::NotFound { .. })));
        assert!(delete(&store, &theirs, &first, now).is_err());
        delete(&store, &ours, &first, now).unwrap();
        assert!(delete(&store, &ours, &first, now).is_err() && read(&store, &ours, &first, now).is_err());
        let kept = limits::RESPONSE_KEPT.as_millis() as i64;
        let almost = Timestamp::from_millis(now.millis() + kept - 60_000);
        assert!(read(&store, &ours, &second, almost).is_ok());
        let later = Timestamp::from_millis(now.millis() + kept + 60_000);
        assert!(matches!(read(&store, &ours, &second, later), Err(StoreError::NotFound { .. })));
        assert_eq!(std::fs::read_dir(store.layout().responses(&ours)).unwrap().count(), 0);
        let lock = own(&store, &ours, &second).unwrap();
        assert!(lock.is_some() && own(&store, &ours, &second).unwrap().is_none(), "somebody makes it");
        drop(lock);
        assert_eq!(std::fs::read_dir(store.layout().responses(&ours)).unwrap().count(), 0, "no file is left");
        for wrong in ["resp_", "resp_../../x", "rob_00000000000000000000000000000000"] {
            assert!(ResponseId::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_oldest_leave_first() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<ResponseId> = (0..4).map(|_| ResponseId::new()).collect();
        for id in &ids {
            std::fs::write(path(folder.path(), id), b"{}").unwrap();
        }
        trim(folder.path(), 3, Timestamp::now()).unwrap();
        assert!(!path(folder.path(), &ids[0]).exists() && path(folder.path(), &ids[1]).exists());
    }
}
