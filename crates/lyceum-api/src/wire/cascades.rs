//! `/v1/cascades`, and what a decision of a cascade says of its way.

use super::decisions::{ChoiceBody, ChoiceValueBody};
use super::{model_ref, with_documents};
use crate::error::ApiError;
use lyceum_service::background::Record;
use lyceum_service::cascades::{Ask, Created, Plan, Source};
use lyceum_service::decisions::{Routed, Set};
use lyceum_service::{Service, files};
use lyceum_types::cascade::Escalated;
use lyceum_types::ids::{ModelName, ModelRef, Project};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CascadeRequest)]
pub struct Body {
    /// What the cascade is to be called.
    pub name: String,
    /// The model that answers where its prediction set has one label.
    pub small: String,
    /// The model that is asked otherwise.
    pub large: String,
    /// The id of a file of `/v1/files` with labelled rows that neither model was trained on: on each line
    /// `{"input": …, "label": …}`.
    pub data: String,
    /// The id of a file with rows to measure on; without it a part of `data` is held out.
    pub test: Option<String>,
    /// The share of `data` that is held out, 0.5 where nothing is said.
    pub held_out: Option<f64>,
    /// The most that P(small answers and is wrong) may be: 0.1 where nothing is said.
    pub alpha: Option<f64>,
    /// Of the large model's sets; `alpha` where nothing is said.
    pub large_alpha: Option<f64>,
    /// What becomes of an escalated question: `answer` (the large model's likeliest label), `set` (and its prediction
    /// set), `abstain` (no answer where that set has not one label).
    pub escalated: Option<EscalatedBody>,
    /// What a language model is asked.
    pub instructions: Option<String>,
    /// The labels; those of a member that was trained here where nothing is said.
    pub choices: Option<Vec<ChoiceBody>>,
    pub seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CascadeEscalated)]
pub enum EscalatedBody {
    Answer,
    Set,
    Abstain,
}

/// A request whose files are ids still.
pub struct Asked {
    name: ModelName,
    small: ModelRef,
    large: ModelRef,
    body: Body,
}

impl Body {
    pub fn parse(self) -> Result<Asked, ApiError> {
        let name = self.name.parse().map_err(|error: lyceum_types::ids::BadId| {
            ApiError::field("name", "invalid_value", format!("name: {error}"))
        })?;
        let member = |param: &'static str, text: &str| {
            model_ref(text).map_err(|mut error| {
                error.detail.message = error.detail.message.replacen("model", param, 1);
                error.detail.param = Some(param.to_owned());
                error
            })
        };
        let (small, large) = (member("small", &self.small)?, member("large", &self.large)?);
        if self.test.is_some() && self.held_out.is_some() {
            let message = "held_out: with test all rows of data calibrate; give one of them";
            return Err(ApiError::field("held_out", "invalid_value", message));
        }
        Ok(Asked { name, small, large, body: self })
    }
}

impl Asked {
    /// The ids of its files.
    pub fn files(&self) -> (String, Option<String>) {
        (self.body.data.clone(), self.body.test.clone())
    }

    pub async fn open(self, service: &Service, project: &Project) -> Result<Ask, ApiError> {
        let body = self.body;
        let data = source(service, project, "data", &body.data).await?;
        let test = match &body.test {
            Some(id) => Some(source(service, project, "test", id).await?),
            None => None,
        };
        let label = |choice: ChoiceBody| {
            let value = match choice.value {
                ChoiceValueBody::Text(text) => text,
                ChoiceValueBody::Bool(value) => value.to_string(),
            };
            (value, choice.description)
        };
        Ok(Ask {
            name: self.name,
            small: self.small,
            large: self.large,
            data,
            test,
            held_out: body.held_out.unwrap_or(0.5),
            alpha: body.alpha.unwrap_or(0.1),
            large_alpha: body.large_alpha,
            escalated: match body.escalated {
                None | Some(EscalatedBody::Answer) => Escalated::Answer,
                Some(EscalatedBody::Set) => Escalated::Set,
                Some(EscalatedBody::Abstain) => Escalated::Abstain,
            },
            instructions: body.instructions,
            choices: body.choices.map(|choices| choices.into_iter().map(label).collect()),
            seed: body.seed.unwrap_or(0),
        })
    }
}

