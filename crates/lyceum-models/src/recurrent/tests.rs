use super::*;
use crate::batch::{Batch, Target};
use crate::decode::{DecodeRow, DecodeState, RowClass, Rows};
use lyceum_kernels::cpu;
use lyceum_nn::weights::{Tensor, read_safetensors};
use lyceum_nn::{Dropout, Examples, Grads, Recording, Workspace};
use lyceum_types::spec::ModelSpec;
use std::collections::HashMap;

fn spec(hidden_size: usize, head: RecurrentHead) -> RecurrentSpec {
    RecurrentSpec {
        hidden_size,
        num_layers: 1,
        bidirectional: false,
        dropout: 0.0,
        head,
        bptt: None,
        embedding_dim: None,
        one_hot: false,
    }
}

fn numbers(tensor: &Tensor) -> impl Iterator<Item = i64> + '_ {
    tensor.data.iter().map(|&x| x as i64)
}

/// The model and the batch of a golden trajectory.
fn golden(name: &str) -> (Model, Batch, HashMap<String, Tensor>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden");
    let json = std::fs::read(format!("{folder}/{name}.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let file = read_safetensors(&std::fs::read(format!("{folder}/{name}.safetensors")).unwrap()).unwrap();
    let options = &json["model"];
    let head = serde_json::from_value(options["head"].clone()).unwrap();
    let mut recurrent = spec(options["hidden_size"].as_u64().unwrap() as usize, head);
    recurrent.num_layers = options["num_layers"].as_u64().unwrap() as usize;
    recurrent.bidirectional = options["bidirectional"].as_bool().unwrap();
    recurrent.embedding_dim = options.get("embedding_dim").map(|v| v.as_u64().unwrap() as usize);

    let x = file.get("batch.input").unwrap_or_else(|| &file["batch.source"]);
    let y = &file["batch.target"];
    let n = x.dims[0];
    let outputs = file["init.output.weight"].dims[0];
    let rows = |name: &str, lengths: &str| {
        let (x, time) = (&file[name], file[name].dims[1]);
        let lengths = match file.get(lengths) {
            Some(l) => numbers(l).map(|l| l as u32).collect(),
            None => vec![time as u32; n],
        };
        Tokens { n, time, ids: numbers(x).map(|i| i as u32).collect(), lengths, ..Tokens::default() }
    };
    let (input_shape, input) = if file.contains_key("batch.source") {
        let source = rows("batch.source", "batch.source_lengths");
        let target = rows("batch.target_input", "batch.target_lengths");
        let shape =
            InputShape::Pair { vocabulary: outputs, source_time: source.time, target_time: target.time };
        (shape, Input::Pair { source, target })
    } else if let Some(table) = file.get("init.embedding.weight") {
        let tokens = rows("batch.input", "batch.lengths");
        (InputShape::Tokens { vocabulary: table.dims[0], time: tokens.time }, Input::Tokens(tokens))
    } else {
        assert!(!file.contains_key("batch.lengths"), "rows of numbers have no lengths");
        let shape = InputShape::Series { steps: x.dims[1], channels: x.dims[2] };
        (shape, Input::Dense { shape: x.dims[1..].to_vec(), data: x.data.clone() })
    };
    let classes = numbers(y).map(|i| i as i32).collect();
    let (output, target) = match (head, json["task"].as_str().unwrap()) {
        (RecurrentHead::Last, "regression") => {
            let target = Target::Values { width: outputs, data: y.data.clone() };
            (OutputShape::Values { n: outputs }, target)
        }
        (RecurrentHead::Last, _) => (OutputShape::Classes { n: outputs }, Target::Classes(classes)),
        (_, "sequence_to_sequence") => (OutputShape::Tokens { vocabulary: outputs }, Target::Steps(classes)),
        (RecurrentHead::Step, _) => (OutputShape::StepClasses { n: outputs }, Target::Steps(classes)),
        (RecurrentHead::Next, _) => (OutputShape::Tokens { vocabulary: outputs }, Target::Steps(classes)),
    };
    let family = match options["family"].as_str().unwrap() {
        "rnn" => ModelSpec::Rnn(recurrent),
        "lstm" => ModelSpec::Lstm(recurrent),
        _ => ModelSpec::Gru(recurrent),
    };
    let shape = ModelShape { input: input_shape, output };
    (Model::new(&family, &shape, 1).unwrap(), Batch { n, input, target }, file)
}

fn set(model: &mut Model, file: &HashMap<String, Tensor>, prefix: &str) {
    let n_file = file.keys().filter(|k| k.starts_with(prefix)).count();
    assert_eq!(model.params.ids().len(), n_file, "as many parameters as PyTorch has");
    for id in model.params.ids() {
        let tensor = &file[&format!("{prefix}{}", model.params.name(id))];
        model.params.set(id, &tensor.dims, tensor.data.clone()).unwrap();
    }
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{what}[{i}]: {g}, PyTorch {w}");
    }
}

#[test]
fn every_golden_model_has_pytorchs_logits_and_gradients() {
    for name in ["rnn", "lstm", "gru", "lstm_bidirectional", "gru_bidirectional", "lstm_pair"] {
        let (mut model, batch, file) = golden(name);
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let mut ws = Workspace::new();
                set(&mut model, &file, "init.");
                let mut grads = Grads::new(&model.params);
                let examples = Examples::Even(batch.n);
                let mut tape = Tape::new(&mut ws, &model.params, Recording::InputsAndWeights, examples);
                let scale = 1.0 / batch.target.n_terms() as f32;
                let (loss, forward) = model.loss(&mut tape, &batch, scale).unwrap();
                close(name, tape.value(loss), &file["loss"].data[..1]);
                close(name, tape.value(forward.logits), &file["logits0"].data);
                tape.backward(loss, &mut grads);
                for id in model.params.ids() {
                    let parameter = model.params.name(id);
                    let want = &file[&format!("grad0.{parameter}")].data;
                    close(&format!("{name}: {parameter}"), grads.value(id), want);
                }
                let probe = file.keys().find(|k| k.starts_with("grad_input0.")).unwrap();
                close(&format!("{name}: {probe}"), tape.grad(forward.entry).unwrap(), &file[probe].data);
                set(&mut model, &file, "final.");
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(batch.n));
                let logits = model.forward(&mut tape, &batch.input).unwrap().logits;
                close(&format!("{name}: in evaluation"), tape.value(logits), &file["logits_eval"].data);
            });
        }
    }
}

