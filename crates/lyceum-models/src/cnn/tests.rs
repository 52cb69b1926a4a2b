use super::*;
use crate::batch::{Batch, Input, Target};
use crate::model::{Model, ModelShape, OutputShape};
use lyceum_kernels::cpu;
use lyceum_nn::weights::{Tensor, read_safetensors};
use lyceum_nn::{Dropout, Examples, Grads, Recording, Workspace};
use lyceum_types::spec::{ActivationSpec, ModelSpec};
use std::collections::HashMap;

fn layer(channels: usize, kernel: usize) -> ConvSpec {
    ConvSpec {
        channels,
        kernel,
        stride: 1,
        padding: None,
        dilation: 1,
        groups: 1,
        norm: None,
        pool: None,
        residual: None,
    }
}

fn spec(conv: Vec<ConvSpec>) -> CnnSpec {
    CnnSpec { conv, global_pool: None, hidden: vec![], activation: ActivationSpec::Relu, dropout: 0.0 }
}

fn model(spec: CnnSpec, input: InputShape, n: usize) -> Result<Model, ModelError> {
    Model::new(&ModelSpec::Cnn(spec), &ModelShape { input, output: OutputShape::Classes { n } }, 1)
}

/// The model and the batch of a golden trajectory.
fn golden(name: &str) -> (Model, Batch, HashMap<String, Tensor>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden");
    let json = std::fs::read(format!("{folder}/{name}.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let file = read_safetensors(&std::fs::read(format!("{folder}/{name}.safetensors")).unwrap()).unwrap();
    let options = &json["model"];
    let number = |v: &serde_json::Value, key: &str| v.get(key).map(|v| v.as_u64().unwrap() as usize);
    let conv = options["conv"].as_array().unwrap().iter().map(|l| ConvSpec {
        channels: number(l, "channels").unwrap(),
        kernel: number(l, "kernel").unwrap(),
        stride: number(l, "stride").unwrap_or(1),
        padding: number(l, "padding"),
        dilation: number(l, "dilation").unwrap_or(1),
        groups: number(l, "groups").unwrap_or(1),
        norm: serde_json::from_value(l["norm"].clone()).unwrap(),
        pool: number(l, "pool"),
        residual: None,
    });
    let spec = CnnSpec {
        conv: conv.collect(),
        global_pool: serde_json::from_value(options["global_pool"].clone()).unwrap(),
        hidden: serde_json::from_value(options["hidden"].clone()).unwrap(),
        activation: serde_json::from_value(options["activation"].clone()).unwrap(),
        dropout: 0.0,
    };
    let x = &file["batch.input"];
    let shape = match *x.dims {
        [_, channels, h, w] => InputShape::Image { shape: [channels, h, w] },
        [_, steps, channels] => InputShape::Series { steps, channels },
        _ => panic!("an image or a series"),
    };
    let input = Input::Dense { shape: x.dims[1..].to_vec(), data: x.data.clone() };
    let target = Target::Classes(file["batch.target"].data.iter().map(|&c| c as i32).collect());
    let outputs = file["init.output.weight"].dims[0];
    (model(spec, shape, outputs).unwrap(), Batch { n: x.dims[0], input, target }, file)
}

fn set(model: &mut Model, file: &HashMap<String, Tensor>, prefix: &str) {
    let n_file = file.keys().filter(|k| k.starts_with(prefix)).count();
    assert_eq!(model.params.ids().len(), n_file, "as many parameters as PyTorch has");
    for id in model.params.ids() {
        let tensor = &file[&format!("{prefix}{}", model.params.name(id))];
        let dims = if tensor.dims.is_empty() { &[1][..] } else { &tensor.dims };
        model.params.set(id, dims, tensor.data.clone()).unwrap();
    }
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * w.abs().max(1.0), "{what}[{i}]: {g}, PyTorch {w}");
    }
}

#[test]
fn every_golden_model_has_pytorchs_logits_and_gradients() {
    for name in ["cnn", "cnn_1d"] {
        let (mut model, batch, file) = golden(name);
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let mut ws = Workspace::new();
                set(&mut model, &file, "init.");
                let mut grads = Grads::new(&model.params);
                let examples = Examples::Even(batch.n);
                let recording = Recording::InputsAndWeights;
                let mut tape =
                    Tape::new(&mut ws, &model.params, recording, examples).training(Dropout::default());
                let scale = 1.0 / batch.target.n_terms() as f32;
                let (loss, forward) = model.loss(&mut tape, &batch, scale).unwrap();
                close(name, tape.value(loss), &file["loss"].data[..1]);
                close(name, tape.value(forward.logits), &file["logits0"].data);
                tape.backward(loss, &mut grads);
                for id in model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight) {
                    let parameter = model.params.name(id);
                    let want = &file[&format!("grad0.{parameter}")].data;
                    close(&format!("{name}: {parameter}"), grads.value(id), want);
                }
                close(name, tape.grad(forward.entry).unwrap(), &file["grad_input0.input"].data);
                set(&mut model, &file, "final.");
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(batch.n));
                let logits = model.forward(&mut tape, &batch.input).unwrap().logits;
                close(&format!("{name}: in evaluation"), tape.value(logits), &file["logits_eval"].data);
            });
        }
    }
}

