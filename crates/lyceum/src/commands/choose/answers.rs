//! Candidates that exist, asked by the code that answers `POST /v1/decisions`: in this process, with an engine of its own.

use crate::context::Context;
use crate::failure::Failure;
use futures_util::{StreamExt, TryStreamExt};
use lyceum_choose::served::{AskError, Asked, Decided, Facts, How, Served};
use lyceum_kernels::attention::paged::PAGE;
use lyceum_nn::ops::cached_attention::KvStorage;
use lyceum_service::decisions::{self, Answer, ChoiceValue, Kind, Question};
use lyceum_service::{Content, Language, Payer, Service, ServiceError};
use lyceum_store::Store;
use lyceum_types::ids::{ModelRef, Project, VersionRef};
use lyceum_types::spec::choose::Imported;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
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
}

impl Answers {
    pub fn start(context: &Context, store: &Store) -> Result<Self, Failure> {
        Ok(Answers {
            service: crate::assemble::service(&context.config, store.clone())?,
            project: context.project.clone(),
            kv_storage: context.config.serving.engine_limits().kv_storage,
            runtime: Handle::current(),
            pinned: Mutex::default(),
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
        let reference = self.reference(candidate)?;
        self.runtime.block_on(self.service.language(&self.project, &reference)).map_err(failed)
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
            model: version.id(),
            family: version.family.clone(),
            parameters: manifest.n_parameters + base.map_or(0, |base| base.n_params),
            weights_bytes: (language.model.params.bytes() + added.map_or(0, |added| added.adapter.bytes()))
                as u64,
            kv_bytes_per_token: page.div_ceil(PAGE) as u64,
            disk_bytes: version.bytes + base.map_or(0, |base| base.bytes),
            licence: manifest.licence.clone(),
            parents: base.map(|base| base.id()).or(tuned).into_iter().collect(),
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
        let reference = self.reference(candidate)?;
        let payer = Payer::local(&self.project).apart(how.apart);
        let one = async |text: &&str| {
            how.control.check().map_err(AskError::Stopped)?;
            let request = request(&reference, asked, text);
            let decision = decisions::create(&self.service, &payer, request).await.map_err(failed)?;
            decided(decision)
        };
        let all = futures_util::stream::iter(texts).map(one).buffered(AT_ONCE).try_collect();
        self.runtime.block_on(all)
    }
}

fn request(model: &ModelRef, asked: &Asked, text: &str) -> decisions::Request {
    let choices = asked.labels.iter().cloned().map(ChoiceValue::Text).collect();
    let question = Question {
        name: None,
        instructions: asked.instructions.clone(),
        kind: Kind::Choice(choices),
        descriptions: asked.descriptions.clone(),
    };
    decisions::Request {
        model: model.clone(),
        input: Content::Text(text.to_owned()),
        questions: vec![question],
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
