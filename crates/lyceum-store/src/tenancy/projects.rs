//! Organisations and their projects: what they are called, whether they live, what they keep, which models they may
//! ask.

use super::audit::{self, Act, Event};
use super::{Listed, Page, Writing, check_name, full, word};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::tenancy::{ModelPermissions, OrganizationRetention, ProjectRetention, Retention};
use serde_json::json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// The tenant of its projects.
    pub id: String,
    pub name: String,
    pub retention: OrganizationRetention,
    pub created_at: Timestamp,
}

/// A project as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub project: Project,
    pub name: String,
    pub retention: ProjectRetention,
    pub created_at: Timestamp,
    pub archived_at: Option<Timestamp>,
}

/// Makes an organisation with a first project.
pub async fn create_organization(
    store: &Store,
    name: &str,
    act: &Act,
) -> Result<(Organization, Described), StoreError> {
    check_name("organization name", name)?;
    let mut transaction = store.write().await?;
    let id = format!("org-{}", uuid::Uuid::now_v7().simple());
    let retention = OrganizationRetention::ModifiedAbuseMonitoring;
    sqlx::query(
        "INSERT INTO organizations (tenant, name, retention, created_at, audit_seq, audit_hash) \
         VALUES ($1, $2, $3, $4, 0, '')",
    )
    .bind(&id)
    .bind(name)
    .bind(retention.as_str())
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    let event = Event {
        kind: "organization.created",
        project: None,
        resource: &id,
        data: json!({"data": {"name": name}}),
    };
    audit::append(&mut transaction, &id, act, event).await?;
    let project = insert(&mut transaction, &id, "Default project", act).await?;
    transaction.commit().await?;
    Ok((Organization { id, name: name.to_owned(), retention, created_at: act.now }, project))
}

/// Every organisation, oldest first.
pub async fn organizations(store: &Store) -> Result<Vec<Organization>, StoreError> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT tenant, name, retention, created_at FROM organizations ORDER BY created_at, tenant",
    )
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter()
        .map(|(id, name, retention, created_at)| {
            let retention = word("organizations", &retention)?;
            Ok(Organization { id, name, retention, created_at: Timestamp::from_millis(created_at) })
        })
        .collect()
}

pub async fn organization(store: &Store, tenant: &str) -> Result<Organization, StoreError> {
    let found = organizations(store).await?.into_iter().find(|organization| organization.id == tenant);
    found.ok_or_else(|| StoreError::NotFound { what: "organization", id: tenant.to_owned() })
}

