//! An adapter put into its base's matrices, as files that other programs read: the base's own layout, with its
//! tokenizer and template.

use super::open::{self, GGUF, OpenError};
use super::{Added, Language};
use lyceum_kernels::stored::Stored;
use lyceum_models::LoadError;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_types::manifest::DESCRIPTION_FILES;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `model.gguf` into `target`: the base's file with the changed matrices stored as `kind`.
///
/// # Errors
/// The model is no adapter, its base did not come as GGUF, or the disk.
pub fn gguf(language: &Language, kind: Stored, target: &Path) -> Result<(), OpenError> {
    let added = added(language)?;
    let path = added.base.dir.join(GGUF);
    if !path.is_file() {
        let problem =
            "the base is no GGUF file, so there is none to put the adapter into; export as safetensors";
        return Err(OpenError::File { path: added.base.dir.path().to_owned(), problem: problem.into() });
    }
    let (checkpoint, header) = Checkpoint::gguf(open::weights(&path)?)?;
    let target = target.join(GGUF);
    let failed = |source| OpenError::Read { path: target.clone(), source };
    let mut out = BufWriter::new(File::create(&target).map_err(failed)?);
    added.adapter.write_merged_gguf((&checkpoint, &header), &language.model, kind, &mut out)?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)
}

/// Writes `model.safetensors` (f32) beside the base's descriptions into `target`.
///
/// # Errors
/// The model is no adapter, its base did not come in Hugging Face's layout, or the disk.
pub fn safetensors(language: &Language, target: &Path) -> Result<(), OpenError> {
    let added = added(language)?;
    let from = &added.base.dir;
    if !from.join("config.json").is_file() {
        let problem = "the base is no model in Hugging Face's layout; export as gguf";
        return Err(OpenError::File { path: from.path().to_owned(), problem: problem.into() });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Read { path, source }
    };
    // The index names the base's shards.
    for name in DESCRIPTION_FILES.into_iter().filter(|name| *name != "model.safetensors.index.json") {
        let (path, to) = (from.join(name), target.join(name));
        if path.is_file() {
            let folder = to.parent().unwrap_or(target);
            std::fs::create_dir_all(folder).map_err(failed(folder))?;
            let content = path.read().map_err(failed(path.path()))?;
            std::fs::write(&to, content).map_err(failed(&to))?;
        }
    }
    let merged = language.model.merged(&added.adapter, Some(Stored::F32))?;
    let path = target.join("model.safetensors");
    let weights = merged.language_safetensors().map_err(LoadError::Nn)?;
    std::fs::write(&path, weights).map_err(failed(&path))
}

fn added(language: &Language) -> Result<&Added, OpenError> {
    language.added.as_ref().ok_or_else(|| OpenError::File {
        path: language.version.dir.path().to_owned(),
        problem: "it is no adapter, so there is nothing to merge; leave --format out".into(),
    })
}
