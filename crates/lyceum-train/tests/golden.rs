//! Ten optimiser steps of every family against PyTorch: from the same weights on the same batch, every loss,
//! and every gradient of the first and the last step, inputs and embeddings included, agree within 1e-4.
//! `fixtures/README.md` says what the files hold and which script made them.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_kernels::cpu;
use lyceum_models::batch::{Batch, Input, Target, Tokens};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::weights::{Tensor, read_safetensors};
use lyceum_nn::{Examples, Grads, ParamKind, Recording, Tape, Workspace};
use lyceum_train::optim::{Optimizer, clip_scale, global_norm};
use lyceum_types::spec::Spec;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const TOLERANCE: f32 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden")
}

struct Golden {
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        Golden { json: serde_json::from_str(&text).unwrap(), tensors: read_safetensors(&bytes).unwrap() }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has {name}"))
    }

    fn ids(&self, name: &str) -> Vec<i32> {
        self.tensor(name).data.iter().map(|&x| x as i32).collect()
    }

    fn tokens(&self, ids: &str, lengths: &str) -> Tokens {
        let tensor = self.tensor(ids);
        let (n, time) = (tensor.dims[0], tensor.dims[1]);
        let lengths = match self.tensors.get(lengths) {
            Some(lengths) => lengths.data.iter().map(|&l| l as u32).collect(),
            None => vec![time as u32; n],
        };
        Tokens { n, time, ids: tensor.data.iter().map(|&x| x as u32).collect(), lengths, ..Tokens::default() }
    }

    fn spec(&self) -> Spec {
        let mut model = self.json["model"].clone();
        if let Some(conv) = model.get_mut("conv").and_then(Value::as_array_mut) {
            conv.iter_mut().for_each(|c| drop(c.as_object_mut().unwrap().remove("norm_groups")));
        }
        let mut train = self.json["train"].clone();
        train.as_object_mut().unwrap().remove("grad_clip");
        let mut document = json!({
            "name": "golden", "task": self.json["task"], "data": { "train": "x.csv" },
            "model": model, "train": train,
        });
        // The parser asks for a target where a table needs one; the data is not read here.
        document["data"]["target"] = json!("y");
        Spec::from_json(&document).unwrap_or_else(|e| panic!("{}: {e}", self.json["name"]))
    }

    fn vocabulary(&self) -> usize {
        self.tensor("init.embedding.weight").dims[0]
    }

    fn shape(&self) -> ModelShape {
        let outputs = self.tensor("logits0").dims.last().copied().unwrap();
        let input = match self.tensors.get("batch.input") {
            None => InputShape::Pair { vocabulary: self.vocabulary(), source_time: 8, target_time: 8 },
            Some(_) if self.tensors.contains_key("init.embedding.weight") => {
                InputShape::Tokens { vocabulary: self.vocabulary(), time: 9 }
            }
            Some(input) => match input.dims[1..] {
                [n] => InputShape::Features { n },
                [steps, channels] => InputShape::Series { steps, channels },
                [c, h, w] => InputShape::Image { shape: [c, h, w] },
                _ => panic!("unexpected input {:?}", input.dims),
            },
        };
        let output = match (self.json["task"].as_str().unwrap(), self.json["model"]["head"].as_str()) {
            ("classification", Some("step")) => OutputShape::StepClasses { n: outputs },
            ("classification", _) => OutputShape::Classes { n: outputs },
            ("regression", _) => OutputShape::Values { n: outputs },
            _ => OutputShape::Tokens { vocabulary: outputs },
        };
        ModelShape { input, output }
    }

    fn batch(&self, shape: &ModelShape) -> Batch {
        let input = match &shape.input {
            InputShape::Pair { .. } => Input::Pair {
                source: self.tokens("batch.source", "batch.source_lengths"),
                target: self.tokens("batch.target_input", "batch.target_lengths"),
            },
            InputShape::Tokens { .. } => Input::Tokens(self.tokens("batch.input", "batch.lengths")),
            _ => {
                let tensor = self.tensor("batch.input");
                Input::Dense { shape: tensor.dims[1..].to_vec(), data: tensor.data.clone() }
            }
        };
        let target = match shape.output {
            OutputShape::Classes { .. } => Target::Classes(self.ids("batch.target")),
            OutputShape::Values { n } => {
                Target::Values { width: n, data: self.tensor("batch.target").data.clone() }
            }
            _ => Target::Steps(self.ids("batch.target")),
        };
        Batch { n: self.tensor("batch.target").dims[0], input, target }
    }
}

