//! Adapters that a choice tunes over language models: kept in memory while it runs, and the one that is taken published as
//! a fine-tuning publishes its own.

use super::answers::{base, ended, question};
use crate::context::Context;
use crate::failure::Failure;
use crate::tuning;
use lyceum_choose::candidates::shortened;
use lyceum_choose::served::{AskError, Course, Lesson, Tuned};
use lyceum_service::Language;
use lyceum_service::decisions;
use lyceum_service::language::Added;
use lyceum_store::files::Staging;
use lyceum_store::jobs::{self, Claim};
use lyceum_store::models::Version;
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError};
use lyceum_train::Silent;
use lyceum_train::tune;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use lyceum_types::manifest::DataFile;
use lyceum_types::spec::choose::Imported;
use lyceum_types::spec::tune::{Auto, Origin, TunePlan, TuneSpec};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

/// How a tuned candidate's model is called: no model of a project can be.
const CALLED: &str = "tuned ";
/// The questions that labelled rows become.
const LINES: &str = "lines.jsonl";

/// What was tuned so far.
#[derive(Default)]
pub struct Adapters(Mutex<Vec<Arc<Made>>>);

/// A model with its adapter.
pub struct Made {
    /// As it is asked.
    pub language: Arc<Language>,
    over: Arc<Language>,
    tuned: tune::Tuned,
    plan: TunePlan,
    /// What the rows were read from; None: the lines that the plan names.
    files: Option<Vec<DataFile>>,
}

/// What is tuned.
pub struct What<'a> {
    pub language: &'a Arc<Language>,
    pub candidate: &'a Imported,
    /// Of the document's lines; nothing of it says how an adapter is tuned.
    pub spec: TuneSpec,
}

impl Adapters {
    /// The adapter that a candidate is called by.
    pub fn find(&self, candidate: &Imported) -> Option<Arc<Made>> {
        let number: usize = candidate.model.strip_prefix(CALLED)?.parse().ok()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(number).cloned()
    }

    pub fn tune(
        &self,
        what: What<'_>,
        (store, project, base_dir): (&Store, &Project, &KeyedPath),
        lesson: Lesson<'_>,
        course: Course,
        control: &Control,
    ) -> Result<Tuned, AskError> {
        let What { language, candidate, mut spec } = what;
        let own =
            candidate.tune.as_ref().ok_or_else(|| AskError::Failed("it has no adapter to tune".into()))?;
        spec.seed = course.seed;
        spec.lora = Some(own.lora.clone());
        (spec.train, spec.auto) = (own.train.clone(), own.auto);
        let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
        // Gone when the adapter is there.
        let staging = Staging::of(store, project).map_err(|error: StoreError| failed(&error))?;
        let (folder, files) = match lesson {
            Lesson::Lines => (base_dir.clone(), None),
            Lesson::Labelled { asked, texts, files } => {
                let question = question(asked);
                let line = |(text, label): &(String, u32)| {
                    let user = decisions::user_message(text, &question);
                    let said = &asked.labels[*label as usize];
                    json!({ "messages": [{ "role": "user", "content": user }, { "role": "assistant", "content": said }] })
                        .to_string()
                };
                let lines: Vec<String> = texts.iter().map(line).collect();
                let file = staging.place().join(LINES);
                file.write(lines.join("\n").as_bytes()).map_err(|error| failed(&error))?;
                (spec.data.train, spec.data.valid, spec.data.valid_fraction) = (LINES.to_owned(), None, None);
                spec.train = shortened(&spec.resolve(texts.len(), Origin::Whole), course.share);
                spec.auto = Auto::default();
                (staging.place(), Some(files.to_vec()))
            }
        };
        let tuned = tune::tune(&spec, base(language), folder, &mut Silent, control);
        let tuned = tuned.map_err(|error| ended(&error))?;
        let adapter = tuned.model.own_adapter();
        let adapter = Arc::new(adapter.ok_or_else(|| AskError::Failed("it learnt no adapter: bug".into()))?);
        let mut manifest = language.manifest.clone();
        manifest.n_parameters = tuned.n_trained;
        let version = Version { bytes: adapter.bytes() as u64, ..language.version.clone() };
        let with = Language {
            version,
            manifest,
            model: language.model.clone(),
            words: language.words.clone(),
            added: Some(Added { adapter, base: language.version.clone() }),
        };
        let plan = TunePlan {
            base: language.version.id(),
            base_sha256: language.version.sha256.clone(),
            base_dir: base_dir.path().to_owned(),
            created: Timestamp::now().seconds(),
            tune: spec,
        };
        let seconds = tuned.seconds;
        let (over, language) = (language.clone(), Arc::new(with));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let called = Imported { model: format!("{CALLED}{}", all.len()), ..candidate.clone() };
        all.push(Arc::new(Made { language, over, tuned, plan, files }));
        Ok(Tuned { candidate: called, seconds })
    }

    /// Publishes the adapter that was taken, as the first seed's training left it.
    pub async fn publish(
        &self,
        (context, store, claim): (&Context, &Store, &Claim),
        candidate: &Imported,
        name: &str,
    ) -> Result<Version, Failure> {
        let made = self
            .find(candidate)
            .ok_or_else(|| Failure::internal("the adapter is gone", &std::io::Error::other("bug")))?;
        let staging = Staging::of(store, &context.project)?;
        let written = tuning::write_version(&staging, claim, &made.over, (name, &made.tuned.model));
        let (new, mut manifest) = written?;
        let mut report = tuning::report(claim.id(), &made.plan, &made.tuned);
        if let Some(files) = &made.files {
            report.data.clone_from(files);
        }
        manifest.tuned = Some(report);
        tuning::hold_to_probes(staging.place(), &manifest, made.over.clone(), &made.tuned.probes).await?;
        let write = |number| {
            manifest.version = number;
            serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
        };
        Ok(jobs::made::publish(store, claim, new, staging, write, Timestamp::now()).await?)
    }
}
