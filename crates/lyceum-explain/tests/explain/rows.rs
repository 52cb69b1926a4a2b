//! Influence of training rows, and changes of a row that change its class.

use crate::cases::fresh;
use lyceum_explain::counterfactual::{Candidate, Search, changed, counterfactual};
use lyceum_explain::influence::{Checkpoint, influence};
use lyceum_explain::{ExplainError, ThisThread};
use lyceum_models::batch::{Batch, Input, Target};
use lyceum_models::{InputShape, Model, OutputShape};
use lyceum_nn::Workspace;
use lyceum_types::control::Control;
use serde_json::json;

fn linear(weights: &[f32], outputs: OutputShape, inputs: usize) -> Model {
    let spec = json!({ "family": "mlp", "hidden": [] });
    let case = fresh(&spec, InputShape::Features { n: inputs }, outputs, 1);
    let mut model = (*case.model).clone();
    let id = model.params.find("output.weight").unwrap();
    model.params.value_mut(id).copy_from_slice(weights);
    let id = model.params.find("output.bias").unwrap();
    model.params.value_mut(id).fill(0.0);
    model
}

fn row(x: &[f32], y: f32) -> Batch {
    let input = Input::Dense { shape: vec![x.len()], data: x.to_vec() };
    Batch { n: 1, input, target: Target::Values { width: 1, data: vec![y] } }
}

#[test]
fn influence_is_the_sum_of_gradient_products_over_checkpoints() {
    let output = OutputShape::Values { n: 1 };
    let (one, two) = (linear(&[1.0, 0.0], output, 2), linear(&[0.5, 0.5], output, 2));
    let checkpoints = [Checkpoint { model: &one, lr: 0.1 }, Checkpoint { model: &two, lr: 0.2 }];
    let example = row(&[1.0, 2.0], 0.0);
    let rows = [row(&[1.0, 2.0], 0.0), row(&[-1.0, 1.0], 1.0), row(&[0.0, 0.0], 0.0)];
    let mut ws = Workspace::new();
    let found = influence(&checkpoints, &example, &rows, &mut ws, &Control::new()).unwrap();
    // ∇ℓ = 2 (w·x − y) [x, 1], so the product is 4 e e′ (x·x′ + 1).
    let by_hand = |x: [f64; 2], y: f64| {
        let at = |w: [f64; 2], lr: f64| {
            let error = |x: [f64; 2], y: f64| w[0] * x[0] + w[1] * x[1] - y;
            let dot = x[0] + 2.0 * x[1] + 1.0;
            lr * 4.0 * error([1.0, 2.0], 0.0) * error(x, y) * dot
        };
        at([1.0, 0.0], 0.1) + at([0.5, 0.5], 0.2)
    };
    for (found, want) in found.iter().zip([by_hand([1.0, 2.0], 0.0), by_hand([-1.0, 1.0], 1.0), 0.0]) {
        assert!((found - want).abs() < 1e-5, "{found} {want}");
    }
    assert!(found[0] > 0.0, "a row pulls its own answer");
    assert!(influence(&[], &example, &rows, &mut ws, &Control::new()).is_err());
    let control = Control::new();
    control.cancel();
    let stopped = influence(&checkpoints, &example, &rows, &mut ws, &control);
    assert!(matches!(stopped, Err(ExplainError::Stopped(_))));
}

#[test]
fn a_counterfactual_is_the_cheapest_of_the_smallest_changes_and_true() {
    // Class 1 wins where 2a + b + c > 0.
    let model = linear(&[0.0, 0.0, 0.0, 2.0, 1.0, 1.0], OutputShape::Classes { n: 2 }, 3);
    let model = std::sync::Arc::new(model);
    let start = [-1.0, -1.0, -1.0];
    let candidate = |column: usize, value: f32, cost: f64| Candidate {
        column,
        at: column..column + 1,
        encoded: vec![value],
        cost,
    };
    let find = |candidates: &[Candidate], changes_max: usize| {
        let (model, row) = (model.clone(), &start[..]);
        let search = Search { model, row, candidates, class: 1, changes_max, passes_max: 500 };
        let (found, usage) = counterfactual(&search, &mut ThisThread::new(), &Control::new()).unwrap();
        (found.map(|f| (changed(&search, &f.candidates), f)), usage)
    };
    let far =
        [candidate(0, 1.5, 2.5), candidate(0, 2.0, 3.0), candidate(1, 0.5, 1.5), candidate(2, 4.0, 5.0)];
    let (found, usage) = find(&far, 3);
    let (row, found) = found.unwrap();
    assert_eq!((row, found.candidates, found.cost), (vec![1.5, -1.0, -1.0], vec![0], 2.5));
    assert!(found.probability > 0.5);
    assert_eq!(usage.forward_passes, 4, "single changes were enough");
    // No single change suffices.
    let near =
        [candidate(0, 0.0, 1.0), candidate(1, 0.0, 1.0), candidate(1, 2.5, 3.5), candidate(2, 1.0, 2.0)];
    let (found, _) = find(&near, 3);
    assert_eq!(found.unwrap().0, [0.0, 2.5, -1.0]);
    let (none, _) = find(&near, 1);
    assert!(none.is_none());
}
