//! What a language model said when its training ended: texts with the tokens that it held for likeliest, so that
//! whoever serves it can see that it is the same.

use crate::batch::{Input, Tokens};
use crate::causal_lm::Adapter;
use crate::decode::{DecodeRow, PAGE, RowClass, Rows};
use crate::model::Model;
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_nn::{Examples, NnError, Recording, Tape, Workspace};
use serde::{Deserialize, Serialize};

/// Tokens whose log-probabilities are kept.
const LIKELIEST: usize = 8;
/// The largest difference of a log-probability: other instruction sets round differently.
pub const TOLERANCE: f32 = 2e-2;

/// A text, and the likeliest tokens after it with their log-probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub ids: Vec<u32>,
    pub likeliest: Vec<(u32, f32)>,
}

impl Probe {
    /// Asks the model as it is trained: whole sequences.
    pub fn record(model: &Model, ids: Vec<u32>) -> Result<Self, NnError> {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
        let forward = model.forward(&mut tape, &Input::Tokens(Tokens::single(&ids)))?;
        let width = model.shape.output.width();
        let logits = tape.value(forward.logits);
        let last = log_softmax(&logits[logits.len() - width..]);
        let mut order: Vec<u32> = (0..width as u32).collect();
        order.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]).then(a.cmp(&b)));
        let likeliest = order.iter().take(LIKELIEST).map(|&id| (id, last[id as usize])).collect();
        Ok(Probe { ids, likeliest })
    }

    /// The largest difference of a recorded log-probability to these logits of the next token.
    pub fn difference(&self, logits: &[f32]) -> f32 {
        let found = log_softmax(logits);
        let difference = |&(id, recorded): &(u32, f32)| {
            found.get(id as usize).map_or(f32::INFINITY, |found| (found - recorded).abs())
        };
        self.likeliest.iter().map(difference).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
    }
}

/// Logits of the next token as they are served: read through pages, with an adapter beside the model.
pub fn served(model: &Model, adapter: Option<&Adapter>, ids: &[u32]) -> Result<Vec<f32>, NnError> {
    let (mut ws, n_pages) = (Workspace::new(), ids.len().div_ceil(PAGE));
    let mut pool = model.kv_shape(n_pages, KvStorage::F32).map(KvPool::new);
    let pages: Vec<u32> = (0..n_pages as u32).collect();
    let mut state = model.start(&mut ws, None)?;
    let row = DecodeRow {
        state: &mut state,
        tokens: ids,
        rows: Rows::Last,
        pages: &pages,
        adapter,
        class: RowClass::Bulk,
    };
    model.decode(&mut ws, pool.as_mut(), &mut [row])
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
    let lse = f64::from(max) + sum.ln();
    logits.iter().map(|&z| (f64::from(z) - lse) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal_lm::{Source, load};
    use lyceum_kernels::stored::Stored;
    use lyceum_nn::checkpoint::Checkpoint;
    use lyceum_nn::{Init, ParamKind, Params, weights};
    use lyceum_types::control::Control;
    use rand::SeedableRng;
    use serde_json::json;

    const VOCABULARY: usize = 40;

    /// Of heads that go their own way where the processor has tiles.
    fn model(kind: Stored, window: Option<usize>) -> Model {
        let config = json!({
            "model_type": "mistral", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "max_position_embeddings": 200, "sliding_window": window, "tie_word_embeddings": true,
        });
        let mut params = Params::new();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut add = |name: &str, dims: &[usize]| {
            let init = if dims.len() == 1 { Init::Ones } else { Init::Normal(0.25) };
            params.add(name, dims, ParamKind::Weight, init, &mut rng);
        };
        add("model.embed_tokens.weight", &[VOCABULARY, 64]);
        add("model.norm.weight", &[64]);
        for i in 0..2 {
            let mut add = |part: &str, dims: &[usize]| add(&format!("model.layers.{i}.{part}.weight"), dims);
            add("input_layernorm", &[64]);
            add("post_attention_layernorm", &[64]);
            add("self_attn.q_proj", &[64, 64]);
            add("self_attn.k_proj", &[32, 64]);
            add("self_attn.v_proj", &[32, 64]);
            add("self_attn.o_proj", &[64, 64]);
            add("mlp.gate_proj", &[96, 64]);
            add("mlp.up_proj", &[96, 64]);
            add("mlp.down_proj", &[64, 96]);
        }
        let file: Box<dyn lyceum_nn::checkpoint::ReadAt> =
            Box::new(weights::to_safetensors(&params).unwrap());
        let checkpoint = Checkpoint::safetensors(vec![file]).unwrap();
        let source = Source::HuggingFace { config: &config };
        Model::language(load(checkpoint, source, Some(kind), None, &Control::new()).unwrap())
    }

    /// Rounding where only one of the two rounds moves a real model's log-probabilities by a tenth and more.
    #[test]
    fn whole_sequences_say_the_bits_of_what_is_served() {
        for kind in [Stored::Q8_0, Stored::Q4_0, Stored::Bf16, Stored::F32] {
            for window in [None, Some(20)] {
                let model = model(kind, window);
                let long: Vec<u32> = (0..70).map(|t| (t * t + 3) % VOCABULARY as u32).collect();
                let short = &long[20..53];
                for ids in [&long, short] {
                    let probe = Probe::record(&model, ids.to_vec()).unwrap();
                    assert!(probe.likeliest[0].1 > -3.0, "it is sure of something");
                    assert_eq!(
                        probe.difference(&served(&model, None, ids).unwrap()),
                        0.0,
                        "{kind:?} {window:?}"
                    );
                }
                // Beside each other, with padding.
                let tokens = Tokens {
                    ids: [&long[..], short, &[0; 37]].concat(),
                    lengths: vec![70, 33],
                    n: 2,
                    time: 70,
                    ..Tokens::default()
                };
                let mut ws = Workspace::new();
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(2));
                let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
                let logits = tape.value(forward.logits);
                for (ids, row) in [(&long[..], 69), (short, 70 + 32)] {
                    let alone = served(&model, None, ids).unwrap();
                    assert_eq!(logits[row * VOCABULARY..][..VOCABULARY], alone, "{kind:?} {window:?}");
                }
            }
        }
    }
}
