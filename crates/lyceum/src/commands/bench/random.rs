//! A language model of a real shape with random weights, written as GGUF by this program: speed does not depend on
//! what weights say. Its vocabulary is made up: every byte, then words of one number each.

use lyceum_kernels::stored::{Stored, quantise};
use lyceum_nn::gguf::{self, Tensor, Value as Meta};
use std::path::Path;

/// Sizes of a real model.
pub struct Shape {
    pub name: &'static str,
    pub architecture: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub feedforward: usize,
    pub vocabulary: usize,
    pub head_norms: bool,
}

pub const SHAPES: [Shape; 2] = [
    Shape {
        name: "qwen3-0.6b",
        architecture: "qwen3",
        layers: 28,
        hidden: 1024,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        feedforward: 3072,
        vocabulary: 151_936,
        head_norms: true,
    },
    Shape {
        name: "smollm2-135m",
        architecture: "llama",
        layers: 30,
        hidden: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        feedforward: 1536,
        vocabulary: 49_152,
        head_norms: false,
    },
];
pub const CONTEXT: usize = 4096;

/// Writes the model with random weights of standard deviation 0.02.
pub fn write(shape: &Shape, kind: Stored, path: &Path) -> std::io::Result<()> {
    let key = |key: &str, n: usize| (format!("{}.{key}", shape.architecture), Meta::U32(n as u32));
    let mut metadata = vec![
        ("general.architecture".to_owned(), Meta::String(shape.architecture.into())),
        ("general.name".to_owned(), Meta::String(format!("random {}", shape.name))),
        key("block_count", shape.layers),
        key("context_length", CONTEXT),
        key("embedding_length", shape.hidden),
        key("feed_forward_length", shape.feedforward),
        key("attention.head_count", shape.heads),
        key("attention.head_count_kv", shape.kv_heads),
        key("attention.key_length", shape.head_dim),
        key("attention.value_length", shape.head_dim),
        key("vocab_size", shape.vocabulary),
        (format!("{}.rope.freq_base", shape.architecture), Meta::F32(1e6)),
        (format!("{}.attention.layer_norm_rms_epsilon", shape.architecture), Meta::F32(1e-6)),
    ];
    metadata.extend(vocabulary(shape.vocabulary));
    let matrix = |name: String, n: usize, k: usize| {
        let seed = name.bytes().fold(n as u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        // Rows that are no whole blocks of this type stand in the next one that fits.
        let kind = if kind.row_bytes(k).is_some() { kind } else { Stored::Q8_0 };
        let data = move || {
            let mut numbers = vec![0.0; n * k];
            fill(seed, &mut numbers);
            let mut out = Vec::new();
            quantise(kind, &numbers, &mut out).map_err(std::io::Error::other)?;
            Ok(out)
        };
        Tensor { name, dims: vec![n, k], kind, data: Box::new(data) }
    };
    let ones = |name: String, n: usize| {
        let data = move || Ok(std::iter::repeat_n(1f32.to_le_bytes(), n).flatten().collect());
        Tensor { name, dims: vec![n], kind: Stored::F32, data: Box::new(data) }
    };
    let (c, f, d) = (shape.hidden, shape.feedforward, shape.head_dim);
    let mut tensors =
        vec![matrix("token_embd.weight".into(), shape.vocabulary, c), ones("output_norm.weight".into(), c)];
    for i in 0..shape.layers {
        let of = |part: &str| format!("blk.{i}.{part}.weight");
        tensors.extend([ones(of("attn_norm"), c), ones(of("ffn_norm"), c)]);
        if shape.head_norms {
            tensors.extend([ones(of("attn_q_norm"), d), ones(of("attn_k_norm"), d)]);
        }
        tensors.extend([
            matrix(of("attn_q"), shape.heads * d, c),
            matrix(of("attn_k"), shape.kv_heads * d, c),
            matrix(of("attn_v"), shape.kv_heads * d, c),
            matrix(of("attn_output"), c, shape.heads * d),
            matrix(of("ffn_gate"), f, c),
            matrix(of("ffn_up"), f, c),
            matrix(of("ffn_down"), c, f),
        ]);
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    gguf::write(&mut file, &metadata, &tensors)
}

/// A byte-level BPE of `n` tokens; the last one ends a text.
fn vocabulary(n: usize) -> Vec<(String, Meta)> {
    // GPT-2's letters for bytes: printable ones stand for themselves, the others follow from 256.
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256..;
    let letter = |byte: u32| match printable(byte) {
        true => char::from_u32(byte),
        false => beyond.next().and_then(char::from_u32),
    };
    let mut tokens: Vec<String> = (0..256).filter_map(letter).map(String::from).collect();
    let space = '\u{120}';
    tokens.push(format!("{space}t"));
    tokens.extend((tokens.len()..n - 1).map(|i| format!("{space}{i}")));
    tokens.push("<|end|>".into());
    let mut kinds = vec![1; n];
    kinds[n - 1] = 3;
    let key = |name: &str, value| (format!("tokenizer.ggml.{name}"), value);
    vec![
        key("model", Meta::String("gpt2".into())),
        key("pre", Meta::String("qwen2".into())),
        key("tokens", Meta::Strings(tokens)),
        key("token_type", Meta::Integers(kinds)),
        key("merges", Meta::Strings(vec![format!("{space} t")])),
        key("eos_token_id", Meta::U32(n as u32 - 1)),
        key("add_bos_token", Meta::Bool(false)),
    ]
}

/// Sums of four uniform numbers: near enough to normal for weights that nobody reads (SplitMix64).
pub(super) fn fill(seed: u64, numbers: &mut [f32]) {
    let mut state = seed;
    for x in numbers {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let sum: i32 = (0..4).map(|i| ((z >> (16 * i)) & 0xffff) as i32 - 32_768).sum();
        *x = sum as f32 * (0.02 / 37_837.0);
    }
}
