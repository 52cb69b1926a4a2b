//! Checkpoints of a fine-tuning as models that can be asked: `NAME:ckpt-step-N`.
//!
//! While training goes on, the newest one becomes a version beside it, at most every [`SERVED_EVERY`], and one whose
//! checkpoint is gone is taken back; at the end those that are still kept are there ([`keep_last`]). A checkpoint's bytes
//! are a function of the job and the step, so whoever publishes it, an overtaken process too, publishes the same.
//!
//! A job with a gate has them held, to be asked by their numbers (`NAME:ckpt-step-N@1`): nothing has judged them, so no alias
//! may lead there around the gate. The end of the job lets them go where the gate lets its version pass.

use crate::failure::Failure;
use crate::training::JobObserver;
use crate::tuning::{base, write_version};
use lyceum_models::Model;
use lyceum_models::causal_lm::Adapter;
use lyceum_service::Language;
use lyceum_store::Store;
use lyceum_store::files::Staging;
use lyceum_store::jobs::{Claim, made};
use lyceum_store::models;
use lyceum_store::vault::{self, KeyedPath};
use lyceum_train::checkpoint;
use lyceum_train::tune::{Tuned, untrained};
use lyceum_types::clock::Timestamp;
use lyceum_types::manifest::PrivacyReport;
use lyceum_types::spec::tune::TunePlan;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Publishing takes a processor from training for an instant, and the disk a flush.
const SERVED_EVERY: Duration = Duration::from_secs(5);

/// Why a checkpoint is held until its job has ended.
const UNJUDGED: &str = "it is a checkpoint of a job with a gate, which has not let pass what the job makes";

/// What is tuned, and how.
type Tuning = (TunePlan, Arc<Language>, Option<Arc<Adapter>>);

/// Publishes the newest checkpoint of a job from now on, until the observer is closed.
pub fn serve(store: Store, claim: Arc<Claim>, tuning: Tuning, observer: &mut JobObserver) -> JoinHandle<()> {
    let (sender, kept) = watch::channel(None);
    observer.tell_kept(sender);
    tokio::runtime::Handle::current().spawn(work(store, claim, tuning, kept))
}

async fn work(store: Store, claim: Arc<Claim>, tuning: Tuning, mut kept: watch::Receiver<Option<KeyedPath>>) {
    while kept.changed().await.is_ok() {
        let Some(path) = kept.borrow_and_update().clone() else { continue };
        match publish_newest(&store, &claim, &tuning, &path).await {
            Ok(()) => {}
            // Training removes old checkpoints without asking; the next one comes.
            Err(_) if !path.exists() => {}
            Err(failure) => {
                let (message, why) = (&failure.message, &failure.why);
                tracing::warn!(message, why, "a checkpoint is not served before the job ends");
            }
        }
        let until = Instant::now() + SERVED_EVERY;
        let mut has_newer = false;
        while let Ok(told) = timeout_at(until, kept.changed()).await {
            if told.is_err() {
                return;
            }
            has_newer = true;
        }
        if has_newer {
            kept.mark_changed();
        }
    }
}

async fn publish_newest(
    store: &Store,
    claim: &Claim,
    tuning: &Tuning,
    path: &KeyedPath,
) -> Result<(), Failure> {
    let (plan, language, adapter) = tuning;
    let read = {
        let (plan, language, adapter) = (plan.clone(), language.clone(), adapter.clone());
        let path = path.clone();
        move || -> Result<(u64, Model), Failure> {
            let mut model = untrained(&plan.tune, base(&language, adapter, &plan))?;
            let step = checkpoint::parameters(&path, &mut model.params)?;
            Ok((step, model))
        }
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (step, model) = read.map_err(|error| Failure::internal("a checkpoint was not read", &error))??;
    publish(store, claim, plan, language, (step, &model, None)).await?;
    let mut wanted: BTreeSet<u64> = steps(store, claim)?.into_iter().map(|(step, _)| step).collect();
    wanted.insert(step);
    withdraw_others(store, claim, plan, &wanted).await
}

/// Leaves the checkpoints that were kept as versions, and no other. The last one is the tuned model itself, unless an
/// earlier step was better.
pub async fn keep_last(
    store: &Store,
    claim: &Claim,
    plan: &TunePlan,
    language: &Arc<Language>,
    tuned: &Tuned,
) -> Result<(), Failure> {
    let is_last = |step: u64| step == tuned.steps && tuned.train.early_stopping.is_none();
    let mut wanted = BTreeSet::new();
    for (step, path) in steps(store, claim)?.into_iter().filter(|(step, _)| !is_last(*step)) {
        let mut model = tuned.model.clone();
        checkpoint::parameters(&path, &mut model.params)?;
        publish(store, claim, plan, language, (step, &model, tuned.privacy.as_ref())).await?;
        wanted.insert(step);
    }
    withdraw_others(store, claim, plan, &wanted).await
}

/// The checkpoints on the disk, oldest first.
fn steps(store: &Store, claim: &Claim) -> Result<Vec<(u64, KeyedPath)>, Failure> {
    let folder = vault::job_folder(store, &claim.project, claim.id())?;
    let kept = checkpoint::list(folder.join("checkpoints"))?;
    let step = |path: KeyedPath| {
        let name = path.path().file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some((name, path))
    };
    Ok(kept.into_iter().filter_map(step).collect())
}

/// Makes a model at a step a version of a name of its own.
async fn publish(
    store: &Store,
    claim: &Claim,
    plan: &TunePlan,
    language: &Arc<Language>,
    (step, model, privacy): (u64, &Model, Option<&PrivacyReport>),
) -> Result<(), Failure> {
    let name = format!("{}:ckpt-step-{step}", plan.tune.name);
    let staging = Staging::of(store, &claim.project)?;
    let (mut new, mut manifest) = write_version(&staging, claim, language, (&name, model))?;
    new.held = plan.tune.gate.as_ref().map(|_| UNJUDGED.to_owned());
    // Fewer steps than all, whose promise covers every model on the way.
    manifest.privacy = privacy.cloned();
    let mut all = models::list(store, &claim.project).await?;
    all.retain(|version| version.name == new.name);
    // It was made while the job ran, or by an attempt that died.
    if let Some(known) = all.last().filter(|known| known.sha256 == new.sha256)
        && models::have(store, known).await.is_ok()
    {
        return Ok(());
    }
    Language::unpublished(staging.place(), manifest.clone(), language)?;
    let write_manifest = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    made::publish(store, claim, new, staging, write_manifest, Timestamp::now()).await?;
    Ok(())
}

async fn withdraw_others(
    store: &Store,
    claim: &Claim,
    plan: &TunePlan,
    wanted: &BTreeSet<u64>,
) -> Result<(), Failure> {
    let prefix = format!("{}:ckpt-step-", plan.tune.name);
    for version in models::list(store, &claim.project).await? {
        let step: Option<u64> =
            version.name.as_str().strip_prefix(&prefix).and_then(|step| step.parse().ok());
        if step.is_some_and(|step| !wanted.contains(&step)) {
            models::withdraw(store, &claim.project, &version).await?;
        }
    }
    Ok(())
}
