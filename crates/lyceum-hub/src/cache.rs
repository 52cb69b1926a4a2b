//! The cache that Hugging Face's tools share:
//!
//! ```text
//! CACHE/models--org--name/blobs/HASH                     a file's bytes; HASH.incomplete while they come
//! CACHE/models--org--name/snapshots/COMMIT/FILE          a link to its blob
//! CACHE/models--org--name/refs/main                      the commit that was seen last
//! CACHE/.locks/models--org--name/HASH.lock               held by the process that fetches it
//! ```

use crate::{HubError, Listed, Reference};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Files of one snapshot, and how deep they lie.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;

pub(crate) struct Cache {
    root: PathBuf,
    locks: PathBuf,
    id: String,
}

impl Cache {
    pub fn new(cache: &Path, reference: &Reference) -> Self {
        let folder = format!("models--{}--{}", reference.organisation, reference.name);
        Cache { root: cache.join(&folder), locks: cache.join(".locks").join(folder), id: reference.id() }
    }

    pub fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{hash}.incomplete"))
    }

    pub fn folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn pointer(&self, commit: &str, name: &str) -> PathBuf {
        self.folder(commit).join(name)
    }

    /// Waits until no other process fetches the same bytes; held until it is dropped.
    pub fn lock(&self, hash: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{hash}.lock"));
        make(&self.locks)?;
        make(&self.root.join("blobs"))?;
        let file = File::create(&path).map_err(HubError::file("make", &path))?;
        file.lock().map_err(HubError::file("lock", &path))?;
        Ok(file)
    }

    /// Makes a blob visible under its name.
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<(), HubError> {
        let pointer = self.pointer(commit, name);
        let parent = pointer.parent().unwrap_or(&self.root);
        make(parent)?;
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{hash}");
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(HubError::file("replace", &pointer)(error));
            }
            _ => {}
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&target, &pointer).map_err(HubError::file("link", &pointer))?;
        #[cfg(not(unix))]
        {
            let _ = target;
            fs::copy(self.blob(hash), &pointer).map_err(HubError::file("copy", &pointer))?;
        }
        Ok(())
    }

    /// Notes which commit a revision was.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let refs = self.root.join("refs");
        make(&refs)?;
        let path = refs.join(revision);
        fs::write(&path, commit).map_err(HubError::file("write", &path))
    }

    /// The commit that a revision was when it was seen last, and the files of it that are whole.
    pub fn snapshot(&self, revision: &str) -> Result<(String, Vec<Listed>), HubError> {
        let missing = || HubError::Offline { id: self.id.clone(), cache: self.root.clone() };
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).map_err(|_| missing())?;
        let commit = commit.trim().to_owned();
        if !is_hash(&commit) {
            return Err(missing());
        }
        let (folder, mut files) = (self.folder(&commit), Vec::new());
        walk(&folder, "", DEPTH_MAX, &mut files);
        if files.is_empty() {
            return Err(missing());
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((commit, files))
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Listed>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        // Through the links: one whose blob is gone is no file.
        if path.is_dir() && depth > 0 {
            walk(&path, &format!("{name}/"), depth - 1, files);
        } else if path.is_file() && files.len() < FILES_MAX {
            let bytes = fs::metadata(&path).ok().map(|metadata| metadata.len());
            files.push(Listed { name, bytes, ..Listed::default() });
        }
    }
}

fn make(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::file("make", path))
}

/// 40 or 64 hexadecimal digits: what a name of a blob or a commit is, and no path that leads elsewhere.
pub(crate) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
