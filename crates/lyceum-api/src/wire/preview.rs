//! `/v1/fine_tuning/jobs/preview`, and the lines of `lyceum preview --json`, which are the same.

use crate::error::ApiError;
use lyceum_service::fine_tuning::preview::{
    Answer, Epoch, Example, Kind, Part, Preview, ROWS_MAX, Reads, Token, Warning,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// What a part of the data looks like to training.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FineTuningPreview)]
pub struct PreviewBody {
    /// `fine_tuning.preview`
    pub object: &'static str,
    /// An example each: `{"part", "row"}` with `shape`, `names` and `values`, or with `tokens` (`source` and `target`,
    /// `preferred` and `non_preferred`) of `{"id", "text", "loss"}`, and what is asked (`label`, `labels`, `target`).
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    /// `{"part", "shown", "reads", "epoch", "warnings"}`, of a fine-tuning also the `order` of its steps.
    #[schema(value_type = Object)]
    pub summary: Value,
}

impl From<&Preview> for PreviewBody {
    fn from(preview: &Preview) -> Self {
        let data = preview.examples.iter().map(|example| line(preview.part, example)).collect();
        PreviewBody { object: "fine_tuning.preview", data, summary: summary(preview) }
    }
}

/// `part` and `rows` of a query.
pub fn query(pairs: Vec<(String, String)>) -> Result<(Part, usize), ApiError> {
    let (mut part, mut rows) = (Part::default(), 4);
    for (key, value) in pairs {
        match key.as_str() {
            "part" => {
                let named = Part::ALL.into_iter().find(|part| part.as_str() == value);
                part = named.ok_or_else(|| {
                    ApiError::field("part", "invalid_value", "part: there are train, valid and test")
                })?;
            }
            "rows" => {
                let number = value.parse().ok().filter(|n| (1..=ROWS_MAX).contains(n));
                rows = number.ok_or_else(|| {
                    ApiError::field("rows", "invalid_value", format!("rows: is not between 1 and {ROWS_MAX}"))
                })?;
            }
            _ => {
                let shown: String = key.chars().take(64).collect();
                let message = format!("{shown}: there is no such parameter");
                return Err(ApiError::field(shown, "unknown_parameter", message));
            }
        }
    }
    Ok((part, rows))
}

fn line(part: Part, example: &Example) -> Value {
    let mut line = Map::new();
    let mut set = |key: &str, value: Value| drop(line.insert(key.into(), value));
    set("part", json!(part.as_str()));
    set("row", json!(example.row));
    match &example.reads {
        Reads::Numbers { shape, names, values } => {
            set("shape", json!(shape));
            set("names", json!(names));
            set("values", json!(values));
        }
        Reads::Tokens(read) => set("tokens", tokens(read)),
        Reads::Pair { source, target } => {
            set("source", tokens(source));
            set("target", tokens(target));
        }
        Reads::Preference { preferred, non_preferred } => {
            set("preferred", tokens(preferred));
            set("non_preferred", tokens(non_preferred));
        }
    }
    if let Some(n) = example.n_truncated {
        set("truncated", json!(n));
    }
    match &example.answer {
        Answer::Read => {}
        Answer::Label(label) => set("label", json!(label)),
        Answer::Labels(labels) => set("labels", json!(labels)),
        Answer::Values { names, scaled, original } => {
            set("target_names", json!(names));
            set("target_values", json!(scaled));
            set("target", json!(original));
        }
    }
    Value::Object(line)
}

fn tokens(all: &[Token]) -> Value {
    all.iter().map(|t| json!({ "id": t.id, "text": t.text, "loss": t.has_loss })).collect()
}

fn summary(preview: &Preview) -> Value {
    let reads = match &preview.kind {
        Kind::Rows => "rows",
        Kind::Windows => "windows",
        Kind::Pictures => "pictures",
        Kind::Chats { .. } => "chats",
    };
    let epoch = match &preview.epoch {
        Epoch::Batches { epoch, batch_size } => json!({
            "examples": epoch.n_examples, "batches": epoch.n_batches, "batch_size": batch_size,
            "loss_terms": epoch.n_terms, "tokens": epoch.n_tokens, "padding": epoch.n_padding,
            "longest": epoch.longest, "truncated": epoch.n_truncated,
        }),
        Epoch::Sequences(epoch) => json!({
            "examples": epoch.n_examples, "tokens": epoch.n_tokens, "loss_terms": epoch.n_learnt,
            "longest": epoch.longest, "padding": 0,
        }),
    };
    let mut summary = json!({
        "event": "done", "part": preview.part.as_str(), "shown": preview.examples.len(), "reads": reads,
        "epoch": epoch,
    });
    if let Kind::Chats { order } = &preview.kind {
        summary["order"] = json!(order);
    }
    let warning = |w: &Warning| json!({ "code": w.code, "message": w.message, "hint": w.hint });
    summary["warnings"] = preview.warnings.iter().map(warning).collect();
    summary
}
