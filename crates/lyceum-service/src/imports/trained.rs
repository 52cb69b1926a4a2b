//! Folders that `lyceum export` wrote of models that Lyceum trained: each file held to its hash, the model to its probes.

use super::{BringError, Brought};
use crate::error::chain;
use crate::language::import::Arrival;
use lyceum_models::bundle;
use lyceum_store::Store;
use lyceum_store::files::Staging;
use lyceum_store::layout::{MANIFEST, MANIFEST_SHA256, WEIGHTS};
use lyceum_store::models::{self, Made, NewVersion, Version};
use lyceum_store::tenancy::Act;
use lyceum_train::checkpoint::digest;
use lyceum_types::ids::{ModelName, Project};
use lyceum_types::manifest::Manifest;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// What stands in an exported folder.
pub struct Exported {
    pub manifest: Manifest,
    /// Names and contents of all files but the manifest.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Exported {
    /// Writes it into a folder, where [`read`] finds it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Path) -> Result<(), BringError> {
        let manifest = serde_json::to_vec_pretty(&self.manifest).expect("a manifest is plain data: bug");
        let files = self.files.iter().map(|(name, content)| (name.as_str(), content));
        for (name, content) in files.chain([(MANIFEST, &manifest)]) {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(|source| BringError::Write { path, source })?;
        }
        Ok(())
    }
}

/// The text of a folder's manifest, held to the hash beside it.
pub(super) fn read_manifest(folder: &Path) -> Result<Vec<u8>, BringError> {
    let text = bytes_of(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)?;
    models::check_manifest(folder, &text)
        .map_err(|error| BringError::bad(folder, format!("{MANIFEST} is damaged"), error.to_string()))?;
    Ok(text)
}

fn bytes_of(path: &Path, bytes_max: u64) -> Result<Vec<u8>, BringError> {
    let failed = |source| BringError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it has more than {bytes_max} bytes");
        return Err(BringError::bad(path, format!("{} is too large", path.display()), why));
    }
    Ok(bytes)
}

/// Reads a folder of at most this many bytes.
///
/// # Errors
/// It is none that `lyceum export` wrote, or not as it was written.
pub fn read(folder: &Path, bytes_max: u64) -> Result<Exported, BringError> {
    let bad = |message: String, why: String| BringError::bad(folder, message, why);
    if !folder.is_dir() || !folder.join(MANIFEST).exists() {
        return Err(no_model(folder));
    }
    let text = read_manifest(folder)?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("{MANIFEST} cannot be read"), error.to_string()))?;
    let mut files = Vec::with_capacity(manifest.files.len());
    let mut left = bytes_max.saturating_sub(text.len() as u64);
    for (file, expected) in &manifest.files {
        if file.contains(['/', '\\']) || file.starts_with('.') || file == MANIFEST || file == MANIFEST_SHA256
        {
            return Err(bad(
                format!("{file:?} is no name of a model's file"),
                "it could lead elsewhere".into(),
            ));
        }
        let content = bytes_of(&folder.join(file), left)?;
        left -= content.len() as u64;
        let found = digest(&content);
        if found != *expected {
            return Err(bad(format!("{file} is damaged"), format!("its sha256 is {found}, not {expected}")));
        }
        files.push((file.clone(), content));
    }
    let weights = files.iter().find(|(file, _)| file == WEIGHTS).map(|(_, content)| content);
    let weights =
        weights.ok_or_else(|| bad(format!("there is no {WEIGHTS}"), "the manifest lists none".into()))?;
    if digest(weights) != manifest.weights_sha256 {
        return Err(bad(format!("{WEIGHTS} is damaged"), "its sha256 is not the manifest's".into()));
    }
    bundle::open(&manifest, weights)
        .map_err(|error| bad("the model cannot be built".into(), chain(&error)))?;
    Ok(Exported { manifest, files })
}

