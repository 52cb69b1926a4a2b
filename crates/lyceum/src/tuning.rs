//! A fine-tuning from its row to its version: what `train` does with a spec whose family is an imported model.
//!
//! The base is resolved when the job is made and held to its hash from then on. What is published is an adapter in
//! PEFT's layout beside a manifest that names the base, the data and the job; it is served over its base at once.

use crate::bucket::{self, Lease};
use crate::checkpoints;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::gate::{self, Judged, Watch};
use crate::results;
use crate::training::{self, JobObserver};
use lyceum_models::Model;
use lyceum_models::causal_lm::Adapter;
use lyceum_models::probe::Probe;
use lyceum_service::Language;
use lyceum_service::language::adapter;
use lyceum_store::files::Staging;
use lyceum_store::jobs::{self, Claim, Job};
use lyceum_store::layout::WEIGHTS;
use lyceum_store::models::{self, NewVersion, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, data_files};
use lyceum_train::chat::Words;
use lyceum_train::tune::{Base, Tuned, tune};
use lyceum_train::version::withhold_tuned;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, ModelName, ModelRef};
use lyceum_types::manifest::{
    ADAPTER_FILES, Base as ManifestBase, DESCRIPTION_FILES, FORMAT_VERSION, ImportedKind, ImportedManifest,
    TunedReport,
};
use lyceum_types::spec::tune::{TunePlan, TuneSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The plan that a job was made with; None where it is no fine-tuning.
pub fn plan_of(job: &Job) -> Option<TunePlan> {
    serde_json::from_str(&job.spec).ok()
}

/// A spec with the version that its base means now.
pub async fn plan(
    context: &Context,
    store: &Store,
    tune: TuneSpec,
    base_dir: PathBuf,
) -> Result<TunePlan, Failure> {
    let reference: ModelRef = tune.base.parse()?;
    let version = match models::shares::ask(store, &context.project, &reference).await {
        Ok(version) => version,
        Err(error) => {
            let mut failure = context.explain(store, error).await;
            failure.place.key = Some("model.family".into());
            failure.why = format!(
                "{}; it is no family that is trained from the start either ({})",
                failure.why,
                lyceum_types::spec::ModelSpec::FAMILIES.join(", ")
            );
            return Err(failure);
        }
    };
    if !speaks(&version) {
        let message = format!("{} cannot be fine-tuned", version.id());
        let why = "only language models that were imported, and their adapters, can";
        let fix = "lyceum import a language model, and write its name as the family";
        return Err(Failure::new(Exit::Usage, "unsupported_base", message, why, fix));
    }
    let created = Timestamp::now().seconds();
    Ok(TunePlan { tune, base_dir, base: version.id(), base_sha256: version.sha256, created })
}

/// Whether a version is a language model that was imported, or an adapter of one.
pub fn speaks(version: &Version) -> bool {
    let continues =
        [ImportedKind::Language, ImportedKind::Adapter].iter().any(|kind| version.task == kind.task());
    lyceum_service::language::is_imported(version) && continues
}

/// The version that a plan's base is.
pub async fn base_of(context: &Context, store: &Store, plan: &TunePlan) -> Result<Version, Failure> {
    let version = models::shares::ask(store, &context.project, &plan.base.parse()?).await?;
    if version.sha256 != plan.base_sha256 {
        let message = format!("{} is not the model that this job began with", plan.base);
        let why = format!("its weights have the sha256 {}, the job's {}", version.sha256, plan.base_sha256);
        return Err(Failure::new(Exit::Failed, "base_changed", message, why, "train anew from the spec"));
    }
    Ok(version)
}

/// What turns the base's conversations into tokens.
pub fn words<'a>(language: &'a Language, plan: &TunePlan) -> Words<'a> {
    let words = &language.words;
    Words { tokenizer: &words.tokenizer, template: words.template.as_ref(), now: plan.created }
}

/// Puts a new job into the store.
pub async fn create(context: &Context, store: &Store, plan: &TunePlan) -> Result<JobId, Failure> {
    gate::tuned::rehearse(context, store, plan).await?;
    let spec = serde_json::to_string(plan).expect("a plan is plain data: bug");
    let steps = plan.tune.train.steps.unwrap_or(0) as u64;
    let new = jobs::NewJob {
        kind: jobs::Kind::Train,
        spec,
        request: None,
        model: plan.tune.name.clone(),
        steps,
        bill: None,
    };
    Ok(jobs::create(store, &context.project, new, Timestamp::now()).await?)
}

