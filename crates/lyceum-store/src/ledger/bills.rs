//! What jobs cost. A job outlives the process that took it and the one that works on it, so nothing of its bill is a
//! process's: its worst cost is put aside with its row, under its own id, how far it is is noted with its progress, and
//! the transaction that ends it writes its entry and gives the rest back. So whatever is killed, it is paid for once.
//!
//! A job that is paused holds no more than it has cost; to go on it needs the rest again, and is refused where others have
//! spent it meanwhile.
//!
//! A bill is closed by the first end of its job. Who begins an ended job anew at the command line works for nobody's key.

use super::budgets::{self, Granted, WindowKey};
use super::desk::{Hold, Settlement};
use super::entries::{self, whole};
use super::prices::{self, Price};
use super::{Class, Counts, Entry, Outcome, Rates, Request};
use crate::db::Transaction;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use sqlx::Row;
use sqlx::any::AnyRow;

/// Who pays for a job that is made, and the most that it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBill {
    pub api_key: String,
    /// The matched path, such as `/v1/fine_tuning/jobs`.
    pub route: String,
    /// Whose price holds: the base of a fine-tuning, else what is trained or chosen.
    pub model: String,
    pub model_version: u32,
    /// Trained tokens and rows, passes of a gate, and seconds on a processor; jobs do nothing else.
    pub most: Counts,
}

/// The bill of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    pub request: Request,
    /// Version of the price; 0: there was none.
    pub price: i64,
    pub rates: Rates,
    pub most: Counts,
    /// What was done, as was last noted; when it is settled, in all.
    pub done: Counts,
    pub settled_at: Option<Timestamp>,
}

impl Bill {
    /// What is put aside for it until it is settled.
    pub fn worst(&self) -> i64 {
        self.rates.worst(&self.most)
    }

    /// What it cost; None while it is not settled.
    pub fn cost(&self) -> Option<i64> {
        self.settled_at.map(|_| self.rates.cost(&self.done))
    }
}

/// The price that holds for a job that begins now.
pub(crate) async fn price(
    store: &Store,
    project: &Project,
    new: &NewBill,
) -> Result<Option<Price>, StoreError> {
    Ok(prices::list(store).await?.find(&project.tenant, &project.id, &new.model).cloned())
}

/// Writes the bill of a job whose row is written with it, and puts its worst cost aside in every budget that covers it.
///
/// # Errors
/// A budget has not so much left; the transaction must not be committed then.
pub(crate) async fn open(
    transaction: &mut Transaction,
    (project, job): (&Project, &JobId),
    new: &NewBill,
    price: Option<&Price>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO job_bills (tenant, project, job, api_key, route, model, model_version, price, most_tokens, \
         most_rows, most_seconds, most_passes, training_tokens, training_rows, cpu_seconds, passes, started_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, 0, 0, $13)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(job.as_str())
    .bind(&new.api_key)
    .bind(&new.route)
    .bind(&new.model)
    .bind(i64::from(new.model_version))
    .bind(price.map_or(0, |price| price.version))
    .bind(whole(new.most.training_tokens))
    .bind(whole(new.most.training_rows))
    .bind(whole(new.most.cpu_seconds))
    .bind(whole(new.most.passes))
    .bind(now.millis())
    .execute(&mut **transaction)
    .await?;
    let worst = price.map_or(0, |price| price.rates.worst(&new.most));
    if worst == 0 {
        return Ok(());
    }
    let payer = (&*project.tenant, &*project.id, &*new.api_key);
    for budget in budgets::covering(transaction, payer).await? {
        let exactly = |left: i64| (worst <= left).then_some(worst);
        match budgets::grant_in(transaction, &budget, job.as_str(), exactly, now).await? {
            Granted::Has(_) | Granted::NoBudget => {}
            Granted::Exhausted { .. } => return Err(StoreError::BudgetExhausted(Box::new(budget))),
        }
    }
    Ok(())
}

/// Notes how far a job is; nothing where it has no open bill. Of passes no more are noted than it was said that there would
/// be: how many an attack takes is known by its bounds alone.
pub(crate) async fn note(
    transaction: &mut Transaction,
    job: &JobId,
    done: &Counts,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE job_bills SET training_tokens = $2, training_rows = $3, cpu_seconds = $4, \
         passes = CASE WHEN $5 > most_passes THEN most_passes ELSE $5 END \
         WHERE job = $1 AND settled_at IS NULL",
    )
    .bind(job.as_str())
    .bind(whole(done.training_tokens))
    .bind(whole(done.training_rows))
    .bind(whole(done.cpu_seconds))
    .bind(whole(done.passes))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// A job stops for a while: only what it has cost so far stays put aside, and others may spend the rest.
pub(crate) async fn pause(transaction: &mut Transaction, job: &JobId) -> Result<(), StoreError> {
    let Some(bill) = opened(transaction, job).await? else { return Ok(()) };
    let owed = bill.rates.cost(&bill.done);
    for Hold { window, amount } in holds(transaction, job).await? {
        if amount > owed {
            budgets::give_back(transaction, &window, job.as_str(), amount - owed).await?;
        }
    }
    Ok(())
}

/// A job goes on: the most that it can cost is put aside again, where it will be spent.
///
/// # Errors
/// A budget has not so much left any more; the transaction must not be committed then.
pub(crate) async fn resume(transaction: &mut Transaction, job: &JobId) -> Result<(), StoreError> {
    let Some(bill) = opened(transaction, job).await? else { return Ok(()) };
    let held = holds(transaction, job).await?;
    let Request { tenant, project, api_key, started_at, .. } = &bill.request;
    for budget in budgets::covering(transaction, (tenant, project, api_key)).await? {
        let (starts_at, _) = budget.period.window(*started_at);
        let window = WindowKey { budget: budget.id.clone(), starts_at };
        let has = held.iter().find(|hold| hold.window == window).map_or(0, |hold| hold.amount);
        let missing = bill.worst() - has;
        if missing <= 0 {
            continue;
        }
        let exactly = |left: i64| (missing <= left).then_some(missing);
        match budgets::grant_in(transaction, &budget, job.as_str(), exactly, *started_at).await? {
            Granted::Has(_) | Granted::NoBudget => {}
            Granted::Exhausted { .. } => return Err(StoreError::BudgetExhausted(Box::new(budget))),
        }
    }
    Ok(())
}

