use super::*;
use crate::batch::{Input, Tokens};
use crate::causal_lm::families::{self, Family};
use crate::causal_lm::tests::{Case, as_gguf as as_gguf_of_base, case, neighbours, worst};
use crate::causal_lm::{Source, load};
use crate::decode::{DecodeRow, DecodeState, RowClass, Rows};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::gguf::{Header, Value as Meta};
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_nn::weights::read_safetensors;
use lyceum_nn::{Examples, Recording, Workspace};
use lyceum_types::control::Control;
use serde_json::{Value, json};

const NAMES: [&str; 4] = ["names", "all_linear", "layers", "expression"];

/// A fixture: what PEFT saved, and the logits of base and adapter together.
struct Adapted {
    base: Case,
    file: Vec<u8>,
    description: Value,
    ids: Vec<u32>,
    logits: Vec<f32>,
}

fn adapted(name: &str) -> Adapted {
    let path = format!("{}/../../fixtures/adapters/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let of = |key: &str| header["__metadata__"][key].as_str().unwrap();
    let all = read_safetensors(&file).unwrap();
    Adapted {
        base: case(of("base")),
        description: serde_json::from_str(of("config")).unwrap(),
        ids: all["test.ids"].data.iter().map(|&x| x as u32).collect(),
        logits: all["test.logits"].data.clone(),
        file,
    }
}

impl Adapted {
    fn model(&self, kind: Stored) -> Model {
        Model::language(self.base.load(Some(kind)).unwrap())
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::safetensors(vec![Box::new(self.file.clone())]).unwrap();
        checkpoint.remove("test.logits");
        checkpoint
    }

    fn adapter(&self, base: &Model) -> Adapter {
        Adapter::from_peft(self.checkpoint(), &self.description, of(base), &Control::new()).unwrap()
    }

    /// The error of the description after a change.
    fn refused(&self, change: impl Fn(&mut Value)) -> String {
        let (base, mut description) = (self.model(Stored::F32), self.description.clone());
        change(&mut description);
        let read = Adapter::from_peft(self.checkpoint(), &description, of(&base), &Control::new());
        read.map(|_| ()).unwrap_err().to_string()
    }
}

fn of(model: &Model) -> &Config {
    model.language_config().unwrap()
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(2));
    let time = ids.len() / 2;
    let tokens = Tokens { ids: ids.into(), lengths: vec![time as u32; 2], n: 2, time, ..Tokens::default() };
    let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
    tape.value(forward.logits).to_vec()
}

#[test]
fn adapters_of_peft_give_the_logits_of_peft_and_so_do_merged_weights() {
    for name in NAMES {
        let adapted = adapted(name);
        let base = adapted.model(Stored::F32);
        let adapter = adapted.adapter(&base);
        let got = logits(&base.with_adapter(&adapter).unwrap(), &adapted.ids);
        let far = worst(&got, &adapted.logits);
        assert!(far < 1e-3, "{name}: {far}");
        let plain = logits(&base, &adapted.ids);
        assert!(worst(&plain, &adapted.logits) > 1.0, "{name} changes the answer");
        let merged = logits(&base.merged(&adapter, None).unwrap(), &adapted.ids);
        let size = got.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let far = worst(&merged, &got) / size;
        assert!(far < 1e-5, "{name}, merged: {far} of {size}");
    }
}

