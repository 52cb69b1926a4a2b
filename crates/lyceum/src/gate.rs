//! `[gate]` of a job: before a name serves a new version, that version and the one that the name serves now are tried
//! on the same rows with the same suite. One that is worse, or that cannot be compared, is held: it is a version like
//! any other under its number, and its name goes on serving the other one until somebody promotes it.
//!
//! The path: [`from_flag`] (the command line's way to write the table), [`suite`], [`rehearse`] (what can be refused is
//! refused before the training), [`judge`] (after it); [`tuned`] is the same for fine-tuned models, by their loss, and
//! [`tried`] by a suite of theirs. A [`watch`] counts what all of it takes.

pub mod tried;
pub mod tuned;
pub mod watch;

pub use watch::Watch;

use crate::commands::attack;
use crate::context::Context;
use crate::failure::Failure;
use lyceum_api::robustness::suite_of;
use lyceum_service::card::measured;
use lyceum_service::robustness::{self, Gate, Item, Run, file};
use lyceum_service::{Resident, ServiceError};
use lyceum_store::data_files;
use lyceum_store::models::{self, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError};
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, VersionRef};
use lyceum_types::spec::{GateSpec, Plan, Spec};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// What the gate said of a version that is about to be published.
pub struct Judged {
    /// Why its name is to pass it over; None: it is not.
    pub held: Option<String>,
    /// What the job's `done` line says.
    pub line: Value,
    run: Option<Run>,
    /// What a suite of a fine-tuning found.
    pub tried: Option<robustness::language::Run>,
}

/// `max_drop=0.02,data=test.csv,suite=suite.toml,rows=500`; paths are relative to the working folder.
pub fn from_flag(text: &str) -> Result<GateSpec, Failure> {
    let wrong = |why: String| {
        let fix =
            "write --gate max_drop=0.02,data=test.csv,suite=suite.toml,rows=500 (max_drop alone is enough)";
        Failure::usage(format!("--gate {text:?} cannot be read"), why, fix)
    };
    let (mut gate, mut max_drop) = (GateSpec { data: None, rows: None, suite: None, max_drop: 0.0 }, None);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong(format!("{part:?} has no =")))?;
        match key.trim() {
            "max_drop" => {
                let drop = value.parse().ok().filter(|drop| (0.0..=1.0).contains(drop));
                max_drop = Some(drop.ok_or_else(|| wrong(format!("{value:?} is not between 0 and 1")))?);
            }
            "rows" => {
                let rows = value.parse().ok().filter(|&rows: &usize| rows > 0);
                gate.rows = Some(rows.ok_or_else(|| wrong(format!("{value:?} is no number of rows")))?);
            }
            "data" => {
                let path = std::path::absolute(value);
                let path = path.map_err(|error| Failure::file("find", Path::new(value), &error))?;
                gate.data = Some(path.display().to_string());
            }
            "suite" => gate.suite = Some(attack::suite_values(Path::new(value))?),
            other => return Err(wrong(format!("{other:?} is none of max_drop, data, suite, rows"))),
        }
    }
    gate.max_drop = max_drop.ok_or_else(|| wrong("max_drop is missing".into()))?;
    Ok(gate)
}

/// The items of a gate.
pub fn suite(gate: &GateSpec) -> Result<Vec<Item>, Failure> {
    let Some(items) = &gate.suite else { return Ok(robustness::default_suite()?) };
    suite_of(items).map_err(|why| {
        let mut failure =
            Failure::usage(why, "the gate's suite cannot be run", "write it as lyceum attack reads it");
        failure.place.key = Some("gate.suite".into());
        failure
    })
}

/// Finds before the training what would keep the gate from comparing: the file, the suite, the served version.
pub async fn rehearse(context: &Context, store: &Store, plan: &Plan) -> Result<(), Failure> {
    let Some(asked) = Asked::of(&plan.spec, &data_files::folder(store, &context.project, &plan.base_dir)?)?
    else {
        return Ok(());
    };
    let Some(served) = served(context, store, &plan.spec.name).await? else { return Ok(()) };
    let control = context.control.clone();
    let work = move || {
        let resident = Resident::open(served)?;
        let rows =
            file::rows(&resident, &asked.data, Some(1), &control).map_err(lyceum_train::TrainError::from)?;
        robustness::rehearse(&resident, &rows, &asked.items, &control).map_err(Failure::from)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::internal("the gate broke off", &error))?
}

