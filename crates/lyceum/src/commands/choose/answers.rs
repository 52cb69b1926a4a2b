//! Candidates that exist, asked by the code that answers `POST /v1/decisions` (or that measures fine-tunings): in this process, with an engine of its own.

use super::adapters::{self, Adapters};
use crate::context::Context;
use crate::failure::Failure;
use futures_util::{StreamExt, TryStreamExt};
use lyceum_choose::served::{AskError, Asked, Course, Decided, Facts, How, Lesson, Lines, Served, Tuned};
use lyceum_engine::{BitMask, Event, Flow, GenerateRequest, Tenant, TokenMask};
use lyceum_kernels::attention::paged::PAGE;
use lyceum_nn::ops::cached_attention::KvStorage;
use lyceum_service::decisions::{self, Answer, ChoiceValue, Kind, Question};
use lyceum_service::{Content, Language, Payer, Service, ServiceError};
use lyceum_store::Store;
use lyceum_store::models::Version;
use lyceum_store::vault::KeyedPath;
use lyceum_train::TrainError;
use lyceum_train::chat::Words;
use lyceum_train::data::DataError;
use lyceum_train::tune::{Base, OnRows, on_rows};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use lyceum_types::spec::choose::{ChooseSpec, Imported};
use lyceum_types::spec::tune::{Auto, Method, TooLong, TuneData, TuneSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use tokio::runtime::Handle;

/// Texts that a candidate is asked about at once.
const AT_ONCE: usize = 8;

/// Whoever answers for models of a project.
pub struct Answers {
    service: Arc<Service>,
    project: Project,
    kv_storage: KvStorage,
    runtime: Handle,
    /// The versions that names meant when the choice began.
    pinned: Mutex<BTreeMap<String, ModelRef>>,
    /// Adapters that were tuned for the choice, by number.
    tuned: Adapters,
}

impl Answers {
    /// Adapters that were tuned for the choice.
    pub fn adapters(&self) -> &Adapters {
        &self.tuned
    }

    pub fn start(context: &Context, store: &Store) -> Result<Self, Failure> {
        Ok(Answers {
            service: crate::assemble::service(&context.config, store.clone())?,
            project: context.project.clone(),
            kv_storage: context.config.serving.engine_limits().kv_storage,
            runtime: Handle::current(),
            pinned: Mutex::default(),
            tuned: Adapters::default(),
        })
    }

    /// The version that a candidate is, the same for the whole choice.
    fn reference(&self, candidate: &Imported) -> Result<ModelRef, AskError> {
        let mut pinned = self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = pinned.get(&candidate.model) {
            return Ok(found.clone());
        }
        let asked: ModelRef = candidate
            .model
            .parse()
            .map_err(|error| AskError::Failed(format!("{}: {error}", candidate.model)))?;
        let find = lyceum_store::models::shares::ask(self.service.store(), &self.project, &asked);
        let version = self.runtime.block_on(find).map_err(|error| AskError::Failed(error.to_string()))?;
        if !crate::tuning::speaks(&version) {
            let message = format!("{} is no imported language model, nor a fine-tune of one", version.id());
            return Err(AskError::Failed(message));
        }
        let reference = ModelRef { name: version.name, version: VersionRef::Number(version.number) };
        pinned.insert(candidate.model.clone(), reference.clone());
        Ok(reference)
    }

    fn language(&self, candidate: &Imported) -> Result<Arc<Language>, AskError> {
        if let Some(found) = self.tuned.find(candidate) {
            return Ok(found.language.clone());
        }
        let reference = self.reference(candidate)?;
        self.runtime.block_on(self.service.language(&self.project, &reference)).map_err(failed)
    }
}

/// A model as training reads it.
pub(super) fn base(language: &Language) -> Base<'_> {
    let words = &language.words;
    Base {
        model: (*language.model).clone(),
        adapter: language.added.as_ref().map(|added| added.adapter.clone()),
        words: Words {
            tokenizer: &words.tokenizer,
            template: words.template.as_ref(),
            now: Timestamp::now().seconds(),
        },
        id: language.version.id(),
        sha256: language.version.sha256.clone(),
    }
}

pub(super) fn ended(error: &TrainError) -> AskError {
    match error {
        TrainError::Stopped { stop, .. } | TrainError::Data(DataError::Stopped(stop)) => {
            AskError::Stopped(*stop)
        }
        error => AskError::Failed(error.to_string()),
    }
}

fn failed(error: ServiceError) -> AskError {
    AskError::Failed(error.to_string())
}

impl Served for Answers {
    fn facts(&self, candidate: &Imported) -> Result<Facts, AskError> {
        let language = self.language(candidate)?;
        let (version, manifest) = (&language.version, &language.manifest);
        let page = language
            .model
            .kv_shape(1, self.kv_storage)
            .ok_or_else(|| AskError::Failed(format!("{} keeps no keys and values", version.id())))?
            .page_bytes();
        let added = language.added.as_ref();
        let base = added.map(|added| &added.base);
        let tuned = manifest.tuned.as_ref().map(|tuned| tuned.base.model.clone());
        Ok(Facts {
            model: match candidate.tune.is_some() && self.tuned.find(candidate).is_some() {
                true => {
                    format!("{} with an adapter of this race", base.map_or_else(String::new, Version::id))
                }
                false => version.id(),
            },
            family: version.family.clone(),
            parameters: manifest.n_parameters + base.map_or(0, |base| base.n_params),
            weights_bytes: (language.model.params.bytes() + added.map_or(0, |added| added.adapter.bytes()))
                as u64,
            kv_bytes_per_token: page.div_ceil(PAGE) as u64,
            disk_bytes: version.bytes + base.map_or(0, |base| base.bytes),
            licence: manifest.licence.clone(),
            parents: base.map(Version::id).or(tuned).into_iter().collect(),
        })
    }

