//! A training job from its row to its version: what `train` and `jobs resume` share.
//!
//! Training is synchronous and knows no store: it tells its observer ([`JobObserver`]). Fine-tuning
//! ([`tuning`](crate::tuning)) queues, ends and publishes its jobs through the functions here.

mod observer;

pub use observer::{JobObserver, LOG, Wish};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::gate;
use crate::output;
use crate::results;
use lyceum_service::Resident;
use lyceum_store::files::Staging;
use lyceum_store::jobs::{self, Claim, Job};
use lyceum_store::layout::WEIGHTS;
use lyceum_store::models::{NewVersion, Version};
use lyceum_store::{Store, data_files};
use lyceum_train::version::{VersionFiles, VersionName, version_files};
use lyceum_train::{Fitted, TrainError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, ModelName};
use serde_json::{Value, json};
use std::sync::Arc;

pub use lyceum_types::spec::Plan;

/// The plan that a job was made with.
pub fn plan_of(job: &Job) -> Result<Plan, Failure> {
    serde_json::from_str(&job.spec).map_err(|error| {
        let message = format!("the spec of job {} cannot be read", job.id);
        let fix = "train it anew from its spec";
        Failure::new(Exit::Failed, "damaged_job", message, error.to_string(), fix)
    })
}

/// Puts a new job into the store.
pub async fn create(context: &Context, store: &Store, plan: &Plan) -> Result<JobId, Failure> {
    queue(context, store, &plan.spec.name, plan.spec.train.steps, plan).await
}

/// Puts a job into the store that makes a version of `name` by this plan.
pub async fn queue(
    context: &Context,
    store: &Store,
    name: &str,
    steps: Option<usize>,
    plan: &impl serde::Serialize,
) -> Result<JobId, Failure> {
    let new = jobs::NewJob {
        kind: jobs::Kind::Train,
        spec: serde_json::to_string(plan).expect("a plan is plain data: bug"),
        request: None,
        model: name.to_owned(),
        steps: steps.unwrap_or(0) as u64,
        bill: None,
    };
    Ok(jobs::create(store, &context.project, new, Timestamp::now()).await?)
}

/// Which jobs may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Also what has failed, was cancelled or is paused.
    Any,
    /// What waits for its first end.
    Waiting,
}

pub async fn take(context: &Context, store: &Store, id: &JobId, takes: Takes) -> Result<Claim, Failure> {
    let worker = format!("pid {}", std::process::id());
    let now = Timestamp::now();
    Ok(match takes {
        Takes::Any => jobs::claim(store, &context.project, id, &worker, now).await?,
        Takes::Waiting => jobs::claim_waiting(store, &context.project, id, &worker, now).await?,
    })
}

/// Works on a job of this process until it ends, and says how it ended.
pub async fn run(context: &Context, store: &Store, id: &JobId, plan: Plan) -> Result<(), Failure> {
    let claim = take(context, store, id, Takes::Any).await?;
    run_claimed(context, store, claim, plan).await
}

/// Works on a job under a claim until it ends, and says how it ended.
pub async fn run_claimed(context: &Context, store: &Store, claim: Claim, plan: Plan) -> Result<(), Failure> {
    let outcome = carry_out(context, store, claim, plan).await?;
    say_done(context, &outcome)
}

/// Works on a job until it ends. Returns its `done` line.
pub async fn carry_out(
    context: &Context,
    store: &Store,
    claim: Claim,
    plan: Plan,
) -> Result<String, Failure> {
    let claim = Arc::new(claim);
    or_end(store, &claim, gate::rehearse(context, store, &plan).await).await?;
    let files = data_files::folder(store, &claim.project, &plan.base_dir)?;
    let observer = JobObserver::new(context, store, claim.clone())?;
    let control = context.control.clone();
    let (plan, result, wish) = tokio::task::spawn_blocking(move || {
        let mut observer = observer;
        let result = lyceum_train::train(&plan.spec, &files, &mut observer, &control);
        (plan, result, observer.close())
    })
    .await
    .map_err(|error| Failure::internal("training broke off", &error))?;
    match result {
        Ok(fitted) => publish(context, store, &claim, &plan, fitted).await,
        Err(error) => Err(ended(store, &claim, error, wish).await),
    }
}

