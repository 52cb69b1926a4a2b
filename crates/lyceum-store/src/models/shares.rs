//! Models that projects may ask though another project has them: an operator imports a model once, and several teams use
//! it. Whoever asks cannot change it, move its aliases or read what it was trained on. A name that a project has itself
//! means its own model.

use super::{Version, parse};
use crate::tenancy::audit::{self, Act, Event};
use crate::{Store, StoreError, models};
use lyceum_types::ids::{ModelName, ModelRef, Project, VersionRef};
use serde_json::json;
use sqlx::Row as _;

/// Every one.
const ANY: &str = "*";

/// Who may ask a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum With {
    Project(Project),
    /// Every project of an organisation.
    Organization(String),
    Everyone,
}

impl With {
    fn columns(&self) -> (&str, &str) {
        match self {
            With::Project(project) => (&project.tenant, &project.id),
            With::Organization(tenant) => (tenant, ANY),
            With::Everyone => (ANY, ANY),
        }
    }
}

impl std::fmt::Display for With {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            With::Project(project) => f.write_str(&project.id),
            With::Organization(tenant) => write!(f, "every project of {tenant}"),
            With::Everyone => f.write_str("everyone"),
        }
    }
}

/// A model and who may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub owner: Project,
    pub name: ModelName,
    pub with: With,
}

/// Lets others ask every version of a model, also those to come. Told twice, it holds once.
///
/// # Errors
/// There is no such model, organisation or project.
pub async fn share(store: &Store, share: &Share, act: &Act) -> Result<(), StoreError> {
    let Share { owner, name, with } = share;
    models::resolve(store, owner, &ModelRef { name: name.clone(), version: VersionRef::Latest }).await?;
    match with {
        With::Project(project) => drop(crate::tenancy::projects::find(store, project).await?),
        With::Organization(tenant) => drop(crate::tenancy::projects::organization(store, tenant).await?),
        With::Everyone => {}
    }
    let (to_tenant, to_project) = with.columns();
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "INSERT INTO model_shares (tenant, project, name, to_tenant, to_project, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(&owner.tenant)
    .bind(&owner.id)
    .bind(name.as_str())
    .bind(to_tenant)
    .bind(to_project)
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 1 {
        let data = json!({"with_organization": to_tenant, "with_project": to_project});
        let event = Event { kind: "model.shared", project: Some(&owner.id), resource: name.as_str(), data };
        audit::append(&mut transaction, &owner.tenant, act, event).await?;
    }
    Ok(transaction.commit().await?)
}

/// Takes a share back: the next request does not find the model.
///
/// # Errors
/// The model is not shared so.
pub async fn unshare(store: &Store, share: &Share, act: &Act) -> Result<(), StoreError> {
    let Share { owner, name, with } = share;
    let (to_tenant, to_project) = with.columns();
    let mut transaction = store.write().await?;
    let done = sqlx::query(
        "DELETE FROM model_shares \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND to_tenant = $4 AND to_project = $5",
    )
    .bind(&owner.tenant)
    .bind(&owner.id)
    .bind(name.as_str())
    .bind(to_tenant)
    .bind(to_project)
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "share", id: format!("{name} with {with}") });
    }
    let data = json!({"with_organization": to_tenant, "with_project": to_project});
    let event = Event { kind: "model.unshared", project: Some(&owner.id), resource: name.as_str(), data };
    audit::append(&mut transaction, &owner.tenant, act, event).await?;
    Ok(transaction.commit().await?)
}

/// What an organisation's projects share.
///
/// # Errors
/// The database.
pub async fn list(store: &Store, tenant: &str) -> Result<Vec<Share>, StoreError> {
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(
        "SELECT tenant, project, name, to_tenant, to_project FROM model_shares WHERE tenant = $1 \
         ORDER BY project, name, to_tenant, to_project",
    )
    .bind(tenant)
    .fetch_all(&store.reader)
    .await?;
    let share = |(tenant, id, name, to_tenant, to_project): (String, String, String, String, String)| {
        let damaged = || StoreError::Damaged { table: "model_shares", value: name.clone() };
        let with = match (to_tenant.as_str(), to_project.as_str()) {
            (ANY, _) => With::Everyone,
            (_, ANY) => With::Organization(to_tenant),
            _ => With::Project(Project { tenant: to_tenant, id: to_project }),
        };
        Ok(Share { owner: Project { tenant, id }, name: name.parse().map_err(|_| damaged())?, with })
    };
    rows.into_iter().map(share).collect()
}

/// The version that a project means: its own, or one that is shared with it. Of several that are, the one of its own
/// organisation, then the first by the name of who has it.
///
/// # Errors
/// There is none.
pub async fn ask(store: &Store, project: &Project, reference: &ModelRef) -> Result<Version, StoreError> {
    let missing = match models::resolve(store, project, reference).await {
        Err(missing @ StoreError::NotFound { .. }) => missing,
        other => return other,
    };
    for owner in owners(store, project, &reference.name).await? {
        match models::resolve(store, &owner, reference).await {
            Err(StoreError::NotFound { .. }) => {}
            other => return other,
        }
    }
    Err(missing)
}

