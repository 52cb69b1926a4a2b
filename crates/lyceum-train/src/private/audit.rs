//! The audit has teeth: what it proves from one run stays below the claim when the step keeps its promise, and
//! passes it when the noise is halved, when clipping is off, and when examples count twice. And membership
//! attacks find a model that learnt its rows by heart, and not a private one.
//!
//! Canaries are single tokens, each with its own row of an embedding table that carries nearly all of its
//! gradient: an attacker who sees the table sees each canary's share of the sum by itself, which is the worst
//! case that the accountant has in mind.

use super::{Mechanism, Noise};
use crate::data::Dataset;
use crate::data::dataset::{Examples, Ragged, Targets};
use crate::order::generator;
use crate::run::Run;
use lyceum_kernels::elementwise::sum;
use lyceum_models::batch::{Batch, Target};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_nn::{Examples as Rows, Recording, Tape, Workspace};
use lyceum_privacy::{Accountant, Event, audit, epsilon, membership};
use lyceum_types::spec::Spec;
use rand::RngExt;

const CANARIES: usize = 60_000;
const SIGMA: f64 = 3.3;
const DELTA: f64 = 1e-5;

fn spec(model: &str, train: &str) -> Spec {
    let text = format!(
        "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"x.csv\"\ntarget = \"y\"\n[model]\n{model}\n\
         [train]\nprecision = \"f32\"\n{train}"
    );
    Spec::from_toml(&text, "audit").unwrap_or_else(|errors| panic!("{errors}"))
}

/// What the audit proves of one step under this mechanism, in which every included canary counts `times` times.
fn proved(seed: u64, mechanism: &Mechanism, times: usize) -> f64 {
    let spec = spec(
        "family = \"rnn\"\nhidden_size = 1\nembedding_dim = 1",
        "steps = 1\nbatch_size = 4096\noptimizer = { name = \"sgd\", lr = 1.0 }",
    );
    let shape = ModelShape {
        input: InputShape::Tokens { vocabulary: CANARIES, time: 1 },
        output: OutputShape::Classes { n: 2 },
    };
    let mut model = Model::new(&spec.model, &shape, 1).unwrap();
    for id in model.params.ids().collect::<Vec<_>>() {
        let value: &[f32] = match model.params.name(id) {
            "rnn.weight_ih_l0" => &[30.0],
            "output.weight" => &[30.0, -30.0],
            _ => &[0.0],
        };
        let n = model.params.value(id).len();
        let filled: Vec<f32> = (0..n).map(|i| value[i % value.len()]).collect();
        model.params.value_mut(id).copy_from_slice(&filled);
    }
    let mut ids = Ragged::new();
    (0..CANARIES as u32).for_each(|i| ids.push(&[i]));
    let data = Dataset {
        examples: Examples::Tokens(ids),
        targets: Targets::Classes(vec![0; CANARIES]),
        row_ids: Vec::new(),
        texts: None,
        n_truncated: Vec::new(),
    };
    let mut coins = generator(seed, 77);
    let included: Vec<bool> = (0..CANARIES).map(|_| coins.random()).collect();
    let rows: Vec<usize> =
        (0..CANARIES).filter(|&i| included[i]).flat_map(|i| std::iter::repeat_n(i, times)).collect();
    let mut run = Run::new(&spec.train, 1, model, &data);
    run.noisy_step(&data, 0, mechanism, &Noise::insecure(seed), &rows).unwrap();
    let table = run.model.params.find("embedding.weight").unwrap();
    // Class 0's logit rises with the embedding: an included canary's row went up.
    let scores: Vec<f64> = run.model.params.value(table).iter().map(|&x| f64::from(x)).collect();
    audit::best_lower_bound(&scores, &included, DELTA, 0.95).unwrap().epsilon
}

fn honest() -> Mechanism {
    Mechanism { q: 1.0, clip: 1.0, noise: SIGMA, expected_batch: 1000.0, loss_scale: 1.0 }
}

