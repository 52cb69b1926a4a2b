//! Files that requests bring: a row each, and the bytes in `files/ID/NAME`.
//!
//! Bytes are written under `staging/`, hashed on the way, and renamed into place while the transaction that
//! writes the row holds the write lock; so a folder without a row is what a crash left, and [`sweep`], which
//! takes the same lock, may remove it. A file that has expired is gone for every reader at that moment; its
//! bytes go with the next write. Of an encrypted project bytes and names are sealed from the first one on ([`crate::vault`]);
//! sizes and hashes are those of the plain bytes.

use crate::db::Transaction;
use crate::files::{Staging, create_private_dir, disk, rename_durably, sync_dir, sync_tree};
use crate::vault::sealed::SealedWriter;
use crate::vault::{self, Contents, KeyedPath, ProjectKey, open_text, seal_text};
use crate::{Layout, Store, StoreError, blobs};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{FileId, Project};
use lyceum_types::limits;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::any::AnyRow;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The longest name that the folder of a file holds; longer ones keep their end, which says the format.
const DISK_NAME_CHARS_MAX: usize = 100;

/// What bytes of files are sealed for. One place for all of a project, because parts of uploads become files and files
/// become what batches ask; which file a row means is told by its hash.
pub(crate) const PLACE: &str = "data file";
/// The purpose of files that make a model together: they have room of their own.
pub const MODEL: &str = "model";
/// What every sealed file is called on the disk.
const SEALED: &str = "sealed";

/// A file as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    pub id: FileId,
    /// As the client called it.
    pub name: String,
    pub purpose: String,
    pub bytes: u64,
    pub sha256: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Where the bytes are; sealed where the project is encrypted ([`contents`]).
    pub path: PathBuf,
}

/// What a client says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    pub name: String,
    pub purpose: String,
    pub expires_at: Option<Timestamp>,
}

/// Bytes on their way in; removed when dropped.
#[derive(Debug)]
pub struct Incoming {
    staging: Staging,
    sink: Sink,
    path: PathBuf,
    key: Option<ProjectKey>,
    digest: Sha256,
    bytes: u64,
}

#[derive(Debug)]
enum Sink {
    Plain(std::fs::File),
    Sealed(Box<SealedWriter<std::fs::File>>),
}

/// Bytes that are all there, flushed, and not yet anybody's.
#[derive(Debug)]
pub struct Arrived {
    staging: Staging,
    pub(crate) key: Option<ProjectKey>,
    pub bytes: u64,
    pub sha256: String,
}

impl Arrived {
    /// Where the bytes are until they are kept.
    pub(crate) fn path(&self) -> PathBuf {
        self.staging.path().join("bytes")
    }

    /// # Errors
    /// The disk.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        vault::contents(&self.path(), self.key.as_ref(), PLACE)
    }
}

impl Incoming {
    /// # Errors
    /// The project is encrypted and its key cannot be opened; the disk.
    pub fn begin(store: &Store, project: &Project) -> Result<Self, StoreError> {
        let key = store.keyring().of(project)?;
        let staging = Staging::create(store.layout())?;
        let path = staging.path().join("bytes");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        let file = disk::create(&options, &path).map_err(|e| StoreError::file("create", &path, e))?;
        let sink = match &key {
            None => Sink::Plain(file),
            Some(key) => {
                let writer =
                    SealedWriter::new(file, key, PLACE).map_err(|e| StoreError::file("write", &path, e))?;
                Sink::Sealed(Box::new(writer))
            }
        };
        Ok(Self { staging, sink, path, key, digest: Sha256::new(), bytes: 0 })
    }

    pub(crate) fn key(&self) -> Option<&ProjectKey> {
        self.key.as_ref()
    }

    /// Appends; returns how many bytes there are now.
    pub fn write(&mut self, chunk: &[u8]) -> Result<u64, StoreError> {
        let written = match &mut self.sink {
            Sink::Plain(file) => disk::write_all(file, &self.path, chunk),
            Sink::Sealed(writer) => writer.write_all(chunk),
        };
        written.map_err(|e| StoreError::file("write", &self.path, e))?;
        self.digest.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(self.bytes)
    }

