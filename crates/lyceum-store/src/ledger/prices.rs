//! The price list: rows are added and never changed, and each has a version that entries name.

use super::Counts;
use crate::db::Transaction;
use crate::tenancy::audit::{self, Act, Event};
use crate::{Store, StoreError, tenancy};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, ModelName, Project};
use lyceum_types::limits;
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;

/// For every organisation, project or model.
pub const EVERY: &str = "*";

/// Millionths of the currency for a million units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub input: i64,
    pub cached_input: i64,
    pub output: i64,
    pub training: i64,
    pub training_row: i64,
    pub cpu_second: i64,
    pub pass: i64,
}

impl Rates {
    /// Each rate by its name, in the order in which they are shown.
    pub fn named(&self) -> [(&'static str, i64); 7] {
        let Rates { input, cached_input, output, training, training_row, cpu_second, pass } = *self;
        [
            ("input", input),
            ("cached_input", cached_input),
            ("output", output),
            ("training", training),
            ("training_row", training_row),
            ("cpu_second", cpu_second),
            ("pass", pass),
        ]
    }

    /// What `counts` cost: the exact sum, rounded once to the nearest millionth, halves up.
    pub fn cost(&self, counts: &Counts) -> i64 {
        let cached = counts.cached_tokens.min(counts.input_tokens);
        let part = |n: u64, rate: i64| i128::from(n) * i128::from(rate);
        let sum = part(counts.input_tokens - cached, self.input)
            + part(cached, self.cached_input)
            + part(counts.output_tokens, self.output)
            + part(counts.training_tokens, self.training)
            + part(counts.training_rows, self.training_row)
            + part(counts.cpu_seconds, self.cpu_second)
            + part(counts.passes, self.pass);
        i64::try_from((sum + 500_000).div_euclid(1_000_000)).unwrap_or(i64::MAX)
    }

    /// The most that so much work can cost, however much of its input is found computed.
    pub fn worst(&self, most: &Counts) -> i64 {
        let dearest = self.input.max(self.cached_input);
        Rates { input: dearest, cached_input: dearest, ..*self }.cost(most)
    }
}

/// A row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub version: i64,
    pub tenant: String,
    pub project: String,
    pub model: String,
    pub rates: Rates,
    pub created_at: Timestamp,
}

impl Price {
    /// `price_7`
    pub fn id(&self) -> String {
        format!("price_{}", self.version)
    }

    /// Whose it is and what it says, in millionths of the currency.
    fn told(&self) -> Value {
        let rates: Vec<Value> =
            self.rates.named().iter().map(|(name, rate)| json!({"unit": name, "millionths": rate})).collect();
        json!({"organization": self.tenant, "project": self.project, "model": self.model, "rates": rates})
    }
}

/// All prices, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceList(Vec<Price>);

impl PriceList {
    /// The price of a model for a project: of the project before its organisation's before everybody's, of the model
    /// before every model's, and of equals the newest.
    pub fn find(&self, tenant: &str, project: &str, model: &str) -> Option<&Price> {
        let fits = |own: &str, asked: &str| own == asked || own == EVERY;
        let fitting = self
            .0
            .iter()
            .filter(|p| fits(&p.tenant, tenant) && fits(&p.project, project) && fits(&p.model, model));
        fitting.max_by_key(|p| (p.project != EVERY, p.tenant != EVERY, p.model != EVERY, p.version))
    }

    pub fn all(&self) -> &[Price] {
        &self.0
    }
}

