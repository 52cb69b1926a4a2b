//! `POST /v1/models` and `POST /v1/models/pull`: models that are brought in, and how far that is.

use crate::error::ApiError;
use lyceum_service::imports::brought::{NewImport, Part};
use lyceum_service::imports::pulled::{self, NewPull};
use lyceum_service::imports::underway::Stage;
use lyceum_service::imports::{Brought, layout};
use lyceum_service::language::import::Arrival;
use lyceum_types::ids::{ModelName, ModelRef};
use lyceum_types::manifest::{Base, ImportedKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportModelRequest)]
pub struct ImportRequest {
    /// Left out where a GGUF file or the manifest of an exported model says it.
    pub name: Option<String>,
    /// Files of the purpose `model`; they go when the model is there.
    pub files: Vec<FilePart>,
    /// What matrices become when the model is loaded: `f32`, `bf16`, `q8_0`, `q4_0` or `q4_k`.
    pub quant: Option<String>,
    /// The longest sequence in tokens, at most what the model can read.
    pub context: Option<u64>,
    /// Of adapters: the imported model that it adds to.
    pub base: Option<String>,
    /// Whether events tell how far it is; the last one is the model.
    pub stream: Option<bool>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportModelFile)]
pub struct FilePart {
    /// `file_…`
    pub id: String,
    /// Where it belongs in the model's folder: `model.gguf`, `config.json`, `1_Pooling/config.json`, …
    pub path: String,
    /// Of its bytes: the import is refused where others are here.
    pub sha256: Option<String>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PullModelRequest)]
pub struct PullRequest {
    /// `org/name`, or `org/name:Q4_K_M` for the GGUF file of this type, of the hub that the operator configured.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Another name for the model than `org/name`.
    pub name: Option<String>,
    /// What matrices become when the model is loaded: `f32`, `bf16`, `q8_0`, `q4_0` or `q4_k`.
    pub quant: Option<String>,
    /// The longest sequence in tokens, at most what the model can read.
    pub context: Option<u64>,
    /// Of adapters: the imported model that it adds to.
    pub base: Option<String>,
    /// Whether events tell how far it is; the last one is the model.
    pub stream: Option<bool>,
}

fn name(text: Option<&str>) -> Result<Option<ModelName>, ApiError> {
    let wrong = |error| ApiError::field("name", "invalid_value", format!("name: {error}"));
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

fn base(text: Option<&str>) -> Result<Option<ModelRef>, ApiError> {
    let wrong = |error| ApiError::field("base", "invalid_value", format!("base: {error}"));
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

impl ImportRequest {
    pub fn parse(self) -> Result<NewImport, ApiError> {
        let part = |FilePart { id, path, sha256 }| Part { id, path, sha256 };
        Ok(NewImport {
            name: name(self.name.as_deref())?,
            files: self.files.into_iter().map(part).collect(),
            layout: layout(self.quant.as_deref(), self.context)?,
            base: base(self.base.as_deref())?,
        })
    }
}

impl PullRequest {
    pub fn parse(self) -> Result<NewPull, ApiError> {
        Ok(NewPull {
            reference: pulled::reference(&self.reference)?,
            name: name(self.name.as_deref())?,
            layout: layout(self.quant.as_deref(), self.context)?,
            base: base(self.base.as_deref())?,
        })
    }
}

/// A model that was brought in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImportedModel)]
pub struct ImportedBody {
    /// The version: `name@3`
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Of the weight file.
    pub sha256: String,
    /// What the model does; null where Lyceum trained it.
    #[schema(value_type = Option<String>)]
    pub kind: Option<ImportedKind>,
    pub family: String,
    pub n_parameters: u64,
    /// The longest sequence in tokens; null where Lyceum trained it.
    pub context: Option<u64>,
    pub quant: Option<String>,
    /// As its files or the hub say it.
    pub licence: Option<String>,
    /// The version that an adapter adds to: `model` and the `sha256` of its weights.
    #[schema(value_type = Option<Object>)]
    pub base: Option<Base>,
    /// What its files leave open.
    pub notes: Vec<String>,
    /// A version of the name had the same bytes, laid out alike: it is this one.
    pub already_there: bool,
}

impl From<Brought> for ImportedBody {
    fn from(brought: Brought) -> Self {
        match brought {
            Brought::Imported(done) => Self {
                id: done.version.id(),
                object: "model",
                sha256: done.version.sha256,
                kind: Some(done.manifest.kind),
                family: done.manifest.family,
                n_parameters: done.manifest.n_parameters,
                context: Some(done.manifest.context),
                quant: done.manifest.quant,
                licence: done.manifest.licence,
                base: done.manifest.base,
                notes: done.notes,
                already_there: done.arrival == Arrival::AlreadyThere,
            },
            Brought::Trained(version, arrival) => Self {
                id: version.id(),
                object: "model",
                sha256: version.sha256,
                kind: None,
                family: version.family,
                n_parameters: version.n_params,
                context: None,
                quant: None,
                licence: None,
                base: None,
                notes: Vec::new(),
                already_there: arrival == Arrival::AlreadyThere,
            },
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ImportProgress)]
pub struct ProgressBody {
    /// `model.import.progress`
    pub object: &'static str,
    /// `waiting`, `fetching` or `importing`
    pub status: &'static str,
    /// That the hub is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Bytes of all files that are here, and that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl From<Stage> for ProgressBody {
    fn from(stage: Stage) -> Self {
        let object = "model.import.progress";
        let plain = |status| Self { object, status, file: None, completed: None, total: None };
        match stage {
            Stage::Waiting => plain("waiting"),
            Stage::Fetching { file, completed, total } => Self {
                object,
                status: "fetching",
                file: Some(file),
                completed: Some(completed),
                total: Some(total),
            },
            Stage::Importing => plain("importing"),
        }
    }
}

/// An event of the stream.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ImportEvent {
    Progress(ProgressBody),
    Model(Box<ImportedBody>),
}
