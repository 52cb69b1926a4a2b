//! Files that requests bring: rows to train on, to choose with, to attack.
//!
//! Bytes stream to the disk on a blocking thread behind a bounded channel, so neither a slow disk nor a large file
//! holds a thread of the runtime or memory. What a file is for is said by its purpose; what it holds by its name.

use crate::{Service, ServiceError, batches};
use futures_util::Stream;
use lyceum_store::data_files::{self, Arrived, Incoming, Kept, NewFile, Room};
use lyceum_store::jobs::{self, Job};
use lyceum_store::vault::{Contents, KeyedPath};
use lyceum_store::{Store, StoreError};
use lyceum_train::data::{DataError, arrived};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{FileId, KeyId, KeyScope, Project};
use lyceum_types::limits;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use lyceum_store::data_files::{DataFile, MODEL, Order, Query};
pub use lyceum_train::data::report::{Issue, Report};

/// Purposes that a file may be brought for.
pub const PURPOSES: [&str; 7] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals", MODEL];
/// Parts of a file between the socket and the disk.
const PARTS_ON_THE_WAY: usize = 8;
/// Of a file that is read.
const PART_BYTES: usize = 256 << 10;

/// A purpose that a file may have.
///
/// # Errors
/// Another one, by name.
pub fn purpose(text: &str) -> Result<&'static str, ServiceError> {
    if let Some(purpose) = PURPOSES.iter().find(|purpose| **purpose == text) {
        return Ok(purpose);
    }
    let known = PURPOSES.join(", ");
    Err(ServiceError::invalid("purpose", "invalid_value", format!("\"{text}\" is none of {known}")))
}

/// Whether a key may bring files for a purpose: those of models are as large as models, and asked for by who may import
/// them.
///
/// # Errors
/// [`ServiceError::ScopeMissing`].
pub async fn require_scope(
    service: &Service,
    (project, key): (&Project, &KeyId),
    purpose: &str,
) -> Result<(), ServiceError> {
    let needed = KeyScope::Admin;
    if purpose != MODEL || lyceum_store::keys::find(service.store(), project, key).await?.allows(needed) {
        return Ok(());
    }
    Err(ServiceError::ScopeMissing { needed })
}

/// A file on its way to the disk; dropped, nothing of it stays.
#[derive(Debug)]
pub struct Receiving {
    parts: mpsc::Sender<Vec<u8>>,
    work: JoinHandle<Result<Arrived, StoreError>>,
    bytes: u64,
    bytes_max: u64,
}

/// Bytes that are all on the disk and not yet a file.
#[derive(Debug)]
pub struct Received(pub(crate) Arrived);

impl Received {
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }
}

impl Receiving {
    /// Takes a file, or a part of one, of at most `bytes_max` bytes.
    pub fn begin(service: &Service, project: &Project, bytes_max: u64) -> Self {
        let (parts, mut arriving) = mpsc::channel::<Vec<u8>>(PARTS_ON_THE_WAY);
        let (store, project) = (service.store().clone(), project.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut incoming = Incoming::begin(&store, &project)?;
            while let Some(part) = arriving.blocking_recv() {
                incoming.write(&part)?;
            }
            incoming.end()
        });
        Self { parts, work, bytes: 0, bytes_max }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// [`ServiceError::TooLarge`] beyond the bound; what the disk says.
    pub async fn write(&mut self, part: &[u8]) -> Result<(), ServiceError> {
        self.bytes += part.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(ServiceError::TooLarge { bytes_max: self.bytes_max });
        }
        if self.parts.send(part.to_vec()).await.is_err() {
            // The disk has refused; the thread says why.
            return match (&mut self.work).await {
                Ok(Err(error)) => Err(error.into()),
                Ok(Ok(_)) => Err(ServiceError::internal("receiving a file", "it ended early")),
                Err(error) => Err(ServiceError::internal("receiving a file", error)),
            };
        }
        Ok(())
    }

    /// All parts are here.
    pub async fn end(self) -> Result<Received, ServiceError> {
        drop(self.parts);
        let arrived = self.work.await.map_err(|error| ServiceError::internal("receiving a file", error))?;
        Ok(Received(arrived?))
    }
}

