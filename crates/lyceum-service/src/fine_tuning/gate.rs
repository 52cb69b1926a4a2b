//! `[gate]` of a job that is asked for over HTTP: ids of files in the place of paths, and everything that would keep the
//! gate from comparing told when the job is asked for, with the most passes that it will make. What it says is found by the
//! job's process, when the training has ended.

use super::ask::Places;
use super::{place, wrong_data_at};
use crate::robustness::language::{self as over_texts, AskedTexts, Bounds};
use crate::robustness::{self as over_rows, AskedRows};
use crate::{Payer, Service, ServiceError};
use lyceum_models::prepare::OutputPreparation;
use lyceum_store::models::{self, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError};
use lyceum_train::chat::{self, Words};
use lyceum_train::data::{self, Loaded};
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, Project, VersionRef};
use lyceum_types::limits;
use lyceum_types::spec::Spec;
use lyceum_types::spec::tune::{Method, TuneData, TuneGate, TuneSpec};
use serde_json::Value;
use std::sync::Arc;

/// How items of a suite are written: only the door knows.
#[derive(Clone, Copy)]
pub struct Suites {
    /// Of families that are trained from the start.
    pub rows: fn(&[Value]) -> Result<Vec<over_rows::Item>, ServiceError>,
    /// Of language models.
    pub texts: fn(&[Value]) -> Result<Vec<over_texts::Item>, ServiceError>,
}

/// `[gate]` of a job spec, or null, with the places of its files where their ids stand.
///
/// # Errors
/// At its key, what is no id of a file of this project.
pub(super) async fn take_files(
    service: &Service,
    project: &Project,
    places: Places,
    gate: &mut Value,
) -> Result<(), ServiceError> {
    // Whatever else stands there is the grammar's to refuse.
    let Some(gate) = gate.as_object_mut() else { return Ok(()) };
    for key in ["data", "texts"] {
        let Some(value) = gate.get_mut(key) else { continue };
        let param = places.field(&format!("gate.{key}"));
        let Some(id) = value.as_str() else {
            return Err(ServiceError::invalid(param, "invalid_type", "must be the id of a file"));
        };
        *value = place(service, project, &param, id).await?.into();
    }
    Ok(())
}

/// Rows that a gate tries, and the labels that the new version will know.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    n: usize,
    n_labels: usize,
}

/// Reads the rows that decide as the model that is to be trained will read them; None where there is no gate.
///
/// # Errors
/// All that is wrong with the gate's file; more rows than a run takes.
pub(super) fn judge_rows(
    (spec, places): (&Spec, Places),
    loaded: &Loaded,
    files: &KeyedPath,
    control: &Control,
) -> Result<Option<Rows>, ServiceError> {
    let Some(gate) = &spec.gate else { return Ok(None) };
    let n = match (&gate.data, &spec.data.valid) {
        (Some(file), _) => {
            let path = files.join(file);
            let rows = data::load_eval(&loaded.preparation, spec, path, control);
            let rows = rows.map_err(|error| wrong_data_at(places.gate_data(), error))?;
            let Some(labels) = rows.labels() else {
                let message = "has no labels: a gate needs the right answer of each row, as training does";
                return Err(ServiceError::invalid(places.gate_data(), "no_labels", message));
            };
            labels.len()
        }
        (None, Some(_)) => loaded.valid.as_ref().map_or(0, |part| part.len()),
        (None, None) => loaded.test.as_ref().map_or(0, |part| part.len()),
    };
    let (n, max) = (n.min(gate.rows.unwrap_or(usize::MAX)), limits::ROBUSTNESS_ROWS_MAX);
    if n > max {
        let message = format!("the gate would try {n} rows and a run takes {max}: give the first so many");
        return Err(ServiceError::invalid(places.field("gate.rows"), "too_many_rows", message));
    }
    let n_labels = match &loaded.preparation.output {
        OutputPreparation::Labels { names } => names.len(),
        _ => 0,
    };
    Ok(Some(Rows { n, n_labels }))
}

/// Finds what would keep a suite from running on the version that the name serves now. A first version has nothing beside it;
/// by the time that it is judged it may be the second. The most passes on both.
///
/// # Errors
/// At its key, an item, a file or a served version that does not allow it.
pub(super) async fn rehearse_rows(
    service: &Service,
    payer: &Payer,
    (spec, rows): (&Spec, Option<Rows>),
    (suites, places): (Suites, Places),
) -> Result<Option<u64>, ServiceError> {
    let (Some(gate), Some(rows)) = (&spec.gate, rows) else { return Ok(None) };
    let refused = |error| in_request(places, &ROWS, error);
    let suite = match &gate.suite {
        Some(items) => (suites.rows)(items).map_err(refused)?,
        None => over_rows::default_suite()?,
    };
    let ours = over_rows::passes_most(&suite, rows.n, rows.n_labels);
    let alone = Ok(Some(ours.saturating_mul(2)));
    let Some(served) = served(service.store(), &payer.project, &spec.name).await? else { return alone };
    let Some(id) = gate.file(&spec.data).and_then(id_of) else { return alone };
    let asked = over_rows::Asked {
        model: numbered(&served),
        rows: AskedRows::File { id: id.to_owned(), first: gate.rows },
        suite,
        seed: spec.seed,
        compare: None,
    };
    let planned = over_rows::Plan::new(service, payer, asked).await;
    let theirs = planned.map_err(refused)?.passes_most();
    // The served version may know more labels, and another one serve until then.
    Ok(Some(ours.saturating_add(theirs.max(ours))))
}