/// Rows of pseudo-random tokens below `vocabulary`.
fn tokens(lengths: &[u32], vocabulary: u32) -> Tokens {
    let (n, time) = (lengths.len(), *lengths.iter().max().unwrap() as usize);
    let id = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 7;
    let valid = |i: usize| i % time < lengths[i / time] as usize;
    let ids = (0..n * time).map(|i| if valid(i) { id(i) % vocabulary } else { 0 }).collect();
    Tokens { n, time, ids, lengths: lengths.to_vec(), ..Tokens::default() }
}

#[test]
fn a_language_model_says_the_same_bits_token_by_token_and_in_any_company() {
    let shape = ModelShape {
        input: InputShape::Tokens { vocabulary: 11, time: 8 },
        output: OutputShape::Tokens { vocabulary: 11 },
    };
    let recurrent = RecurrentSpec { num_layers: 2, bptt: Some(4), ..spec(13, RecurrentHead::Next) };
    for family in
        [ModelSpec::Rnn(recurrent.clone()), ModelSpec::Lstm(recurrent.clone()), ModelSpec::Gru(recurrent)]
    {
        let model = Model::new(&family, &shape, 3).unwrap();
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let mut ws = Workspace::new();
                let all = tokens(&[8, 3, 5], 11);
                let whole = whole_logits(&model, &mut ws, Input::Tokens(all.clone()), 3);
                // Three prompts of unequal length at once, then the first goes on alone.
                let mut states: Vec<DecodeState> =
                    (0..3).map(|_| model.start(&mut ws, None).unwrap()).collect();
                let prompts = [&all.ids[..5], &all.ids[8..11], &all.ids[16..21]];
                let mut rows: Vec<DecodeRow<'_>> = states
                    .iter_mut()
                    .zip(prompts)
                    .zip([Rows::All, Rows::Last, Rows::All])
                    .map(|((state, tokens), rows)| DecodeRow {
                        state,
                        tokens,
                        rows,
                        pages: &[],
                        adapter: None,
                        class: RowClass::Bulk,
                    })
                    .collect();
                let logits = model.decode(&mut ws, None, &mut rows).unwrap();
                let row = |r: usize, from: usize, to: usize| &whole[(r * 8 + from) * 11..(r * 8 + to) * 11];
                assert_eq!(logits, [row(0, 0, 5), row(1, 2, 3), row(2, 0, 5)].concat());
                for t in 5..8 {
                    let tokens = &all.ids[t..t + 1];
                    let next = DecodeRow {
                        state: &mut states[0],
                        tokens,
                        rows: Rows::Last,
                        pages: &[],
                        adapter: None,
                        class: RowClass::Bulk,
                    };
                    assert_eq!(
                        model.decode(&mut ws, None, &mut [next]).unwrap(),
                        row(0, t, t + 1),
                        "token {t}"
                    );
                }
            });
        }
    }
}

fn whole_logits(model: &Model, ws: &mut Workspace, input: Input, n: usize) -> Vec<f32> {
    let mut tape = Tape::new(ws, &model.params, Recording::Off, Examples::Even(n));
    let logits = model.forward(&mut tape, &input).unwrap().logits;
    tape.value(logits).to_vec()
}

