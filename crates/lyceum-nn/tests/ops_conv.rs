//! Convolution, pooling and their norms against PyTorch (`fixtures/scripts/ops_conv.py`), under every CPU path.

#![allow(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use lyceum_kernels::cpu;
use lyceum_nn::ops::batch_norm::BatchNormParams;
use lyceum_nn::ops::conv::ConvGeometry;
use lyceum_nn::ops::pooling::{Pooling, Window};
use lyceum_nn::weights::{Tensor, read_safetensors};
use lyceum_nn::{
    Activation, Dropout, Examples, Grads, Init, NnError, ParamId, ParamKind, Params, Recording, Tape, Var,
    Workspace,
};
use rand::SeedableRng;
use std::collections::HashMap;

type File = HashMap<String, Tensor>;

fn fixture() -> File {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ops_conv.safetensors");
    read_safetensors(&std::fs::read(file).unwrap()).unwrap()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &Tensor) {
    assert_eq!(got.len(), want.data.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(&want.data).enumerate() {
        assert!((g - w).abs() <= 2e-5 * w.abs().max(1.0), "{what}[{i}]: {g}, PyTorch {w}");
    }
}

/// Runs one case of the file under each path: output, gradients, running statistics.
fn check(
    file: &File,
    case: &str,
    training: bool,
    build: impl Fn(&mut Tape<'_>, Var, &dyn Fn(&str) -> Option<ParamId>) -> Result<Var, NnError>,
) {
    let of = |key: &str| &file[&format!("{case}.{key}")];
    let mut params = Params::new();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let mut add = |prefix: &str, kind: ParamKind| {
        let prefix = format!("{case}.{prefix}.");
        let mut names: Vec<&str> = file.keys().filter_map(|k| k.strip_prefix(&prefix)).collect();
        names.sort_unstable();
        for name in names {
            let tensor = &file[&format!("{prefix}{name}")];
            let (kind, dims) = match name {
                "num_batches_tracked" => (ParamKind::Counter, vec![1]),
                _ => (kind, tensor.dims.clone()),
            };
            let id = params.add(name, &dims, kind, Init::Zeros, &mut rng);
            params.value_mut(id).copy_from_slice(&tensor.data);
        }
    };
    add("param", ParamKind::Weight);
    add("before", ParamKind::Buffer);
    for &path in cpu::available() {
        cpu::with_path(path, || {
            let mut ws = Workspace::new();
            let mut grads = Grads::new(&params);
            let x = of("x");
            let examples = Examples::Even(x.dims[0]);
            let mut tape = Tape::new(&mut ws, &params, Recording::InputsAndWeights, examples);
            if training {
                tape = tape.training(Dropout::default());
            }
            let var = tape.entry(&x.dims, &x.data).unwrap();
            let out = build(&mut tape, var, &|name| params.find(name)).unwrap();
            assert_eq!(tape.shape(out).dims(), of("out").dims, "{case}");
            close(&format!("{case}: out"), tape.value(out), of("out"));
            tape.backward_from(out, &of("d_out").data, &mut grads);
            close(&format!("{case}: x"), tape.grad(var).unwrap(), of("grad.x"));
            for id in params.ids().filter(|&id| params.kind(id) == ParamKind::Weight) {
                let name = params.name(id);
                close(&format!("{case}: {name}"), grads.value(id), of(&format!("grad.param.{name}")));
            }
            let mut after = params.clone();
            ws.apply_buffer_updates(&mut after);
            for id in after.ids().filter(|&id| after.kind(id) != ParamKind::Weight) {
                close(after.name(id), after.value(id), of(&format!("after.{}", after.name(id))));
            }
        });
    }
}

#[test]
fn convolutions_agree_with_pytorch() {
    let file = fixture();
    let conv = |case: &str, geometry: ConvGeometry, activation: Activation| {
        check(&file, case, false, |tape, x, p| {
            tape.conv(x, p("weight").unwrap(), p("bias"), geometry, activation)
        });
    };
    conv("conv2d", ConvGeometry::square(1, 1, 1, 1), Activation::None);
    conv("conv2d_relu", ConvGeometry::default(), Activation::Relu);
    let moves =
        ConvGeometry { stride: [2, 3], pad_before: [2, 1], pad_after: [2, 1], dilation: [2, 1], groups: 2 };
    conv("conv2d_moves", moves, Activation::None);
    conv("conv2d_depthwise", ConvGeometry::square(2, 1, 1, 8), Activation::None);
    conv("conv1d_same", ConvGeometry::same(1, 8, 1, 1), Activation::None);
    conv("conv1d_dilated", ConvGeometry::square(2, 2, 2, 1), Activation::None);
}

#[test]
fn pools_agree_with_pytorch() {
    let file = fixture();
    let pool = |case: &str, pooling, window| {
        check(&file, case, false, |tape, x, _| tape.pool(x, pooling, window));
    };
    pool("max_pool2d", Pooling::Max, Window { kernel: [3, 3], stride: [2, 2], padding: [1, 1] });
    pool("max_pool1d", Pooling::Max, Window::square(2));
    pool("avg_pool2d", Pooling::Avg, Window { kernel: [3, 2], stride: [2, 1], padding: [1, 1] });
    pool("avg_pool1d", Pooling::Avg, Window::square(3));
    check(&file, "global_avg", false, |tape, x, _| tape.global_pool(x, Pooling::Avg));
    check(&file, "global_max", false, |tape, x, _| tape.global_pool(x, Pooling::Max));
}

#[test]
fn norms_agree_with_pytorch() {
    let file = fixture();
    for (case, training) in
        [("batch_norm_train", true), ("batch_norm_eval", false), ("batch_norm_rows", true)]
    {
        check(&file, case, training, |tape, x, p| {
            let id = |name| p(name).expect("the file has it");
            let norm = BatchNormParams {
                weight: id("weight"),
                bias: id("bias"),
                running_mean: id("running_mean"),
                running_var: id("running_var"),
                num_batches_tracked: id("num_batches_tracked"),
                eps: 1e-5,
                momentum: 0.1,
            };
            tape.batch_norm(x, norm)
        });
    }
    check(&file, "group_norm", false, |tape, x, p| {
        tape.group_norm(x, 3, p("weight").unwrap(), p("bias").unwrap(), 1e-5)
    });
}
