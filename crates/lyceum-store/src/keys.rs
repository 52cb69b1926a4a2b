//! API keys: the secret is shown once, its sha256 is kept.

use crate::tenancy::audit::{self, Act, Event};
use crate::tenancy::projects::require_active;
use crate::tenancy::{Listed, Page, Writing};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, KeyId, KeyScope, Project, ServiceAccountId, UserId};
use lyceum_types::limits;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// The longest secret that is looked up.
pub(crate) const SECRET_CHARS_MAX: usize = 128;

/// A secret `sk-…` with 192 random bits. It has no `Debug` that shows it.
pub struct KeySecret(String);

impl KeySecret {
    pub(crate) fn generate(prefix: &str) -> Result<Self, StoreError> {
        let mut bytes = [0u8; 24];
        getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
        Ok(Self(bytes.iter().fold(prefix.to_owned(), |text, byte| text + &format!("{byte:02x}"))))
    }

    /// The text to show to its owner, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(sk-…)")
    }
}

/// What may be shown of a secret: its kind and its last four characters.
pub(crate) fn hint(secret: &KeySecret) -> String {
    let text = secret.reveal();
    let kind = if text.starts_with(crate::tenancy::admin_keys::PREFIX) { "sk-admin-" } else { "sk-" };
    format!("{kind}...{}", &text[text.len() - 4..])
}

/// What a key may do, what it is called and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    pub name: String,
    pub scopes: Vec<KeyScope>,
    pub expires_at: Option<Timestamp>,
}

/// Whose a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    /// It was made on the command line.
    Nobody,
    User(UserId),
    ServiceAccount(ServiceAccountId),
}

impl KeyOwner {
    fn columns(&self) -> (&'static str, &str) {
        match self {
            KeyOwner::Nobody => ("none", ""),
            KeyOwner::User(id) => ("user", id.as_str()),
            KeyOwner::ServiceAccount(id) => ("service_account", id.as_str()),
        }
    }
}

/// A key as its row tells it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub project: Project,
    pub grant: KeyGrant,
    pub owner: KeyOwner,
    /// What may be shown of the secret; empty for a key of an older release.
    pub hint: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

impl Key {
    pub fn allows(&self, needed: KeyScope) -> bool {
        self.grant.scopes.iter().any(|scope| scope.covers(needed))
    }
}

/// What is known about a presented secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid(Key),
    Expired(Key),
    Revoked(Key),
    Unknown,
}

/// Makes a key and returns its secret: nobody can read it again.
pub async fn create(
    store: &Store,
    project: &Project,
    grant: KeyGrant,
    now: Timestamp,
) -> Result<(Key, KeySecret), StoreError> {
    create_for(store, project, grant, KeyOwner::Nobody, &Act::of_command_line(now)).await
}

/// [`create`] for a user of the project or one of its service accounts, by whoever acts.
pub async fn create_for(
    store: &Store,
    project: &Project,
    grant: KeyGrant,
    owner: KeyOwner,
    act: &Act,
) -> Result<(Key, KeySecret), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    require_owner(&mut transaction, project, &owner).await?;
    let created = insert(&mut transaction, project, grant, owner, act).await?;
    transaction.commit().await?;
    Ok(created)
}

async fn require_owner(
    transaction: &mut Writing,
    project: &Project,
    owner: &KeyOwner,
) -> Result<(), StoreError> {
    let (sql, what, id) = match owner {
        KeyOwner::Nobody => return Ok(()),
        KeyOwner::User(id) => (
            "SELECT COUNT(*) FROM project_users WHERE tenant = $1 AND project = $2 AND user_id = $3",
            "user",
            id.as_str(),
        ),
        KeyOwner::ServiceAccount(id) => (
            "SELECT COUNT(*) FROM service_accounts WHERE tenant = $1 AND project = $2 AND id = $3",
            "service account",
            id.as_str(),
        ),
    };
    let (found,): (i64,) = sqlx::query_as(sql)
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id)
        .fetch_one(&mut **transaction)
        .await?;
    if found == 0 {
        return Err(StoreError::NotFound { what, id: id.to_owned() });
    }
    Ok(())
}