fn compare(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= TOLERANCE, "{what}[{i}]: {got}, PyTorch has {want}");
    }
}

fn check(name: &str) {
    let golden = Golden::read(name);
    let (spec, shape) = (golden.spec(), golden.shape());
    let batch = golden.batch(&shape);
    for &path in cpu::available() {
        cpu::with_path(path, || {
            check_on_this_path(&format!("{name} on {}", path.name()), &golden, &spec, &shape, &batch)
        });
    }
}

fn check_on_this_path(name: &str, golden: &Golden, spec: &Spec, shape: &ModelShape, batch: &Batch) {
    let mut model = Model::new(&spec.model, shape, 1).unwrap();
    for id in model.params.ids().collect::<Vec<_>>() {
        let parameter = model.params.name(id).to_owned();
        if model.params.kind(id) != ParamKind::Counter {
            let start = golden.tensor(&format!("init.{parameter}"));
            model.params.set(id, &start.dims, start.data.clone()).unwrap();
        }
    }
    let mut optimizer = Optimizer::new(&spec.train.optimizer, &model.params);
    let lr = Optimizer::base_lr(&spec.train.optimizer);
    let clip = golden.json["train"]["grad_clip"].as_f64();
    let mut grads = Grads::new(&model.params);
    let mut ws = Workspace::new();
    let scale = 1.0 / batch.target.n_terms() as f32;
    let losses = &golden.tensor("loss").data;
    for (step, &loss_wanted) in losses.iter().enumerate() {
        grads.clear();
        let recording = Recording::InputsAndWeights;
        let mut tape = Tape::new(&mut ws, &model.params, recording, Examples::Even(batch.n))
            .training(Default::default());
        let (loss, forward) = model.loss(&mut tape, batch, scale).unwrap();
        compare(&format!("{name}: loss of step {step}"), tape.value(loss), &[loss_wanted]);
        tape.backward(loss, &mut grads);
        if step == 0 {
            let probe = golden.json["probes"][0].as_str().unwrap();
            let entry = tape.grad(forward.entry).expect("the gradient of the input was asked for");
            compare(
                &format!("{name}: gradient of {probe}"),
                entry,
                &golden.tensor(&format!("grad_input0.{probe}")).data,
            );
        }
        ws.apply_buffer_updates(&mut model.params);
        grads.finish();
        if step == 0 || step == 9 {
            for id in model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight) {
                let parameter = model.params.name(id);
                let want = &golden.tensor(&format!("grad{step}.{parameter}")).data;
                compare(&format!("{name}: gradient of {parameter} in step {step}"), grads.value(id), want);
            }
        }
        let factor = clip_scale(global_norm(&model.params, &grads), clip);
        optimizer.step(&mut model.params, &grads, lr, factor);
    }
    for id in model.params.ids().filter(|&id| model.params.kind(id) != ParamKind::Counter) {
        let parameter = model.params.name(id);
        let want = &golden.tensor(&format!("final.{parameter}")).data;
        compare(&format!("{name}: {parameter} after ten steps"), model.params.value(id), want);
    }
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(batch.n));
    let logits = model.forward(&mut tape, &batch.input).unwrap().logits;
    let width = shape.output.width();
    let rows = tape.value(logits).chunks(width).zip(golden.tensor("logits_eval").data.chunks(width));
    let ignored =
        |row: usize| matches!(&batch.target, Target::Steps(t) if t[row] == lyceum_models::batch::IGNORE);
    for (row, (got, want)) in rows.enumerate().filter(|(row, _)| !ignored(*row)) {
        compare(&format!("{name}: outputs of row {row} in evaluation"), got, want);
    }
}

