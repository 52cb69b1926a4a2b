//! Models that were imported from the files of other programs: large language models and encoders of texts.
//!
//! [`open`] turns a folder's files into a model with its words; [`import`] brings files into the store.

pub mod import;
pub mod open;

use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::Tokenizer;
use lyceum_models::Model;
use lyceum_store::models::Version;
use lyceum_types::manifest::ImportedManifest;
use std::sync::Arc;

/// An imported version in memory.
pub struct Language {
    pub version: Version,
    pub manifest: ImportedManifest,
    pub model: Arc<Model>,
    pub words: Arc<Words>,
}

/// What stands between a model's ids and texts.
pub struct Words {
    pub tokenizer: Tokenizer,
    /// None where the files have none: the model continues texts and does not converse.
    pub template: Option<ChatTemplate>,
    /// What the files recommend; a request's own fields come before it.
    pub defaults: Defaults,
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