/// Reads the lines that decide with the base's own words. How many there are; `n_valid` of the validation part.
///
/// # Errors
/// All that is wrong with the gate's file.
pub(super) fn judge_lines(
    (tune, places): (&TuneSpec, Places),
    words: Words<'_>,
    (context, n_valid): (usize, usize),
    files: &KeyedPath,
    control: &Control,
) -> Result<usize, ServiceError> {
    // A validation file was judged with the training file.
    let Some(file) = tune.gate.as_ref().and_then(|gate| gate.data.clone()) else { return Ok(n_valid) };
    let data = TuneData { train: file, valid: None, valid_fraction: None, ..tune.data.clone() };
    let lines = TuneSpec { data, ..tune.clone() };
    let read = chat::load(&lines, words, context, files, control);
    Ok(read.map_err(|error| wrong_data_at(places.gate_data(), error))?.train.len())
}

/// The most passes of comparing losses over so many lines: each through both models, and of preferences through the base
/// beside each.
pub(super) fn passes_of_lines(tune: &TuneSpec, n: usize) -> u64 {
    let is_compared = tune.gate.as_ref().is_some_and(|gate| gate.max_rise.is_some());
    let beside = u64::from(matches!(tune.method, Method::Dpo { .. }));
    if is_compared { 2 * (1 + beside) * n as u64 } else { 0 }
}

/// Finds what would keep a fine-tuned model from being compared or tried: it is judged for the base. The most passes of its
/// suite, on the other side too (the version that the name serves, or the base) where that is tried; None where there is no gate.
///
/// # Errors
/// At its key, an item, a text or a served version that does not allow it.
pub(super) async fn rehearse_texts(
    service: &Arc<Service>,
    payer: &Payer,
    tune: &TuneSpec,
    (suites, places): (Suites, Places),
) -> Result<Option<u64>, ServiceError> {
    let Some(gate) = &tune.gate else { return Ok(None) };
    if let Some(served) = served(service.store(), &payer.project, &tune.name).await?
        && !is_language_model(&served)?
        && (gate.max_rise.is_some() || gate.max_drop.is_some())
    {
        let message = format!("it serves {}, which is no language model to compare with", served.id());
        return Err(ServiceError::unsupported(places.field("name"), "unsupported_gate", message));
    }
    let Some(items) = &gate.suite else { return Ok(Some(0)) };
    let refused = |error| in_request(places, &TEXTS, error);
    let suite = (suites.texts)(items).map_err(refused)?;
    bounds(gate).check(&suite).map_err(refused)?;
    let wrong = |code, message: &str| Err(ServiceError::invalid(places.field("gate.texts"), code, message));
    let texts = match (&gate.texts, suite.iter().any(over_texts::Item::reads_texts)) {
        (None, false) => AskedTexts::None,
        (Some(_), false) => return wrong("contradiction", "nothing of the suite reads texts: leave it out"),
        (None, true) => {
            return wrong("missing_key", "is missing: environments are compared over texts, a text a line");
        }
        (Some(file), true) => {
            AskedTexts::File { id: id_of(file).unwrap_or_default().to_owned(), first: None }
        }
    };
    let model = tune.base.parse().map_err(StoreError::from)?;
    let asked = over_texts::Asked { model, texts, suite, seed: tune.seed };
    let most = over_texts::Plan::new(service, payer, asked).await.map_err(refused)?.passes_most();
    Ok(Some(most.saturating_mul(if gate.max_drop.is_some() { 2 } else { 1 })))
}

fn bounds(gate: &TuneGate) -> Bounds {
    Bounds {
        max_attack_success: gate.max_attack_success,
        min_agreement: gate.min_agreement,
        max_drop: gate.max_drop,
    }
}

/// The version that a name serves, if any.
async fn served(store: &Store, project: &Project, name: &str) -> Result<Option<Version>, ServiceError> {
    let name: ModelName = name.parse().map_err(StoreError::from)?;
    match models::resolve(store, project, &ModelRef { name, version: VersionRef::Latest }).await {
        Ok(version) => Ok(Some(version)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn numbered(version: &Version) -> ModelRef {
    ModelRef { name: version.name.clone(), version: VersionRef::Number(version.number) }
}

fn is_language_model(version: &Version) -> Result<bool, ServiceError> {
    let is_imported = crate::language::is_imported(version);
    Ok(is_imported && crate::language::read_manifest(version)?.kind.speaks())
}

/// The id in `ID/NAME`.
fn id_of(place: &str) -> Option<&str> {
    place.split('/').next()
}

/// What a job spec calls what a run has.
struct Called {
    /// Its model.
    model: &'static str,
    /// Its data or instances.
    file: &'static str,
}

/// The model that the name serves, and the file that decides.
const ROWS: Called = Called { model: "name", file: "gate.data" };
/// The base, and what environments read.
const TEXTS: Called = Called { model: "model.family", file: "gate.texts" };

/// What a run refuses, at its place in the request.
fn in_request(places: Places, called: &Called, error: ServiceError) -> ServiceError {
    let at = |param: String| {
        if param == "model" {
            return places.field(called.model);
        }
        let of_file = ["data", "instances"].into_iter().find_map(|word| param.strip_prefix(word));
        places.field(&match of_file {
            Some(rest) => format!("{}{rest}", called.file),
            None => format!("gate.{}", param.trim_start_matches("gate.")),
        })
    };
    match error {
        ServiceError::Invalid { param, code, message } => ServiceError::invalid(at(param), code, message),
        ServiceError::Unsupported { param, code, message } => {
            ServiceError::unsupported(at(param), code, message)
        }
        ServiceError::NotImplemented { param, message } => ServiceError::not_implemented(at(param), message),
        other => other,
    }
}
