//! What lies beside a version's weights and came after its training: evidence, its card; and the key that signs
//! cards. The manifest names none of these files, so a version is whole without them.
//!
//! ```text
//! DATA_DIR/models/NAME/VERSION/evidence-ID.json       one measurement, never changed
//! DATA_DIR/models/NAME/VERSION/card.json              the card that was issued last
//! DATA_DIR/card_signing.key                           32 bytes, mode 0600, made at its first use
//! DATA_DIR/guard_sealing.key                          the same: seals what was masked
//! ```
//! Evidence and cards go to the object store where their version is there, and what another machine wrote is fetched
//! before it is read. Keys stay on their machine.

use crate::backup::blocking;
use crate::blobs::loose::{self, Copy};
use crate::blobs::release;
use crate::files::{Staging, open_private, rename_durably, sync_dir, write_durably};
use crate::models::Version;
use crate::vault::{KeyedPath, write_place};
use crate::{Layout, Store, StoreError};
use lyceum_types::card::Evidence;
use lyceum_types::clock::Timestamp;
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

/// Adds a measurement to a version. Its name grows with time, so that newer ones are read later.
///
/// # Errors
/// More than [`EVIDENCE_MAX`](limits::EVIDENCE_MAX) lie there; the disk; the object store.
pub async fn add(store: &Store, version: &Version, evidence: &Evidence) -> Result<String, StoreError> {
    have(store, version).await?;
    if names(&version.dir)?.len() >= limits::EVIDENCE_MAX {
        let why = format!("{} measurements lie here, and they are never taken back", limits::EVIDENCE_MAX);
        let error = std::io::Error::new(std::io::ErrorKind::QuotaExceeded, why);
        return Err(StoreError::file("keep a measurement", version.dir.path(), error));
    }
    let file = format!("{PREFIX}{}.json", uuid::Uuid::now_v7().simple());
    let text = serde_json::to_vec_pretty(evidence).expect("evidence is plain data: bug");
    keep(store, version, &file, &text).await?;
    Ok(file)
}

/// All measurements of a version, the oldest first.
///
/// # Errors
/// A file that cannot be read or understood: it is named, never skipped. The object store.
pub async fn all(store: &Store, version: &Version) -> Result<Vec<Kept>, StoreError> {
    have(store, version).await?;
    let dir = version.dir.clone();
    blocking(move || read_all(&dir)).await
}

fn read_all(dir: &KeyedPath) -> Result<Vec<Kept>, StoreError> {
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
        if is_evidence(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_evidence(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(".json")
}

/// The card that was issued last, as it was written.
///
/// # Errors
/// The disk; the object store.
pub async fn card(store: &Store, version: &Version) -> Result<Option<Vec<u8>>, StoreError> {
    have(store, version).await?;
    let place = version.dir.join(CARD);
    match place.read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::file("read", place.path(), error)),
    }
}

/// # Errors
/// The disk; the object store.
pub async fn write_card(store: &Store, version: &Version, text: &[u8]) -> Result<(), StoreError> {
    keep(store, version, CARD, text).await
}

/// Sees to it that what was measured of a version is on this machine: others measure too, and issue cards.
///
/// # Errors
/// The object store.
pub async fn have(store: &Store, version: &Version) -> Result<(), StoreError> {
    let wanted = |name: &str| match name {
        CARD => Some(Copy::Last),
        name if is_evidence(name) => Some(Copy::Constant),
        _ => None,
    };
    loose::have(store, &owner(version), wanted).await
}

/// Where a version lies below the data folder.
fn owner(version: &Version) -> String {
    Layout::version_path(&version.owner, &version.name, version.number)
}

/// Writes a file beside a version, in the object store too where the version is there. A version that only this machine
/// has keeps what is measured of it here.
async fn keep(store: &Store, version: &Version, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let (place, owner, now) = (version.dir.join(name), owner(version), Timestamp::now());
    if !loose::is_held(store, &owner).await? {
        return write_place(&place, content);
    }
    let staging = Staging::create(store.layout())?;
    let form = place.form(content).map_err(|error| StoreError::file("seal", place.path(), error))?;
    write_durably(&staging.path().join(name), &form)?;
    let coming = loose::bring(store, &version.owner, (staging.path(), &[name]), now).await?;
    let Some(coming) = coming else { return Err(StoreError::NoObjects { path: owner.into() }) };
    let mut transaction = store.write().await?;
    if !loose::is_held_now(&mut transaction, &owner).await? {
        return Err(StoreError::NotFound { what: "model", id: version.id() });
    }
    let replaced = loose::join(&mut transaction, &coming, &owner).await?;
    transaction.commit().await?;
    release(store, replaced).await;
    rename_durably(&staging.path().join(name), &place.lies())
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

    #[tokio::test]
    async fn evidence_is_read_in_its_order_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), Timestamp::from_millis(1)).await.unwrap();
        let version = crate::models::publish_for_tests(&store, "digits").await;
        let of = |created| Evidence {
            format_version: 1,
            weights_sha256: "w".into(),
            created,
            part: Part::Robustness,
            section: Section::default(),
        };
        for created in [3, 1, 2] {
            add(&store, &version, &of(created)).await.unwrap();
        }
        let found = all(&store, &version).await.unwrap();
        assert_eq!(found.iter().map(|kept| kept.evidence.created).collect::<Vec<_>>(), [3, 1, 2]);
        fs::write(version.dir.join(&found[1].file).path(), "{}").unwrap();
        assert!(all(&store, &version).await.unwrap_err().to_string().contains(&found[1].file));
    }
}
