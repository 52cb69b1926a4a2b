//! `[gate]` of a fine-tuning: the tuned model and the version that its name serves, or its base where that serves none, are
//! measured on the same lines, and one whose loss is higher by more than `max_rise` is held, as is one that cannot be compared.

use super::{Judged, Watch, served};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, tuning};
use lyceum_models::causal_lm::Adapter;
use lyceum_service::Language;
use lyceum_service::language::{self, adapter};
use lyceum_store::Store;
use lyceum_store::data_files;
use lyceum_store::models::Version;
use lyceum_store::vault::KeyedPath;
use lyceum_train::TrainError;
use lyceum_train::chat;
use lyceum_train::data::report::Report;
use lyceum_train::tune::{Base, OnLines, Tuned, on_lines};
use lyceum_types::control::Control;
use lyceum_types::limits;
use lyceum_types::spec::tune::TunePlan;
use serde_json::json;
use std::sync::Arc;

/// What is tuned, as the job opened it.
pub struct Began<'a> {
    pub language: &'a Arc<Language>,
    /// What was added to it already.
    pub adapter: Option<&'a Arc<Adapter>>,
}

/// Finds before the training what would keep the gate from comparing: its lines, the served version.
pub async fn rehearse(context: &Context, store: &Store, plan: &TunePlan) -> Result<(), Failure> {
    super::tried::rehearse(context, store, plan).await?;
    let Some(file) = file(plan) else { return Ok(()) };
    let path = data_files::folder(store, &context.project, &plan.base_dir)?.join(file);
    let bytes = files::read_bytes(&path, limits::FILE_BYTES_MAX)?;
    let mut report = Report::default();
    chat::lines::judge(&bytes, file, &context.control, &mut report).map_err(TrainError::from)?;
    report.into_result().map_err(TrainError::from)?;
    let Some(served) = served(context, store, &plan.tune.name).await? else { return Ok(()) };
    if tuning::speaks(&served) {
        return Ok(());
    }
    let message = format!("{} is no language model, so a gate cannot compare it", served.id());
    let why = format!("the name {} serves it now", plan.tune.name);
    Err(Failure::new(Exit::Usage, "unsupported_gate", message, why, "give the tuned model another name"))
}

fn file(plan: &TunePlan) -> Option<&str> {
    let gate = plan.tune.gate.as_ref().filter(|gate| gate.max_rise.is_some());
    gate.and_then(|gate| gate.file(&plan.tune.data))
}

/// What a tuned model is compared with: the version that its name serves, or the base where that serves none, as it is
/// with every job over HTTP, whose names are made once.
pub(super) async fn beside(context: &Context, store: &Store, plan: &TunePlan) -> Result<Version, Failure> {
    match served(context, store, &plan.tune.name).await? {
        Some(served) => Ok(served),
        None => tuning::base_of(context, store, plan).await,
    }
}

/// Compares a tuned model that is not published yet with the version that its name serves, or with its base.
///
/// # Errors
/// An interruption. Whatever else keeps the two from being compared holds the version.
pub async fn judge(
    context: &Context,
    store: &Store,
    (plan, tuned): (&TunePlan, &Tuned),
    (began, watch): (Began<'_>, &mut Watch<'_>),
) -> Result<Option<Judged>, Failure> {
    let Some(gate) = &plan.tune.gate else { return Ok(None) };
    let Some(max_rise) = gate.max_rise else {
        let line = json!({ "held": false, "why": null, "compared_to": null, "max_rise": null });
        return Ok(Some(Judged { held: None, line, run: None, tried: None }));
    };
    let served = beside(context, store, plan).await?;
    let id = served.id();
    let other = match tuning::whole_of(store, &served).await {
        Ok(whole) => Ok((served, whole)),
        Err(failure) => Err(failure.message.clone()),
    };
    let files = data_files::folder(store, &context.project, &plan.base_dir)?;
    let (plan, control) = (plan.clone(), context.control.clone());
    let (language, adapter) = (began.language.clone(), began.adapter.cloned());
    let fresh = tuned.model.clone();
    let work = move || {
        let (served, whole) = other?;
        let began = Began { language: &language, adapter: adapter.as_ref() };
        compare((&plan, &files), began, fresh, (served, whole), &control)
    };
    let compared = watch.over(tokio::task::spawn_blocking(work)).await;
    let compared = compared.map_err(|error| Failure::internal("the gate broke off", &error))?;
    context.control.check().map_err(|_| Failure::interrupted("the version is not published"))?;
    let mut line = json!({ "held": false, "why": null, "compared_to": id, "max_rise": max_rise });
    let held = match compared {
        Ok(Compared { ours, theirs, sentence }) => {
            let [a, b] = [&ours, &theirs].map(|side| side.loss().map_or(f64::NAN, |loss| loss.value));
            line["loss"] = json!(ours.loss());
            line["served_loss"] = json!(theirs.loss());
            line["file"] = json!(ours.file);
            line["verdict"] = json!(sentence);
            let rise = a - b;
            // What is no number is no reason to pass.
            let passes = rise <= max_rise;
            (!passes).then(|| format!("its loss is {rise:.4} above that of {id}, and {max_rise} is allowed"))
        }
        Err(why) => Some(format!("it could not be compared with {id}: {why}")),
    };
    line["held"] = held.is_some().into();
    line["why"] = json!(held);
    Ok(Some(Judged { held, line, run: None, tried: None }))
}

struct Compared {
    ours: OnLines,
    theirs: OnLines,
    sentence: Option<String>,
}

fn compare(
    (plan, files): (&TunePlan, &KeyedPath),
    began: Began<'_>,
    fresh: lyceum_models::Model,
    (served, whole): (Version, Version),
    control: &Control,
) -> Result<Compared, String> {
    let file = file(plan).ok_or("the gate names no lines")?;
    let id = served.id();
    let words = tuning::words(began.language, plan);
    let model = &began.language.model;
    let reference = Base {
        model: (**model).clone(),
        adapter: began.adapter.cloned(),
        words,
        id: plan.base.clone(),
        sha256: plan.base_sha256.clone(),
    };
    let ours = Base { model: fresh, adapter: None, words, id: plan.tune.name.clone(), sha256: String::new() };
    // The same weights need not be opened twice.
    let other = match whole.sha256 == began.language.version.sha256 {
        true => began.language.clone(),
        false => Arc::new(Language::open(whole).map_err(|error| error.to_string())?),
    };
    let added = match adapter::is_adapter(&served) {
        true => language::adapter::read(served, &other).map_err(|error| error.to_string())?.added,
        false => None,
    };
    let theirs = Base {
        model: (*other.model).clone(),
        adapter: added.map(|added| added.adapter),
        words: tuning::words(&other, plan),
        id: id.clone(),
        sha256: String::new(),
    };
    let on = |side: &Base<'_>| {
        on_lines(&plan.tune, file, (side, &reference), files, control).map_err(|error| error.to_string())
    };
    let (ours, theirs) = (on(&ours)?, on(&theirs)?);
    let verdict = ours.beside(&theirs, &id).map_err(|error| error.to_string())?;
    Ok(Compared { ours, theirs, sentence: verdict.map(|verdict| verdict.sentence) })
}
