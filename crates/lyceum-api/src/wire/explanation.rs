//! Explanations in answers: spans of characters, columns, patches, steps, or units of a layer, with what was
//! measured about them; and weights of attention, which are none.

use super::explain::Extras;
use base64::Engine as _;
use lyceum_service::background::Record;
use lyceum_service::explain::{
    Answer, AttentionShown, Attribution, Change, Counterfactual, Explained, Explanation, Fit, InfluenceShown,
    Map as AttentionMap, MethodInfo, Of, Parts, RowShown, TRACIN, TargetShown,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainResponse)]
pub struct InstancesResponse {
    #[schema(value_type = Vec<ExplanationBody>)]
    pub explanations: Vec<Value>,
}

/// An explanation, the training rows behind an answer, or weights of attention; one of the background has what it
/// explains and its `status` from the beginning, and the rest once it is `completed`.
#[derive(Debug, ToSchema)]
#[schema(as = Explanation)]
#[expect(dead_code, reason = "documents the shape; what is in it grows as JSON")]
pub struct ExplanationBody {
    /// `explanation`; `row_influence` (with `rows` instead of `attributions`); or `attention`, which is none.
    pub object: &'static str,
    pub id: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The version and the hash of its weights.
    pub explained_model: String,
    /// Of the background: `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub status: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    pub method: Option<String>,
    pub exact: Option<bool>,
    #[schema(value_type = Option<Object>)]
    pub target: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub output: Option<Value>,
    /// Spans of characters, features with their values, patches, steps, or units of a layer.
    #[schema(value_type = Option<Vec<Object>>)]
    pub attributions: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    pub checks: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct MethodList {
    /// `list`
    pub object: &'static str,
    /// The version that was asked: `name@3`.
    pub model: String,
    pub data: Vec<MethodBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplanationMethod)]
