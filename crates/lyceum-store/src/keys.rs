//! API keys of a project, from the first one to the revoked one: made, listed, rotated, ended.
//!
//! What a secret is stands in `secret`, whose a presented one is in `verify`. Organisations' keys are
//! [`tenancy::admin_keys`](crate::tenancy::admin_keys); which of both a route asks for is not known here.

mod secret;
mod verify;

pub use secret::{KeySecret, digest};
pub(crate) use secret::{SECRET_CHARS_MAX, hint};
pub use verify::{Verdict, look, look_digest, note_use, verify};

use crate::tenancy::audit::{self, Act, Event};
use crate::tenancy::projects::require_active;
use crate::tenancy::{Listed, Page, Writing};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, KeyId, KeyScope, Project, ServiceAccountId, UserId};
use lyceum_types::limits;
use serde_json::json;
use std::time::Duration;

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

/// The keys of a tenant that somebody owns, revoked and expired ones too, each with its owner's id.
pub async fn owners(store: &Store, tenant: &str) -> Result<Vec<(String, String)>, StoreError> {
    let owned = "SELECT id, owner_id FROM api_keys WHERE tenant = $1 AND owner_id <> ''";
    Ok(sqlx::query_as(owned).bind(tenant).fetch_all(&store.reader).await?)
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
    find_in(&store.reader, project, id).await
}

/// As [`find`], where who changes it already reads.
async fn find_in<'c>(
    from: impl sqlx::Executor<'c, Database = sqlx::Any>,
    project: &Project,
    id: &KeyId,
) -> Result<Key, StoreError> {
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, project, id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at, \
         owner_kind, owner_id, hint FROM api_keys \
         WHERE tenant = $1 AND project = $2 AND id = $3 AND revoked_at IS NULL",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .fetch_optional(from)
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
    // One that was revoked or rotated meanwhile has no successor, and is not called back to life.
    let old = find_in(&mut *transaction, project, id).await?;
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
mod tests;