/// Example `i` of a batch, alone.
fn alone(batch: &Batch, i: usize) -> Batch {
    let tokens = |t: &Tokens| Tokens {
        n: 1,
        time: t.time,
        ids: t.ids[i * t.time..][..t.time].to_vec(),
        lengths: vec![t.lengths[i]],
        ..Tokens::default()
    };
    let input = match &batch.input {
        Input::Dense { shape, data } => {
            let width: usize = shape.iter().product();
            Input::Dense { shape: shape.clone(), data: data[i * width..][..width].to_vec() }
        }
        Input::Tokens(t) => Input::Tokens(tokens(t)),
        Input::Pair { source, target } => Input::Pair { source: tokens(source), target: tokens(target) },
    };
    let part = |all: &[i32]| all[i * (all.len() / batch.n)..][..all.len() / batch.n].to_vec();
    let target = match &batch.target {
        Target::None => Target::None,
        Target::Classes(c) => Target::Classes(part(c)),
        Target::Steps(c) => Target::Steps(part(c)),
        Target::Values { width, data } => {
            Target::Values { width: *width, data: data[i * width..][..*width].to_vec() }
        }
        Target::Preferences { .. } => unreachable!("the goldens have none"),
    };
    Batch { n: 1, input, target }
}

/// The norm of each example's gradient equals that of a micro-batch of one, in every family; those with batch
/// norm have none and say so.
fn check_norms(name: &str) {
    let golden = Golden::read(name);
    let (spec, shape) = (golden.spec(), golden.shape());
    let batch = golden.batch(&shape);
    let mut model = Model::new(&spec.model, &shape, 1).unwrap();
    for id in model.params.ids().collect::<Vec<_>>() {
        let parameter = model.params.name(id).to_owned();
        if model.params.kind(id) != ParamKind::Counter {
            let start = golden.tensor(&format!("init.{parameter}"));
            model.params.set(id, &start.dims, start.data.clone()).unwrap();
        }
    }
    let mixes = model.params.ids().any(|id| model.params.kind(id) == ParamKind::Counter);
    let mut squares = vec![0.0; batch.n];
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Weights, Examples::Even(batch.n));
    let (loss, _) = model.loss(&mut tape, &batch, 0.5).unwrap();
    tape.backward_inputs(loss, &[1.0]);
    let asked = tape.example_norms(&mut squares);
    if mixes {
        let error = asked.unwrap_err().to_string();
        assert!(error.contains("batch_norm mixes examples"), "{name}: {error}");
        return;
    }
    asked.unwrap();
    for (i, square) in squares.iter().enumerate() {
        let one = alone(&batch, i);
        let mut grads = Grads::new(&model.params);
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Weights, Examples::Even(1));
        let (loss, _) = model.loss(&mut tape, &one, 0.5).unwrap();
        tape.backward(loss, &mut grads);
        grads.finish();
        let want = global_norm(&model.params, &grads);
        let error = (square.sqrt() - want).abs() / want.max(1e-3);
        assert!(error < 1e-4, "{name}: norm of example {i} is {}, alone {want}", square.sqrt());
    }
}

macro_rules! golden {
    ($($name:ident),* $(,)?) => {
        #[test]
        fn norms_of_examples_equal_micro_batches_of_one() {
            for &path in cpu::available() {
                cpu::with_path(path, || [$(stringify!($name)),*].into_iter().for_each(check_norms));
            }
        }
    $(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )*};
}

golden!(
    mlp,
    mlp_regression,
    cnn,
    cnn_1d,
    cnn_residual,
    rnn,
    gru,
    lstm,
    gru_bidirectional,
    lstm_bidirectional,
    lstm_pair,
    encoder,
    encoder_norm_first,
    decoder,
    decoder_bias,
    decoder_rope,
    encoder_decoder,
    encoder_decoder_norm_first,
);