pub struct MethodBody {
    pub method: &'static str,
    pub exact: bool,
    /// How many examples go through the model.
    pub passes: &'static str,
    pub supported: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl From<MethodInfo> for MethodBody {
    fn from(info: MethodInfo) -> Self {
        let supported = info.refusal.is_none();
        MethodBody {
            method: info.name,
            exact: info.exact,
            passes: info.passes,
            supported,
            reason: info.refusal,
        }
    }
}

/// An explanation of the background as its document stands: `status` and, once it is `completed`, all that an answer
/// has.
pub fn background_explanation(record: &Record) -> Value {
    let mut body = json!({"object": "explanation"});
    if let Some(all) = body.as_object_mut() {
        for part in [&record.request, &record.result] {
            all.extend(
                part.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        all.extend([
            ("id".to_owned(), record.id.clone().into()),
            ("created_at".to_owned(), record.created_at.into()),
            ("started_at".to_owned(), record.started_at.into()),
            ("finished_at".to_owned(), record.finished_at.into()),
            ("status".to_owned(), record.status.as_str().into()),
            ("error".to_owned(), json!(record.error)),
        ]);
    }
    body
}

/// The answer as the wire has it.
pub fn explanation(explained: &Explained, extras: Extras) -> Value {
    let mut body = json!({
        "object": "explanation",
        "id": explained.id,
        "created_at": explained.created_at,
        "explained_model": format!("{}@sha256:{}", explained.model, explained.sha256),
    });
    let Some(fields) = body.as_object_mut() else { return body };
    match &explained.answer {
        Answer::Attention(attention) => attention_fields(fields, attention),
        Answer::Influence(influence) => influence_fields(fields, influence),
        Answer::Attributions { target, baseline, parts, explanation, counterfactual } => {
            if let Some(counterfactual) = counterfactual {
                fields.insert("counterfactual".into(), counterfactual_body(counterfactual));
            }
            fields.insert("method".into(), explanation.method.into());
            fields.insert("exact".into(), explanation.exact.into());
            fields.insert("target".into(), target_body(target));
            fields.insert(
                "output".into(),
                json!({"quantity": explanation.quantity, "value": explanation.output,
                    "base_value": explanation.base_value}),
            );
            fields.insert("attributions".into(), attributions(parts, explanation));
            if let Of::Layer { name, dims } = &explanation.of {
                fields.insert("layer".into(), json!({"name": name, "dims": dims}));
            } else if let Some(heatmap) = heatmap(parts, explanation, extras) {
                fields.insert("heatmap".into(), heatmap);
            }
            fields.insert("checks".into(), checks(explanation));
            if let Some(fit) = &explanation.fit {
                fields.insert("fit".into(), fit_body(fit));
            }
            fields.insert("baseline".into(), json!({"type": baseline}));
            fields.insert("seed".into(), explanation.seed.into());
            let usage = explanation.usage;
            fields.insert(
                "usage".into(),
                json!({"forward_passes": usage.forward_passes, "backward_passes": usage.backward_passes}),
            );
        }
    }
    body
}

/// A linear model of the answer, with all that is needed to fit it again.
fn fit_body(fit: &Fit) -> Value {
    let bits = |mask: &Vec<bool>| mask.iter().map(|&kept| if kept { '1' } else { '0' }).collect::<String>();
    let fall = |&(k, fall): &(usize, f64)| json!({"k": k, "logprob_drop": fall});
    json!({
        "kind": "lasso",
        "alpha": fit.alpha,
        "intercept": fit.linear.intercept,
        "n_ablations": fit.masks.len(),
        "n_held_out": fit.n_held_out,
        "lds": fit.lds,
        "top_k_drop": fit.drops.iter().map(fall).collect::<Vec<_>>(),
        // The last `n_held_out` of them are those that the fit has not seen.
        "ablations": {"masks": fit.masks.iter().map(bits).collect::<Vec<_>>(), "values": fit.values},
    })
}

fn counterfactual_body(c: &Counterfactual) -> Value {
    let Some(found) = &c.found else {
        return json!({"label": c.label, "found": false, "verified": false, "forward_passes": c.forward_passes});
    };
    let change = |c: &Change| json!({"feature": c.feature, "from": c.from, "to": c.to});
    json!({
        "label": c.label,
        "found": true,
        // The changed row was asked again, in words.
        "verified": true,
        "probability": found.probability,
        "changes": found.changes.iter().map(change).collect::<Vec<_>>(),
        "cost": found.cost,
        "forward_passes": c.forward_passes,
    })
}

fn target_body(target: &TargetShown) -> Value {
    match target {
        TargetShown::Label { label, not, step } => json!({"label": label, "contrast": not, "step": step}),
        TargetShown::Choice { question, label, not } => {
            json!({"question": question, "label": label, "contrast": not})
        }
        TargetShown::Output { output } => json!({"output": output}),
        TargetShown::Text { text, span, not } => json!({
            "choice": 0, "text": text, "char_start": span.start, "char_end": span.end, "contrast": not,
        }),
    }
}

fn attributions(parts: &Parts, explanation: &Explanation) -> Value {
    let one = |(i, a): (usize, &Attribution)| {
        let mut body = match (&explanation.of, parts) {
            (Of::Layer { .. }, _) => json!({"unit": i}),
            (Of::Components(names), _) => json!({"component": names[i]}),
            (_, Parts::Text { spans, .. }) => {
                json!({"char_start": spans[i].start, "char_end": spans[i].end})
            }
            (_, Parts::Table { rows }) => json!({"feature": rows[i].0, "x": rows[i].1}),
            (_, Parts::Image { width, patch, .. }) => {
                let across = width.div_ceil(*patch);
                json!({"row": i / across * patch, "column": i % across * patch, "size": patch})
            }
            (_, Parts::Series { names }) => json!({"name": names[i]}),
            (_, Parts::Messages { spans, .. }) => {
                let (message, span) = &spans[i];
                json!({"message": message, "char_start": span.start, "char_end": span.end})
            }
        };
        if let Some(fields) = body.as_object_mut() {
            fields.insert("value".into(), a.value.into());
            fields.insert("stderr".into(), a.stderr.into());
        }
        body
    };
    explanation.attributions.iter().enumerate().map(one).collect()
}

fn heatmap(parts: &Parts, explanation: &Explanation, extras: Extras) -> Option<Value> {
    let Parts::Image { height, width, .. } = *parts else { return None };
    let values: Vec<f64> = explanation.attributions.iter().map(|a| a.value).collect();
    let map = parts.heatmap(explanation.elements.as_deref(), &values)?;
    let mut body = json!({"width": width, "height": height, "values": map});
    if extras.png
        && let Some(fields) = body.as_object_mut()
    {
        let png = lyceum_service::explain::heatmap_png(&map, height, width);
        let data = base64::engine::general_purpose::STANDARD.encode(png);
        fields.insert("png".into(), format!("data:image/png;base64,{data}").into());
    }
    Some(body)
}

fn checks(explanation: &Explanation) -> Value {
    let c = &explanation.checks;
    let control = c.random_control;
    let pair = |pair: Option<[f64; 2]>| pair.map(|[mean, stderr]| json!({"mean": mean, "stderr": stderr}));
    let measured = [
        ("completeness_gap", c.completeness_gap),
        ("comprehensiveness", c.comprehensiveness),
        ("sufficiency", c.sufficiency),
        ("deletion_auc", c.deletion_auc),
        ("insertion_auc", c.insertion_auc),
        ("infidelity", c.infidelity),
        ("sensitivity", c.sensitivity),
    ];
    let mut body = Map::new();
    for (name, value) in measured {
        body.insert(name.into(), value.into());
    }
    body.insert("complete".into(), c.complete.into());
    body.insert("quantity".into(), c.quantity.into());
    body.insert("random_control".into(), control.comprehensiveness.map(|[mean, _]| mean).into());
    body.insert(
        "controls".into(),
        json!({"comprehensiveness": pair(control.comprehensiveness), "sufficiency": pair(control.sufficiency),
            "deletion_auc": pair(control.deletion_auc), "insertion_auc": pair(control.insertion_auc)}),
    );
    body.insert("faithful".into(), c.faithful.into());
    let absent = measured.into_iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name);
    body.insert("not_evaluated".into(), absent.collect());
    Value::Object(body)
}

fn influence_fields(fields: &mut Map<String, Value>, found: &InfluenceShown) {
    let row = |r: &RowShown| json!({"row": r.row, "label": r.label, "influence": r.influence});
    let rows = |rows: &[RowShown]| rows.iter().map(row).collect::<Vec<_>>();
    let seen = |&(step, lr): &(u64, f64)| json!({"step": step, "lr": lr});
    let note = "a sum over the kept checkpoints that takes each step for one of plain gradient descent";
    fields.insert("object".into(), "row_influence".into());
    fields.insert("method".into(), TRACIN.into());
    fields.insert("exact".into(), false.into());
    fields.insert("note".into(), note.into());
    fields.insert("target".into(), target_body(&found.target));
    fields.insert("file".into(), found.file.clone().into());
    fields.insert("n_rows".into(), found.n_rows.into());
    fields.insert("checkpoints".into(), found.checkpoints.iter().map(seen).collect());
    fields.insert(
        "rows".into(),
        json!({"lowered_loss": rows(&found.helped), "raised_loss": rows(&found.hindered)}),
    );
    let usage = found.usage;
    fields.insert(
        "usage".into(),
        json!({"forward_passes": usage.forward_passes, "backward_passes": usage.backward_passes}),
    );
}

fn attention_fields(fields: &mut Map<String, Value>, attention: &AttentionShown) {
    let map = |m: &AttentionMap| {
        let mut body = json!({"n_queries": m.n_queries, "n_keys": m.n_keys, "is_self": m.is_self,
            "weights": m.weights});
        if attention.kind == "weights"
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert("layer".into(), m.layer.into());
            fields.insert("head".into(), m.head.into());
        }
        body
    };
    let note = match attention.kind {
        "rollout" => "a heuristic over attention weights; not an explanation",
        _ => "where layers read from; weights are not an explanation",
    };
    fields.insert("object".into(), "attention".into());
    fields.insert("method".into(), format!("attention_{}", attention.kind).into());
    fields.insert("heuristic".into(), true.into());
    fields.insert("note".into(), note.into());
    let spans = attention.spans.iter().map(|s| json!({"char_start": s.start, "char_end": s.end}));
    fields.insert("tokens".into(), spans.collect());
    fields.insert("maps".into(), attention.maps.iter().map(map).collect());
}
