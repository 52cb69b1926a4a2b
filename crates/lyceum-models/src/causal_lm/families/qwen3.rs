//! Qwen3: Llama with norms of queries and keys, head by head. Yang et al. 2025, arXiv:2505.09388.

use super::Family;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    gguf: "qwen3",
    from_hugging_face: |file| {
        let mut config = file.llama_like()?;
        let bias = file.flag_or("attention_bias", false)?;
        (config.qkv_bias, config.o_bias, config.qk_norm) = (bias, bias, true);
        config.head_dim = file.count_or("head_dim", 128)?;
        config.attention_scale = 1.0 / (config.head_dim as f32).sqrt();
        super::qwen2::windows(file, &mut config)?;
        Ok(config)
    },
    from_gguf: |file| {
        let mut config = file.llama_like()?;
        config.qk_norm = true;
        Ok(config)
    },
    class: "Qwen3ForCausalLM",
    is_own: |config| config.model_type == "qwen3",
    to_hugging_face: super::qwen2::write_windows,
    gguf_pairs_are_neighbours: false,
};