/// The bill of a job that is not settled.
async fn opened(transaction: &mut Transaction, job: &JobId) -> Result<Option<Bill>, StoreError> {
    let row = sqlx::query(FOUND).bind(job.as_str()).fetch_optional(&mut **transaction).await?;
    Ok(row.as_ref().map(bill).transpose()?.filter(|bill| bill.settled_at.is_none()))
}

/// What is put aside for a job.
async fn holds(transaction: &mut Transaction, job: &JobId) -> Result<Vec<Hold>, StoreError> {
    let reserved: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT budget, starts_at, amount FROM reservations WHERE owner = $1")
            .bind(job.as_str())
            .fetch_all(&mut **transaction)
            .await?;
    let hold = |(budget, starts_at, amount)| Hold { window: WindowKey { budget, starts_at }, amount };
    Ok(reserved.into_iter().map(hold).collect())
}

/// Writes the entry of a job that ends with `done` (None: with what was last noted), and gives back what is left of what
/// was put aside. Where it has no bill, or was settled before, nothing changes. A job that did nothing and was not
/// completed is not told of.
pub(crate) async fn settle(
    transaction: &mut Transaction,
    job: &JobId,
    outcome: Outcome,
    done: Option<Counts>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(done) = &done {
        note(transaction, job, done).await?;
    }
    let closed = sqlx::query("UPDATE job_bills SET settled_at = $2 WHERE job = $1 AND settled_at IS NULL")
        .bind(job.as_str())
        .bind(now.millis())
        .execute(&mut **transaction)
        .await?;
    if closed.rows_affected() == 0 {
        return Ok(());
    }
    let row = sqlx::query(FOUND).bind(job.as_str()).fetch_one(&mut **transaction).await?;
    let bill = bill(&row)?;
    let holds = holds(transaction, job).await?;
    if outcome == Outcome::Completed || bill.done != Counts::default() {
        let (cost, price) = (bill.rates.cost(&bill.done), bill.price);
        let entry = Entry { request: bill.request, outcome, counts: bill.done, price, cost, settled_at: now };
        entries::insert(transaction, job.as_str(), &[Settlement { entry, holds }]).await?;
    } else {
        for hold in &holds {
            budgets::give_back(transaction, &hold.window, job.as_str(), hold.amount).await?;
        }
    }
    sqlx::query("DELETE FROM reservations WHERE owner = $1")
        .bind(job.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A bill with the rates of its price.
const FOUND: &str = "SELECT b.tenant, b.project, b.job, b.api_key, b.route, b.model, b.model_version, b.price, \
     b.most_tokens, b.most_rows, b.most_seconds, b.most_passes, b.training_tokens, b.training_rows, b.cpu_seconds, \
     b.passes, b.started_at, b.settled_at, \
     COALESCE(p.training, 0) AS training, COALESCE(p.training_row, 0) AS training_row, \
     COALESCE(p.cpu_second, 0) AS cpu_second, COALESCE(p.pass, 0) AS pass \
     FROM job_bills b LEFT JOIN prices p ON p.version = b.price WHERE b.job = $1";

/// The bill of a job; None: nobody's key pays for it.
pub async fn find(store: &Store, project: &Project, job: &JobId) -> Result<Option<Bill>, StoreError> {
    let row = sqlx::query(FOUND).bind(job.as_str()).fetch_optional(&store.reader).await?;
    let found = row.as_ref().map(bill).transpose()?;
    let is_own = |bill: &Bill| bill.request.tenant == project.tenant && bill.request.project == project.id;
    Ok(found.filter(is_own))
}

fn bill(row: &AnyRow) -> Result<Bill, StoreError> {
    let number = |column: &str| {
        let value: i64 = row.try_get(column)?;
        u64::try_from(value).map_err(|_| StoreError::Damaged { table: "job_bills", value: value.to_string() })
    };
    let counts = |[tokens, rows, seconds, passes]: [&str; 4]| {
        Ok::<_, StoreError>(Counts {
            training_tokens: number(tokens)?,
            training_rows: number(rows)?,
            cpu_seconds: number(seconds)?,
            passes: number(passes)?,
            ..Counts::default()
        })
    };
    let settled_at: Option<i64> = row.try_get("settled_at")?;
    Ok(Bill {
        price: row.try_get("price")?,
        rates: Rates {
            training: row.try_get("training")?,
            training_row: row.try_get("training_row")?,
            cpu_second: row.try_get("cpu_second")?,
            pass: row.try_get("pass")?,
            ..Rates::default()
        },
        most: counts(["most_tokens", "most_rows", "most_seconds", "most_passes"])?,
        done: counts(["training_tokens", "training_rows", "cpu_seconds", "passes"])?,
        settled_at: settled_at.map(Timestamp::from_millis),
        request: Request {
            id: row.try_get("job")?,
            tenant: row.try_get("tenant")?,
            project: row.try_get("project")?,
            api_key: row.try_get("api_key")?,
            model: row.try_get("model")?,
            model_version: number("model_version")? as u32,
            route: row.try_get("route")?,
            class: Class::Interactive,
            started_at: Timestamp::from_millis(row.try_get("started_at")?),
        },
    })
}