    /// Flushes to the disk.
    pub fn end(self) -> Result<Arrived, StoreError> {
        let file = match self.sink {
            Sink::Plain(file) => Ok(file),
            Sink::Sealed(writer) => writer.finish(),
        };
        file.and_then(|file| disk::sync_all(&file, &self.path))
            .map_err(|e| StoreError::file("flush", &self.path, e))?;
        let sha256 = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Arrived { staging: self.staging, key: self.key, bytes: self.bytes, sha256 })
    }
}

/// How a file was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Kept(DataFile),
    /// The project has as many files as it may.
    TooMany,
    /// The project's files of this kind have as many bytes as they may.
    TooLarge,
}

/// Gives bytes that have arrived a row and a place.
pub async fn keep(
    store: &Store,
    project: &Project,
    new: NewFile,
    arrived: Arrived,
    now: Timestamp,
) -> Result<Kept, StoreError> {
    keep_as(
        store,
        project,
        (FileId::from_bits(uuid::Uuid::now_v7().as_u128()), Room::Bounded),
        new,
        (arrived, now),
    )
    .await
}

/// Whether a file must find room among those of its project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Bounded,
    /// It is part of a model that is brought: all such files of the project together have this many bytes.
    Model {
        bytes_max: u64,
    },
    /// It is what the project has paid for: it is kept however full the project is.
    Owed,
}

