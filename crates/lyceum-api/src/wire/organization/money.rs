//! Prices and budgets. Amounts are US dollars with at most six digits behind the point, exactly.

use super::Identified;
use crate::error::ApiError;
use crate::wire::organization_id;
use lyceum_service::spending::stored_budgets::{Period, Place, Window};
use lyceum_service::spending::stored_prices::{EVERY, Price, Rates};
use lyceum_service::spending::{UNIT, millionths};
use lyceum_types::ids::{KeyId, ModelName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn usd(millionths: i64) -> f64 {
    millionths as f64 / UNIT as f64
}

/// An amount as it was written: a float is told by the shortest digits that mean it.
fn amount(param: &str, usd: f64) -> Result<i64, ApiError> {
    let wrong = |why: String| ApiError::field(param, "invalid_value", format!("{param}: {why}"));
    millionths(&usd.to_string()).map_err(wrong)
}

/// US dollars for a million of each.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rates)]
pub struct RatesBody {
    /// Tokens that are read.
    pub input: f64,
    /// Tokens that had been read before.
    pub cached_input: f64,
    /// Tokens that are made.
    pub output: f64,
    /// Tokens that a fine-tuning is trained on.
    pub training: f64,
    /// Rows that another training is trained on.
    pub training_row: f64,
    /// Seconds on a processor, of choices.
    pub cpu_second: f64,
    /// Rows of predictions; passes of explanations, certificates and attacks.
    pub pass: f64,
}

/// A price as it was set: one that is newer, or more particular, may stand above it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Price)]
pub struct PriceBody {
    /// `organization.price`
    pub object: &'static str,
    pub id: String,
    /// As entries of the ledger name it.
    pub version: i64,
    /// `*`: every organisation.
    pub organization_id: String,
    /// `*`: every project.
    pub project_id: String,
    /// `*`: every model.
    pub model: String,
    pub usd_per_million: RatesBody,
    pub created_at: i64,
}

impl Identified for PriceBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<Price> for PriceBody {
    fn from(price: Price) -> Self {
        let rates = price.rates;
        Self {
            object: "organization.price",
            id: price.id(),
            version: price.version,
            organization_id: price.tenant,
            project_id: price.project,
            model: price.model,
            usd_per_million: RatesBody {
                input: usd(rates.input),
                cached_input: usd(rates.cached_input),
                output: usd(rates.output),
                training: usd(rates.training),
                training_row: usd(rates.training_row),
                cpu_second: usd(rates.cpu_second),
                pass: usd(rates.pass),
            },
            created_at: price.created_at.seconds(),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PriceCreateRequest)]
pub struct CreatePrice {
    /// A name, or `*`: every model that has no price of its own.
    pub model: String,
    /// `*`: every organisation; left out: the key's.
    pub organization_id: Option<String>,
    /// `*` or left out: every project.
    pub project_id: Option<String>,
    pub usd_per_million: RatesAsked,
}

/// What is left out is 0; `cached_input` is as `input`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RatesAsked)]
pub struct RatesAsked {
    pub input: Option<f64>,
    pub cached_input: Option<f64>,
    pub output: Option<f64>,
    pub training: Option<f64>,
    pub training_row: Option<f64>,
    pub cpu_second: Option<f64>,
    pub pass: Option<f64>,
}

/// Organisation, project and model.
pub type PricePlace = (String, String, String);

impl CreatePrice {
    pub fn parse(self, tenant: &str) -> Result<(PricePlace, Rates), ApiError> {
        let wrong = |error: lyceum_types::ids::BadId| {
            ApiError::field("model", "invalid_value", format!("model: {}", error.why))
        };
        if self.model != EVERY {
            self.model.parse::<ModelName>().map_err(wrong)?;
        }
        let asked = &self.usd_per_million;
        let rate = |name: &str, usd: Option<f64>| {
            usd.map_or(Ok(0), |usd| amount(&format!("usd_per_million.{name}"), usd))
        };
        let rates = Rates {
            input: rate("input", asked.input)?,
            cached_input: rate("cached_input", asked.cached_input.or(asked.input))?,
            output: rate("output", asked.output)?,
            training: rate("training", asked.training)?,
            training_row: rate("training_row", asked.training_row)?,
            cpu_second: rate("cpu_second", asked.cpu_second)?,
            pass: rate("pass", asked.pass)?,
        };
        let tenant = self.organization_id.unwrap_or_else(|| tenant.to_owned());
        let project = self.project_id.unwrap_or_else(|| EVERY.to_owned());
        Ok(((tenant, project, self.model), rates))
    }
}

/// The most that may be spent, and where it stands in the window of now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Budget)]
pub struct BudgetBody {
    /// `organization.budget`
    pub object: &'static str,
    pub id: String,
    pub organization_id: String,
    /// Null: the whole organisation.
    pub project_id: Option<String>,
    /// Null: every key.
    pub api_key_id: Option<String>,
    /// `month` (UTC) or `total`
    pub period: &'static str,
    pub limit_usd: f64,
    pub spent_usd: f64,
    /// Put aside for what is under way.
    pub reserved_usd: f64,
}

impl Identified for BudgetBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<Window> for BudgetBody {
    fn from(window: Window) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let Window { budget, spent, reserved } = window;
        Self {
            object: "organization.budget",
            id: budget.id,
            organization_id: budget.place.tenant,
            project_id: some(budget.place.project),
            api_key_id: some(budget.place.api_key),
            period: budget.period.as_str(),
            limit_usd: usd(budget.limit),
            spent_usd: usd(spent),
            reserved_usd: usd(reserved),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetCreateRequest)]
pub struct CreateBudget {
    pub limit_usd: f64,
    /// Left out: the key's.
    pub organization_id: Option<String>,
    /// Left out: the whole organisation.
    pub project_id: Option<String>,
    /// One key of the project.
    pub api_key_id: Option<String>,
    /// `month`, every calendar month (UTC) anew, or `total`, once; left out: `month`.
    pub period: Option<String>,
}

impl CreateBudget {
    pub fn parse(self, tenant: &str) -> Result<(Place, Period, i64), ApiError> {
        let limit = amount("limit_usd", self.limit_usd)?;
        if self.api_key_id.is_some() && self.project_id.is_none() {
            let message = "project_id: a key's budget needs its project";
            return Err(ApiError::field("project_id", "missing_required_parameter", message));
        }
        let api_key = match self.api_key_id {
            Some(id) => organization_id::<KeyId>("key", &id)?.to_string(),
            None => String::new(),
        };
        if self.project_id.as_deref() == Some("") {
            return Err(ApiError::field("project_id", "invalid_value", "project_id: empty"));
        }
        let wrong = |error: lyceum_types::ids::BadId| {
            ApiError::field("period", "invalid_value", format!("period: {}", error.why))
        };
        let period = self.period.as_deref().unwrap_or("month").parse().map_err(wrong)?;
        let place = Place {
            tenant: self.organization_id.unwrap_or_else(|| tenant.to_owned()),
            project: self.project_id.unwrap_or_default(),
            api_key,
        };
        Ok((place, period, limit))
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetUpdateRequest)]
pub struct UpdateBudget {
    pub limit_usd: f64,
}

impl UpdateBudget {
    pub fn parse(self) -> Result<i64, ApiError> {
        amount("limit_usd", self.limit_usd)
    }
}
