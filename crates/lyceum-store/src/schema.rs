//! Migrations: forward only, each in one transaction, with a copy of what was before the first of them.
//!
//! They are written once, in SQLite's words; [`in_words_of`] says them to PostgreSQL.

use crate::StoreError;
use crate::database::{Database, OPENING};
use lyceum_types::clock::Timestamp;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use std::borrow::Cow;
use std::path::Path;

/// The statements that lead from version `n - 1` to version `n` (its place in the list, from 1).
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_privacy.sql"),
    include_str!("../migrations/0003_files_and_choices.sql"),
    include_str!("../migrations/0004_held.sql"),
    include_str!("../migrations/0005_registry.sql"),
    include_str!("../migrations/0006_tenancy.sql"),
    include_str!("../migrations/0010_ledger.sql"),
    include_str!("../migrations/0011_batches.sql"),
    include_str!("../migrations/0012_fine_tuning.sql"),
    include_str!("../migrations/0013_job_bills.sql"),
    include_str!("../migrations/0014_blobs.sql"),
    include_str!("../migrations/0015_shares.sql"),
    include_str!("../migrations/0016_promotions.sql"),
    include_str!("../migrations/0017_guard_policies.sql"),
    include_str!("../migrations/0018_sealed_versions.sql"),
    include_str!("../migrations/0019_gate_passes.sql"),
    include_str!("../migrations/0020_unprotected.sql"),
];

/// The database that is migrated.
#[derive(Clone, Copy)]
pub(crate) struct Home<'a> {
    pub database: &'a Database,
    /// Of SQLite's file.
    pub path: &'a Path,
}