/// As [`keep`], under an id that was chosen before.
///
/// # Errors
/// There is a file of this id; the disk.
pub async fn keep_as(
    store: &Store,
    project: &Project,
    (id, room): (FileId, Room),
    new: NewFile,
    (arrived, now): (Arrived, Timestamp),
) -> Result<Kept, StoreError> {
    let key = store.keyring().of(project)?;
    let disk_name = disk_name(&new.name, key.is_some());
    let inner = arrived.staging.path().join("file");
    create_private_dir(&inner)?;
    let (from, to) = (arrived.staging.path().join("bytes"), inner.join(&disk_name));
    disk::rename(&from, &to).map_err(|e| StoreError::file("rename", &to, e))?;
    sync_tree(&inner)?;
    let coming = blobs::bring(store, project, &inner, now).await?;
    create_private_dir(&store.layout().data_files())?;
    sync_dir(store.layout().root())?;

    let mut transaction = store.write().await?;
    let expired = take_expired(&mut transaction, now).await?;
    let (n, bytes, of_models): (i64, i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT), \
         CAST(COALESCE(SUM(CASE WHEN purpose = $3 THEN bytes ELSE 0 END), 0) AS BIGINT) \
         FROM data_files WHERE tenant = $1 AND project = $2",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(MODEL)
    .fetch_one(&mut *transaction)
    .await?;
    let together = |bytes: i64| u64::try_from(bytes).unwrap_or(0).saturating_add(arrived.bytes);
    let full = match room {
        Room::Owed => None,
        _ if n >= limits::FILES_MAX => Some(Kept::TooMany),
        Room::Bounded if together(bytes - of_models) > limits::FILES_BYTES_MAX => Some(Kept::TooLarge),
        Room::Model { bytes_max } if together(of_models) > bytes_max => Some(Kept::TooLarge),
        Room::Bounded | Room::Model { .. } => None,
    };
    if let Some(full) = full {
        transaction.commit().await?;
        remove(store, expired).await;
        return Ok(full);
    }
    sqlx::query(
        "INSERT INTO data_files (tenant, project, id, name, purpose, bytes, sha256, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(seal_text(key.as_ref(), &name_place(&id), &new.name)?)
    .bind(&new.purpose)
    .bind(i64::try_from(arrived.bytes).unwrap_or(i64::MAX))
    .bind(&arrived.sha256)
    .bind(now.millis())
    .bind(new.expires_at.map(Timestamp::millis))
    .execute(&mut *transaction)
    .await?;
    if let Some(coming) = &coming {
        coming.hold(&mut transaction, &owner(&id)).await?;
    }
    let folder = store.layout().data_file_dir(&id);
    rename_durably(&inner, &folder)?;
    if let Err(error) = transaction.commit().await {
        // What cannot be taken back now goes with the next sweep.
        let _ = std::fs::remove_dir_all(&folder);
        return Err(error.into());
    }
    remove(store, expired).await;
    let NewFile { name, purpose, expires_at } = new;
    let (bytes, sha256, path) = (arrived.bytes, arrived.sha256, folder.join(disk_name));
    Ok(Kept::Kept(DataFile { id, name, purpose, bytes, sha256, created_at: now, expires_at, path }))
}

/// As [`find`], with the file's bytes on this machine.
///
/// # Errors
/// There is none; its bytes lie in an object store that does not give them.
pub async fn have(
    store: &Store,
    project: &Project,
    id: &FileId,
    now: Timestamp,
) -> Result<DataFile, StoreError> {
    let file = find(store, project, id, now).await?;
    blobs::have(store, &owner(id)).await?;
    Ok(file)
}

/// Bytes of all files of the project that are to make models.
pub async fn model_bytes(store: &Store, project: &Project, now: Timestamp) -> Result<u64, StoreError> {
    let (bytes,): (i64,) = sqlx::query_as(
        "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM data_files \
         WHERE tenant = $1 AND project = $2 AND purpose = $3 AND (expires_at IS NULL OR expires_at > $4)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(MODEL)
    .bind(now.millis())
    .fetch_one(&store.reader)
    .await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The file of this id that has not expired; its bytes may be elsewhere.
pub async fn find(
    store: &Store,
    project: &Project,
    id: &FileId,
    now: Timestamp,
) -> Result<DataFile, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM data_files WHERE tenant = $1 AND project = $2 AND id = $3 \
         AND (expires_at IS NULL OR expires_at > $4)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(now.millis())
    .fetch_optional(&store.reader)
    .await?;
    let row = row.ok_or_else(|| StoreError::NotFound { what: "file", id: id.to_string() })?;
    parse(store, project, &row)
}

/// The bytes of a file, plain.
///
/// # Errors
/// They are not there or damaged; the project's key cannot be opened.
pub fn contents(store: &Store, project: &Project, file: &DataFile) -> Result<Contents, StoreError> {
    vault::contents(&file.path, store.keyring().of(project)?.as_ref(), PLACE)
}

/// A file for who reads it whole: it is called as the client called it (its extension says the format), whatever lies on
/// the disk.
///
/// # Errors
/// The project is encrypted and its key cannot be opened.
pub fn place(store: &Store, project: &Project, file: &DataFile) -> Result<KeyedPath, StoreError> {
    let folder = folder(store, project, &store.layout().data_files())?;
    Ok(folder.join(file.id.as_str()).join(disk_name(&file.name, false)))
}

/// The folder that paths of a job's document start from: where it is that of all files, they are those of the project.
///
/// # Errors
/// The project is encrypted and its key cannot be opened.
pub fn folder(store: &Store, project: &Project, base: &Path) -> Result<KeyedPath, StoreError> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match store.keyring().of(project)? {
        Some(key) if absolute(base) == absolute(&store.layout().data_files()) => {
            Ok(KeyedPath::sole(base, key, PLACE, SEALED))
        }
        _ => Ok(KeyedPath::plain(base)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Which files, in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub purpose: Option<String>,
    /// Those behind this one; it may be gone.
    pub after: Option<FileId>,
    pub limit: u32,
    pub order: Order,
}

/// One page, and whether there are more behind it.
pub async fn list(
    store: &Store,
    project: &Project,
    query: &Query,
    now: Timestamp,
) -> Result<(Vec<DataFile>, bool), StoreError> {
    let sql = match query.order {
        Order::OldestFirst => {
            "SELECT * FROM data_files WHERE tenant = $1 AND project = $2 AND (expires_at IS NULL OR expires_at > $3) \
             AND ($4 IS NULL OR purpose = $4) AND ($5 IS NULL OR id > $5) ORDER BY id LIMIT $6"
        }
        Order::NewestFirst => {
            "SELECT * FROM data_files WHERE tenant = $1 AND project = $2 AND (expires_at IS NULL OR expires_at > $3) \
             AND ($4 IS NULL OR purpose = $4) AND ($5 IS NULL OR id < $5) ORDER BY id DESC LIMIT $6"
        }
    };
    let rows = sqlx::query(sql)
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(now.millis())
        .bind(query.purpose.as_deref())
        .bind(query.after.as_ref().map(|id| id.as_str().to_owned()))
        .bind(i64::from(query.limit) + 1)
        .fetch_all(&store.reader)
        .await?;
    let has_more = rows.len() > query.limit as usize;
    let page = rows.iter().take(query.limit as usize).map(|row| parse(store, project, row));
    Ok((page.collect::<Result<_, _>>()?, has_more))
}

/// Removes a file and its bytes.
pub async fn delete(store: &Store, project: &Project, id: &FileId, now: Timestamp) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let expired = take_expired(&mut transaction, now).await?;
    let done = sqlx::query("DELETE FROM data_files WHERE tenant = $1 AND project = $2 AND id = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    let mut hashes = Vec::new();
    if done.rows_affected() > 0 {
        hashes = blobs::forget(&mut transaction, &owner(id)).await?;
    }
    transaction.commit().await?;
    remove(store, expired).await;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "file", id: id.to_string() });
    }
    remove(store, Gone { ids: vec![id.clone()], hashes }).await;
    Ok(())
}

