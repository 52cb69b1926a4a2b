//! `/v1/privacy/…` and `GET /v1/models/{m}/privacy`.

use crate::error::ApiError;
use lyceum_privacy::account::ADJACENCY;
use lyceum_privacy::calibrate::Target;
use lyceum_privacy::{Accountant, Event, Guarantee, PrivacyError};
use lyceum_service::fine_tuning::privacy::JobPrivacy;
use lyceum_service::privacy::{Account, ModelReport, Spend};
use lyceum_service::saw::{self, Wanted};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountantName {
    Rdp,
    #[default]
    Pld,
}

impl From<AccountantName> for Accountant {
    fn from(name: AccountantName) -> Self {
        match name {
            AccountantName::Rdp => Accountant::Rdp,
            AccountantName::Pld => Accountant::Pld,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EpsilonRequest {
    /// The probability with which a step draws an example.
    pub q: f64,
    /// The noise's deviation over the clipping norm.
    pub sigma: f64,
    pub steps: u64,
    pub delta: f64,
    #[serde(default)]
    pub accountant: AccountantName,
}

impl EpsilonRequest {
    pub fn event(&self) -> Result<Event, ApiError> {
        Event::new(self.q, self.sigma, self.steps).map_err(out_of_range)
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SigmaRequest {
    pub epsilon: f64,
    pub q: f64,
    pub steps: u64,
    pub delta: f64,
    #[serde(default)]
    pub accountant: AccountantName,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetRequest {
    /// Of the training file.
    pub data_sha256: String,
    pub epsilon: f64,
    pub delta: f64,
    #[serde(default)]
    pub accountant: AccountantName,
}

impl BudgetRequest {
    pub fn target(&self) -> Result<Target, ApiError> {
        let Self { epsilon, delta, .. } = *self;
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(ApiError::field("epsilon", "invalid_value", "epsilon: must be above 0"));
        }
        if !(delta > 0.0 && delta < 1.0) {
            return Err(ApiError::field("delta", "invalid_value", "delta: must be above 0 and below 1"));
        }
        Ok(Target { epsilon, delta })
    }
}

fn out_of_range(error: PrivacyError) -> ApiError {
    let param = match error {
        PrivacyError::OutOfRange { what, .. } => what,
        _ => "privacy",
    };
    ApiError::field(param, "invalid_value", format!("{param}: {error}"))
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EpsilonBody {
    /// null: there is no noise, nothing is promised.
    pub epsilon: Option<f64>,
    pub delta: f64,
    pub accountant: &'static str,
    /// The Rényi order that gave ε.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    pub adjacency: &'static str,
    pub conversion: &'static str,
}

impl From<Guarantee> for EpsilonBody {
    fn from(guarantee: Guarantee) -> Self {
        EpsilonBody {
            epsilon: guarantee.epsilon.is_finite().then_some(guarantee.epsilon),
            delta: guarantee.delta,
            accountant: guarantee.accountant.as_str(),
            order: guarantee.order,
            adjacency: ADJACENCY,
            conversion: guarantee.accountant.conversion(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SigmaBody {
    pub sigma: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<BudgetBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetBody {
    /// `privacy.budget`
    pub object: &'static str,
    pub data_sha256: String,
    /// null: no budget was set, nothing stops a job.
    pub epsilon: Option<f64>,
    pub spent: EpsilonBody,
    pub ledger: Vec<SpendBody>,
    /// Jobs that read it without noise, before it had a budget: no ε holds for them, and `spent` has nothing of them.
    pub unprotected: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SpendBody {
    pub job: String,
    pub q: f64,
    pub sigma: f64,
    pub steps: u64,
    /// Seconds since 1970.
    pub created_at: i64,
}

impl From<Spend> for SpendBody {
    fn from(spend: Spend) -> Self {
        SpendBody {
            job: spend.job,
            q: spend.q,
            sigma: spend.sigma,
            steps: spend.steps,
            created_at: spend.created_at.seconds(),
        }
    }
}

/// What a training costs its file in privacy.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobPrivacyBody {
    /// `fine_tuning.job.privacy`
    pub object: &'static str,
    pub job: String,
    /// As it was quoted before it began (`q`, `sigma`, `steps`, `epsilon`, `delta`, `accountant`, `adjacency`, `unit`, …);
    /// null: nothing is promised.
    #[schema(value_type = Option<Object>)]
    pub quote: Value,
    /// What it took of its file: empty before its process has begun.
    pub ledger: Vec<SpendBody>,
    /// What is promised of the model that it made, with its audit; null until it is done.
    #[schema(value_type = Option<Object>)]
    pub guarantee: Value,
    pub statement: String,
    /// All jobs on the same file together, this one among them.
    pub composition: Vec<CompositionBody>,
}

impl From<JobPrivacy> for JobPrivacyBody {
    fn from(found: JobPrivacy) -> Self {
        let plain = "a report is plain data: bug";
        let statement = match (&found.guarantee, &found.planned) {
            (Some(report), _) => report.statement.clone(),
            (None, Some(_)) => "Nothing is promised yet: the job has made no model.".to_owned(),
            (None, None) => {
                "This job trains without differential privacy: nothing is promised about any example."
                    .to_owned()
            }
        };
        JobPrivacyBody {
            object: "fine_tuning.job.privacy",
            job: found.job.to_string(),
            quote: serde_json::to_value(found.planned).expect(plain),
            ledger: found.ledger.into_iter().map(SpendBody::from).collect(),
            guarantee: serde_json::to_value(found.guarantee).expect(plain),
            statement,
            composition: found.composition.into_iter().map(CompositionBody::from).collect(),
        }
    }
}

impl From<Account> for BudgetBody {
    fn from(account: Account) -> Self {
        BudgetBody {
            object: "privacy.budget",
            data_sha256: account.data_sha256,
            epsilon: account.budget.as_ref().map(|b| b.epsilon),
            spent: account.spent.into(),
            ledger: account.spends.into_iter().map(SpendBody::from).collect(),
            unprotected: account.unprotected.into_iter().map(|plain| plain.job).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelPrivacy {
    /// `model.privacy`
    pub object: &'static str,
    /// `name@version`
    pub model: String,
    /// The guarantee with all that it takes to compute it again; null: none.
    #[schema(value_type = Option<Object>)]
    pub guarantee: Option<Value>,
    pub statement: String,
    /// What made-up rows inside its training proved: a lower bound of ε; null: there were none.
    #[schema(value_type = Option<Object>)]
    pub audit: Option<Value>,
    /// All jobs on the same data file together, this model's among them; empty where nothing was spent.
    pub composition: Vec<CompositionBody>,
    /// What attacks on this version found.
    #[schema(value_type = Vec<Object>)]
    pub attacks: Vec<Value>,
    /// What nobody has measured, and the command that does.
    pub not_evaluated: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CompositionBody {
    /// Jobs that took something of the data file, failed ones too.
    pub jobs: usize,
    /// Jobs that read it without noise: no ε holds for them, and `spent` has nothing of them.
    pub unprotected: usize,
    pub spent: EpsilonBody,
    /// null: no budget was set, nothing stops a job.
    pub budget: Option<f64>,
    pub statement: String,
}

impl From<Account> for CompositionBody {
    fn from(account: Account) -> Self {
        CompositionBody {
            jobs: account.spends.len(),
            unprotected: account.unprotected.len(),
            statement: account.statement(),
            budget: account.budget.as_ref().map(|b| b.epsilon),
            spent: account.spent.into(),
        }
    }
}

impl From<ModelReport> for ModelPrivacy {
    fn from(report: ModelReport) -> Self {
        let none = "This model was trained without differential privacy: nothing is promised about any row.";
        let statement = report.guarantee.as_ref().map_or(none, |r| r.statement.as_str()).to_owned();
        let plain = "a report is plain data: bug";
        let mut not_evaluated = Vec::new();
        match &report.guarantee {
            Some(guarantee) if guarantee.audit.is_some() => {}
            Some(_) => not_evaluated
                .push("an audit with canaries: train with privacy.audit = { canaries = 1000 }".into()),
            None => not_evaluated.push("an audit with canaries: it is of a private training".into()),
        }
        if report.attacks.is_empty() {
            let command = format!("lyceum privacy audit {} --members FILE --others FILE", report.model);
            not_evaluated.push(format!("membership: {command}"));
        }
        let audit = report.guarantee.as_ref().and_then(|guarantee| guarantee.audit.as_ref());
        let audit = audit.map(|audit| serde_json::to_value(audit).expect(plain));
        ModelPrivacy {
            object: "model.privacy",
            model: report.model,
            guarantee: report.guarantee.map(|guarantee| serde_json::to_value(guarantee).expect(plain)),
            statement,
            audit,
            composition: report.composition.into_iter().map(CompositionBody::from).collect(),
            attacks: report.attacks.iter().map(|n| serde_json::to_value(n).expect(plain)).collect(),
            not_evaluated,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SawRequest {
    /// The id of the data file.
    pub file: String,
    /// The row, counted from 0; a header is none.
    pub row: Option<u64>,
    /// Instead of a row: words that it holds.
    pub text: Option<String>,
}

impl SawRequest {
    pub fn wanted(&self) -> Result<Wanted, ApiError> {
        match (self.row, &self.text) {
            (Some(row), None) => Ok(Wanted::Row(row)),
            (None, Some(text)) if !text.trim().is_empty() => Ok(Wanted::Text(text.clone())),
            (None, Some(_)) => Err(ApiError::field("text", "invalid_value", "text: has no words")),
            (Some(_), Some(_)) => {
                Err(ApiError::field("text", "contradiction", "row and text both say which row is meant"))
            }
            (None, None) => Err(ApiError::field(
                "row",
                "missing_required_parameter",
                "row: which row? or text: its words",
            )),
        }
    }
}

/// Which models saw a row.
#[derive(Debug, Serialize, ToSchema)]
pub struct SawBody {
    /// `privacy.saw`
    pub object: &'static str,
    pub data_sha256: String,
    pub rows: Vec<SawRow>,
    /// Rows with these words that are not in the answer, which has the first hundred.
    pub more: usize,
    /// What is not in the answer, whatever it is.
    pub limits: Vec<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SawRow {
    pub row: u64,
    /// The closest first.
    pub models: Vec<SawModel>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SawModel {
    /// `name@version`
    pub model: String,
    pub job: Option<String>,
    /// `trained`, `drawn` (with differential privacy), `inherited` (its base was), `validated`, `tested`, `unknown` or
    /// `file_only`
    pub sight: &'static str,
    pub how: String,
}

impl From<saw::Answer> for SawBody {
    fn from(answer: saw::Answer) -> Self {
        let model = |seen: saw::Seen| SawModel {
            model: seen.model,
            job: seen.job,
            sight: seen.sight.as_str(),
            how: seen.how,
        };
        let row = |row: saw::Row| SawRow { row: row.row, models: row.seen.into_iter().map(model).collect() };
        SawBody {
            object: "privacy.saw",
            data_sha256: answer.data_sha256,
            rows: answer.rows.into_iter().map(row).collect(),
            more: answer.more,
            limits: saw::LIMITS.to_vec(),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptRequest {
    /// The document: the header's base64, decoded, or `privacy_receipt` of a stream's event.
    #[schema(value_type = Object)]
    pub receipt: Value,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ReceiptBody {
    /// `privacy_receipt.verification`
    pub object: &'static str,
    /// The signature is that of the key which the receipt names.
    pub holds: bool,
    /// Why it does not hold.
    pub why: Option<String>,
    pub signed_by_this_server: bool,
}
