use super::*;
use crate::data::{self, Loaded};
use crate::run::Run;
use lyceum_types::control::Control;
use lyceum_types::spec::Spec;
use std::path::Path;

fn spec(robust: &str, steps: usize) -> Spec {
    let text = format!(
        "name = \"digits\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"digits.csv\"\ntarget = \"label\"\n\
         valid_fraction = 0.2\ninput = {{ type = \"image\", shape = [1, 8, 8], scale = 16.0 }}\n\
         [model]\nfamily = \"mlp\"\nhidden = [32]\n[train]\nsteps = {steps}\nbatch_size = 64\nprecision = \"f32\"\n\
         optimizer = {{ name = \"adam\", lr = 5e-3 }}\n{robust}"
    );
    Spec::from_toml(&text, "spec.toml").unwrap()
}

fn load(spec: &Spec) -> Loaded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum/starter");
    data::load(spec, &folder, &Control::new()).unwrap()
}

fn plan(spec: &Spec, loaded: &Loaded) -> Option<Robust> {
    Robust::plan(&spec.train, &loaded.preparation, Some(&loaded.features), &loaded.train).unwrap()
}

fn run(spec: &Spec, loaded: &Loaded) -> Run {
    let model = Model::new(&spec.model, &loaded.preparation.shape(), spec.seed).unwrap();
    Run::new(&spec.train, spec.seed, model, &loaded.train).with_robust(plan(spec, loaded))
}

/// Clean accuracy, and accuracy under 20 steps of PGD at 0.1, of the validation rows.
fn accuracies(model: &Model, loaded: &Loaded) -> [f64; 2] {
    let attack = spec("robust = { method = \"adversarial\", eps = 0.1, steps = 20 }", 1);
    let mut robust = plan(&attack, loaded).unwrap();
    let valid = loaded.valid.as_ref().unwrap();
    let mut batch = valid.new_batch();
    valid.fill(&(0..valid.len()).collect::<Vec<_>>(), &mut batch);
    let accuracy = |batch: &Batch| {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(batch.n));
        let forward = model.forward(&mut tape, &batch.input).unwrap();
        let answers = tape.value(forward.logits).chunks(10).map(lyceum_models::answer::likeliest);
        let right = answers.zip(labels(&batch.target)).filter(|(a, l)| *a as i32 == **l).count();
        right as f64 / batch.n as f64
    };
    let clean = accuracy(&batch);
    robust.change(model, &mut batch, Precision::F32, 1, 0).unwrap();
    [clean, accuracy(&batch)]
}

fn trained(robust: &str) -> [f64; 2] {
    let spec = spec(robust, 350);
    let loaded = load(&spec);
    let mut run = run(&spec, &loaded);
    for step in 0..run.total_steps() {
        run.step(&loaded.train, step).unwrap();
    }
    accuracies(&run.model, &loaded)
}

#[test]
fn training_on_attacks_buys_accuracy_under_attack() {
    let [natural, natural_attacked] = trained("");
    assert!(natural > 0.93 && natural_attacked < 0.6, "{natural} {natural_attacked}");
    let [clean, attacked] = trained("robust = { method = \"adversarial\", eps = 0.1, steps = 5 }");
    assert!(clean > 0.9 && attacked > natural_attacked + 0.15, "adversarial: {clean} {attacked}");
    let [clean, attacked] = trained("robust = { method = \"trades\", eps = 0.1, steps = 5, beta = 6.0 }");
    assert!(clean > 0.9 && attacked > natural_attacked + 0.15, "trades: {clean} {attacked}");
    let [clean, attacked] = trained("robust = { method = \"noise\", std = 0.15 }");
    assert!(clean > 0.9 && attacked > natural_attacked, "noise: {clean} {attacked}");
}

#[test]
fn a_run_that_goes_on_from_its_weights_and_moments_ends_in_the_same_bytes() {
    for robust in [
        "robust = { method = \"adversarial\", eps = 0.1, steps = 2 }",
        "robust = { method = \"trades\", eps = 0.5, steps = 2, norm = \"l2\" }",
        "robust = { method = \"noise\", std = 0.2 }",
    ] {
        let spec = spec(robust, 6);
        let loaded = load(&spec);
        let mut whole = run(&spec, &loaded);
        for step in 0..3 {
            whole.step(&loaded.train, step).unwrap();
        }
        let mut resumed = run(&spec, &loaded);
        resumed.model = whole.model.clone();
        resumed.optimizer = whole.optimizer.clone();
        for step in 3..6 {
            whole.step(&loaded.train, step).unwrap();
            resumed.step(&loaded.train, step).unwrap();
        }
        for id in whole.model.params.ids() {
            assert_eq!(whole.model.params.value(id), resumed.model.params.value(id), "{robust}");
        }
    }
}

#[test]
fn the_gradient_of_trades_agrees_with_finite_differences() {
    let spec = spec("robust = { method = \"trades\", eps = 0.1, steps = 2 }", 1);
    let loaded = load(&spec);
    let mut model = Model::new(&spec.model, &loaded.preparation.shape(), 5).unwrap();
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[0, 1, 2, 3, 4], &mut batch);
    plan(&spec, &loaded).unwrap().change(&model, &mut batch, Precision::F32, 1, 0).unwrap();
    let loss = |model: &Model, grads: &mut Grads| {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Weights, Examples::Even(2 * batch.n));
        trades_backward(&mut tape, model, &batch, 4.0, 0.2, grads).unwrap()
    };
    let mut grads = Grads::new(&model.params);
    loss(&model, &mut grads);
    grads.finish();
    let id = model.params.find("output.weight").unwrap();
    for e in [3, 40, 170, 301] {
        let mut at = |h: f32| {
            model.params.value_mut(id)[e] += h;
            let found = loss(&model, &mut Grads::new(&model.params));
            model.params.value_mut(id)[e] -= h;
            found
        };
        let numeric = (at(5e-3) - at(-5e-3)) / 1e-2;
        let found = f64::from(grads.value(id)[e]);
        assert!((found - numeric).abs() < 2e-3 * (1.0 + numeric.abs()), "{e}: {found} {numeric}");
    }
}

#[test]
fn rows_outside_their_bounds_and_texts_are_refused_with_the_reason() {
    let text = "robust = { method = \"noise\", std = 1.0 }";
    let mut wrong = spec(text, 1);
    if let Some(lyceum_types::spec::InputSpec::Image { scale, .. }) = &mut wrong.data.input {
        *scale = Some(1.0);
    }
    let loaded = load(&wrong);
    let found = Robust::plan(&wrong.train, &loaded.preparation, Some(&loaded.features), &loaded.train);
    let Err(error) = found else { panic!("pixels of 16 are not in 0..=1") };
    assert!(error.to_string().contains("outside 0 to 1"), "{error}");
}