/// What a client says of a file that it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    pub purpose: &'static str,
    /// After its creation.
    pub expires_after: Option<Duration>,
}

/// Makes what was received a file.
///
/// # Errors
/// It is not what its purpose wants ([`ServiceError::WrongFile`] with every error of it); the project is full.
pub async fn create(
    service: &Service,
    project: &Project,
    described: Described,
    received: Received,
) -> Result<DataFile, ServiceError> {
    create_as(service, project, None, described, received).await
}

/// As [`create`], under an id that was drawn before; None: under a new one.
pub(crate) async fn create_as(
    service: &Service,
    project: &Project,
    id: Option<FileId>,
    mut described: Described,
    received: Received,
) -> Result<DataFile, ServiceError> {
    let (purpose, name, contents) = (described.purpose, described.name.clone(), received.0.contents()?);
    let bytes = received.0.bytes;
    let judged = tokio::task::spawn_blocking(move || judge(purpose, &name, &contents, bytes)).await;
    judged.map_err(|error| ServiceError::internal("judging a file broke off", error))??;
    let room = match described.purpose {
        MODEL => Room::Model { bytes_max: service.model_uploads_bytes_max() },
        _ => Room::Bounded,
    };
    match described.purpose {
        "batch" => _ = described.expires_after.get_or_insert(limits::BATCH_FILES_KEPT),
        MODEL => _ = described.expires_after.get_or_insert(limits::MODEL_FILES_KEPT),
        _ => {}
    }
    let now = Timestamp::now();
    let new = NewFile {
        name: described.name,
        purpose: described.purpose.into(),
        expires_at: described.expires_after.map(|after| now.plus(after)),
    };
    let full = |message: String| Err(ServiceError::QuotaReached { message });
    let id = id.unwrap_or_else(|| FileId::from_bits(uuid::Uuid::now_v7().as_u128()));
    let arrived = (received.0, now);
    match data_files::keep_as(service.store(), project, (id, room), new, arrived).await? {
        Kept::Kept(file) => Ok(file),
        Kept::TooMany => full(format!("there are {} files already: delete some", limits::FILES_MAX)),
        Kept::TooLarge if room != Room::Bounded => full(format!(
            "files of models take {} bytes at most together: import or delete some, or have the operator raise \
             model_uploads_mib",
            service.model_uploads_bytes_max()
        )),
        Kept::TooLarge => {
            full(format!("files take {} bytes at most together: delete some", limits::FILES_BYTES_MAX))
        }
    }
}

/// Refuses what its purpose cannot use. Reads the file.
fn judge(purpose: &str, name: &str, contents: &Contents, bytes: u64) -> Result<(), ServiceError> {
    let failed = |error| ServiceError::internal("judging a file", error);
    let report = match purpose {
        "batch" if bytes > limits::BATCH_BYTES_MAX => {
            return Err(ServiceError::TooLarge { bytes_max: limits::BATCH_BYTES_MAX });
        }
        "batch" => batches::lines::judge(contents, name, None)?.1,
        "fine-tune" if bytes > limits::FILE_BYTES_MAX && name.to_ascii_lowercase().ends_with(".jsonl") => {
            return Err(ServiceError::TooLarge { bytes_max: limits::FILE_BYTES_MAX });
        }
        // A larger table, brought in parts, is judged by the job that reads it.
        "fine-tune" if bytes <= limits::FILE_BYTES_MAX => arrived::judge(contents, name, &Control::new())
            .map_err(|error| match error {
                DataError::Io { source, .. } => failed(source),
                error => ServiceError::internal("judging a file", error),
            })?,
        "vision" => {
            let mut begin = [0; 12];
            let n = contents.read_at(0, &mut begin).map_err(failed)?;
            return match picture(&begin[..n]) {
                true => Ok(()),
                false => {
                    let message = "file: is no PNG, JPEG, GIF or WebP picture, and its purpose is vision";
                    Err(ServiceError::invalid("file", "invalid_image", message))
                }
            };
        }
        _ => return Ok(()),
    };
    if report.is_empty() {
        Ok(())
    } else {
        Err(ServiceError::WrongFile { param: "file", report: Box::new(report) })
    }
}