/// Works on a job under a claim until it ends, and says how it ended.
pub async fn run(context: &Context, store: &Store, claim: Claim, plan: TunePlan) -> Result<(), Failure> {
    let outcome = carry_out(context, store, claim, plan).await?;
    training::say_done(context, &outcome)
}

/// Works on a job until it ends. Returns its `done` line.
async fn carry_out(
    context: &Context,
    store: &Store,
    claim: Claim,
    plan: TunePlan,
) -> Result<String, Failure> {
    let claim = Arc::new(claim);
    // First: what follows may fetch the base, for longer than the claim alone holds.
    let _lease = Lease::hold(store, &claim);
    let found = async {
        let version = base_of(context, store, &plan).await?;
        let whole = whole_of(store, &version).await?;
        Ok((version, whole))
    };
    let (version, whole) = match found.await {
        Ok(found) => found,
        Err(failure) => {
            training::end_failed(store, &claim, &failure).await;
            return Err(failure);
        }
    };
    let files = data_files::folder(store, &claim.project, &plan.base_dir)?;
    let mut observer = JobObserver::begin(context, store, &claim).await?;
    // Its noise is a secret of this machine.
    let bringing = plan.tune.privacy.is_none().then(|| bucket::bring(store, &claim, &mut observer));
    let control = context.control.clone();
    let (of_checkpoints, owner) = (store.clone(), claim.clone());
    let worked = tokio::task::spawn_blocking(move || {
        let mut observer = observer;
        let mut serving = None;
        let result = match open(version, whole) {
            Err(failure) => Err(Broken::Base(failure)),
            Ok((language, None)) if plan.tune.lora.is_none() && language.manifest.format != "safetensors" => {
                let message = format!("{} cannot be trained whole", plan.base);
                let why = "it came as GGUF, whose description of the tuned model would be the file itself";
                let fix = "add lora = { rank = 8 } under [model], or import the model as safetensors";
                Err(Broken::Base(Failure::new(Exit::Usage, "unsupported_base", message, why, fix)))
            }
            Ok((language, adapter)) => {
                // What a private run promises holds for its end: nothing of it is shown before.
                if plan.tune.name.starts_with("ft:") && plan.tune.privacy.is_none() {
                    let of = (plan.clone(), language.clone(), adapter.clone());
                    serving = Some(checkpoints::serve(of_checkpoints, owner, of, &mut observer));
                }
                let base = base(&language, adapter.clone(), &plan);
                let tuned = tune(&plan.tune, base, &files, &mut observer, &control);
                tuned.map(|tuned| (language, adapter, tuned)).map_err(Broken::Training)
            }
        };
        (plan, result, observer.close(), serving)
    });
    let (plan, result, wish, serving) =
        worked.await.map_err(|error| Failure::internal("training broke off", &error))?;
    if let Some(serving) = serving {
        // The observer is closed: it ends with what it is about.
        serving.await.map_err(|error| Failure::internal("serving checkpoints broke off", &error))?;
    }
    let ended = match &result {
        Ok(_) => bucket::Ended::Done,
        Err(Broken::Training(error)) => bucket::Ended::of_error(error, wish),
        Err(Broken::Base(_)) => bucket::Ended::Otherwise,
    };
    bucket::brought(bringing, ended, (store, &claim, &context.control)).await;
    match result {
        Ok((language, adapter, tuned)) => {
            let began = gate::tuned::Began { language: &language, adapter: adapter.as_ref() };
            let mut watch = Watch::new(context, store, &claim);
            let judged = gate::tuned::judge(context, store, (&plan, &tuned), (began, &mut watch)).await;
            let judged = match judged {
                Ok(judged) => judged,
                Err(failure) => {
                    training::end_wished(store, &claim, &failure, watch.wish()).await;
                    return Err(failure);
                }
            };
            publish(context, store, (&claim, &plan), language, (tuned, judged, watch)).await
        }
        Err(Broken::Training(error)) => Err(training::ended(store, &claim, error, wish).await),
        Err(Broken::Base(failure)) => {
            training::end_failed(store, &claim, &failure).await;
            Err(failure)
        }
    }
}

/// What is tuned.
pub fn base<'a>(language: &'a Language, adapter: Option<Arc<Adapter>>, plan: &TunePlan) -> Base<'a> {
    Base {
        model: (*language.model).clone(),
        adapter,
        words: words(language, plan),
        id: plan.base.clone(),
        sha256: plan.base_sha256.clone(),
    }
}

/// The whole model that a version is, or adds to.
pub async fn whole_of(store: &Store, version: &Version) -> Result<Version, Failure> {
    match adapter::is_adapter(version) {
        true => Ok(adapter::base_of(store, version).await?),
        false => Ok(version.clone()),
    }
}