/// Sequences of two adapters and of none in one pass, in pieces, have the bits of whole sequences alone, in every
/// stored form; an adapter beside its base has the bits of one within.
#[test]
fn one_pass_serves_several_adapters_and_none_and_no_bit_depends_on_it() {
    let one = adapted("names");
    for kind in [Stored::F32, Stored::Bf16] {
        let base = one.model(kind);
        let two = base.learning(&AdapterConfig::new(3, 9.0), 1).unwrap();
        let mut two = two.own_adapter().unwrap();
        for id in two.params.ids().collect::<Vec<_>>() {
            let dims = two.params.shape(id).dims().to_vec();
            let numbers = (0..two.params.value(id).len()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 150.0);
            two.params.set(id, &dims, numbers.collect()).unwrap();
        }
        let adapters = [Some(one.adapter(&base)), None, Some(two), None];
        let (time, v) = (one.ids.len() / 2, base.shape.output.width());
        let alone: Vec<Vec<f32>> = adapters
            .iter()
            .map(|adapter| match adapter {
                Some(adapter) => logits(&base.with_adapter(adapter).unwrap(), &one.ids)[..time * v].to_vec(),
                None => logits(&base, &one.ids)[..time * v].to_vec(),
            })
            .collect();
        assert!(worst(&alone[0], &alone[1]) > 0.1 && worst(&alone[2], &alone[1]) > 0.1);
        let mut ws = Workspace::new();
        let mut pool = KvPool::new(base.kv_shape(8, KvStorage::F32).unwrap());
        // Sequence 4 is the first adapter's again, with other tokens' company.
        let which = [0, 1, 2, 3, 0];
        let mut states: Vec<DecodeState> = which.iter().map(|_| base.start(&mut ws, None).unwrap()).collect();
        // Of some passes all logits are wanted, of some the last, of some none; each for some of the sequences.
        let (mut step, mut n_compared) = (0, 0);
        while states.iter().any(|state| state.n_seen() < time) {
            step += 1;
            let (mut rows, mut positions) = (Vec::new(), Vec::new());
            for (i, state) in states.iter_mut().enumerate() {
                let seen = state.n_seen();
                let tokens = &one.ids[seen..time.min(seen + 1 + (i + step) % 4)];
                if !tokens.is_empty() {
                    let pages = &[0u32, 1, 2, 3, 4][i..=i];
                    let adapter = adapters[which[i]].as_ref();
                    let wanted = [Rows::All, Rows::Last, Rows::None][(i + step / 2) % 3];
                    let row =
                        DecodeRow { state, tokens, rows: wanted, pages, adapter, class: RowClass::Bulk };
                    let end = seen + tokens.len();
                    positions.extend((end - row.n_logits()..end).map(|position| (i, position)));
                    rows.push(row);
                }
            }
            let logits = base.decode(&mut ws, Some(&mut pool), &mut rows).unwrap();
            assert_eq!(logits.len(), positions.len() * v);
            for (logits, (i, at)) in logits.chunks_exact(v).zip(positions) {
                assert!(*logits == alone[which[i]][at * v..][..v], "sequence {i} at {at} in {kind:?}");
                n_compared += 1;
            }
        }
        assert!(n_compared > time, "{n_compared} rows were compared");
    }
}

#[test]
fn what_is_written_for_peft_is_read_again_with_the_same_bits() {
    for name in NAMES {
        let adapted = adapted(name);
        let base = adapted.model(Stored::F32);
        let adapter = adapted.adapter(&base);
        let files = adapter.to_peft().unwrap();
        let checkpoint = Checkpoint::safetensors(vec![Box::new(files.weights.clone())]).unwrap();
        let names: Vec<String> = adapted.checkpoint().names().map(str::to_owned).collect();
        assert!(checkpoint.names().eq(names.iter().map(String::as_str)), "{name}");
        let again = Adapter::from_peft(checkpoint, &files.description, of(&base), &Control::new()).unwrap();
        assert_eq!(
            (again.config == adapter.config, again.factors == adapter.factors),
            (true, true),
            "{name}"
        );
        assert_eq!(again.to_peft().unwrap().weights, files.weights);
        assert!(again.id() != adapter.id() && again.bytes() == adapter.bytes());
    }
}