/// Writes how a job ended that training gave up, and says what can be done.
pub async fn ended(store: &Store, claim: &Claim, error: TrainError, wish: Wish) -> Failure {
    let (id, now) = (claim.id(), Timestamp::now());
    let stopped = matches!(
        error,
        TrainError::Stopped { .. } | TrainError::Data(lyceum_train::data::DataError::Stopped(_))
    );
    let message = error.to_string();
    let ended = match (stopped, wish) {
        (true, Wish::Pause) => jobs::finish_paused(store, claim, &message, now).await,
        (true, Wish::End) => jobs::finish_cancelled(store, claim, &message, now).await,
        (false, _) => jobs::finish_failed(store, claim, &message, now).await,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the job's end was not written");
    }
    let mut failure = Failure::from(error);
    if failure.code == "disk_full" {
        failure.fix = format!("free some space, then lyceum jobs resume {id}; what was kept is whole");
    }
    if stopped {
        let kept = lyceum_train::checkpoint::list(&store.layout().checkpoints_dir(id));
        failure.fix = match kept {
            Ok(kept) if kept.is_empty() => {
                format!("no checkpoint was reached; lyceum jobs resume {id} begins anew")
            }
            _ => format!("lyceum jobs resume {id} continues from the last checkpoint, which was kept"),
        };
    }
    failure
}

/// Writes how a job ended that did not get to its version.
pub async fn end_failed(store: &Store, claim: &Claim, failure: &Failure) {
    let (now, message) = (Timestamp::now(), format!("{}: {}", failure.message, failure.why));
    let ended = match failure.exit {
        Exit::Interrupted => jobs::finish_cancelled(store, claim, &message, now).await,
        _ => jobs::finish_failed(store, claim, &message, now).await,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the job's end was not written");
    }
}

/// What came of a step of a job; where nothing did, that is the job's end, and it is written.
pub async fn or_end<T>(store: &Store, claim: &Claim, result: Result<T, Failure>) -> Result<T, Failure> {
    if let Err(failure) = &result {
        end_failed(store, claim, failure).await;
    }
    result
}

/// Makes a version visible together with its job's end. Returns it, and the `done` line, whose `model` and
/// `path` are filled in.
pub async fn finish(
    store: &Store,
    claim: &Claim,
    (new, staging): (NewVersion, Staging),
    write_manifest: impl FnMut(u32) -> Vec<u8>,
    mut done: Value,
) -> Result<(Version, String), Failure> {
    let mut line = String::new();
    let write_outcome = |version: &Version| {
        done["model"] = Value::from(version.id());
        done["path"] = Value::from(version.dir.display().to_string());
        line = done.to_string();
        line.clone()
    };
    let now = Timestamp::now();
    let version = jobs::finish_done(store, claim, new, staging, write_manifest, write_outcome, now).await?;
    Ok((version, line))
}

