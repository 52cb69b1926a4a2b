//! What lies beside a version's weights and came after its training: evidence, its card; and the key that signs
//! cards. The manifest names none of these files, so a version is whole without them.
//!
//! ```text
//! DATA_DIR/models/NAME/VERSION/evidence-ID.json       one measurement, never changed
//! DATA_DIR/models/NAME/VERSION/card.json              the card that was issued last
//! DATA_DIR/card_signing.key                           32 bytes, mode 0600, made at its first use
//! DATA_DIR/guard_sealing.key                          the same: seals what was masked
//! ```

use crate::files::{open_private, sync_dir};
use crate::vault::{KeyedPath, write_place};
use crate::{Layout, StoreError};
use lyceum_types::card::Evidence;
use lyceum_types::limits;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::Path;

const CARD: &str = "card.json";
const KEY: &str = "card_signing.key";
const SEALING_KEY: &str = "guard_sealing.key";
const PREFIX: &str = "evidence-";

/// A measurement with its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub file: String,
    pub sha256: String,
    pub evidence: Evidence,
}

/// Adds a measurement to a version's folder. Its name grows with time, so that newer ones are read later.
///
/// # Errors
/// More than [`EVIDENCE_MAX`](limits::EVIDENCE_MAX) lie there; the disk.
pub fn add(dir: &KeyedPath, evidence: &Evidence) -> Result<String, StoreError> {
    if names(dir)?.len() >= limits::EVIDENCE_MAX {
        let why = format!("{} measurements lie here: remove the oldest files", limits::EVIDENCE_MAX);
        let error = std::io::Error::new(std::io::ErrorKind::QuotaExceeded, why);
        return Err(StoreError::file("keep a measurement", dir.path(), error));
    }
    let file = format!("{PREFIX}{}.json", uuid::Uuid::now_v7().simple());
    let text = serde_json::to_vec_pretty(evidence).expect("evidence is plain data: bug");
    write_place(&dir.join(&file), &text)?;
    Ok(file)
}

/// All measurements of a version, the oldest first.
///
/// # Errors
/// A file that cannot be read or understood: it is named, never skipped.
pub fn all(dir: &KeyedPath) -> Result<Vec<Kept>, StoreError> {
    let read = |file: String| {
        let place = dir.join(&file);
        let bytes = place.read().map_err(|error| StoreError::file("read", place.path(), error))?;
        let evidence = serde_json::from_slice(&bytes)
            .map_err(|error| StoreError::DamagedFile { path: place.lies(), why: error.to_string() })?;
        Ok(Kept { file, sha256: sha256(&bytes), evidence })
    };
    names(dir)?.into_iter().map(read).collect()
}

fn names(dir: &KeyedPath) -> Result<Vec<String>, StoreError> {
    let failed = |error| StoreError::file("list", dir.path(), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir.path()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(".json") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The card that was issued last, as it was written.
pub fn card(dir: &KeyedPath) -> Result<Option<Vec<u8>>, StoreError> {
    let place = dir.join(CARD);
    match place.read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("read", place.path(), error)),
    }
}

pub fn write_card(dir: &KeyedPath, text: &[u8]) -> Result<(), StoreError> {
    write_place(&dir.join(CARD), text)
}

/// The secret half of the key that signs cards; made from the operating system's randomness at its first use.
///
/// # Errors
/// A key that others can read is refused, as is one that has not 32 bytes.
pub fn signing_key(layout: &Layout) -> Result<[u8; 32], StoreError> {
    secret_key(layout, KEY)
}

/// The key under which what was masked is sealed for those who asked for it; made at its first use.
///
/// # Errors
/// As [`signing_key`].
pub fn sealing_key(layout: &Layout) -> Result<[u8; 32], StoreError> {
    secret_key(layout, SEALING_KEY)
}

fn secret_key(layout: &Layout, name: &str) -> Result<[u8; 32], StoreError> {
    let path = layout.root().join(name);
    if !path.exists() {
        make_key(layout, &path)?;
    }
    let bytes = fs::read(&path).map_err(|error| StoreError::file("read", &path, error))?;
    let damaged = |why: &str| StoreError::DamagedFile { path: path.clone(), why: why.to_owned() };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::metadata(&path).map_err(|error| StoreError::file("inspect", &path, error))?;
        if found.permissions().mode() & 0o077 != 0 {
            return Err(damaged("others can read it: chmod 600, or remove it and let a new one be made"));
        }
    }
    bytes.try_into().map_err(|_| damaged("a key has 32 bytes"))
}

/// Written whole under another name, then linked: of two processes one makes the key, and both read that one.
fn make_key(layout: &Layout, path: &Path) -> Result<(), StoreError> {
    let mut key = [0u8; 32];
    getrandom::fill(&mut key).map_err(|error| StoreError::Random(error.to_string()))?;
    let partial = layout.root().join(format!("{KEY}.{}", uuid::Uuid::now_v7().simple()));
    let mut file = open_private(&partial)?;
    let linked = file.write_all(&key).and_then(|()| file.sync_all()).and_then(|()| {
        match fs::hard_link(&partial, path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    });
    // The key has its name now; a file that cannot be removed is private too.
    let _ = fs::remove_file(&partial);
    linked.map_err(|error| StoreError::file("write", path, error))?;
    sync_dir(layout.root())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_types::card::{Part, Section};

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let key = signing_key(&layout).unwrap();
        assert_ne!(key, [0; 32]);
        assert_eq!(signing_key(&layout).unwrap(), key);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join(KEY);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(signing_key(&layout).unwrap_err().to_string().contains("others can read it"));
        }
    }

    #[test]
    fn evidence_is_read_in_its_order_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let of = |created| Evidence {
            format_version: 1,
            weights_sha256: "w".into(),
            created,
            part: Part::Robustness,
            section: Section::default(),
        };
        let place = KeyedPath::plain(dir.path());
        for created in [3, 1, 2] {
            add(&place, &of(created)).unwrap();
        }
        let found = all(&place).unwrap();
        assert_eq!(found.iter().map(|kept| kept.evidence.created).collect::<Vec<_>>(), [3, 1, 2]);
        fs::write(dir.path().join(&found[1].file), "{}").unwrap();
        assert!(all(&place).unwrap_err().to_string().contains(&found[1].file));
    }
}