/// Refuses a grant that could not be meant.
pub(crate) fn check(grant: &KeyGrant, now: Timestamp) -> Result<(), StoreError> {
    let refuse = |why| BadId { what: "key", text: grant.name.chars().take(64).collect(), why };
    if grant.name.chars().count() > limits::KEY_NAME_CHARS_MAX {
        return Err(refuse("its name may have 128 characters at most").into());
    }
    if grant.scopes.is_empty() {
        return Err(refuse("it needs at least one scope").into());
    }
    if grant.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(refuse("it would have expired already").into());
    }
    Ok(())
}

pub(crate) async fn insert(
    transaction: &mut Writing,
    project: &Project,
    grant: KeyGrant,
    owner: KeyOwner,
    act: &Act,
) -> Result<(Key, KeySecret), StoreError> {
    check(&grant, act.now)?;
    if let Some(scope) = grant.scopes.iter().find(|scope| scope.is_of_organization()) {
        let why = "a project's key has inference, metrics or admin only";
        return Err(BadId { what: "key scope", text: scope.to_string(), why }.into());
    }
    let (n_keys,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM api_keys WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_one(&mut **transaction)
            .await?;
    if n_keys >= limits::KEYS_MAX {
        return Err(crate::tenancy::full("keys of the project", limits::KEYS_MAX));
    }
    let secret = KeySecret::generate("sk-")?;
    let id = KeyId::from_bits(uuid::Uuid::now_v7().as_u128());
    let (owner_kind, owner_id) = owner.columns();
    sqlx::query(
        "INSERT INTO api_keys (tenant, project, id, name, digest, scopes, created_at, expires_at, owner_kind, \
         owner_id, hint) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(&grant.name)
    .bind(digest(secret.reveal()).to_vec())
    .bind(scope_text(&grant.scopes))
    .bind(act.now.millis())
    .bind(grant.expires_at.map(Timestamp::millis))
    .bind(owner_kind)
    .bind(owner_id)
    .bind(hint(&secret))
    .execute(&mut **transaction)
    .await?;
    let scopes: Vec<&str> = grant.scopes.iter().map(|scope| scope.as_str()).collect();
    let data = json!({"data": {"scopes": scopes}});
    let event = Event { kind: "api_key.created", project: Some(&project.id), resource: id.as_str(), data };
    audit::append(transaction, &project.tenant, act, event).await?;
    let key = Key {
        id,
        project: project.clone(),
        grant,
        owner,
        hint: hint(&secret),
        created_at: act.now,
        revoked_at: None,
        last_used_at: None,
    };
    Ok((key, secret))
}

/// Every key of the project, oldest first, revoked and expired ones too.
pub async fn list(store: &Store, project: &Project) -> Result<Vec<Key>, StoreError> {
    let rows: Vec<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, \
         owner_kind, owner_id, hint FROM api_keys WHERE tenant = $1 AND project = $2 ORDER BY created_at, id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(|row| parse(row).map(|(key, _)| key)).collect()
}

/// The keys of the project that were not revoked, in the order of their ids.
pub async fn page(store: &Store, project: &Project, page: Page<'_>) -> Result<Listed<Key>, StoreError> {
    let mut keys = list(store, project).await?;
    keys.retain(|key| key.revoked_at.is_none() && page.after.is_none_or(|after| key.id.as_str() > after));
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Listed::of(page, keys))
}

/// A key that was not revoked.
pub async fn find(store: &Store, project: &Project, id: &KeyId) -> Result<Key, StoreError> {
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, \
         owner_kind, owner_id, hint FROM api_keys \
         WHERE tenant = $1 AND project = $2 AND id = $3 AND revoked_at IS NULL",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .fetch_optional(&store.reader)
    .await?;
    row.map_or_else(|| Err(missing(id)), |row| parse(row).map(|(key, _)| key))
}

fn missing(id: &KeyId) -> StoreError {
    StoreError::NotFound { what: "key", id: id.to_string() }
}

/// Ends a key now; a second call changes nothing.
pub async fn revoke(store: &Store, project: &Project, id: &KeyId, now: Timestamp) -> Result<(), StoreError> {
    revoke_by(store, project, id, &Act::of_command_line(now)).await
}

/// [`revoke`] by whoever acts.
pub async fn revoke_by(store: &Store, project: &Project, id: &KeyId, act: &Act) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let row: Option<(Option<i64>,)> =
        sqlx::query_as("SELECT revoked_at FROM api_keys WHERE tenant = $1 AND project = $2 AND id = $3")
            .bind(&project.tenant)
            .bind(&project.id)
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
    match row {
        None => return Err(missing(id)),
        Some((Some(_),)) => return Ok(()),
        Some((None,)) => {}
    }
    sqlx::query("UPDATE api_keys SET revoked_at = $4 WHERE tenant = $1 AND project = $2 AND id = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .bind(act.now.millis())
        .execute(&mut *transaction)
        .await?;
    deleted(&mut transaction, project, id.as_str(), act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends every key of a user or service account in a project, and forgets their limits.
pub(crate) async fn revoke_of(
    transaction: &mut Writing,
    project: &Project,
    owner: &str,
    act: &Act,
) -> Result<(), StoreError> {
    let ended: Vec<(String,)> = sqlx::query_as(
        "UPDATE api_keys SET revoked_at = $4 \
         WHERE tenant = $1 AND project = $2 AND owner_id = $3 AND revoked_at IS NULL RETURNING id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(owner)
    .bind(act.now.millis())
    .fetch_all(&mut **transaction)
    .await?;
    for (id,) in ended {
        deleted(transaction, project, &id, act).await?;
    }
    Ok(())
}

async fn deleted(
    transaction: &mut Writing,
    project: &Project,
    id: &str,
    act: &Act,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM rate_limits WHERE tenant = $1 AND project = $2 AND api_key = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id)
        .execute(&mut **transaction)
        .await?;
    let event = Event { kind: "api_key.deleted", project: Some(&project.id), resource: id, data: json!({}) };
    audit::append(transaction, &project.tenant, act, event).await
}

/// Makes a successor with the same rights, owner and limits; the key itself lives on for `overlap`.
pub async fn rotate(
    store: &Store,
    project: &Project,
    id: &KeyId,
    overlap: Duration,
    act: &Act,
) -> Result<(Key, KeySecret), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let old = find(store, project, id).await?;
    let (end, still_lives) = overlap_end(&old.grant, overlap, act.now)?;
    sqlx::query(
        "UPDATE api_keys SET expires_at = $4, revoked_at = $5 WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(end.millis())
    .bind((!still_lives).then_some(act.now.millis()))
    .execute(&mut *transaction)
    .await?;
    let data = json!({"changes_requested": {"expires_at": end.seconds()}});
    let event = Event { kind: "api_key.updated", project: Some(&project.id), resource: id.as_str(), data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    let created = insert(&mut transaction, project, old.grant, old.owner, act).await?;
    sqlx::query(
        "INSERT INTO rate_limits (tenant, project, api_key, model, requests_per_minute, tokens_per_minute, \
         requests_per_day, concurrent_requests) SELECT tenant, project, $4, model, requests_per_minute, \
         tokens_per_minute, requests_per_day, concurrent_requests FROM rate_limits \
         WHERE tenant = $1 AND project = $2 AND api_key = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(created.0.id.as_str())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(created)
}

/// When a key ends that has a successor since `now`, and whether that is later than `now`.
pub(crate) fn overlap_end(
    grant: &KeyGrant,
    overlap: Duration,
    now: Timestamp,
) -> Result<(Timestamp, bool), StoreError> {
    if overlap > limits::KEY_OVERLAP_MAX {
        let why = "the old key may live on for 90 days at most";
        return Err(BadId { what: "overlap", text: format!("{} s", overlap.as_secs()), why }.into());
    }
    if grant.expires_at.is_some_and(|end| end <= now) {
        let why = "it has expired: make another one";
        return Err(BadId { what: "key", text: grant.name.clone(), why }.into());
    }
    let end = now.plus(overlap);
    let end = grant.expires_at.map_or(end, |own| own.min(end));
    Ok((end, end > now))
}

/// Whose secret this is, and notes the use. The one call without a project: it is what finds the project.
pub async fn verify(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    let verdict = look(store, secret, now).await?;
    if let Verdict::Valid(key) = &verdict {
        note_use(store, key, now).await?;
    }
    Ok(verdict)
}

/// Whose secret this is. Reads the database every time, so a revocation by any process counts at once.
pub async fn look(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    if !secret.starts_with("sk-") || secret.len() > SECRET_CHARS_MAX {
        return Ok(Verdict::Unknown);
    }
    let presented = digest(secret);
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, \
         owner_kind, owner_id, hint FROM api_keys WHERE digest = $1",
    )
    .bind(presented.to_vec())
    .fetch_optional(&store.reader)
    .await?;
    let Some(row) = row else { return Ok(Verdict::Unknown) };
    let (key, stored) = parse(row)?;
    // The index has compared digests of a 192-bit secret; the decision itself takes constant time.
    if !bool::from(stored.ct_eq(presented.as_slice())) {
        return Ok(Verdict::Unknown);
    }
    Ok(match (key.revoked_at, key.grant.expires_at) {
        (Some(_), _) => Verdict::Revoked(key),
        (None, Some(expires_at)) if expires_at <= now => Verdict::Expired(key),
        _ => Verdict::Valid(key),
    })
}

/// Notes that a key was used, at most once a minute.
pub async fn note_use(store: &Store, key: &Key, now: Timestamp) -> Result<(), StoreError> {
    let is_stale = |used: Timestamp| used.plus(limits::KEY_LAST_USED_STALE_MAX) <= now;
    if !key.last_used_at.is_none_or(is_stale) {
        return Ok(());
    }
    let mut transaction = store.write().await?;
    sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
        .bind(key.id.as_str())
        .bind(now.millis())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// What is kept of a secret, and what stands for it in memory.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

pub(crate) fn scope_text(scopes: &[KeyScope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn parse_scopes(table: &'static str, text: &str) -> Result<Vec<KeyScope>, StoreError> {
    let damaged = |scope: &str| StoreError::Damaged { table, value: scope.into() };
    text.split(' ').map(|scope| scope.parse().map_err(|_| damaged(scope))).collect()
}

type KeyRow = (
    String,
    String,
    String,
    String,
    Vec<u8>,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    String,
    String,
    String,
);

fn parse(row: KeyRow) -> Result<(Key, Vec<u8>), StoreError> {
    let (tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, ..) =
        row;
    let (owner_kind, owner_id, hint) = (row.10, row.11, row.12);
    let damaged = |value: &str| StoreError::Damaged { table: "api_keys", value: value.into() };
    let owner = match owner_kind.as_str() {
        "user" => KeyOwner::User(owner_id.parse().map_err(|_| damaged(&owner_id))?),
        "service_account" => KeyOwner::ServiceAccount(owner_id.parse().map_err(|_| damaged(&owner_id))?),
        _ => KeyOwner::Nobody,
    };
    let key = Key {
        id: id.parse().map_err(|_| damaged(&id))?,
        project: Project { tenant, id: project },
        grant: KeyGrant {
            name,
            scopes: parse_scopes("api_keys", &scopes)?,
            expires_at: expires_at.map(Timestamp::from_millis),
        },
        owner,
        hint,
        created_at: Timestamp::from_millis(created_at),
        revoked_at: revoked_at.map(Timestamp::from_millis),
        last_used_at: last_used_at.map(Timestamp::from_millis),
    };
    Ok((key, digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use crate::tenancy::admin_keys::bootstrap;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        (dir, store)
    }

    fn grant(scopes: &[KeyScope], expires_at: Option<Timestamp>) -> KeyGrant {
        KeyGrant { name: "test".into(), scopes: scopes.to_vec(), expires_at }
    }

    #[tokio::test]
    async fn a_key_is_valid_until_it_expires_or_is_revoked() {
        let (_dir, store) = store().await;
        let project = Project::default_project();
        let end = NOW.plus(Duration::from_secs(10));
        let (key, secret) =
            create(&store, &project, grant(&[KeyScope::Inference], Some(end)), NOW).await.unwrap();
        let verdict = verify(&store, secret.reveal(), NOW).await.unwrap();
        let Verdict::Valid(found) = verdict else { panic!("{verdict:?}") };
        assert_eq!(found, key);
        assert!(found.allows(KeyScope::Inference) && !found.allows(KeyScope::Admin));
        assert!(matches!(verify(&store, secret.reveal(), end).await.unwrap(), Verdict::Expired(_)));

        revoke(&store, &project, &key.id, NOW).await.unwrap();
        revoke(&store, &project, &key.id, end).await.unwrap();
        assert!(matches!(verify(&store, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
        assert_eq!(list(&store, &project).await.unwrap()[0].revoked_at, Some(NOW));
    }

    #[tokio::test]
    async fn another_process_sees_a_revocation_at_once() {
        let (dir, server) = store().await;
        let command = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        let project = Project::default_project();
        let (key, secret) = create(&command, &project, grant(&[KeyScope::Admin], None), NOW).await.unwrap();
        assert!(matches!(verify(&server, secret.reveal(), NOW).await.unwrap(), Verdict::Valid(_)));
        revoke(&command, &project, &key.id, NOW).await.unwrap();
        assert!(matches!(verify(&server, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
    }

    #[tokio::test]
    async fn secrets_that_were_never_given_are_unknown() {
        let (_dir, store) = store().await;
        let (_, secret) =
            create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
        let near = format!("{}0", &secret.reveal()[..secret.reveal().len() - 1]);
        let far = format!("sk-{}", "0".repeat(48));
        for text in ["", "sk-", far.as_str(), &secret.reveal()[3..], &format!("{}0", secret.reveal())] {
            assert_eq!(verify(&store, text, NOW).await.unwrap(), Verdict::Unknown, "{text:?}");
        }
        if near != secret.reveal() {
            assert_eq!(verify(&store, &near, NOW).await.unwrap(), Verdict::Unknown);
        }
    }

    #[tokio::test]
    async fn the_secret_is_in_no_file_and_no_debug_text() {
        let (dir, store) = store().await;
        let (key, secret) =
            create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
        let text = secret.reveal().to_owned();
        assert!(!format!("{key:?} {secret:?}").contains(&text[3..]));
        store.close().await;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(text.len() - 3).any(|w| w == &text.as_bytes()[3..]), "{path:?}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_one_of_many_first_starts_gets_the_first_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let layout = Layout::new(dir.path());
            tasks.push(tokio::spawn(async move {
                let store = Store::open(layout, NOW).await.unwrap();
                bootstrap(&store, &Project::default_project(), NOW).await.unwrap().is_some()
            }));
        }
        let mut n_created = 0;
        for task in tasks {
            n_created += u32::from(task.await.unwrap());
        }
        assert_eq!(n_created, 1);
    }

    #[tokio::test]
    async fn the_last_use_is_noted_once_a_minute() {
        let (_dir, store) = store().await;
        let project = Project::default_project();
        let (_, secret) = create(&store, &project, grant(&[KeyScope::Admin], None), NOW).await.unwrap();
        for (after_s, noted_s) in [(0, 0), (59, 0), (60, 60), (61, 60)] {
            let now = NOW.plus(Duration::from_secs(after_s));
            verify(&store, secret.reveal(), now).await.unwrap();
            let noted = list(&store, &project).await.unwrap()[0].last_used_at;
            assert_eq!(noted, Some(NOW.plus(Duration::from_secs(noted_s))));
        }
    }

    #[tokio::test]
    async fn grants_without_sense_are_refused() {
        let (_dir, store) = store().await;
        let project = Project::default_project();
        for bad in [
            grant(&[], None),
            grant(&[KeyScope::Admin], Some(NOW)),
            KeyGrant { name: "x".repeat(129), scopes: vec![KeyScope::Admin], expires_at: None },
        ] {
            assert!(matches!(create(&store, &project, bad, NOW).await, Err(StoreError::BadId(_))));
        }
        assert!(list(&store, &project).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_foreign_project_sees_and_revokes_nothing() {
        let (_dir, store) = store().await;
        let (key, _) =
            create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
        let other = Project { tenant: "other".into(), id: "other".into() };
        assert!(list(&store, &other).await.unwrap().is_empty());
        assert!(matches!(revoke(&store, &other, &key.id, NOW).await, Err(StoreError::NotFound { .. })));
    }
}
