//! The rows of objects: whose they are, and what is on its way.

use crate::backup::Content;
use crate::db::Transaction;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use sqlx::AnyConnection;

/// Owner of the mark by which a prefix belongs to this database.
pub(super) const BUCKET: &str = "bucket";
/// How owners begin whose bytes are on their way.
pub(super) const COMING: &str = "coming/";

/// Objects that were announced, and are the sweep's when nobody holds them in time.
#[derive(Debug)]
pub(crate) struct Coming {
    owner: String,
    project: Project,
    n_files: u64,
}

impl Coming {
    /// Writes the rows that keep the sweep away from what is about to be written.
    pub(super) async fn announce(
        store: &Store,
        project: &Project,
        files: &[(String, Content)],
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let owner = format!("{COMING}{}", uuid::Uuid::now_v7().simple());
        let mut transaction = store.write().await?;
        for (path, content) in files {
            insert(&mut transaction, project, (&owner, path), content, now).await?;
        }
        transaction.commit().await?;
        Ok(Self { owner, project: project.clone(), n_files: files.len() as u64 })
    }

    /// In the transaction that makes `owner`: its files are held from its commit on.
    pub(crate) async fn hold(&self, transaction: &mut Transaction, owner: &str) -> Result<(), StoreError> {
        // What a crash or an overtaken attempt left under this name is nobody's.
        forget(transaction, owner).await?;
        self.give(transaction, owner).await
    }

    /// As [`hold`](Self::hold), beside what `owner` has already; of the same names the old files go. Returns the hashes
    /// that may have lost their last row.
    pub(super) async fn join(
        &self,
        transaction: &mut Transaction,
        owner: &str,
    ) -> Result<Vec<String>, StoreError> {
        let replaced: Vec<(String,)> = sqlx::query_as(
            "DELETE FROM blobs WHERE owner = $2 AND path IN (SELECT c.path FROM blobs c WHERE c.owner = $1) \
             RETURNING sha256",
        )
        .bind(&self.owner)
        .bind(owner)
        .fetch_all(&mut **transaction)
        .await?;
        self.give(transaction, owner).await?;
        Ok(replaced.into_iter().map(|(sha256,)| sha256).collect())
    }

    async fn give(&self, transaction: &mut Transaction, owner: &str) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE blobs SET owner = $2 WHERE owner = $1")
            .bind(&self.owner)
            .bind(owner)
            .execute(&mut **transaction)
            .await?;
        if done.rows_affected() != self.n_files {
            let why = "it took so long that the sweep has taken it for abandoned: write it again";
            return Err(StoreError::Objects { operation: "keep", path: owner.into(), source: why.into() });
        }
        Ok(())
    }

    /// Another small file of `owner`, which is written now: whoever sweeps waits for this transaction.
    pub(crate) async fn add(
        &self,
        transaction: &mut Transaction,
        store: &Store,
        (owner, path): (&str, &str),
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(blobs) = store.blobs() else { return Ok(()) };
        let content = blobs.put_at_once(bytes).await?;
        insert(transaction, &self.project, (owner, path), &content, now).await
    }
}

async fn insert(
    transaction: &mut Transaction,
    project: &Project,
    (owner, path): (&str, &str),
    content: &Content,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO blobs (owner, path, tenant, project, bytes, sha256, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(owner)
    .bind(path)
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(i64::try_from(content.bytes).unwrap_or(i64::MAX))
    .bind(&content.sha256)
    .bind(now.millis())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The files of an owner, by path.
pub(super) async fn of(store: &Store, owner: &str) -> Result<Vec<(String, Content)>, StoreError> {
    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT path, bytes, sha256 FROM blobs WHERE owner = $1 ORDER BY path")
            .bind(owner)
            .fetch_all(&store.reader)
            .await?;
    rows.into_iter().map(content).collect()
}

/// Every hash that is held, with the first path below the data folder that it belongs to, in the order of those.
pub(super) async fn held(store: &Store) -> Result<Vec<(String, Content)>, StoreError> {
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "SELECT MIN(owner || '/' || path) AS place, MAX(bytes), sha256 FROM blobs \
         WHERE owner <> $1 AND owner NOT LIKE $2 GROUP BY sha256 ORDER BY place",
    )
    .bind(BUCKET)
    .bind(format!("{COMING}%"))
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(content).collect()
}

/// Whether something holds a hash.
pub(super) async fn is_held(store: &Store, sha256: &str) -> Result<bool, StoreError> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT bytes FROM blobs WHERE sha256 = $1 AND owner NOT LIKE $2 LIMIT 1")
            .bind(sha256)
            .bind(format!("{COMING}%"))
            .fetch_optional(&store.reader)
            .await?;
    Ok(row.is_some())
}

/// A row's path and what lies there.
fn content((path, bytes, sha256): (String, i64, String)) -> Result<(String, Content), StoreError> {
    let bytes =
        u64::try_from(bytes).map_err(|_| StoreError::Damaged { table: "blobs", value: bytes.to_string() })?;
    Ok((path, Content { bytes, sha256 }))
}

/// Takes an owner's rows away; returns the hashes that may have lost their last one.
pub(crate) async fn forget(transaction: &mut Transaction, owner: &str) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as("DELETE FROM blobs WHERE owner = $1 RETURNING sha256")
        .bind(owner)
        .fetch_all(&mut **transaction)
        .await?;
    Ok(rows.into_iter().map(|(sha256,)| sha256).collect())
}

/// Takes one file of an owner away, as [`forget`].
pub(super) async fn forget_one(
    transaction: &mut Transaction,
    owner: &str,
    path: &str,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> =
        sqlx::query_as("DELETE FROM blobs WHERE owner = $1 AND path = $2 RETURNING sha256")
            .bind(owner)
            .bind(path)
            .fetch_all(&mut **transaction)
            .await?;
    Ok(rows.into_iter().map(|(sha256,)| sha256).collect())
}

/// The owners whose names begin with `FOLDER/`, in order.
pub(crate) async fn owners(store: &Store, folder: &str) -> Result<Vec<String>, StoreError> {
    // '0' is what comes after '/'.
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT owner FROM blobs WHERE owner >= $1 AND owner < $2 ORDER BY owner")
            .bind(format!("{folder}/"))
            .bind(format!("{folder}0"))
            .fetch_all(&store.reader)
            .await?;
    Ok(rows.into_iter().map(|(owner,)| owner).collect())
}

/// A restored database is another one: what it reads it may read, but the prefix is not its own.
pub(crate) async fn forget_claims(connection: &mut AnyConnection) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM blobs WHERE owner = $1").bind(BUCKET).execute(connection).await?;
    Ok(())
}

/// What lies in the object store, as the rows know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub n_objects: u64,
    pub bytes: u64,
}

/// How much the rows hold; equal bytes count once.
pub async fn stored(store: &Store) -> Result<Stored, StoreError> {
    let (n, bytes): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), CAST(COALESCE(SUM(b.bytes), 0) AS BIGINT) FROM \
         (SELECT sha256, MAX(bytes) AS bytes FROM blobs WHERE owner <> $1 GROUP BY sha256) b",
    )
    .bind(BUCKET)
    .fetch_one(&store.reader)
    .await?;
    Ok(Stored { n_objects: n.max(0) as u64, bytes: bytes.max(0) as u64 })
}
