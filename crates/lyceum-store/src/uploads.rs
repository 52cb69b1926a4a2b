//! Files that come in parts: a folder each, with what was said of the file and the parts that are here.
//!
//! A part is written and flushed under `staging/`, then renamed into its upload's folder under the upload's lock, so it
//! is there whole or not at all, and never comes behind the upload's end. What has expired is removed by the next upload.

use crate::data_files::{Arrived, Incoming, MODEL};
use crate::files::{WorkLock, create_private_dir, sync_dir};
use crate::vault::{self, Contents, read_document, sealed, write_document};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{FileId, PartId, Project, UploadId};
use lyceum_types::limits;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock is tried that another part holds while it is renamed.
const LOCK_ATTEMPTS: u32 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Completed,
    Cancelled,
    Expired,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Completed => "completed",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
        }
    }
}

/// The bytes that an upload is completed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// In their order.
    pub parts: Vec<String>,
    /// Of all bytes, in lower-case hexadecimal digits.
    pub md5: String,
}

impl Composition {
    fn new(parts: &[PartId], md5: String) -> Self {
        Self { parts: parts.iter().map(ToString::to_string).collect(), md5 }
    }

    /// Whether a request for these parts, with this MD5 if it names one, asks for these bytes.
    pub fn is(&self, parts: &[PartId], md5: Option<&str>) -> bool {
        self.parts.iter().map(String::as_str).eq(parts.iter().map(PartId::as_str))
            && md5.is_none_or(|md5| md5.eq_ignore_ascii_case(&self.md5))
    }
}

/// An upload as its folder says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub id: String,
    pub name: String,
    pub purpose: String,
    pub mime_type: String,
    /// Of all parts together.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: i64,
    pub expires_at: i64,
    /// How long its file is kept.
    pub file_expires_after: Option<u64>,
    /// The file that it becomes, written down before that is made: who finds it there finds the upload complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What that file is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<Composition>,
    pub status: Status,
}

fn folder(store: &Store, project: &Project, id: &UploadId) -> PathBuf {
    store.layout().uploads(project).join(id.as_str())
}

/// Keeps what was said of a file, before its first part. `room` is what is left for parts of models.
///
/// # Errors
/// As many uploads of the project still come as may, or as many bytes of models; the disk.
pub fn create(
    store: &Store,
    project: &Project,
    id: &UploadId,
    (upload, room): (&Upload, u64),
) -> Result<(), StoreError> {
    let all = store.layout().uploads(project);
    create_private_dir(&all)?;
    let pending = sweep(store, project, upload.created_at)?;
    if pending.n >= limits::UPLOADS_PENDING_MAX {
        let message =
            format!("{} uploads are pending already: complete or cancel some", limits::UPLOADS_PENDING_MAX);
        return Err(refused("too_many_uploads", message));
    }
    if upload.purpose == MODEL && pending.model_bytes.saturating_add(upload.bytes) > room {
        let message = format!(
            "{} bytes more of models do not fit beside {} that are on their way: there is room for {room}; import or \
             delete files of the purpose {MODEL}, cancel uploads, or have the operator raise model_uploads_mib",
            upload.bytes, pending.model_bytes
        );
        return Err(refused("too_many_bytes", message));
    }
    create_private_dir(&folder(store, project, id))?;
    save(store, project, id, upload)?;
    sync_dir(&all)
}

fn save(store: &Store, project: &Project, id: &UploadId, upload: &Upload) -> Result<(), StoreError> {
    let json = serde_json::to_vec(upload).expect("an upload is plain data: bug");
    write_document(store, project, &folder(store, project, id).join("upload.json"), &json)
}

/// Uploads that still come.
#[derive(Default)]
struct Pending {
    n: usize,
    /// What those of models will have.
    model_bytes: u64,
}

/// Removes what has expired; the pending ones that are left.
fn sweep(store: &Store, project: &Project, now: i64) -> Result<Pending, StoreError> {
    let all = store.layout().uploads(project);
    let mut pending = Pending::default();
    for entry in std::fs::read_dir(&all).map_err(|e| StoreError::file("list", &all, e))?.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<UploadId>() else { continue };
        let lock = own(store, project, &id)?;
        match read(store, project, &id) {
            Ok(upload) if upload.expires_at > now || lock.is_none() => {
                if upload.status == Status::Pending {
                    pending.n += 1;
                    pending.model_bytes += if upload.purpose == MODEL { upload.bytes } else { 0 };
                }
            }
            _ if lock.is_none() => pending.n += 1,
            // Expired, or what a crash left before it was an upload.
            _ => drop(std::fs::remove_dir_all(entry.path())),
        }
    }
    Ok(pending)
}

