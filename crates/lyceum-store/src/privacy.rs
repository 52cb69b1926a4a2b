//! Budgets and spends of data sets. What a spend costs is mathematics that the caller hands in; here it is
//! asked and written in one transaction, so that two jobs cannot both take the last of a budget.

use crate::db::Transaction;
use crate::tenancy::audit::{self, Act, Event};
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;

/// What may be learnt from one data set, over all jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    pub data_sha256: String,
    pub epsilon: f64,
    pub delta: f64,
    /// `rdp` or `pld`
    pub accountant: String,
    pub created_at: Timestamp,
}

/// What one job takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spend {
    pub data_sha256: String,
    pub job: String,
    pub q: f64,
    pub sigma: f64,
    pub steps: u64,
    /// The δ that the job promised.
    pub delta: f64,
    pub created_at: Timestamp,
}

/// A job that read a data set without noise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprotected {
    pub data_sha256: String,
    pub job: String,
    pub created_at: Timestamp,
}

/// How a spend ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spent {
    Written,
    /// Nothing was written; the words of whoever judged.
    Refused(String),
}

/// Sets the budget of a data set; a later call replaces it.
pub async fn set_budget(
    store: &Store,
    project: &Project,
    budget: &Budget,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    sqlx::query(
        "INSERT INTO privacy_budgets (tenant, project, data_sha256, epsilon, delta, accountant, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, project, data_sha256) DO UPDATE SET \
         epsilon = excluded.epsilon, delta = excluded.delta, accountant = excluded.accountant, \
         created_at = excluded.created_at",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(&budget.data_sha256)
    .bind(budget.epsilon)
    .bind(budget.delta)
    .bind(&budget.accountant)
    .bind(budget.created_at.millis())
    .execute(&mut *transaction)
    .await?;
    let event = Event {
        kind: "privacy_budget.updated",
        project: Some(&project.id),
        resource: &budget.data_sha256,
        data: json!({ "epsilon": budget.epsilon, "delta": budget.delta, "accountant": budget.accountant }),
    };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// All budgets, by hash.
pub async fn budgets(store: &Store, project: &Project) -> Result<Vec<Budget>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM privacy_budgets WHERE tenant = $1 AND project = $2 ORDER BY data_sha256 LIMIT 10000",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(budget).collect()
}

/// All spends, by hash and time.
pub async fn spends(store: &Store, project: &Project) -> Result<Vec<Spend>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM privacy_spends WHERE tenant = $1 AND project = $2 \
         ORDER BY data_sha256, created_at, job LIMIT 100000",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(spend).collect()
}

/// All jobs without noise, by hash and time.
pub async fn unprotected(store: &Store, project: &Project) -> Result<Vec<Unprotected>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM privacy_unprotected WHERE tenant = $1 AND project = $2 \
         ORDER BY data_sha256, created_at, job LIMIT 100000",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .fetch_all(&store.reader)
    .await?;
    let one = |row: &AnyRow| {
        Ok(Unprotected {
            data_sha256: row.try_get("data_sha256")?,
            job: row.try_get("job")?,
            created_at: Timestamp::from_millis(row.try_get("created_at")?),
        })
    };
    rows.iter().map(one).collect()
}

/// Writes that a job reads a data set without noise, unless that has a budget: then nothing is written, and the answer
/// is the budget. A job that stands there already is written no second time.
pub async fn note_unprotected(
    store: &Store,
    project: &Project,
    new: &Unprotected,
) -> Result<Option<Budget>, StoreError> {
    let mut transaction = store.write().await?;
    if let Some(found) = budget_of(&mut transaction, project, &new.data_sha256).await? {
        transaction.rollback().await?;
        return Ok(Some(found));
    }
    sqlx::query(
        "INSERT INTO privacy_unprotected (tenant, project, data_sha256, job, created_at) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, project, data_sha256, job) DO NOTHING",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(&new.data_sha256)
    .bind(&new.job)
    .bind(new.created_at.millis())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(None)
}

/// Writes a job's spend when `judge`, given the budget and what all other jobs took of this data set, lets it.
/// A job that stands there already (it is resumed) is judged and written no second time.
pub async fn take(
    store: &Store,
    project: &Project,
    new: &Spend,
    judge: impl FnOnce(Option<&Budget>, &[Spend]) -> Result<(), String>,
) -> Result<Spent, StoreError> {
    let mut transaction = store.write().await?;
    let rows = of_data(&mut transaction, project, &new.data_sha256).await?;
    if let Some(found) = rows.iter().find(|row| row.job == new.job) {
        let same = (found.q, found.sigma, found.steps) == (new.q, new.sigma, new.steps);
        transaction.rollback().await?;
        let message = "this job has spent under other settings before".to_owned();
        return Ok(if same { Spent::Written } else { Spent::Refused(message) });
    }
    let found = budget_of(&mut transaction, project, &new.data_sha256).await?;
    if let Err(refusal) = judge(found.as_ref(), &rows) {
        transaction.rollback().await?;
        return Ok(Spent::Refused(refusal));
    }
    sqlx::query(
        "INSERT INTO privacy_spends (tenant, project, data_sha256, job, q, sigma, steps, delta, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(&new.data_sha256)
    .bind(&new.job)
    .bind(new.q)
    .bind(new.sigma)
    .bind(i64::try_from(new.steps).unwrap_or(i64::MAX))
    .bind(new.delta)
    .bind(new.created_at.millis())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Spent::Written)
}

async fn budget_of(
    transaction: &mut Transaction,
    project: &Project,
    data_sha256: &str,
) -> Result<Option<Budget>, StoreError> {
    let found =
        sqlx::query("SELECT * FROM privacy_budgets WHERE tenant = $1 AND project = $2 AND data_sha256 = $3")
            .bind(&project.tenant)
            .bind(&project.id)
            .bind(data_sha256)
            .fetch_optional(&mut **transaction)
            .await?;
    found.as_ref().map(budget).transpose()
}

async fn of_data(
    transaction: &mut Transaction,
    project: &Project,
    data_sha256: &str,
) -> Result<Vec<Spend>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM privacy_spends WHERE tenant = $1 AND project = $2 AND data_sha256 = $3")
            .bind(&project.tenant)
            .bind(&project.id)
            .bind(data_sha256)
            .fetch_all(&mut **transaction)
            .await?;
    rows.iter().map(spend).collect()
}

