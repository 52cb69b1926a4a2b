use super::config::Scaling;
use super::families::Family;
use super::*;
use crate::decode::{DecodeRow, DecodeState, RowClass, Rows};
use crate::{LoadError, Model, ModelShape};
use lyceum_kernels::stored::{Stored, quantise};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::gguf::{self, Value as Meta};
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_nn::{Examples, Recording, Workspace};
use lyceum_types::control::Control;
use serde_json::Value;

pub(super) const NAMES: [&str; 7] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "smollm3", "gemma3"];

/// A fixture: its file, its `config.json`, and what transformers computed.
pub(super) struct Case {
    file: Vec<u8>,
    pub config: Value,
    pub ids: Vec<u32>,
    logits: Vec<f32>,
}

pub(super) fn case(name: &str) -> Case {
    let path = format!("{}/../../fixtures/causal_lm/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let config = serde_json::from_str(header["__metadata__"]["config"].as_str().unwrap()).unwrap();
    let all = lyceum_nn::weights::read_safetensors(&file).unwrap();
    let ids = all["test.ids"].data.iter().map(|&x| x as u32).collect();
    Case { config, ids, logits: all["test.logits"].data.clone(), file }
}

impl Case {
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub fn load(&self, quant: Option<Stored>) -> Result<Loaded, LoadError> {
        let mut checkpoint = Checkpoint::safetensors(vec![Box::new(self.file.clone())]).unwrap();
        checkpoint.remove("test.logits");
        load(checkpoint, Source::HuggingFace { config: &self.config }, quant, None, &Control::new())
    }
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(2));
    let time = ids.len() / 2;
    let tokens = Tokens { ids: ids.into(), lengths: vec![time as u32; 2], n: 2, time, ..Tokens::default() };
    let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
    tape.value(forward.logits).to_vec()
}

pub(super) fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    for name in NAMES {
        let case = case(name);
        let model = Model::language(case.load(Some(Stored::F32)).unwrap());
        let far = worst(&logits(&model, &case.ids), &case.logits);
        assert!(far < 1e-3, "{name}: {far}");
    }
}

#[test]
fn a_gguf_file_of_the_same_weights_gives_the_same_logits() {
    for name in NAMES {
        let mut case = case(name);
        if name == "gemma3" {
            // GGUF has no key for another scale than that of the head.
            case.config["query_pre_attn_scalar"] = case.config["head_dim"].clone();
            case.logits = logits(&Model::language(case.load(Some(Stored::F32)).unwrap()), &case.ids);
        }
        let file = as_gguf(&case);
        let (checkpoint, header) = Checkpoint::gguf(Box::new(file)).unwrap();
        let loaded = load(checkpoint, Source::Gguf { header: &header }, None, None, &Control::new()).unwrap();
        let far = worst(&logits(&Model::language(loaded), &case.ids), &case.logits);
        assert!(far < 1e-3, "{name}: {far}");
    }
}

