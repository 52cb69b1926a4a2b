//! Mistral: Llama with a sliding window over all layers where `sliding_window` is set. Jiang et al. 2023,
//! arXiv:2310.06825. Its GGUF files call themselves llama.

use super::Family;
use serde_json::json;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    gguf: "mistral",
    from_hugging_face: |file| {
        let mut config = file.llama_like()?;
        let window = file.sliding_window()?;
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        file.windows(&mut config, window)?;
        Ok(config)
    },
    from_gguf: super::llama::FAMILY.from_gguf,
    class: "MistralForCausalLM",
    is_own: |config| {
        config.model_type == "mistral" || config.model_type == "llama" && config.window().is_some()
    },
    to_hugging_face: |config, file| file["sliding_window"] = json!(config.window()),
    gguf_pairs_are_neighbours: true,
};
