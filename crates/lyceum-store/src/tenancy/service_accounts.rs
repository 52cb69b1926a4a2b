//! Service accounts of a project: programs with keys of their own. Their keys end with them.

use super::audit::{self, Act, Event};
use super::projects::require_active;
use super::{Listed, Page, check_name, full, word};
use crate::keys::{self, Key, KeyGrant, KeyOwner, KeySecret};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project, ServiceAccountId};
use lyceum_types::limits;
use lyceum_types::tenancy::ProjectRole;
use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    pub id: ServiceAccountId,
    pub name: String,
    /// None: it belongs to the project without a role.
    pub role: Option<ProjectRole>,
    pub created_at: Timestamp,
}

/// Whether a service account gets a first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstKey {
    /// It is a member with a key for inference.
    Made,
    /// It has neither a role nor a key.
    None,
}

/// A new service account, with its key where it has one.
pub type NewAccount = (ServiceAccount, Option<(Key, KeySecret)>);

/// Makes a service account, with a member's place and a key where it is to have one.
pub async fn create(
    store: &Store,
    project: &Project,
    name: &str,
    first_key: FirstKey,
    act: &Act,
) -> Result<NewAccount, StoreError> {
    check_name("name", name)?;
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let (n_accounts,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM service_accounts WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_one(&mut *transaction)
            .await?;
    if n_accounts >= limits::SERVICE_ACCOUNTS_MAX {
        return Err(full("service accounts", limits::SERVICE_ACCOUNTS_MAX));
    }
    let id = ServiceAccountId::from_bits(uuid::Uuid::now_v7().as_u128());
    let role = (first_key == FirstKey::Made).then_some(ProjectRole::Member);
    sqlx::query(
        "INSERT INTO service_accounts (tenant, project, id, name, role, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(name)
    .bind(role.map_or("none", ProjectRole::as_str))
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    let data = json!({"data": {"role": role.map_or("none", ProjectRole::as_str)}});
    let event =
        Event { kind: "service_account.created", project: Some(&project.id), resource: id.as_str(), data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    let key = match first_key {
        FirstKey::None => None,
        FirstKey::Made => {
            let scopes = vec![KeyScope::Inference];
            let grant = KeyGrant { name: "Secret Key".into(), scopes, expires_at: None };
            let owner = KeyOwner::ServiceAccount(id.clone());
            Some(keys::insert(&mut transaction, project, grant, owner, act).await?)
        }
    };
    transaction.commit().await?;
    Ok((ServiceAccount { id, name: name.to_owned(), role, created_at: act.now }, key))
}

type AccountRow = (String, String, String, i64);

fn account(row: AccountRow) -> Result<ServiceAccount, StoreError> {
    let (id, name, role, created_at) = row;
    let role = match role.as_str() {
        "none" => None,
        role => Some(word("service_accounts", role)?),
    };
    let created_at = Timestamp::from_millis(created_at);
    Ok(ServiceAccount { id: word("service_accounts", &id)?, name, role, created_at })
}

/// The service accounts of a project, oldest first.
pub async fn list(
    store: &Store,
    project: &Project,
    page: Page<'_>,
) -> Result<Listed<ServiceAccount>, StoreError> {
    let rows: Vec<AccountRow> = sqlx::query_as(
        "SELECT id, name, role, created_at FROM service_accounts \
         WHERE tenant = $1 AND project = $2 AND id > $3 ORDER BY id LIMIT $4",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(page.after())
    .bind(page.rows())
    .fetch_all(&store.reader)
    .await?;
    let accounts: Result<Vec<_>, _> = rows.into_iter().map(account).collect();
    Ok(Listed::of(page, accounts?))
}

/// # Errors
/// When the project has no such service account.
pub async fn find(
    store: &Store,
    project: &Project,
    id: &ServiceAccountId,
) -> Result<ServiceAccount, StoreError> {
    let row: Option<AccountRow> = sqlx::query_as(
        "SELECT id, name, role, created_at FROM service_accounts WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .fetch_optional(&store.reader)
    .await?;
    row.map_or_else(|| Err(missing(id)), account)
}

fn missing(id: &ServiceAccountId) -> StoreError {
    StoreError::NotFound { what: "service account", id: id.to_string() }
}

/// Changes what is given.
pub async fn update(
    store: &Store,
    project: &Project,
    id: &ServiceAccountId,
    (name, role): (Option<&str>, Option<ProjectRole>),
    act: &Act,
) -> Result<(), StoreError> {
    if let Some(name) = name {
        check_name("name", name)?;
    }
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let done = sqlx::query(
        "UPDATE service_accounts SET name = COALESCE($4, name), role = COALESCE($5, role) \
         WHERE tenant = $1 AND project = $2 AND id = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(name)
    .bind(role.map(ProjectRole::as_str))
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(missing(id));
    }
    let data = json!({"changes_requested": {"name": name, "role": role.map(ProjectRole::as_str)}});
    let kind = "service_account.updated";
    let event = Event { kind, project: Some(&project.id), resource: id.as_str(), data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Removes a service account; its keys stop.
pub async fn delete(
    store: &Store,
    project: &Project,
    id: &ServiceAccountId,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let done = sqlx::query("DELETE FROM service_accounts WHERE tenant = $1 AND project = $2 AND id = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Err(missing(id));
    }
    keys::revoke_of(&mut transaction, project, id.as_str(), act).await?;
    let kind = "service_account.deleted";
    let event = Event { kind, project: Some(&project.id), resource: id.as_str(), data: json!({}) };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}
