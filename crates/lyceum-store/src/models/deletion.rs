//! Deleting versions: gone for every reader at once, then the folder, then the row.

use super::{Version, find, list};
use crate::files::{Staging, rename_durably};
use crate::registry::{self, Act, EventKind, NewEvent};
use crate::{Store, StoreError, blobs};
use lyceum_types::ids::{ModelName, ModelRef, Project};

/// Deletes one version. A crash on the way is finished by the next [`Store::open`]. Returns what was deleted.
///
/// # Errors
/// [`StoreError::Aliased`]: an alias points at it.
pub async fn delete(
    store: &Store,
    project: &Project,
    reference: &ModelRef,
    act: &Act,
) -> Result<Version, StoreError> {
    let version = find(store, project, reference).await?;
    delete_versions(store, project, std::slice::from_ref(&version), act).await?;
    Ok(version)
}

/// Deletes all versions of a name, or none of them.
///
/// # Errors
/// As [`delete`].
pub async fn delete_all(
    store: &Store,
    project: &Project,
    name: &ModelName,
    act: &Act,
) -> Result<Vec<Version>, StoreError> {
    let mut versions = list(store, project).await?;
    versions.retain(|version| version.name == *name);
    if versions.is_empty() {
        return Err(StoreError::NotFound { what: "model", id: name.to_string() });
    }
    delete_versions(store, project, &versions, act).await?;
    Ok(versions)
}

/// Takes away a version that its own job made for as long as it runs, such as a checkpoint after a newer one: nobody's
/// act, so no event of its name. One that an alias points at stays.
pub async fn withdraw(store: &Store, project: &Project, version: &Version) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    sqlx::query(
        "UPDATE model_versions SET state = 'deleting' \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND state = 'ready' AND NOT EXISTS \
         (SELECT 1 FROM model_aliases a WHERE a.tenant = $1 AND a.project = $2 AND a.name = $3 AND a.version = $4)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(version.name.as_str())
    .bind(i64::from(version.number))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    store.finish_deletions().await
}

async fn delete_versions(
    store: &Store,
    project: &Project,
    versions: &[Version],
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    for version in versions {
        let alias: Option<(String,)> = sqlx::query_as(
            "SELECT alias FROM model_aliases \
             WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 ORDER BY alias LIMIT 1",
        )
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(version.name.as_str())
        .bind(i64::from(version.number))
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some((alias,)) = alias {
            return Err(StoreError::Aliased { id: version.id(), alias });
        }
        let done = sqlx::query(
            "UPDATE model_versions SET state = 'deleting' \
             WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND state = 'ready'",
        )
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(version.name.as_str())
        .bind(i64::from(version.number))
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "model", id: version.id() });
        }
        let event = NewEvent { kind: EventKind::Deleted, version: version.number, alias: None, before: None };
        registry::record(&mut transaction, project, &version.name, event, act).await?;
    }
    // A name that comes again is another model: nobody has been given that one.
    sqlx::query(
        "DELETE FROM model_shares WHERE tenant = $1 AND project = $2 AND NOT EXISTS (SELECT 1 FROM model_versions v \
         WHERE v.tenant = $1 AND v.project = $2 AND v.name = model_shares.name AND v.state = 'ready')",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    store.finish_deletions().await?;
    for version in versions {
        crate::drift::remove(store, project, &version.id())?;
    }
    Ok(())
}

impl Store {
    /// Removes the folders and rows of versions that somebody began to delete, of every project.
    pub(crate) async fn finish_deletions(&self) -> Result<(), StoreError> {
        let rows: Vec<(String, String, String, i64, String)> = sqlx::query_as(
            "SELECT tenant, project, name, version, path FROM model_versions WHERE state = 'deleting'",
        )
        .fetch_all(&self.reader)
        .await?;
        for (tenant, project, name, version, path) in rows {
            let dir = self.layout().root().join(&path);
            // One rename, so no reader ever sees a half-empty folder; two processes may do this at once.
            let staging = Staging::create(self.layout())?;
            match rename_durably(&dir, &staging.path().join("removed")) {
                Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
            let mut transaction = self.write().await?;
            let hashes = blobs::forget(&mut transaction, &path).await?;
            sqlx::query(
                "DELETE FROM model_versions \
                 WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND state = 'deleting'",
            )
            .bind(tenant)
            .bind(project)
            .bind(name)
            .bind(version)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            blobs::release(self, hashes).await;
            // An empty name folder is left where other versions may be on their way.
            drop(staging);
        }
        Ok(())
    }
}
