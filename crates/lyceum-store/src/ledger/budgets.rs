//! The most that may be spent, and what a process puts aside of it.
//!
//! A budget has windows: one for ever, or one a month. A process takes from a window what it needs and some more
//! ([`grant`]: one conditional update, so that `spent + reserved` never passes the limit, whoever takes), and serves its
//! requests from that. What it does not use it gives back ([`release`]).

use crate::db::Transaction;
use crate::tenancy::audit::{self, Act, Event};
use crate::{Store, StoreError, tenancy};
use lyceum_types::clock::{Timestamp, month};
use lyceum_types::ids::BadId;
use lyceum_types::limits;
use serde_json::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A calendar month, UTC.
    Month,
    /// For ever.
    Total,
}

impl Period {
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Month => "month",
            Period::Total => "total",
        }
    }

    /// From its first moment to the one after its last, in milliseconds.
    pub fn window(self, now: Timestamp) -> (i64, i64) {
        match self {
            Period::Month => month(now),
            Period::Total => (0, i64::MAX),
        }
    }
}

impl std::str::FromStr for Period {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        match text {
            "month" => Ok(Period::Month),
            "total" => Ok(Period::Total),
            _ => Err(BadId { what: "budget period", text: text.into(), why: "must be month or total" }),
        }
    }
}

/// Whose budget it is: an organisation's (project and key empty), a project's (key empty), or a key's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub tenant: String,
    pub project: String,
    pub api_key: String,
}

impl Place {
    /// Whether a request of this key counts here.
    pub fn covers(&self, tenant: &str, project: &str, api_key: &str) -> bool {
        self.tenant == tenant
            && (self.project.is_empty() || self.project == project)
            && (self.api_key.is_empty() || self.api_key == api_key)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub id: String,
    pub place: Place,
    pub period: Period,
    pub limit: i64,
}

/// A budget in one of its windows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowKey {
    pub budget: String,
    /// Milliseconds.
    pub starts_at: i64,
}

/// A budget and where it stands in the window of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub budget: Budget,
    pub spent: i64,
    pub reserved: i64,
}

impl Budget {
    fn event(&self, kind: &'static str) -> Event<'_> {
        let Place { tenant, project, api_key } = &self.place;
        let told = json!({"organization": tenant, "project": project, "key": api_key,
            "period": self.period.as_str(), "limit_millionths": self.limit});
        let data = match kind {
            "budget.updated" => json!({"changes_requested": told}),
            _ => json!({"data": told}),
        };
        let project = Some(project.as_str()).filter(|project| !project.is_empty());
        Event { kind, project, resource: &self.id, data }
    }
}

/// Sets a budget, or the limit of one that there is. The organisation's log tells it.
///
/// # Errors
/// A limit below zero or beyond [`limits::AMOUNT_MAX`]; a key's budget without its project; an organisation or project
/// that is not there.
pub async fn set(
    store: &Store,
    place: &Place,
    period: Period,
    limit: i64,
    act: &Act,
) -> Result<Budget, StoreError> {
    let refuse = |why| BadId { what: "budget", text: limit.to_string(), why };
    if !(0..=limits::AMOUNT_MAX).contains(&limit) {
        return Err(refuse("it may not be below zero or above a billion").into());
    }
    if place.project.is_empty() && !place.api_key.is_empty() {
        return Err(refuse("a key's budget needs its project").into());
    }
    let mut transaction = store.write().await?;
    if !place.project.is_empty() {
        super::require_project(&mut transaction, &place.tenant, &place.project).await?;
    }
    let (n_budgets,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM budgets").fetch_one(&mut *transaction).await?;
    if n_budgets >= limits::BUDGETS_MAX {
        return Err(tenancy::full("budgets", limits::BUDGETS_MAX));
    }
    let new_id = format!("bgt_{}", uuid::Uuid::now_v7().simple());
    sqlx::query(
        "INSERT INTO budgets (tenant, project, api_key, period, id, limit_amount, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant, project, api_key, period) DO UPDATE SET limit_amount = excluded.limit_amount",
    )
    .bind(&place.tenant)
    .bind(&place.project)
    .bind(&place.api_key)
    .bind(period.as_str())
    .bind(&new_id)
    .bind(limit)
    .bind(act.now.millis())
    .execute(&mut *transaction)
    .await?;
    let (id,): (String,) = sqlx::query_as(
        "SELECT id FROM budgets WHERE tenant = $1 AND project = $2 AND api_key = $3 AND period = $4",
    )
    .bind(&place.tenant)
    .bind(&place.project)
    .bind(&place.api_key)
    .bind(period.as_str())
    .fetch_one(&mut *transaction)
    .await?;
    let kind = if id == new_id { "budget.created" } else { "budget.updated" };
    let budget = Budget { id, place: place.clone(), period, limit };
    audit::append_to(&mut transaction, vec![place.tenant.clone()], act, budget.event(kind)).await?;
    transaction.commit().await?;
    Ok(budget)
}

/// Takes a budget away: nothing is refused for it any more.
///
/// # Errors
/// There is none.
pub async fn remove(store: &Store, place: &Place, period: Period, act: &Act) -> Result<Budget, StoreError> {
    let all = list(store).await?;
    let found = all.into_iter().find(|budget| budget.place == *place && budget.period == period);
    let missing = || StoreError::NotFound { what: "budget", id: period.as_str().to_owned() };
    let budget = found.ok_or_else(missing)?;
    let mut transaction = store.write().await?;
    for statement in [
        "DELETE FROM reservations WHERE budget = $1",
        "DELETE FROM budget_windows WHERE budget = $1",
        "DELETE FROM budgets WHERE id = $1",
    ] {
        sqlx::query(statement).bind(&budget.id).execute(&mut *transaction).await?;
    }
    audit::append_to(&mut transaction, vec![place.tenant.clone()], act, budget.event("budget.deleted"))
        .await?;
    transaction.commit().await?;
    Ok(budget)
}

type Row = (String, String, String, String, String, i64);

/// Every budget of the installation.
pub async fn list(store: &Store) -> Result<Vec<Budget>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT tenant, project, api_key, period, id, limit_amount FROM budgets \
         ORDER BY tenant, project, api_key, period",
    )
    .fetch_all(&store.reader)
    .await?;
    parse(rows)
}

