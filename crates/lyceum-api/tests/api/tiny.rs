//! A language model of two layers with random weights whose tokens are bytes, written as GGUF.

use lyceum_kernels::stored::{Stored, quantise};
use lyceum_nn::gguf::{self, Tensor, Value as Meta};

pub const TEMPLATE: &str = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<tool_call></tool_call><|im_end|>\n{% endif %}\
{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('no such role') }}{% endif %}\
<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The characters that stand for bytes in byte-level vocabularies (GPT-2's).
pub fn byte_tokens() -> Vec<String> {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0u32;
    (0..=255u8)
        .map(|b| {
            let code = if plain(b) {
                u32::from(b)
            } else {
                next += 1;
                255 + next
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect()
}

/// A Llama of two layers whose tokens are bytes.
pub fn tiny_gguf() -> Vec<u8> {
    tiny_gguf_with(TEMPLATE)
}

/// With a chat template of another kind.
pub fn tiny_gguf_with(template: &str) -> Vec<u8> {
    let mut tokens = byte_tokens();
    let n_bytes = tokens.len();
    tokens.extend(["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"].map(String::from));
    tokens.push("th".into());
    let kinds = (0..tokens.len()).map(|i| match i - i.min(n_bytes) {
        _ if i < n_bytes => 1,
        0 | 1 => 3,
        2 | 3 => 4,
        _ => 1,
    });
    let (c, f, v) = (32, 64, tokens.len());
    let of = |key: &str, value| (key.to_owned(), value);
    let metadata = vec![
        of("general.architecture", Meta::String("llama".into())),
        of("general.license", Meta::String("apache-2.0".into())),
        of("llama.block_count", Meta::U32(2)),
        of("llama.context_length", Meta::U32(2048)),
        of("llama.embedding_length", Meta::U32(c as u32)),
        of("llama.feed_forward_length", Meta::U32(f as u32)),
        of("llama.attention.head_count", Meta::U32(4)),
        of("llama.attention.head_count_kv", Meta::U32(2)),
        of("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        of("tokenizer.ggml.model", Meta::String("gpt2".into())),
        of("tokenizer.ggml.pre", Meta::String("smollm".into())),
        of("tokenizer.ggml.token_type", Meta::Integers(kinds.collect())),
        of("tokenizer.ggml.merges", Meta::Strings(vec!["t h".into()])),
        of("tokenizer.ggml.eos_token_id", Meta::U32(n_bytes as u32 + 1)),
        of("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        of("tokenizer.chat_template", Meta::String(template.into())),
        of("tokenizer.ggml.tokens", Meta::Strings(tokens)),
    ];
    let mut shapes =
        vec![("token_embd.weight".to_owned(), vec![v, c]), ("output_norm.weight".into(), vec![c])];
    for i in 0..2 {
        for (part, dims) in [
            ("attn_norm", vec![c]),
            ("ffn_norm", vec![c]),
            ("attn_q", vec![c, c]),
            ("attn_k", vec![c / 2, c]),
            ("attn_v", vec![c / 2, c]),
            ("attn_output", vec![c, c]),
            ("ffn_gate", vec![f, c]),
            ("ffn_up", vec![f, c]),
            ("ffn_down", vec![c, f]),
        ] {
            shapes.push((format!("blk.{i}.{part}.weight"), dims));
        }
    }
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensors: Vec<Tensor<'_>> = shapes
        .into_iter()
        .map(|(name, dims)| {
            let is_norm = dims.len() == 1;
            let n = dims.iter().product();
            let numbers: Vec<f32> = (0..n).map(|_| if is_norm { 1.0 } else { random() }).collect();
            let kind = if is_norm { Stored::F32 } else { Stored::Q8_0 };
            let mut data = Vec::new();
            quantise(kind, &numbers, &mut data).unwrap();
            Tensor { name, dims, kind, data: Box::new(move || Ok(data.clone())) }
        })
        .collect();
    let mut file = Vec::new();
    gguf::write(&mut file, &metadata, &tensors).unwrap();
    file
}
