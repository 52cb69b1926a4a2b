//! Models that were imported from the files of other programs: large language models and encoders of texts.
//!
//! [`open`] turns a folder's files into a model with its words; [`import`] brings files into the store; [`adapter`] does
//! both for what is added to another imported model; [`rows`] puts texts through an encoder.

pub mod adapter;
pub mod import;
pub mod merged;
pub mod open;
pub(crate) mod rows;

use crate::resident::Weighs;
use crate::{Service, ServiceError};
use lyceum_kernels::stored::Stored;
use lyceum_language::LanguageError;
use lyceum_language::grammar::GrammarCompiler;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::Tokenizer;
use lyceum_models::Model;
use lyceum_models::causal_lm::Adapter;
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::Version;
use lyceum_store::vault::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::{FORMAT_VERSION, ImportedKind, ImportedManifest};
use lyceum_types::spec::ModelSpec;
use std::sync::{Arc, OnceLock};

/// An imported version in memory. An adapter has its base's model and words.
pub struct Language {
    pub version: Version,
    pub manifest: ImportedManifest,
    pub model: Arc<Model>,
    pub words: Arc<Words>,
    pub added: Option<Added>,
}

/// What an adapter adds, and to which version.
pub struct Added {
    pub adapter: Arc<Adapter>,
    pub base: Version,
}

/// What stands between a model's ids and texts.
pub struct Words {
    pub tokenizer: Tokenizer,
    /// None where the files have none: the model continues texts and does not converse.
    pub template: Option<ChatTemplate>,
    /// What the files recommend; a request's own fields come before it.
    pub defaults: Defaults,
    /// Made when the first form is asked for.
    pub(crate) grammars: OnceLock<Arc<GrammarCompiler>>,
}

impl Words {
    /// Compiles the forms that answers of `n_logits` tokens can be held to.
    pub(crate) fn grammars(&self, n_logits: usize) -> Result<Arc<GrammarCompiler>, LanguageError> {
        if let Some(compiler) = self.grammars.get() {
            return Ok(compiler.clone());
        }
        let made = Arc::new(GrammarCompiler::new(&self.tokenizer, n_logits)?);
        Ok(self.grammars.get_or_init(|| made).clone())
    }
}

/// Sampling that the model's files recommend (`generation_config.json`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Defaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl Weighs for Language {
    fn bytes(&self) -> usize {
        match &self.added {
            Some(added) => added.adapter.bytes(),
            None => self.model.params.bytes(),
        }
    }

    fn leans_on(&self) -> Option<&Version> {
        self.added.as_ref().map(|added| &added.base)
    }
}

/// Whether a version came from another program's files.
pub fn is_imported(version: &Version) -> bool {
    !ModelSpec::FAMILIES.contains(&version.family.as_str()) && !crate::cascades::is_cascade(version)
}