/// The budgets that a key's spending counts in.
pub(super) async fn covering(
    transaction: &mut Transaction,
    (tenant, project, api_key): (&str, &str, &str),
) -> Result<Vec<Budget>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT tenant, project, api_key, period, id, limit_amount FROM budgets \
         WHERE tenant = $1 AND (project = '' OR project = $2) AND (api_key = '' OR api_key = $3) ORDER BY id",
    )
    .bind(tenant)
    .bind(project)
    .bind(api_key)
    .fetch_all(&mut **transaction)
    .await?;
    parse(rows)
}

fn parse(rows: Vec<Row>) -> Result<Vec<Budget>, StoreError> {
    let budget = |(tenant, project, api_key, period, id, limit): Row| {
        let damaged = |_| StoreError::Damaged { table: "budgets", value: period.clone() };
        let period = period.parse().map_err(damaged)?;
        Ok(Budget { id, place: Place { tenant, project, api_key }, period, limit })
    };
    rows.into_iter().map(budget).collect()
}

/// Where each budget stands in the window of `now`.
pub async fn windows(store: &Store, now: Timestamp) -> Result<Vec<Window>, StoreError> {
    windows_of(store, None, now).await
}

/// As [`windows`], of one organisation.
pub async fn windows_of(
    store: &Store,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<Vec<Window>, StoreError> {
    let mut windows = Vec::new();
    let is_wanted = |budget: &Budget| tenant.is_none_or(|tenant| tenant == budget.place.tenant);
    for budget in list(store).await?.into_iter().filter(is_wanted) {
        let (starts_at, ends_at) = budget.period.window(now);
        let row: Option<(i64, i64)> =
            sqlx::query_as("SELECT spent, reserved FROM budget_windows WHERE budget = $1 AND starts_at = $2")
                .bind(&budget.id)
                .bind(starts_at)
                .fetch_optional(&store.reader)
                .await?;
        let (spent, reserved) = match row {
            Some(row) => row,
            // Nobody has asked in it yet: it will begin with what was spent.
            None => {
                let (spent,): (i64,) = sqlx::query_as(SPENT)
                    .bind(&budget.place.tenant)
                    .bind(&budget.place.project)
                    .bind(&budget.place.api_key)
                    .bind(starts_at)
                    .bind(ends_at)
                    .fetch_one(&store.reader)
                    .await?;
                (spent, 0)
            }
        };
        windows.push(Window { budget, spent, reserved });
    }
    Ok(windows)
}

/// What the entries that began in a window have cost. SUM is numeric in PostgreSQL, hence the cast.
const SPENT: &str = "SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT) FROM ledger_entries \
     WHERE tenant = $1 AND ($2 = '' OR project = $2) AND ($3 = '' OR api_key = $3) \
     AND started_at >= $4 AND started_at < $5";

/// What a process gets of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// So much more than before.
    Has(i64),
    /// The window has not so much left; so much is left.
    Exhausted { left: i64 },
    /// The budget is gone.
    NoBudget,
}

/// Puts at least `needed` aside for the process `owner`, and up to an eighth of what is left, so that it need not ask for
/// every request.
pub async fn grant(
    store: &Store,
    budget: &Budget,
    owner: &str,
    needed: i64,
    now: Timestamp,
) -> Result<Granted, StoreError> {
    let mut transaction = store.write().await?;
    let granted = grant_in(&mut transaction, budget, owner, |left| take(left, needed), now).await?;
    // Also where nothing was put aside: the window may have begun.
    transaction.commit().await?;
    Ok(granted)
}

