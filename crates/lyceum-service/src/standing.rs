//! What is known of keys and projects by heart: valid keys by the digest of their whole secret, and what holds for a
//! project. What is older than half a second is read again, so that what another process changes (a revocation
//! first of all) counts within a second; what this process changes makes it forget everything at once.
//!
//! Unknown, expired and revoked secrets are never remembered.

use crate::{Service, ServiceError};
use lyceum_guard::Policy;
use lyceum_store::StoreError;
use lyceum_store::keys::{self, Key};
use lyceum_store::tenancy::admin_keys::{self, AdminKey};
use lyceum_store::tenancy::{audit, guards, projects, rates};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::tenancy::{RateLimit, RateSubject, Retention};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// What holds for a project's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub decided: projects::Standing,
    pub limits: BTreeMap<RateSubject, RateLimit>,
    /// What its texts are looked through for.
    pub guard: Policy,
}

/// Whose a secret is.
#[derive(Clone, Debug)]
pub enum Identity {
    Project(Arc<Key>),
    Organization(Arc<AdminKey>),
}

/// Why a secret opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: &'static str,
    /// The organisation that the key belonged to.
    pub tenant: Option<String>,
}

#[derive(Default)]
pub(crate) struct Standings {
    /// Counts what this process has changed.
    generation: AtomicU64,
    identities: Memory<[u8; 32], Identity>,
    projects: Memory<Project, Arc<Standing>>,
    failures: Failures,
}

impl Standings {
    /// Something was changed: everything is read again.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.identities.clear();
        self.projects.clear();
    }
}

/// Values that were read.
struct Memory<K, V>(Mutex<HashMap<K, Read<V>>>);

struct Read<V> {
    read_at: Instant,
    used_at: Instant,
    value: V,
}

impl<V> Read<V> {
    fn is_fresh(&self) -> bool {
        self.read_at.elapsed() < limits::STANDING_STALE_MAX
    }
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Memory<K, V> {
    fn entries(&self) -> MutexGuard<'_, HashMap<K, Read<V>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn fresh(&self, key: &K) -> Option<V> {
        let mut entries = self.entries();
        let read = entries.get_mut(key)?;
        read.used_at = Instant::now();
        read.is_fresh().then(|| read.value.clone())
    }

    /// What was read last, however long ago: what is likely to hold still.
    fn last(&self, key: &K) -> Option<V> {
        self.entries().get(key).map(|read| read.value.clone())
    }

    /// What was used lately, the last first: as many as are read again.
    fn in_use(&self) -> Vec<(K, V)> {
        let entries = self.entries();
        let in_use = entries.iter().filter(|(_, read)| read.used_at.elapsed() < limits::STANDING_IN_USE);
        let mut in_use: Vec<(&K, &Read<V>)> = in_use.collect();
        in_use.sort_by_key(|(_, read)| std::cmp::Reverse(read.used_at));
        in_use.truncate(limits::STANDINGS_REFRESHED_MAX);
        in_use.into_iter().map(|(key, read)| (key.clone(), read.value.clone())).collect()
    }

    fn keep(&self, key: K, read_at: Instant, value: V) {
        let mut entries = self.entries();
        if entries.len() >= limits::STANDINGS_MAX {
            entries.retain(|_, read| read.is_fresh());
        }
        // What is only read again was not used meanwhile.
        let used_at = entries.get(&key).map_or(read_at, |before| before.used_at);
        if entries.len() < limits::STANDINGS_MAX {
            entries.insert(key, Read { read_at, used_at, value });
        }
    }

    fn remove(&self, key: &K) {
        self.entries().remove(key);
    }

    fn clear(&self) {
        self.entries().clear();
    }
}

/// Reads again, until `stopping` says so, what requests of the last seconds rested on, before it is too old to rest on: a
/// client that asks every other second waits for no statement. A key that is refused meanwhile is forgotten.
pub async fn keep_fresh(service: Arc<Service>, mut stopping: tokio::sync::watch::Receiver<bool>) {
    while !*stopping.borrow() {
        for error in refresh(&service, Timestamp::now()).await {
            // Whoever asks reads it, or is told.
            tracing::debug!(%error, "what is known of a key or a project was not read again");
        }
        tokio::select! {
            () = tokio::time::sleep(limits::STANDING_REFRESH_EVERY) => {}
            changed = stopping.changed() => if changed.is_err() { return },
        }
    }
}

