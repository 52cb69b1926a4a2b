//! Signed privacy receipts: what became of one request, by what the use cases themselves noted while they did it.
//!
//! The door makes a [`Witness`] for a request that wants a receipt and runs it within [`scope`]. Whatever resolves a
//! model, keeps something, or changes a text for the project's guard notes it there; without a witness nothing is noted.
//! [`issue`] makes the document and signs it with the key that signs cards. It holds hashes, counts and ids, and no
//! value of any text.

use crate::card::seal::{self, Signer};
use crate::{Service, ServiceError};
use lyceum_guard::Kind;
use lyceum_store::models::Version;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::tenancy::Retention;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const OBJECT: &str = "privacy_receipt";
const FORMAT_VERSION: u32 = 1;

/// What no receipt lists.
const NOT_LISTED: [&str; 4] = [
    "working memory of the server: beginnings of prompts that were computed",
    "counts of drift: how many answers fell into which bin, and no value of any",
    "log lines: method, route, status and ids of requests, never their content",
    "what was kept by earlier requests, and what a job in the background keeps after this answer",
];

/// Where something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Database,
    DataFolder,
    /// The bucket that `blobs` names.
    ObjectStore,
    Memory,
}

impl Place {
    fn as_str(self) -> &'static str {
        match self {
            Place::Database => "database",
            Place::DataFolder => "data_folder",
            Place::ObjectStore => "object_store",
            Place::Memory => "memory",
        }
    }
}

/// Something that is kept because of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    what: &'static str,
    id: String,
    place: Place,
    until: Option<Timestamp>,
    /// From when its file is made, where that is still to come.
    in_file_for: Option<Duration>,
    holds: &'static str,
    /// Content lies there, so that an encrypted project's is sealed.
    is_content: bool,
}

/// Of which texts something was found: what models read, or what they said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    Input,
    Output,
}

#[derive(Clone, Default)]
struct Seen {
    models: BTreeMap<String, Version>,
    changed: BTreeMap<(Direction, &'static str, Kind), u64>,
    kept: Vec<Kept>,
}

/// Where a request came in.
#[derive(Clone)]
pub struct Origin {
    /// `req_…`
    pub request: String,
    /// As the table of routes has it.
    pub route: String,
    /// Of the request's body, as it came.
    pub asked: Hash,
}

/// Notes what becomes of one request.
pub struct Witness {
    project: Project,
    origin: Origin,
    seen: Mutex<Seen>,
}

/// The receipt of an answer that is made when its request has been replied to.
pub struct Later(Arc<Witness>);

/// For work that goes on behind the reply to the request under way: with what was noted of models and texts so far, and
/// notes of its own from now on. None: no receipt is wanted.
pub fn later() -> Option<Later> {
    let witness = current()?;
    let seen = Seen { kept: Vec::new(), ..witness.seen().clone() };
    let (project, origin) = (witness.project.clone(), witness.origin.clone());
    Some(Later(Arc::new(Witness { project, origin, seen: Mutex::new(seen) })))
}

impl Later {
    /// For [`scope`].
    pub fn witness(&self) -> Arc<Witness> {
        self.0.clone()
    }

    /// The receipt of the answer whose bytes these are.
    ///
    /// # Errors
    /// As [`issue`].
    pub(crate) async fn issue(&self, service: &Arc<Service>, answer: &[u8]) -> Result<Value, ServiceError> {
        issue(service, &self.0, Ended { status: 200, answered: Hash::of(answer), replayed: false }).await
    }
}

tokio::task_local! {
    static WITNESS: Arc<Witness>;
}

/// Runs `work` as work of the request that `witness` watches.
pub async fn scope<T>(witness: Arc<Witness>, work: impl Future<Output = T>) -> T {
    WITNESS.scope(witness, work).await
}

/// The witness of the request that is under way.
pub(crate) fn current() -> Option<Arc<Witness>> {
    WITNESS.try_with(Clone::clone).ok()
}

/// Notes that content of the request under way is kept.
pub(crate) fn kept(what: &'static str, id: &str, place: Place, until: Option<Timestamp>) {
    if let Some(witness) = current() {
        witness.kept(what, id, place, until);
    }
}

/// Notes that counts of the request under way are kept.
pub(crate) fn counted(id: &str) {
    if let Some(witness) = current() {
        let holds = "ids, counts and amounts";
        let (what, place) = ("ledger_entry", Place::Database);
        let (id, until, in_file_for) = (id.to_owned(), None, None);
        let kept = Kept { what, id, place, until, in_file_for, holds, is_content: false };
        witness.seen().kept.push(kept);
    }
}

/// Notes a version that reads the request under way: where its work begins, so that none stands there that was only looked
/// up.
pub(crate) fn asked(version: &Version) {
    if let Some(witness) = current() {
        witness.seen().models.insert(version.id(), version.clone());
    }
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Direction::Input => "input",
            Direction::Output => "output",
        }
    }
}