/// The blocks of the residual network of dl-4-tsc (Wang et al. 2017, arXiv:1611.06455), narrower.
fn resnet_for_series() -> CnnSpec {
    let norm = Some(ConvNorm::Batch);
    let conv = [4, 8, 8].into_iter().flat_map(|channels| {
        [8, 5, 3].into_iter().map(move |kernel| {
            let residual = (kernel == 3).then_some(3);
            ConvSpec { norm, residual, ..layer(channels, kernel) }
        })
    });
    CnnSpec { global_pool: Some(PoolKind::Avg), ..spec(conv.collect()) }
}

#[test]
fn residual_blocks_add_their_input_before_the_activation() {
    let input = InputShape::Series { steps: 11, channels: 1 };
    let resnet = model(resnet_for_series(), input, 3).unwrap();
    let names: Vec<&str> = resnet.params.ids().map(|id| resnet.params.name(id)).collect();
    assert!(names.contains(&"shortcut.2.weight") && names.contains(&"shortcut_norm.5.running_var"));
    assert!(!names.iter().any(|n| n.starts_with("shortcut.8")), "equal channels are added as they are");

    // Kernels of zeros leave the shortcut alone: relu(x) of one channel, then the mean of its plane.
    let block = vec![layer(1, 3), ConvSpec { residual: Some(2), ..layer(1, 3) }];
    let spec = CnnSpec { global_pool: Some(PoolKind::Avg), ..spec(block) };
    let mut model = model(spec, InputShape::Image { shape: [1, 2, 2] }, 1).unwrap();
    for id in model.params.ids() {
        let fill = if model.params.name(id) == "output.weight" { 1.0 } else { 0.0 };
        model.params.value_mut(id).fill(fill);
    }
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
    let input = Input::Dense { shape: vec![1, 2, 2], data: vec![1.0, -2.0, 3.0, -4.0] };
    let logits = model.forward(&mut tape, &input).unwrap().logits;
    assert_eq!(tape.value(logits), [1.0]);
}

#[test]
fn strided_blocks_of_images_have_strided_shortcuts() {
    let block = vec![
        ConvSpec { stride: 2, norm: Some(ConvNorm::Group), ..layer(6, 3) },
        ConvSpec { residual: Some(2), norm: Some(ConvNorm::Group), ..layer(6, 3) },
    ];
    for side in [7, 8] {
        let shape = InputShape::Image { shape: [3, side, side] };
        let model = model(spec(block.clone()), shape, 2).unwrap();
        let data = vec![0.5; 2 * 3 * side * side];
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(2));
        let input = Input::Dense { shape: vec![3, side, side], data };
        let logits = model.forward(&mut tape, &input).unwrap().logits;
        assert_eq!(tape.shape(logits).dims(), [2, 2]);
    }
}

#[test]
fn in_evaluation_an_example_has_the_same_bits_in_any_company() {
    let model = model(resnet_for_series(), InputShape::Series { steps: 19, channels: 1 }, 3).unwrap();
    let data: Vec<f32> = (0..5 * 19).map(|i| (i as f32 * 0.7).sin()).collect();
    let run = |data: &[f32]| {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(data.len() / 19));
        let input = Input::Dense { shape: vec![19, 1], data: data.to_vec() };
        let logits = model.forward(&mut tape, &input).unwrap().logits;
        tape.value(logits).to_vec()
    };
    for &path in cpu::available() {
        cpu::with_path(path, || {
            let all = run(&data);
            for i in 0..5 {
                assert_eq!(run(&data[i * 19..(i + 1) * 19]), all[i * 3..(i + 1) * 3], "{path:?}");
            }
        });
    }
}

#[test]
fn what_does_not_fit_is_refused_with_a_way_out() {
    let image = InputShape::Image { shape: [1, 8, 8] };
    let refuse = |conv: Vec<ConvSpec>, input: &InputShape, word: &str| {
        let error = model(spec(conv), input.clone(), 2).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refuse(
        vec![ConvSpec { padding: Some(0), ..layer(4, 9) }],
        &image,
        "conv[0]: a kernel that reaches over 9",
    );
    refuse(vec![ConvSpec { pool: Some(9), ..layer(4, 3) }], &image, "conv[0]: a pool of 9");
    refuse(vec![ConvSpec { groups: 2, ..layer(4, 3) }], &image, "groups that divide both");
    let shrinking = ConvSpec { padding: Some(0), residual: Some(1), ..layer(1, 3) };
    refuse(vec![shrinking], &image, "its shortcut to [8, 8]");
    refuse(vec![layer(4, 3)], &InputShape::Features { n: 8 }, "columns without an order");
    refuse(vec![layer(4, 3)], &InputShape::Tokens { vocabulary: 5, time: 3 }, "text");
}

#[test]
fn group_norms_have_at_most_32_groups_of_two_channels_or_more() {
    let groups = [1, 2, 3, 4, 6, 30, 32, 64, 128, 7].map(norm_groups);
    assert_eq!(groups, [1, 1, 1, 2, 3, 15, 16, 32, 32, 1]);
}