#[test]
fn an_adapter_of_llama_cpp_is_the_same_adapter() {
    for name in ["names", "expression", "layers"] {
        let adapted = adapted(name);
        let base = adapted.model(Stored::F32);
        let want = logits(&base.with_adapter(&adapted.adapter(&base)).unwrap(), &adapted.ids);
        let (checkpoint, header) = Checkpoint::gguf(Box::new(as_gguf(&adapted, "lora"))).unwrap();
        let adapter = Adapter::from_gguf(checkpoint, &header, of(&base), &Control::new()).unwrap();
        assert!(logits(&base.with_adapter(&adapter).unwrap(), &adapted.ids) == want, "{name}");
    }
    let adapted = adapted("names");
    let (base, other) = (adapted.model(Stored::F32), Model::language(case("qwen3").load(None).unwrap()));
    let read = |base: &Model, kind: &str| {
        let (checkpoint, header) = Checkpoint::gguf(Box::new(as_gguf(&adapted, kind))).unwrap();
        Adapter::from_gguf(checkpoint, &header, of(base), &Control::new())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(read(&base, "control").contains("no adapter of type lora"));
    assert!(read(&other, "lora").contains("for \"llama\" over a base of \"qwen3\""));
}

/// Every family's file, also where its norms and names differ from Hugging Face's.
#[test]
fn a_base_file_with_the_adapter_in_it_is_the_base_with_the_adapter() {
    for name in crate::causal_lm::tests::NAMES {
        let case = case(name);
        let file = as_gguf_of_base(&case);
        let (checkpoint, header) = Checkpoint::gguf(Box::new(file.clone())).unwrap();
        let load = |checkpoint, header: &Header| {
            let source = Source::Gguf { header };
            Model::language(load(checkpoint, source, None, None, &Control::new()).unwrap())
        };
        let base = load(checkpoint, &header);
        let mut learning = base.learning(&AdapterConfig::new(2, 4.0), 3).unwrap();
        for id in learning.params.ids().collect::<Vec<_>>() {
            if learning.params.name(id).contains("lora_B") {
                let of_place = |(i, x): (usize, &mut f32)| *x = ((i * 7 + 3) % 11) as f32 * 0.01 - 0.05;
                learning.params.value_mut(id).iter_mut().enumerate().for_each(of_place);
            }
        }
        let adapter = learning.own_adapter().unwrap();
        let want = logits(&base.with_adapter(&adapter).unwrap(), case.ids());
        let (checkpoint, header) = Checkpoint::gguf(Box::new(file)).unwrap();
        let mut merged = Vec::new();
        adapter.write_merged_gguf((&checkpoint, &header), &base, Stored::F32, &mut merged).unwrap();
        let (checkpoint, header) = Checkpoint::gguf(Box::new(merged)).unwrap();
        let got = logits(&load(checkpoint, &header), case.ids());
        let size = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        let (far, moved) = (worst(&got, &want) / size, worst(&logits(&base, case.ids()), &want) / size);
        assert!(far < 1e-5 && moved > 1e-3, "{name}: {far}, where the adapter moves by {moved}");
    }
}

/// The fixture as llama.cpp's converter writes it; B's rows of turned heads stand with pairs as neighbours.
fn as_gguf(adapted: &Adapted, kind: &str) -> Vec<u8> {
    let (family, config) = families::from_hugging_face(&adapted.base.config).unwrap();
    let text = |t: &str| Meta::String(t.into());
    let alpha = adapted.description["lora_alpha"].as_f64().unwrap() as f32;
    let metadata = [
        ("general.architecture".to_owned(), text(family.gguf)),
        ("general.type".to_owned(), text("adapter")),
        ("adapter.type".to_owned(), text(kind)),
        ("adapter.lora.alpha".to_owned(), Meta::F32(alpha)),
    ];
    let mut tensors = Vec::new();
    for (name, tensor) in read_safetensors(&adapted.file).unwrap() {
        let Some(inner) = name.strip_prefix("base_model.model.") else { continue };
        let (module, factor) = inner.trim_end_matches(".weight").rsplit_once(".lora_").unwrap();
        let weight = Family::gguf_name(&format!("{module}.weight"), config.post_norms).unwrap();
        let heads =
            if name.contains("q_proj") { config.num_attention_heads } else { config.num_key_value_heads };
        let turns = factor == "B" && (name.contains("q_proj") || name.contains("k_proj"));
        let data = match turns && family.gguf_pairs_are_neighbours {
            true => neighbours(&tensor.data, tensor.dims[0] / heads, tensor.dims[1]),
            false => tensor.data,
        };
        tensors.push((format!("{weight}.lora_{}", factor.to_lowercase()), tensor.dims, data));
    }
    crate::causal_lm::tests::write_gguf(&metadata, &tensors)
}

#[test]
fn a_fresh_adapter_leaves_every_bit_and_only_it_is_learnt() {
    let adapted = adapted("all_linear");
    let base = adapted.model(Stored::Bf16);
    let config =
        AdapterConfig { target_modules: Modules::Named(vec!["o_proj".into()]), ..AdapterConfig::new(2, 4.0) };
    let model = base.learning(&config, 3).unwrap();
    let bits = |model: &Model| logits(model, &adapted.ids).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&model), bits(&base));
    let learnt: Vec<&str> = model
        .params
        .ids()
        .filter(|&id| model.params.kind(id) == ParamKind::Weight)
        .map(|id| model.params.name(id))
        .collect();
    assert_eq!(learnt.len(), 2 * 7);
    assert!(learnt.iter().all(|name| name.contains("o_proj.lora_")), "{learnt:?}");
    assert_eq!(model.params.n_trainable(), 7 * 2 * (4 * 8 + 24));
    let own = model.own_adapter().unwrap();
    assert_eq!(
        own.to_peft().unwrap().weights,
        base.learning(&config, 3).unwrap().own_adapter().unwrap().to_peft().unwrap().weights
    );
    assert!(model.learning(&config, 3).unwrap_err().to_string().contains("without an adapter"));
}