/// Opens the whole model, and the adapter that a version is.
fn open(version: Version, whole: Version) -> Result<(Arc<Language>, Option<Arc<Adapter>>), Failure> {
    let language = Arc::new(Language::open(whole)?);
    if !adapter::is_adapter(&version) {
        return Ok((language, None));
    }
    let added = adapter::read(version, &language)?.added;
    Ok((language, added.map(|added| added.adapter)))
}

enum Broken {
    Base(Failure),
    Training(lyceum_train::TrainError),
}

/// Writes the adapter's folder, holds what is served to what training said, and makes it visible together with the
/// job's end. Returns the `done` line.
async fn publish(
    context: &Context,
    store: &Store,
    (claim, plan): (&Claim, &TunePlan),
    language: Arc<Language>,
    (tuned, mut judged, mut watch): (Tuned, Option<Judged>, Watch<'_>),
) -> Result<String, Failure> {
    let staging = Staging::of(store, &claim.project)?;
    let (mut new, mut manifest) = write_version(&staging, claim, &language, (&plan.tune.name, &tuned.model))?;
    manifest.tuned = Some(report(claim.id(), plan, &tuned));
    manifest.privacy = tuned.privacy.clone();
    if let (Some(report), Some(privacy), Some(declared)) =
        (&mut manifest.tuned, &mut manifest.privacy, &plan.tune.privacy)
    {
        withhold_tuned(report, privacy, declared);
    }
    if plan.tune.name.starts_with("ft:")
        && let Err(failure) = checkpoints::keep_last(store, claim, plan, &language, &tuned).await
    {
        training::end_failed(store, claim, &failure).await;
        return Err(failure);
    }
    let held = hold_to_probes(staging.place(), &manifest, language, &tuned.probes).await;
    let tried = match (held, &mut judged) {
        (Ok(mut fresh), Some(judged)) => {
            (fresh.version.name, fresh.version.sha256) = (new.name.clone(), new.sha256.clone());
            fresh.version.task.clone_from(&new.task);
            gate::tried::judge(context, store, plan, fresh, (judged, &mut watch)).await
        }
        (Ok(_), None) => Ok(()),
        (Err(failure), _) => Err(failure),
    };
    if let Err(failure) = tried {
        training::end_wished(store, claim, &failure, watch.wish()).await;
        return Err(failure);
    }
    new.held = judged.as_ref().and_then(|judged| judged.held.clone());
    let report = manifest.tuned.clone().expect("made above: bug");
    let result_file = match results::keep(store, claim).await {
        Ok(file) => file,
        Err(failure) => {
            training::end_failed(store, claim, &failure).await;
            return Err(failure);
        }
    };
    let mut done = json!({
        "event": "done",
        "model": null,
        "job": claim.id().as_str(),
        "base": plan.base,
        "steps": report.steps,
        "seconds": report.seconds,
        "n_trained": report.n_trained,
        "trained_tokens": tuned.trained_tokens,
        "metrics": report.metrics,
        "baseline": report.base_metrics,
        "baseline_name": "base",
        "strong_baseline": null,
        "strong_baseline_name": null,
        "verdict": report.verdict,
        "privacy": manifest.privacy,
        "gate": judged.as_ref().map(|judged| &judged.line),
        "result_file": result_file,
        "path": null,
    });
    let write_manifest = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let mut line = String::new();
    let write_outcome = |version: &Version| {
        done["model"] = Value::from(version.id());
        done["path"] = Value::from(version.dir.display().to_string());
        line = done.to_string();
        line.clone()
    };
    let version =
        jobs::finish_done(store, claim, new, staging, write_manifest, write_outcome, Timestamp::now())
            .await?;
    if let Some(run) = judged.as_ref().and_then(|judged| judged.tried.as_ref()) {
        gate::tried::keep(store, run, &version, plan).await?;
    }
    Ok(line)
}

/// What a manifest says of a fine-tuning.
pub fn report(job: &JobId, plan: &TunePlan, tuned: &Tuned) -> TunedReport {
    TunedReport {
        job: job.to_string(),
        base: ManifestBase { model: plan.base.clone(), sha256: plan.base_sha256.clone(), loaded_as: None },
        spec: plan.tune.clone(),
        train: tuned.train.clone(),
        data: tuned.chats.files.clone(),
        split: tuned.chats.split.clone(),
        metrics: tuned.metrics.clone(),
        base_metrics: tuned.base_metrics.clone(),
        verdict: tuned.verdict.as_ref().map(|verdict| verdict.sentence.clone()),
        steps: tuned.steps,
        seconds: tuned.seconds,
        n_trained: tuned.n_trained,
        probes: serde_json::to_value(&tuned.probes).expect("probes are plain data: bug"),
    }
}

/// Writes a model's files into a folder that is to be a version; its row, and its manifest without what training says.
pub fn write_version(
    staging: &Staging,
    claim: &Claim,
    language: &Language,
    (name, model): (&str, &Model),
) -> Result<(NewVersion, ImportedManifest), Failure> {
    let written = match model.own_adapter() {
        Some(adapter) => write_adapter(&staging.place(), &adapter, language)?,
        None => write_whole(&staging.place(), language, model)?,
    };
    let new = NewVersion {
        name: name.parse::<ModelName>()?,
        family: language.manifest.family.clone(),
        task: written.kind.task().to_owned(),
        n_params: written.n_parameters,
        bytes: written.bytes,
        sha256: written.sha256,
        job: Some(claim.id().clone()),
        held: None,
    };
    let base = ManifestBase {
        model: language.version.id(),
        sha256: language.version.sha256.clone(),
        loaded_as: language.added.is_none().then(|| language.manifest.loaded_as().to_owned()),
    };
    let manifest = ImportedManifest {
        format_version: FORMAT_VERSION,
        kind: written.kind,
        name: name.to_owned(),
        version: 0,
        created: Timestamp::now().seconds().max(0) as u64,
        source: format!("job {}", claim.id()),
        format: written.format.to_owned(),
        family: language.manifest.family.clone(),
        n_parameters: written.n_parameters,
        quant: None,
        context: language.manifest.context,
        licence: language.manifest.licence.clone(),
        files: written.files,
        base: (written.kind == ImportedKind::Adapter).then_some(base),
        tuned: None,
        privacy: None,
    };
    Ok((new, manifest))
}

/// The files of a version, before its manifest.
struct Written {
    kind: ImportedKind,
    format: &'static str,
    /// Names with sha256.
    files: BTreeMap<String, String>,
    /// Of the weights.
    sha256: String,
    bytes: u64,
    n_parameters: u64,
}

fn write(
    dir: &KeyedPath,
    name: &str,
    content: &[u8],
    files: &mut BTreeMap<String, String>,
) -> Result<String, Failure> {
    let path = dir.join(name);
    path.write(content).map_err(|error| Failure::file("write", path.path(), &error))?;
    let sha256 = lyceum_train::checkpoint::digest(content);
    files.insert(name.to_owned(), sha256.clone());
    Ok(sha256)
}

/// PEFT's layout.
fn write_adapter(dir: &KeyedPath, adapter: &Adapter, language: &Language) -> Result<Written, Failure> {
    let mut files = BTreeMap::new();
    let broken = |error: &lyceum_nn::NnError| Failure::internal("the adapter cannot be written", error);
    let lyceum_models::causal_lm::adapter::Files { mut description, weights } =
        adapter.to_peft().map_err(|error| broken(&error))?;
    description["base_model_name_or_path"] = language.version.id().into();
    let description = serde_json::to_vec_pretty(&description).expect("plain data: bug");
    let [description_name, weights_name, _] = ADAPTER_FILES;
    write(dir, description_name, &description, &mut files)?;
    let sha256 = write(dir, weights_name, &weights, &mut files)?;
    let numbers = adapter.params.ids().map(|id| adapter.params.shape(id).len() as u64).sum();
    let bytes = weights.len() as u64;
    Ok(Written { kind: ImportedKind::Adapter, format: "peft", files, sha256, bytes, n_parameters: numbers })
}

/// Hugging Face's layout: the base's descriptions beside the new weights.
fn write_whole(dir: &KeyedPath, language: &Language, model: &Model) -> Result<Written, Failure> {
    let mut files = BTreeMap::new();
    // The index names the base's shards.
    for name in DESCRIPTION_FILES.into_iter().filter(|name| *name != "model.safetensors.index.json") {
        let path = language.version.dir.join(name);
        if path.is_file() {
            let content = path.read().map_err(|error| Failure::file("read", path.path(), &error))?;
            if let Some(parent) = dir.path().join(name).parent() {
                std::fs::create_dir_all(parent).map_err(|error| Failure::file("make", parent, &error))?;
            }
            write(dir, name, &content, &mut files)?;
        }
    }
    let weights = model
        .language_safetensors()
        .map_err(|error| Failure::internal("the weights cannot be written", &error))?;
    let sha256 = write(dir, WEIGHTS, &weights, &mut files)?;
    let params = &model.params;
    let numbers = params.ids().map(|id| params.shape(id).len() as u64).sum();
    let bytes = weights.len() as u64;
    Ok(Written {
        kind: ImportedKind::Language,
        format: "safetensors",
        files,
        sha256,
        bytes,
        n_parameters: numbers,
    })
}

/// Opens the new version as a server will, and asks it what was asked when training ended.
pub async fn hold_to_probes(
    dir: KeyedPath,
    manifest: &ImportedManifest,
    base: Arc<Language>,
    probes: &[Probe],
) -> Result<Language, Failure> {
    let (manifest, probes) = (manifest.clone(), probes.to_vec());
    let work = move || -> Result<(f32, Language), Failure> {
        let served = Language::unpublished(&dir, manifest, &base)?;
        let adapter = served.added.as_ref().map(|added| &*added.adapter);
        let mut worst = 0f32;
        for probe in &probes {
            let logits = lyceum_models::probe::served(&served.model, adapter, &probe.ids)
                .map_err(|error| Failure::internal("a probe failed", &error))?;
            worst = worst.max(probe.difference(&logits));
        }
        Ok((worst, served))
    };
    let worst = tokio::task::spawn_blocking(work).await;
    let (worst, served) = worst.map_err(|error| Failure::internal("the probes broke off", &error))??;
    if worst.is_nan() || worst > lyceum_models::probe::TOLERANCE {
        let message = "the tuned model does not say when served what it said when it was trained";
        let why = format!(
            "a log-probability differs by {worst}; at most {} is let pass",
            lyceum_models::probe::TOLERANCE
        );
        let fix = "this is a defect of the program: report it, and serve the last checkpoint's adapter by importing it";
        return Err(Failure::new(Exit::Failed, "probes", message, why, fix));
    }
    Ok(served)
}

#[cfg(test)]
#[path = "../../lyceum-api/tests/api/tiny.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "other tests use the rest, and say what they expect by unwrapping"
)]
mod tiny;

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::causal_lm::adapter::AdapterConfig;
    use lyceum_service::language::import::{Import, import};
    use lyceum_service::language::open::Layout;
    use lyceum_types::control::Control;
    use lyceum_types::ids::Project;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_tuned_model_that_does_not_say_what_it_said_in_training_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = lyceum_store::Layout::new(folder.path().join("data"));
        let store = Store::open(layout, Timestamp::now()).await.unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, tiny::tiny_gguf()).unwrap();
        let name: ModelName = "tiny".parse().unwrap();
        let layout = Layout { quant: None, context: Some(512) };
        let request = Import { path, name, source: "test".into(), layout, licence: None };
        let project = Project::default_project();
        let act = lyceum_store::tenancy::Act::of_command_line(Timestamp::now());
        import(&store, &project, request, &Control::new(), &act).await.unwrap();
        let version = models::resolve(&store, &project, &"tiny".parse().unwrap()).await.unwrap();
        let base = Arc::new(Language::open(version).unwrap());

        // As training leaves it: an adapter in its files, and what the model said with it.
        let trained = base.model.learning(&AdapterConfig::new(2, 4.0), 7).unwrap();
        let probes: Vec<Probe> =
            (1..4).map(|n| Probe::record(&trained, (40..40 + 5 * n).collect()).unwrap()).collect();
        let dir = KeyedPath::plain(folder.path().join("made"));
        std::fs::create_dir(dir.path()).unwrap();
        let written = write_adapter(&dir, &trained.own_adapter().unwrap(), &base).unwrap();
        let manifest = ImportedManifest { kind: written.kind, files: written.files, ..base.manifest.clone() };
        let held = async || hold_to_probes(dir.clone(), &manifest, base.clone(), &probes).await;
        held().await.unwrap();

        // Other factors between training and publishing.
        let weights = dir.path().join(ADAPTER_FILES[1]);
        let mut bytes = std::fs::read(&weights).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&0.5f32.to_le_bytes()));
        std::fs::write(&weights, &bytes).unwrap();
        let refused = held().await.err().expect("it says something else");
        assert_eq!((refused.code.as_ref(), refused.exit), ("probes", Exit::Failed), "{refused:?}");
        // Numbers that are none.
        bytes[header..]
            .chunks_exact_mut(4)
            .for_each(|number| number.copy_from_slice(&f32::NAN.to_le_bytes()));
        std::fs::write(&weights, &bytes).unwrap();
        assert!(held().await.is_err());
    }
}
