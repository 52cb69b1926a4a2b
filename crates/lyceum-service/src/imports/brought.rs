//! Models whose files a client uploaded: of `file_…` and where each belongs a folder is made, and imported.
//!
//! A path leads nowhere but into that folder and names a file that models have. The files go when the model is there; where
//! it is refused they stay, for another try, until they expire.

use super::underway::{Stage, Underway};
use super::{ADAPTER_GGUF, Wanted, bring, plain_name};
use crate::language::open::Layout;
use crate::{Service, ServiceError, files};
use lyceum_store::data_files::{self, DataFile};
use lyceum_store::files::Staging;
use lyceum_store::layout::{MANIFEST, MANIFEST_SHA256};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::Contents;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelName, ModelRef, Project};
use lyceum_types::limits;
use lyceum_types::manifest::{ADAPTER_FILES, DESCRIPTION_FILES};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Endings of names that a weight file, or a file of an exported model, may have.
const ENDINGS: [&str; 3] = [".safetensors", ".gguf", ".json"];
const NAME_CHARS_MAX: usize = 128;

/// A model that a client brought.
#[derive(Clone, Debug)]
pub struct NewImport {
    pub name: Option<ModelName>,
    pub files: Vec<Part>,
    pub layout: Layout,
    pub base: Option<ModelRef>,
}

/// One of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `file_…`, of the purpose [`files::MODEL`].
    pub id: String,
    /// Where it belongs in the model's folder.
    pub path: String,
    /// What the client says of its bytes.
    pub sha256: Option<String>,
}

/// Begins the import. What the request says wrong is refused before.
///
/// # Errors
/// No files, paths that lead elsewhere or stand twice; files that are not there, are none of a model, or have other bytes.
pub async fn begin(
    service: Arc<Service>,
    project: Project,
    new: NewImport,
    act: Act,
) -> Result<Underway, ServiceError> {
    check_paths(&new.files)?;
    if new.name.is_none() && is_nameless(&new.files) {
        let message = "the files do not say how the model is called: give it a name";
        return Err(ServiceError::invalid("name", "missing_required_parameter", message));
    }
    let mut found = Vec::with_capacity(new.files.len());
    for (i, part) in new.files.iter().enumerate() {
        let file = files::have(&service, &project, &part.id).await?;
        check_file(&format!("files[{i}]"), part, &file)?;
        found.push((part.path.clone(), file));
    }
    Ok(Underway::begin(move |say, control| async move {
        // One model is opened at a time, whoever brings it: each may be as large as the memory.
        let turn = service.importing.clone().acquire_owned().await;
        let _turn = turn.map_err(|error| ServiceError::internal("no import has a turn", error))?;
        control.check().map_err(|_| ServiceError::DeadlinePassed)?;
        say.send_replace(Stage::Importing);
        let staging = Staging::create(service.store().layout())?;
        let folder = staging.path().to_owned();
        let path = match &found[..] {
            [(path, _)] if path.ends_with(".gguf") && path != ADAPTER_GGUF => folder.join(path),
            _ => folder.clone(),
        };
        lay_out(&service, &project, &found, (&folder, &control)).await?;
        let wanted = Wanted {
            path,
            name: new.name,
            layout: new.layout,
            base: new.base,
            source: format!("upload of {}", called(&found)),
            licence: None,
            trained_bytes_max: limits::MODEL_TRAINED_BYTES_MAX,
        };
        let done = bring(service.store(), &project, wanted, &control, &act).await;
        let done = done.map_err(|error| error.told(&folder))?;
        for (_, file) in &found {
            // What stays expires.
            if let Err(error) =
                data_files::delete(service.store(), &project, &file.id, Timestamp::now()).await
            {
                tracing::debug!(%error, file = %file.id, "a file of an imported model stays until it expires");
            }
        }
        Ok(done)
    }))
}

/// Whether neither a manifest nor the one file says how the model is called.
fn is_nameless(parts: &[Part]) -> bool {
    let is_alone = matches!(parts, [part] if part.path != ADAPTER_GGUF);
    !is_alone && !parts.iter().any(|part| part.path == MANIFEST)
}

fn called(found: &[(String, DataFile)]) -> String {
    match found {
        [(path, _)] => path.clone(),
        all => format!("{} files", all.len()),
    }
}