/// Whether bytes begin as those of a picture do.
fn picture(begin: &[u8]) -> bool {
    let is_webp = begin.starts_with(b"RIFF") && begin.get(8..12) == Some(b"WEBP");
    is_webp
        || [&b"\x89PNG\r\n\x1a\n"[..], b"\xFF\xD8\xFF", b"GIF87a", b"GIF89a"]
            .iter()
            .any(|&known| begin.starts_with(known))
}

/// One file, with its bytes on this machine.
pub async fn have(service: &Service, project: &Project, id: &str) -> Result<DataFile, ServiceError> {
    Ok(data_files::have(service.store(), project, &parse(id)?, Timestamp::now()).await?)
}

/// One file; its bytes may be elsewhere.
pub async fn find(service: &Service, project: &Project, id: &str) -> Result<DataFile, ServiceError> {
    Ok(data_files::find(service.store(), project, &parse(id)?, Timestamp::now()).await?)
}

/// One page of files, and whether there are more behind it.
pub async fn list(
    service: &Service,
    project: &Project,
    query: &Query,
) -> Result<(Vec<DataFile>, bool), ServiceError> {
    Ok(data_files::list(service.store(), project, query, Timestamp::now()).await?)
}

pub async fn delete(service: &Service, project: &Project, id: &str) -> Result<FileId, ServiceError> {
    let id = parse(id)?;
    for job in jobs::unfinished(service.store(), project).await?.iter().filter(|job| job.request.is_some()) {
        if files_of(job)?.contains(&id) {
            let message = format!("{} reads the file {id}: cancel it first, or wait for its end", job.id);
            return Err(ServiceError::Conflict { code: "file_in_use", message });
        }
    }
    data_files::delete(service.store(), project, &id, Timestamp::now()).await?;
    Ok(id)
}

/// The bytes of a file, from the beginning, in parts.
///
/// # Errors
/// The disk; bytes that were changed.
pub async fn contents(
    service: &Service,
    project: &Project,
    file: &DataFile,
) -> Result<impl Stream<Item = std::io::Result<Vec<u8>>> + use<>, ServiceError> {
    let contents = Arc::new(data_files::contents(service.store(), project, file)?);
    Ok(futures_util::stream::try_unfold((contents, 0), |(contents, at)| async move {
        let from = contents.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut part = vec![0; PART_BYTES];
            let n = from.read_at(at, &mut part)?;
            part.truncate(n);
            Ok::<_, std::io::Error>(part)
        });
        let part = read.await.map_err(std::io::Error::other)??;
        let next = at + part.len() as u64;
        Ok((!part.is_empty()).then_some((part, (contents, next))))
    }))
}

/// The file that the request's field `param` names, to be read whole; the name tells the format.
///
/// # Errors
/// 400 at the field: no such file of this project.
pub async fn open(
    store: &Store,
    project: &Project,
    param: &str,
    id: &str,
) -> Result<KeyedPath, ServiceError> {
    let file = named(store, project, param, id).await?;
    Ok(data_files::place(store, project, &file)?)
}