/// # Errors
/// There is none of this project; the disk.
pub fn find(store: &Store, project: &Project, id: &UploadId, now: Timestamp) -> Result<Upload, StoreError> {
    let mut upload = read(store, project, id)?;
    if upload.status == Status::Pending && upload.expires_at <= now.seconds() {
        upload.status = Status::Expired;
    }
    Ok(upload)
}

fn read(store: &Store, project: &Project, id: &UploadId) -> Result<Upload, StoreError> {
    let path = folder(store, project, id).join("upload.json");
    let bytes = read_document(store, project, &path)?;
    let bytes = bytes.ok_or_else(|| StoreError::NotFound { what: "upload", id: id.to_string() })?;
    let damaged = || StoreError::Damaged { table: "uploads", value: id.to_string() };
    serde_json::from_slice(&bytes).map_err(|_| damaged())
}

fn own(store: &Store, project: &Project, id: &UploadId) -> Result<Option<WorkLock>, StoreError> {
    WorkLock::try_take(store.layout().uploads(project).join(format!("{id}.lock")))
}

/// The upload, held: nobody else changes it.
fn held(
    store: &Store,
    project: &Project,
    id: &UploadId,
    now: Timestamp,
) -> Result<(Upload, WorkLock), StoreError> {
    let pending = |upload: Upload| match upload.status {
        Status::Pending => Ok(upload),
        status => Err(refused("upload_not_pending", format!("the upload {id} is {}", status.as_str()))),
    };
    pending(find(store, project, id, now)?)?;
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(lock) = own(store, project, id)? {
            return Ok((pending(find(store, project, id, now)?)?, lock));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(refused("upload_busy", format!("the upload {id} is being completed")))
}

fn refused(code: &'static str, message: String) -> StoreError {
    StoreError::Refused { code, message }
}

/// Gives an upload a part.
///
/// # Errors
/// The upload is over, or would be larger than was said; the disk.
pub fn add_part(
    store: &Store,
    project: &Project,
    (id, part): (&UploadId, &PartId),
    arrived: &Arrived,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (upload, _lock) = held(store, project, id, now)?;
    let folder = folder(store, project, id);
    let (mut n, mut bytes) = (0, arrived.bytes);
    for entry in std::fs::read_dir(&folder).map_err(|e| StoreError::file("list", &folder, e))?.flatten() {
        if entry.file_name().to_string_lossy().parse::<PartId>().is_ok() {
            n += 1;
            let found = entry.metadata().map_err(|e| StoreError::file("inspect", &entry.path(), e))?.len();
            bytes += if arrived.key.is_some() { sealed::plain_bytes(found).unwrap_or(0) } else { found };
        }
    }
    if bytes > upload.bytes {
        let message = format!("with this part there are {bytes} bytes, and the upload said {}", upload.bytes);
        return Err(refused("too_many_bytes", message));
    }
    if n >= limits::UPLOAD_PARTS_MAX {
        return Err(refused(
            "too_many_parts",
            format!("an upload has {} parts at most", limits::UPLOAD_PARTS_MAX),
        ));
    }
    let to = folder.join(part.as_str());
    crate::files::disk::rename(&arrived.path(), &to).map_err(|e| StoreError::file("rename", &to, e))?;
    sync_dir(&folder)
}

/// An upload whose parts are put together. Its end is written when [`Completing::end`] is called; dropped, it is pending
/// still.
#[derive(Debug)]
pub struct Completing {
    pub upload: Upload,
    /// All bytes, flushed.
    pub arrived: Arrived,
    /// While it is held nobody else ends the upload.
    pub lock: WorkLock,
}

/// Puts the parts together in the order that is given.
///
/// # Errors
/// The upload is over; there is no such part, or one twice; the bytes are not as many as was said, or have another MD5.
pub fn complete(
    store: &Store,
    project: &Project,
    id: &UploadId,
    (parts, md5): (&[PartId], Option<&str>),
    now: Timestamp,
) -> Result<Completing, StoreError> {
    let (upload, lock) = held(store, project, id, now)?;
    let folder = folder(store, project, id);
    let mut digest = Md5::new();
    let mut incoming = Incoming::begin(store, project)?;
    let mut n_bytes = 0;
    for (i, part) in parts.iter().enumerate() {
        if parts[..i].contains(part) {
            return Err(refused("duplicate_part", format!("the part {part} stands twice in part_ids")));
        }
        let from = folder.join(part.as_str());
        if !from.exists() {
            return Err(refused("unknown_part", format!("the upload has no part {part}")));
        }
        let contents = vault::contents(&from, incoming.key(), crate::data_files::PLACE)?;
        n_bytes += copy(&contents, &from, &mut |chunk: &[u8]| {
            digest.update(chunk);
            incoming.write(chunk).map(|_| ())
        })?;
    }
    if n_bytes != upload.bytes {
        let message = format!("the parts have {n_bytes} bytes, and the upload said {}", upload.bytes);
        return Err(refused("wrong_number_of_bytes", message));
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if md5.is_some_and(|md5| !md5.eq_ignore_ascii_case(&found)) {
        return Err(refused("wrong_md5", format!("the MD5 of the bytes is {found}")));
    }
    let arrived = incoming.end()?;
    let mut upload = upload;
    let made_of = Some(Composition::new(parts, found));
    if upload.file.is_none() || upload.made_of != made_of {
        let draw = || FileId::from_bits(uuid::Uuid::now_v7().as_u128()).to_string();
        upload.file.get_or_insert_with(draw);
        upload.made_of = made_of;
        save(store, project, id, &upload)?;
    }
    Ok(Completing { upload, arrived, lock })
}

fn copy(
    contents: &Contents,
    path: &Path,
    write: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let (mut chunk, mut n_bytes) = (vec![0; 1 << 20], 0);
    loop {
        let n = contents.read_at(n_bytes, &mut chunk).map_err(|e| StoreError::file("read", path, e))?;
        if n == 0 {
            return Ok(n_bytes);
        }
        write(&chunk[..n])?;
        n_bytes += n as u64;
    }
}

/// The upload, held, and the file that an earlier completion began to make of it: where that file is there, a process died
/// before it could say that the upload is complete. None: nobody began, or it is over.
///
/// # Errors
/// There is none of this project; somebody completes it now; the disk.
pub fn begun(
    store: &Store,
    project: &Project,
    id: &UploadId,
    now: Timestamp,
) -> Result<Option<(Upload, FileId, WorkLock)>, StoreError> {
    let found = read(store, project, id)?;
    if found.status != Status::Pending || found.file.is_none() {
        return Ok(None);
    }
    // However late it is: the file may be there.
    let (upload, lock) =
        held(store, project, id, Timestamp::from_millis(now.millis().min(found.created_at * 1000)))?;
    let damaged = |value: &String| StoreError::Damaged { table: "uploads", value: value.clone() };
    let file = upload.file.as_ref().map(|file| file.parse().map_err(|_| damaged(file))).transpose()?;
    Ok(file.map(|file| (upload, file, lock)))
}

/// Writes the end of an upload that is held, and removes its parts.
///
/// # Errors
/// The disk.
pub fn end(
    store: &Store,
    project: &Project,
    id: &UploadId,
    (mut upload, status): (Upload, Status),
) -> Result<Upload, StoreError> {
    upload.status = status;
    save(store, project, id, &upload)?;
    let folder = folder(store, project, id);
    for entry in std::fs::read_dir(&folder).map_err(|e| StoreError::file("list", &folder, e))?.flatten() {
        if entry.file_name().to_string_lossy().parse::<PartId>().is_ok() {
            // What stays goes when the upload expires.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(upload)
}

/// Takes back which file an upload that is held becomes: it was refused, and other parts may make another.
///
/// # Errors
/// The disk.
pub fn reopen(store: &Store, project: &Project, id: &UploadId, mut upload: Upload) -> Result<(), StoreError> {
    (upload.file, upload.made_of) = (None, None);
    save(store, project, id, &upload)
}

/// Ends an upload without a file.
///
/// # Errors
/// It is over; the disk.
pub fn cancel(store: &Store, project: &Project, id: &UploadId, now: Timestamp) -> Result<Upload, StoreError> {
    let (upload, _lock) = held(store, project, id, now)?;
    end(store, project, id, (upload, Status::Cancelled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn part(store: &Store, bits: u128, bytes: &[u8]) -> (PartId, Arrived) {
        let mut incoming = Incoming::begin(store, &Project::default_project()).unwrap();
        incoming.write(bytes).unwrap();
        (PartId::from_bits(bits), incoming.end().unwrap())
    }

    fn code(error: StoreError) -> &'static str {
        match error {
            StoreError::Refused { code, .. } => code,
            other => panic!("{other}"),
        }
    }

    fn begun_busy(store: &Store, project: &Project, id: &UploadId) -> bool {
        matches!(begun(store, project, id, NOW), Err(StoreError::Refused { code: "upload_busy", .. }))
    }

    #[tokio::test]
    async fn parts_are_put_together_in_the_order_that_is_asked_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        let (ours, id) = (Project::default_project(), UploadId::from_bits(1));
        let theirs = Project { tenant: "other".into(), id: "default".into() };
        let upload = Upload {
            id: id.to_string(),
            name: "a.txt".into(),
            purpose: "user_data".into(),
            mime_type: "text/plain".into(),
            bytes: 10,
            created_at: NOW.seconds(),
            expires_at: NOW.seconds() + 3600,
            file_expires_after: None,
            file: None,
            made_of: None,
            status: Status::Pending,
        };
        create(&store, &ours, &id, (&upload, 0)).unwrap();
        assert!(matches!(find(&store, &theirs, &id, NOW), Err(StoreError::NotFound { .. })));
        let (world, bytes) = part(&store, 1, b"world");
        add_part(&store, &ours, (&id, &world), &bytes, NOW).unwrap();
        let (hello, bytes) = part(&store, 2, b"hello");
        add_part(&store, &ours, (&id, &hello), &bytes, NOW).unwrap();
        let (more, bytes) = part(&store, 3, b"!");
        let refused = add_part(&store, &ours, (&id, &more), &bytes, NOW).unwrap_err();
        assert_eq!(code(refused), "too_many_bytes");
        let both = [hello.clone(), world.clone()];
        let ask = |parts: &[PartId], md5| {
            complete(&store, &ours, &id, (parts, md5), NOW).map(|done| done.arrived.sha256)
        };
        assert_eq!(code(ask(&both[..1], None).unwrap_err()), "wrong_number_of_bytes");
        assert_eq!(code(ask(&[hello.clone(), hello.clone()], None).unwrap_err()), "duplicate_part");
        assert_eq!(code(ask(&[hello, more], None).unwrap_err()), "unknown_part");
        assert_eq!(code(ask(&both, Some("00")).unwrap_err()), "wrong_md5");
        // md5 of "helloworld"
        let done =
            complete(&store, &ours, &id, (&both, Some("FC5E038D38A57032085441E7FE7010B0")), NOW).unwrap();
        assert_eq!(std::fs::read(done.arrived.path()).unwrap(), b"helloworld");
        // Its process dies: the next one finds which file it was to be, however late, and asks for the same again.
        let file: FileId = done.upload.file.as_ref().unwrap().parse().unwrap();
        assert!(begun_busy(&store, &ours, &id), "somebody completes it");
        drop(done);
        let late = Timestamp::from_millis(NOW.millis() + 7_200_000);
        let (found, again, lock) = begun(&store, &ours, &id, late).unwrap().unwrap();
        assert_eq!((&again, found.status), (&file, Status::Pending));
        drop(lock);
        let done = complete(&store, &ours, &id, (&both, None), NOW).unwrap();
        assert_eq!(done.upload.file.as_deref(), Some(file.as_str()));
        end(&store, &ours, &id, (done.upload.clone(), Status::Completed)).unwrap();
        drop(done);
        assert!(begun(&store, &ours, &id, NOW).unwrap().is_none(), "it is over");
        assert_eq!(code(cancel(&store, &ours, &id, NOW).unwrap_err()), "upload_not_pending");
        assert_eq!(std::fs::read_dir(folder(&store, &ours, &id)).unwrap().count(), 1, "parts are gone");
        // An hour later it is gone, and a pending one has expired.
        let (second, later) = (UploadId::from_bits(2), Timestamp::from_millis(1_000_000 + 3_600_000));
        let pending = Upload { id: second.to_string(), ..upload.clone() };
        create(&store, &ours, &second, (&pending, 0)).unwrap();
        assert_eq!(find(&store, &ours, &second, later).unwrap().status, Status::Expired);
        let third = UploadId::from_bits(3);
        create(&store, &ours, &third, (&Upload { created_at: later.seconds(), ..upload.clone() }, 0))
            .unwrap();
        // Of models as many bytes come as there is room for.
        let model = Upload { purpose: MODEL.into(), created_at: later.seconds(), ..upload };
        let (fourth, fifth) = (UploadId::from_bits(4), UploadId::from_bits(5));
        assert_eq!(code(create(&store, &ours, &fourth, (&model, 9)).unwrap_err()), "too_many_bytes");
        let model = Upload { expires_at: later.seconds() + 1, ..model };
        create(&store, &ours, &fourth, (&model, 15)).unwrap();
        assert_eq!(code(create(&store, &ours, &fifth, (&model, 15)).unwrap_err()), "too_many_bytes");
        create(&store, &ours, &fifth, (&model, 20)).unwrap();
        for gone in [&id, &second] {
            assert!(matches!(find(&store, &ours, gone, later), Err(StoreError::NotFound { .. })));
        }
    }
}
