//! Backups: everything that a data folder and its database hold at one moment, while the service goes on.
//!
//! ```text
//! BACKUP/rows/TABLE.jsonl     the columns' names, then a row a line ([`rows`])
//! BACKUP/files/…              the data folder's files, without locks, staging and SQLite's own files
//! BACKUP/backup.json          what there must be, with sizes and hashes; written last
//! ```
//! The moment is one in which nobody writes: [`create`] holds the writer's turn while it opens a snapshot of the
//! rows and links the files, which takes no copying; rows and bytes are read afterwards. Rows are told in no
//! database's words, so a backup of one database may be restored into the other. A file that is appended to in
//! place (the rows of a running job's report) is copied up to where it is when its turn comes.

mod rows;

use crate::database::Database;
use crate::files::{Staging, create_private_dir, sync_dir, write_durably};
use crate::{Layout, Store, StoreError, blobs, schema};
use lyceum_types::clock::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

const MANIFEST: &str = "backup.json";
const FORMAT_VERSION: u32 = 1;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format_version: u32,
    pub created_at: i64,
    /// Of the database; restoring migrates from here.
    pub schema_version: i64,
    /// In the order in which they were made: what a row refers to stands in a table before its own.
    pub tables: Vec<Table>,
    /// By their path below the data folder, with `/`.
    pub files: BTreeMap<String, Content>,
    /// What an object store held at that moment. The rows say which objects; their bytes are here only where the
    /// data folder had a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Objects>,
}

/// An object store beside a data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    pub place: String,
    pub n_objects: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub name: String,
    pub n_rows: u64,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    pub bytes: u64,
    pub sha256: String,
}

impl Manifest {
    pub fn n_rows(&self) -> u64 {
        self.tables.iter().map(|table| table.n_rows).sum()
    }

    pub fn bytes(&self) -> u64 {
        let rows = self.tables.iter().map(|table| table.content.bytes);
        rows.chain(self.files.values().map(|content| content.bytes)).sum()
    }
}

/// Writes a backup of `store` into `to`, a folder that must not exist or be empty.
///
/// # Errors
/// [`StoreError::NotEmpty`]; [`StoreError::Within`] the data folder itself; whatever reading and writing meet. Without `backup.json` a folder is no backup.
pub async fn create(store: &Store, to: &Path, now: Timestamp) -> Result<Manifest, StoreError> {
    must_be_empty(to)?;
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| StoreError::file("find", path, e));
    if absolute(to)?.starts_with(absolute(store.layout().root())?) {
        return Err(StoreError::Within { path: to.to_owned() });
    }
    for dir in [to.to_owned(), to.join("rows"), to.join("files")] {
        create_private_dir(&dir)?;
    }
    let links = Staging::create(store.layout())?;
    let objects = match (blobs::stored(store).await?, store.blobs()) {
        (blobs::Stored { n_objects: 0, .. }, _) => None,
        (blobs::Stored { n_objects, bytes }, told) => {
            let place = told.map_or("an object store that is not configured", crate::Blobs::place).to_owned();
            Some(Objects { place, n_objects, bytes })
        }
    };
    let turn = store.write().await?;
    let mut snapshot = store.snapshot().await?;
    let (schema_version,): (i64,) =
        sqlx::query_as("SELECT MAX(version) FROM schema_versions").fetch_one(&mut *snapshot).await?;
    let paths = link_tree(store.layout().root(), links.path())?;
    turn.rollback().await?;

    let tables = rows::dump(&mut snapshot, store.database(), &to.join("rows")).await?;
    snapshot.rollback().await?;
    let (from, to_files) = (links.path().to_owned(), to.join("files"));
    let files = blocking(move || {
        let copied = paths.into_iter().map(|path| {
            let content = copy(&from.join(&path), &to_files.join(&path))?;
            Ok((with_slashes(&path), content))
        });
        copied.collect::<Result<BTreeMap<_, _>, StoreError>>()
    })
    .await?;
    let created_at = now.millis();
    let manifest =
        Manifest { format_version: FORMAT_VERSION, created_at, schema_version, tables, files, objects };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| damaged(&to.join(MANIFEST), &e))?;
    sync_dir(to)?;
    write_durably(&to.join(MANIFEST), &text)?;
    Ok(manifest)
}

/// Reads every byte of a backup and compares it with what `backup.json` says.
///
/// # Errors
/// [`StoreError::DamagedFile`] names the first file that is missing, changed or too much.
pub async fn verify(backup: &Path) -> Result<Manifest, StoreError> {
    let backup = backup.to_owned();
    blocking(move || verify_now(&backup)).await
}