/// Removes folders that have no row: what a crash left, or what could not be removed with its row.
pub(crate) async fn sweep(store: &Store) -> Result<(), StoreError> {
    let folder = store.layout().data_files();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::file("list", &folder, error)),
    };
    // What has another name was not written here.
    let id = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<FileId>().ok();
    let found: Vec<FileId> = entries.flatten().filter_map(id).collect();
    if found.is_empty() {
        return Ok(());
    }
    // Writers rename and commit under this lock: what was seen above has its row by now, or never gets one.
    let mut transaction = store.write().await?;
    for id in found {
        let row: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM data_files WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        if row.is_none() {
            remove_folders(store.layout(), &[id]);
        }
    }
    transaction.rollback().await?;
    Ok(())
}

/// Files whose rows are gone, and objects that may have lost their last row with them.
#[derive(Default)]
struct Gone {
    ids: Vec<FileId>,
    hashes: Vec<String>,
}

async fn take_expired(transaction: &mut Transaction, now: Timestamp) -> Result<Gone, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as("DELETE FROM data_files WHERE expires_at <= $1 RETURNING id")
        .bind(now.millis())
        .fetch_all(&mut **transaction)
        .await?;
    let mut gone = Gone::default();
    for (id,) in rows {
        let id = file_id(id)?;
        gone.hashes.extend(blobs::forget(transaction, &owner(&id)).await?);
        gone.ids.push(id);
    }
    Ok(gone)
}

async fn remove(store: &Store, gone: Gone) {
    remove_folders(store.layout(), &gone.ids);
    blobs::release(store, gone.hashes).await;
}

/// A file's folder below the data folder: the owner of its object.
fn owner(id: &FileId) -> String {
    format!("{}/{id}", crate::layout::FILES)
}

fn remove_folders(layout: &Layout, ids: &[FileId]) {
    for id in ids {
        let folder = layout.data_file_dir(id);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, ?folder, "the bytes of a removed file stay until the next start");
        }
    }
}

fn file_id(text: String) -> Result<FileId, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged { table: "data_files", value: text })
}

/// What a file's name is sealed for.
fn name_place(id: &FileId) -> String {
    format!("name of {id}")
}

fn parse(store: &Store, project: &Project, row: &AnyRow) -> Result<DataFile, StoreError> {
    let id = file_id(row.try_get("id")?)?;
    let key = store.keyring().of(project)?;
    let name = open_text(key.as_ref(), ("data_files", &name_place(&id)), row.try_get("name")?)?;
    let bytes: i64 = row.try_get("bytes")?;
    let path = store.layout().data_file_dir(&id).join(disk_name(&name, key.is_some()));
    Ok(DataFile {
        id,
        name,
        purpose: row.try_get("purpose")?,
        bytes: u64::try_from(bytes)
            .map_err(|_| StoreError::Damaged { table: "data_files", value: bytes.to_string() })?,
        sha256: row.try_get("sha256")?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp::from_millis),
        path,
    })
}

/// The client's name as one path part that leads nowhere else; its extension, which says the format, stays. Where bytes are
/// sealed the name says nothing.
fn disk_name(name: &str, is_sealed: bool) -> String {
    if is_sealed {
        return SEALED.into();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let mut part: String = name.rsplit(['/', '\\']).next().unwrap_or_default().chars().map(plain).collect();
    if part.len() > DISK_NAME_CHARS_MAX {
        part.drain(..part.len() - DISK_NAME_CHARS_MAX);
    }
    match part.trim_start_matches('.') {
        "" => "data".into(),
        rest => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests;
