//! SmolLM3: Llama in which every fourth layer has no positions (Yang et al. 2025, arXiv:2501.18795).

use super::describe::DescribeError;
use super::{Family, written};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: "smollm3",
    gguf: "smollm3",
    from_hugging_face: |file| {
        let mut config = file.llama_like()?;
        let bias = file.flag_or("attention_bias", false)?;
        (config.qkv_bias, config.o_bias) = (bias, bias);
        config.mlp_bias = file.flag_or("mlp_bias", false)?;
        config.tie_word_embeddings = file.flag_or("tie_word_embeddings", true)?;
        let interval = file.count_or("no_rope_layer_interval", 4)?.max(1);
        let listed = file.find("no_rope_layers").and_then(Value::as_array);
        if listed.is_some_and(|list| list.len() != config.layers.len()) {
            return Err(DescribeError::Sizes("no_rope_layers says not one number a layer".into()));
        }
        for (i, layer) in config.layers.iter_mut().enumerate() {
            // 1 stands for a layer with positions.
            let turns = listed.map_or(!(i + 1).is_multiple_of(interval), |list| list[i].as_u64() != Some(0));
            layer.rope = turns.then_some(0);
        }
        if file.flag_or("use_sliding_window", false)? {
            let window = file.sliding_window()?;
            file.windows(&mut config, window)?;
        }
        Ok(config)
    },
    from_gguf: |file| {
        let mut config = file.llama_like()?;
        for (i, layer) in config.layers.iter_mut().enumerate() {
            layer.rope = (!(i + 1).is_multiple_of(4)).then_some(0);
        }
        Ok(config)
    },
    class: "SmolLM3ForCausalLM",
    is_own: |config| config.model_type == "smollm3",
    to_hugging_face: |config, file| {
        let turns: Vec<u8> = config.layers.iter().map(|layer| layer.rope.is_some().into()).collect();
        file["no_rope_layers"] = json!(turns);
        file["use_sliding_window"] = json!(config.window().is_some());
        written::layer_types(config, file);
    },
    gguf_pairs_are_neighbours: true,
};