/// Projects that share a model of this name with a project that has none.
async fn owners(store: &Store, project: &Project, name: &ModelName) -> Result<Vec<Project>, StoreError> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT DISTINCT s.tenant, s.project, CASE WHEN s.tenant = $1 THEN 0 ELSE 1 END AS far FROM model_shares s \
         WHERE s.name = $3 AND s.to_tenant IN ('*', $1) AND s.to_project IN ('*', $2) \
         AND NOT EXISTS (SELECT 1 FROM model_versions v \
             WHERE v.tenant = $1 AND v.project = $2 AND v.name = $3 AND v.state = 'ready') \
         ORDER BY far, s.tenant, s.project",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .fetch_all(&store.reader)
    .await?;
    Ok(rows.into_iter().map(|(tenant, id, _)| Project { tenant, id }).collect())
}

/// Every version that a project may ask, its own and those shared with it, by name and number.
///
/// # Errors
/// The database.
pub async fn visible(store: &Store, project: &Project) -> Result<Vec<Version>, StoreError> {
    let mut all = models::list(store, project).await?;
    let names = sqlx::query(
        "SELECT DISTINCT name FROM model_shares WHERE to_tenant IN ('*', $1) AND to_project IN ('*', $2)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    for row in names {
        let name: String = row.try_get("name")?;
        let damaged = || StoreError::Damaged { table: "model_shares", value: name.clone() };
        let name: ModelName = name.parse().map_err(|_| damaged())?;
        if all.iter().any(|version| version.name == name) {
            continue;
        }
        if let Some(owner) = owners(store, project, &name).await?.into_iter().next() {
            all.extend(of_name(store, &owner, &name).await?);
        }
    }
    all.sort_by(|a, b| (&a.name, a.number).cmp(&(&b.name, b.number)));
    Ok(all)
}

async fn of_name(store: &Store, owner: &Project, name: &ModelName) -> Result<Vec<Version>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT name, version, family, task, n_params, bytes, sha256, path, job, created_at, held, sealed \
         FROM model_versions WHERE tenant = $1 AND project = $2 AND name = $3 AND state = 'ready' ORDER BY version",
    )
    .bind(&owner.tenant)
    .bind(&owner.id)
    .bind(name.as_str())
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(|row| parse(row, store, owner)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tests::{publish_as, store};
    use lyceum_types::clock::Timestamp;

    fn project(tenant: &str, id: &str) -> Project {
        Project { tenant: tenant.into(), id: id.into() }
    }

    #[tokio::test]
    async fn a_shared_model_is_found_by_those_it_is_shared_with_and_by_nobody_else() {
        let (_dir, store) = store().await;
        let act = Act::of_command_line(Timestamp::from_millis(5));
        let (org, theirs) =
            crate::tenancy::projects::create_organization(&store, "theirs", &act).await.unwrap();
        let second = crate::tenancy::projects::create(&store, &org.id, "second", &act).await.unwrap().project;
        let (ours, theirs) = (Project::default_project(), theirs.project);
        publish_as(&store, &ours, "base").await;
        publish_as(&store, &ours, "secret").await;
        let found = async |project: &Project, name: &str| ask(&store, project, &name.parse().unwrap()).await;
        let names = async |project: &Project| {
            let all = visible(&store, project).await.unwrap();
            all.iter().map(Version::id).collect::<Vec<_>>()
        };
        assert!(found(&theirs, "base").await.is_err());
        let with = With::Project(theirs.clone());
        let one = Share { owner: ours.clone(), name: "base".parse().unwrap(), with };
        share(&store, &one, &act).await.unwrap();
        share(&store, &one, &act).await.unwrap();
        assert_eq!(list(&store, &ours.tenant).await.unwrap(), std::slice::from_ref(&one));
        let version = found(&theirs, "base@1").await.unwrap();
        assert_eq!((version.owner.clone(), version.id()), (ours.clone(), "base@1".to_owned()));
        assert_eq!(names(&theirs).await, ["base@1"]);
        assert!(found(&second, "base").await.is_err() && names(&second).await.is_empty());
        for name in ["secret", "base@2"] {
            assert!(matches!(found(&theirs, name).await, Err(StoreError::NotFound { .. })), "{name}");
        }
        // Who is shared with cannot resolve it as its own: not delete, move or promote it.
        assert!(models::resolve(&store, &theirs, &"base".parse().unwrap()).await.is_err());
        let all = Share { with: With::Organization(org.id.clone()), ..one.clone() };
        share(&store, &all, &act).await.unwrap();
        assert_eq!(names(&second).await, ["base@1"]);
        // Its own model of that name is what the name means.
        publish_as(&store, &second, "base").await;
        publish_as(&store, &second, "base").await;
        assert_eq!(found(&second, "base").await.unwrap().owner, second);
        assert_eq!(names(&second).await, ["base@1", "base@2"]);
        unshare(&store, &one, &act).await.unwrap();
        unshare(&store, &all, &act).await.unwrap();
        assert!(matches!(unshare(&store, &all, &act).await, Err(StoreError::NotFound { what: "share", .. })));
        assert!(found(&theirs, "base").await.is_err());
        share(&store, &Share { with: With::Everyone, ..one.clone() }, &act).await.unwrap();
        assert_eq!(names(&theirs).await, ["base@1"]);
        // A model that is deleted is shared no more.
        crate::models::delete_all(&store, &ours, &"base".parse().unwrap(), &crate::models::tests::act())
            .await
            .unwrap();
        assert!(found(&theirs, "base").await.is_err() && names(&theirs).await.is_empty());
        assert!(crate::tenancy::audit::verify(&store, &ours.tenant, None).await.unwrap().is_ok());
        let nobody = Share { with: With::Project(project("x", "y")), ..one };
        assert!(share(&store, &nobody, &act).await.is_err());
    }
}
