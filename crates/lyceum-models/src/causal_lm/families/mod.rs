//! The families, one file each: what a checkpoint's own description (`config.json`, or the metadata of a GGUF
//! file) means as a [`Config`].
//!
//! To add one: write its file with a [`Family`] and name it in [`FAMILIES`]. What all of them share is read by
//! [`HuggingFace::llama_like`] and [`Gguf::llama_like`], and written by [`to_hugging_face`]; a family's file says in what it differs.

mod describe;
mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod smollm3;
mod written;

pub use describe::{DescribeError, Gguf, HuggingFace};
pub use written::to_hugging_face;

use super::Config;
use serde_json::Value;

/// How one family describes itself.
pub struct Family {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file.
    pub gguf: &'static str,
    pub from_hugging_face: fn(&HuggingFace<'_>) -> Result<Config, DescribeError>,
    pub from_gguf: fn(&Gguf<'_>) -> Result<Config, DescribeError>,
    /// The class of `transformers` that `config.json` names.
    pub class: &'static str,
    /// Whether a model is written as one of this family, whatever file it came from.
    pub is_own: fn(&Config) -> bool,
    /// What this family's `config.json` says beyond what all of them do.
    pub to_hugging_face: fn(&Config, &mut Value),
    /// GGUF files of this family hold the rows of query and key heads in the order in which rotary pairs are
    /// neighbours; Hugging Face's order has the halves of a head apart.
    pub gguf_pairs_are_neighbours: bool,
}

pub const FAMILIES: [&Family; 6] =
    [&llama::FAMILY, &mistral::FAMILY, &smollm3::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY];

/// The family and its configuration from `config.json`.
pub fn from_hugging_face(config: &Value) -> Result<(&'static Family, Config), DescribeError> {
    let description = HuggingFace::new(config)?;
    let model_type = description.text("model_type")?;
    let known = || FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ");
    let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
        DescribeError::Unsupported(format!("model_type \"{model_type}\"; there are {}", known()))
    })?;
    let config = (family.from_hugging_face)(&description)?;
    config.check().map_err(DescribeError::Sizes)?;
    Ok((family, config))
}

/// The family and its configuration from a GGUF file's metadata; `has` says whether the file holds a tensor.
pub fn from_gguf(
    header: &lyceum_nn::gguf::Header,
    has: &dyn Fn(&str) -> bool,
) -> Result<(&'static Family, Config), DescribeError> {
    let description = Gguf::new(header, has)?;
    let known = || FAMILIES.iter().map(|f| f.gguf).collect::<Vec<_>>().join(", ");
    // Mistral's files call themselves llama.
    let family = FAMILIES.iter().find(|f| f.gguf == description.architecture).ok_or_else(|| {
        let found = description.architecture;
        DescribeError::Unsupported(format!("general.architecture \"{found}\"; there are {}", known()))
    })?;
    let config = (family.from_gguf)(&description)?;
    config.check().map_err(DescribeError::Sizes)?;
    Ok((family, config))
}