    fn operations(&self, candidate: &Imported, n_tokens: usize) -> Result<u64, AskError> {
        Ok(self.language(candidate)?.model.operations_of(n_tokens))
    }

    fn decide(
        &self,
        candidate: &Imported,
        asked: &Asked,
        texts: &[&str],
        how: How<'_>,
    ) -> Result<Vec<Decided>, AskError> {
        let language = self.language(candidate)?;
        let payer = Payer::local(&self.project).apart(how.apart);
        let one = async |text: &&str| {
            how.control.check().map_err(AskError::Stopped)?;
            let request = request(&language, asked, text);
            let decision = decisions::by_language(&self.service, &payer, language.clone(), request).await;
            decided(decision.map_err(failed)?)
        };
        let all = futures_util::stream::iter(texts).map(one).buffered(AT_ONCE).try_collect();
        self.runtime.block_on(all)
    }

    fn read(
        &self,
        candidate: &Imported,
        (choice, lines): (&ChooseSpec, Lines),
        base_dir: &KeyedPath,
        control: &Control,
    ) -> Result<OnRows, AskError> {
        let language = self.language(candidate)?;
        let spec = tune_spec(choice, candidate, lines);
        on_rows(&spec, &base(&language), base_dir, control).map_err(|error| ended(&error))
    }

    fn tune(
        &self,
        candidate: &Imported,
        (choice, base_dir): (&ChooseSpec, &KeyedPath),
        lesson: Lesson<'_>,
        course: Course,
        control: &Control,
    ) -> Result<Tuned, AskError> {
        let language = self.language(candidate)?;
        let spec = tune_spec(choice, candidate, Lines::HeldOut);
        let what = adapters::What { language: &language, candidate, spec };
        let place = (self.service.store(), &self.project, base_dir);
        self.tuned.tune(what, place, lesson, course, control)
    }

    fn say(&self, candidate: &Imported, prompt: &[u32], answer: &[u32], apart: u64) -> Result<(), AskError> {
        let language = self.language(candidate)?;
        let (tell, told) = mpsc::channel();
        let sink = Box::new(move |event| match tell.send(event) {
            Ok(()) => Flow::Continue,
            Err(_) => Flow::Stop,
        });
        let sequence = GenerateRequest {
            adapter: language.added.as_ref().map(|added| added.adapter.clone()),
            tenant: Tenant(u128::from(apart)),
            mask: Some(Box::new(Reference { answer: answer.to_vec(), at: 0 })),
            ..GenerateRequest::new(language.model.clone(), prompt.to_vec(), answer.len(), sink)
        };
        let engine = self.service.engine();
        engine.generate(sequence).map_err(|error| AskError::Failed(error.to_string()))?;
        loop {
            match told.recv() {
                Ok(Event::Done(_)) => return Ok(()),
                Ok(Event::Failed(error)) => return Err(AskError::Failed(error.to_string())),
                Ok(_) => {}
                Err(_) => return Err(AskError::Failed("the engine has stopped".into())),
            }
        }
    }
}

/// Allows the tokens of a reference, one after the other.
struct Reference {
    answer: Vec<u32>,
    at: usize,
}

impl TokenMask for Reference {
    fn allowed(&mut self, out: &mut BitMask) -> Result<(), String> {
        self.answer.get(self.at).map(|&id| out.allow(id)).ok_or_else(|| "the answer is said".into())
    }

    fn accept(&mut self, _token: u32) -> Result<(), String> {
        self.at += 1;
        Ok(())
    }
}

/// The lines as a fine-tuning of the candidate would read them.
fn tune_spec(choice: &ChooseSpec, candidate: &Imported, lines: Lines) -> TuneSpec {
    let data = &choice.data;
    let (train, valid, valid_fraction) = match (lines, &data.test) {
        (Lines::Test, Some(test)) => (test.clone(), None, None),
        _ => (data.train.clone(), data.valid.clone(), data.valid_fraction),
    };
    TuneSpec {
        name: choice.name.clone(),
        seed: choice.seed,
        base: candidate.model.clone(),
        lora: None,
        method: Method::Supervised,
        data: TuneData { train, valid, valid_fraction, max_tokens: None, too_long: TooLong::Error },
        train: lyceum_choose::candidates::nothing(),
        auto: Auto::default(),
        privacy: None,
        gate: None,
    }
}

/// As `POST /v1/decisions` has it.
pub(super) fn question(asked: &Asked) -> Question {
    let choices = asked.labels.iter().cloned().map(ChoiceValue::Text).collect();
    Question {
        name: None,
        instructions: asked.instructions.clone(),
        kind: Kind::Choice(choices),
        descriptions: asked.descriptions.clone(),
    }
}

fn request(language: &Language, asked: &Asked, text: &str) -> decisions::Request {
    let version = &language.version;
    let model = ModelRef { name: version.name.clone(), version: VersionRef::Number(version.number) };
    decisions::Request {
        model,
        input: Content::Text(text.to_owned()),
        questions: vec![question(asked)],
        explain: None,
        explained: None,
        promises: lyceum_service::robustness::Promises::default(),
    }
}

fn decided(mut decision: decisions::Decision) -> Result<Decided, AskError> {
    let Some((_, Answer::Choice { probabilities, .. })) = decision.answers.pop() else {
        return Err(AskError::Failed("a choice was not answered by a choice: bug".into()));
    };
    let probabilities = probabilities.into_iter().map(|(_, p)| p).collect();
    Ok(Decided { probabilities, n_tokens: decision.input_tokens })
}