async fn source(
    service: &Service,
    project: &Project,
    param: &'static str,
    id: &str,
) -> Result<Source, ApiError> {
    let path = files::open(service.store(), project, param, id).await?;
    let found = files::find(service, project, id).await?;
    Ok(Source { path, shown: found.name })
}

/// What was asked, as [`record_body`] shows it.
pub fn request_body(ask: &Ask, (data, test): (String, Option<String>)) -> Value {
    json!({
        "name": ask.name.to_string(), "data": data, "test": test, "alpha": ask.alpha,
        "escalated": ask.escalated.as_str(), "seed": ask.seed,
    })
}

/// With what the plan found: members by number, and how many rows do what.
pub fn planned(mut request: Value, plan: &Plan) -> Value {
    let (small, large, n_calibration, n_held_out) = plan.shown();
    request["small"] = small.into();
    request["large"] = large.into();
    request["n_calibration"] = n_calibration.into();
    request["n_held_out"] = n_held_out.into();
    request
}

/// What was made, as [`record_body`] shows it.
pub fn result_body(created: &Created) -> Value {
    json!({
        "model": created.version.id(), "sha256": created.version.sha256, "definition": created.cascade,
        "report": created.manifest.report,
    })
}

pub fn record_body(record: &Record) -> Value {
    let body = json!({
        "object": "cascade", "id": record.id, "created_at": record.created_at, "started_at": record.started_at,
        "finished_at": record.finished_at, "status": record.status.as_str(), "error": record.error, "model": null,
        "sha256": null, "definition": null, "report": null,
    });
    with_documents(body, record)
}

/// As documents show it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cascade)]
pub struct CascadeRecordBody {
    /// `cascade`
    object: &'static str,
    id: String,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    /// `queued`, `in_progress`, `completed`, `failed` or `cancelled`
    status: String,
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    name: String,
    /// The members: `name@3`.
    small: String,
    large: String,
    data: String,
    test: Option<String>,
    alpha: f64,
    /// `answer`, `set` or `abstain`
    escalated: String,
    seed: u64,
    n_calibration: usize,
    n_held_out: usize,
    /// The version that was made: `name@1`; null before.
    model: Option<String>,
    /// Of its definition.
    sha256: Option<String>,
    /// Members by hash, question, thresholds, calibration rows.
    #[schema(value_type = Option<Object>)]
    definition: Option<Value>,
    /// Shares of the held-out rows with intervals, what an answer costs, what is guaranteed and what not.
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CascadeList {
    pub object: &'static str,
    #[schema(value_type = Vec<CascadeRecordBody>)]
    pub data: Vec<Value>,
}

/// Which member of a cascade answered, and why.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecisionCascade)]
pub struct RoutedBody {
    /// `name@3` of the member whose probabilities the answers have.
    pub answered_by: String,
    /// `small` or `large`
    pub member: &'static str,
    pub reason: String,
    /// The labels that the small member holds possible.
    pub small: MemberSetBody,
    /// Those of the large member; null where it was not asked or has no sets.
    pub large: Option<MemberSetBody>,
    /// The answers are shown, and the cascade does not stand behind them.
    pub abstained: bool,
    pub guarantee: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecisionCascadeSet)]
pub struct MemberSetBody {
    pub model: String,
    pub alpha: f64,
    /// A label is possible where `1 - p` is at most this.
    pub threshold: f64,
    /// Likeliest first.
    pub labels: Vec<String>,
}

impl From<Set> for MemberSetBody {
    fn from(set: Set) -> Self {
        let Set { model, alpha, threshold, labels } = set;
        MemberSetBody { model, alpha, threshold, labels }
    }
}

impl From<Routed> for RoutedBody {
    fn from(routed: Routed) -> Self {
        RoutedBody {
            answered_by: routed.answered_by,
            member: if routed.is_small { "small" } else { "large" },
            reason: routed.reason,
            small: routed.small.into(),
            large: routed.large.map(MemberSetBody::from),
            abstained: routed.abstained,
            guarantee: routed.guarantee,
        }
    }
}
