//! Batches: a row each that says how far it is, and a folder with what it asks and the answers as they come.
//!
//! A row's document is the service's; a change of status is taken only from the status that it was made from, so two
//! who change it at once do not undo each other. `done.jsonl` is only ever appended to, one answered line a line:
//! `NUMBER out|err JSON`. What is behind its last whole line is what a crash left of a write that nobody was told of.

use crate::files::{WorkLock, create_private_dir, disk, sync_dir};
use crate::vault::{self, Contents, ProjectKey, open_text, seal_text};
use crate::{Store, StoreError};
use lyceum_types::ids::{BatchId, Project};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: BatchId,
    pub project: Project,
    pub status: String,
    pub document: String,
}

pub async fn insert(store: &Store, row: &Row) -> Result<(), StoreError> {
    let document = sealed_document(store, row)?;
    let mut transaction = store.write().await?;
    sqlx::query("INSERT INTO batches (id, tenant, project, status, document) VALUES ($1, $2, $3, $4, $5)")
        .bind(row.id.as_str())
        .bind(&row.project.tenant)
        .bind(&row.project.id)
        .bind(&row.status)
        .bind(&document)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// Writes a row over the one that has the status `from`; false where it has another one.
pub async fn replace(store: &Store, row: &Row, from: &str) -> Result<bool, StoreError> {
    let document = sealed_document(store, row)?;
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE batches SET status = $1, document = $2 WHERE tenant = $3 AND project = $4 AND id = $5 AND status = $6",
    )
    .bind(&row.status)
    .bind(&document)
    .bind(&row.project.tenant)
    .bind(&row.project.id)
    .bind(row.id.as_str())
    .bind(from)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() == 1)
}

pub async fn find(store: &Store, project: &Project, id: &BatchId) -> Result<Row, StoreError> {
    let row = sqlx::query("SELECT * FROM batches WHERE tenant = $1 AND project = $2 AND id = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .fetch_optional(&store.reader)
        .await?;
    parse(store, &row.ok_or_else(|| StoreError::NotFound { what: "batch", id: id.to_string() })?)
}

/// One page, newest first, of those older than `after`; and whether there are more behind it.
pub async fn list(
    store: &Store,
    project: &Project,
    after: Option<&BatchId>,
    limit: u32,
) -> Result<(Vec<Row>, bool), StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM batches WHERE tenant = $1 AND project = $2 AND ($3 IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(after.map(|id| id.as_str().to_owned()))
    .bind(i64::from(limit) + 1)
    .fetch_all(&store.reader)
    .await?;
    let has_more = rows.len() > limit as usize;
    let page = rows.iter().take(limit as usize).map(|row| parse(store, row));
    Ok((page.collect::<Result<_, _>>()?, has_more))
}

/// Every batch of every project that is not over, oldest first; without those whose project this process cannot open.
pub async fn unfinished(store: &Store) -> Result<Vec<Row>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM batches WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY id",
    )
    .fetch_all(&store.reader)
    .await?;
    let opened = rows.iter().map(|row| match parse(store, row) {
        Err(error @ (StoreError::Locked { .. } | StoreError::Erased { .. })) => {
            tracing::debug!(%error, "a batch stays as it is");
            None
        }
        other => Some(other),
    });
    opened.flatten().collect()
}

/// What a row's document is sealed for.
fn document_place(id: &str) -> String {
    format!("document of {id}")
}

fn sealed_document(store: &Store, row: &Row) -> Result<String, StoreError> {
    let key = store.keyring().of(&row.project)?;
    seal_text(key.as_ref(), &document_place(row.id.as_str()), &row.document)
}

fn parse(store: &Store, row: &AnyRow) -> Result<Row, StoreError> {
    let id: String = row.try_get("id")?;
    let project = Project { tenant: row.try_get("tenant")?, id: row.try_get("project")? };
    let key = store.keyring().of(&project)?;
    let document = open_text(key.as_ref(), ("batches", &document_place(&id)), row.try_get("document")?)?;
    Ok(Row {
        id: id.parse().map_err(|_| StoreError::Damaged { table: "batches", value: id })?,
        project,
        status: row.try_get("status")?,
        document,
    })
}

fn folder(store: &Store, project: &Project, id: &BatchId) -> PathBuf {
    store.layout().batches(project).join(id.as_str())
}

/// The lines that a batch asks.
///
/// # Errors
/// They are not there; the project's key cannot be opened.
pub fn input(store: &Store, project: &Project, id: &BatchId) -> Result<Contents, StoreError> {
    let path = folder(store, project, id).join("input.jsonl");
    vault::contents(&path, store.keyring().of(project)?.as_ref(), crate::data_files::PLACE)
}

