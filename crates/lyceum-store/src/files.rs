//! Durable files, staging folders and locks.
//!
//! A folder is published by writing it under `staging/`, flushing every file and folder of it, renaming it,
//! and flushing the parent: after a crash it is there whole or not at all. What a dead process left under
//! `staging/` is removed by the next one that opens the store; the lock beside each folder says who lives.

pub(crate) mod disk;

use crate::vault::{self, KeyedPath, ProjectKey};
use crate::{Layout, Store, StoreError};
use lyceum_types::ids::{JobId, Project};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Makes a folder and its parents, readable by the owner only.
pub fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    disk::create_dir(&builder, path).map_err(|e| StoreError::file("create folder", path, e))
}

/// Opens (or creates with mode 0600) a file that is only ever locked or opened by SQLite.
pub(crate) fn open_private(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    disk::create(&options, path).map_err(|e| StoreError::file("open", path, e))
}

/// Writes a file so that readers see the old content or the new one, and a crash keeps one of them.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let partial = path.with_extension("partial");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let written = disk::create(&options, &partial)
        .and_then(|mut file| {
            disk::write_all(&mut file, &partial, content).and_then(|()| disk::sync_all(&file, &partial))
        })
        .and_then(|()| disk::rename(&partial, path));
    if let Err(error) = written {
        // The first error is the one to report; a partial file that cannot be removed is inert.
        let _ = fs::remove_file(&partial);
        return Err(StoreError::file("write", path, error));
    }
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Flushes the names in a folder.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|dir| disk::sync_all(&dir, path))
        .map_err(|e| StoreError::file("flush folder", path, e))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Flushes every file and folder below `path`, then `path`.
pub(crate) fn sync_tree(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|e| StoreError::file("list", path, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::file("list", path, e))?;
        let child = entry.path();
        if entry.file_type().map_err(|e| StoreError::file("inspect", &child, e))?.is_dir() {
            sync_tree(&child)?;
        } else {
            File::open(&child)
                .and_then(|file| disk::sync_all(&file, &child))
                .map_err(|e| StoreError::file("flush", &child, e))?;
        }
    }
    sync_dir(path)
}

/// Renames a folder and flushes both parents.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<(), StoreError> {
    disk::rename(from, to).map_err(|e| StoreError::file("rename", to, e))?;
    for parent in [from.parent(), to.parent()].into_iter().flatten() {
        sync_dir(parent)?;
    }
    Ok(())
}

/// An operating-system lock on a file; gone when it is dropped or its process dies, however it dies.
#[derive(Debug)]
pub(crate) struct LockedFile {
    _file: File,
}

/// `Ok(None)` when a living process holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<LockedFile>, StoreError> {
    let file = open_private(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(LockedFile { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(StoreError::file("lock", path, error)),
    }
}

/// Held by the process that works on a document: while it lives, nobody else calls the work broken off.
#[derive(Debug)]
pub struct WorkLock {
    path: PathBuf,
    _lock: LockedFile,
}

impl WorkLock {
    /// `Ok(None)` when a living process works on it.
    pub(crate) fn try_take(path: PathBuf) -> Result<Option<Self>, StoreError> {
        Ok(try_lock(&path)?.map(|lock| Self { path, _lock: lock }))
    }
}

impl Drop for WorkLock {
    fn drop(&mut self) {
        // A file that stays is unlocked, and says the same as none.
        let _ = fs::remove_file(&self.path);
    }
}

/// Held while this process owns a job: proof that no other living process works on it.
#[derive(Debug)]
pub struct JobLock {
    id: JobId,
    _lock: LockedFile,
}

impl JobLock {
    /// `Ok(None)` when a living process owns the job.
    pub fn try_acquire(layout: &Layout, id: &JobId) -> Result<Option<Self>, StoreError> {
        create_private_dir(&layout.checkpoints_dir(id))?;
        Ok(try_lock(&layout.job_lock(id))?.map(|lock| Self { id: id.clone(), _lock: lock }))
    }

    pub fn id(&self) -> &JobId {
        &self.id
    }
}

/// A folder under `staging/` that its process fills; removed when dropped unless it was published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Seals what is written here.
    key: Option<ProjectKey>,
    lock_path: PathBuf,
    _lock: LockedFile,
}

