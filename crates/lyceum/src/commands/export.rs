//! `lyceum export MODEL --format safetensors|gguf|peft [--output DIR]`

use crate::commands::show;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_kernels::stored::Stored;
use lyceum_service::Language;
use lyceum_service::language::{adapter, merged};
use lyceum_store::Store;
use lyceum_store::layout::WEIGHTS;
use lyceum_store::models::{self, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct Export {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
    /// The weights' format (default: the one that they have)
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The folder to make (default: NAME-VERSION here)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// `model.safetensors` under PyTorch's names, with the manifest and what else belongs to it; of an adapter, merged
    /// into its base
    Safetensors,
    /// An adapter merged into its base's GGUF file, with tokenizer and template; changed matrices are f16
    Gguf,
    /// An adapter as PEFT reads it
    Peft,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
            Format::Peft => "peft",
        }
    }
}

impl Export {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let version = match models::resolve(&store, &context.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
        let format = check(&version)?;
        let merges = adapter::is_adapter(&version) && self.format.is_some_and(|f| f.as_str() != format);
        if let Some(wanted) = self.format
            && wanted.as_str() != format
            && !merges
        {
            let message = format!("{} is not written as {}", version.id(), wanted.as_str());
            let why = format!("it was imported as {format}, and its files are handed on as they are");
            return Err(Failure::new(Exit::Failed, "unsupported_format", message, why, "leave --format out"));
        }
        let plain = version.name.as_str().replace('/', "-");
        let target = self.output.unwrap_or_else(|| PathBuf::from(format!("{plain}-{}", version.number)));
        if target.exists() {
            let error = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Failure::file("write", &target, &error));
        }
        // Beside the target first, so that it appears whole or not at all.
        let partial = target.with_extension(format!("partial-{}", std::process::id()));
        let written = match self.format.filter(|_| merges) {
            Some(format) => merge(&store, &version, format, &partial).await,
            None => copy_folder(&version.dir, &partial),
        };
        let format = self.format.filter(|_| merges).map_or(format, |f| f.as_str().to_owned());
        let copied = written.and_then(|()| {
            std::fs::rename(&partial, &target).map_err(|error| Failure::file("write", &target, &error))
        });
        if let Err(failure) = copied {
            let _ = std::fs::remove_dir_all(&partial);
            return Err(failure);
        }
        let path = target.canonicalize().unwrap_or(target);
        if context.is_json() {
            output::json_line(&json!({
                "event": "done", "model": version.id(), "format": format, "path": path, "sha256": version.sha256
            }));
        } else {
            output::text(format!("{} is in {}", version.id(), path.display()));
        }
        Ok(())
    }
}

/// Writes an adapter's base with the adapter in its matrices.
async fn merge(store: &Store, version: &Version, format: Format, target: &Path) -> Result<(), Failure> {
    let base = adapter::base_of(store, version).await?;
    let (version, target) = (version.clone(), target.to_owned());
    let work = move || -> Result<(), Failure> {
        std::fs::create_dir_all(&target).map_err(|error| Failure::file("make", &target, &error))?;
        let base = Arc::new(Language::open(base)?);
        let language = adapter::read(version, &base)?;
        let written = match format {
            Format::Gguf => merged::gguf(&language, Stored::F16, &target),
            Format::Safetensors => merged::safetensors(&language, &target),
            Format::Peft => {
                let message = format!("{} is not in PEFT's layout", language.version.id());
                let why = "it was imported as llama.cpp's GGUF, and its files are handed on as they are";
                return Err(Failure::new(
                    Exit::Failed,
                    "unsupported_format",
                    message,
                    why,
                    "leave --format out",
                ));
            }
        };
        written.map_err(|error| {
            let id = language.version.id();
            let message = format!("{id} cannot be merged");
            Failure::new(
                Exit::Failed,
                "unsupported_format",
                message,
                error.to_string(),
                "choose another format",
            )
        })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::internal("the export broke off", &error))?
}

/// Holds every file to its hash, so that damage is not handed on; the weights' format.
fn check(version: &Version) -> Result<String, Failure> {
    let (mut expected, format) = match show::read_known(version)? {
        show::Known::Imported(manifest) => (manifest.files, manifest.format),
        show::Known::Cascade(..) => {
            let message = format!("{} is a cascade, which has no weights", version.id());
            let why = "its definition names two other versions of this data folder";
            return Err(Failure::new(Exit::Failed, "unsupported_model", message, why, "export its members"));
        }
        show::Known::Trained(mut manifest) => {
            manifest.files.insert(WEIGHTS.to_owned(), version.sha256.clone());
            (manifest.files, "safetensors".to_owned())
        }
    };
    while let Some((file, expected)) = expected.pop_first() {
        let path = version.dir.join(show::plain_name(&file)?);
        let found = show::sha256_of(&path)?;
        if found != expected {
            let message = format!("{file} of {} is damaged", version.id());
            let why = format!("its sha256 is {found}, registered was {expected}");
            let fix = format!("lyceum rm {}, then train or import it again", version.id());
            let mut failure = Failure::new(Exit::Failed, "damaged_model", message, why, fix);
            failure.place.file = Some(path.display().to_string());
            return Err(failure);
        }
    }
    Ok(format)
}

/// As plain files, whatever lies here.
fn copy_folder(from: &KeyedPath, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| Failure::file("make", to, &error))?;
    let entries =
        std::fs::read_dir(from.path()).map_err(|error| Failure::file("read", from.path(), &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file("read", from.path(), &error))?;
        let target = to.join(entry.file_name());
        // Imported models have folders of their own (`1_Pooling`).
        if entry.path().is_dir() {
            copy_folder(&from.join(entry.file_name()), &target)?;
            continue;
        }
        let failed = |error: std::io::Error| Failure::file("write", &target, &error);
        if from.is_sealed() {
            let content = from.join(entry.file_name()).read();
            let content = content.map_err(|error| Failure::file("read", &entry.path(), &error))?;
            std::fs::write(&target, content).map_err(failed)?;
        } else {
            std::fs::copy(entry.path(), &target).map_err(failed)?;
        }
    }
    Ok(())
}
