//! The files that are changed: a small Llama as GGUF, an adapter of it, an encoder in two shards, two tokenizers, two
//! templates.

use lyceum_kernels::stored::{Stored, quantise};
use lyceum_nn::gguf::{self, Tensor, Value as Meta};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes before the weights of [`gguf`], about.
pub const GGUF_HEAD: usize = 9000;

pub const TEMPLATES: [&str; 2] = [
    include_str!("../../../../fixtures/language/templates/chatml.jinja"),
    include_str!("../../../../fixtures/language/templates/tools.jinja"),
];

const ENCODER: &[u8] = include_bytes!("../../../../fixtures/encoder/bert.safetensors");
const WORD_PIECE: &[u8] = include_bytes!("../../../../fixtures/encoder/tokenizer.json");

/// A Llama of one layer, its metadata changed.
pub fn gguf(change: impl FnOnce(&mut Vec<(String, Meta)>)) -> Vec<u8> {
    let mut metadata = metadata();
    change(&mut metadata);
    written(&metadata, None)
}

/// The same, with one number of a tensor that is none.
pub fn gguf_with_nan(name: &str) -> Vec<u8> {
    written(&metadata(), Some(name))
}

fn metadata() -> Vec<(String, Meta)> {
    let mut tokens: Vec<String> = (0..256u32).map(|i| char::from_u32(256 + i).unwrap().to_string()).collect();
    // The bytes that stand for themselves in byte-level vocabularies; the others have letters beyond.
    for (i, c) in (0..256u32).filter_map(|i| Some((i, char::from_u32(i)?))) {
        if matches!(c, '!'..='~' | '\u{A1}'..='\u{AC}' | '\u{AE}'..='\u{FF}') {
            tokens[i as usize] = c.to_string();
        }
    }
    let mut spare = (0..).filter_map(|i| char::from_u32(256 + i)).map(String::from);
    for (i, token) in tokens.iter_mut().enumerate() {
        let stands_for_itself = token.chars().next().is_some_and(|c| c as usize == i);
        if !stands_for_itself {
            *token = spare.next().unwrap();
        }
    }
    tokens.extend(["<|im_start|>", "<|im_end|>", "th", "the"].map(String::from));
    let kinds = (0..tokens.len() as i64).map(|i| if (256..258).contains(&i) { 3 } else { 1 }).collect();
    let of = |key: &str, value| (key.to_owned(), value);
    vec![
        of("general.architecture", Meta::String("llama".into())),
        of("general.license", Meta::String("apache-2.0".into())),
        of("llama.block_count", Meta::U32(1)),
        of("llama.context_length", Meta::U32(128)),
        of("llama.embedding_length", Meta::U32(32)),
        of("llama.feed_forward_length", Meta::U32(64)),
        of("llama.attention.head_count", Meta::U32(4)),
        of("llama.attention.head_count_kv", Meta::U32(2)),
        of("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        of("llama.rope.freq_base", Meta::F32(10_000.0)),
        of("llama.rope.dimension_count", Meta::U32(8)),
        of("tokenizer.ggml.model", Meta::String("gpt2".into())),
        of("tokenizer.ggml.pre", Meta::String("smollm".into())),
        of("tokenizer.ggml.token_type", Meta::Integers(kinds)),
        of("tokenizer.ggml.merges", Meta::Strings(vec!["t h".into(), "th e".into()])),
        of("tokenizer.ggml.bos_token_id", Meta::U32(256)),
        of("tokenizer.ggml.eos_token_id", Meta::U32(257)),
        of("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        of("tokenizer.chat_template", Meta::String(TEMPLATES[0].into())),
        of("tokenizer.ggml.tokens", Meta::Strings(tokens)),
    ]
}

fn written(metadata: &[(String, Meta)], not_a_number: Option<&str>) -> Vec<u8> {
    let (c, f, v) = (32, 64, 260);
    let shapes = [
        ("token_embd.weight", vec![v, c], Stored::Q8_0),
        ("output_norm.weight", vec![c], Stored::F32),
        ("blk.0.attn_norm.weight", vec![c], Stored::F32),
        ("blk.0.ffn_norm.weight", vec![c], Stored::F32),
        ("blk.0.attn_q.weight", vec![c, c], Stored::Q4_0),
        ("blk.0.attn_k.weight", vec![c / 2, c], Stored::F16),
        ("blk.0.attn_v.weight", vec![c / 2, c], Stored::Bf16),
        ("blk.0.attn_output.weight", vec![c, c], Stored::F32),
        ("blk.0.ffn_gate.weight", vec![f, c], Stored::Q8_0),
        ("blk.0.ffn_up.weight", vec![f, c], Stored::Q4_0),
        ("blk.0.ffn_down.weight", vec![c, f], Stored::Q8_0),
    ];
    let tensor = |(name, dims, kind): (&str, Vec<usize>, Stored)| {
        let n: usize = dims.iter().product();
        let numbers: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
        let mut data = Vec::new();
        quantise(kind, &numbers, &mut data).unwrap();
        if not_a_number == Some(name) {
            // The scale of the second block, or the second number.
            let at = kind.block_bytes();
            data[at..at + kind.block_bytes().min(4)].fill(0xFF);
        }
        Tensor { name: name.into(), dims, kind, data: Box::new(move || Ok(data.clone())) }
    };
    let tensors: Vec<Tensor<'_>> = shapes.into_iter().map(tensor).collect();
    let mut file = Vec::new();
    gguf::write(&mut file, metadata, &tensors).unwrap();
    file
}

/// An encoder in Hugging Face's layout: its weights in two shards, their index, its configuration, its tokenizer.
pub fn folder() -> Vec<(&'static str, Vec<u8>)> {
    let header: Value = serde_json::from_slice(&ENCODER[8..header_len(ENCODER)]).unwrap();
    let config = header["__metadata__"]["config"].as_str().unwrap().to_owned();
    let all = safetensors::SafeTensors::deserialize(ENCODER).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut shards: [Vec<(String, TensorView<'_>)>; 2] = Default::default();
    let mut map = BTreeMap::new();
    for (i, (name, view)) in
        all.tensors().into_iter().filter(|(name, _)| !name.starts_with("test.")).enumerate()
    {
        map.insert(name.clone(), names[i % 2]);
        shards[i % 2].push((name, view));
    }
    let index = json!({"metadata": {"total_size": ENCODER.len()}, "weight_map": map});
    let [first, second] = shards.map(|shard| safetensors::serialize(shard, None).unwrap());
    vec![
        (names[0], first),
        (names[1], second),
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("config.json", config.into_bytes()),
        ("tokenizer.json", WORD_PIECE.to_vec()),
    ]
}

/// Where the data of a safetensors file begin; of another file, its length.
pub fn header_len(file: &[u8]) -> usize {
    let first = file.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    first.and_then(|n| usize::try_from(n).ok()).map_or(file.len(), |n| n.saturating_add(8).min(file.len()))
}

/// A word-piece and a byte-level tokenizer.
pub fn tokenizers() -> [Vec<u8>; 2] {
    let letters = "abcdefghijklmnopqrstuvwxyz0123456789,.ĠĊÃ©";
    let mut vocabulary: Vec<String> = letters.chars().map(String::from).collect();
    vocabulary.extend(["th", "the", "Ġc", "Ġca", "Ġcat"].map(String::from));
    let n = vocabulary.len();
    let vocabulary: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let bpe = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(n, "<|im_start|>"), special(n + 1, "<|im_end|>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [["t", "h"], ["th", "e"], ["Ġ", "c"], ["Ġc", "a"], ["Ġca", "t"]]}});
    [WORD_PIECE.to_vec(), bpe.to_string().into_bytes()]
}

/// An adapter of [`gguf`] in PEFT's layout: its description and its weights.
pub fn adapter() -> [(&'static str, Vec<u8>); 2] {
    let description = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj", "down_proj"], "exclude_modules": ["up_proj"], "bias": "none",
        "rank_pattern": {"v_proj": 1}, "alpha_pattern": {"down_proj": 3.0}, "layers_to_transform": [0],
        "use_rslora": false, "fan_in_fan_out": false, "modules_to_save": null, "lora_dropout": 0.1});
    let modules =
        [("self_attn.q_proj", 2, 32, 32), ("self_attn.v_proj", 1, 32, 16), ("mlp.down_proj", 2, 64, 32)];
    let mut factors = Vec::new();
    for (module, r, inputs, outputs) in modules {
        for (factor, dims) in [("A", [r, inputs]), ("B", [outputs, r])] {
            let numbers = (0..dims[0] * dims[1]).map(|i| (i as f32 - 20.0) / 100.0);
            let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            let name = format!("base_model.model.model.layers.0.{module}.lora_{factor}.weight");
            factors.push((name, dims.to_vec(), bytes));
        }
    }
    let view =
        |dims: &Vec<usize>, bytes| TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes).unwrap();
    let views = factors.iter().map(|(name, dims, bytes)| (name.as_str(), view(dims, bytes)));
    let weights = safetensors::serialize(views, None).unwrap();
    [("adapter_config.json", description.to_string().into_bytes()), ("adapter_model.safetensors", weights)]
}

/// What a fuzz target begins with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "tokenizer" => return tokenizers().to_vec(),
        "template" => return TEMPLATES.map(|template| template.as_bytes().to_vec()).to_vec(),
        _ => {}
    }
    let folder = format!("{}/../../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