/// Adds a price; it holds for requests that begin from now on. The log of every organisation that it concerns tells it: of
/// those that may ask the model.
///
/// # Errors
/// A rate below zero or beyond [`limits::AMOUNT_MAX`], a name that no model can have, a project's price for every
/// organisation, an organisation or project that is not there.
pub async fn set(
    store: &Store,
    (tenant, project, model): (&str, &str, &str),
    rates: Rates,
    act: &Act,
) -> Result<Price, StoreError> {
    let refuse = |why| BadId { what: "price", text: model.chars().take(128).collect(), why };
    if rates.named().iter().any(|(_, rate)| !(0..=limits::AMOUNT_MAX).contains(rate)) {
        return Err(refuse("no rate may be below zero or above a billion").into());
    }
    if model != EVERY {
        model.parse::<ModelName>()?;
    }
    if tenant == EVERY && project != EVERY {
        return Err(refuse("a project's price needs its organisation").into());
    }
    let mut transaction = store.write().await?;
    if project != EVERY {
        super::require_project(&mut transaction, tenant, project).await?;
    }
    let (n_prices, version): (i64, i64) =
        sqlx::query_as("SELECT COUNT(*), COALESCE(MAX(version), 0) + 1 FROM prices")
            .fetch_one(&mut *transaction)
            .await?;
    if n_prices >= limits::PRICES_MAX {
        return Err(tenancy::full("prices", limits::PRICES_MAX));
    }
    let Rates { input, cached_input, output, training, training_row, cpu_second, pass } = rates;
    sqlx::query(
        "INSERT INTO prices (tenant, project, model, version, input, cached_input, output, training, pass, created_at, \
         training_row, cpu_second) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(tenant)
    .bind(project)
    .bind(model)
    .bind(version)
    .bind(input)
    .bind(cached_input)
    .bind(output)
    .bind(training)
    .bind(pass)
    .bind(act.now.millis())
    .bind(training_row)
    .bind(cpu_second)
    .execute(&mut *transaction)
    .await?;
    let price = Price {
        version,
        tenant: tenant.to_owned(),
        project: project.to_owned(),
        model: model.to_owned(),
        rates,
        created_at: act.now,
    };
    let resource = price.id();
    let event = Event {
        kind: "price.created",
        project: Some(project).filter(|project| *project != EVERY),
        resource: &resource,
        data: json!({"data": price.told()}),
    };
    let concerned = concerned(&mut transaction, tenant, model).await?;
    audit::append_to(&mut transaction, concerned, act, event).await?;
    transaction.commit().await?;
    Ok(price)
}

/// The names `m.name` of models that a project of the organisation `o.tenant` may ask.
macro_rules! may_ask {
    () => {
        "SELECT 1 FROM (SELECT name, tenant FROM model_versions WHERE state = 'ready' \
         UNION SELECT name, to_tenant FROM model_shares) m WHERE m.tenant IN ('*', o.tenant)"
    };
}

/// The organisations whose log tells of a price: of everybody's for one model the operator's and those that may ask it, so
/// that no log names a model of somebody else.
async fn concerned(
    transaction: &mut Transaction,
    tenant: &str,
    model: &str,
) -> Result<Vec<String>, StoreError> {
    if tenant != EVERY {
        return Ok(vec![tenant.to_owned()]);
    }
    let rows: Vec<(String,)> = sqlx::query_as(concat!(
        "SELECT o.tenant FROM organizations o WHERE $1 = '*' OR o.tenant = $2 OR EXISTS (",
        may_ask!(),
        " AND m.name = $1) ORDER BY o.tenant"
    ))
    .bind(model)
    .bind(Project::default_project().tenant)
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|(tenant,)| tenant).collect())
}

/// The prices that an organisation may see, the newest first: its own, and everybody's for models that it may ask, so that no
/// price tells of a model of somebody else.
pub async fn seen_by(store: &Store, tenant: &str) -> Result<Vec<Price>, StoreError> {
    let rows = sqlx::query(concat!(
        "SELECT p.* FROM prices p, organizations o WHERE o.tenant = $1 AND (p.tenant = $1 OR (p.tenant = '*' \
         AND (p.model = '*' OR EXISTS (",
        may_ask!(),
        " AND m.name = p.model)))) ORDER BY p.version DESC"
    ))
    .bind(tenant)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(price).collect()
}

/// Every price that there ever was, the newest first.
pub async fn list(store: &Store) -> Result<PriceList, StoreError> {
    let rows = sqlx::query("SELECT * FROM prices ORDER BY version DESC").fetch_all(&store.reader).await?;
    Ok(PriceList(rows.iter().map(price).collect::<Result<_, _>>()?))
}

pub(super) fn price(row: &AnyRow) -> Result<Price, StoreError> {
    Ok(Price {
        version: row.try_get("version")?,
        tenant: row.try_get("tenant")?,
        project: row.try_get("project")?,
        model: row.try_get("model")?,
        rates: Rates {
            input: row.try_get("input")?,
            cached_input: row.try_get("cached_input")?,
            output: row.try_get("output")?,
            training: row.try_get("training")?,
            training_row: row.try_get("training_row")?,
            cpu_second: row.try_get("cpu_second")?,
            pass: row.try_get("pass")?,
        },
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
    })
}
