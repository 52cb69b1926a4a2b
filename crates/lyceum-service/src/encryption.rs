//! Encrypted projects: made with a key of their own, and erased with a signed receipt that says what was done and what
//! was not.

use crate::card::seal::{self, Signer};
use crate::{Service, ServiceError};
use lyceum_store::tenancy::Act;
use lyceum_store::tenancy::projects::{self, Described};
use lyceum_store::vault::erase::{self, Kept};
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde_json::{Value, json};

const OBJECT: &str = "organization.project.erasure_receipt";
/// What destroying a key does not reach, on every receipt.
const NOT_ERASED: [&str; 6] = [
    "rows of administration: the project's name, its keys' names and digests, the audit log",
    "the ledger: counts and amounts of requests, never their texts",
    "models that were imported into the project",
    "the memory of other servers that had a model of the project loaded, until they let it go: they answer nobody with it",
    "backups made before: they hold the wrapped key, which the master key opens; remove them, or replace the master key \
     and destroy the old one",
    "copies that a file system or a disk keeps of overwritten blocks",
];

/// Ends a project and destroys its key. Asked again, it answers with the receipt of the first time.
///
/// # Errors
/// The project is not encrypted, or is the default one; the disk.
pub async fn erase(store: &Store, project: &Project, act: &Act) -> Result<Value, ServiceError> {
    if let Some(receipt) = erase::receipt(store, project)? {
        return serde_json::from_slice(&receipt)
            .map_err(|error| ServiceError::internal("reading a receipt", error));
    }
    let (destroyed, kept) = erase::erase(store, project, act).await?;
    if !matches!(store.keyring().of(project), Err(StoreError::Erased { .. })) {
        return Err(ServiceError::internal("a key was destroyed", "it is there: bug"));
    }
    let Kept { files, file_bytes, responses, runs, batches, uploads, choices, jobs, versions, jobs_stopped } =
        kept;
    let at = Timestamp::from_millis(destroyed.destroyed_at.saturating_mul(1_000));
    let receipt = json!({
        "object": OBJECT,
        "project": project.id,
        "key_id": destroyed.key_id,
        "destroyed_at": destroyed.destroyed_at,
        "destroyed_at_text": at.date_time(),
        "erased": {"files": files, "file_bytes": file_bytes, "responses": responses, "runs": runs,
            "batches": batches, "uploads": uploads, "choices": choices, "jobs": jobs, "versions": versions},
        "jobs_stopped": jobs_stopped,
        "means": "each of these was sealed (ChaCha20-Poly1305) by a key that existed once, wrapped, in the data folder; \
            the file was overwritten, flushed and removed. What was sealed by it stays as bytes that nothing opens. A job is its \
            specification, checkpoints, log and result; a version its weights, manifest, evidence and card. No process of \
            this machine works on a job of the project any more.",
        "not_erased": NOT_ERASED,
    });
    let receipt = seal::sign(&Signer::of(store.layout())?, receipt);
    erase::keep_receipt(store, project, format!("{receipt:#}\n").as_bytes())?;
    Ok(receipt)
}

/// Makes a project, with a key that seals what it keeps where it is to be encrypted.
///
/// # Errors
/// This process has no master key; a name that cannot be one; the disk. A project whose key could not be made is archived:
/// nothing is kept in plain bytes by mistake.
pub async fn create_project(
    store: &Store,
    (tenant, name): (&str, &str),
    is_encrypted: bool,
    act: &Act,
) -> Result<Described, ServiceError> {
    let created = projects::create(store, tenant, name, act).await?;
    if is_encrypted && let Err(error) = store.keyring().create(&created.project, act.now) {
        projects::archive(store, &created.project, act).await?;
        return Err(error.into());
    }
    Ok(created)
}

/// Refuses a master key that this server has not.
///
/// # Errors
/// 400 at `external_key_id`.
pub fn require_master(service: &Service, id: &str) -> Result<(), ServiceError> {
    match service.store().keyring().master_id() {
        Some(known) if known == id => Ok(()),
        Some(known) => {
            let message = format!("this server has the master key {known}");
            Err(ServiceError::invalid("external_key_id", "unknown_key", message))
        }
        None => {
            let message = "this server was started without a master key (master_key_file)";
            Err(ServiceError::invalid("external_key_id", "unknown_key", message))
        }
    }
}