/// Says what the organisation's projects keep, unless they say it themselves.
pub async fn set_organization_retention(
    store: &Store,
    tenant: &str,
    retention: OrganizationRetention,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    sqlx::query("UPDATE organizations SET retention = $2 WHERE tenant = $1")
        .bind(tenant)
        .bind(retention.as_str())
        .execute(&mut *transaction)
        .await?;
    let data = json!({"changes_requested": {"retention_type": retention.as_str()}});
    let event = Event { kind: "organization.updated", project: None, resource: tenant, data };
    audit::append(&mut transaction, tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

pub async fn create(store: &Store, tenant: &str, name: &str, act: &Act) -> Result<Described, StoreError> {
    let mut transaction = store.write().await?;
    let created = insert(&mut transaction, tenant, name, act).await?;
    transaction.commit().await?;
    Ok(created)
}

async fn insert(
    transaction: &mut Writing,
    tenant: &str,
    name: &str,
    act: &Act,
) -> Result<Described, StoreError> {
    check_name("name", name)?;
    let (n_projects,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM projects WHERE tenant = $1")
        .bind(tenant)
        .fetch_one(&mut **transaction)
        .await?;
    if n_projects >= limits::PROJECTS_MAX {
        return Err(full("projects", limits::PROJECTS_MAX));
    }
    let id = format!("proj_{}", uuid::Uuid::now_v7().simple());
    sqlx::query("INSERT INTO projects (tenant, project, created_at, name) VALUES ($1, $2, $3, $4)")
        .bind(tenant)
        .bind(&id)
        .bind(act.now.millis())
        .bind(name)
        .execute(&mut **transaction)
        .await?;
    let data = json!({"data": {"name": name, "title": name}});
    let event = Event { kind: "project.created", project: Some(&id), resource: &id, data };
    audit::append(transaction, tenant, act, event).await?;
    Ok(Described {
        project: Project { tenant: tenant.to_owned(), id },
        name: name.to_owned(),
        retention: ProjectRetention::OrganizationDefault,
        created_at: act.now,
        archived_at: None,
    })
}

/// Which projects a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Active,
    /// Archived ones too.
    All,
}

/// The projects of an organisation, in the order of their ids.
pub async fn list(
    store: &Store,
    tenant: &str,
    which: Which,
    page: Page<'_>,
) -> Result<Listed<Described>, StoreError> {
    let rows: Vec<ProjectRow> = sqlx::query_as(
        "SELECT tenant, project, name, retention, created_at, archived_at FROM projects \
         WHERE tenant = $1 AND project > $2 AND (archived_at IS NULL OR $3 = 1) ORDER BY project LIMIT $4",
    )
    .bind(tenant)
    .bind(page.after())
    .bind(i64::from(which == Which::All))
    .bind(page.rows())
    .fetch_all(&store.reader)
    .await?;
    let projects: Result<Vec<_>, _> = rows.into_iter().map(described).collect();
    Ok(Listed::of(page, projects?))
}

pub async fn find(store: &Store, project: &Project) -> Result<Described, StoreError> {
    let row: Option<ProjectRow> = sqlx::query_as(
        "SELECT tenant, project, name, retention, created_at, archived_at FROM projects \
         WHERE tenant = $1 AND project = $2",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_optional(&store.reader)
    .await?;
    row.map_or_else(|| Err(missing(project)), described)
}

pub async fn rename(store: &Store, project: &Project, name: &str, act: &Act) -> Result<(), StoreError> {
    check_name("name", name)?;
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    sqlx::query("UPDATE projects SET name = $3 WHERE tenant = $1 AND project = $2")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(name)
        .execute(&mut *transaction)
        .await?;
    updated(&mut transaction, project, act, json!({"name": name, "title": name})).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends a project: its keys stop, nothing of it can be changed. A second call changes nothing.
pub async fn archive(store: &Store, project: &Project, act: &Act) -> Result<(), StoreError> {
    if *project == Project::default_project() {
        let message = "the default project cannot be archived: the command line works in it";
        return Err(StoreError::Refused { code: "default_project", message: message.into() });
    }
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "UPDATE projects SET archived_at = $3 WHERE tenant = $1 AND project = $2 AND archived_at IS NULL",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        drop(transaction);
        return find(store, project).await.map(drop);
    }
    let event = Event {
        kind: "project.archived",
        project: Some(&project.id),
        resource: &project.id,
        data: json!({}),
    };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

pub async fn set_retention(
    store: &Store,
    project: &Project,
    retention: ProjectRetention,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    sqlx::query("UPDATE projects SET retention = $3 WHERE tenant = $1 AND project = $2")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(retention.as_str())
        .execute(&mut *transaction)
        .await?;
    updated(&mut transaction, project, act, json!({"retention_type": retention.as_str()})).await?;
    transaction.commit().await?;
    Ok(())
}

/// Says which models a project may ask; None: all.
pub async fn set_models(
    store: &Store,
    project: &Project,
    models: Option<&ModelPermissions>,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    let ids = json!(models.map(ModelPermissions::ids).unwrap_or_default());
    let mode = models.map(|models| models.mode.as_str());
    sqlx::query("UPDATE projects SET model_mode = $3, model_ids = $4 WHERE tenant = $1 AND project = $2")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(mode)
        .bind(ids.to_string())
        .execute(&mut *transaction)
        .await?;
    let changes = json!({"model_permissions": {"mode": mode, "model_ids": ids}});
    updated(&mut transaction, project, act, changes).await?;
    transaction.commit().await?;
    Ok(())
}

async fn updated(
    transaction: &mut Writing,
    project: &Project,
    act: &Act,
    changes: serde_json::Value,
) -> Result<(), StoreError> {
    let data = json!({"changes_requested": changes});
    let event = Event { kind: "project.updated", project: Some(&project.id), resource: &project.id, data };
    audit::append(transaction, &project.tenant, act, event).await
}

/// What holds for a project's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub archived_at: Option<Timestamp>,
    pub retention: Retention,
    /// None: every model.
    pub models: Option<ModelPermissions>,
}

pub async fn standing(store: &Store, project: &Project) -> Result<Standing, StoreError> {
    let row: Option<StandingRow> = sqlx::query_as(
        "SELECT p.archived_at, o.retention, p.retention, p.model_mode, p.model_ids FROM projects p \
         JOIN organizations o ON o.tenant = p.tenant WHERE p.tenant = $1 AND p.project = $2",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_optional(&store.reader)
    .await?;
    let (archived_at, organization, own, mode, ids) = row.ok_or_else(|| missing(project))?;
    let retention = Retention::of(word("organizations", &organization)?, word("projects", &own)?);
    let models = match mode {
        None => None,
        Some(mode) => {
            let damaged = || StoreError::Damaged { table: "projects", value: ids.clone() };
            let ids: Vec<String> = serde_json::from_str(&ids).map_err(|_| damaged())?;
            Some(ModelPermissions::new(word("projects", &mode)?, ids)?)
        }
    };
    Ok(Standing { archived_at: archived_at.map(Timestamp::from_millis), retention, models })
}

/// Refuses a project that is not there or archived: nothing of it can be changed.
pub(crate) async fn require_active(transaction: &mut Writing, project: &Project) -> Result<(), StoreError> {
    let row: Option<(Option<i64>,)> =
        sqlx::query_as("SELECT archived_at FROM projects WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_optional(&mut **transaction)
            .await?;
    match row {
        None => Err(missing(project)),
        Some((None,)) => Ok(()),
        Some((Some(_),)) => {
            let message = format!("the project {} is archived: it cannot be changed", project.id);
            Err(StoreError::Refused { code: "project_archived", message })
        }
    }
}

fn missing(project: &Project) -> StoreError {
    StoreError::NotFound { what: "project", id: project.id.clone() }
}

type ProjectRow = (String, String, String, String, i64, Option<i64>);

fn described(row: ProjectRow) -> Result<Described, StoreError> {
    let (tenant, id, name, retention, created_at, archived_at) = row;
    Ok(Described {
        project: Project { tenant, id },
        name,
        retention: word("projects", &retention)?,
        created_at: Timestamp::from_millis(created_at),
        archived_at: archived_at.map(Timestamp::from_millis),
    })
}

/// When a project was archived, and what was decided for it and for its organisation.
type StandingRow = (Option<i64>, String, String, Option<String>, String);