fn check_paths(parts: &[Part]) -> Result<(), ServiceError> {
    if parts.is_empty() || parts.len() > limits::MODEL_FILES_MAX {
        let message = format!("a model has 1 to {} files", limits::MODEL_FILES_MAX);
        return Err(ServiceError::invalid("files", "invalid_value", message));
    }
    let (mut paths, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (i, part) in parts.iter().enumerate() {
        let param = format!("files[{i}].path");
        if !is_name(&part.path) {
            let shown: String = part.path.chars().take(64).collect();
            let message = format!(
                "{shown:?} is no name of a model's file: a path below its folder, without .., as model.gguf, config.json, \
                 1_Pooling/config.json or model-00001-of-00002.safetensors"
            );
            return Err(ServiceError::invalid(param, "invalid_path", message));
        }
        if !paths.insert(&part.path) || !ids.insert(&part.id) {
            return Err(ServiceError::invalid(param, "invalid_path", "its path or its file stands twice"));
        }
    }
    Ok(())
}

/// Whether a path names a file that models have: those that are read by name, and plain names of the kinds that manifests
/// and indexes list.
fn is_name(path: &str) -> bool {
    let known = DESCRIPTION_FILES.into_iter().chain(ADAPTER_FILES).chain([MANIFEST, MANIFEST_SHA256]);
    if known.into_iter().any(|known| known == path) {
        return true;
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ' | '+');
    path.chars().all(is_plain)
        && path.chars().count() <= NAME_CHARS_MAX
        && ENDINGS.iter().any(|ending| path.len() > ending.len() && path.ends_with(ending))
        && plain_name(Path::new(""), path).is_ok()
}

fn check_file(place: &str, part: &Part, file: &DataFile) -> Result<(), ServiceError> {
    if file.purpose != files::MODEL {
        let message = format!("the file was brought for {}, not for {}", file.purpose, files::MODEL);
        return Err(ServiceError::invalid(format!("{place}.id"), "invalid_purpose", message));
    }
    if part.sha256.as_ref().is_some_and(|sha256| !sha256.eq_ignore_ascii_case(&file.sha256)) {
        let message = format!("the sha256 of its bytes here is {}: bring it again", file.sha256);
        return Err(ServiceError::invalid(format!("{place}.sha256"), "wrong_hash", message));
    }
    let is_weights = [".safetensors", ".gguf"].iter().any(|ending| part.path.ends_with(ending));
    if !is_weights && file.bytes > limits::MODEL_DESCRIPTION_BYTES_MAX {
        let most = limits::MODEL_DESCRIPTION_BYTES_MAX;
        let message = format!("{} has more than {most} bytes, and it is no weights", part.path);
        return Err(ServiceError::invalid(format!("{place}.path"), "file_too_large", message));
    }
    Ok(())
}

/// Puts the files where they belong, plain: linked where they lie so already, else copied in pieces.
async fn lay_out(
    service: &Service,
    project: &Project,
    found: &[(String, DataFile)],
    (folder, control): (&Path, &Control),
) -> Result<(), ServiceError> {
    let mut all: Vec<(PathBuf, PathBuf, Contents)> = Vec::with_capacity(found.len());
    for (path, file) in found {
        let contents = data_files::contents(service.store(), project, file)?;
        all.push((folder.join(path), file.path.clone(), contents));
    }
    let control = control.clone();
    let work = move || -> io::Result<()> {
        for (to, from, contents) in all {
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let is_linked = matches!(contents, Contents::Plain(_)) && std::fs::hard_link(&from, &to).is_ok();
            if !is_linked {
                copy(&contents, &to, &control)?;
            }
        }
        Ok(())
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| ServiceError::internal("an import broke off", error))?;
    done.map_err(|error| ServiceError::internal("laying out a model's files", error))
}

fn copy(contents: &Contents, to: &Path, control: &Control) -> io::Result<()> {
    let (mut reader, mut file) = (contents.reader(), std::fs::File::create_new(to)?);
    let mut chunk = vec![0; 1 << 20];
    loop {
        control.check().map_err(io::Error::other)?;
        match reader.read(&mut chunk)? {
            0 => return Ok(()),
            n => file.write_all(&chunk[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_file_that_models_have_and_leads_nowhere_else() {
        for path in [
            "tiny.gguf",
            "config.json",
            "1_Pooling/config.json",
            "chat_template.jinja",
            "model-00001-of-00002.safetensors",
            "manifest.sha256",
            "README.md",
            "adapter_config.json",
        ] {
            assert!(is_name(path), "{path}");
        }
        for path in [
            "",
            ".",
            "..",
            "../config.json",
            "a/../config.json",
            "/etc/config.json",
            "a/b.json",
            "config.json/",
            ".hidden.json",
            ".gguf",
            "c:x.gguf",
            "a\\b.gguf",
            "run.sh",
            "2_Pooling/config.json",
            "x\0.gguf",
        ] {
            assert!(!is_name(path), "{path:?}");
        }
        assert!(!is_name(&format!("{}.gguf", "x".repeat(200))));
    }
}
