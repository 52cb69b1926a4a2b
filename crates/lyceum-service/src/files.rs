//! Files that requests bring: rows to train on, to choose with, to attack.
//!
//! Bytes stream to the disk on a blocking thread behind a bounded channel, so neither a slow disk nor a large file
//! holds a thread of the runtime or memory. What a file is for is said by its purpose; what it holds by its name.

use crate::{Service, ServiceError};
use lyceum_store::data_files::{self, Arrived, Incoming, Kept, NewFile};
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{FileId, Project};
use lyceum_types::limits;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use lyceum_store::data_files::{DataFile, Order, Query};

/// Purposes that mean something here.
pub const PURPOSES: [&str; 3] = ["user_data", "fine-tune", "evals"];
/// Purposes of OpenAI's whose use is not in this version.
const PURPOSES_NOT_YET: [&str; 3] = ["batch", "assistants", "vision"];
/// Parts of a file between the socket and the disk.
const PARTS_ON_THE_WAY: usize = 8;

/// A purpose that a file may have.
///
/// # Errors
/// Another one, by name.
pub fn purpose(text: &str) -> Result<&'static str, ServiceError> {
    if let Some(purpose) = PURPOSES.iter().find(|purpose| **purpose == text) {
        return Ok(purpose);
    }
    let known = PURPOSES.join(", ");
    if PURPOSES_NOT_YET.contains(&text) {
        let message = format!("\"{text}\" has no use in this version; files here are for {known}");
        return Err(ServiceError::not_implemented("purpose", message));
    }
    Err(ServiceError::invalid("purpose", "invalid_value", format!("\"{text}\" is none of {known}")))
}

/// A file on its way to the disk; dropped, nothing of it stays.
#[derive(Debug)]
pub struct Receiving {
    parts: mpsc::Sender<Vec<u8>>,
    work: JoinHandle<Result<Arrived, StoreError>>,
    bytes: u64,
}

/// Bytes that are all on the disk and not yet a file.
#[derive(Debug)]
pub struct Received(Arrived);

impl Received {
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }
}

impl Receiving {
    pub fn begin(service: &Service) -> Self {
        let (parts, mut arriving) = mpsc::channel::<Vec<u8>>(PARTS_ON_THE_WAY);
        let store = service.store().clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut incoming = Incoming::begin(&store)?;
            while let Some(part) = arriving.blocking_recv() {
                incoming.write(&part)?;
            }
            incoming.end()
        });
        Self { parts, work, bytes: 0 }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// [`ServiceError::TooLarge`] beyond the bound; what the disk says.
    pub async fn write(&mut self, part: &[u8]) -> Result<(), ServiceError> {
        self.bytes += part.len() as u64;
        if self.bytes > limits::FILE_BYTES_MAX {
            return Err(ServiceError::TooLarge { bytes_max: limits::FILE_BYTES_MAX });
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
pub async fn create(
    service: &Service,
    project: &Project,
    described: Described,
    received: Received,
) -> Result<DataFile, ServiceError> {
    let now = Timestamp::now();
    let new = NewFile {
        name: described.name,
        purpose: described.purpose.into(),
        expires_at: described.expires_after.map(|after| now.plus(after)),
    };
    let full = |message: String| Err(ServiceError::QuotaReached { message });
    match data_files::keep(service.store(), project, new, received.0, now).await? {
        Kept::Kept(file) => Ok(file),
        Kept::TooMany => full(format!("there are {} files already: delete some", limits::FILES_MAX)),
        Kept::TooLarge => {
            full(format!("files take {} bytes at most together: delete some", limits::FILES_BYTES_MAX))
        }
    }
}

/// One file.
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
    data_files::delete(service.store(), project, &id, Timestamp::now()).await?;
    Ok(id)
}

/// Where the bytes of a file are that the request's field `param` names; the name tells the format.
///
/// # Errors
/// 400 at the field: no such file of this project.
pub async fn open(store: &Store, project: &Project, param: &str, id: &str) -> Result<PathBuf, ServiceError> {
    let missing = || {
        let shown: String = id.chars().take(64).collect();
        let message = format!("there is no file {shown:?}: POST /v1/files gives the id of one");
        ServiceError::invalid(param, "file_not_found", message)
    };
    let id: FileId = id.parse().map_err(|_| missing())?;
    match data_files::find(store, project, &id, Timestamp::now()).await {
        Ok(file) => Ok(file.path),
        Err(StoreError::NotFound { .. }) => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

fn parse(id: &str) -> Result<FileId, ServiceError> {
    let shown = || id.chars().take(64).collect();
    id.parse().map_err(|_| ServiceError::NotFound { what: "file", id: shown() })
}
