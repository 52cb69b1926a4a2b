//! `lyceum export MODEL --format safetensors [--output DIR]`

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_store::models;
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Export {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
    /// The weights' format
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
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
        let Format::Safetensors = self.format;
        let reference: ModelRef = self.model.parse()?;
        let store = context.store().await?;
        let version = match models::resolve(&store, &context.project, &reference).await {
            Ok(version) => version,
            Err(error) => return Err(context.explain(&store, error).await),
        };
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
                "event": "done", "model": version.id(), "format": "safetensors", "path": path, "sha256": version.sha256
            }));
        } else {
            output::text(format!("{} is in {}", version.id(), path.display()));
        }
        Ok(())
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| Failure::file("make", to, &error))?;
    let entries = std::fs::read_dir(from).map_err(|error| Failure::file("read", from, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file("read", from, &error))?;
        let target = to.join(entry.file_name());
        std::fs::copy(entry.path(), &target).map_err(|error| Failure::file("write", &target, &error))?;
    }
    Ok(())
}
