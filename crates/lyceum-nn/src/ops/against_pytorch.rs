//! The operations of a Transformer against PyTorch's numbers (`fixtures/scripts/ops_transformer.py`): outputs
//! and every gradient, on every CPU path.

use super::attention::{AttentionOptions, Mask};
use super::position::sinusoidal;
use super::rope::{Pairs, RopeOptions, RopeTable};
use crate::weights::{Tensor, read_safetensors};
use crate::{Examples, Grads, Init, NnError, ParamId, ParamKind, Params, Recording, Tape, Var, Workspace};
use lyceum_kernels::cpu;
use rand::SeedableRng;
use std::collections::HashMap;

/// The tensors of one case.
struct Case<'a> {
    name: &'a str,
    all: &'a HashMap<String, Tensor>,
}

impl Case<'_> {
    fn find(&self, tensor: &str) -> Option<&Tensor> {
        self.all.get(&format!("{}.{tensor}", self.name))
    }

    fn ids(&self, name: &str) -> Vec<i32> {
        let tensor = self.find(&format!("ids.{name}")).expect("the case has these numbers");
        tensor.data.iter().map(|&x| x as i32).collect()
    }

    fn check(&self, build: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> Result<Var, NnError>) -> usize {
        let (mut params, mut rng) = (Params::new(), rand_chacha::ChaCha8Rng::seed_from_u64(0));
        let mut ids = Vec::new();
        for name in ["weight", "bias"] {
            let Some(tensor) = self.find(&format!("param.{name}")) else { continue };
            let id = params.add(name, &tensor.dims, ParamKind::Weight, Init::Zeros, &mut rng);
            params.set(id, &tensor.dims, tensor.data.clone()).unwrap();
            ids.push((name, id));
        }
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &params, Recording::InputsAndWeights, Examples::Even(1));
        let inputs: Vec<Var> = (0..)
            .map_while(|i| self.find(&format!("input.{i}")))
            .map(|t| tape.watched(&t.dims, &t.data).unwrap())
            .collect();
        let param_ids: Vec<ParamId> = ids.iter().map(|p| p.1).collect();
        let y = build(&mut tape, &inputs, &param_ids).unwrap();
        self.same("out", tape.value(y));
        assert_eq!(tape.shape(y).dims(), self.find("out").unwrap().dims);
        let mut grads = Grads::new(&params);
        tape.backward_from(y, &self.find("d_out").unwrap().data, &mut grads);
        for (i, &x) in inputs.iter().enumerate() {
            self.same(&format!("grad.input.{i}"), tape.grad(x).unwrap());
        }
        for &(name, id) in &ids {
            self.same(&format!("grad.param.{name}"), grads.value(id));
        }
        1 + inputs.len() + ids.len()
    }

    fn same(&self, tensor: &str, got: &[f32]) {
        let (name, path) = (self.name, cpu::path().name());
        let want = &self.find(tensor).expect("the case has this tensor").data;
        assert_eq!(got.len(), want.len(), "{path}: {name}.{tensor}");
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let error = (got - want).abs();
            assert!(
                error <= 1e-5 * want.abs().max(1.0),
                "{path}: {name}.{tensor}[{i}]: {got}, PyTorch {want}"
            );
        }
    }
}

fn check(all: &HashMap<String, Tensor>) -> usize {
    let case = |name| Case { name, all };
    let unsigned = |ids: Vec<i32>| ids.into_iter().map(|id| id as u32).collect::<Vec<_>>();
    let causal = Mask::Causal { first_position: 0 };
    let mut n = 0;
    n += case("self_causal").check(|tape, x, _| tape.self_attention(x[0], AttentionOptions::causal(2)));
    for (name, heads, mask) in [("self_padded", 1, Mask::Full), ("self_causal_padded", 4, causal)] {
        let lens = unsigned(case(name).ids("lens"));
        let options = AttentionOptions { mask, key_lens: Some(&lens), ..AttentionOptions::full(heads) };
        n += case(name).check(|tape, x, _| tape.self_attention(x[0], options));
    }
    let lens = unsigned(case("cross").ids("lens"));
    let options = AttentionOptions { key_lens: Some(&lens), ..AttentionOptions::full(2) };
    n += case("cross").check(|tape, x, _| tape.cross_attention(x[0], x[1], options));
    n += case("separate").check(|tape, x, _| tape.attention(x[0], x[1], x[2], AttentionOptions::full(2)));
    n += case("layer_norm").check(|tape, x, p| tape.layer_norm(x[0], p[0], Some(p[1]), 1e-5));
    n += case("layer_norm_no_bias").check(|tape, x, p| tape.layer_norm(x[0], p[0], None, 1e-5));
    n += case("rms_norm").check(|tape, x, p| tape.rms_norm(x[0], p[0], 1e-6));
    let ids = unsigned(case("embedding").ids("ids"));
    n += case("embedding").check(|tape, _, p| tape.embedding(p[0], &ids, &[2, 4]));
    let ids = unsigned(case("positions").ids("ids"));
    n += case("positions").check(|tape, x, p| tape.add_positions(x[0], p[0], &ids));
    let (table, ids) = (sinusoidal(10, 6), Vec::from_iter(0..8));
    n += case("sinusoidal").check(|tape, x, _| tape.add_fixed_positions(x[0], &table, &ids));
    let (table, ids) = (RopeTable::new(10_000.0, 8, 31).unwrap(), unsigned(case("rope").ids("ids")));
    n += case("rope").check(|tape, x, _| tape.rope(x[0], &table, 3, &ids));
    n += case("grouped").check(|tape, x, _| tape.self_attention(x[0], AttentionOptions::grouped(4, 1, None)));
    let options = AttentionOptions { scale: Some(0.3), ..AttentionOptions::grouped(6, 2, Some(5)) };
    n += case("grouped_window").check(|tape, x, _| tape.self_attention(x[0], options));
    let options = RopeOptions {
        head_size: 8,
        pairs: Pairs::Neighbours,
        frequencies: &[1.0, 10_000f64.powf(-1.0 / 3.0), 10_000f64.powf(-2.0 / 3.0)],
        scale: 1.0,
    };
    let (table, ids) = (RopeTable::with(options, 31).unwrap(), unsigned(case("rope_neighbours").ids("ids")));
    n += case("rope_neighbours").check(|tape, x, _| tape.rope(x[0], &table, 3, &ids));
    n += case("softmax").check(|tape, x, _| tape.softmax(x[0]));
    n += case("log_softmax").check(|tape, x, _| tape.log_softmax(x[0]));
    let targets = case("cross_entropy").ids("targets");
    n += case("cross_entropy").check(|tape, x, _| tape.softmax_cross_entropy(x[0], &targets, 1.0 / 4.0));
    let targets: Vec<f32> = case("binary_cross_entropy").ids("targets").iter().map(|&t| t as f32).collect();
    n +=
        case("binary_cross_entropy").check(|tape, x, _| tape.binary_cross_entropy(x[0], &targets, 1.0 / 6.0));
    n
}

#[test]
fn outputs_and_gradients_agree_with_pytorch() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/ops_transformer.safetensors");
    let all = read_safetensors(&std::fs::read(file).unwrap()).unwrap();
    for &path in cpu::available() {
        let n = cpu::with_path(path, || check(&all));
        let held = all.keys().filter(|k| k.contains(".grad.") || k.ends_with(".out")).count();
        assert_eq!(n, held, "every tensor of the file was compared");
    }
}