/// Sequences that are read piece by piece from pages say what whole sequences say, to the bit, in every stored form.
#[test]
fn pages_and_pieces_change_no_bit() {
    for (name, quant) in NAMES.into_iter().flat_map(|n| [(n, Stored::F32), (n, Stored::Bf16)]) {
        let case = case(name);
        let model = Model::language(case.load(Some(quant)).unwrap());
        let (time, v) = (case.ids.len() / 2, model.shape.output.width());
        let whole = logits(&model, &case.ids);
        let mut ws = Workspace::new();
        let mut pool = KvPool::new(model.kv_shape(8, KvStorage::F32).unwrap());
        let pages = [[5u32, 0], [2, 7]];
        let mut states: Vec<DecodeState> = (0..2).map(|_| model.start(&mut ws, None).unwrap()).collect();
        let mut got = vec![Vec::new(); 2];
        // The first sequence in pieces of 7, 1, 1, …; the second in pieces of 3.
        while got.iter().any(|g| g.len() < time * v) {
            let mut rows = Vec::new();
            for (i, state) in states.iter_mut().enumerate() {
                let (seen, n) = (
                    state.n_seen(),
                    if i == 1 {
                        3
                    } else if state.n_seen() == 0 {
                        7
                    } else {
                        1
                    },
                );
                let tokens = &case.ids[i * time..][seen..time.min(seen + n)];
                if !tokens.is_empty() {
                    rows.push((
                        i,
                        DecodeRow {
                            state,
                            tokens,
                            rows: Rows::All,
                            pages: &pages[i],
                            adapter: None,
                            class: RowClass::Bulk,
                        },
                    ));
                }
            }
            let (who, mut rows): (Vec<usize>, Vec<DecodeRow<'_>>) = rows.into_iter().unzip();
            let lengths: Vec<usize> = rows.iter().map(|row| row.tokens.len()).collect();
            let logits = model.decode(&mut ws, Some(&mut pool), &mut rows).unwrap();
            let mut start = 0;
            for (i, n) in who.into_iter().zip(lengths) {
                got[i].extend_from_slice(&logits[start..start + n * v]);
                start += n * v;
            }
        }
        assert!(got.concat() == whole, "{name} in {quant:?}");
    }
}

/// The fixture as a converter writes it: GGUF's names, and rows of query and key heads with rotary pairs as
/// neighbours where the family's files have them so.
pub(super) fn as_gguf(case: &Case) -> Vec<u8> {
    let (family, config) = families::from_hugging_face(&case.config).unwrap();
    let key = |key: &str, value| (format!("{}.{key}", family.gguf), value);
    let count = |n: usize| Meta::U32(n as u32);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Meta::String(family.gguf.into())),
        key("vocab_size", count(config.vocab_size)),
        key("embedding_length", count(config.hidden_size)),
        key("feed_forward_length", count(config.intermediate_size)),
        key("block_count", count(config.layers.len())),
        key("attention.head_count", count(config.num_attention_heads)),
        key("attention.head_count_kv", count(config.num_key_value_heads)),
        key("attention.key_length", count(config.head_dim)),
        key("context_length", count(config.max_position_embeddings)),
        key("attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps)),
    ];
    metadata.push(key("rope.freq_base", Meta::F32(config.ropes[0].theta as f32)));
    if let Some(window) = config.window() {
        metadata.push(key("attention.sliding_window", count(window)));
    }
    let mut tensors = Vec::new();
    let frequencies = config.ropes[0].frequencies(config.head_dim);
    let plain = config::Rope::plain(config.ropes[0].theta).frequencies(config.head_dim);
    if let Scaling::Linear { factor } = config.ropes[0].scaling {
        metadata.push(key("rope.scaling.type", Meta::String("linear".into())));
        metadata.push(key("rope.scaling.factor", Meta::F32(factor as f32)));
    } else if frequencies != plain {
        let divisors: Vec<f32> = plain.iter().zip(&frequencies).map(|(p, f)| (p / f) as f32).collect();
        tensors.push(("rope_freqs.weight".to_owned(), vec![divisors.len()], divisors));
    }
    for (name, tensor) in lyceum_nn::weights::read_safetensors(&case.file).unwrap() {
        let Some(gguf) = Family::gguf_name(&name, config.post_norms) else { continue };
        let heads =
            if name.contains("q_proj") { config.num_attention_heads } else { config.num_key_value_heads };
        let turns = name.contains("q_proj") || name.contains("k_proj");
        let data = match turns && family.gguf_pairs_are_neighbours {
            true => neighbours(&tensor.data, tensor.dims[0] / heads, tensor.data.len() / tensor.dims[0]),
            // A norm's weight is what it multiplies with, also where Hugging Face's is that less one.
            false if config.norm_weights_minus_one && name.ends_with("norm.weight") => {
                tensor.data.iter().map(|weight| weight + 1.0).collect()
            }
            false => tensor.data,
        };
        tensors.push((gguf, tensor.dims, data));
    }
    write_gguf(&metadata, &tensors)
}

/// A GGUF file of f32 tensors: names, dimensions, numbers.
pub(super) fn write_gguf(metadata: &[(String, Meta)], tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let tensors: Vec<gguf::Tensor<'_>> = tensors
        .iter()
        .map(|(name, dims, data)| gguf::Tensor {
            name: name.clone(),
            dims: dims.clone(),
            kind: Stored::F32,
            data: Box::new(|| {
                let mut out = Vec::new();
                quantise(Stored::F32, data, &mut out).map_err(std::io::Error::other)?;
                Ok(out)
            }),
        })
        .collect();
    let mut file = Vec::new();
    gguf::write(&mut file, metadata, &tensors).unwrap();
    file
}

/// `[part][i]` to `[i][part]` in each head.
pub(super) fn neighbours(rows: &[f32], head_rows: usize, row_len: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for head in rows.chunks_exact(head_rows * row_len) {
        for i in 0..head_rows / 2 {
            for part in 0..2 {
                out.extend_from_slice(&head[(part * head_rows / 2 + i) * row_len..][..row_len]);
            }
        }
    }
    out
}

