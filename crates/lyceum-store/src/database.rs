//! Which database holds the rows, and how each of the two is opened.
//!
//! The statements of this crate are written once. What differs between SQLite and PostgreSQL stands in this
//! file and in [`schema`](crate::schema): how a connection is prepared, how a writer takes its turn, and how the
//! types of a migration are called.

use crate::{Layout, StoreError};
use lyceum_types::limits;
use sqlx::any::{Any, AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::Pool;
use sqlx::{AnyConnection, ConnectOptions, Connection};
use std::str::FromStr;
use std::sync::Once;

/// The oldest SQLite without the WAL-reset fault.
const SQLITE_OLDEST: (u32, u32, u32) = (3, 51, 3);
/// The oldest PostgreSQL that the conformance suite is run on, as the server counts.
const POSTGRES_OLDEST: i64 = 150_000;
/// The advisory lock that writers hold, each schema its own: `"lyceum"` as a number.
const WRITER: i64 = 0x6c79_6365_756d;
/// Held while one process migrates.
pub(crate) const OPENING: i64 = WRITER + 1;

/// Where the rows are.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// `lyceum.db` in the data folder.
    Sqlite,
    /// A server, by its `postgres://` URL.
    Postgres(PostgresUrl),
}

/// A URL that may hold a password, which no text for people shows.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// As it was written, without the password.
impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Database::Postgres(PostgresUrl(url)) = self else { return f.write_str("sqlite") };
        let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // Parameters may hold a password too.
        let path = path.split('?').next().unwrap_or_default();
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                write!(f, "{scheme}://{user}@{host}{path}")
            }
            None => write!(f, "{scheme}://{authority}{path}"),
        }
    }
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "sqlite" {
            return Ok(Database::Sqlite);
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("must be \"sqlite\" or a URL that begins with postgres://".into());
        }
        // The parser's message may repeat the URL, and with it the password.
        AnyConnectOptions::from_str(text).map_err(|_| "is no URL".to_owned())?;
        Ok(Database::Postgres(PostgresUrl(text.to_owned())))
    }
}

impl Database {
    /// The statement with which a writer begins: it holds the turn to write from its first moment, so it cannot
    /// fail at its last for another writer.
    pub(crate) fn begin(&self) -> String {
        match self {
            Database::Sqlite => "BEGIN IMMEDIATE".to_owned(),
            Database::Postgres(_) => {
                format!(
                    "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended(COALESCE(current_schema(), ''), {WRITER}))"
                )
            }
        }
    }

    pub(crate) fn begin_snapshot(&self) -> &'static str {
        match self {
            Database::Sqlite => "BEGIN",
            Database::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Database::Postgres(_))
    }

    pub(crate) fn options(&self, layout: &Layout) -> Result<AnyConnectOptions, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let url = match self {
            Database::Sqlite => {
                let path = std::path::absolute(layout.database())
                    .map_err(|e| StoreError::file("open", &layout.database(), e))?;
                format!("sqlite://{}?mode=rw", percent_encoded(&path)?)
            }
            Database::Postgres(PostgresUrl(url)) => url.clone(),
        };
        Ok(AnyConnectOptions::from_str(&url)?.disable_statement_logging())
    }

    /// One connection, prepared like those of the pools.
    pub(crate) async fn connect(&self, layout: &Layout) -> Result<AnyConnection, StoreError> {
        let mut connection = AnyConnection::connect_with(&self.options(layout)?).await?;
        sqlx::raw_sql(self.preparation(false)).execute(&mut connection).await?;
        self.check_version(&mut connection).await?;
        Ok(connection)
    }

    pub(crate) async fn pool(&self, layout: &Layout, reads_only: bool) -> Result<Pool<Any>, StoreError> {
        let preparation = self.preparation(reads_only);
        let n_connections = if reads_only { limits::DATABASE_READERS } else { 1 };
        let pool = AnyPoolOptions::new()
            .max_connections(n_connections)
            // A file does not go away as a server does: asking first would double each statement's time.
            .test_before_acquire(matches!(self, Database::Postgres(_)))
            .acquire_timeout(limits::DATABASE_BUSY_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move { sqlx::raw_sql(preparation).execute(connection).await.map(drop) })
            })
            .connect_with(self.options(layout)?)
            .await?;
        Ok(pool)
    }

    /// What a connection is told before its first statement. The waiting times are
    /// [`limits::DATABASE_BUSY_TIMEOUT`], as a test says.
    fn preparation(&self, reads_only: bool) -> &'static str {
        match (self, reads_only) {
            (Database::Sqlite, false) => {
                "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON"
            }
            (Database::Sqlite, true) => {
                "PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA query_only = ON"
            }
            (Database::Postgres(_), false) => "SET lock_timeout = 10000; SET synchronous_commit = on",
            (Database::Postgres(_), true) => {
                "SET lock_timeout = 10000; SET default_transaction_read_only = on"
            }
        }
    }

    async fn check_version(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        match self {
            Database::Sqlite => {
                let (found,): (String,) =
                    sqlx::query_as("SELECT sqlite_version()").fetch_one(connection).await?;
                let mut parts = found.split('.').map(|part| part.parse().unwrap_or(0));
                let mut next = || parts.next().unwrap_or(0);
                if (next(), next(), next()) < SQLITE_OLDEST {
                    return Err(StoreError::OldDatabase { name: "SQLite", found, needed: "3.51.3" });
                }
            }
            Database::Postgres(_) => {
                let (found,): (i64,) =
                    sqlx::query_as("SELECT CAST(current_setting('server_version_num') AS BIGINT)")
                        .fetch_one(connection)
                        .await?;
                if found < POSTGRES_OLDEST {
                    let found = (found / 10_000).to_string();
                    return Err(StoreError::OldDatabase { name: "PostgreSQL", found, needed: "15" });
                }
            }
        }
        Ok(())
    }
}

/// A path as part of a URL: every byte but the plainest as `%XX`.
fn percent_encoded(path: &std::path::Path) -> Result<String, StoreError> {
    let text = path.to_str().ok_or_else(|| {
        let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not Unicode");
        StoreError::file("open", path, why)
    })?;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_text_for_people() {
        for (url, told) in [
            ("postgres://ann:secret@db.local:5432/lyceum", "postgres://ann@db.local:5432/lyceum"),
            ("postgresql://db.local/lyceum?user=ann&password=secret", "postgresql://db.local/lyceum"),
            ("postgres://:se%40cret@db.local", "postgres://@db.local"),
            ("sqlite", "sqlite"),
        ] {
            let database: Database = url.parse().unwrap();
            assert_eq!(database.to_string(), told);
            assert_eq!(format!("{database:?}"), told);
        }
    }

    #[test]
    fn other_databases_are_refused() {
        for text in ["", "mysql://db/lyceum", "lyceum.db", "postgres://[", "sqlite://x"] {
            assert!(text.parse::<Database>().is_err(), "{text}");
        }
    }

    #[test]
    fn connections_wait_as_long_as_the_limits_say() {
        let wait = limits::DATABASE_BUSY_TIMEOUT.as_millis().to_string();
        let postgres: Database = "postgres://db/lyceum".parse().unwrap();
        for database in [Database::Sqlite, postgres] {
            for reads_only in [false, true] {
                assert!(database.preparation(reads_only).contains(&wait));
            }
        }
    }

    #[test]
    fn paths_survive_a_url() {
        let path = std::path::Path::new("/a b/%41?x#y/ü/lyceum.db");
        assert_eq!(percent_encoded(path).unwrap(), "/a%20b/%2541%3Fx%23y/%C3%BC/lyceum.db");
    }
}
