//! Small language models of every family in Hugging Face's layout, with random weights of widths that every stored form takes,
//! after the files of `fixtures/causal_lm`: the same tensors and descriptions, other sizes.

use crate::tiny::{TEMPLATE, byte_tokens};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

pub const FAMILIES: [&str; 7] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "smollm3", "gemma3"];
/// Bytes, and two marks of a chat.
const VOCABULARY: usize = 258;

/// A size of the fixtures in these models.
fn size(n: usize) -> usize {
    match n {
        // hidden, inner, and all heads
        24 | 40 | 32 => 256,
        // heads of keys and values
        12 | 16 => 128,
        // one head
        8 => 64,
        64 => VOCABULARY,
        other => other,
    }
}

/// Writes a folder that can be imported.
pub fn folder(into: &Path, family: &str) -> PathBuf {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fixtures/causal_lm/{family}.safetensors"));
    let file = std::fs::read(fixture).unwrap();
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let folder = into.join(family);
    std::fs::create_dir_all(&folder).unwrap();
    let config = header["__metadata__"]["config"].as_str().unwrap();
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    write("config.json", &described(serde_json::from_str(config).unwrap()));
    write("tokenizer.json", &tokenizer());
    write("tokenizer_config.json", &json!({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}));
    let mut state = 11u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let is_ours = |name: &str| {
        let layer = name.strip_prefix("model.layers.").map(|rest| rest.split('.').next().unwrap());
        !name.starts_with("test.") && name != "__metadata__" && layer.is_none_or(|i| i == "0" || i == "1")
    };
    let mut tensors = Vec::new();
    for (name, about) in header.iter().filter(|(name, _)| is_ours(name)) {
        let dims: Vec<usize> =
            about["shape"].as_array().unwrap().iter().map(|n| size(n.as_u64().unwrap() as usize)).collect();
        let count: usize = dims.iter().product();
        // Gemma's norms multiply by one more than their weights.
        let one = if family == "gemma3" { 0.0 } else { 1.0 };
        let number = |x: f32| match dims.len() {
            1 if name.ends_with("norm.weight") => one,
            _ => 0.2 * x,
        };
        let bytes: Vec<u8> = (0..count).flat_map(|_| number(next()).to_le_bytes()).collect();
        tensors.push((name.clone(), dims, bytes));
    }
    let views = tensors.iter().map(|(name, dims, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap())
    });
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

fn described(mut config: Value) -> Value {
    for key in ["hidden_size", "intermediate_size", "head_dim"] {
        if let Some(n) = config[key].as_u64() {
            config[key] = size(n as usize).into();
        }
    }
    config["vocab_size"] = VOCABULARY.into();
    config["num_hidden_layers"] = 2.into();
    config["max_position_embeddings"] = 512.into();
    config["eos_token_id"] = 257.into();
    // Far enough for every word of a test to count.
    if config["sliding_window"].is_u64() {
        config["sliding_window"] = 256.into();
    }
    for key in ["layer_types", "no_rope_layers"] {
        if let Some(all) = config[key].as_array_mut() {
            all.truncate(2);
        }
    }
    config
}

fn tokenizer() -> Value {
    let mut vocabulary: Map<String, Value> =
        byte_tokens().into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let special = |(i, text): (usize, &str)| {
        json!({"id": 256 + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let marks = ["<|im_start|>", "<|im_end|>"];
    vocabulary.extend(marks.iter().enumerate().map(|(i, text)| ((*text).to_owned(), json!(256 + i))));
    json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": marks.into_iter().enumerate().map(special).collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []}})
}