/// Makes a data folder and database that hold what the backup holds. Both must be empty: nothing is overwritten.
///
/// # Errors
/// As [`verify`], before anything is written; [`StoreError::NotEmpty`]; [`StoreError::NewerSchema`].
pub async fn restore(
    backup: &Path,
    layout: Layout,
    database: Database,
    now: Timestamp,
) -> Result<Manifest, StoreError> {
    let manifest = verify(backup).await?;
    let known = schema::MIGRATIONS.len() as i64;
    if manifest.schema_version > known {
        let (path, found) = (backup.join(MANIFEST), manifest.schema_version);
        return Err(StoreError::NewerSchema { path, found, known });
    }
    must_be_empty(layout.root())?;
    create_private_dir(layout.root())?;
    let (from, to, paths) = (backup.join("files"), layout.root().to_owned(), manifest.files.clone());
    blocking(move || {
        for path in paths.keys() {
            copy(&from.join(path), &to.join(path))?;
        }
        Ok(())
    })
    .await?;
    if database == Database::Sqlite {
        drop(crate::files::open_private(&layout.database())?);
    }
    let mut connection = database.connect(&layout).await?;
    let home = schema::Home { database: &database, path: &layout.database() };
    if schema::is_there(&mut connection, &database).await? {
        return Err(StoreError::NotEmpty { path: database.to_string().into() });
    }
    // The tables as they were; later steps then find the rows that they expect.
    let steps = &schema::MIGRATIONS[..manifest.schema_version as usize];
    schema::migrate(&mut connection, home, steps, now).await?;
    let mut transaction = connection.begin_with(AssertSqlSafe(database.begin())).await?;
    rows::load(&mut transaction, &database, &backup.join("rows"), &manifest.tables).await?;
    blobs::forget_claims(&mut transaction).await?;
    transaction.commit().await?;
    connection.close().await?;
    // Migrates the rest and finishes what was under way, as every start does.
    Store::open_at(layout, database, now).await?.close().await;
    Ok(manifest)
}

fn verify_now(backup: &Path) -> Result<Manifest, StoreError> {
    let path = backup.join(MANIFEST);
    let text = fs::read(&path).map_err(|e| StoreError::file("read", &path, e))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| damaged(&path, &e))?;
    if manifest.format_version != FORMAT_VERSION {
        return Err(damaged(&path, &format!("format_version {} is not known", manifest.format_version)));
    }
    let mut expected: BTreeMap<PathBuf, &Content> = BTreeMap::new();
    for table in &manifest.tables {
        expected.insert(plain(backup, &format!("rows/{}.jsonl", table.name))?, &table.content);
    }
    for (name, content) in &manifest.files {
        expected.insert(plain(backup, &format!("files/{name}"))?, content);
    }
    for (relative, content) in &expected {
        let path = backup.join(relative);
        let file = File::open(&path).map_err(|e| StoreError::file("read", &path, e))?;
        let found = transfer(file, std::io::sink()).map_err(|e| StoreError::file("read", &path, e))?;
        if found != **content {
            return Err(damaged(&path, &"other bytes than backup.json says"));
        }
    }
    for path in walk(backup, &|_| true)? {
        if path != Path::new(MANIFEST) && !expected.contains_key(&path) {
            return Err(damaged(&backup.join(path), &"backup.json does not know this file"));
        }
    }
    Ok(manifest)
}

/// A name of the manifest as a path that leads nowhere else.
fn plain(backup: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let path = PathBuf::from(name);
    if name.contains('\\') || path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(damaged(&backup.join(MANIFEST), &format!("{name:?} is no path of a backup")));
    }
    Ok(path)
}

fn must_be_empty(dir: &Path) -> Result<(), StoreError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(StoreError::NotEmpty { path: dir.to_owned() }),
            None => Ok(()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::file("list", dir, e)),
    }
}

/// Links every file that belongs in a backup below `to`, and says their paths.
fn link_tree(root: &Path, to: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let staging = Layout::new(root).staging();
    let paths = walk(root, &|path| path != staging && is_kept(path.strip_prefix(root).unwrap_or(path)))?;
    for path in &paths {
        let link = to.join(path);
        create_private_dir(link.parent().unwrap_or(to))?;
        fs::hard_link(root.join(path), &link).map_err(|e| StoreError::file("link", &link, e))?;
    }
    Ok(paths)
}

/// Whether something below the data folder belongs in a backup. Locks say who lives now, SQLite's files are told as
/// rows, and what is half written is nothing yet; but files that clients brought have the names that clients gave.
fn is_kept(path: &Path) -> bool {
    if path.starts_with(crate::layout::FILES) {
        return true;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path == Path::new(crate::layout::MACHINE) {
        return false;
    }
    let is_database = path.components().count() == 1 && name.starts_with(crate::layout::DATABASE);
    !is_database && !name.ends_with(".lock") && !name.ends_with(".partial")
}

/// The files below `root` for which, and for whose folders, `keep` holds; relative, in order.
pub(crate) fn walk(root: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| StoreError::file("list", &dir, e))? {
            let entry = entry.map_err(|e| StoreError::file("list", &dir, e))?;
            let path = entry.path();
            if !keep(&path) {
                continue;
            }
            let kind = entry.file_type().map_err(|e| StoreError::file("inspect", &path, e))?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                found.push(path.strip_prefix(root).expect("below the root: bug").to_owned());
            } else {
                return Err(damaged(&path, &"neither a file nor a folder"));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(crate) fn with_slashes(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Copies a file durably, and its hash on the way.
fn copy(from: &Path, to: &Path) -> Result<Content, StoreError> {
    create_private_dir(to.parent().unwrap_or(Path::new(".")))?;
    let source = File::open(from).map_err(|e| StoreError::file("read", from, e))?;
    let mut target = crate::files::open_private(to)?;
    let content = transfer(source, &mut target)
        .and_then(|content| target.sync_all().map(|()| content))
        .map_err(|e| StoreError::file("write", to, e))?;
    Ok(content)
}

pub(crate) fn transfer(mut from: impl Read, mut to: impl Write) -> std::io::Result<Content> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(Content { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        bytes += n as u64;
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::DamagedFile { path: path.to_owned(), why: why.to_string() }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| StoreError::file("copy", Path::new(MANIFEST), std::io::Error::other(e)))?
}

#[cfg(test)]
mod tests;
