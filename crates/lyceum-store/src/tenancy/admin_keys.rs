//! Keys of an organisation: `sk-admin-…`, for administration and for nothing else. The secret is shown once, its
//! sha256 is kept. A key can do no more than the user whose it is.

use super::audit::{self, Act, Actor, Event};
use super::people::{self, NewUser};
use super::{Listed, Page, Writing, full};
use crate::keys::{self, KeyGrant, KeySecret, hint};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{AdminKeyId, BadId, KeyScope, Project, UserId};
use lyceum_types::limits;
use lyceum_types::tenancy::Role;
use serde_json::json;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// What every secret of an organisation's key begins with.
pub const PREFIX: &str = "sk-admin-";

/// An organisation's key as its row tells it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKey {
    pub id: AdminKeyId,
    /// The organisation.
    pub tenant: String,
    pub grant: KeyGrant,
    /// What may be shown of the secret.
    pub hint: String,
    pub owner: people::User,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

impl AdminKey {
    pub fn allows(&self, needed: KeyScope) -> bool {
        let owner_may = self.owner.role == Role::Owner || needed == KeyScope::OrganizationRead;
        owner_may && self.grant.scopes.iter().any(|scope| scope.covers(needed))
    }

    /// What is done with this key now.
    pub fn act(&self, now: Timestamp) -> Act {
        let (id, tenant) = (self.id.clone(), self.tenant.clone());
        let (user, email) = (self.owner.id.clone(), self.owner.email.clone());
        Act { actor: Actor::AdminKey { id, tenant, user, email }, now }
    }
}

/// Makes a key of the organisation for one of its users.
pub async fn create(
    store: &Store,
    tenant: &str,
    owner: &UserId,
    grant: KeyGrant,
    act: &Act,
) -> Result<(AdminKey, KeySecret), StoreError> {
    let owner = people::find_user(store, tenant, owner).await?;
    let mut transaction = store.write().await?;
    let created = insert(&mut transaction, tenant, owner, grant, act).await?;
    transaction.commit().await?;
    Ok(created)
}

/// What the first start makes: a user, the first key of the project, the first key of the organisation.
pub struct First {
    pub key: (keys::Key, KeySecret),
    pub admin_key: (AdminKey, KeySecret),
}