/// Each by itself: one that cannot be read keeps no other one old. What went wrong, in the order of the entries.
async fn refresh(service: &Service, now: Timestamp) -> Vec<ServiceError> {
    let (known, mut errors) = (&service.standings, Vec::new());
    for (digest, identity) in known.identities.in_use() {
        let Identity::Project(_) = identity else { continue };
        errors.extend(refresh_key(service, digest, now).await.err());
    }
    for (project, _) in known.projects.in_use() {
        errors.extend(service.read_standing(&project).await.err());
    }
    errors
}

async fn refresh_key(service: &Service, digest: [u8; 32], now: Timestamp) -> Result<(), ServiceError> {
    let known = &service.standings;
    let (generation, read_at) = (known.generation.load(Ordering::Acquire), Instant::now());
    match keys::look_digest(&service.store, &digest, now).await? {
        keys::Verdict::Valid(key) => {
            let key = Arc::new(key);
            if known.generation.load(Ordering::Acquire) == generation {
                known.identities.keep(digest, read_at, Identity::Project(key.clone()));
            }
            keys::note_use(&service.store, &key, now).await?;
        }
        _ => known.identities.remove(&digest),
    }
    Ok(())
}

impl Service {
    /// What holds for a project now.
    pub async fn standing(&self, project: &Project) -> Result<Arc<Standing>, ServiceError> {
        let known = &self.standings;
        match known.projects.fresh(project) {
            Some(standing) => Ok(standing),
            None => self.read_standing(project).await,
        }
    }

    async fn read_standing(&self, project: &Project) -> Result<Arc<Standing>, ServiceError> {
        let known = &self.standings;
        let (generation, read_at) = (known.generation.load(Ordering::Acquire), Instant::now());
        let (decided, limits, guard) = tokio::try_join!(
            projects::standing(&self.store, project),
            rates::list(&self.store, project),
            guards::policy(&self.store, project),
        )?;
        let standing = Arc::new(Standing { decided, limits, guard });
        if known.generation.load(Ordering::Acquire) == generation {
            known.projects.keep(project.clone(), read_at, standing.clone());
        }
        Ok(standing)
    }

    /// Whether content of a project's requests may be written.
    pub async fn retention(&self, project: &Project) -> Result<Retention, ServiceError> {
        Ok(self.standing(project).await?.decided.retention)
    }

    /// Forgets what is known of keys and projects: one of them was changed here.
    pub fn standings_changed(&self) {
        self.standings.forget();
    }
}

/// Whose secret this is, valid at `now`.
pub(crate) async fn identify(
    service: &Service,
    secret: &str,
    now: Timestamp,
) -> Result<Result<Identity, Refusal>, ServiceError> {
    let known = &service.standings;
    let digest = keys::digest(secret);
    if let Some(identity) = known.identities.fresh(&digest) {
        return Ok(still_valid(identity, now));
    }
    let (generation, read_at) = (known.generation.load(Ordering::Acquire), Instant::now());
    let looked = match secret.starts_with(admin_keys::PREFIX) {
        true => look_admin(service, secret, now).await?,
        false => look(service, secret, now).await?,
    };
    if let Ok(identity) = &looked
        && known.generation.load(Ordering::Acquire) == generation
    {
        known.identities.keep(digest, read_at, identity.clone());
    }
    Ok(looked)
}

/// [`identify`], and beside it what holds for the project that the key was of before: whoever asks for it next finds it
/// known. What is told of the key is read now all the same.
pub(crate) async fn identify_with_project(
    service: &Service,
    secret: &str,
    now: Timestamp,
) -> Result<Result<Identity, Refusal>, ServiceError> {
    let before = match service.standings.identities.last(&keys::digest(secret)) {
        Some(Identity::Project(key)) => Some(key.project.clone()),
        _ => None,
    };
    let guessed = async {
        if let Some(project) = &before {
            // Where it fails, it fails again for who needs it.
            let _ = service.standing(project).await;
        }
    };
    tokio::join!(identify(service, secret, now), guessed).0
}

fn still_valid(identity: Identity, now: Timestamp) -> Result<Identity, Refusal> {
    let (end, tenant) = match &identity {
        Identity::Project(key) => (key.grant.expires_at, &key.project.tenant),
        Identity::Organization(key) => (key.grant.expires_at, &key.tenant),
    };
    match end {
        Some(end) if end <= now => Err(Refusal { code: "expired_api_key", tenant: Some(tenant.clone()) }),
        _ => Ok(identity),
    }
}