/// Puts what `take` makes of what is left aside for `owner`.
pub(super) async fn grant_in(
    transaction: &mut Transaction,
    budget: &Budget,
    owner: &str,
    take: impl Fn(i64) -> Option<i64>,
    now: Timestamp,
) -> Result<Granted, StoreError> {
    let (starts_at, ends_at) = budget.period.window(now);
    let Some((limit, spent, reserved)) = window(transaction, budget, (starts_at, ends_at)).await? else {
        return Ok(Granted::NoBudget);
    };
    let left = limit - spent - reserved;
    let Some(amount) = take(left) else { return Ok(Granted::Exhausted { left: left.max(0) }) };
    let updated = sqlx::query(
        "UPDATE budget_windows SET reserved = reserved + $3 WHERE budget = $1 AND starts_at = $2 \
         AND spent + reserved + $3 <= (SELECT limit_amount FROM budgets WHERE id = $1)",
    )
    .bind(&budget.id)
    .bind(starts_at)
    .bind(amount)
    .execute(&mut **transaction)
    .await?;
    if updated.rows_affected() == 0 {
        return Ok(Granted::Exhausted { left: left.max(0) });
    }
    sqlx::query(
        "INSERT INTO reservations (tenant, project, budget, starts_at, owner, amount) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (budget, starts_at, owner) \
         DO UPDATE SET amount = reservations.amount + excluded.amount",
    )
    .bind(&budget.place.tenant)
    .bind(&budget.place.project)
    .bind(&budget.id)
    .bind(starts_at)
    .bind(owner)
    .bind(amount)
    .execute(&mut **transaction)
    .await?;
    Ok(Granted::Has(amount))
}

/// How much to take of what is left; None: there is not enough.
pub(super) fn take(left: i64, needed: i64) -> Option<i64> {
    (needed <= left).then(|| needed.max(left / 8))
}

/// Limit, spent and reserved of a window, which is begun where it is not; None: the budget is gone.
async fn window(
    transaction: &mut Transaction,
    budget: &Budget,
    (starts_at, ends_at): (i64, i64),
) -> Result<Option<(i64, i64, i64)>, StoreError> {
    let found: Option<(i64,)> = sqlx::query_as("SELECT limit_amount FROM budgets WHERE id = $1")
        .bind(&budget.id)
        .fetch_optional(&mut **transaction)
        .await?;
    let Some((limit,)) = found else { return Ok(None) };
    let row = "SELECT spent, reserved FROM budget_windows WHERE budget = $1 AND starts_at = $2";
    let found: Option<(i64, i64)> =
        sqlx::query_as(row).bind(&budget.id).bind(starts_at).fetch_optional(&mut **transaction).await?;
    if let Some((spent, reserved)) = found {
        return Ok(Some((limit, spent, reserved)));
    }
    let (spent,): (i64,) = sqlx::query_as(SPENT)
        .bind(&budget.place.tenant)
        .bind(&budget.place.project)
        .bind(&budget.place.api_key)
        .bind(starts_at)
        .bind(ends_at)
        .fetch_one(&mut **transaction)
        .await?;
    sqlx::query(
        "INSERT INTO budget_windows (tenant, project, budget, starts_at, ends_at, spent, reserved) \
         VALUES ($1, $2, $3, $4, $5, $6, 0)",
    )
    .bind(&budget.place.tenant)
    .bind(&budget.place.project)
    .bind(&budget.id)
    .bind(starts_at)
    .bind(ends_at)
    .bind(spent)
    .execute(&mut **transaction)
    .await?;
    Ok(Some((limit, spent, 0)))
}

/// Gives back what a process does not need. It counts it as gone before it calls.
pub async fn release(store: &Store, key: &WindowKey, owner: &str, amount: i64) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    give_back(&mut transaction, key, owner, amount).await?;
    Ok(transaction.commit().await?)
}

/// Takes an amount out of a reservation and out of its window's sum.
pub(super) async fn give_back(
    transaction: &mut Transaction,
    key: &WindowKey,
    owner: &str,
    amount: i64,
) -> Result<(), StoreError> {
    for statement in [
        "UPDATE budget_windows SET reserved = reserved - $4 WHERE budget = $1 AND starts_at = $2 AND EXISTS \
         (SELECT 1 FROM reservations WHERE budget = $1 AND starts_at = $2 AND owner = $3 AND amount >= $4)",
        "UPDATE reservations SET amount = amount - $4 \
         WHERE budget = $1 AND starts_at = $2 AND owner = $3 AND amount >= $4",
    ] {
        sqlx::query(statement)
            .bind(&key.budget)
            .bind(key.starts_at)
            .bind(owner)
            .bind(amount)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}