/// Keeps what a batch asks as it is now: its file may be removed while the batch is under way.
///
/// # Errors
/// The disk.
pub fn keep_input(store: &Store, project: &Project, id: &BatchId, file: &Path) -> Result<(), StoreError> {
    let folder = folder(store, project, id);
    create_private_dir(&folder)?;
    let kept = folder.join("input.jsonl");
    // Files are never written again, so a second name for the same bytes is as good as a copy.
    if std::fs::hard_link(file, &kept).is_err() {
        std::fs::copy(file, &kept).map_err(|e| StoreError::file("copy", &kept, e))?;
        File::open(&kept)
            .and_then(|file| file.sync_all())
            .map_err(|e| StoreError::file("flush", &kept, e))?;
    }
    sync_dir(&folder)?;
    sync_dir(&store.layout().batches(project))
}

/// Takes a batch; `Ok(None)` when a living process works on it.
///
/// # Errors
/// The disk.
pub fn own(store: &Store, project: &Project, id: &BatchId) -> Result<Option<WorkLock>, StoreError> {
    let all = store.layout().batches(project);
    create_private_dir(&all)?;
    WorkLock::try_take(all.join(format!("{id}.lock")))
}

/// Removes the folder of a batch that is over.
///
/// # Errors
/// The disk.
pub fn remove(store: &Store, project: &Project, id: &BatchId) -> Result<(), StoreError> {
    let folder = folder(store, project, id);
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file("remove", &folder, e)),
        _ => Ok(()),
    }
}

/// Which of a batch's two files an answered line goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Output,
    Errors,
}

impl To {
    fn as_str(self) -> &'static str {
        match self {
            To::Output => "out",
            To::Errors => "err",
        }
    }
}

/// A line that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Of the input, from 1.
    pub number: u64,
    pub to: To,
    /// Without a line break.
    pub json: String,
}

/// The answered lines of a batch on the disk.
#[derive(Debug)]
pub struct Progress {
    file: File,
    path: PathBuf,
    lines: Lines,
}

/// How a line stands in `done.jsonl`: as it is, or sealed for its batch and number.
#[derive(Debug)]
struct Lines {
    key: Option<ProjectKey>,
    id: BatchId,
}

impl Lines {
    fn of(store: &Store, project: &Project, id: &BatchId) -> Result<Self, StoreError> {
        Ok(Lines { key: store.keyring().of(project)?, id: id.clone() })
    }

    fn place(&self, number: u64) -> String {
        format!("line {number} of {}", self.id)
    }

    fn write(&self, Done { number, to, json }: &Done) -> Result<String, StoreError> {
        let json = seal_text(self.key.as_ref(), &self.place(*number), json)?;
        Ok(format!("{number} {} {json}\n", to.as_str()))
    }

    /// None: no whole line.
    fn read(&self, line: &[u8]) -> Option<Done> {
        let text = std::str::from_utf8(line).ok()?;
        let (number, rest) = text.split_once(' ')?;
        let (to, json) = rest.split_once(' ')?;
        let to = [To::Output, To::Errors].into_iter().find(|known| known.as_str() == to)?;
        let number = number.parse().ok()?;
        let json = open_text(self.key.as_ref(), ("done.jsonl", &self.place(number)), json.to_owned()).ok()?;
        serde_json::from_str::<serde::de::IgnoredAny>(&json).ok()?;
        Some(Done { number, to, json })
    }
}

impl Progress {
    /// Tells `see` every line that was answered before, and goes on behind them.
    ///
    /// # Errors
    /// The disk.
    pub fn open(
        store: &Store,
        project: &Project,
        id: &BatchId,
        see: impl FnMut(Done),
    ) -> Result<Self, StoreError> {
        let folder = folder(store, project, id);
        create_private_dir(&folder)?;
        let path = folder.join("done.jsonl");
        let failed = |e| StoreError::file("read", &path, e);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        let lines = Lines::of(store, project, id)?;
        let whole = replay(&file, &lines, see).map_err(failed)?;
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_dir(&folder)?;
        Ok(Progress { file, path, lines })
    }

    /// Writes lines that were answered; they are on the disk when this returns.
    ///
    /// # Errors
    /// The disk.
    pub fn append(&mut self, lines: &[Done]) -> Result<(), StoreError> {
        let mut text = String::new();
        for done in lines {
            text.push_str(&self.lines.write(done)?);
        }
        let length = self.file.metadata().map(|metadata| metadata.len());
        let written = disk::write_all(&mut self.file, &self.path, text.as_bytes())
            .and_then(|()| disk::sync_data(&self.file, &self.path));
        if let (Err(_), Ok(length)) = (&written, length) {
            // Half a line must not stand before the next one.
            let _ = self.file.set_len(length);
        }
        written.map_err(|e| StoreError::file("write", &self.path, e))
    }
}

