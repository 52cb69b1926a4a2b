//! Attacks and certificates on four networks trained in PyTorch, beside what AutoAttack (pyautoattack 0.2) and
//! ART 1.20 leave of the same weights on the same rows. `fixtures/scripts/robust.py` made the files.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::weights::read_safetensors;
use lyceum_robust::attack::{Attack, PgdLoss, Rows, attack};
use lyceum_robust::certify::interval::Bounds;
use lyceum_robust::certify::linear::LinearModel;
use lyceum_robust::certify::smooth::{Smoothing, certify, predict};
use lyceum_robust::{Domain, Layout, Norm, Threat, Victim};
use lyceum_types::control::Control;
use lyceum_types::spec::{ActivationSpec, CnnSpec, ConvSpec, MlpSpec, ModelSpec};
use serde_json::Value;
use std::path::Path;

const WIDTH: usize = 64;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every 5th row of the digits.
fn digits() -> (Vec<f32>, Vec<u32>) {
    let text = std::fs::read_to_string(root().join("crates/lyceum/starter/digits.csv")).unwrap();
    let mut lines = text.lines();
    let label = lines.next().unwrap().split(',').position(|name| name == "label").unwrap();
    let (mut u, mut labels) = (Vec::new(), Vec::new());
    for line in lines.step_by(5) {
        for (i, cell) in line.split(',').enumerate() {
            match i == label {
                true => labels.push(cell.parse().unwrap()),
                false => u.push(cell.parse::<f32>().unwrap() / 16.0),
            }
        }
    }
    (u, labels)
}

fn model(name: &str) -> Model {
    let mlp = |hidden: &[usize]| {
        ModelSpec::Mlp(MlpSpec { hidden: hidden.to_vec(), activation: ActivationSpec::Relu, dropout: 0.0 })
    };
    let conv = |channels| ConvSpec {
        channels,
        kernel: 3,
        stride: 1,
        padding: Some(1),
        dilation: 1,
        groups: 1,
        norm: None,
        pool: Some(2),
        residual: None,
    };
    let spec = match name {
        "linear" => mlp(&[]),
        "cnn" => ModelSpec::Cnn(CnnSpec {
            conv: vec![conv(8), conv(16)],
            global_pool: None,
            hidden: vec![32],
            activation: ActivationSpec::Relu,
            dropout: 0.0,
        }),
        _ => mlp(&[64]),
    };
    let shape =
        ModelShape { input: InputShape::Image { shape: [1, 8, 8] }, output: OutputShape::Classes { n: 10 } };
    let mut model = Model::new(&spec, &shape, 0).unwrap();
    let bytes = std::fs::read(root().join("fixtures/robust_models.safetensors")).unwrap();
    let tensors = read_safetensors(&bytes).unwrap();
    for id in model.params.ids().collect::<Vec<_>>() {
        let tensor = &tensors[&format!("{name}.{}", model.params.name(id))];
        model.params.set(id, &tensor.dims, tensor.data.clone()).unwrap();
    }
    model
}

fn domain() -> Domain {
    Domain::boxed(Layout::Image { channels: 1, height: 8, width: 8 }, 0.0, 1.0)
}

