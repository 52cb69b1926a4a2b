//! An object store (S3, or what speaks its protocol): where model versions with their evidence and cards, the files of
//! clients, runs that have ended, and checkpoints with the logs of their jobs lie when the configuration names one. The
//! data folder then holds copies that any machine can fetch again.
//!
//! ```text
//! PREFIX/sha256/HASH    bytes under their hash; equal bytes lie there once
//! PREFIX/owner          which database the prefix belongs to
//! ```
//! What is written goes: rows that announce it ([`rows::Coming`]), the bytes, then, in the transaction that makes the
//! version or the file, the rows that hold it. So an acknowledged object is there and has a row, one without a row
//! is rubbish, and [`sweep`] never takes what is on its way. What is fetched is held to its hash before anybody
//! sees it. [`s3`] knows how a bucket is reached; nothing else here knows that it is S3.

mod claim;
mod compare;
pub(crate) mod loose;
mod rows;
pub mod s3;
mod sweep;

pub use claim::take_over;
pub use compare::{Compared, Damaged, Depth, compare};
pub(crate) use rows::{Coming, forget, forget_claims, owners};
pub use rows::{Stored, stored};
pub(crate) use sweep::release;
pub use sweep::{Swept, sweep};

use crate::backup::{Content, blocking, hex, transfer, walk, with_slashes};
use crate::files::{Staging, create_private_dir, rename_durably, sync_tree};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What goes in one request, each way; larger files go in parts.
const PART_BYTES: u64 = 16 << 20;
/// The protocol's bound.
const PARTS_MAX: u64 = 10_000;
/// A request that other writers wait for.
const HASTE: Duration = Duration::from_secs(10);
/// Folders that are fetched at once, at most.
const TURNS: usize = 16;

