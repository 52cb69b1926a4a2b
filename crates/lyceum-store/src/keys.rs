//! API keys: the secret is shown once, its sha256 is kept.

use crate::db::Transaction;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, KeyId, KeyScope, Project};
use lyceum_types::limits;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A secret `sk-…` with 192 random bits. It has no `Debug` that shows it.
pub struct KeySecret(String);

impl KeySecret {
    fn generate() -> Result<Self, StoreError> {
        let mut bytes = [0u8; 24];
        getrandom::fill(&mut bytes).map_err(|e| StoreError::Random(e.to_string()))?;
        Ok(Self(bytes.iter().fold("sk-".to_owned(), |text, byte| text + &format!("{byte:02x}"))))
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

/// What a key may do, what it is called and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    pub name: String,
    pub scopes: Vec<KeyScope>,
    pub expires_at: Option<Timestamp>,
}

/// A key as its row tells it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub project: Project,
    pub grant: KeyGrant,
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
    Expired,
    Revoked,
    Unknown,
}

/// Makes a key and returns its secret: nobody can read it again.
pub async fn create(
    store: &Store,
    project: &Project,
    grant: KeyGrant,
    now: Timestamp,
) -> Result<(Key, KeySecret), StoreError> {
    let mut transaction = store.write().await?;
    let created = insert(&mut transaction, project, grant, now).await?;
    transaction.commit().await?;
    Ok(created)
}

/// Makes an admin key when the store has never had any: `None` on every start but the first.
pub async fn create_first(
    store: &Store,
    project: &Project,
    now: Timestamp,
) -> Result<Option<(Key, KeySecret)>, StoreError> {
    let mut transaction = store.write().await?;
    let (n_keys,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM api_keys").fetch_one(&mut *transaction).await?;
    if n_keys > 0 {
        return Ok(None);
    }
    let grant = KeyGrant { name: "first".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    let created = insert(&mut transaction, project, grant, now).await?;
    transaction.commit().await?;
    Ok(Some(created))
}

async fn insert(
    transaction: &mut Transaction,
    project: &Project,
    grant: KeyGrant,
    now: Timestamp,
) -> Result<(Key, KeySecret), StoreError> {
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
    let (n_keys,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM api_keys WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_one(&mut **transaction)
            .await?;
    if n_keys >= limits::KEYS_MAX {
        return Err(refuse("the project has 10,000 keys already").into());
    }
    let secret = KeySecret::generate()?;
    let id = KeyId::from_bits(uuid::Uuid::now_v7().as_u128());
    let scopes: Vec<&str> = grant.scopes.iter().map(|scope| scope.as_str()).collect();
    sqlx::query(
        "INSERT INTO api_keys (tenant, project, id, name, digest, scopes, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(&grant.name)
    .bind(digest(secret.reveal()).to_vec())
    .bind(scopes.join(" "))
    .bind(now.millis())
    .bind(grant.expires_at.map(Timestamp::millis))
    .execute(&mut **transaction)
    .await?;
    let key =
        Key { id, project: project.clone(), grant, created_at: now, revoked_at: None, last_used_at: None };
    Ok((key, secret))
}

/// Every key of the project, oldest first, revoked and expired ones too.
pub async fn list(store: &Store, project: &Project) -> Result<Vec<Key>, StoreError> {
    let rows: Vec<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at \
         FROM api_keys WHERE tenant = $1 AND project = $2 ORDER BY created_at, id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(|row| parse(row).map(|(key, _)| key)).collect()
}

/// Ends a key now; a second call changes nothing.
pub async fn revoke(store: &Store, project: &Project, id: &KeyId, now: Timestamp) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $4) WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(now.millis())
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "key", id: id.to_string() });
    }
    transaction.commit().await?;
    Ok(())
}

/// Whose secret this is. The one call without a project: it is what finds the project.
///
/// Reads the database every time, so a revocation by any process counts at the next request. Also notes
/// the use, at most once a minute per key.
pub async fn verify(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    if !secret.starts_with("sk-") || secret.len() > 128 {
        return Ok(Verdict::Unknown);
    }
    let presented = digest(secret);
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at \
         FROM api_keys WHERE digest = $1",
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
    if key.revoked_at.is_some() {
        return Ok(Verdict::Revoked);
    }
    if key.grant.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Ok(Verdict::Expired);
    }
    let is_stale = |used: Timestamp| used.plus(limits::KEY_LAST_USED_STALE_MAX) <= now;
    if key.last_used_at.is_none_or(is_stale) {
        note_use(store, &key.id, now).await?;
    }
    Ok(Verdict::Valid(key))
}

async fn note_use(store: &Store, id: &KeyId, now: Timestamp) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(now.millis())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

type KeyRow = (String, String, String, String, Vec<u8>, String, i64, Option<i64>, Option<i64>, Option<i64>);

fn parse(row: KeyRow) -> Result<(Key, Vec<u8>), StoreError> {
    let (tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at) = row;
    let damaged = |value: &str| StoreError::Damaged { table: "api_keys", value: value.into() };
    let key = Key {
        id: id.parse().map_err(|_| damaged(&id))?,
        project: Project { tenant, id: project },
        grant: KeyGrant {
            name,
            scopes: scopes
                .split(' ')
                .map(|scope| scope.parse().map_err(|_| damaged(scope)))
                .collect::<Result<_, _>>()?,
            expires_at: expires_at.map(Timestamp::from_millis),
        },
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
    use std::time::Duration;

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
        assert_eq!(verify(&store, secret.reveal(), end).await.unwrap(), Verdict::Expired);

        revoke(&store, &project, &key.id, NOW).await.unwrap();
        revoke(&store, &project, &key.id, end).await.unwrap();
        assert_eq!(verify(&store, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked);
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
        assert_eq!(verify(&server, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked);
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
                create_first(&store, &Project::default_project(), NOW).await.unwrap().is_some()
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
