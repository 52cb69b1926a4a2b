//! Why a model was not brought in, and what of it a client of a server reads.

use crate::ServiceError;
use crate::language::import::ImportError;
use crate::language::open::OpenError;
use lyceum_models::LoadError;
use lyceum_store::StoreError;
use lyceum_types::ids::BadId;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum BringError {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Caller: the files are no model, or not what they were.
    #[error("{message}")]
    NotAModel { path: PathBuf, message: String, why: String, fix: &'static str },
    /// Caller: its name, or the one that its files have.
    #[error(transparent)]
    Name(#[from] BadId),
    /// Caller: how it is laid out was said of an adapter.
    #[error("an adapter is added to its base as that is laid out")]
    LayoutOfAdapter,
    /// Caller: how it is laid out was said of a model that Lyceum trained.
    #[error("{path} is laid out as it was trained")]
    LayoutOfTrained { path: PathBuf },
    /// Caller: a base was said of what is no adapter.
    #[error("{path} is no adapter")]
    BaseOfNone { path: PathBuf },
    /// Caller: nobody says what the adapter adds to, or it is not here.
    #[error("{path}: what does the adapter add to?")]
    BaseUnknown { path: PathBuf, said: Option<String> },
    /// Caller: the base that was said.
    #[error("the base {base} is not there")]
    BaseGone { base: String },
    /// Caller: what an exported adapter was made for.
    #[error("the adapter's base {model} is not there")]
    ExportedBaseGone { model: String, sha256: String },
    #[error("reading {path} failed")]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {path} failed")]
    Write { path: PathBuf, source: io::Error },
}

impl BringError {
    /// What lies at a path is no model that `lyceum export` wrote.
    pub(super) fn bad(path: &Path, message: String, why: String) -> Self {
        let fix = "import a folder that lyceum export wrote";
        BringError::NotAModel { path: path.to_owned(), message, why, fix }
    }

    /// The same for a client, who knows its files by their names below `folder`.
    pub(super) fn told(self, folder: &Path) -> ServiceError {
        let plain = |text: String| {
            let within = format!("{}/", folder.display());
            text.replace(&within, "").replace(&folder.display().to_string(), "the files")
        };
        let message = plain(self.to_string());
        match self {
            BringError::Store(error) | BringError::Import(ImportError::Store(error)) => error.into(),
            BringError::Import(ImportError::Stopped(_)) => ServiceError::DeadlinePassed,
            BringError::Import(ImportError::Broken(error)) => {
                ServiceError::internal("an import broke off", error)
            }
            BringError::Import(error @ ImportError::Copy { .. }) => {
                ServiceError::internal("copying a model", error)
            }
            BringError::Import(ImportError::Open(OpenError::Load(LoadError::Context { asked, most }))) => {
                let message = format!("{asked} is not what the model can read: 1 to {most} tokens");
                ServiceError::invalid("context", "invalid_value", message)
            }
            BringError::Import(ImportError::Open(error)) => {
                let told = plain(crate::error::chain(&error));
                ServiceError::invalid("files", "not_a_model", format!("the model cannot be opened: {told}"))
            }
            BringError::Import(ImportError::Base { .. }) => ServiceError::invalid(
                "base",
                "not_a_base",
                format!("{message}: name an imported language model"),
            ),
            BringError::NotAModel { why, .. } => {
                ServiceError::invalid("files", "not_a_model", format!("{message}: {}", plain(why)))
            }
            BringError::Name(_) => ServiceError::invalid("name", "invalid_value", message),
            BringError::LayoutOfAdapter => ServiceError::invalid(
                "quant",
                "invalid_value",
                format!("quant and context do not go with an adapter: {message}"),
            ),
            BringError::LayoutOfTrained { .. } => ServiceError::invalid(
                "quant",
                "invalid_value",
                "quant and context go with GGUF and Hugging Face's layout, and the model is neither",
            ),
            BringError::BaseOfNone { .. } => ServiceError::invalid(
                "base",
                "invalid_value",
                "it says what an adapter adds to, and this is none: no adapter_config.json, no GGUF adapter",
            ),
            BringError::BaseUnknown { said, .. } => {
                let message = match said {
                    Some(said) => format!(
                        "the adapter's description says it adds to {said}, which was not pulled here: pull it first, or \
                         name the imported model"
                    ),
                    None => "the adapter's description does not say what it adds to: name the imported model"
                        .into(),
                };
                ServiceError::invalid("base", "base_model_missing", message)
            }
            BringError::BaseGone { .. } => ServiceError::invalid("base", "base_model_missing", message),
            BringError::ExportedBaseGone { sha256, .. } => {
                let message = format!("{message}: no model here has weights with sha256 {sha256}");
                ServiceError::invalid("base", "base_model_missing", message)
            }
            BringError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ServiceError::invalid("files", "not_a_model", format!("{message}: there is no such file"))
            }
            error @ (BringError::Read { .. } | BringError::Write { .. }) => {
                ServiceError::internal("reading or writing a model", error)
            }
        }
    }
}