/// The object store of one installation.
#[derive(Debug)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    prefix: Key,
    /// As the configuration names it.
    place: String,
    part_bytes: u64,
    /// Set once this process knows that the prefix is its database's.
    claimed: tokio::sync::OnceCell<()>,
    /// One folder is fetched once, however many ask for it at the same time.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl Blobs {
    /// `place` is how errors and the operator call it.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str, place: &str) -> Self {
        Self {
            objects,
            prefix: Key::from(prefix),
            place: place.trim_end_matches('/').to_owned(),
            part_bytes: PART_BYTES,
            claimed: tokio::sync::OnceCell::new(),
            turns: Default::default(),
        }
    }

    /// Files beyond this many bytes go in several requests; S3 itself wants 5 MiB or more.
    pub fn with_part_bytes(self, part_bytes: u64) -> Self {
        Self { part_bytes, ..self }
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    /// Writes, reads and removes one small object.
    ///
    /// # Errors
    /// What the object store answers; that it gives other bytes back.
    pub async fn check(&self) -> Result<(), StoreError> {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let key = self.prefix.clone().join("check").join(name.as_str());
        let put = self.objects.put(&key, PutPayload::from(name.clone().into_bytes()));
        put.await.map_err(|e| self.failed("write", &key, e))?;
        let read = async { self.objects.get(&key).await?.bytes().await }.await;
        let removed = self.objects.delete(&key).await;
        if *read.map_err(|e| self.failed("read", &key, e))? != *name.as_bytes() {
            return Err(self.damaged(&key, "it gives other bytes back than were written".into()));
        }
        removed.map_err(|e| self.failed("remove", &key, e))
    }

    fn key(&self, sha256: &str) -> Key {
        self.prefix.clone().join("sha256").join(sha256)
    }

    /// Writes a file under its hash. What lies there already is written again: whether it did is nobody's business.
    async fn put(&self, from: &Path, content: &Content) -> Result<(), StoreError> {
        let key = self.key(&content.sha256);
        let mut reader = Reader { file: open(from)?, path: from.to_owned() };
        if content.bytes <= self.part_bytes {
            let (_, bytes) = reader.part(content.bytes).await?;
            let put = self.objects.put(&key, PutPayload::from(bytes)).await;
            return put.map(drop).map_err(|e| self.failed("write", &key, e));
        }
        let part_bytes = self.part_bytes.max(content.bytes.div_ceil(PARTS_MAX));
        let mut upload =
            self.objects.put_multipart(&key).await.map_err(|e| self.failed("begin to write", &key, e))?;
        let written = async {
            let mut left = content.bytes;
            while left > 0 {
                let bytes;
                (reader, bytes) = reader.part(left.min(part_bytes)).await?;
                left -= bytes.len() as u64;
                let part = upload.put_part(PutPayload::from(bytes)).await;
                part.map_err(|e| self.failed("write a part of", &key, e))?;
            }
            upload.complete().await.map_err(|e| self.failed("end writing", &key, e))
        }
        .await;
        if let Err(error) = written {
            // Parts that cannot be taken back are not seen by anybody; the first error is the one to report.
            let _ = upload.abort().await;
            return Err(error);
        }
        Ok(())
    }

    /// Writes a small object while others wait.
    async fn put_at_once(&self, bytes: &[u8]) -> Result<Content, StoreError> {
        let sha256 = hex(&Sha256::digest(bytes));
        let key = self.key(&sha256);
        let put = self.objects.put(&key, PutPayload::from(bytes.to_vec()));
        match tokio::time::timeout(HASTE, put).await {
            Ok(done) => done.map_err(|e| self.failed("write", &key, e))?,
            Err(_) => return Err(self.slow("write", &key)),
        };
        Ok(Content { bytes: bytes.len() as u64, sha256 })
    }

    /// Reads an object into a new file, flushed, and holds it to its hash.
    async fn fetch(&self, content: &Content, to: &Path) -> Result<(), StoreError> {
        let key = self.key(&content.sha256);
        let mut file = File::create_new(to).map_err(|e| StoreError::file("create", to, e))?;
        let (mut hash, mut at) = (Sha256::new(), 0);
        while at < content.bytes {
            let end = content.bytes.min(at + PART_BYTES);
            let part = self.objects.get_range(&key, at..end).await;
            let part = part.map_err(|e| self.failed("read", &key, e))?;
            if part.len() as u64 != end - at {
                return Err(self.damaged(&key, format!("it ends before its {} bytes", content.bytes)));
            }
            let path = to.to_owned();
            (file, hash) = blocking(move || {
                hash.update(&part);
                file.write_all(&part).map_err(|e| StoreError::file("write", &path, e))?;
                Ok((file, hash))
            })
            .await?;
            at = end;
        }
        file.sync_all().map_err(|e| StoreError::file("flush", to, e))?;
        let found = hex(&hash.finalize());
        if found != content.sha256 {
            return Err(self.damaged(&key, format!("the sha256 of its bytes is {found}")));
        }
        Ok(())
    }

    /// Fetches a file to its place below a folder.
    async fn fetch_below(&self, folder: &Path, path: &str, content: &Content) -> Result<(), StoreError> {
        if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(StoreError::Damaged { table: "blobs", value: path.to_owned() });
        }
        let to = folder.join(path);
        create_private_dir(to.parent().unwrap_or(folder))?;
        self.fetch(content, &to).await
    }

    fn turn(&self, owner: &str) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        &self.turns[hasher.finish() as usize % TURNS]
    }

    fn named(&self, key: &Key) -> PathBuf {
        let below = key.as_ref().strip_prefix(self.prefix.as_ref()).unwrap_or(key.as_ref());
        format!("{}/{}", self.place, below.trim_start_matches('/')).into()
    }

    fn failed(&self, operation: &'static str, key: &Key, source: object_store::Error) -> StoreError {
        if matches!(source, object_store::Error::NotFound { .. }) && operation == "read" {
            return self.damaged(key, "it is not there".into());
        }
        StoreError::Objects { operation, path: self.named(key), source: Box::new(source) }
    }

    fn slow(&self, operation: &'static str, key: &Key) -> StoreError {
        let why = format!("no answer within {} s", HASTE.as_secs());
        StoreError::Objects { operation, path: self.named(key), source: why.into() }
    }

    fn damaged(&self, key: &Key, why: String) -> StoreError {
        StoreError::DamagedFile { path: self.named(key), why }
    }
}