/// Tells `see` what stands in `done.jsonl` of a batch.
///
/// # Errors
/// The disk.
pub fn read(store: &Store, project: &Project, id: &BatchId, see: impl FnMut(Done)) -> Result<(), StoreError> {
    let path = folder(store, project, id).join("done.jsonl");
    let failed = |e| StoreError::file("read", &path, e);
    match File::open(&path) {
        Ok(file) => replay(&file, &Lines::of(store, project, id)?, see).map(|_| ()).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// How many bytes are whole lines.
fn replay(file: &File, lines: &Lines, mut see: impl FnMut(Done)) -> std::io::Result<u64> {
    let (mut reader, mut line, mut whole) = (BufReader::new(file), Vec::new(), 0);
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        let Some(done) = line.strip_suffix(b"\n").and_then(|line| lines.read(line)) else { return Ok(whole) };
        whole += n as u64;
        see(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use lyceum_types::clock::Timestamp;

    async fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap(), dir)
    }

    fn row(project: &Project, bits: u128, status: &str) -> Row {
        Row {
            id: BatchId::from_bits(bits),
            project: project.clone(),
            status: status.into(),
            document: "{}".into(),
        }
    }

    #[tokio::test]
    async fn a_status_changes_only_from_the_one_it_was_read_with_and_for_its_own_project() {
        let (store, _dir) = store().await;
        let ours = Project::default_project();
        let theirs = Project { tenant: "other".into(), id: "default".into() };
        for (project, bits) in [(&ours, 1), (&ours, 2), (&ours, 3), (&theirs, 4)] {
            insert(&store, &row(project, bits, "validating")).await.unwrap();
        }
        assert!(replace(&store, &row(&ours, 1, "in_progress"), "validating").await.unwrap());
        assert!(!replace(&store, &row(&ours, 1, "completed"), "validating").await.unwrap());
        assert!(!replace(&store, &row(&theirs, 1, "completed"), "in_progress").await.unwrap());
        assert!(replace(&store, &row(&ours, 2, "completed"), "validating").await.unwrap());
        let ids = |rows: &[Row]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        let of = |bits: &[u128]| bits.iter().map(|&bits| BatchId::from_bits(bits)).collect::<Vec<_>>();
        assert_eq!(ids(&unfinished(&store).await.unwrap()), of(&[1, 3, 4]));
        let (page, has_more) = list(&store, &ours, None, 2).await.unwrap();
        assert_eq!((ids(&page), has_more), (of(&[3, 2]), true));
        let (page, has_more) = list(&store, &ours, Some(&BatchId::from_bits(2)), 2).await.unwrap();
        assert_eq!((ids(&page), has_more), (of(&[1]), false));
        let found = find(&store, &theirs, &BatchId::from_bits(1)).await;
        assert!(matches!(found, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn what_a_crash_cut_off_is_forgotten_and_the_rest_is_told_again() {
        let (store, _dir) = store().await;
        let (ours, id) = (Project::default_project(), BatchId::from_bits(1));
        let done = |number, to| Done { number, to, json: format!("{{\"n\":{number}}}") };
        let all = [done(1, To::Output), done(3, To::Errors), done(2, To::Output)];
        let mut progress = Progress::open(&store, &ours, &id, |_| panic!("nothing yet")).unwrap();
        progress.append(&all[..2]).unwrap();
        progress.append(&all[2..]).unwrap();
        drop(progress);
        let path = folder(&store, &ours, &id).join("done.jsonl");
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        for cut in last..=whole.len() {
            for tail in [&b""[..], b"4 out {\"n\"", b"\0\0\0\0\n"] {
                std::fs::write(&path, [&whole[..cut], tail].concat()).unwrap();
                let mut seen = Vec::new();
                let mut progress = Progress::open(&store, &ours, &id, |done| seen.push(done)).unwrap();
                let n = if cut == whole.len() { 3 } else { 2 };
                assert_eq!(seen, all[..n], "cut at {cut}, {tail:?}");
                progress.append(&[done(9, To::Output)]).unwrap();
                let mut n_read = 0;
                read(&store, &ours, &id, |_| n_read += 1).unwrap();
                assert_eq!(n_read, n + 1);
            }
        }
        let lock = own(&store, &ours, &id).unwrap();
        assert!(lock.is_some() && own(&store, &ours, &id).unwrap().is_none());
        remove(&store, &ours, &id).unwrap();
        read(&store, &ours, &id, |_| panic!("it is gone")).unwrap();
    }
}
