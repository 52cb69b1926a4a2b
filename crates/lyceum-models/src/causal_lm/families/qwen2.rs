//! Qwen2 and Qwen2.5: Llama with biases on query, key and value. Yang et al. 2024, arXiv:2407.10671.

use super::describe::{DescribeError, HuggingFace};
use super::{Config, Family, written};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    gguf: "qwen2",
    from_hugging_face: |file| {
        let mut config = file.llama_like()?;
        config.qkv_bias = true;
        windows(file, &mut config)?;
        Ok(config)
    },
    from_gguf: |file| {
        let mut config = file.llama_like()?;
        config.qkv_bias = true;
        Ok(config)
    },
    class: "Qwen2ForCausalLM",
    is_own: |config| config.model_type == "qwen2",
    to_hugging_face: write_windows,
    gguf_pairs_are_neighbours: false,
};

/// Sliding windows, which `use_sliding_window` turns on from layer `max_window_layers` on.
pub(super) fn windows(file: &HuggingFace<'_>, config: &mut Config) -> Result<(), DescribeError> {
    if !file.flag_or("use_sliding_window", false)? {
        return Ok(());
    }
    let window = file.sliding_window()?;
    let first = file.count_or("max_window_layers", config.layers.len())?;
    config.layers.iter_mut().skip(first).for_each(|layer| layer.window = window);
    file.windows(config, window)
}

/// The same, written.
pub(super) fn write_windows(config: &Config, file: &mut Value) {
    written::layer_types(config, file);
    file["use_sliding_window"] = json!(config.window().is_some());
    let first = config.layers.iter().position(|layer| layer.window.is_some());
    file["max_window_layers"] = json!(first.unwrap_or(config.layers.len()));
}
