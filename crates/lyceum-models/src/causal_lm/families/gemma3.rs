//! Gemma 3 (text): norms of queries and keys, norms after attention and feed-forward, scaled embeddings, GELU
//! gates, and five layers with a sliding window and their own rotary base for each that sees all. Gemma Team
//! 2025, arXiv:2503.19786.

use super::describe::DescribeError;
use super::{Family, written};
use crate::causal_lm::Config;
use crate::causal_lm::config::Rope;
use lyceum_nn::Activation;
use serde_json::json;

const GLOBAL: usize = 0;
const LOCAL: usize = 1;
/// Every so many layers one sees all.
const PATTERN: usize = 6;
const LOCAL_THETA: f64 = 10_000.0;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    gguf: "gemma3",
    from_hugging_face: |file| {
        for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
            if file.find(key).is_some() {
                return Err(DescribeError::Unsupported(key.into()));
            }
        }
        if file.flag_or("use_bidirectional_attention", false)? {
            return Err(DescribeError::Unsupported("use_bidirectional_attention".into()));
        }
        let mut config = file.llama_like()?;
        let bias = file.flag_or("attention_bias", false)?;
        (config.qkv_bias, config.o_bias) = (bias, bias);
        config.head_dim = file.count_or("head_dim", 256)?;
        if file.find("hidden_act").or_else(|| file.find("hidden_activation")).is_none() {
            config.activation = Activation::GeluTanh;
        }
        let scalar = file.number_or("query_pre_attn_scalar", 256.0)?;
        config.attention_scale = (1.0 / scalar.sqrt()) as f32;
        config.tie_word_embeddings = file.flag_or("tie_word_embeddings", true)?;
        config.norm_weights_minus_one = true;
        let (full, sliding) = match file.find("rope_parameters") {
            Some(both) if both.get("full_attention").is_some() => {
                (file.rope(both.get("full_attention"))?, file.rope(both.get("sliding_attention"))?)
            }
            _ => {
                let local = file.number_or("rope_local_base_freq", LOCAL_THETA)?;
                let mut full = file.rope(file.find("rope_scaling"))?;
                if file.find("rope_theta").is_none() {
                    full.theta = 1_000_000.0;
                }
                (full, Rope::plain(local))
            }
        };
        finish(&mut config, [full, sliding], file.count_or("sliding_window", 4096)?);
        let pattern = file.find("sliding_window_pattern").or_else(|| file.find("_sliding_window_pattern"));
        if pattern.is_some_and(|p| p.as_u64() != Some(PATTERN as u64)) && file.find("layer_types").is_none() {
            return Err(DescribeError::Unsupported("another sliding_window_pattern than 6".into()));
        }
        let window = config.window();
        file.windows(&mut config, window.or(file.sliding_window()?))?;
        for layer in &mut config.layers {
            layer.rope = Some(if layer.window.is_some() { LOCAL } else { GLOBAL });
        }
        Ok(config)
    },
    from_gguf: |file| {
        let mut config = file.llama_like()?;
        config.activation = Activation::GeluTanh;
        // The 27 B model alone scales by √(C / H), as llama.cpp reads its files.
        if config.layers.len() == 62 {
            let (c, h) = (config.hidden_size as f32, config.num_attention_heads as f32);
            config.attention_scale = 1.0 / (c / h).sqrt();
        }
        let full = Rope { theta: file.number_or("rope.freq_base", 1_000_000.0)?, ..config.ropes[0].clone() };
        let local = Rope::plain(file.number_or("rope.freq_base_swa", LOCAL_THETA)?);
        finish(&mut config, [full, local], file.count("attention.sliding_window")?);
        Ok(config)
    },
    class: "Gemma3ForCausalLM",
    is_own: |config| ["gemma3", "gemma3_text"].contains(&config.model_type.as_str()),
    to_hugging_face: |config, file| {
        file["hidden_activation"] = file["hidden_act"].clone();
        let scalar = 1.0 / f64::from(config.attention_scale).powi(2);
        let whole = scalar.round();
        // Written as people write it: the scale is of f32.
        let scalar = if (scalar / whole - 1.0).abs() < written::ROUNDING { whole } else { scalar };
        file["query_pre_attn_scalar"] = json!(scalar);
        file["rope_local_base_freq"] = json!(config.ropes.get(LOCAL).map(|local| local.theta));
        written::layer_types(config, file);
    },
    gguf_pairs_are_neighbours: false,
};

fn finish(config: &mut Config, ropes: [Rope; 2], window: usize) {
    (config.qk_norm, config.post_norms) = (true, true);
    config.embedding_scale = Some((config.hidden_size as f32).sqrt());
    config.ropes = ropes.into();
    for (i, layer) in config.layers.iter_mut().enumerate() {
        let global = (i + 1).is_multiple_of(PATTERN);
        layer.window = (!global).then_some(window);
        layer.rope = Some(if global { GLOBAL } else { LOCAL });
    }
}