/// Makes the first keys of a store that has never had any: `None` on every start but the first.
pub async fn bootstrap(
    store: &Store,
    project: &Project,
    now: Timestamp,
) -> Result<Option<First>, StoreError> {
    let act = Act::of_server(now);
    let mut transaction = store.write().await?;
    let (n_keys, n_admin_keys): (i64, i64) =
        sqlx::query_as("SELECT (SELECT COUNT(*) FROM api_keys), (SELECT COUNT(*) FROM admin_keys)")
            .fetch_one(&mut *transaction)
            .await?;
    if n_keys + n_admin_keys > 0 {
        return Ok(None);
    }
    let tenant = &project.tenant;
    let new = NewUser { name: "Operator".into(), email: None, role: Role::Owner, is_default: true };
    let owner = people::insert_user(&mut transaction, tenant, new, &act).await?;
    let grant = KeyGrant { name: "first".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    let key = keys::insert(&mut transaction, project, grant, keys::KeyOwner::Nobody, &act).await?;
    let scopes = vec![KeyScope::OrganizationWrite];
    let grant = KeyGrant { name: "first".into(), scopes, expires_at: None };
    let admin_key = insert(&mut transaction, tenant, owner, grant, &act).await?;
    transaction.commit().await?;
    Ok(Some(First { key, admin_key }))
}

/// The user for whom the command line makes keys: the oldest owner, or a first one.
pub async fn operator(store: &Store, tenant: &str, act: &Act) -> Result<people::User, StoreError> {
    let users = people::users(store, tenant, &[], Page::WHOLE).await?;
    if let Some(owner) = users.data.into_iter().find(|user| user.role == Role::Owner) {
        return Ok(owner);
    }
    let new = NewUser { name: "Operator".into(), email: None, role: Role::Owner, is_default: true };
    people::add_user(store, tenant, new, act).await
}

async fn insert(
    transaction: &mut Writing,
    tenant: &str,
    owner: people::User,
    grant: KeyGrant,
    act: &Act,
) -> Result<(AdminKey, KeySecret), StoreError> {
    keys::check(&grant, act.now)?;
    if let Some(scope) = grant.scopes.iter().find(|scope| !scope.is_of_organization()) {
        let why = "an organisation's key has organization.read or organization.write only";
        return Err(BadId { what: "key scope", text: scope.to_string(), why }.into());
    }
    let (n_keys,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM admin_keys WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(&mut **transaction)
        .await?;
    if n_keys >= limits::ADMIN_KEYS_MAX {
        return Err(full("admin keys", limits::ADMIN_KEYS_MAX));
    }
    let secret = KeySecret::generate(PREFIX)?;
    let id = AdminKeyId::from_bits(uuid::Uuid::now_v7().as_u128());
    sqlx::query(
        "INSERT INTO admin_keys (tenant, id, name, digest, hint, owner, scopes, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(tenant)
    .bind(id.as_str())
    .bind(&grant.name)
    .bind(digest(secret.reveal()))
    .bind(hint(&secret))
    .bind(owner.id.as_str())
    .bind(keys::scope_text(&grant.scopes))
    .bind(act.now.millis())
    .bind(grant.expires_at.map(Timestamp::millis))
    .execute(&mut **transaction)
    .await?;
    let scopes: Vec<&str> = grant.scopes.iter().map(|scope| scope.as_str()).collect();
    let data = json!({"data": {"scopes": scopes}});
    let event = Event { kind: "api_key.created", project: None, resource: id.as_str(), data };
    audit::append(transaction, tenant, act, event).await?;
    let key = AdminKey {
        id,
        tenant: tenant.to_owned(),
        grant,
        hint: hint(&secret),
        owner,
        created_at: act.now,
        revoked_at: None,
        last_used_at: None,
    };
    Ok((key, secret))
}

/// In which order keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// The organisation's keys that were not revoked.
pub async fn list(
    store: &Store,
    tenant: &str,
    order: Order,
    page: Page<'_>,
) -> Result<Listed<AdminKey>, StoreError> {
    let sql = match order {
        Order::OldestFirst => {
            "SELECT k.tenant, k.id, k.name, k.digest, k.hint, k.owner, k.scopes, k.created_at, k.expires_at, \
             k.revoked_at, k.last_used_at FROM admin_keys k \
             WHERE k.tenant = $1 AND k.revoked_at IS NULL AND k.id > $2 ORDER BY k.id LIMIT $3"
        }
        Order::NewestFirst => {
            "SELECT k.tenant, k.id, k.name, k.digest, k.hint, k.owner, k.scopes, k.created_at, k.expires_at, \
             k.revoked_at, k.last_used_at FROM admin_keys k \
             WHERE k.tenant = $1 AND k.revoked_at IS NULL AND k.id < $2 ORDER BY k.id DESC LIMIT $3"
        }
    };
    // Behind every id there is.
    let end = "~";
    let after = page.after.unwrap_or(if order == Order::NewestFirst { end } else { "" });
    let rows: Vec<KeyRow> =
        sqlx::query_as(sql).bind(tenant).bind(after).bind(page.rows()).fetch_all(&store.reader).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        keys.push(parse(store, row).await?.0);
    }
    Ok(Listed::of(page, keys))
}

pub async fn find(store: &Store, tenant: &str, id: &AdminKeyId) -> Result<AdminKey, StoreError> {
    let row = row_in(&store.reader, tenant, id).await?;
    Ok(parse(store, row).await?.0)
}

/// The row of a key that was not revoked, where who changes it already reads.
async fn row_in<'c>(
    from: impl sqlx::Executor<'c, Database = sqlx::Any>,
    tenant: &str,
    id: &AdminKeyId,
) -> Result<KeyRow, StoreError> {
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, id, name, digest, hint, owner, scopes, created_at, expires_at, revoked_at, last_used_at \
         FROM admin_keys WHERE tenant = $1 AND id = $2 AND revoked_at IS NULL",
    )
    .bind(tenant)
    .bind(id.as_str())
    .fetch_optional(from)
    .await?;
    row.ok_or_else(|| missing(id))
}

fn missing(id: &AdminKeyId) -> StoreError {
    StoreError::NotFound { what: "admin key", id: id.to_string() }
}

