//! An adapter put into its base's matrices, as files that other programs read: the base's own layout, with its
//! tokenizer and template.

use super::open::{self, GGUF, OpenError};
use super::{Added, Language};
use crate::export::{Content, File};
use lyceum_kernels::stored::Stored;
use lyceum_models::LoadError;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_types::manifest::DESCRIPTION_FILES;
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// `model.gguf`: the base's file with the changed matrices stored as f16.
///
/// # Errors
/// The model is no adapter, or its base did not come as GGUF.
pub(crate) fn gguf_of(language: Language) -> Result<Vec<File>, OpenError> {
    let base = &added(&language)?.base;
    if !base.dir.join(GGUF).is_file() {
        let problem =
            "the base is no GGUF file, so there is none to put the adapter into; export as safetensors";
        return Err(OpenError::File { path: base.dir.path().to_owned(), problem: problem.into() });
    }
    Ok(vec![File::new(GGUF, Content::Merged(Arc::new(language)))])
}

/// Writes the file of [`gguf_of`].
///
/// # Errors
/// The disk, or who reads.
pub(crate) fn gguf(language: &Language, out: &mut dyn Write) -> Result<(), OpenError> {
    let added = added(language)?;
    let path = added.base.dir.join(GGUF);
    let (checkpoint, header) = Checkpoint::gguf(open::weights(&path)?)?;
    let mut out = BufWriter::new(out);
    added.adapter.write_merged_gguf((&checkpoint, &header), &language.model, Stored::F16, &mut out)?;
    out.flush().map_err(|source| OpenError::Read { path: path.path().to_owned(), source })
}

/// `model.safetensors` (f32) beside the base's descriptions.
///
/// # Errors
/// The model is no adapter, or its base did not come in Hugging Face's layout.
pub(crate) fn safetensors(language: &Language) -> Result<Vec<File>, OpenError> {
    let added = added(language)?;
    let from = &added.base.dir;
    if !from.join("config.json").is_file() {
        let problem = "the base is no model in Hugging Face's layout; export as gguf";
        return Err(OpenError::File { path: from.path().to_owned(), problem: problem.into() });
    }
    // The index names the base's shards.
    let mut files: Vec<File> = DESCRIPTION_FILES
        .into_iter()
        .filter(|name| *name != "model.safetensors.index.json" && from.join(name).is_file())
        .map(|name| File::new(name, Content::Kept(from.join(name))))
        .collect();
    let merged = language.model.merged(&added.adapter, Some(Stored::F32))?;
    let weights = merged.language_safetensors().map_err(LoadError::Nn)?;
    files.push(File::new("model.safetensors", Content::Made(weights)));
    Ok(files)
}

fn added(language: &Language) -> Result<&Added, OpenError> {
    language.added.as_ref().ok_or_else(|| OpenError::File {
        path: language.version.dir.path().to_owned(),
        problem: "it is no adapter, so there is nothing to merge; leave --format out".into(),
    })
}
