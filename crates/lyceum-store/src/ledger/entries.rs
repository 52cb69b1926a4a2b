//! The rows of the ledger: written in groups, once each, and summed up for those who pay.

use super::budgets::{WindowKey, give_back};
use super::desk::Settlement;
use super::{Class, Counts, Entry, Outcome, Request};
use crate::db::Transaction;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// Writes a group of entries and takes their costs from what `owner` had put aside, in one durable transaction. An entry
/// that is there already changes nothing.
///
/// # Errors
/// The database takes nothing; also where the group may have been written: it is to be tried again.
pub async fn commit(store: &Store, owner: &str, group: &[Settlement]) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    insert(&mut transaction, owner, group).await?;
    Ok(transaction.commit().await?)
}

/// Whose spending a sum is: tenant, project, key, and a moment in its windows.
type Spender<'a> = (&'a str, &'a str, &'a str, i64);

pub(super) async fn insert(
    transaction: &mut Transaction,
    owner: &str,
    group: &[Settlement],
) -> Result<(), StoreError> {
    let mut spent: BTreeMap<Spender<'_>, i64> = BTreeMap::new();
    let mut taken: BTreeMap<&WindowKey, i64> = BTreeMap::new();
    for settlement in group {
        let Entry { request, cost, .. } = &settlement.entry;
        if !insert_one(transaction, &settlement.entry).await? {
            continue;
        }
        // Months end at midnight, so a day is as good as its moments.
        let day = request.started_at.millis().div_euclid(86_400_000) * 86_400_000;
        *spent.entry((&request.tenant, &request.project, &request.api_key, day)).or_default() += cost;
        for hold in &settlement.holds {
            *taken.entry(&hold.window).or_default() += hold.amount;
        }
    }
    for ((tenant, project, api_key, moment), cost) in spent.into_iter().filter(|(_, cost)| *cost > 0) {
        sqlx::query(
            "UPDATE budget_windows SET spent = spent + $1 WHERE starts_at <= $2 AND $2 < ends_at AND budget IN \
             (SELECT id FROM budgets WHERE tenant = $3 AND (project = '' OR project = $4) \
              AND (api_key = '' OR api_key = $5))",
        )
        .bind(cost)
        .bind(moment)
        .bind(tenant)
        .bind(project)
        .bind(api_key)
        .execute(&mut **transaction)
        .await?;
    }
    for (window, amount) in taken.into_iter().filter(|(_, amount)| *amount > 0) {
        give_back(transaction, window, owner, amount).await?;
    }
    Ok(())
}

/// False where an entry of this request is there.
async fn insert_one(transaction: &mut Transaction, entry: &Entry) -> Result<bool, StoreError> {
    let Entry { request, counts, .. } = entry;
    let done = sqlx::query(
        "INSERT INTO ledger_entries (tenant, project, request, api_key, model, model_version, route, class, outcome, \
         input_tokens, cached_tokens, output_tokens, training_tokens, passes, price, cost, started_at, settled_at, \
         training_rows, cpu_seconds) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) \
         ON CONFLICT (request) DO NOTHING",
    )
    .bind(&request.tenant)
    .bind(&request.project)
    .bind(&request.id)
    .bind(&request.api_key)
    .bind(&request.model)
    .bind(i64::from(request.model_version))
    .bind(&request.route)
    .bind(request.class.as_str())
    .bind(entry.outcome.as_str())
    .bind(whole(counts.input_tokens))
    .bind(whole(counts.cached_tokens))
    .bind(whole(counts.output_tokens))
    .bind(whole(counts.training_tokens))
    .bind(whole(counts.passes))
    .bind(entry.price)
    .bind(entry.cost)
    .bind(request.started_at.millis())
    .bind(entry.settled_at.millis())
    .bind(whole(counts.training_rows))
    .bind(whole(counts.cpu_seconds))
    .execute(&mut **transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Entries of a tenant that were settled in a span of time, oldest first, after the one with this id.
pub async fn list(
    store: &Store,
    tenant: &str,
    (since, until): (Timestamp, Timestamp),
    after: &str,
    max: u32,
) -> Result<Vec<Entry>, StoreError> {
    let rows = sqlx::query(
        "SELECT tenant, project, request, api_key, model, model_version, route, class, outcome, input_tokens, \
         cached_tokens, output_tokens, training_tokens, training_rows, cpu_seconds, passes, price, cost, started_at, \
         settled_at FROM ledger_entries WHERE tenant = $1 AND settled_at >= $2 AND settled_at < $3 AND request > $4 \
         ORDER BY request LIMIT $5",
    )
    .bind(tenant)
    .bind(since.millis())
    .bind(until.millis())
    .bind(after)
    .bind(i64::from(max))
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(entry).collect()
}

/// The requests whose ids begin so, and how they ended.
pub async fn of_requests(store: &Store, prefix: &str) -> Result<Vec<(String, Outcome)>, StoreError> {
    // No id has a character behind `~`.
    let rows = sqlx::query(
        "SELECT request, outcome FROM ledger_entries WHERE request >= $1 AND request < $2 ORDER BY request",
    )
    .bind(prefix)
    .bind(format!("{prefix}\u{7f}"))
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("request")?, word(row, "outcome", Outcome::parse)?))).collect()
}

