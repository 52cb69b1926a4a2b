//! `lyceum import PATH`: a folder that `lyceum export` wrote. What is not ours is refused by name.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_models::bundle;
use lyceum_store::files::Staging;
use lyceum_store::layout::{MANIFEST, WEIGHTS};
use lyceum_store::models::{self, NewVersion};
use lyceum_train::checkpoint::digest;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelName;
use lyceum_types::limits;
use lyceum_types::manifest::Manifest;
use serde_json::json;
use std::path::{Path, PathBuf};

const MANIFEST_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct Import {
    /// A folder with `model.safetensors` and `manifest.json`
    path: PathBuf,
    /// Another name for the model
    #[arg(long)]
    name: Option<String>,
}

impl Import {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let Exported { mut manifest, files: contents } = read(&self.path)?;
        if let Some(name) = self.name {
            manifest.name = name;
        }
        let name: ModelName = manifest.name.parse()?;
        let store = context.store().await?;
        let staging = Staging::create(store.layout())?;
        let mut bytes = 0;
        for (file, content) in &contents {
            let path = staging.path().join(file);
            std::fs::write(&path, content).map_err(|error| Failure::file("write", &path, &error))?;
            if file == WEIGHTS {
                bytes = content.len() as u64;
            }
        }
        let new = NewVersion {
            name,
            family: manifest.spec.model.family().to_owned(),
            task: manifest.spec.task.as_str().to_owned(),
            n_params: manifest.n_parameters,
            bytes,
            sha256: manifest.weights_sha256.clone(),
            // The job stayed where the model was trained.
            job: None,
        };
        let write_manifest = |number: u32| {
            manifest.version = number;
            serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
        };
        let version =
            models::publish(&store, &context.project, new, staging, write_manifest, Timestamp::now()).await?;
        if context.is_json() {
            output::json_line(&json!({
                "event": "done", "model": version.id(), "sha256": version.sha256, "path": version.dir
            }));
        } else {
            output::text(format!("{} is in {}", version.id(), version.dir.display()));
        }
        Ok(())
    }
}

/// What stands in an exported folder.
struct Exported {
    manifest: Manifest,
    /// Names and contents of all files but the manifest.
    files: Vec<(String, Vec<u8>)>,
}

/// Reads a folder: the files each held to its hash, the model held to its probes.
fn read(folder: &Path) -> Result<Exported, Failure> {
    let bad = |message: String, why: String| {
        let fix = "import a folder that lyceum export wrote";
        let mut failure = Failure::new(Exit::Failed, "not_a_model", message, why, fix);
        failure.place.file = Some(folder.display().to_string());
        failure
    };
    if !folder.is_dir() {
        if !folder.exists() {
            return Err(Failure::file("open", folder, &std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        let why = "weights alone do not say what they are; other formats are not read in this version yet";
        return Err(bad(format!("{} is no folder", folder.display()), why.into()));
    }
    let text = files::read_text(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| bad(format!("{MANIFEST} cannot be read"), error.to_string()))?;
    let mut contents = Vec::with_capacity(manifest.files.len());
    for (file, expected) in &manifest.files {
        if file.contains(['/', '\\']) || file.starts_with('.') || file == MANIFEST {
            return Err(bad(
                format!("{file:?} is no name of a model's file"),
                "it could lead elsewhere".into(),
            ));
        }
        let content = files::read_bytes(&folder.join(file), limits::WEIGHT_FILE_BYTES_MAX)?;
        let found = digest(&content);
        if found != *expected {
            return Err(bad(format!("{file} is damaged"), format!("its sha256 is {found}, not {expected}")));
        }
        contents.push((file.clone(), content));
    }
    let weights = contents.iter().find(|(file, _)| file == WEIGHTS).map(|(_, content)| content);
    let weights =
        weights.ok_or_else(|| bad(format!("there is no {WEIGHTS}"), "the manifest lists none".into()))?;
    if digest(weights) != manifest.weights_sha256 {
        return Err(bad(format!("{WEIGHTS} is damaged"), "its sha256 is not the manifest's".into()));
    }
    bundle::open(&manifest, weights)
        .map_err(|error| bad("the model cannot be built".into(), crate::failure::causes(&error)))?;
    Ok(Exported { manifest, files: contents })
}