impl Witness {
    pub fn new(project: Project, origin: Origin) -> Arc<Self> {
        Arc::new(Self { project, origin, seen: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As [`kept`], for who works for the request outside of its scope.
    pub(crate) fn kept(&self, what: &'static str, id: &str, place: Place, until: Option<Timestamp>) {
        self.note(what, id, (place, until, None));
    }

    /// Notes content that a file will have, for this long from when it is made: wherever files of `service` lie.
    pub(crate) fn kept_in_file(&self, what: &'static str, id: &str, (service, kept): (&Service, Duration)) {
        self.note(what, id, (Place::DataFolder, None, Some(kept)));
        if service.store.blobs().is_some() {
            self.note(what, id, (Place::ObjectStore, None, Some(kept)));
        }
    }

    fn note(
        &self,
        what: &'static str,
        id: &str,
        (place, until, in_file_for): (Place, Option<Timestamp>, Option<Duration>),
    ) {
        let (id, holds) = (id.to_owned(), "content of the request and its answer");
        let kept = Kept { what, id, place, until, in_file_for, holds, is_content: true };
        self.seen().kept.push(kept);
    }

    /// The guard put something else in the place of a finding.
    pub(crate) fn changed(&self, direction: Direction, action: &'static str, kind: Kind) {
        *self.seen().changed.entry((direction, action, kind)).or_default() += 1;
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Witness")
    }
}

/// sha256 of bytes as they pass, and how many there were.
#[derive(Clone, Default)]
pub struct Hash {
    hash: Sha256,
    n_bytes: u64,
}

impl Hash {
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.update(bytes);
        hash
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.n_bytes += bytes.len() as u64;
    }

    fn told(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How a request was answered.
#[derive(Clone)]
pub struct Ended {
    pub status: u16,
    /// Of the answer's body; of a stream, of its bytes before the receipt.
    pub answered: Hash,
    /// The answer was given before, to the same `Idempotency-Key`: the receipt is of this time alone.
    pub replayed: bool,
}

/// Makes and signs the receipt of a request.
///
/// # Errors
/// The disk, the database.
pub async fn issue(service: &Arc<Service>, witness: &Witness, ended: Ended) -> Result<Value, ServiceError> {
    let (project, origin) = (witness.project.clone(), witness.origin.clone());
    let standing = service.standing(&project).await?;
    let Seen { models, changed, kept } = std::mem::take(&mut *witness.seen());
    let service = service.clone();
    let work = move || {
        let keyring = service.store.keyring();
        let sealed_by = match keyring.is_encrypted(&project)? {
            true => keyring.opened_by(&project)?,
            false => None,
        };
        let models: Vec<Value> = models.values().map(model).collect::<Result<_, _>>()?;
        let kept: Vec<Value> = kept.iter().map(|kept| told(kept, sealed_by.is_some())).collect();
        let changed: Vec<Value> = changed
            .iter()
            .map(|((direction, action, kind), n)| {
                let direction = if *direction == Direction::Input { "input" } else { "output" };
                json!({"direction": direction, "action": action, "type": kind.as_str(), "n": n})
            })
            .collect();
        let policy = &standing.guard;
        let now = Timestamp::now();
        let receipt = json!({
            "object": OBJECT,
            "format_version": FORMAT_VERSION,
            "issued_at": now.seconds(),
            "issued_at_text": now.date_time(),
            "request": origin.request,
            "project": project.id,
            "route": origin.route,
            "status": ended.status,
            "request_sha256": origin.asked.told(),
            "answer_sha256": ended.answered.told(),
            "answer_bytes": ended.answered.n_bytes,
            "replayed": ended.replayed,
            "models": models,
            "retention": match standing.decided.retention { Retention::Kept => "kept", Retention::Nothing => "nothing" },
            "encrypted": sealed_by.is_some(),
            "sealed_by": sealed_by,
            "kept": kept,
            "guard": {
                "policy_sha256": lyceum_store::tenancy::guards::fingerprint(policy),
                "input": policy.input.action.as_str(),
                "output": policy.output.action.as_str(),
                "changed": changed,
            },
            "not_listed": NOT_LISTED,
        });
        Ok(seal::sign(&Signer::of(service.store.layout())?, receipt))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("making a receipt broke off", error))?
}

fn told(kept: &Kept, is_encrypted: bool) -> Value {
    let mut told = json!({"what": kept.what, "id": kept.id, "where": kept.place.as_str(), "holds": kept.holds,
        "until": kept.until.map(Timestamp::seconds),
        "sealed": is_encrypted && kept.is_content && kept.place != Place::Memory});
    if let Some(kept) = kept.in_file_for {
        told["expires_after"] = json!({"anchor": "file_created_at", "seconds": kept.as_secs()});
    }
    told
}

/// A version, and what its training promises of single rows.
fn model(version: &Version) -> Result<Value, ServiceError> {
    let private = match crate::cascades::is_cascade(version) {
        // It has no weights: its members stand beside it.
        true => None,
        false => crate::privacy::promised(&version.dir.join(lyceum_store::layout::MANIFEST))?,
    };
    let private = private.map(|report| {
        json!({"epsilon": report.epsilon, "delta": report.delta, "accountant": report.accountant,
            "adjacency": report.adjacency, "unit": report.unit})
    });
    Ok(json!({"model": version.id(), "sha256": version.sha256, "private": private}))
}

/// Whether a receipt is what was signed, and whether this data folder's key signed it.
///
/// # Errors
/// The disk; what is wrong with a receipt is an answer.
pub fn verify(service: &Service, receipt: &Value) -> Result<(Result<(), String>, bool), ServiceError> {
    let key = Signer::of(service.store.layout())?.public_key();
    let holds = check(receipt);
    let is_ours = holds.is_ok() && receipt["signed_by"]["public_key"] == key.as_str();
    Ok((holds, is_ours))
}

/// Whether a document is a receipt with a signature that holds.
///
/// # Errors
/// Why it does not.
pub fn check(receipt: &Value) -> Result<(), String> {
    if receipt["object"] != OBJECT {
        return Err(format!("object: it is no {OBJECT}"));
    }
    seal::check(receipt)
}
