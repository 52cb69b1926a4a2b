//! An adapter put into its base's matrices, as files that other programs read: the base's own layout, with its
//! tokenizer and template.

use super::open::{self, GGUF, OpenError};
use super::{Added, Language};
use crate::export::{Content, File};
use lyceum_kernels::stored::Stored;
use lyceum_models::LoadError;
use lyceum_models::causal_lm::{Config, families};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_store::vault::KeyedPath;
use lyceum_types::manifest::DESCRIPTION_FILES;
use serde_json::json;
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

/// `model.safetensors` (f32) beside the base's descriptions, which are made of its metadata where it came as GGUF.
///
/// # Errors
/// The model is no adapter, or what its base is and its words cannot be said in Hugging Face's layout.
pub(crate) fn safetensors(language: &Language) -> Result<Vec<File>, OpenError> {
    let added = added(language)?;
    let from = &added.base.dir;
    let mut files = match from.join(GGUF).is_file() {
        true => descriptions(language, from)?,
        // The index names the base's shards.
        false => DESCRIPTION_FILES
            .into_iter()
            .filter(|name| *name != "model.safetensors.index.json" && from.join(name).is_file())
            .map(|name| File::new(name, Content::Kept(from.join(name))))
            .collect(),
    };
    let merged = language.model.merged(&added.adapter, Some(Stored::F32))?;
    let weights = merged.language_safetensors().map_err(LoadError::Nn)?;
    files.push(File::new("model.safetensors", Content::Made(weights)));
    Ok(files)
}

/// What a GGUF file says of its model, as the files beside safetensors.
fn descriptions(language: &Language, from: &KeyedPath) -> Result<Vec<File>, OpenError> {
    let refused = |what: String| OpenError::File {
        path: from.path().to_owned(),
        problem: format!("{what}; export as gguf or peft"),
    };
    let config = language.model.language_config().ok_or_else(|| refused("it is no language model".into()))?;
    // An import may have cut the context; the weights have all of it.
    let whole = Config {
        max_position_embeddings: open::description(from)?.max_position_embeddings,
        ..config.clone()
    };
    let mut config = families::to_hugging_face(&whole).map_err(|error| refused(error.to_string()))?;
    let words = &language.words;
    let (tokenizer, mut spelling) = words.tokenizer.to_json().map_err(|error| refused(error.to_string()))?;
    let mut generation = json!({});
    let ends = words.tokenizer.ends();
    for described in [&mut config, &mut generation] {
        if let Some(bos) = words.tokenizer.bos() {
            described["bos_token_id"] = json!(bos);
        }
        if !ends.is_empty() {
            described["eos_token_id"] = json!(ends);
        }
    }
    if let Some(template) = &words.template {
        spelling["chat_template"] = json!(template.source());
    }
    let mut files = vec![File::new("tokenizer.json", Content::Made(tokenizer))];
    for (name, described) in
        [("config.json", config), ("tokenizer_config.json", spelling), ("generation_config.json", generation)]
    {
        let bytes = serde_json::to_vec_pretty(&described).expect("plain data can be written: bug");
        files.push(File::new(name, Content::Made(bytes)));
    }
    if let Some(licence) = &language.manifest.licence {
        let front = format!("---\nlicense: {licence:?}\n---\n");
        files.push(File::new("README.md", Content::Made(front.into_bytes())));
    }
    Ok(files)
}

fn added(language: &Language) -> Result<&Added, OpenError> {
    language.added.as_ref().ok_or_else(|| OpenError::File {
        path: language.version.dir.path().to_owned(),
        problem: "it is no adapter, so there is nothing to merge; leave --format out".into(),
    })
}
