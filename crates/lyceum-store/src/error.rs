//! Everything that can go wrong here, and whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Caller: there is no such thing for this project.
    #[error("{what} {id:?} not found")]
    NotFound { what: &'static str, id: String },
    /// Caller: a name or id that cannot be one.
    #[error(transparent)]
    BadId(#[from] lyceum_types::ids::BadId),
    /// Caller: the state of what it asks for does not allow it.
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    /// Caller: the job's state does not allow it.
    #[error("job {id}: {operation} is not possible while it is {state}")]
    JobState { id: String, operation: &'static str, state: String },
    /// Caller: another living process works on this job.
    #[error("job {id}: a running process owns it")]
    JobOwned { id: String },
    /// Nobody: this attempt was overtaken; its writes no longer count.
    #[error("job {id}: attempt {attempt} was overtaken or ended")]
    Fenced { id: String, attempt: u32 },
    /// Caller: an answer would be larger than it may be.
    #[error("{what}: more than {max}: ask for less at once")]
    TooMuch { what: &'static str, max: u64 },
    /// Tenant: what may be spent does not cover the most that a job can cost.
    #[error("the budget {} does not cover the most that it can cost", _0.id)]
    BudgetExhausted(Box<crate::ledger::Budget>),
    /// Operator: no space is left.
    #[error("{operation}: the disk is full ({path}): free some space and try again")]
    DiskFull { operation: &'static str, path: PathBuf },
    /// Operator: the file system refuses.
    #[error("{operation}: {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// Operator: a file is not what was written.
    #[error("{path} is damaged: {why}")]
    DamagedFile { path: PathBuf, why: String },
    /// Operator: the object store cannot be reached, or refuses.
    #[error("{operation} {path}: the object store does not do it")]
    Objects { operation: &'static str, path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// Operator: an object store holds it, and none is configured.
    #[error("{path} lies in an object store, and this process is told of none")]
    NoObjects { path: PathBuf },
    /// Operator: what an encrypted project keeps cannot be opened.
    #[error("the project {project} is encrypted, and {why}: give the master key (master_key_file)")]
    Locked { project: String, why: String },
    /// Caller: the project's key was destroyed.
    #[error("what the project {project} kept was erased: its key was destroyed at {at} (seconds since 1970)")]
    Erased { project: String, at: i64 },
    /// Operator: a newer release has written this data folder.
    #[error(
        "{path}: schema version {found} is newer than {known}, the newest that this release knows: use a newer release"
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    /// Operator: the SQLite that was linked has a known fault.
    #[error("{name} {found} is too old: at least {needed} is needed")]
    OldDatabase { name: &'static str, found: String, needed: &'static str },
    /// Operator or bug: the database refuses.
    #[error("{id} is held back: {why}")]
    Held { id: String, why: String },
    #[error("{id} is not approved, and the alias {alias} moves to approved versions only")]
    NotApproved { id: String, alias: String },
    #[error("{id} is what the alias {alias} points at: point it elsewhere or remove it first")]
    Aliased { id: String, alias: String },
    #[error("{path} is not empty")]
    NotEmpty { path: PathBuf },
    #[error("{path} lies within the data folder")]
    Within { path: PathBuf },
    /// Operator: the database cannot be asked, now.
    #[error("the database does not answer")]
    NoDatabase(#[source] sqlx::Error),
    #[error("database")]
    Database(#[source] sqlx::Error),
    /// Bug or damage: a row holds what this code never writes.
    #[error("database: {table} holds {value:?}, which nothing writes")]
    Damaged { table: &'static str, value: String },
    /// Operator: the operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
}

impl StoreError {
    pub(crate) fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full {
            return StoreError::DiskFull { operation, path: path.to_owned() };
        }
        StoreError::File { operation, path: path.to_owned(), source }
    }
}

/// SQLite's primary code for a full disk (or a database at its page limit).
const SQLITE_FULL: i32 = 13;
/// PostgreSQL's class of "insufficient resources", disk full.
const POSTGRES_FULL: &str = "53100";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(ref database) = error {
            // Extended codes keep the primary one in their low byte.
            let code = database.code().unwrap_or_default();
            let is_sqlite_full = || code.parse::<i32>().is_ok_and(|code| code & 0xff == SQLITE_FULL);
            if code == POSTGRES_FULL || (code.len() < 5 && is_sqlite_full()) {
                return StoreError::DiskFull {
                    operation: "write to the database",
                    path: crate::layout::DATABASE.into(),
                };
            }
        }
        if is_away(&error) {
            return StoreError::NoDatabase(error);
        }
        StoreError::Database(error)
    }
}

/// Whether the database was not there, or went: a connection that cannot be had or breaks, or a server that ends or begins
/// (PostgreSQL's classes 08 and 57P).
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            true
        }
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            code.len() == 5 && (code.starts_with("08") || code.starts_with("57P"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        for away in [sqlx::Error::PoolTimedOut, sqlx::Error::Io(reset), sqlx::Error::PoolClosed] {
            assert!(matches!(StoreError::from(away), StoreError::NoDatabase(_)));
        }
        assert!(matches!(StoreError::from(sqlx::Error::RowNotFound), StoreError::Database(_)));
    }
}