/// Ends a key now.
pub async fn revoke(store: &Store, tenant: &str, id: &AdminKeyId, act: &Act) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE admin_keys SET revoked_at = $3 WHERE tenant = $1 AND id = $2 AND revoked_at IS NULL",
    )
    .bind(tenant)
    .bind(id.as_str())
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(missing(id));
    }
    let event = Event { kind: "api_key.deleted", project: None, resource: id.as_str(), data: json!({}) };
    audit::append(&mut transaction, tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends every key of a user.
pub(crate) async fn revoke_of(
    transaction: &mut Writing,
    tenant: &str,
    owner: &UserId,
    act: &Act,
) -> Result<(), StoreError> {
    let ended: Vec<(String,)> = sqlx::query_as(
        "UPDATE admin_keys SET revoked_at = $3 WHERE tenant = $1 AND owner = $2 AND revoked_at IS NULL RETURNING id",
    )
    .bind(tenant)
    .bind(owner.as_str())
    .bind(act.now.millis())
    .fetch_all(&mut **transaction)
    .await?;
    for (id,) in ended {
        let event = Event { kind: "api_key.deleted", project: None, resource: &id, data: json!({}) };
        audit::append(transaction, tenant, act, event).await?;
    }
    Ok(())
}

/// Makes a successor with the same rights; the key itself lives on for `overlap`.
pub async fn rotate(
    store: &Store,
    tenant: &str,
    id: &AdminKeyId,
    overlap: Duration,
    act: &Act,
) -> Result<(AdminKey, KeySecret), StoreError> {
    let mut transaction = store.write().await?;
    // One that was revoked or rotated meanwhile has no successor with what it was before.
    let row = row_in(&mut *transaction, tenant, id).await?;
    let old = parse(store, row).await?.0;
    let (end, still_lives) = keys::overlap_end(&old.grant, overlap, act.now)?;
    sqlx::query("UPDATE admin_keys SET expires_at = $3, revoked_at = $4 WHERE tenant = $1 AND id = $2")
        .bind(tenant)
        .bind(id.as_str())
        .bind(end.millis())
        .bind((!still_lives).then_some(act.now.millis()))
        .execute(&mut *transaction)
        .await?;
    let data = json!({"changes_requested": {"expires_at": end.seconds()}});
    let event = Event { kind: "api_key.updated", project: None, resource: id.as_str(), data };
    audit::append(&mut transaction, tenant, act, event).await?;
    let created = insert(&mut transaction, tenant, old.owner, old.grant, act).await?;
    transaction.commit().await?;
    Ok(created)
}

/// What is known about a presented secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid(AdminKey),
    Expired(AdminKey),
    Revoked(AdminKey),
    Unknown,
}

/// Whose secret this is. Reads the database every time.
pub async fn look(store: &Store, secret: &str, now: Timestamp) -> Result<Verdict, StoreError> {
    if !secret.starts_with(PREFIX) || secret.len() > keys::SECRET_CHARS_MAX {
        return Ok(Verdict::Unknown);
    }
    let presented = digest(secret);
    let row: Option<KeyRow> = sqlx::query_as(
        "SELECT tenant, id, name, digest, hint, owner, scopes, created_at, expires_at, revoked_at, last_used_at \
         FROM admin_keys WHERE digest = $1",
    )
    .bind(&presented)
    .fetch_optional(&store.reader)
    .await?;
    let Some(row) = row else { return Ok(Verdict::Unknown) };
    let (is_revoked, expires_at) = (row.9.is_some(), row.8);
    let (key, stored) = parse(store, row).await?;
    if !bool::from(stored.as_bytes().ct_eq(presented.as_bytes())) {
        return Ok(Verdict::Unknown);
    }
    Ok(match (is_revoked, expires_at) {
        (true, _) => Verdict::Revoked(key),
        (false, Some(end)) if end <= now.millis() => Verdict::Expired(key),
        _ => Verdict::Valid(key),
    })
}

/// Notes that a key was used, where that was not noted lately.
pub async fn note_use(store: &Store, key: &AdminKey, now: Timestamp) -> Result<(), StoreError> {
    let is_stale = |used: Timestamp| used.plus(limits::KEY_LAST_USED_STALE_MAX) <= now;
    if key.last_used_at.is_none_or(is_stale) {
        let mut transaction = store.write().await?;
        sqlx::query("UPDATE admin_keys SET last_used_at = $2 WHERE id = $1")
            .bind(key.id.as_str())
            .bind(now.millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    Ok(())
}

fn digest(secret: &str) -> String {
    keys::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

type KeyRow =
    (String, String, String, String, String, String, String, i64, Option<i64>, Option<i64>, Option<i64>);

async fn parse(store: &Store, row: KeyRow) -> Result<(AdminKey, String), StoreError> {
    let (tenant, id, name, digest, hint, owner, scopes, created_at, expires_at, revoked_at, last_used_at) =
        row;
    let owner: UserId = super::word("admin_keys", &owner)?;
    let owner = match people::find_user(store, &tenant, &owner).await {
        Ok(owner) => owner,
        // Whose owner left is revoked and says so; what is told of the owner is what is left.
        Err(StoreError::NotFound { .. }) if revoked_at.is_some() => people::User {
            id: owner,
            name: String::new(),
            email: None,
            role: Role::Reader,
            is_default: false,
            added_at: Timestamp::from_millis(0),
            key_used_at: None,
        },
        Err(error) => return Err(error),
    };
    let key = AdminKey {
        id: super::word("admin_keys", &id)?,
        tenant,
        grant: KeyGrant {
            name,
            scopes: keys::parse_scopes("admin_keys", &scopes)?,
            expires_at: expires_at.map(Timestamp::from_millis),
        },
        hint,
        owner,
        created_at: Timestamp::from_millis(created_at),
        revoked_at: revoked_at.map(Timestamp::from_millis),
        last_used_at: last_used_at.map(Timestamp::from_millis),
    };
    Ok((key, digest))
}
