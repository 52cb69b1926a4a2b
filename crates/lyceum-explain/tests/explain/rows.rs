//! Influence of training rows, and changes of a row that change its class.

use crate::cases::fresh;
use lyceum_explain::counterfactual::{Candidate, Search, changed, counterfactual};
use lyceum_explain::influence::{Checkpoint, gradient, influence, self_influence};
use lyceum_explain::{ExplainError, ThisThread};
use lyceum_models::batch::{Batch, Input, Target};
use lyceum_models::{InputShape, Model, OutputShape};
use lyceum_nn::{ParamKind, Workspace};
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
fn influences_are_those_of_captum_over_the_same_checkpoints() {
    let f: serde_json::Value =
        serde_json::from_str(include_str!("../../../../fixtures/tracin.json")).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<f32> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let spec = json!({ "family": "mlp", "hidden": [5] });
    let models: Vec<Model> = (0..3)
        .map(|i| {
            let case = fresh(&spec, InputShape::Features { n: 4 }, OutputShape::Classes { n: 3 }, 1);
            let mut model = (*case.model).clone();
            for (name, values) in f["checkpoints"][i].as_object().unwrap() {
                let id = model.params.find(name).unwrap();
                model.params.value_mut(id).copy_from_slice(&numbers(values));
            }
            model
        })
        .collect();
    let lr = |i: usize| f["rates"][i].as_f64().unwrap();
    let checkpoints: Vec<Checkpoint<'_>> =
        models.iter().enumerate().map(|(i, model)| Checkpoint { model, lr: lr(i) }).collect();
    let batches = |x: &str, y: &str, n: usize| -> Vec<Batch> {
        let classes: Vec<i32> = f[y].as_array().unwrap().iter().map(|c| c.as_i64().unwrap() as i32).collect();
        let rows = numbers(&f[x]);
        let of = |(x, y): (&[f32], &[i32])| Batch {
            n: y.len(),
            input: Input::Dense { shape: vec![4], data: x.to_vec() },
            target: Target::Classes(y.to_vec()),
        };
        rows.chunks(4 * n).zip(classes.chunks(n)).map(of).collect()
    };
    let (rows, asked) = (batches("x", "y", 1), batches("asked_x", "asked_y", 1));
    let (mut ws, control) = (Workspace::new(), Control::new());
    let agree = |found: Vec<f64>, want: &serde_json::Value| {
        let want = numbers(want);
        assert_eq!(found.len(), want.len());
        for (found, want) in found.iter().zip(want) {
            assert!((found - f64::from(want)).abs() < 1e-5 * (1.0 + found.abs()), "{found} {want}");
        }
    };
    for (i, example) in asked.iter().enumerate() {
        agree(influence(&checkpoints, example, &rows, &mut ws, &control).unwrap(), &f["influence"][i]);
    }
    // In batches of three as one by one.
    for n in [1, 3] {
        let rows = batches("x", "y", n);
        agree(self_influence(&checkpoints, &rows, &mut ws, &control).unwrap(), &f["self_influence"]);
    }
}

/// The digits of the starter, 500 rows, one in twenty with another label: `(batch of one, flipped)`.
fn digits() -> Vec<(Batch, bool)> {
    let text = include_str!("../../../lyceum/starter/digits.csv");
    let row = |(i, line): (usize, &str)| {
        let mut cells: Vec<f32> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        let label = cells.pop().unwrap() as i32;
        let flipped = i % 20 == 7;
        let class = if flipped { (label + 1 + (i as i32 / 20) % 9) % 10 } else { label };
        let data = cells.iter().map(|x| x / 16.0).collect();
        let input = Input::Dense { shape: vec![64], data };
        (Batch { n: 1, input, target: Target::Classes(vec![class]) }, flipped)
    };
    text.lines().skip(1).take(500).enumerate().map(row).collect()
}

#[test]
fn rows_with_a_wrong_label_influence_themselves_most() {
    let digits = digits();
    let case = fresh(
        &json!({ "family": "mlp", "hidden": [32] }),
        InputShape::Features { n: 64 },
        OutputShape::Classes { n: 10 },
        1,
    );
    let (mut model, mut ws) = ((*case.model).clone(), Workspace::new());
    let (lr, mut kept) = (0.05, Vec::new());
    for epoch in 0..12 {
        for (row, _) in &digits {
            let grads = gradient(&model, row, &mut ws).unwrap();
            for id in model.params.ids().collect::<Vec<_>>() {
                if model.params.kind(id) == ParamKind::Weight {
                    let pairs = model.params.value_mut(id).iter_mut().zip(grads.value(id));
                    pairs.for_each(|(w, g)| *w -= lr as f32 * g);
                }
            }
        }
        if epoch % 3 == 2 {
            kept.push(model.clone());
        }
    }
    let checkpoints: Vec<Checkpoint<'_>> = kept.iter().map(|model| Checkpoint { model, lr }).collect();
    let rows: Vec<Batch> = digits.iter().map(|(row, _)| row.clone()).collect();
    let own = self_influence(&checkpoints, &rows, &mut ws, &Control::new()).unwrap();
    let mut order: Vec<usize> = (0..own.len()).collect();
    order.sort_by(|&a, &b| own[b].total_cmp(&own[a]));
    let n_flipped = digits.iter().filter(|(_, flipped)| *flipped).count();
    let among = |n: usize| order[..n].iter().filter(|&&i| digits[i].1).count();
    // Chance would find one or two of the 25 among the first 25; 11 are there.
    assert_eq!(n_flipped, 25);
    assert!(among(25) >= 8, "{} of 25 among the first 25", among(25));
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
