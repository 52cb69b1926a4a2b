//! `lyceum export MODEL --format safetensors [--output DIR]`

use crate::commands::show;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_store::layout::WEIGHTS;
use lyceum_store::models::{self, Version};
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::path::PathBuf;

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
    /// `model.safetensors` under PyTorch's names, with the manifest and what else belongs to it
    Safetensors,
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
        if let Some(Format::Safetensors) = self.format
            && format != "safetensors"
        {
            let message = format!("{} is not written as safetensors", version.id());
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
        let copied = copy_folder(&version.dir, &partial).and_then(|()| {
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

/// Holds every file to its hash, so that damage is not handed on; the weights' format.
fn check(version: &Version) -> Result<String, Failure> {
    let (mut expected, format) = match show::read_known(version)? {
        show::Known::Imported(manifest) => (manifest.files, manifest.format),
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

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| Failure::file("make", to, &error))?;
    let entries = std::fs::read_dir(from).map_err(|error| Failure::file("read", from, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file("read", from, &error))?;
        let target = to.join(entry.file_name());
        // Imported models have folders of their own (`1_Pooling`).
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
            continue;
        }
        std::fs::copy(entry.path(), &target).map_err(|error| Failure::file("write", &target, &error))?;
    }
    Ok(())
}
