//! The master key: 32 bytes that the operator keeps outside the data folder.

use super::{ProjectKey, random};
use crate::StoreError;
use crate::files::open_private;
use lyceum_seal::{from_hexadecimal, hexadecimal};
use std::io::Write;
use std::path::Path;

/// Opens the keys of projects. Its bytes are in no output of `Debug`.
#[derive(Debug)]
pub struct MasterKey {
    key: ProjectKey,
    id: String,
}

impl MasterKey {
    /// Reads a key file: 64 hexadecimal digits, readable by its owner only.
    ///
    /// # Errors
    /// It is not there, others can read it, or it is no key.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let damaged = |why: &str| StoreError::DamagedFile { path: path.to_owned(), why: why.into() };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let found = std::fs::metadata(path).map_err(|error| StoreError::file("inspect", path, error))?;
            if found.permissions().mode() & 0o077 != 0 {
                return Err(damaged("others can read it: chmod 600"));
            }
        }
        let text = std::fs::read_to_string(path).map_err(|error| StoreError::file("read", path, error))?;
        let text = zeroize::Zeroizing::new(text);
        let bytes = from_hexadecimal(text.trim()).map(zeroize::Zeroizing::new);
        let key = bytes.as_deref().and_then(|bytes| ProjectKey::of_bytes(bytes));
        key.map(Self::of).ok_or_else(|| damaged("a master key is 64 hexadecimal digits"))
    }

    /// Makes a new key in a file that must not exist.
    ///
    /// # Errors
    /// There is such a file; the disk; the operating system's random numbers.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let key = ProjectKey::draw().map_err(random)?;
        let failed = |error| StoreError::file("create", path, error);
        if path.exists() {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
        }
        let mut file = open_private(path)?;
        let text = zeroize::Zeroizing::new(format!("{}\n", hexadecimal(key.bytes())));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(Self::of(key))
    }

    fn of(key: ProjectKey) -> Self {
        Self { id: format!("ekey_{}", hexadecimal(key.id())), key }
    }

    /// `ekey_` and 32 hexadecimal digits, which say nothing of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn key(&self) -> &ProjectKey {
        &self.key
    }
}