fn claimed() -> f64 {
    epsilon(&[Event::new(1.0, SIGMA, 1).unwrap()], DELTA, Accountant::Pld).unwrap().epsilon
}

#[test]
fn an_honest_step_is_never_proved_to_cost_more_than_it_claims() {
    let claimed = claimed();
    let proved: Vec<f64> = (0..20).map(|seed| proved(seed, &honest(), 1)).collect();
    assert!(proved.iter().all(|p| *p <= claimed), "{proved:?} above {claimed}");
    // It is not blind either.
    assert!(proved.iter().sum::<f64>() > 20.0 * 0.2 * claimed, "{proved:?}, claimed {claimed}");
}

#[test]
fn a_step_that_breaks_its_promise_is_found_out() {
    let claimed = claimed();
    let broken = [
        ("half the noise", Mechanism { noise: SIGMA / 2.0, ..honest() }, 1),
        ("no clipping", Mechanism { clip: f64::INFINITY, ..honest() }, 1),
        ("every example clipped and added twice", honest(), 2),
    ];
    for (what, mechanism, times) in broken {
        let proved = proved(3, &mechanism, times);
        assert!(proved > claimed, "{what}: ε ≥ {proved:.3} proves nothing against the claim {claimed:.3}");
    }
}

/// Random rows with random classes: there is nothing to learn but the rows themselves.
fn random_rows(n: usize, seed: u64) -> Dataset {
    let mut rng = generator(seed, 5);
    let data = (0..n * 20).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    let classes = (0..n).map(|_| rng.random_range(0..2u32)).collect();
    Dataset {
        examples: Examples::Dense { shape: vec![20], data },
        targets: Targets::Classes(classes),
        row_ids: Vec::new(),
        texts: None,
        n_truncated: Vec::new(),
    }
}

/// Minus the loss of each row.
fn scores(model: &Model, data: &Dataset) -> Vec<f64> {
    let mut batch: Batch = data.new_batch();
    data.fill(&(0..data.len()).collect::<Vec<_>>(), &mut batch);
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Rows::Even(batch.n));
    let logits = model.forward(&mut tape, &batch.input).unwrap().logits;
    let Target::Classes(classes) = &batch.target else { unreachable!("classes were given") };
    let rows = tape.value(logits).chunks_exact(2).zip(classes);
    rows.map(|(z, &c)| f64::from(z[c as usize]) - f64::from(sum(&[z[0].exp(), z[1].exp()])).ln()).collect()
}

#[test]
fn membership_is_seen_in_a_model_that_learnt_by_heart_and_not_in_a_private_one() {
    const N: usize = 400;
    let (members, others) = (random_rows(N, 1), random_rows(N, 2));
    let auc = |model: &Model| {
        let attack = membership::attack(&scores(model, &members), &scores(model, &others), &[0.01]).unwrap();
        attack.auc
    };
    let spec = spec(
        "family = \"mlp\"\nhidden = [64]",
        "steps = 400\nbatch_size = 100\noptimizer = { name = \"adam\", lr = 0.005 }",
    );
    let shape = ModelShape { input: InputShape::Features { n: 20 }, output: OutputShape::Classes { n: 2 } };
    let fresh = || Run::new(&spec.train, 1, Model::new(&spec.model, &shape, 1).unwrap(), &members);
    let mut plain = fresh();
    let mut private = fresh();
    let mechanism = Mechanism { q: 0.25, clip: 1.0, noise: 10.0, expected_batch: 100.0, loss_scale: 1.0 };
    for step in 0..400 {
        plain.step(&members, step).unwrap();
        private.private_step(&members, step, &mechanism, &Noise::insecure(4)).unwrap();
    }
    let (by_heart, quiet) = (auc(&plain.model), auc(&private.model));
    assert!(by_heart.value >= 0.65 && by_heart.ci95[0] > 0.6, "{by_heart:?}");
    assert!((0.45..=0.55).contains(&quiet.value), "{quiet:?}");
}