/// The file that the request's field `param` names.
///
/// # Errors
/// 400 at the field: no such file of this project.
pub(crate) async fn named(
    store: &Store,
    project: &Project,
    param: &str,
    id: &str,
) -> Result<DataFile, ServiceError> {
    let missing = || {
        let shown: String = id.chars().take(64).collect();
        let message = format!("there is no file {shown:?}: POST /v1/files gives the id of one");
        ServiceError::invalid(param, "file_not_found", message)
    };
    let id: FileId = id.parse().map_err(|_| missing())?;
    match data_files::have(store, project, &id, Timestamp::now()).await {
        // As large as a model, and no rows: nothing reads it but an import.
        Ok(file) if file.purpose == MODEL => {
            let message = format!("the file {id} is part of a model: POST /v1/models imports it");
            Err(ServiceError::invalid(param, "invalid_purpose", message))
        }
        Ok(file) => Ok(file),
        Err(StoreError::NotFound { .. }) => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

/// What an error says, without the folder that this server keeps its data in: whoever asks sees names, not places.
pub(crate) fn without_folder(store: &Store, told: &str) -> String {
    let root = store.layout().root();
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let told = told.replace(&format!("{}/", absolute.display()), "");
    told.replace(&format!("{}/", root.display()), "")
}

/// What a file is called, of the place that an error names, and of an archive the file in it: whoever asks sees names, not
/// places.
pub fn name_of(place: &str) -> &str {
    let mut behind = place.split_inclusive('/').scan(0, |at, part| {
        *at += part.len();
        Some((part.trim_end_matches('/'), *at))
    });
    match behind.find(|(part, _)| part.parse::<FileId>().is_ok()) {
        Some((_, at)) => &place[at..],
        None if place.starts_with('/') => place.rsplit('/').next().unwrap_or(place),
        None => place,
    }
}

/// Sees to it that the files that a job names by their ids are on this machine, and says in `base_dir` where they are: it
/// may have been asked for on another. Of a job of the command line nothing changes.
///
/// # Errors
/// The object store does not give one of them.
pub async fn of_job(store: &Store, job: &Job, base_dir: &mut PathBuf) -> Result<(), ServiceError> {
    if job.request.is_none() {
        return Ok(());
    }
    *base_dir = std::path::absolute(store.layout().data_files())
        .map_err(|error| ServiceError::internal("finding the folder of the files", error))?;
    for id in files_of(job)? {
        match data_files::have(store, &job.project, &id, Timestamp::now()).await {
            // Who reads it says so, with its place in the spec.
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The files that a job of a server reads.
fn files_of(job: &Job) -> Result<Vec<FileId>, ServiceError> {
    let spec: Value = serde_json::from_str(&job.spec)
        .map_err(|source| ServiceError::Damaged { id: job.id.to_string(), source: source.into() })?;
    let mut ids = Vec::new();
    ids_in(&spec, &mut ids);
    Ok(ids)
}

/// The files that a document names as `ID/NAME`.
fn ids_in(value: &Value, found: &mut Vec<FileId>) {
    match value {
        Value::String(text) => {
            found.extend(text.split_once('/').and_then(|(id, _)| id.parse::<FileId>().ok()))
        }
        Value::Array(values) => values.iter().for_each(|value| ids_in(value, found)),
        Value::Object(members) => members.values().for_each(|value| ids_in(value, found)),
        _ => {}
    }
}

fn parse(id: &str) -> Result<FileId, ServiceError> {
    let shown = || id.chars().take(64).collect();
    id.parse().map_err(|_| ServiceError::NotFound { what: "file", id: shown() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_name_files_and_not_the_folder_that_they_are_in() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(lyceum_store::Layout::new(dir.path()), Timestamp::now()).await.unwrap();
        let place = store.layout().data_files().join("file_1/ft.jsonl");
        let told = without_folder(&store, &format!("{}: cannot be read", place.display()));
        assert_eq!(told, "files/file_1/ft.jsonl: cannot be read");
        let id = "file_01a22290279a709e9fc2658efcec8d0f";
        for (place, name) in [
            (format!("/data/files/{id}/a.zip/cats/1.png"), "a.zip/cats/1.png"),
            (format!("{id}/rows.csv"), "rows.csv"),
            ("/etc/rows.csv".into(), "rows.csv"),
            ("a.zip/cats/1.png".into(), "a.zip/cats/1.png"),
        ] {
            assert_eq!(name_of(&place), name);
        }
    }
}