async fn look(
    service: &Service,
    secret: &str,
    now: Timestamp,
) -> Result<Result<Identity, Refusal>, StoreError> {
    let refused = |code, key: Key| Refusal { code, tenant: Some(key.project.tenant) };
    Ok(match keys::look(service.store(), secret, now).await? {
        keys::Verdict::Valid(key) => {
            let (store, noted) = (service.store().clone(), key.clone());
            // The answer does not wait for the disk.
            tokio::spawn(async move {
                if let Err(error) = keys::note_use(&store, &noted, now).await {
                    tracing::warn!(%error, "the use of a key was not noted");
                }
            });
            Ok(Identity::Project(Arc::new(key)))
        }
        keys::Verdict::Expired(key) => Err(refused("expired_api_key", key)),
        keys::Verdict::Revoked(key) => Err(refused("revoked_api_key", key)),
        keys::Verdict::Unknown => Err(Refusal { code: "invalid_api_key", tenant: None }),
    })
}

async fn look_admin(
    service: &Service,
    secret: &str,
    now: Timestamp,
) -> Result<Result<Identity, Refusal>, StoreError> {
    let refused = |code, key: AdminKey| Refusal { code, tenant: Some(key.tenant) };
    Ok(match admin_keys::look(service.store(), secret, now).await? {
        admin_keys::Verdict::Valid(key) => {
            let (store, noted) = (service.store().clone(), key.clone());
            tokio::spawn(async move {
                if let Err(error) = admin_keys::note_use(&store, &noted, now).await {
                    tracing::warn!(%error, "the use of an admin key was not noted");
                }
            });
            Ok(Identity::Organization(Arc::new(key)))
        }
        admin_keys::Verdict::Expired(key) => Err(refused("expired_api_key", key)),
        admin_keys::Verdict::Revoked(key) => Err(refused("revoked_api_key", key)),
        admin_keys::Verdict::Unknown => Err(Refusal { code: "invalid_api_key", tenant: None }),
    })
}

/// Logins that failed: each is counted, and the counts are written to the audit log at most once a minute, so that
/// guessing fills no disk.
#[derive(Default)]
struct Failures(Mutex<HashMap<(String, &'static str), Counted>>);

#[derive(Default)]
struct Counted {
    waiting: u64,
    total: u64,
    noted_at: Option<Instant>,
}

impl Failures {
    fn counts(&self) -> MutexGuard<'_, HashMap<(String, &'static str), Counted>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many are to be written now.
    fn add(&self, tenant: &str, code: &'static str) -> Option<u64> {
        let mut counts = self.counts();
        let counted = counts.entry((tenant.to_owned(), code)).or_default();
        counted.waiting += 1;
        counted.total += 1;
        if counted.noted_at.is_some_and(|at| at.elapsed() < limits::LOGIN_FAILURES_EVERY) {
            return None;
        }
        counted.noted_at = Some(Instant::now());
        Some(std::mem::take(&mut counted.waiting))
    }

    fn take(&self) -> Vec<(String, &'static str, u64)> {
        let mut counts = self.counts();
        let waiting = counts.iter_mut().filter(|(_, counted)| counted.waiting > 0);
        waiting
            .map(|((tenant, code), counted)| (tenant.clone(), *code, std::mem::take(&mut counted.waiting)))
            .collect()
    }
}

/// Counts a login that failed. A secret that nobody ever had counts for the installation's own organisation.
pub(crate) fn login_failed(service: &Service, refusal: &Refusal, now: Timestamp) {
    let tenant = refusal.tenant.clone().unwrap_or_else(|| Project::default_project().tenant);
    let code = refusal.code;
    let Some(count) = service.standings.failures.add(&tenant, code) else { return };
    let store = service.store().clone();
    tokio::spawn(async move {
        if let Err(error) = audit::note_login_failures(&store, &tenant, code, count, now).await {
            tracing::warn!(%error, count, "failed logins are missing in the audit log");
        }
    });
}

/// Writes the failed logins that were only counted so far: the log is about to be read, or the server ends.
pub async fn note_login_failures(service: &Service, now: Timestamp) -> Result<(), ServiceError> {
    for (tenant, code, count) in service.standings.failures.take() {
        audit::note_login_failures(service.store(), &tenant, code, count, now).await?;
    }
    Ok(())
}

/// Failed logins since the start, by what they were told.
pub fn login_failures(service: &Service) -> BTreeMap<&'static str, u64> {
    let mut totals = BTreeMap::new();
    for ((_, code), counted) in service.standings.failures.counts().iter() {
        *totals.entry(*code).or_insert(0) += counted.total;
    }
    totals
}