/// Compares a version that is not published yet with the one that its name serves.
///
/// # Errors
/// An interruption. Whatever else keeps the two from being compared holds the version.
pub async fn judge(
    context: &Context,
    store: &Store,
    (plan, fresh): (&Plan, &Arc<Resident>),
    watch: &mut Watch<'_>,
) -> Result<Option<Judged>, Failure> {
    let Some(asked) = Asked::of(&plan.spec, &data_files::folder(store, &context.project, &plan.base_dir)?)?
    else {
        return Ok(None);
    };
    let Some(served) = served(context, store, &plan.spec.name).await? else {
        let why = "there was no version to compare it with";
        let line = json!({ "held": false, "why": why, "compared_to": null, "max_drop": asked.max_drop });
        return Ok(Some(Judged { held: None, line, run: None, tried: None }));
    };
    let (id, max_drop) = (served.id(), asked.max_drop);
    let (fresh, control) = (fresh.clone(), context.control.clone());
    let work = move || asked.compare(&fresh, served, &control);
    let compared = watch.over(tokio::task::spawn_blocking(work)).await;
    let compared = compared.map_err(|error| Failure::internal("the gate broke off", &error))?;
    context.control.check().map_err(|_| Failure::interrupted("the version is not published"))?;
    let mut line = json!({ "held": false, "why": null, "compared_to": id, "max_drop": max_drop });
    let (held, run) = match compared {
        Ok((run, gate)) => {
            let differences = gate.differences.iter();
            line["differences"] =
                differences.map(|(name, by)| json!({ "metric": name, "difference": by })).collect();
            line["missing"] = json!(gate.missing);
            (gate.why(), Some(run))
        }
        Err(why) => (Some(format!("it could not be compared with {id}: {why}")), None),
    };
    line["held"] = held.is_some().into();
    line["why"] = json!(held);
    Ok(Some(Judged { held, line, run, tried: None }))
}

/// Keeps what the gate found for the version's card.
pub async fn keep(
    store: &Store,
    judged: &Judged,
    fresh: &mut Resident,
    (version, plan): (&Version, &Plan),
) -> Result<(), Failure> {
    let Some(run) = &judged.run else { return Ok(()) };
    fresh.version = version.clone();
    let file = plan.spec.gate.as_ref().and_then(|gate| gate.file(&plan.spec.data)).unwrap_or_default();
    let data = format!("{} rows of {file}, by the gate of its job", run.n);
    let id = version.id();
    let again = format!(
        "lyceum attack {id} {file} --suite FILE --seed {} ([gate] of lyceum show {id} --json)",
        run.seed
    );
    Ok(measured::keep_run(store, fresh, run, &data, &again).await?)
}

/// The version that a name serves, if any.
async fn served(context: &Context, store: &Store, name: &str) -> Result<Option<Version>, Failure> {
    let reference = ModelRef { name: name.parse::<ModelName>()?, version: VersionRef::Latest };
    match models::resolve(store, &context.project, &reference).await {
        Ok(version) => Ok(Some(version)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Asked {
    data: KeyedPath,
    /// As the spec names it.
    file: String,
    rows: Option<usize>,
    items: Vec<Item>,
    max_drop: f64,
    seed: u64,
}

impl Asked {
    fn of(spec: &Spec, base_dir: &KeyedPath) -> Result<Option<Self>, Failure> {
        let Some(gate) = &spec.gate else { return Ok(None) };
        let file = gate.file(&spec.data).ok_or_else(|| {
            let why =
                "rows that a job holds out of its training file may be rows that the served version learnt";
            Failure::usage("the gate names no file of rows", why, "add data = \"test.csv\" under [gate]")
        })?;
        let (data, items) = (base_dir.join(file), suite(gate)?);
        let (file, max_drop) = (file.to_owned(), gate.max_drop);
        Ok(Some(Asked { data, file, rows: gate.rows, items, max_drop, seed: spec.seed }))
    }

    fn compare(&self, fresh: &Resident, served: Version, control: &Control) -> Result<(Run, Gate), String> {
        let try_one = |resident: &Resident| -> Result<Run, String> {
            // Clients read it: where the file lies is the server's matter.
            let place = self.data.display().to_string();
            let rows = file::rows(resident, &self.data, self.rows, control)
                .map_err(|error| error.to_string().replace(&place, &self.file))?;
            robustness::run(resident, &rows, &self.items, self.seed, control)
                .map_err(|error| error.to_string())
        };
        let refused = |error: ServiceError| error.to_string();
        let ours = try_one(fresh)?;
        let theirs = try_one(&Resident::open(served).map_err(refused)?)?;
        let gate = robustness::gate(&ours, &theirs, self.max_drop).map_err(refused)?;
        Ok((ours, gate))
    }
}
