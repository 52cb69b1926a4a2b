//! Opening the database: one writing connection and a few reading ones.

use crate::database::Database;
use crate::vault::{Keyring, MasterKey, ProjectKey};
use crate::{Blobs, Layout, StoreError, files, schema};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use sqlx::any::Any;
use sqlx::pool::Pool;
use sqlx::{AssertSqlSafe, Connection};
use std::sync::Arc;

/// A transaction of either database.
pub(crate) type Transaction = sqlx::Transaction<'static, Any>;

/// The open store of one data folder; clones share its connections.
///
/// Writers queue here for the one writing connection; between processes SQLite's `BEGIN IMMEDIATE`, or a lock that
/// PostgreSQL keeps, orders them. A reader never waits for a writer. A commit is on the disk when it returns.
#[derive(Clone, Debug)]
pub struct Store {
    layout: Layout,
    database: Database,
    keyring: Keyring,
    /// A word that no other machine has.
    machine: Arc<str>,
    writer: Pool<Any>,
    pub(crate) reader: Pool<Any>,
    blobs: Option<Arc<Blobs>>,
}

impl Store {
    /// [`open_at`](Self::open_at) with the database in the data folder.
    pub async fn open(layout: Layout, now: Timestamp) -> Result<Self, StoreError> {
        #[cfg(test)]
        let database = crate::conformance::database(&layout).await;
        #[cfg(not(test))]
        let database = Database::Sqlite;
        Self::open_at(layout, database, now).await
    }

    /// Opens or creates the data folder, migrates the database, and finishes what a dead process left
    /// half-done.
    pub async fn open_at(layout: Layout, database: Database, now: Timestamp) -> Result<Self, StoreError> {
        files::create_private_dir(layout.root())?;
        for dir in [layout.models(), layout.jobs(), layout.staging()] {
            files::create_private_dir(&dir)?;
        }
        // Turning on WAL and migrating are one process's work at a time; the lock goes with the handle.
        let opening = files::open_private(&layout.opening_lock())?;
        let opening = tokio::task::spawn_blocking(move || opening.lock().map(|()| opening))
            .await
            .map_err(|e| StoreError::file("lock", &layout.opening_lock(), std::io::Error::other(e)))?
            .map_err(|e| StoreError::file("lock", &layout.opening_lock(), e))?;
        if database == Database::Sqlite {
            // SQLite gives -wal and -shm the mode of the database file.
            drop(files::open_private(&layout.database())?);
        }
        let mut connection = database.connect(&layout).await?;
        let home = schema::Home { database: &database, path: &layout.database() };
        schema::migrate(&mut connection, home, schema::MIGRATIONS, now).await?;
        connection.close().await?;
        let machine = machine(&layout)?;
        drop(opening);

        let writer = database.pool(&layout, false).await?;
        let reader = database.pool(&layout, true).await?;
        let keyring = Keyring::locked(layout.clone());
        let store = Self { layout, database, keyring, machine, writer, reader, blobs: None };
        store.finish_deletions().await?;
        crate::data_files::sweep(&store).await?;
        let n_removed = files::sweep_staging(&store.layout)?;
        if n_removed > 0 {
            tracing::info!(n_removed, "removed unfinished folders of processes that died");
        }
        Ok(store)
    }

    /// With an object store for the bytes of versions and files; the data folder then holds copies.
    pub fn with_blobs(self, blobs: Blobs) -> Self {
        Self { blobs: Some(Arc::new(blobs)), ..self }
    }

    pub fn blobs(&self) -> Option<&Blobs> {
        self.blobs.as_deref()
    }

    /// With the key that opens what encrypted projects keep.
    pub fn unlocked(self, master: MasterKey) -> Self {
        Self { keyring: self.keyring.with_master(master), ..self }
    }

    /// With the key of one project that another process opened: for one that works for this project alone.
    pub fn handed(self, project: Project, key: ProjectKey) -> Self {
        Self { keyring: self.keyring.with_handed(project, key), ..self }
    }

    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The word by which workers of this machine are told from those of others with the same database.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    #[cfg(test)]
    pub(crate) fn without_blobs(self) -> Self {
        Self { blobs: None, ..self }
    }

