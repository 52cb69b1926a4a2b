//! Users of an organisation and their places in its projects.
//!
//! Whoever leaves takes the keys along: they are revoked in the same transaction.

use super::audit::{self, Act, Event};
use super::projects::require_active;
use super::{Listed, Page, Writing, check_name, full, word};
use crate::keys;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, Project, UserId};
use lyceum_types::limits;
use lyceum_types::tenancy::{ProjectRole, Role};
use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    /// The one that the first start made.
    pub is_default: bool,
    pub added_at: Timestamp,
    /// The newest use among the user's keys, of projects and of the organisation, also of those that were revoked.
    pub key_used_at: Option<Timestamp>,
}

/// A user's place in a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: User,
    pub role: ProjectRole,
    pub added_at: Timestamp,
}

/// A person that is added.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    pub is_default: bool,
}

pub async fn add_user(store: &Store, tenant: &str, new: NewUser, act: &Act) -> Result<User, StoreError> {
    let mut transaction = store.write().await?;
    let user = insert_user(&mut transaction, tenant, new, act).await?;
    transaction.commit().await?;
    Ok(user)
}

pub(crate) async fn insert_user(
    transaction: &mut Writing,
    tenant: &str,
    new: NewUser,
    act: &Act,
) -> Result<User, StoreError> {
    check_name("name", &new.name)?;
    if let Some(email) = &new.email {
        check_email(email)?;
        let (n_same,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM users WHERE tenant = $1 AND email = $2")
            .bind(tenant)
            .bind(email)
            .fetch_one(&mut **transaction)
            .await?;
        if n_same > 0 {
            let message = "a user of the organisation has this address already";
            return Err(StoreError::Refused { code: "user_exists", message: message.into() });
        }
    }
    let (n_users,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM users WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(&mut **transaction)
        .await?;
    if n_users >= limits::USERS_MAX {
        return Err(full("users", limits::USERS_MAX));
    }
    let id = UserId::from_bits(uuid::Uuid::now_v7().as_u128());
    sqlx::query(
        "INSERT INTO users (tenant, id, name, email, role, is_default, added_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(tenant)
    .bind(id.as_str())
    .bind(&new.name)
    .bind(&new.email)
    .bind(new.role.as_str())
    .bind(i64::from(new.is_default))
    .bind(act.now.millis())
    .execute(&mut **transaction)
    .await?;
    let data = json!({"data": {"role": new.role.as_str()}});
    let event = Event { kind: "user.added", project: None, resource: id.as_str(), data };
    audit::append(transaction, tenant, act, event).await?;
    let NewUser { name, email, role, is_default } = new;
    Ok(User { id, name, email, role, is_default, added_at: act.now, key_used_at: None })
}

/// An address as far as it can be told without writing to it.
fn check_email(email: &str) -> Result<(), StoreError> {
    let is_address = email.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && !host.is_empty() && !host.contains('@') && !host.starts_with('.')
    });
    let is_plain = !email.chars().any(|c| c.is_whitespace() || c.is_control());
    if is_address && is_plain && email.len() <= limits::EMAIL_CHARS_MAX {
        return Ok(());
    }
    let text = email.chars().take(64).collect();
    Err(BadId { what: "email", text, why: "must be an address such as ada@example.org" }.into())
}

/// A [`UserRow`] and these columns of each user `u` of the tenant `$1` whom the rest of the statement takes, with the
/// newest use of their keys of projects `k` and of the organisation `a`.
macro_rules! select_users {
    ($columns:literal, $($rest:literal),+) => {
        concat!(
            "SELECT u.id, u.name, u.email, u.role, u.is_default, u.added_at, k.used_at, a.used_at",
            $columns,
            " FROM users u LEFT JOIN (SELECT owner_id, MAX(last_used_at) AS used_at FROM api_keys \
             WHERE tenant = $1 AND owner_kind = 'user' GROUP BY owner_id) k ON k.owner_id = u.id \
             LEFT JOIN (SELECT owner, MAX(last_used_at) AS used_at FROM admin_keys \
             WHERE tenant = $1 GROUP BY owner) a ON a.owner = u.id ",
            $($rest),+
        )
    };
}

/// A [`MemberRow`] of each user of the project `$2` of the tenant `$1`.
macro_rules! select_members {
    ($rest:literal) => {
        select_users!(
            ", p.role, p.added_at",
            "JOIN project_users p ON u.id = p.user_id AND u.tenant = p.tenant \
             WHERE p.tenant = $1 AND p.project = $2 AND ",
            $rest
        )
    };
}

type UserRow = (String, String, Option<String>, String, i64, i64, Option<i64>, Option<i64>);

fn user(row: UserRow) -> Result<User, StoreError> {
    let (id, name, email, role, is_default, added_at, used_at, used_at_admin) = row;
    Ok(User {
        id: word("users", &id)?,
        name,
        email,
        role: word("users", &role)?,
        is_default: is_default == 1,
        added_at: Timestamp::from_millis(added_at),
        // None is less than any.
        key_used_at: used_at.max(used_at_admin).map(Timestamp::from_millis),
    })
}

/// The users of an organisation; with `emails`, those who have one of them.
pub async fn users(
    store: &Store,
    tenant: &str,
    emails: &[String],
    page: Page<'_>,
) -> Result<Listed<User>, StoreError> {
    let n_rows = if emails.is_empty() { page.rows() } else { limits::USERS_MAX };
    let rows: Vec<UserRow> =
        sqlx::query_as(select_users!("", "WHERE u.tenant = $1 AND u.id > $2 ORDER BY u.id LIMIT $3"))
            .bind(tenant)
            .bind(page.after())
            .bind(n_rows)
            .fetch_all(&store.reader)
            .await?;
    let mut found = rows.into_iter().map(user).collect::<Result<Vec<_>, _>>()?;
    found.retain(|user| emails.is_empty() || user.email.as_ref().is_some_and(|email| emails.contains(email)));
    Ok(Listed::of(page, found))
}

pub async fn find_user(store: &Store, tenant: &str, id: &UserId) -> Result<User, StoreError> {
    let row: Option<UserRow> = sqlx::query_as(select_users!("", "WHERE u.tenant = $1 AND u.id = $2"))
        .bind(tenant)
        .bind(id.as_str())
        .fetch_optional(&store.reader)
        .await?;
    row.map_or_else(|| Err(no_user(id)), user)
}

fn no_user(id: &UserId) -> StoreError {
    StoreError::NotFound { what: "user", id: id.to_string() }
}

pub async fn set_user_role(
    store: &Store,
    tenant: &str,
    id: &UserId,
    role: Role,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    if role != Role::Owner {
        require_another_owner(&mut transaction, tenant, id).await?;
    }
    let done = sqlx::query("UPDATE users SET role = $3 WHERE tenant = $1 AND id = $2")
        .bind(tenant)
        .bind(id.as_str())
        .bind(role.as_str())
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Err(no_user(id));
    }
    let data = json!({"changes_requested": {"role": role.as_str()}});
    let event = Event { kind: "user.updated", project: None, resource: id.as_str(), data };
    audit::append(&mut transaction, tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// An organisation that nobody owns could never be changed again.
async fn require_another_owner(
    transaction: &mut Writing,
    tenant: &str,
    id: &UserId,
) -> Result<(), StoreError> {
    let (n_others, n_here): (i64, i64) = sqlx::query_as(
        "SELECT COALESCE(SUM(CASE WHEN role = 'owner' AND id <> $2 THEN 1 ELSE 0 END), 0), \
         COALESCE(SUM(CASE WHEN id = $2 THEN 1 ELSE 0 END), 0) FROM users WHERE tenant = $1",
    )
    .bind(tenant)
    .bind(id.as_str())
    .fetch_one(&mut **transaction)
    .await?;
    if n_here == 0 {
        return Err(no_user(id));
    }
    if n_others == 0 {
        let message = "the organisation needs an owner: make somebody else one first";
        return Err(StoreError::Refused { code: "last_owner", message: message.into() });
    }
    Ok(())
}

/// Removes a user from the organisation and from every project, with all keys.
pub async fn delete_user(store: &Store, tenant: &str, id: &UserId, act: &Act) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_another_owner(&mut transaction, tenant, id).await?;
    let projects: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT project FROM api_keys WHERE tenant = $1 AND owner_id = $2")
            .bind(tenant)
            .bind(id.as_str())
            .fetch_all(&mut *transaction)
            .await?;
    for (project,) in projects {
        let project = Project { tenant: tenant.to_owned(), id: project };
        keys::revoke_of(&mut transaction, &project, id.as_str(), act).await?;
    }
    super::admin_keys::revoke_of(&mut transaction, tenant, id, act).await?;
    sqlx::query("DELETE FROM users WHERE tenant = $1 AND id = $2")
        .bind(tenant)
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    let event = Event { kind: "user.deleted", project: None, resource: id.as_str(), data: json!({}) };
    audit::append(&mut transaction, tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// The users of a project, in the order of their ids.
pub async fn members(store: &Store, project: &Project, page: Page<'_>) -> Result<Listed<Member>, StoreError> {
    let rows: Vec<MemberRow> = sqlx::query_as(select_members!("p.user_id > $3 ORDER BY p.user_id LIMIT $4"))
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(page.after())
        .bind(page.rows())
        .fetch_all(&store.reader)
        .await?;
    let members: Result<Vec<_>, _> = rows.into_iter().map(member).collect();
    Ok(Listed::of(page, members?))
}

type MemberRow = (String, String, Option<String>, String, i64, i64, Option<i64>, Option<i64>, String, i64);

fn member(row: MemberRow) -> Result<Member, StoreError> {
    let (id, name, email, role, is_default, added, used, used_admin, project_role, added_at) = row;
    Ok(Member {
        user: user((id, name, email, role, is_default, added, used, used_admin))?,
        role: word("project_users", &project_role)?,
        added_at: Timestamp::from_millis(added_at),
    })
}

pub async fn find_member(store: &Store, project: &Project, id: &UserId) -> Result<Member, StoreError> {
    let row: Option<MemberRow> = sqlx::query_as(select_members!("p.user_id = $3"))
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .fetch_optional(&store.reader)
        .await?;
    row.map_or_else(|| Err(no_user(id)), member)
}

/// Gives a user of the organisation a role in a project, a first one or another one.
pub async fn set_member(
    store: &Store,
    project: &Project,
    id: &UserId,
    role: ProjectRole,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let (n_users,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM users WHERE tenant = $1 AND id = $2")
        .bind(&project.tenant)
        .bind(id.as_str())
        .fetch_one(&mut *transaction)
        .await?;
    if n_users == 0 {
        return Err(no_user(id));
    }
    sqlx::query(
        "INSERT INTO project_users (tenant, project, user_id, role, added_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (tenant, project, user_id) DO UPDATE SET role = $4",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(id.as_str())
    .bind(role.as_str())
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    let data = json!({"principal_id": id.as_str(), "principal_type": "user", "role": role.as_str(),
        "resource_id": project.id, "resource_type": "project"});
    let kind = "role.assignment.created";
    let event = Event { kind, project: Some(&project.id), resource: id.as_str(), data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Takes a user out of a project, with the keys for it.
pub async fn remove_member(
    store: &Store,
    project: &Project,
    id: &UserId,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let done = sqlx::query("DELETE FROM project_users WHERE tenant = $1 AND project = $2 AND user_id = $3")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Err(no_user(id));
    }
    keys::revoke_of(&mut transaction, project, id.as_str(), act).await?;
    let data = json!({"principal_id": id.as_str(), "principal_type": "user",
        "resource_id": project.id, "resource_type": "project"});
    let kind = "role.assignment.deleted";
    let event = Event { kind, project: Some(&project.id), resource: id.as_str(), data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}