/// A file that is read part by part beside the runtime.
struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    async fn part(mut self, n: u64) -> Result<(Self, Vec<u8>), StoreError> {
        blocking(move || {
            let mut bytes = Vec::with_capacity(usize::try_from(n).unwrap_or(0));
            let read = (&mut self.file).take(n).read_to_end(&mut bytes);
            read.map_err(|e| StoreError::file("read", &self.path, e))?;
            if bytes.len() as u64 != n {
                let why = format!("{n} more bytes were expected, {} came", bytes.len());
                return Err(StoreError::DamagedFile { path: self.path, why });
            }
            Ok((self, bytes))
        })
        .await
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(|e| StoreError::file("read", path, e))
}

/// Brings every file of a folder into the object store, where there is one; its rows are announced first.
pub(crate) async fn bring(
    store: &Store,
    project: &Project,
    folder: &Path,
    now: Timestamp,
) -> Result<Option<Coming>, StoreError> {
    if store.blobs().is_none() {
        return Ok(None);
    }
    let root = folder.to_owned();
    let found = blocking(move || walk(&root, &|_| true)).await?;
    let names = found.iter().map(|path| with_slashes(path)).collect();
    bring_these(store, project, (folder, names), now).await
}

/// As [`bring`], for some files of a folder. One that grows meanwhile comes as far as it was when it was hashed.
async fn bring_these(
    store: &Store,
    project: &Project,
    (folder, names): (&Path, Vec<String>),
    now: Timestamp,
) -> Result<Option<Coming>, StoreError> {
    let Some(blobs) = store.blobs() else { return Ok(None) };
    claim::ensure(store, blobs).await?;
    let root = folder.to_owned();
    let found = blocking(move || {
        let hashed = names.into_iter().map(|name| {
            let from = root.join(&name);
            let content = transfer(open(&from)?, std::io::sink());
            Ok((name, content.map_err(|e| StoreError::file("read", &from, e))?))
        });
        hashed.collect::<Result<Vec<_>, StoreError>>()
    })
    .await?;
    let coming = Coming::announce(store, project, &found, now).await?;
    for (path, content) in &found {
        blobs.put(&folder.join(path), content).await?;
    }
    Ok(Some(coming))
}

/// Sees to it that the folder of `owner` (its path below the data folder) is on this machine.
///
/// # Errors
/// [`StoreError::DamagedFile`] names an object that is gone or not what was written; [`StoreError::NoObjects`]: its
/// files lie in an object store, and this process was told of none.
pub(crate) async fn have(store: &Store, owner: &str) -> Result<(), StoreError> {
    let folder = store.layout().root().join(owner);
    if folder.exists() {
        return Ok(());
    }
    let files = rows::of(store, owner).await?;
    if files.is_empty() {
        return Ok(()); // it never was in an object store: who opens it says that it is gone
    }
    let Some(blobs) = store.blobs() else { return Err(StoreError::NoObjects { path: owner.into() }) };
    let _turn = blobs.turn(owner).lock().await;
    if folder.exists() {
        return Ok(());
    }
    let staging = Staging::create(store.layout())?;
    for (path, content) in &files {
        blobs.fetch_below(staging.path(), path, content).await?;
    }
    sync_tree(staging.path())?;
    create_private_dir(folder.parent().unwrap_or(store.layout().root()))?;
    match rename_durably(staging.path(), &folder) {
        // Another process fetched it at the same time.
        Err(_) if folder.exists() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
