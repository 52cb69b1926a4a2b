//! Files that come in parts, for those that are too large for one request or that come over a bad line.
//!
//! Parts lie on the disk beside what was said of the file; completing puts them together, judges them as a file of their
//! purpose is judged, and makes them one of `/v1/files`. What is not completed within an hour (of a model: a day) is gone.

use crate::files::{self, Described, Received};
use crate::{Service, ServiceError};
use lyceum_store::data_files::{self, DataFile};
use lyceum_store::uploads::{self, Status};
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{PartId, Project, UploadId};
use lyceum_types::limits;
use std::time::Duration;

pub use lyceum_store::uploads::Upload;

/// A file that is to come.
#[derive(Clone, Debug)]
pub struct NewUpload {
    pub name: String,
    pub purpose: &'static str,
    pub mime_type: String,
    /// Of all parts together.
    pub bytes: u64,
    pub expires_after: Option<Duration>,
}

/// A part that is here.
#[derive(Clone, Debug)]
pub struct Part {
    pub id: PartId,
    pub upload: UploadId,
    pub created_at: Timestamp,
}

fn parse(id: &str) -> Result<UploadId, ServiceError> {
    let shown = || id.chars().take(64).collect();
    id.parse().map_err(|_| ServiceError::NotFound { what: "upload", id: shown() })
}

async fn with_store<T: Send + 'static>(
    service: &Service,
    project: &Project,
    work: impl FnOnce(&Store, &Project) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ServiceError> {
    let (store, project) = (service.store().clone(), project.clone());
    let done = tokio::task::spawn_blocking(move || work(&store, &project)).await;
    Ok(done.map_err(|error| ServiceError::internal("the disk work of an upload broke off", error))??)
}

/// Begins to take a file.
///
/// # Errors
/// As many uploads of the project are pending as may; parts of models have no room.
pub async fn create(service: &Service, project: &Project, new: NewUpload) -> Result<Upload, ServiceError> {
    crate::retention::require_kept(service, project, "filename", "the bytes of a file").await?;
    let id = UploadId::from_bits(uuid::Uuid::now_v7().as_u128());
    let now = Timestamp::now();
    let is_of_model = new.purpose == files::MODEL;
    let (room, kept) = if is_of_model {
        let there = data_files::model_bytes(service.store(), project, now).await?;
        (service.model_uploads_bytes_max().saturating_sub(there), limits::MODEL_UPLOAD_KEPT)
    } else {
        (0, limits::UPLOAD_KEPT)
    };
    let upload = Upload {
        id: id.to_string(),
        name: new.name,
        purpose: new.purpose.into(),
        mime_type: new.mime_type,
        bytes: new.bytes,
        created_at: now.seconds(),
        expires_at: now.plus(kept).seconds(),
        file_expires_after: new.expires_after.map(|after| after.as_secs()),
        file: None,
        made_of: None,
        status: Status::Pending,
    };
    let document = upload.clone();
    let create =
        move |store: &Store, project: &Project| uploads::create(store, project, &id, (&document, room));
    with_store(service, project, create).await?;
    Ok(upload)
}

/// Looks for an upload that takes parts, before any byte of one is read.
///
/// # Errors
/// There is none of this id; it is over; the project keeps nothing.
pub async fn require_pending(service: &Service, project: &Project, id: &str) -> Result<(), ServiceError> {
    crate::retention::require_kept(service, project, "data", "the bytes of a file").await?;
    let id = parse(id)?;
    recover(service, project, &id).await?;
    let found = with_store(service, project, move |store, project| {
        uploads::find(store, project, &id, Timestamp::now())
    });
    match found.await?.status {
        Status::Pending => Ok(()),
        status => {
            let message = format!("the upload is {}", status.as_str());
            Err(ServiceError::Refused { code: "upload_not_pending", message })
        }
    }
}

