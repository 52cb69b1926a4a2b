//! `/v1/privacy/audits`

use super::{model_ref, with_documents};
use crate::error::ApiError;
use lyceum_service::audits::{Asked, Audit};
use lyceum_service::background::Record;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PrivacyAuditRequest)]
pub struct Body {
    /// A model of the project that a job here trained or fine-tuned.
    pub model: String,
    /// The id of a file with rows that it was trained on, in the format of its training data.
    pub members: String,
    /// The same with rows that it was not trained on.
    pub others: String,
}

impl Body {
    pub fn parse(self) -> Result<Asked, ApiError> {
        Ok(Asked { model: model_ref(&self.model)?, members: self.members, others: self.others })
    }
}

/// An audit as its document stands; what was found is null until it is `completed`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PrivacyAudit)]
pub struct AuditBody {
    /// `privacy.audit`
    object: String,
    id: String,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    /// `queued`, `in_progress`, `completed`, `failed` or `cancelled`
    status: String,
    /// `{"code", "message"}` of an audit that failed.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    /// `name@3`
    model: String,
    members: String,
    others: String,
    model_sha256: Option<String>,
    /// `loss`, or `loss_over_base`: the loss before tuning less the loss after.
    attack: Option<String>,
    /// `{"value", "ci95", "n"}`: 0.5 is a guess.
    #[schema(value_type = Option<Object>)]
    auc: Option<Value>,
    /// Members found where so many of the others are accused.
    #[schema(value_type = Option<Vec<Object>>)]
    tpr_at: Option<Vec<Value>>,
    /// Of a fine-tuned model: the same attack by the loss after alone.
    #[schema(value_type = Option<Object>)]
    loss: Option<Value>,
    n_members: Option<usize>,
    n_others: Option<usize>,
    /// What the model's training promises; null: nothing.
    epsilon_claimed: Option<f64>,
    delta: Option<f64>,
    /// What canaries inside of a private training proved.
    #[schema(value_type = Option<Object>)]
    canaries: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PrivacyAuditList)]
pub struct AuditList {
    pub object: &'static str,
    #[schema(value_type = Vec<AuditBody>)]
    pub data: Vec<Value>,
}

/// What was found, as [`record_body`] shows it.
pub fn result_body(audit: &Audit) -> Value {
    json!({
        "model_sha256": audit.sha256, "attack": audit.attack, "auc": audit.found.auc, "tpr_at": audit.found.tpr_at,
        "loss": audit.by_loss.as_ref().map(|found| json!({"auc": found.auc, "tpr_at": found.tpr_at})),
        "n_members": audit.n_members, "n_others": audit.n_others, "epsilon_claimed": audit.epsilon_claimed,
        "delta": audit.delta, "canaries": audit.canaries,
    })
}

pub fn record_body(record: &Record) -> Value {
    let body = json!({
        "object": "privacy.audit", "id": record.id, "created_at": record.created_at, "started_at": record.started_at,
        "finished_at": record.finished_at, "status": record.status.as_str(), "error": record.error, "model_sha256": null,
        "attack": null, "auc": null, "tpr_at": null, "loss": null, "n_members": null, "n_others": null,
        "epsilon_claimed": null, "delta": null, "canaries": null,
    });
    with_documents(body, record)
}