fn entry(row: &AnyRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        outcome: word(row, "outcome", Outcome::parse)?,
        counts: counts(row)?,
        price: row.try_get("price")?,
        cost: row.try_get("cost")?,
        settled_at: Timestamp::from_millis(row.try_get("settled_at")?),
        request: Request {
            class: word(row, "class", Class::parse)?,
            model_version: number(row, "model_version")? as u32,
            id: row.try_get("request")?,
            tenant: row.try_get("tenant")?,
            project: row.try_get("project")?,
            api_key: row.try_get("api_key")?,
            model: row.try_get("model")?,
            route: row.try_get("route")?,
            started_at: Timestamp::from_millis(row.try_get("started_at")?),
        },
    })
}

fn counts(row: &AnyRow) -> Result<Counts, StoreError> {
    Ok(Counts {
        input_tokens: number(row, "input_tokens")?,
        cached_tokens: number(row, "cached_tokens")?,
        output_tokens: number(row, "output_tokens")?,
        training_tokens: number(row, "training_tokens")?,
        training_rows: number(row, "training_rows")?,
        cpu_seconds: number(row, "cpu_seconds")?,
        passes: number(row, "passes")?,
    })
}

fn damaged(value: impl ToString) -> StoreError {
    StoreError::Damaged { table: "ledger_entries", value: value.to_string() }
}

fn number(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| damaged(value))
}

fn word<T>(row: &AnyRow, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
    let value: String = row.try_get(column)?;
    parse(&value).ok_or_else(|| damaged(value))
}

/// The sum of the entries of one bucket that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Where the bucket begins, in milliseconds.
    pub bucket: i64,
    pub project: String,
    pub api_key: String,
    pub model: String,
    pub route: String,
    pub class: Class,
    /// Version of the price; 0: there was none, or it failed and costs nothing.
    pub price: i64,
    pub n_requests: u64,
    pub counts: Counts,
    pub cost: i64,
}

/// Sums of a tenant's entries that were settled in a span of time, in buckets of `width` milliseconds since 1970.
///
/// # Errors
/// There are more than `max` sums.
pub async fn sums(
    store: &Store,
    tenant: &str,
    (since, until): (Timestamp, Timestamp),
    width: i64,
    max: u32,
) -> Result<Vec<Sum>, StoreError> {
    // SUM is numeric in PostgreSQL, hence the casts.
    let rows = sqlx::query(
        "SELECT (settled_at / $4) * $4 AS bucket, project, api_key, model, route, class, \
         CASE WHEN outcome = 'failed' AND cost = 0 THEN 0 ELSE price END AS price, COUNT(*) AS n_requests, \
         CAST(SUM(input_tokens) AS BIGINT) AS input_tokens, CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens, \
         CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, \
         CAST(SUM(training_tokens) AS BIGINT) AS training_tokens, \
         CAST(SUM(training_rows) AS BIGINT) AS training_rows, CAST(SUM(cpu_seconds) AS BIGINT) AS cpu_seconds, \
         CAST(SUM(passes) AS BIGINT) AS passes, \
         CAST(SUM(cost) AS BIGINT) AS cost \
         FROM ledger_entries WHERE tenant = $1 AND settled_at >= $2 AND settled_at < $3 \
         GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7 LIMIT $5",
    )
    .bind(tenant)
    .bind(since.millis())
    .bind(until.millis())
    .bind(width)
    .bind(i64::from(max) + 1)
    .fetch_all(&store.reader)
    .await?;
    if rows.len() > max as usize {
        return Err(StoreError::TooMuch { what: "sums of usage", max: u64::from(max) });
    }
    rows.iter().map(sum).collect()
}

fn sum(row: &AnyRow) -> Result<Sum, StoreError> {
    Ok(Sum {
        bucket: row.try_get("bucket")?,
        project: row.try_get("project")?,
        api_key: row.try_get("api_key")?,
        model: row.try_get("model")?,
        route: row.try_get("route")?,
        class: word(row, "class", Class::parse)?,
        price: row.try_get("price")?,
        n_requests: number(row, "n_requests")?,
        counts: counts(row)?,
        cost: row.try_get("cost")?,
    })
}
