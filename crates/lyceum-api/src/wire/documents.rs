//! What the OpenAPI document says of answers that grow as JSON and never were a struct: the fields that each always has.
//! More may stand beside them. Nothing here is made; `scripts/check-openapi` holds answers to it.

use serde_json::Value;
use utoipa::ToSchema;

/// OpenAI's Response: what was made so far, and what was asked, shown again.
#[derive(ToSchema)]
#[schema(as = Response)]
#[expect(dead_code, reason = "documents the shape")]
pub struct ResponseDocument {
    /// `resp_…`
    pub id: String,
    /// `response`
    pub object: String,
    /// Seconds since 1970.
    pub created_at: i64,
    #[schema(required)]
    pub completed_at: Option<i64>,
    /// `queued`, `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`.
    pub status: String,
    pub background: bool,
    #[schema(value_type = Option<Object>, required)]
    pub error: Value,
    /// `{"reason": "max_output_tokens"}`
    #[schema(value_type = Option<Object>, required)]
    pub incomplete_details: Value,
    pub model: String,
    /// Items: messages, reasoning, calls of functions.
    #[schema(value_type = Vec<Object>)]
    pub output: Value,
    /// `{"input_tokens", "output_tokens", "total_tokens", …}` once it has ended.
    #[schema(value_type = Option<Object>, required)]
    pub usage: Value,
    #[schema(value_type = Object)]
    pub metadata: Value,
    #[schema(value_type = Vec<Object>)]
    pub tools: Value,
    pub service_tier: String,
    pub store: bool,
}

/// A choice among models: what it found, or how far it is.
#[derive(ToSchema)]
#[schema(as = ModelSelection)]
#[expect(dead_code, reason = "documents the shape")]
pub struct SelectionDocument {
    pub id: String,
    /// `model_selection`
    pub object: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub status: String,
    /// Seconds since 1970.
    pub created: i64,
    pub name: String,
    pub task: String,
    /// While it waits or runs: the job that makes it.
    pub job: Option<String>,
    /// As it was asked, with what was left out.
    #[schema(value_type = Object)]
    pub spec: Value,
    #[schema(value_type = Object)]
    pub budget: Value,
    /// Once it is done: a measured row a candidate.
    #[schema(value_type = Option<Vec<Object>>)]
    pub rows: Value,
    /// Once it is done: the model to take and what is given up with it, or null.
    #[schema(value_type = Option<Object>)]
    pub recommendation: Value,
}

/// Newest first.
#[derive(ToSchema)]
#[schema(as = ModelSelectionList)]
#[expect(dead_code, reason = "documents the shape")]
pub struct SelectionsDocument {
    /// `list`
    pub object: String,
    pub data: Vec<SelectionDocument>,
}

/// A model card as it was signed.
#[derive(ToSchema)]
#[schema(as = ModelCard)]
#[expect(dead_code, reason = "documents the shape")]
pub struct CardDocument {
    pub object: String,
    pub format_version: u32,
    /// `name@3`
    pub model: String,
    /// RFC 3339, UTC.
    pub issued_at: String,
    pub issued_by: String,
    #[schema(value_type = Object)]
    pub sections: Value,
    #[schema(value_type = Object)]
    pub signed_by: Value,
    /// 64 bytes of Ed25519 over everything else in canonical JSON (RFC 8785), hexadecimal.
    pub signature: String,
}
