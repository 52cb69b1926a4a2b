//! What would have to be different for another answer: the smallest change of a row of a table, in the caller's
//! words, verified by asking the model again through its whole preparation.
//!
//! Other values of a column are those that training rows had: quantiles of numbers, categories. A change of a
//! number costs its size in standard deviations, a change of a category 1.

use super::device::{CancelOnDrop, EngineDevice};
use crate::meter::Share;
use crate::resident::Resident;
use crate::{Content, Service, ServiceError, predict};
use lyceum_explain::counterfactual::{Candidate, Search, counterfactual};
use lyceum_models::prepare::tabular::{Cell, Code, Encoder};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, PreparedValue};
use lyceum_types::control::Control;
use lyceum_types::limits;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Instant;

/// Which answer is wanted, and how much may change.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// None: the second likeliest.
    pub label: Option<String>,
    pub changes_max: usize,
}

/// A change that gives the wanted answer, or that none was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Counterfactual {
    pub label: String,
    /// None: none was found, which proves nothing.
    pub found: Option<Changed>,
    pub forward_passes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub changes: Vec<Change>,
    /// Of the wanted label, asked again with the changed row.
    pub probability: f64,
    pub cost: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub feature: String,
    pub from: Value,
    pub to: Value,
}

/// Searches with at most `passes_max` passes; `outputs` are the row's own.
pub(super) async fn search(
    service: &Service,
    resident: &Arc<Resident>,
    content: &Content,
    outputs: &[f32],
    wish: &Wish,
    (passes_max, share): (u64, Share),
) -> Result<Counterfactual, ServiceError> {
    let wrong = |message: String| Err(ServiceError::invalid("counterfactual", "unsupported_model", message));
    let (InputPreparation::Tabular(encoder), OutputPreparation::Labels { names }) =
        (&resident.preparation.input, &resident.preparation.output)
    else {
        return wrong(format!("{} does not classify rows of a table", resident.version.id()));
    };
    let probabilities = predict::softmax(outputs);
    let own = predict::argmax(&probabilities);
    let class = match &wish.label {
        Some(label) => match names.iter().position(|name| name == label) {
            Some(class) if class != own => class,
            Some(_) => return wrong(format!("{label:?} is what the model says already")),
            None => return wrong(format!("{label:?} is not a label of the model: {}", names.join(", "))),
        },
        None => {
            let others = (0..names.len()).filter(|&i| i != own);
            let best = others.max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
            match best {
                Some(class) => class,
                None => return wrong("the model has one label only".into()),
            }
        }
    };
    let row = row_of(content, encoder)?;
    let PreparedValue::Dense(encoded) =
        predict::prepare(resident, &Content::Row(row.clone()), "input")?.value
    else {
        return Err(ServiceError::internal("a table was not prepared as numbers", "bug"));
    };
    let (candidates, values) = candidates(resident, encoder, &encoded)?;
    if candidates.is_empty() {
        return wrong("this version has no sketches of its training rows: there is nothing to try".into());
    }
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let cancel = CancelOnDrop(control.clone());
    let mut device = EngineDevice::new(service.engine().clone(), share.clone());
    let (model, changes_max) = (resident.model.clone(), wish.changes_max);
    let (found, usage) = super::run(move || {
        let search = Search { model, row: &encoded, candidates: &candidates, class, changes_max, passes_max };
        let (found, usage) = counterfactual(&search, &mut device, &control)?;
        let columns = |i: &usize| (candidates[*i].column, *i);
        Ok((found.map(|f| (f.candidates.iter().map(columns).collect::<Vec<_>>(), f.cost)), usage))
    })
    .await?;
    drop(cancel);
    let found = match found {
        None => None,
        Some((places, cost)) => {
            let again = (service, resident, &share);
            Some(verified(again, &row, encoder, &values, &places, class, cost).await?)
        }
    };
    Ok(Counterfactual { label: names[class].clone(), found, forward_passes: usage.forward_passes })
}

/// Asks again with the changed row, in words.
async fn verified(
    (service, resident, share): (&Service, &Arc<Resident>, &Share),
    row: &Map<String, Value>,
    encoder: &Encoder,
    values: &[Value],
    places: &[(usize, usize)],
    class: usize,
    cost: f64,
) -> Result<Changed, ServiceError> {
    let (mut changed, mut changes) = (row.clone(), Vec::new());
    for &(column, candidate) in places {
        let (feature, to) = (encoder.columns[column].name.clone(), values[candidate].clone());
        let from = changed.insert(feature.clone(), to.clone()).unwrap_or(Value::Null);
        changes.push(Change { feature, from, to });
    }
    let prepared = predict::prepare(resident, &Content::Row(changed), "input")?;
    let rows = service.predict(resident, vec![prepared], share).await?;
    let probabilities = predict::softmax(&rows[0]);
    if predict::argmax(&probabilities) != class {
        let message = "a changed row gives another answer in words than in numbers";
        return Err(ServiceError::internal(message, "bug"));
    }
    Ok(Changed { changes, probability: probabilities[class], cost })
}

/// The row by column names, whatever way it was given.
fn row_of(content: &Content, encoder: &Encoder) -> Result<Map<String, Value>, ServiceError> {
    let named = |values: Vec<Value>| {
        encoder.columns.iter().map(|c| c.name.clone()).zip(values).collect::<Map<String, Value>>()
    };
    match content {
        Content::Row(row) => Ok(row.clone()),
        Content::Values(values) => Ok(named(values.clone())),
        Content::Numbers(numbers) => Ok(named(numbers.iter().map(|&x| Value::from(f64::from(x))).collect())),
        Content::Text(_) | Content::File(_) => {
            Err(ServiceError::invalid("counterfactual", "unsupported_model", "this is no row of a table"))
        }
    }
}

/// Every other value of every column, encoded, and in words beside it.
fn candidates(
    resident: &Resident,
    encoder: &Encoder,
    encoded: &[f32],
) -> Result<(Vec<Candidate>, Vec<Value>), ServiceError> {
    let (mut all, mut words, mut start) = (Vec::new(), Vec::new(), 0);
    for (i, column) in encoder.columns.iter().enumerate() {
        let at = start..start + column.width();
        start = at.end;
        let Some(sketch) = resident.manifest.features.iter().find(|s| s.name == column.name) else {
            continue;
        };
        let tried: Vec<Value> = match &column.code {
            Code::Number { .. } => {
                let mut quantiles = sketch.quantiles.clone();
                quantiles.dedup();
                quantiles.into_iter().map(Value::from).collect()
            }
            Code::Category { values, .. } => values.iter().cloned().map(Value::from).collect(),
        };
        for value in tried {
            let cell = match &value {
                Value::String(text) => Cell::Text(text),
                other => Cell::Number(other.as_f64().unwrap_or_default()),
            };
            let mut numbers = Vec::new();
            column.encode(cell, &mut numbers).map_err(|e| ServiceError::prepare("input", e))?;
            if numbers == encoded[at.clone()] {
                continue;
            }
            let cost = match &column.code {
                Code::Number { .. } => f64::from((numbers[0] - encoded[at.start]).abs()),
                Code::Category { .. } => 1.0,
            };
            all.push(Candidate { column: i, at: at.clone(), encoded: numbers, cost });
            words.push(value);
        }
    }
    Ok((all, words))
}
