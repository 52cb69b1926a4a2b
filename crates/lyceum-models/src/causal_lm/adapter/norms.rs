//! What differentially private fine-tuning rests on: in a step of several sequences, each has the norm and the gradient
//! that it has alone.

use super::AdapterConfig;
use crate::Model;
use crate::batch::{Batch, IGNORE, Input, Target, Tokens};
use crate::causal_lm::tests::{NAMES, case};
use lyceum_kernels::stored::Stored;
use lyceum_nn::{Grads, ParamKind, Precision, Recording, Tape, Workspace};

/// Sequences one after another; all but the first two tokens of each are learnt.
fn batch(sequences: &[&[u32]]) -> Batch {
    let steps = |ids: &&[u32]| {
        let step = |t: usize| if t == 0 || t + 1 == ids.len() { IGNORE } else { ids[t + 1] as i32 };
        (0..ids.len()).map(step).collect::<Vec<i32>>()
    };
    let tokens = Tokens {
        ids: sequences.concat(),
        lengths: sequences.iter().map(|ids| ids.len() as u32).collect(),
        n: sequences.len(),
        time: sequences.iter().map(|ids| ids.len()).max().unwrap_or(0),
        packed: true,
        ..Tokens::default()
    };
    Batch {
        n: sequences.len(),
        input: Input::Tokens(tokens),
        target: Target::Steps(sequences.iter().flat_map(steps).collect()),
    }
}

/// Squared norms of the examples, and the gradient of what is learnt, each example's times its weight.
fn private(model: &Model, batch: &Batch, precision: Precision, weights: &[f32]) -> (Vec<f64>, Vec<f32>) {
    let (mut ws, mut grads) = (Workspace::new(), Grads::new(&model.params));
    let tape = Tape::new(&mut ws, &model.params, Recording::Weights, batch.examples());
    let mut tape = tape.with_precision(precision);
    let (loss, _) = model.loss(&mut tape, batch, 1.0).unwrap();
    tape.backward_inputs(loss, &[1.0]);
    tape.set_precision(Precision::F32);
    let mut squares = vec![0.0; batch.n];
    tape.example_norms(&mut squares).unwrap();
    tape.backward_weights(&mut grads, Some(weights));
    grads.finish();
    (squares, learnt(model, &grads))
}

fn learnt(model: &Model, grads: &Grads) -> Vec<f32> {
    let ids = model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight);
    ids.flat_map(|id| grads.value(id).to_vec()).collect()
}

fn plain(model: &Model, batch: &Batch) -> Vec<f32> {
    let (mut ws, mut grads) = (Workspace::new(), Grads::new(&model.params));
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Weights, batch.examples());
    let (loss, _) = model.loss(&mut tape, batch, 1.0).unwrap();
    tape.backward(loss, &mut grads);
    grads.finish();
    learnt(model, &grads)
}

/// An adapter that says something: B is not 0.
fn adapted(name: &str, kind: Stored) -> (Model, Vec<u32>) {
    let case = case(name);
    let base = Model::language(case.load(Some(kind)).unwrap());
    let mut model = base.learning(&AdapterConfig::new(4, 8.0), 3).unwrap();
    for id in model.params.ids().collect::<Vec<_>>() {
        if model.params.kind(id) == ParamKind::Weight && model.params.value(id).iter().all(|b| *b == 0.0) {
            let value = model.params.value_mut(id);
            value.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * 7) % 11) as f32 / 50.0 - 0.1);
        }
    }
    (model, case.ids().to_vec())
}

fn far(got: &[f32], want: &[f32]) -> f32 {
    let size = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(size > 0.0, "a gradient of nothing");
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

#[test]
fn each_example_of_a_step_has_the_norm_and_the_gradient_that_it_has_alone() {
    for name in NAMES {
        for kind in [Stored::F32, Stored::Q8_0] {
            let (model, ids) = adapted(name, kind);
            // One longer than what its gradient is wide, one shorter, one of which a single token is learnt.
            let examples = [&ids[..9], &ids[9..14], &ids[2..5]];
            for precision in [Precision::F32, Precision::Bf16] {
                let place = format!("{name} over {kind:?} in {precision:?}");
                let together = batch(&examples);
                let (squares, _) = private(&model, &together, precision, &[1.0; 3]);
                for (i, example) in examples.iter().enumerate() {
                    let alone = batch(&[example]);
                    let (_, want) = private(&model, &alone, precision, &[1.0]);
                    let mut one = [0.0; 3];
                    one[i] = 1.0;
                    let (_, got) = private(&model, &together, precision, &one);
                    assert!(far(&got, &want) < 1e-5, "{place}, example {i}: {}", far(&got, &want));
                    let square: f64 = want.iter().map(|&g| f64::from(g).powi(2)).sum();
                    let ratio = squares[i] / square;
                    assert!((ratio - 1.0).abs() < 1e-4, "{place}, example {i}: norms² {ratio}");
                    if precision == Precision::F32 {
                        let plain = plain(&model, &alone);
                        assert!(far(&want, &plain) < 1e-5, "{place}, example {i} of a plain step");
                    }
                }
            }
        }
    }
}

#[test]
fn weights_of_examples_are_those_of_their_gradients() {
    let (model, ids) = adapted("llama", Stored::F32);
    let together = batch(&[&ids[..9], &ids[9..14]]);
    let of = |weights: [f32; 2]| private(&model, &together, Precision::F32, &weights).1;
    let (one, two, both) = (of([1.0, 0.0]), of([0.0, 1.0]), of([0.25, 3.0]));
    let want: Vec<f32> = one.iter().zip(&two).map(|(a, b)| 0.25 * a + 3.0 * b).collect();
    assert!(far(&both, &want) < 1e-5 && far(&one, &two) > 0.1);
    assert!(far(&of([1.0; 2]), &plain(&model, &together)) < 1e-5);
}