/// Brings the database to the newest version of `migrations`; refuses one that is newer than they are.
///
/// The caller holds the opening lock of the data folder; PostgreSQL, which several folders may use, has a lock of
/// its own. So no two processes migrate at once.
pub(crate) async fn migrate(
    connection: &mut AnyConnection,
    home: Home<'_>,
    migrations: &[&'static str],
    now: Timestamp,
) -> Result<(), StoreError> {
    if home.database.is_postgres() {
        // Session locks end with the connection, also when something fails below.
        let lock = "SELECT pg_advisory_lock(hashtextextended(COALESCE(current_schema(), ''), $1))";
        sqlx::query(lock).bind(OPENING).execute(&mut *connection).await?;
    }
    let versions = "CREATE TABLE IF NOT EXISTS schema_versions \
                    (version INTEGER NOT NULL PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT";
    run(connection, home.database, versions).await?;
    let (found,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
        .fetch_one(&mut *connection)
        .await?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(StoreError::NewerSchema { path: home.path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        match home.database {
            Database::Sqlite => back_up(connection, home.path, found).await?,
            Database::Postgres(_) => back_up_in_place(connection, found).await?,
        }
    }
    for version in found + 1..=known {
        let mut transaction = connection.begin_with(AssertSqlSafe(home.database.begin())).await?;
        run(&mut transaction, home.database, migrations[version as usize - 1]).await?;
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

/// Whether the database has a schema of ours already.
pub(crate) async fn is_there(
    connection: &mut AnyConnection,
    database: &Database,
) -> Result<bool, StoreError> {
    let statement = match database {
        Database::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = 'schema_versions'",
        Database::Postgres(_) => {
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_name = 'schema_versions'"
        }
    };
    let (n,): (i64,) = sqlx::query_as(statement).fetch_one(connection).await?;
    Ok(n > 0)
}

async fn run(
    connection: &mut AnyConnection,
    database: &Database,
    statements: &'static str,
) -> Result<(), StoreError> {
    let statements = in_words_of(database, statements).into_owned();
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await?;
    Ok(())
}

/// A migration as the database understands it. PostgreSQL has no STRICT tables (it is always strict), calls 64-bit
/// integers, doubles and bytes otherwise, and compares text by the rules of a language unless it is told not to.
fn in_words_of<'a>(database: &Database, statements: &'a str) -> Cow<'a, str> {
    if !database.is_postgres() {
        return Cow::Borrowed(statements);
    }
    let mut words = String::with_capacity(statements.len() + 256);
    for line in statements.split_inclusive('\n') {
        // Comments stay as they are.
        let (statement, comment) = line.split_at(line.find("--").unwrap_or(line.len()));
        let mut rest = statement;
        while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
            let end = rest[start..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .map_or(rest.len(), |length| start + length);
            words.push_str(&rest[..start]);
            words.push_str(match &rest[start..end] {
                "INTEGER" => "BIGINT",
                "REAL" => "DOUBLE PRECISION",
                "BLOB" => "BYTEA",
                "TEXT" => "TEXT COLLATE \"C\"",
                "STRICT" => "",
                word => word,
            });
            rest = &rest[end..];
        }
        words.push_str(rest);
        words.push_str(comment);
    }
    Cow::Owned(words)
}

/// A copy of every table in a schema of its own, `NAME_before_VERSION`; an older copy of the same step is replaced.
async fn back_up_in_place(connection: &mut AnyConnection, found: i64) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await?;
    let (schema,): (String,) =
        sqlx::query_as("SELECT CAST(current_schema() AS TEXT)").fetch_one(&mut *transaction).await?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let copy = quoted(&format!("{schema}_before_{}", found + 1));
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
         WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut statements = format!("DROP SCHEMA IF EXISTS {copy} CASCADE; CREATE SCHEMA {copy};");
    for (table,) in tables {
        let table = quoted(&table);
        statements.push_str(&format!("CREATE TABLE {copy}.{table} AS TABLE {}.{table};", quoted(&schema)));
    }
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// A whole copy beside the database, `lyceum.db.before-VERSION`; an older copy of the same step is replaced.
async fn back_up(connection: &mut AnyConnection, path: &Path, found: i64) -> Result<(), StoreError> {
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
    use crate::Layout;

    const NOW: Timestamp = Timestamp::from_millis(1);

    /// An empty database.
    struct Db {
        dir: tempfile::TempDir,
        database: Database,
        connection: AnyConnection,
    }

    impl Db {
        async fn new() -> Db {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::new(dir.path());
            let database = crate::conformance::database(&layout).await;
            drop(crate::files::open_private(&layout.database()).unwrap());
            let connection = database.connect(&layout).await.unwrap();
            Db { dir, database, connection }
        }

        async fn migrate(&mut self, migrations: &[&'static str]) -> Result<(), StoreError> {
            let path = Layout::new(self.dir.path()).database();
            let home = Home { database: &self.database, path: &path };
            migrate(&mut self.connection, home, migrations, NOW).await
        }

        /// The number in the copy of the table `a` that was made before step `version`.
        async fn copied(&mut self, version: u32) -> i64 {
            if self.database.is_postgres() {
                let (schema,): (String,) = sqlx::query_as("SELECT CAST(current_schema() AS TEXT)")
                    .fetch_one(&mut self.connection)
                    .await
                    .unwrap();
                let select = format!("SELECT x FROM {schema}_before_{version}.a");
                let row: (i64,) =
                    sqlx::query_as(AssertSqlSafe(select)).fetch_one(&mut self.connection).await.unwrap();
                return row.0;
            }
            let copy = self.dir.path().join(format!("lyceum.db.before-{version}"));
            let other = tempfile::tempdir().unwrap();
            let layout = Layout::new(other.path());
            std::fs::copy(copy, layout.database()).unwrap();
            let mut copy = Database::Sqlite.connect(&layout).await.unwrap();
            let row: (i64,) = sqlx::query_as("SELECT * FROM a").fetch_one(&mut copy).await.unwrap();
            row.0
        }
    }

    #[tokio::test]
    async fn a_second_step_keeps_the_rows_and_a_copy_of_what_was() {
        let mut db = Db::new().await;
        let first = "CREATE TABLE a (x INTEGER NOT NULL) STRICT; INSERT INTO a VALUES (7);";
        db.migrate(&[first]).await.unwrap();
        assert!(!db.dir.path().join("lyceum.db.before-1").exists());
        db.migrate(&[first, "ALTER TABLE a ADD COLUMN y INTEGER"]).await.unwrap();
        let row: (i64, Option<i64>) =
            sqlx::query_as("SELECT x, y FROM a").fetch_one(&mut db.connection).await.unwrap();
        assert_eq!(row, (7, None));
        assert_eq!(db.copied(2).await, 7);
    }

    #[tokio::test]
    async fn a_failing_step_leaves_the_version_before_it() {
        let mut db = Db::new().await;
        let first = "CREATE TABLE a (x INTEGER) STRICT";
        let bad = "CREATE TABLE b (x INTEGER) STRICT; CREATE TABLE b (x INTEGER) STRICT;";
        assert!(db.migrate(&[first, bad]).await.is_err());
        let (version,): (i64,) = sqlx::query_as("SELECT MAX(version) FROM schema_versions")
            .fetch_one(&mut db.connection)
            .await
            .unwrap();
        assert_eq!(version, 1);
        assert!(sqlx::query("SELECT x FROM b").fetch_all(&mut db.connection).await.is_err());
        db.migrate(&["unused", "CREATE TABLE b (x INTEGER) STRICT"]).await.unwrap();
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let mut db = Db::new().await;
        let first = "CREATE TABLE a (x INTEGER) STRICT";
        db.migrate(&[first, "CREATE TABLE b (x INTEGER) STRICT"]).await.unwrap();
        let error = db.migrate(&[first]).await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 2, known: 1, .. }), "{error}");
    }

    #[test]
    fn postgresql_is_told_the_same_in_its_words() {
        let database: Database = "postgres://db/lyceum".parse().unwrap();
        let written = "CREATE TABLE a (\n  x INTEGER, -- an INTEGER\n  y REAL, z BLOB, t TEXT, is_TEXT INTEGER\n) STRICT;";
        assert_eq!(in_words_of(&Database::Sqlite, written), written);
        assert_eq!(
            in_words_of(&database, written),
            "CREATE TABLE a (\n  x BIGINT, -- an INTEGER\n  y DOUBLE PRECISION, z BYTEA, t TEXT COLLATE \"C\", is_TEXT BIGINT\n) ;"
        );
    }
}
