use super::*;
use crate::Model;
use lyceum_kernels::stored::Stored;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::{Examples, Recording, Workspace};
use lyceum_types::control::Control;
use serde_json::{Value, json};

struct Case {
    file: Vec<u8>,
    config: Value,
    tokens: Tokens,
    answer: Vec<f32>,
}

fn case(name: &str) -> Case {
    let path = format!("{}/../../fixtures/encoder/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let config = serde_json::from_str(header["__metadata__"]["config"].as_str().unwrap()).unwrap();
    let all = lyceum_nn::weights::read_safetensors(&file).unwrap();
    let of = |name: &str| all[name].data.iter().map(|&x| x as u32).collect::<Vec<_>>();
    let (lengths, second) = (of("test.lengths"), of("test.second"));
    let tokens = Tokens { n: lengths.len(), time: 12, ids: of("test.ids"), lengths, second, packed: false };
    Case { config, tokens, answer: all["test.answer"].data.clone(), file }
}

impl Case {
    fn load(&self) -> Result<Model, LoadError> {
        let mut checkpoint = Checkpoint::safetensors(vec![Box::new(self.file.clone())]).unwrap();
        checkpoint.remove("test.answer");
        let description = Description { config: &self.config, modules: None };
        load(checkpoint, &description, Some(Stored::F32), &Control::new()).map(Model::encoder)
    }
}

#[test]
fn every_kind_gives_the_answers_of_transformers() {
    for name in ["bert", "bert_pair", "roberta", "roberta_classes", "bert_tokens", "roberta_tokens"] {
        let case = case(name);
        let model = case.load().unwrap();
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(3));
        let forward = model.forward(&mut tape, &Input::Tokens(case.tokens)).unwrap();
        let mut got = tape.value(forward.logits).to_vec();
        if name.ends_with("_tokens") {
            // What stands behind a text's end says nothing.
            let (width, lengths) = (got.len() / 3 / 12, [12, 7, 9]);
            let rows = got.chunks_exact_mut(width).enumerate();
            rows.filter(|(i, _)| i % 12 >= lengths[i / 12]).for_each(|(_, row)| row.fill(0.0));
        }
        assert_eq!(got.len(), case.answer.len(), "{name}");
        let far = got.iter().zip(&case.answer).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{name}: {far}");
    }
}

#[test]
fn labels_of_tokens_stand_in_their_order() {
    let model = case("bert_tokens").load().unwrap();
    let Some(Head::Tokens { labels }) = model.encoder_config().map(|config| &config.head) else {
        panic!("a model of tokens")
    };
    assert_eq!(labels, &["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]);
    assert_eq!(model.shape.output, crate::OutputShape::StepClasses { n: 5 });
}

#[test]
fn what_is_not_supported_is_named() {
    let case = case("bert");
    let error = |change: &dyn Fn(&mut Value)| {
        let mut config = case.config.clone();
        change(&mut config);
        let case = Case { config, file: case.file.clone(), tokens: Tokens::default(), answer: Vec::new() };
        case.load().map(|_| ()).unwrap_err().to_string()
    };
    assert!(error(&|c| c["model_type"] = "electra".into()).contains("model_type \"electra\""));
    assert!(error(&|c| c["position_embedding_type"] = "relative_key".into()).contains("absolute"));
    assert!(error(&|c| c["num_attention_heads"] = 5.into()).contains("does not divide into 5 heads"));
    assert!(error(&|c| c["num_hidden_layers"] = 2.into()).contains("is not part of this bert model"));
}

#[test]
fn pooling_is_read_from_the_modules_of_sentence_transformers() {
    let case = case("bert");
    let of = |modules: &Value, pooling: &Value| {
        let checkpoint = Checkpoint::safetensors(vec![Box::new(case.file.clone())]).unwrap();
        let mut checkpoint = checkpoint;
        checkpoint.remove("test.answer");
        let description = Description { config: &case.config, modules: Some((modules, pooling)) };
        load(checkpoint, &description, None, &Control::new())
            .map(|l| l.model.config.head)
            .map_err(|e| e.to_string())
    };
    let kind = |name: &str| json!({"type": format!("sentence_transformers.models.{name}")});
    let (cls, max) = (json!({"pooling_mode_cls_token": true}), json!({"pooling_mode_max_tokens": true}));
    let head = of(&json!([kind("Transformer"), kind("Pooling")]), &cls).unwrap();
    assert_eq!(head, Head::Embedding { pooling: Pooling::First, normalise: false });
    let head = of(&json!([kind("Pooling"), kind("Normalize")]), &json!({"pooling_mode_mean_tokens": true}));
    assert_eq!(head.unwrap(), Head::Embedding { pooling: Pooling::Mean, normalise: true });
    assert!(of(&json!([kind("Pooling")]), &max).unwrap_err().contains("pooling_mode_max_tokens"));
    assert!(of(&json!([kind("Dense")]), &cls).unwrap_err().contains("module Dense"));
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_longer_ones() {
    for name in ["bert", "bert_pair", "roberta", "roberta_classes"] {
        let case = case(name);
        let model = case.load().unwrap();
        let answer = |tokens: Tokens| {
            let mut ws = Workspace::new();
            let rows = tokens.n;
            let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(rows));
            let forward = model.forward(&mut tape, &Input::Tokens(tokens)).unwrap();
            tape.value(forward.logits).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let together = answer(case.tokens.clone());
        let rows = Input::Tokens(case.tokens.clone()).rows();
        let width = together.len() / rows.len();
        for (row, together) in rows.into_iter().zip(together.chunks_exact(width)) {
            let Input::Tokens(row) = row else { unreachable!("rows of tokens") };
            let length = row.time;
            for time in length..=16 {
                let mut padded = row.clone();
                padded.time = time;
                // What stands behind a text's end says nothing.
                padded.ids.resize(time, (time % 7) as u32);
                assert_eq!(answer(padded), together, "{name}: {length} tokens among {time}");
            }
        }
    }
}