fn budget(row: &AnyRow) -> Result<Budget, StoreError> {
    Ok(Budget {
        data_sha256: row.try_get("data_sha256")?,
        epsilon: row.try_get("epsilon")?,
        delta: row.try_get("delta")?,
        accountant: row.try_get("accountant")?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
    })
}

fn spend(row: &AnyRow) -> Result<Spend, StoreError> {
    Ok(Spend {
        data_sha256: row.try_get("data_sha256")?,
        job: row.try_get("job")?,
        q: row.try_get("q")?,
        sigma: row.try_get("sigma")?,
        steps: u64::try_from(row.try_get::<i64, _>("steps")?).unwrap_or(0),
        delta: row.try_get("delta")?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
    })
}

/// A new spend of a job.
pub fn spend_of(job: &JobId, data_sha256: &str, (q, sigma, steps): (f64, f64, u64), delta: f64) -> Spend {
    let created_at = Timestamp::from_millis(0);
    Spend {
        data_sha256: data_sha256.to_owned(),
        job: job.as_str().to_owned(),
        q,
        sigma,
        steps,
        delta,
        created_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[tokio::test]
    async fn a_budget_stops_the_job_that_would_pass_it_and_failed_jobs_stay_spent() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_millis(5);
        let store = Store::open(Layout::new(dir.path().to_owned()), now).await.unwrap();
        let project = Project::default_project();
        let budget = Budget {
            data_sha256: "d".into(),
            epsilon: 2.0,
            delta: 1e-5,
            accountant: "pld".into(),
            created_at: now,
        };
        set_budget(&store, &project, &budget, &Act::of_command_line(now)).await.unwrap();
        assert_eq!(budgets(&store, &project).await.unwrap(), vec![budget.clone()]);
        let job = |n: u128| JobId::from_bits(n);
        let of = |n: u128| spend_of(&job(n), "d", (0.1, 2.0, 100), 1e-5);
        // A stand-in for mathematics: each job costs 1.
        let judge = |budget: Option<&Budget>, others: &[Spend]| {
            let (left, n) = (budget.map_or(f64::INFINITY, |b| b.epsilon), others.len() as f64 + 1.0);
            if n <= left { Ok(()) } else { Err(format!("{n} above {left}")) }
        };
        assert_eq!(take(&store, &project, &of(1), judge).await.unwrap(), Spent::Written);
        assert_eq!(take(&store, &project, &of(2), judge).await.unwrap(), Spent::Written);
        let third = take(&store, &project, &of(3), judge).await.unwrap();
        assert_eq!(third, Spent::Refused("3 above 2".into()));
        // Resumed: judged no second time; but not with other settings.
        assert_eq!(take(&store, &project, &of(2), judge).await.unwrap(), Spent::Written);
        let other = spend_of(&job(2), "d", (0.1, 2.0, 200), 1e-5);
        assert!(matches!(take(&store, &project, &other, judge).await.unwrap(), Spent::Refused(_)));
        assert_eq!(spends(&store, &project).await.unwrap().len(), 2);
        // Without noise a job reads what has no budget alone, and stands there once.
        let plain =
            |data: &str| Unprotected { data_sha256: data.into(), job: job(9).to_string(), created_at: now };
        assert_eq!(note_unprotected(&store, &project, &plain("d")).await.unwrap(), Some(budget));
        for _ in 0..2 {
            assert_eq!(note_unprotected(&store, &project, &plain("f")).await.unwrap(), None);
        }
        assert_eq!(unprotected(&store, &project).await.unwrap(), vec![plain("f")]);
        // Another data set has its own.
        let elsewhere = spend_of(&job(3), "e", (0.1, 2.0, 100), 1e-5);
        assert_eq!(take(&store, &project, &elsewhere, judge).await.unwrap(), Spent::Written);
    }
}
