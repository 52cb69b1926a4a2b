//! A language model of two layers, its words, and conversations for it.

mod words;

use lyceum_kernels::stored::Stored;
use lyceum_language::template::ChatTemplate;
use lyceum_models::Model;
use lyceum_models::causal_lm::{Adapter, Source, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_train::chat::Words;
use lyceum_train::tune::{Base, Tuned, tune};
use lyceum_train::{Observer, TrainError};
use lyceum_types::control::Control;
use lyceum_types::spec::tune::TuneSpec;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, json};
use std::path::Path;
use std::sync::Arc;
pub use words::{CHATML, tokenizer};

const SIZES: [usize; 3] = [32, 32, 260];

/// A model of these weights, stored as `quant`.
pub fn opened(file: Vec<u8>, quant: Stored) -> Model {
    let [c, f, v] = SIZES;
    let config = json!({
        "model_type": "llama", "vocab_size": v, "hidden_size": c, "intermediate_size": f,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true
    });
    let checkpoint = Checkpoint::safetensors(vec![Box::new(file)]).unwrap();
    let source = Source::HuggingFace { config: &config };
    Model::language(load(checkpoint, source, Some(quant), None, &Control::new()).unwrap())
}

/// Two layers of 32 numbers, with weights from a formula.
pub fn base_model(quant: Stored) -> Model {
    let [c, f, v] = SIZES;
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![v, c]), ("model.norm.weight".into(), vec![c])];
    for i in 0..2 {
        let mut add = |name: &str, dims: &[usize]| {
            tensors.push((format!("model.layers.{i}.{name}.weight"), dims.to_vec()));
        };
        add("input_layernorm", &[c]);
        add("post_attention_layernorm", &[c]);
        add("self_attn.q_proj", &[c, c]);
        add("self_attn.k_proj", &[c / 2, c]);
        add("self_attn.v_proj", &[c / 2, c]);
        add("self_attn.o_proj", &[c, c]);
        add("mlp.gate_proj", &[f, c]);
        add("mlp.up_proj", &[f, c]);
        add("mlp.down_proj", &[c, f]);
    }
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, dims)| {
            let n: usize = dims.iter().product();
            let value = |x: f32| if dims.len() == 1 { 1.0 } else { 0.3 * x };
            let bytes = (0..n).flat_map(|_| value(next()).to_le_bytes()).collect();
            (name, dims, bytes)
        })
        .collect();
    let views = data.iter().map(|(name, dims, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap())
    });
    opened(safetensors::serialize(views, None).unwrap(), quant)
}

/// Questions whose answers follow a rule.
pub fn chats(folder: &Path) {
    chats_of(folder, ["rose", "blue", "gold", "deep"]);
}

pub fn chats_of(folder: &Path, answers: [&str; 4]) {
    let line = |i: usize| {
        let (word, answer) = (["red", "sky", "sun", "sea"][i % 4], answers[i % 4]);
        let question = format!("{word} {}?", i / 4);
        json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
    };
    let file: String = (0..40).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(folder.join("train.jsonl"), file).unwrap();
}

pub fn run(
    spec: &TuneSpec,
    model: Model,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Tuned, TrainError> {
    run_on(spec, (model, None), folder, observer)
}

/// A base that may have an adapter already, which is tuned further.
pub fn run_on(
    spec: &TuneSpec,
    (model, adapter): (Model, Option<Arc<Adapter>>),
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Tuned, TrainError> {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let base = Base { model, adapter, words, id: "base@1".into(), sha256: "0".into() };
    tune(spec, base, folder, observer, &Control::new())
}