    /// The store of another machine with the same database and object store.
    #[cfg(test)]
    pub(crate) fn on_another_machine(&self, layout: Layout) -> Self {
        files::create_private_dir(layout.root()).expect("a folder");
        let keyring = Keyring::locked(layout.clone());
        let machine = machine(&layout).expect("a word");
        Self { layout, keyring, machine, ..self.clone() }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A transaction that holds the write lock from its first moment, so it cannot fail at its last.
    pub(crate) async fn write(&self) -> Result<Transaction, StoreError> {
        Ok(self.writer.begin_with(AssertSqlSafe(self.database.begin())).await?)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// A reading transaction that sees the rows of this moment until it ends.
    pub(crate) async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let mut transaction = self.reader.begin_with(self.database.begin_snapshot()).await?;
        // SQLite's moment is that of the first read.
        sqlx::query("SELECT 1 FROM projects").fetch_optional(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Reads and writes one row: proof that the store works, for readiness.
    pub async fn check(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM projects").fetch_one(&self.reader).await?;
        self.write().await?.rollback().await?;
        Ok(())
    }

    /// Reads every page of SQLite's database and holds it to the others; a database server looks after its own.
    ///
    /// # Errors
    /// A page is not what was written: what SQLite says of the first few.
    pub async fn check_pages(&self) -> Result<(), StoreError> {
        if self.database.is_postgres() {
            return Ok(());
        }
        let said: Vec<(String,)> =
            sqlx::query_as("SELECT CAST(integrity_check AS TEXT) FROM pragma_integrity_check LIMIT 5")
                .fetch_all(&self.reader)
                .await?;
        match &said[..] {
            [(one,)] if one == "ok" => Ok(()),
            said => {
                let told: Vec<&str> = said.iter().flat_map(|(line,)| line.lines()).collect();
                Err(StoreError::DamagedFile { path: self.layout().database(), why: told.join("; ") })
            }
        }
    }

    /// From now on the database takes nothing more: SQLite's own limit of pages, at what there is.
    #[cfg(test)]
    pub(crate) async fn fill(&self) {
        if !self.database.is_postgres() {
            sqlx::query("PRAGMA max_page_count = 1").execute(&self.writer).await.expect("a pragma");
        }
    }

    #[cfg(test)]
    pub(crate) async fn unfill(&self) {
        if !self.database.is_postgres() {
            sqlx::query("PRAGMA max_page_count = 4294967294").execute(&self.writer).await.expect("a pragma");
        }
    }

    /// Closes every connection; the last one folds the log into the database.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// The word of the machine that has this data folder; drawn at its first opening, under the opening lock.
fn machine(layout: &Layout) -> Result<Arc<str>, StoreError> {
    let path = layout.machine();
    match std::fs::read_to_string(&path) {
        Ok(word) => Ok(word.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let word = uuid::Uuid::now_v7().simple().to_string();
            files::write_durably(&path, word.as_bytes())?;
            Ok(word.into())
        }
        Err(error) => Err(StoreError::file("read", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    #[tokio::test(flavor = "multi_thread")]
    async fn many_openers_of_a_new_folder_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let layout = Layout::new(dir.path().join("data"));
            tasks.push(tokio::spawn(async move { Store::open(layout, NOW).await.map(drop) }));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_the_owner_can_read_the_folder_and_the_database() {
        if crate::conformance::on_postgres() {
            return; // of the file and of SQLite
        }
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("data"));
        let store = Store::open(layout.clone(), NOW).await.unwrap();
        store.check().await.unwrap();
        let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(layout.root().into()), 0o700);
        assert_eq!(mode(layout.database()), 0o600);
        assert_eq!(mode(layout.root().join("lyceum.db-wal")), 0o600);
    }

    #[tokio::test]
    async fn the_rules_of_the_database_are_on() {
        if crate::conformance::on_postgres() {
            return; // of the file and of SQLite
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        for (pragma, expected) in [
            ("SELECT CAST(journal_mode AS TEXT) FROM pragma_journal_mode", "wal"),
            ("SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous", "2"),
            ("SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys", "1"),
        ] {
            let (value,): (String,) = sqlx::query_as(pragma).fetch_one(&store.writer).await.unwrap();
            assert_eq!(value, expected, "{pragma}");
        }
        let written = sqlx::query("DELETE FROM projects").execute(&store.reader).await;
        assert!(written.is_err(), "a reader must not write");
        let (loose,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%' AND strict = 0")
                .fetch_one(&store.reader)
                .await
                .unwrap();
        assert_eq!(loose, 0, "every table is STRICT");
    }

    #[tokio::test]
    async fn every_table_has_tenant_and_project() {
        if crate::conformance::on_postgres() {
            return; // of the file and of SQLite
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        let lacking = async |columns: &str, n: i64| {
            let sql = "SELECT name FROM pragma_table_list t WHERE schema = 'main' AND type = 'table' \
                 AND name NOT LIKE 'sqlite_%' AND name <> 'schema_versions' AND (SELECT COUNT(*) \
                 FROM pragma_table_info(t.name) c WHERE $1 LIKE '%[' || c.name || ']%') < $2 ORDER BY name";
            let rows: Vec<(String,)> =
                sqlx::query_as(sql).bind(columns).bind(n).fetch_all(&store.reader).await.unwrap();
            rows.into_iter().map(|(name,)| name).collect::<Vec<_>>()
        };
        assert_eq!(lacking("[tenant]", 1).await, Vec::<String>::new());
        // What an organisation has itself.
        assert_eq!(lacking("[tenant][project]", 2).await, ["admin_keys", "organizations", "users"]);
    }

    #[tokio::test]
    async fn a_full_database_is_a_full_disk_and_keeps_what_was_there() {
        if crate::conformance::on_postgres() {
            return; // of the file and of SQLite
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        // SQLite's own page limit gives the same error as a disk without space.
        sqlx::query("PRAGMA max_page_count = 1").execute(&store.writer).await.unwrap();
        let mut transaction = store.write().await.unwrap();
        let written = sqlx::query("INSERT INTO projects (tenant, project, created_at) VALUES ('t', $1, 0)")
            .bind("x".repeat(1 << 20))
            .execute(&mut *transaction)
            .await;
        let error = StoreError::from(written.unwrap_err());
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        drop(transaction);
        let (n,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM projects").fetch_one(&store.reader).await.unwrap();
        assert_eq!(n, 1);
    }
}
