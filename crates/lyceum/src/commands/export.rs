//! `lyceum export MODEL --format safetensors|gguf|peft [--output DIR]`

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_service::export::{self, ExportError};
use lyceum_store::models;
use lyceum_types::ids::ModelRef;
use serde_json::json;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Export {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
    /// The weights' format (default: the one that they have)
    #[arg(long, value_enum)]
    pub(in crate::commands) format: Option<Format>,
    /// The folder to make (default: NAME-VERSION here)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::commands) enum Format {
    /// `model.safetensors` under PyTorch's names, with the manifest and what else belongs to it; of an adapter, merged
    /// into its base
    Safetensors,
    /// An adapter merged into its base's GGUF file, with tokenizer and template; changed matrices are f16
    Gguf,
    /// An adapter as PEFT reads it
    Peft,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        export::Format::from(self).as_str()
    }
}

impl From<Format> for export::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Safetensors => export::Format::Safetensors,
            Format::Gguf => export::Format::Gguf,
            Format::Peft => export::Format::Peft,
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
        let id = version.id();
        let target = self.target(&id)?;
        let export = export::of(&store, version, self.format.map(Into::into)).await.map_err(refused)?;
        let (format, sha256) = (export.format.clone(), export.version.sha256.clone());
        let folder = target.clone();
        let work = move || {
            whole(&folder, |partial| {
                for file in &export.files {
                    write(partial, &file.name, |out| file.write(out))?;
                }
                Ok(())
            })
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Failure::internal("the export broke off", &error))??;
        told(context, &target, &Told { id: &id, format: &format, sha256: &sha256 });
        Ok(())
    }

    /// The folder to make, for this version.
    ///
    /// # Errors
    /// It is there.
    pub(in crate::commands) fn target(&self, id: &str) -> Result<PathBuf, Failure> {
        let plain = || PathBuf::from(id.replace(['/', '@'], "-"));
        let target = self.output.clone().unwrap_or_else(plain);
        if target.exists() {
            let error = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Failure::file("write", &target, &error));
        }
        Ok(target)
    }
}

/// What was exported.
pub(in crate::commands) struct Told<'a> {
    pub id: &'a str,
    pub format: &'a str,
    pub sha256: &'a str,
}

pub(in crate::commands) fn told(context: &Context, target: &Path, told: &Told<'_>) {
    let Told { id, format, sha256 } = told;
    let path = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    if context.is_json() {
        output::json_line(
            &json!({ "event": "done", "model": id, "format": format, "path": path, "sha256": sha256 }),
        );
    } else {
        output::text(format!("{id} is in {}", path.display()));
    }
}

/// Makes a folder beside the target first, so that it appears whole or not at all.
pub(in crate::commands) fn whole(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let partial = target.with_extension(format!("partial-{}", std::process::id()));
    let made = fs::create_dir_all(&partial).map_err(|error| Failure::file("make", &partial, &error));
    let filled = made
        .and_then(|()| fill(&partial))
        .and_then(|()| fs::rename(&partial, target).map_err(|error| Failure::file("write", target, &error)));
    if filled.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    filled
}

/// Writes one file of a folder; its name may have folders.
pub(in crate::commands) fn write(
    folder: &Path,
    name: &str,
    content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let path = folder.join(name);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|error| Failure::file("make", parent, &error))?;
    let written = fs::File::create(&path).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()
    });
    written.map_err(|error| Failure::file("write", &path, &error))
}

fn refused(error: ExportError) -> Failure {
    let message = error.to_string();
    match error {
        ExportError::Format { why, .. } => {
            Failure::new(Exit::Failed, "unsupported_format", message, why, "leave --format out")
        }
        ExportError::Unmergeable { source, .. } => {
            let fix = "choose another format";
            Failure::new(Exit::Failed, "unsupported_format", message, source.to_string(), fix)
        }
        ExportError::Cascade { .. } => {
            let why = "its definition names two other versions of this data folder";
            Failure::new(Exit::Failed, "unsupported_model", message, why, "export its members")
        }
        ExportError::Damaged { id, path, found, expected, .. } => {
            let why = format!("its sha256 is {found}, registered was {expected}");
            let fix = format!("lyceum rm {id}, then train or import it again");
            let mut failure = Failure::new(Exit::Failed, "damaged_model", message, why, fix);
            failure.place.file = Some(path.display().to_string());
            failure
        }
        ExportError::Read { path, source } => Failure::file("read", &path, &source),
        ExportError::Service(error) => error.into(),
    }
}
