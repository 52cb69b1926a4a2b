//! Llama 2 and 3.x, and what is built like them (SmolLM2): the shared description, with optional biases.
//! Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783.

use super::Family;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    gguf: "llama",
    from_hugging_face: |file| {
        let mut config = file.llama_like()?;
        let bias = file.flag_or("attention_bias", false)?;
        (config.qkv_bias, config.o_bias) = (bias, bias);
        config.mlp_bias = file.flag_or("mlp_bias", false)?;
        Ok(config)
    },
    from_gguf: |file| {
        let mut config = file.llama_like()?;
        let window = file.find("attention.sliding_window").map(|_| file.count("attention.sliding_window"));
        let window = window.transpose()?.filter(|&w| w > 0);
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(config)
    },
    class: "LlamaForCausalLM",
    // Mistral's GGUF files call themselves llama.
    is_own: |config| config.model_type == "llama" && config.window().is_none(),
    to_hugging_face: |_, _| {},
    gguf_pairs_are_neighbours: true,
};
