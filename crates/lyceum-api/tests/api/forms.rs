//! The models of `families.rs` as GGUF files, every matrix in one stored form: also those that this program only reads.
//!
//! Blocks of a type to which there is no quantiser have the scales that llama.cpp's own quantiser gave real rows
//! (`fixtures/stored/TYPE.quantised`) and random bits where the numbers are, so that no two rows are alike.

use crate::tiny::{TEMPLATE, byte_tokens};
use lyceum_kernels::stored::{Stored, quantise};
use lyceum_nn::gguf::{self, Tensor, Value as Meta};
use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Rows of the fixtures' source of about the size that weights have: the others are all of one sign, zeros, or far larger.
const ROWS: [usize; 4] = [0, 1, 2, 6];
const ROW_LEN: usize = 256;

/// Writes the model of a folder of `families.rs` as a GGUF file in this form.
pub fn gguf_of(folder: &Path, kind: Stored) -> PathBuf {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let mut bits = Bits(5);
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    let is_gemma = config["model_type"] == "gemma3_text";
    let tensors: Vec<Tensor<'_>> = names
        .into_iter()
        .map(|name| {
            let tensor = tensors.tensor(name).unwrap();
            let dims = tensor.shape().to_vec();
            let numbers = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            // Gemma's GGUF files hold the whole weight of a norm.
            let numbers = numbers.map(|x| if is_gemma && dims.len() == 1 { x + 1.0 } else { x });
            let numbers: Vec<f32> = numbers.collect();
            let kind = if dims.len() == 1 { Stored::F32 } else { kind };
            let data = stored(kind, &numbers, &mut bits);
            Tensor { name: gguf_name(name, is_gemma), dims, kind, data: Box::new(move || Ok(data.clone())) }
        })
        .collect();
    let mut out = Vec::new();
    gguf::write(&mut out, &metadata(&config), &tensors).unwrap();
    let path = folder.with_extension(format!("{}.gguf", kind.name()));
    std::fs::write(&path, out).unwrap();
    path
}

/// These numbers in a form, or, where nothing here makes it, as many others.
fn stored(kind: Stored, numbers: &[f32], bits: &mut Bits) -> Vec<u8> {
    let mut out = Vec::new();
    if quantise(kind, numbers, &mut out).is_ok() {
        return out;
    }
    let fixture = format!("../../fixtures/stored/{}.quantised", kind.name());
    let real = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
    let (size, a_row) = (kind.block_bytes(), ROW_LEN / kind.block_len());
    for i in 0..numbers.len() / kind.block_len() {
        let row = ROWS[bits.below(ROWS.len())];
        let block = &real[(row * a_row + i % a_row) * size..][..size];
        let numbers = of_numbers(kind);
        let byte = |(at, &byte): (usize, &u8)| match numbers.contains(&at) {
            true => bits.below(256) as u8,
            false => byte,
        };
        out.extend(block.iter().enumerate().map(byte));
    }
    out
}

/// The bytes of a block that hold its numbers, beside its scales.
fn of_numbers(kind: Stored) -> Range<usize> {
    match kind {
        Stored::Q4_1 => 4..20,
        Stored::Q5_0 => 2..22,
        Stored::Q5_1 => 4..24,
        Stored::Q2K => 16..80,
        Stored::Q3K => 0..96,
        Stored::Q5K => 16..176,
        Stored::Q6K => 0..192,
        other => unreachable!("there is a quantiser to {}", other.name()),
    }
}

struct Bits(u64);

impl Bits {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as usize % n
    }
}

/// Gemma has norms behind both halves of a layer too.
fn gguf_name(name: &str, is_gemma: bool) -> String {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            "lm_head.weight" => "output.weight",
            other => panic!("{other} has no name in GGUF"),
        }
        .into();
    };
    let (layer, rest) = rest.split_once('.').unwrap();
    let (part, end) = rest.rsplit_once('.').unwrap();
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "post_attention_layernorm" if is_gemma => "post_attention_norm",
        "post_attention_layernorm" => "ffn_norm",
        other => panic!("{other} has no name in GGUF"),
    };
    format!("blk.{layer}.{part}.{end}")
}

/// What `config.json` says, and the words of `families.rs`.
fn metadata(config: &Value) -> Vec<(String, Meta)> {
    let architecture = match config["model_type"].as_str().unwrap() {
        "gemma3_text" => "gemma3",
        "mistral" => "llama",
        same => same,
    };
    let of = |key: &str, value| (format!("{architecture}.{key}"), value);
    let count =
        |ours: &str, key: &str| config[key].as_u64().map(|n| of(ours, Meta::U32(u32::try_from(n).unwrap())));
    let counts = [
        count("block_count", "num_hidden_layers"),
        count("context_length", "max_position_embeddings"),
        count("embedding_length", "hidden_size"),
        count("feed_forward_length", "intermediate_size"),
        count("attention.head_count", "num_attention_heads"),
        count("attention.head_count_kv", "num_key_value_heads"),
        count("attention.key_length", "head_dim"),
        count("attention.sliding_window", "sliding_window"),
    ];
    let mut all = vec![("general.architecture".to_owned(), Meta::String(architecture.into()))];
    all.extend(counts.into_iter().flatten());
    all.push(of("attention.layer_norm_rms_epsilon", Meta::F32(1e-6)));
    let mut tokens = byte_tokens();
    let n_bytes = tokens.len();
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(String::from));
    let kinds = (0..tokens.len()).map(|i| if i < n_bytes { 1 } else { 3 }).collect();
    let word = |key: &str, value| (format!("tokenizer.{key}"), value);
    all.extend([
        word("ggml.model", Meta::String("gpt2".into())),
        word("ggml.pre", Meta::String("smollm".into())),
        word("ggml.tokens", Meta::Strings(tokens)),
        word("ggml.token_type", Meta::Integers(kinds)),
        word("ggml.merges", Meta::Strings(vec![])),
        word("ggml.eos_token_id", Meta::U32(n_bytes as u32 + 1)),
        word("ggml.add_bos_token", Meta::Bool(false)),
        word("chat_template", Meta::String(TEMPLATE.into())),
    ]);
    all
}