#[test]
fn a_sequence_to_sequence_model_goes_downhill_along_its_gradient() {
    let shape = ModelShape {
        input: InputShape::Pair { vocabulary: 7, source_time: 6, target_time: 4 },
        output: OutputShape::Tokens { vocabulary: 7 },
    };
    for (one_hot, bidirectional) in [(true, false), (false, true)] {
        let base = spec(9, RecurrentHead::Step);
        let recurrent = RecurrentSpec { num_layers: 2, one_hot, bidirectional, ..base };
        let mut model = Model::new(&ModelSpec::Lstm(recurrent), &shape, 3).unwrap();
        assert!(model.params.find("encoder.weight_ih_l1").is_some());
        assert!(model.params.find("decoder.weight_hh_l1").is_some());
        assert_eq!(model.params.find("decoder.weight_ih_l0_reverse"), None);
        let source = tokens(&[6, 2, 3], 7);
        let target = Tokens { ids: vec![0; 12], ..tokens(&[4, 4, 2], 7) };
        let steps = vec![1, 2, 3, 4, 0, 1, 2, 3, 4, 0, -100, -100];
        let batch = Batch { n: 3, input: Input::Pair { source, target }, target: Target::Steps(steps) };
        let mut ws = Workspace::new();
        let mut grads = Grads::new(&model.params);
        let loss = |model: &Model, ws: &mut Workspace, grads: Option<&mut Grads>| {
            let mut tape = Tape::new(ws, &model.params, Recording::Weights, Examples::Even(3));
            let (loss, forward) = model.loss(&mut tape, &batch, 1.0).unwrap();
            assert_eq!(tape.shape(forward.logits).dims(), [12, 7]);
            let value = tape.value(loss)[0];
            if let Some(grads) = grads {
                tape.backward(loss, grads);
            }
            value
        };
        loss(&model, &mut ws, Some(&mut grads));
        grads.finish();
        // The derivative along the gradient is its squared length.
        let squared: f64 =
            model.params.ids().flat_map(|id| grads.value(id)).map(|&g| (g as f64).powi(2)).sum();
        let start: Vec<Vec<f32>> = model.params.ids().map(|id| model.params.value(id).to_vec()).collect();
        let step = 1e-2 / squared.sqrt();
        let mut at = |by: f64| {
            for (id, start) in model.params.ids().zip(&start) {
                let moved = start.iter().zip(grads.value(id)).map(|(x, g)| x + (by * *g as f64) as f32);
                model.params.value_mut(id).iter_mut().zip(moved).for_each(|(x, y)| *x = y);
            }
            loss(&model, &mut ws, None) as f64
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        assert!((slope / squared - 1.0).abs() < 2e-3, "slope {slope}, gradient {squared}");
    }
}

#[test]
fn dropout_is_between_layers_in_training_only_and_its_key_repeats_it() {
    let shape = ModelShape {
        input: InputShape::Series { steps: 5, channels: 2 },
        output: OutputShape::Classes { n: 3 },
    };
    let input = Input::Dense { shape: vec![5, 2], data: (0..40).map(|i| (i as f32).sin()).collect() };
    let logits = |num_layers: usize, step: Option<u64>| {
        let recurrent = RecurrentSpec { num_layers, dropout: 0.5, ..spec(6, RecurrentHead::Last) };
        let model = Model::new(&ModelSpec::Gru(recurrent), &shape, 3).unwrap();
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(4));
        if let Some(step) = step {
            tape = tape.training(Dropout { seed: 1, step });
        }
        let logits = model.forward(&mut tape, &input).unwrap().logits;
        tape.value(logits).to_vec()
    };
    assert_eq!(logits(2, Some(1)), logits(2, Some(1)));
    assert_ne!(logits(2, Some(1)), logits(2, Some(2)));
    assert_ne!(logits(2, Some(1)), logits(2, None));
    assert_eq!(logits(1, Some(1)), logits(1, None), "no dropout after the last layer");
}

#[test]
fn what_does_not_fit_is_refused_with_a_fix() {
    let tokens = InputShape::Tokens { vocabulary: 5, time: 4 };
    let check = |input: InputShape, output, recurrent: RecurrentSpec, fix: &str| {
        let error = Model::new(&ModelSpec::Lstm(recurrent), &ModelShape { input, output }, 1).unwrap_err();
        assert!(error.to_string().contains(fix), "{error}");
    };
    let classes = OutputShape::Classes { n: 3 };
    let each = OutputShape::Tokens { vocabulary: 5 };
    check(InputShape::Features { n: 4 }, classes, spec(4, RecurrentHead::Last), "channels = 1");
    check(InputShape::Image { shape: [3, 8, 8] }, classes, spec(4, RecurrentHead::Last), "cnn");
    check(tokens.clone(), classes, spec(4, RecurrentHead::Step), "head = \"last\"");
    check(tokens.clone(), each, spec(4, RecurrentHead::Last), "\"step\" or \"next\"");
    let both = RecurrentSpec { bidirectional: true, ..spec(4, RecurrentHead::Next) };
    check(tokens, each, both, "remove bidirectional");
}