impl Staging {
    /// A new empty folder on the same file system as the models.
    pub fn create(layout: &Layout) -> Result<Self, StoreError> {
        create_private_dir(&layout.staging())?;
        let name = uuid::Uuid::now_v7().simple().to_string();
        let path = layout.staging().join(&name);
        let lock_path = layout.staging().join(format!("{name}.lock"));
        // The lock before the folder: a sweeper never removes a folder whose owner lives. One that looks at
        // this very moment holds the lock for an instant, and is gone when the next name is tried.
        let Some(lock) = try_lock(&lock_path)? else { return Self::create(layout) };
        let staging = Self { path, key: None, lock_path, _lock: lock };
        create_private_dir(&staging.path)?;
        Ok(staging)
    }

    /// A folder for what a project makes: sealed where the project is encrypted.
    ///
    /// # Errors
    /// As [`create`](Self::create); the project's key cannot be opened.
    pub fn of(store: &Store, project: &Project) -> Result<Self, StoreError> {
        let key = store.keyring().of(project)?;
        let mut staging = Self::create(store.layout())?;
        staging.key = key;
        Ok(staging)
    }

    /// Where a version's files are written.
    pub fn place(&self) -> KeyedPath {
        match &self.key {
            None => KeyedPath::plain(&self.path),
            Some(key) => KeyedPath::sealed(&self.path, key.clone(), vault::VERSION),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A published folder has moved away; what cannot be removed now goes with the next sweep.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes what dead processes left under `staging/`. Returns how many folders went.
pub(crate) fn sweep_staging(layout: &Layout) -> Result<usize, StoreError> {
    let staging = layout.staging();
    create_private_dir(&staging)?;
    let mut n_removed = 0;
    for entry in fs::read_dir(&staging).map_err(|e| StoreError::file("list", &staging, e))? {
        let path = entry.map_err(|e| StoreError::file("list", &staging, e))?.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        if let Some(_lock) = try_lock(&path)? {
            let folder = path.with_extension("");
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|e| StoreError::file("remove", &folder, e))?;
                n_removed += 1;
            }
            let _ = fs::remove_file(&path);
        }
    }
    Ok(n_removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    #[test]
    fn a_job_has_one_owner_until_its_lock_is_dropped() {
        let (_dir, layout) = layout();
        let id = JobId::from_bits(1);
        let lock = JobLock::try_acquire(&layout, &id).unwrap().unwrap();
        assert!(JobLock::try_acquire(&layout, &id).unwrap().is_none());
        assert!(JobLock::try_acquire(&layout, &JobId::from_bits(2)).unwrap().is_some());
        drop(lock);
        assert!(JobLock::try_acquire(&layout, &id).unwrap().is_some());
    }

    #[test]
    fn the_sweep_removes_what_the_dead_left_and_nothing_of_the_living() {
        let (_dir, layout) = layout();
        let alive = Staging::create(&layout).unwrap();
        fs::write(alive.path().join("weights"), b"1").unwrap();
        let dead = layout.staging().join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("weights"), b"2").unwrap();
        fs::write(layout.staging().join("dead.lock"), b"").unwrap();

        assert_eq!(sweep_staging(&layout).unwrap(), 1);
        assert!(!dead.exists());
        assert!(alive.path().join("weights").exists());
        drop(alive);
        assert_eq!(fs::read_dir(layout.staging()).unwrap().count(), 0);
    }

    #[test]
    fn a_durable_write_replaces_the_file_and_leaves_no_partial_one() {
        let (dir, _) = layout();
        let path = dir.path().join("manifest.json");
        write_durably(&path, b"one").unwrap();
        write_durably(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_as_such() {
        let error = File::create("/dev/full").and_then(|mut f| f.write_all(b"x")).unwrap_err();
        let error = StoreError::file("write", Path::new("/data/models/a/1/model.safetensors"), error);
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert!(
            error.to_string().contains("the disk is full (/data/models/a/1/model.safetensors)"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_failed_durable_write_keeps_the_old_file() {
        let (dir, _) = layout();
        let path = dir.path().join("manifest.json");
        write_durably(&path, b"old").unwrap();
        fs::create_dir(dir.path().join("manifest.partial")).unwrap();
        assert!(write_durably(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