impl Language {
    /// Loads an imported version that is no adapter for this caller alone.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn open(version: Version) -> Result<Self, ServiceError> {
        read(version)
    }

    /// A version that is about to be: its files stand in `dir`, and it has no number yet. An adapter adds to `base`.
    ///
    /// # Errors
    /// Files that do not belong to the manifest or the base.
    pub fn unpublished(
        dir: impl Into<KeyedPath>,
        manifest: ImportedManifest,
        base: &Language,
    ) -> Result<Self, ServiceError> {
        let dir = dir.into();
        let version = Version { dir: dir.clone(), number: 0, ..base.version.clone() };
        let damaged = |source: Why| ServiceError::Damaged { id: manifest.name.clone(), source };
        let control = Control::new();
        if manifest.kind == ImportedKind::Adapter {
            let config =
                base.model.language_config().ok_or_else(|| damaged("its base does not speak".into()))?;
            let adapter = adapter::open(dir, config, &control).map_err(|error| damaged(error.into()))?;
            let added = Some(Added { adapter: Arc::new(adapter), base: base.version.clone() });
            return Ok(Language {
                version,
                manifest,
                model: base.model.clone(),
                words: base.words.clone(),
                added,
            });
        }
        let layout = open::Layout { quant: None, context: Some(manifest.context as usize) };
        let opened = open::folder(dir, layout, &control).map_err(|error| damaged(error.into()))?;
        let (model, words) = (Arc::new(opened.model), Arc::new(opened.words));
        Ok(Language { version, manifest, model, words, added: None })
    }

    /// The imported model of this kind that a reference means, loaded.
    ///
    /// # Errors
    /// There is none, or it does something else: then where to ask it.
    pub(crate) async fn of_kind(
        service: &Service,
        project: &Project,
        reference: &ModelRef,
        kind: ImportedKind,
    ) -> Result<Arc<Language>, ServiceError> {
        let does = |kind| match kind {
            ImportedKind::Language => ("continues texts", "POST /v1/chat/completions or /v1/completions"),
            ImportedKind::Embedding => ("makes vectors of texts", "POST /v1/embeddings"),
            ImportedKind::Classifier => ("gives numbers to texts", "POST /v1/rerank"),
            ImportedKind::Tagger => {
                ("finds names in texts", "ner_model of POST /v1/pii/analyze or of a guard policy")
            }
            ImportedKind::Adapter => {
                ("continues texts together with its base", "POST /v1/chat/completions or /v1/completions")
            }
        };
        let refused = |id: String, what: &str, instead: &str| {
            let wanted = does(kind).0;
            let message = format!("{id} {what}, and this takes a model that {wanted}: ask it with {instead}");
            Err(ServiceError::invalid("model", "unsupported_model", message))
        };
        let version = service.resolve(project, reference).await?;
        if !is_imported(&version) {
            let instead = "POST /v1/completions, /v1/decisions or :predict";
            return refused(version.id(), "was trained here", instead);
        }
        let language = service.language_of(version).await?;
        match language.manifest.kind {
            found if found == kind => Ok(language),
            found => refused(language.version.id(), does(found).0, does(found).1),
        }
    }
}

/// Memory for imported models that are loaded at once: seven tenths of the machine's, or no bound where the system
/// does not say what it has.
pub(crate) fn memory_budget() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(usize::MAX, |kib: usize| kib * 1024 / 10 * 7)
}

/// Reads a version's folder.
pub(crate) fn read(version: Version) -> Result<Language, ServiceError> {
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let manifest = read_manifest(&version)?;
    let quant = match &manifest.quant {
        None => None,
        Some(name) => {
            let kind = Stored::ALL.into_iter().find(|kind| kind.name() == name);
            Some(kind.ok_or_else(|| damaged(format!("no type is called {name}").into()))?)
        }
    };
    let layout = open::Layout { quant, context: Some(manifest.context as usize) };
    let control = Control::new();
    // Hashing takes one core as long as laying out takes both; nothing is used before both have ended well.
    let (checked, opened) = std::thread::scope(|scope| {
        let checking = scope.spawn(|| {
            let checked = check_files(&version, &manifest);
            if checked.is_err() {
                control.cancel();
            }
            checked
        });
        let opened = open::folder(&version.dir, layout, &control);
        (checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), opened)
    });
    // First what is wrong with the bytes, then what they led to.
    checked.map_err(damaged)?;
    let opened = opened.map_err(|error| damaged(error.into()))?;
    let (model, words) = (Arc::new(opened.model), Arc::new(opened.words));
    Ok(Language { version, manifest, model, words, added: None })
}

type Why = Box<dyn std::error::Error + Send + Sync>;

/// The manifest beside an imported version's files.
pub(crate) fn read_manifest(version: &Version) -> Result<ImportedManifest, ServiceError> {
    let damaged = |source: Why| ServiceError::Damaged { id: version.id(), source };
    let path = version.dir.join(MANIFEST);
    let text = path.read().map_err(|error| {
        ServiceError::internal("reading a model failed", format!("{}: {error}", path.display()))
    })?;
    lyceum_store::models::check_manifest(&version.dir, &text).map_err(|error| damaged(error.into()))?;
    let manifest: ImportedManifest = serde_json::from_slice(&text).map_err(|error| damaged(error.into()))?;
    if manifest.format_version > FORMAT_VERSION {
        return Err(damaged(format!("its manifest has format {}", manifest.format_version).into()));
    }
    Ok(manifest)
}

/// Holds every file to the hash that was registered.
pub(crate) fn check_files(version: &Version, manifest: &ImportedManifest) -> Result<(), Why> {
    for (name, expected) in &manifest.files {
        let found = import::hash_of(version.dir.join(name))?;
        if found != *expected {
            return Err(format!("{name}: its sha256 is {found}, registered was {expected}").into());
        }
    }
    Ok(())
}