fn published() -> Value {
    let text = std::fs::read_to_string(root().join("fixtures/robust_attacks.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn accuracy(robust: &[bool]) -> f64 {
    robust.iter().filter(|r| **r).count() as f64 / robust.len() as f64
}

fn pgd(loss: PgdLoss) -> Attack {
    Attack::Pgd { steps: 40, restarts: 3, step: None, loss }
}

#[test]
fn attacks_are_at_least_as_strong_as_the_published_ones_on_the_same_weights() {
    let (u, labels) = digits();
    let (domain, control, published) = (domain(), Control::new(), published());
    assert_eq!(labels.len() as u64, published["n"].as_u64().unwrap());
    let row = 1.0 / labels.len() as f64;
    let cases = [
        ("linear", Norm::Linf, "0.1"),
        ("mlp", Norm::Linf, "0.1"),
        ("mlp", Norm::L2, "0.5"),
        ("mlp_adversarial", Norm::Linf, "0.1"),
        ("cnn", Norm::Linf, "0.1"),
    ];
    for (name, norm, eps) in cases {
        let model = model(name);
        let mut victim = Victim::new(&model, &domain, &control).unwrap();
        let threat = Threat::new(norm, eps.parse().unwrap()).unwrap();
        let theirs = &published["accuracy"][format!("{name}/{}/{eps}", norm.name())];
        // Rows that chance may leave: none for FGSM, few where starts are random, more for random search.
        let runs = [
            ("art_fgsm", Attack::Fgsm, 1.0),
            ("art_pgd", pgd(PgdLoss::CrossEntropy), 2.0),
            ("aa_apgd-ce", Attack::ApgdCe { steps: 100, restarts: 1 }, 3.0),
            ("aa_apgd-t", Attack::ApgdT { steps: 100, restarts: 1, targets: 9 }, 1.0),
            ("aa_fab-t", Attack::Fab { steps: 100, restarts: 1, targets: 9 }, 3.0),
            ("aa_square", Attack::Square { queries: 2000, restarts: 1 }, 9.0),
        ];
        for (key, which, rows) in runs {
            let rows_of = Rows { u: &u, labels: &labels };
            let ours = accuracy(&attack(&mut victim, rows_of, None, threat, which, 7).unwrap().robust);
            let theirs = theirs[key].as_f64().unwrap();
            eprintln!("{name} {} {eps} {key}: ours {ours:.4}, theirs {theirs:.4}", norm.name());
            assert!(ours <= theirs + rows * row + 1e-6, "{name} {eps} {key}: {ours} against {theirs}");
        }
    }
}

#[test]
fn attacks_on_a_linear_model_reach_its_exact_robust_accuracy() {
    let (u, labels) = digits();
    let (model, domain, control) = (model("linear"), domain(), Control::new());
    let linear = LinearModel::of(&model, &domain).unwrap();
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let answers = victim.answers(&u).unwrap();
    for (norm, levels) in [(Norm::Linf, [0.05, 0.1, 0.2]), (Norm::L2, [0.25, 0.5, 1.0])] {
        for eps in levels {
            let exact: Vec<bool> = (0..labels.len())
                .map(|i| {
                    let radius = linear.radius(norm, &u[i * WIDTH..(i + 1) * WIDTH]);
                    assert_eq!(radius.class, answers[i]);
                    radius.class == labels[i] && radius.radius > eps
                })
                .collect();
            let threat = Threat::new(norm, eps).unwrap();
            let rows = Rows { u: &u, labels: &labels };
            // On a sphere short steps turn slowly towards the best direction; steps of eps reach it.
            let step = (norm == Norm::L2).then_some(1.0);
            let which = Attack::Pgd { steps: 40, restarts: 1, step, loss: PgdLoss::Targeted };
            let left = attack(&mut victim, rows, None, threat, which, 1).unwrap().robust;
            // A row whose radius is eps but for rounding may fall to either side.
            let n_differ = exact.iter().zip(&left).filter(|(a, b)| a != b).count();
            assert!(
                n_differ <= 1,
                "{norm:?} {eps}: {n_differ} rows; {} {}",
                accuracy(&exact),
                accuracy(&left)
            );
            let fab = Attack::Fab { steps: 100, restarts: 1, targets: 9 };
            let left = attack(&mut victim, rows, None, threat, fab, 1).unwrap().robust;
            assert!(exact.iter().zip(&left).all(|(exact, left)| !exact | left), "no attack beats the proof");
        }
    }
}

#[test]
fn no_attack_changes_a_row_that_interval_bounds_have_proved() {
    let (u, labels) = digits();
    let (domain, control) = (domain(), Control::new());
    for (name, eps, proved_min) in [("linear", 0.05, 200), ("mlp_adversarial", 0.03, 30), ("cnn", 0.002, 30)]
    {
        let model = model(name);
        let mut victim = Victim::new(&model, &domain, &control).unwrap();
        let mut bounds = Bounds::of(&model, &domain).unwrap();
        let proved: Vec<bool> = bounds.margins(&u, &labels, eps).unwrap().iter().map(|m| *m > 0.0).collect();
        let n_proved = proved.iter().filter(|p| **p).count();
        eprintln!("{name} {eps}: {n_proved} of {} proved", labels.len());
        assert!(n_proved >= proved_min, "{name}: {n_proved}");
        let threat = Threat::new(Norm::Linf, eps).unwrap();
        let rows = Rows { u: &u, labels: &labels };
        for which in [pgd(PgdLoss::Targeted), Attack::ApgdT { steps: 50, restarts: 1, targets: 9 }] {
            let left = attack(&mut victim, rows, None, threat, which, 2).unwrap().robust;
            assert!(proved.iter().zip(&left).all(|(proved, left)| !proved | left), "{name}");
        }
        let few = 4 * WIDTH;
        let radii = bounds.radii(&u[..few], &labels[..4], 0.5).unwrap();
        for (i, &radius) in radii.iter().enumerate() {
            let row = &u[i * WIDTH..(i + 1) * WIDTH];
            let at = |bounds: &mut Bounds<'_>, eps| bounds.margins(row, &labels[i..=i], eps).unwrap()[0];
            assert!(radius == 0.0 || at(&mut bounds, radius) > 0.0);
            assert!(at(&mut bounds, radius + 1e-3) <= 0.0, "{name}: {radius}");
        }
    }
}

#[test]
fn interval_bounds_of_a_linear_model_are_its_exact_margin() {
    let (u, labels) = digits();
    let (model, domain) = (model("linear"), domain());
    let linear = LinearModel::of(&model, &domain).unwrap();
    let mut bounds = Bounds::of(&model, &domain).unwrap();
    for i in 0..20 {
        let row = &u[i * WIDTH..(i + 1) * WIDTH];
        let exact = linear.radius(Norm::Linf, row);
        if exact.class != labels[i] {
            continue;
        }
        let found = bounds.radii(row, &labels[i..=i], 0.5).unwrap()[0];
        assert!(found <= exact.radius && found > exact.radius - 1e-3, "{found} {exact:?}");
    }
}

#[test]
fn smoothing_certifies_no_more_than_the_truth_and_nearly_all_of_it() {
    // The smoothed classifier of a linear one with two strong classes is itself: its true radius is exact.
    let (u, labels) = digits();
    let (model, domain, control) = (model("linear"), domain(), Control::new());
    let free =
        Domain::boxed(Layout::Image { channels: 1, height: 8, width: 8 }, f32::NEG_INFINITY, f32::INFINITY);
    let linear = LinearModel::of(&model, &free).unwrap();
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let smoothing = Smoothing::new(0.25, 100, 4000, 0.001).unwrap();
    let (mut n_certified, mut share) = (0, 0.0);
    for i in 0..12 {
        let row = &u[i * WIDTH..(i + 1) * WIDTH];
        let found = certify(&mut victim, row, smoothing, 9, i as u64).unwrap();
        assert_eq!(found, certify(&mut victim, row, smoothing, 9, i as u64).unwrap(), "a seed repeats it");
        let Some(class) = found.class else { continue };
        let exact = linear.radius(Norm::L2, row);
        assert_eq!(class, exact.class, "of label {}", labels[i]);
        assert!(found.radius <= exact.radius + 0.02, "row {i}: {} {}", found.radius, exact.radius);
        n_certified += 1;
        // Beyond σ Φ⁻¹(α^(1/n)) no sampling of this size certifies anything.
        share += found.radius / exact.radius.min(0.74) / 12.0;
        assert_eq!(predict(&mut victim, row, smoothing, 9, i as u64).unwrap(), Some(class));
    }
    assert!(n_certified >= 10 && share > 0.7, "{n_certified} {share}");
}