/// Publishes it under a name; where a version of the name is this model, it is that one.
///
/// # Errors
/// What the store says.
pub async fn publish(
    store: &Store,
    project: &Project,
    exported: Exported,
    name: ModelName,
    (source, act): (String, &Act),
) -> Result<Brought, BringError> {
    let Exported { mut manifest, files } = exported;
    manifest.name = name.to_string();
    if let Some(version) = there_already(store, project, &name, (&manifest, &files)).await? {
        return Ok(Brought::Trained(Box::new(version), Arrival::AlreadyThere));
    }
    let staging = Staging::of(store, project)?;
    let mut bytes = 0;
    for (file, content) in &files {
        let path = staging.place().join(file);
        path.write(content).map_err(|source| BringError::Write { path: path.path().to_owned(), source })?;
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
        // The job stayed where the model was trained, and so did its gate.
        job: None,
        held: None,
    };
    let write = |number: u32| {
        manifest.version = number;
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
    };
    let made = Made::Imported { source };
    let version = models::publish_made(store, project, new, staging, write, (made, act)).await?;
    Ok(Brought::Trained(Box::new(version), Arrival::New))
}

/// The version of this name that is this model, in its numbers and files; what each import and training has of its own
/// (the time, the job) makes no difference. One that is damaged is no reason not to import it anew.
async fn there_already(
    store: &Store,
    project: &Project,
    name: &ModelName,
    (manifest, files): (&Manifest, &[(String, Vec<u8>)]),
) -> Result<Option<Version>, BringError> {
    // As it is read back; a number that JSON has no form for is equal to nothing.
    let text = serde_json::to_vec(manifest).expect("a manifest is plain data: bug");
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(None) };
    let versions = models::list(store, project).await?;
    let alike = |version: &Version| version.name == *name && version.sha256 == manifest.weights_sha256;
    for version in versions.into_iter().rev().filter(alike) {
        models::have(store, &version).await?;
        let Some(there) = manifest_of(&version) else { continue };
        let same = Manifest {
            version: there.version,
            created: there.created,
            job: there.job.clone(),
            seconds: there.seconds,
            ..manifest.clone()
        };
        let is_whole = |(file, content): &(String, Vec<u8>)| {
            version.dir.join(file).read().is_ok_and(|found| found == *content)
        };
        if same == there && files.iter().all(is_whole) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

fn manifest_of(version: &Version) -> Option<Manifest> {
    let text = version.dir.join(MANIFEST).read().ok()?;
    models::check_manifest(&version.dir, &text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Why what lies at a path is no model, by what it begins with.
pub fn no_model(path: &Path) -> BringError {
    let refused = |message: String, why: String, fix| BringError::NotAModel {
        path: path.to_owned(),
        message,
        why,
        fix,
    };
    if path.is_dir() {
        let why = format!("there is neither config.json (Hugging Face's layout) nor {MANIFEST} in it");
        return BringError::bad(path, format!("{} holds no model", path.display()), why);
    }
    let mut head = [0; 8];
    let n = match File::open(path).and_then(|mut file| file.read(&mut head)) {
        Ok(n) => n,
        Err(source) => return BringError::Read { path: path.to_owned(), source },
    };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let is = |magic: &[u8]| head[..n].starts_with(magic);
    let (why, fix) = if extension == "onnx" {
        ("it is an ONNX file, which is not read in this version yet", "export its weights as safetensors")
    } else if is(b"PK\x03\x04") || is(&[0x80]) {
        (
            "it looks like a pickle, which can run code when it is read",
            "write it with safetensors.torch.save_file(model.state_dict(), \"model.safetensors\")",
        )
    } else if extension != "safetensors" {
        (
            "it is no GGUF file, and no other single file holds a model",
            "give a GGUF file; a folder with config.json and safetensors; a LoRA adapter; a folder that lyceum export \
             wrote; or a .safetensors file with --spec",
        )
    } else {
        (
            "weights alone do not say what they are",
            "add --spec SPEC: the job spec of the model, with the data of its scales, labels and vocabulary",
        )
    };
    refused(format!("{} is no model by itself", path.display()), why.into(), fix)
}