#[test]
fn what_is_not_supported_or_does_not_fit_is_named() {
    let adapted = adapted("names");
    let refused = |key: &str, value: Value| adapted.refused(|d| d[key] = value.clone());
    for (key, value, want) in [
        ("peft_type", json!("IA3"), "peft_type Some(\"IA3\")"),
        ("task_type", json!("SEQ_CLS"), "task_type \"SEQ_CLS\""),
        ("use_dora", json!(true), "use_dora true"),
        ("bias", json!("all"), "bias \"all\""),
        ("lora_bias", json!(true), "lora_bias true"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save [\"lm_head\"]"),
        ("init_lora_weights", json!("pissa"), "init_lora_weights \"pissa\""),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out true"),
        ("layer_replication", json!([[0, 2]]), "layer_replication"),
        ("trainable_token_indices", json!([3]), "trainable_token_indices"),
        ("alora_invocation_tokens", json!([3]), "alora_invocation_tokens"),
        ("something_new", json!(1), "something_new 1"),
        ("layers_pattern", json!("blocks"), "layers_pattern \"blocks\""),
        ("target_modules", json!(["q_proj", "lm_head"]), "target module \"lm_head\""),
        ("target_modules", json!(["embed_tokens"]), "target module \"embed_tokens\""),
        ("target_modules", json!("("), "no expression"),
        ("target_modules", json!(".*never"), "means no module"),
        ("target_modules", json!(["q_proj"]), "v_proj.lora_A.weight\" belongs to no module"),
        ("target_modules", json!(["q_proj", "v_proj", "o_proj"]), "o_proj.lora_A.weight\" is missing"),
        ("r", json!(5), "has dimensions [4, 24], the model needs [5, 24]"),
        ("r", json!(0), "\"r\" is 0"),
        ("lora_alpha", json!("x"), "\"lora_alpha\" is \"x\""),
        ("rank_pattern", json!({"q_proj": 9}), "the model needs [9, 24]"),
        ("layers_to_transform", json!([9]), "layer 9 of 4"),
    ] {
        let error = refused(key, value.clone());
        assert!(error.contains(want), "{key} {value}: {error}");
    }
    let other = Model::language(case("qwen3").load(None).unwrap());
    let adapter = adapted.adapter(&adapted.model(Stored::F32));
    let narrow = Model::language(case("gemma3").load(None).unwrap());
    assert!(adapter.fits(&narrow).unwrap_err().to_string().contains("7 layers"));
    assert!(
        adapter.fits(&other).is_ok(),
        "the sizes agree: that it is the right base is the caller's to know"
    );
}