#[test]
fn relevance_and_gradients_pass_through_every_family() {
    for name in NAMES {
        let case = case(name);
        let model = Model::language(case.load(Some(Stored::F32)).unwrap());
        let (time, v) = (9, model.shape.output.width());
        let tokens = Tokens {
            ids: case.ids[..time].into(),
            lengths: vec![time as u32],
            n: 1,
            time,
            ..Tokens::default()
        };
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Inputs, Examples::Even(1));
        let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
        let mut seed = vec![0.0; time * v];
        seed[(time - 1) * v + 11] = 1.0;
        let output = f64::from(tape.value(forward.logits)[(time - 1) * v + 11]);
        let relevance = tape.relevance(forward.logits, &seed, forward.entry, 1e-6).unwrap();
        let sum: f64 = relevance.of_entry.iter().map(|&r| f64::from(r)).sum();
        let gap = (output - sum - relevance.absorbed).abs();
        assert!(gap < 1e-3 * output.abs().max(1.0), "{name}: {output} is not {sum} + {}", relevance.absorbed);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let case = case("qwen3");
    let error = |change: &dyn Fn(&mut Value)| {
        let mut config = case.config.clone();
        change(&mut config);
        let changed = Case { config, file: case.file.clone(), ids: Vec::new(), logits: Vec::new() };
        changed.load(None).map(|_| ()).unwrap_err().to_string()
    };
    assert!(error(&|c| c["model_type"] = "mamba".into()).contains("model_type \"mamba\""));
    assert!(error(&|c| c["partial_rotary_factor"] = 0.5.into()).contains("partial_rotary_factor 0.5"));
    assert!(error(&|c| c["hidden_act"] = "relu".into()).contains("activation \"relu\""));
    assert!(error(&|c| c["rope_parameters"]["rope_type"] = "yarn".into()).contains("rope scaling \"yarn\""));
    assert!(
        error(&|c| c["num_hidden_layers"] = 5.into())
            .contains("model.layers.4.input_layernorm.weight\" is missing")
    );
    assert!(error(&|c| c["num_hidden_layers"] = 3.into()).contains("is not part of a qwen3 model"));
    assert!(error(&|c| c["intermediate_size"] = 41.into()).contains("the model needs [41, 24]"));
    assert!(error(&|c| c["num_key_value_heads"] = 3.into()).contains("do not share"));
    assert!(error(&|c| c["hidden_size"] = Value::Null).contains("\"hidden_size\" is missing"));
}

#[test]
fn quantising_at_load_says_what_rows_could_not_be_blocks() {
    let loaded = case("llama").load(Some(Stored::Q8_0)).unwrap();
    assert!(
        loaded.notes.iter().any(|n| n.contains("rows of 24 numbers are no blocks of 32; bf16")),
        "{:?}",
        loaded.notes
    );
    let _: ModelShape = Model::language(loaded).shape;
}

/// Sequences that follow one another without padding say what each says alone, and the loss of some of their steps
/// has the gradients of the padded batch.
#[test]
fn packed_sequences_have_the_loss_and_the_gradients_of_padded_ones() {
    use crate::batch::{Batch, IGNORE, Target};
    for name in ["llama", "qwen3", "gemma3"] {
        let case = case(name);
        let mut model = Model::language(case.load(Some(Stored::F32)).unwrap());
        model.learn_all().unwrap();
        let (a, b) = (case.ids[..7].to_vec(), case.ids[7..11].to_vec());
        let asked = |ids: &[u32], from: usize| -> Vec<i32> {
            (0..ids.len())
                .map(|t| if t + 1 > from && t + 1 < ids.len() { ids[t + 1] as i32 } else { IGNORE })
                .collect()
        };
        let (steps_a, mut steps_b) = (asked(&a, 3), asked(&b, 1));
        let packed = Tokens {
            ids: [&a[..], &b].concat(),
            lengths: vec![7, 4],
            n: 2,
            time: 7,
            packed: true,
            ..Tokens::default()
        };
        let packed = Batch {
            n: 2,
            input: Input::Tokens(packed),
            target: Target::Steps([&steps_a[..], &steps_b].concat()),
        };
        let ids = [&a[..], &b, &[0; 3]].concat();
        let padded = Tokens { ids, lengths: vec![7, 4], n: 2, time: 7, ..Tokens::default() };
        steps_b.resize(7, IGNORE);
        let padded = Batch {
            n: 2,
            input: Input::Tokens(padded),
            target: Target::Steps([&steps_a[..], &steps_b].concat()),
        };
        let run = |batch: &Batch, whole: bool| {
            let (mut ws, mut grads) = (Workspace::new(), lyceum_nn::Grads::new(&model.params));
            let mut tape = Tape::new(&mut ws, &model.params, Recording::Weights, batch.examples());
            let loss = if whole {
                let Target::Steps(steps) = &batch.target else { unreachable!() };
                let logits = model.forward(&mut tape, &batch.input).unwrap().logits;
                tape.softmax_cross_entropy(logits, steps, 0.25).unwrap()
            } else {
                model.loss(&mut tape, batch, 0.25).unwrap().0
            };
            let value = tape.value(loss)[0];
            tape.backward(loss, &mut grads);
            grads.finish();
            (value, model.params.ids().flat_map(|id| grads.value(id).to_vec()).collect::<Vec<f32>>())
        };
        let (want, want_grads) = run(&padded, true);
        for (loss, grads) in [run(&packed, false), run(&packed, true), run(&padded, false)] {
            assert!((loss - want).abs() < 1e-5, "{name}: {loss} {want}");
            assert!(worst(&grads, &want_grads) < 1e-5, "{name}");
        }
    }
}