/// Writes the version's folder, lets its gate judge it, and makes it visible together with the job's end. Returns the
/// `done` line.
async fn publish(
    context: &Context,
    store: &Store,
    claim: &Claim,
    plan: &Plan,
    fitted: Fitted,
) -> Result<String, Failure> {
    let spec = &plan.spec;
    let created = Timestamp::now();
    let name = VersionName {
        name: spec.name.clone(),
        // The store gives the number; the manifest gets it there.
        version: 0,
        created: created.seconds().max(0) as u64,
        job: Some(claim.id().to_string()),
    };
    let VersionFiles { mut manifest, files } = version_files(spec, &fitted, &name)?;
    let staging = Staging::of(store, &claim.project)?;
    let mut weights = &[][..];
    for (file, content) in &files {
        let path = staging.place().join(file);
        path.write(content).map_err(|error| Failure::file("write", path.path(), &error))?;
        if file == WEIGHTS {
            weights = content;
        }
    }
    let mut new = NewVersion {
        name: spec.name.parse::<ModelName>()?,
        family: spec.model.family().to_owned(),
        task: spec.task.as_str().to_owned(),
        n_params: manifest.n_parameters,
        bytes: weights.len() as u64,
        sha256: manifest.weights_sha256.clone(),
        job: Some(claim.id().clone()),
        held: None,
    };
    let mut gated = match &spec.gate {
        None => None,
        Some(_) => {
            let fresh = Resident::unpublished(&new, manifest.clone(), weights, staging.place())?;
            let fresh = Arc::new(fresh);
            let judged = or_end(store, claim, gate::judge(context, store, plan, &fresh).await).await;
            let judged = judged.map_err(|mut failure| {
                failure.fix = format!("lyceum jobs resume {} measures again", claim.id());
                failure
            })?;
            judged.map(|judged| (fresh, judged))
        }
    };
    let result_file = or_end(store, claim, results::keep(store, claim).await).await?;
    new.held = gated.as_ref().and_then(|(_, judged)| judged.held.clone());
    let done = json!({
        "event": "done",
        "model": null,
        "job": claim.id().as_str(),
        "steps": manifest.steps,
        "seconds": manifest.seconds,
        "metrics": manifest.metrics,
        "baseline": manifest.baseline.as_ref().map(|report| &report.metrics),
        "baseline_name": manifest.baseline.as_ref().map(|report| &report.name),
        "strong_baseline": manifest.strong_baseline.as_ref().map(|report| &report.metrics),
        "strong_baseline_name": manifest.strong_baseline.as_ref().map(|report| &report.name),
        "verdict": manifest.verdict,
        "privacy": manifest.privacy,
        "gate": gated.as_ref().map(|(_, judged)| &judged.line),
        "result_file": result_file,
        "path": null,
    });
    let write_manifest = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let (version, line) = finish(store, claim, (new, staging), write_manifest, done).await?;
    if let Some((fresh, judged)) = &mut gated
        && let Some(fresh) = Arc::get_mut(fresh)
    {
        gate::keep(judged, fresh, &version, plan)?;
    }
    Ok(line)
}

/// The result of a finished job, from its `done` line.
pub fn say_done(context: &Context, outcome: &str) -> Result<(), Failure> {
    let done: Value = serde_json::from_str(outcome)
        .map_err(|error| Failure::internal("the outcome of the job cannot be read", &error))?;
    if context.is_json() {
        output::write_stdout(&format!("{outcome}\n"));
        return refuse_held(&done);
    }
    let text = |key: &str| done[key].as_str().unwrap_or_default().to_owned();
    output::text(format!("{}  {}", text("model"), text("path")));
    let number = |metrics: &Value, name: &str| {
        serde_json::from_value::<lyceum_types::manifest::Metric>(metrics[name].clone())
            .map_or_else(|_| String::new(), |metric| crate::commands::show::metric(&metric))
    };
    let rows: Vec<Vec<String>> = done["metrics"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| {
            let of = |key: &str| number(&done[key], name);
            vec![name.clone(), of("metrics"), of("baseline"), of("strong_baseline")]
        })
        .collect();
    let (trivial, strong) = (text("baseline_name"), text("strong_baseline_name"));
    output::table(&["metric", "model", &trivial, &strong], &rows);
    let verdict = text("verdict");
    if !verdict.is_empty() {
        output::text(verdict);
    }
    if done["gate"]["held"] == false {
        let why = done["gate"]["why"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        output::text(format!("its gate let it pass{why}"));
    }
    refuse_held(&done)
}

/// A version that its gate holds is a job that is done and a command that says no.
fn refuse_held(done: &Value) -> Result<(), Failure> {
    if done["gate"]["held"] != true {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (model, why) = (text(&done["model"]), text(&done["gate"]["why"]));
    let name = model.split('@').next().unwrap_or_default();
    let message =
        format!("{model} is held by its gate: {name} goes on serving {}", text(&done["gate"]["compared_to"]));
    // Only a fine-tuning has a base.
    let how =
        if done["base"].is_null() { "train with train.robust" } else { "tune it on more or other lines" };
    let fix = format!("{how}, or lyceum promote {model} to serve it all the same");
    Err(Failure::new(Exit::Failed, "gate_refused", message, why, fix))
}
