//! Migrations: forward only, each in one transaction, with a copy of the database before the first of them.

use crate::StoreError;
use lyceum_types::clock::Timestamp;
use sqlx::{Connection, SqliteConnection};
use std::path::Path;

/// The statements that lead from version `n - 1` to version `n` (its place in the list, from 1).
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_privacy.sql"),
    include_str!("../migrations/0003_files_and_choices.sql"),
    include_str!("../migrations/0004_held.sql"),
    include_str!("../migrations/0006_tenancy.sql"),
];

/// Brings the database to the newest version of `migrations`; refuses one that is newer than they are.
///
/// The caller holds the opening lock, so no two processes migrate at once.
pub(crate) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
    migrations: &[&'static str],
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER NOT NULL PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
    )
    .execute(&mut *connection)
    .await?;
    let (found,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
        .fetch_one(&mut *connection)
        .await?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        back_up(connection, path, found).await?;
    }
    for version in found + 1..=known {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(migrations[version as usize - 1]).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO schema_versions (version, applied_at) VALUES ($1, $2)")
            .bind(version)
            .bind(now.millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        tracing::info!(version, "database migrated");
    }
    Ok(())
}

/// A whole copy beside the database, `lyceum.db.before-VERSION`; an older copy of the same step is replaced.
async fn back_up(connection: &mut SqliteConnection, path: &Path, found: i64) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{}", found + 1));
    let copy = path.with_file_name(name);
    match std::fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::file("remove", &copy, error));
        }
        _ => {}
    }
    // An empty file is allowed as the target, and it fixes the mode before there is content.
    drop(crate::files::open_private(&copy)?);
    sqlx::query("VACUUM INTO $1").bind(copy.to_string_lossy().into_owned()).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::SqliteConnectOptions;

    const NOW: Timestamp = Timestamp::from_millis(1);

    async fn open(path: &Path) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    #[tokio::test]
    async fn a_second_step_keeps_the_rows_and_a_copy_of_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let mut db = open(&path).await;
        let first = "CREATE TABLE a (x INTEGER NOT NULL) STRICT; INSERT INTO a VALUES (7);";
        migrate(&mut db, &path, &[first], NOW).await.unwrap();
        assert!(!dir.path().join("t.db.before-1").exists());
        migrate(&mut db, &path, &[first, "ALTER TABLE a ADD COLUMN y INTEGER"], NOW).await.unwrap();
        let row: (i64, Option<i64>) = sqlx::query_as("SELECT x, y FROM a").fetch_one(&mut db).await.unwrap();
        assert_eq!(row, (7, None));
        let mut copy = open(&dir.path().join("t.db.before-2")).await;
        let row: (i64,) = sqlx::query_as("SELECT * FROM a").fetch_one(&mut copy).await.unwrap();
        assert_eq!(row, (7,));
    }

    #[tokio::test]
    async fn a_failing_step_leaves_the_version_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let mut db = open(&path).await;
        let bad = "CREATE TABLE b (x INTEGER) STRICT; CREATE TABLE b (x INTEGER) STRICT;";
        assert!(migrate(&mut db, &path, &["CREATE TABLE a (x INTEGER) STRICT", bad], NOW).await.is_err());
        let tables: Vec<(String,)> =
            sqlx::query_as("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
                .fetch_all(&mut db)
                .await
                .unwrap();
        assert_eq!(tables, [("a".to_owned(),), ("schema_versions".to_owned(),)]);
        migrate(&mut db, &path, &["unused", "CREATE TABLE b (x INTEGER) STRICT"], NOW).await.unwrap();
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let mut db = open(&path).await;
        migrate(
            &mut db,
            &path,
            &["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER) STRICT"],
            NOW,
        )
        .await
        .unwrap();
        let error = migrate(&mut db, &path, &["CREATE TABLE a (x INTEGER) STRICT"], NOW).await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 2, known: 1, .. }), "{error}");
    }
}