/// Gives an upload a part.
///
/// # Errors
/// The upload is over, or would be larger than was said.
pub async fn add_part(
    service: &Service,
    project: &Project,
    id: &str,
    received: Received,
) -> Result<Part, ServiceError> {
    let upload = parse(id)?;
    let part = PartId::from_bits(uuid::Uuid::now_v7().as_u128());
    let (to, named, now) = (upload.clone(), part.clone(), Timestamp::now());
    with_store(service, project, move |store, project| {
        uploads::add_part(store, project, (&to, &named), &received.0, now)
    })
    .await?;
    Ok(Part { id: part, upload, created_at: now })
}

/// Makes the parts, in this order, one file.
///
/// # Errors
/// The upload is over; the parts are not what was said of them; the file is not what its purpose wants.
pub async fn complete(
    service: &Service,
    project: &Project,
    id: &str,
    (parts, md5): (&[String], Option<String>),
) -> Result<(Upload, DataFile), ServiceError> {
    let upload = parse(id)?;
    let unknown = |part: &String| {
        let part: String = part.chars().take(64).collect();
        ServiceError::Refused { code: "unknown_part", message: format!("the upload has no part {part}") }
    };
    let parts: Vec<PartId> =
        parts.iter().map(|part| part.parse().map_err(|_| unknown(part))).collect::<Result<_, _>>()?;
    if let Some((upload, file)) = recover(service, project, &upload).await? {
        if upload.made_of.as_ref().is_some_and(|made_of| made_of.is(&parts, md5.as_deref())) {
            return Ok((upload, file));
        }
        let message = "the upload was completed before, with other parts or another MD5".into();
        return Err(ServiceError::Refused { code: "upload_not_pending", message });
    }
    let of = upload.clone();
    let completing = with_store(service, project, move |store, project| {
        uploads::complete(store, project, &of, (&parts, md5.as_deref()), Timestamp::now())
    });
    let uploads::Completing { upload: said, arrived, lock } = completing.await?;
    let described = Described {
        name: said.name.clone(),
        purpose: files::purpose(&said.purpose)?,
        expires_after: said.file_expires_after.map(Duration::from_secs),
    };
    let id = said.file.as_deref().map(str::parse).transpose().map_err(StoreError::from)?;
    let file = match files::create_as(service, project, id, described, Received(arrived)).await {
        Ok(file) => file,
        Err(error) => {
            if is_refusal(&error) {
                let reopened = with_store(service, project, move |store, project| {
                    let _lock = lock;
                    uploads::reopen(store, project, &upload, said)
                });
                reopened.await?;
            }
            return Err(error);
        }
    };
    let ended = with_store(service, project, move |store, project| {
        let _lock = lock;
        uploads::end(store, project, &upload, (said, Status::Completed))
    });
    Ok((ended.await?, file))
}

/// Whether no file was made: what else fails may have made it.
fn is_refusal(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::WrongFile { .. }
            | ServiceError::Invalid { .. }
            | ServiceError::TooLarge { .. }
            | ServiceError::QuotaReached { .. }
    )
}

/// Writes the end of an upload whose file is there already: a process died between the two. What the same call of
/// [`complete`] would have answered then.
async fn recover(
    service: &Service,
    project: &Project,
    id: &UploadId,
) -> Result<Option<(Upload, DataFile)>, ServiceError> {
    let of = id.clone();
    let begun = with_store(service, project, move |store, project| {
        uploads::begun(store, project, &of, Timestamp::now())
    });
    let Some((upload, file, lock)) = begun.await? else { return Ok(None) };
    let file = match data_files::find(service.store(), project, &file, Timestamp::now()).await {
        Ok(file) => file,
        // It died before the file was made.
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let id = id.clone();
    let ended = with_store(service, project, move |store, project| {
        let _lock = lock;
        uploads::end(store, project, &id, (upload, Status::Completed))
    });
    Ok(Some((ended.await?, file)))
}

/// Ends an upload without a file; its parts are gone.
///
/// # Errors
/// There is none of this id; it is over.
pub async fn cancel(service: &Service, project: &Project, id: &str) -> Result<Upload, ServiceError> {
    let id = parse(id)?;
    // One that was completed is not cancelled.
    recover(service, project, &id).await?;
    with_store(service, project, move |store, project| uploads::cancel(store, project, &id, Timestamp::now()))
        .await
}
