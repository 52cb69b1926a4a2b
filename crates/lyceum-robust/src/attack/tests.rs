use super::*;
use lyceum_models::space::Norm;
use lyceum_models::space::{Domain, Layout};
use lyceum_models::{InputShape, Model, ModelShape, OutputShape};
use lyceum_types::control::Control;
use lyceum_types::spec::{ActivationSpec, MlpSpec, ModelSpec};
use rand::RngExt;

fn mlp(hidden: &[usize], inputs: usize, classes: usize, seed: u64) -> Model {
    let spec = MlpSpec { hidden: hidden.to_vec(), activation: ActivationSpec::Relu, dropout: 0.0 };
    let shape =
        ModelShape { input: InputShape::Features { n: inputs }, output: OutputShape::Classes { n: classes } };
    let mut model = Model::new(&ModelSpec::Mlp(spec), &shape, seed).unwrap();
    // Larger weights: answers that differ clearly between rows.
    for id in model.params.ids().collect::<Vec<_>>() {
        model.params.value_mut(id).iter_mut().for_each(|w| *w *= 3.0);
    }
    model
}

/// A model of pictures of 6 × 6 in five classes, and where it may be moved.
fn pictures() -> (Model, Domain) {
    let domain = Domain::boxed(Layout::Image { channels: 1, height: 6, width: 6 }, 0.0, 1.0);
    (mlp(&[16], 36, 5, 1), domain)
}

fn rows(n: usize, width: usize) -> Vec<f32> {
    let mut rng = crate::generator(5, 0);
    (0..n * width).map(|_| rng.random::<f32>()).collect()
}

fn all_attacks() -> Vec<Attack> {
    vec![
        Attack::Fgsm,
        Attack::Pgd { steps: 10, restarts: 2, step: None, loss: PgdLoss::CrossEntropy },
        Attack::Pgd { steps: 5, restarts: 1, step: None, loss: PgdLoss::Targeted },
        Attack::ApgdCe { steps: 20, restarts: 1 },
        Attack::ApgdT { steps: 20, restarts: 1, targets: 3 },
        Attack::Fab { steps: 10, restarts: 2, targets: 2 },
        Attack::Square { queries: 60, restarts: 1 },
    ]
}

#[test]
fn what_is_found_fools_the_model_and_keeps_to_the_threat() {
    let (model, domain) = pictures();
    let mut movable = vec![true; 36];
    movable[7] = false;
    let domain = domain.only(&movable).unwrap();
    let control = Control::new();
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let u = rows(24, 36);
    let labels = victim.answers(&u).unwrap();
    for norm in [Norm::Linf, Norm::L2] {
        let eps = if norm == Norm::Linf { 0.15 } else { 0.8 };
        let threat = Threat::new(norm, eps).unwrap();
        for which in all_attacks() {
            let out = attack(&mut victim, Rows { u: &u, labels: &labels }, None, threat, which, 3).unwrap();
            let n_fooled = out.robust.iter().filter(|r| !**r).count();
            assert!(n_fooled > 0 && out.spent.forward_rows > 0, "{} fools nothing", which.name());
            let answers = victim.answers(&out.adversarial).unwrap();
            for i in 0..24 {
                assert_eq!(answers[i] != labels[i], !out.robust[i], "{}", which.name());
                let (z, u) = (&out.adversarial[i * 36..][..36], &u[i * 36..][..36]);
                let distance = norm.of(z.iter().zip(u).map(|(z, u)| z - u));
                assert!(distance <= eps * (1.0 + 1e-5), "{}: {distance}", which.name());
                assert!(z.iter().all(|z| (0.0..=1.0).contains(z)) && z[7] == u[7], "{}", which.name());
            }
        }
    }
}

#[test]
fn a_row_has_the_same_result_alone_and_among_others() {
    let (model, domain) = pictures();
    let control = Control::new();
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let u = rows(12, 36);
    let labels = victim.answers(&u).unwrap();
    let threat = Threat::new(Norm::Linf, 0.1).unwrap();
    for which in all_attacks() {
        let all = attack(&mut victim, Rows { u: &u, labels: &labels }, None, threat, which, 3).unwrap();
        let part = Rows { u: &u[..4 * 36], labels: &labels[..4] };
        let few = attack(&mut victim, part, None, threat, which, 3).unwrap();
        assert_eq!(few.robust, all.robust[..4], "{}", which.name());
        assert_eq!(few.adversarial, all.adversarial[..4 * 36], "{}", which.name());
    }
}

#[test]
fn a_hidden_gradient_raises_the_flags_and_square_sees_through() {
    // Logits a million times as large answer the same, and their cross-entropy has no gradient left.
    let (mut model, domain) = pictures();
    let control = Control::new();
    let u = rows(24, 36);
    let labels = Victim::new(&model, &domain, &control).unwrap().answers(&u).unwrap();
    let threat = Threat::new(Norm::Linf, 0.15).unwrap();
    let suite = [(threat, Attack::Fgsm), (threat, Attack::Square { queries: 100, restarts: 1 })];
    let state = |e: &Evaluation, name: &str| e.flags.iter().find(|f| f.name == name).unwrap().state;
    let run = |model: &Model| {
        let mut victim = Victim::new(model, &domain, &control).unwrap();
        evaluate(&mut victim, Rows { u: &u, labels: &labels }, &suite, Schedule::Each, 1).unwrap()
    };
    let honest = run(&model);
    assert!(honest.flags.iter().all(|f| f.state == FlagState::Clear), "{:?}", honest.flags);
    for name in ["output.weight", "output.bias"] {
        let id = model.params.find(name).unwrap();
        model.params.value_mut(id).iter_mut().for_each(|w| *w *= 1e6);
    }
    let masked = run(&model);
    assert_eq!(masked.entries[0].accuracy.value, 1.0, "the gradient is gone");
    assert_eq!(state(&masked, "zero_gradients"), FlagState::Raised);
    assert_eq!(state(&masked, "square_beats_gradients"), FlagState::Raised);
    assert_eq!(state(&masked, "randomized"), FlagState::Clear);
    assert_eq!(masked.worst[0].1.value, masked.entries[1].accuracy.value);
}

#[test]
fn a_cascade_only_attacks_what_is_left_and_ends_at_the_same_rows() {
    let (model, domain) = pictures();
    let control = Control::new();
    let u = rows(24, 36);
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let labels = victim.answers(&u).unwrap();
    let threat = Threat::new(Norm::Linf, 0.1).unwrap();
    let suite: Vec<_> = all_attacks().into_iter().map(|a| (threat, a)).collect();
    let rows = Rows { u: &u, labels: &labels };
    let each = evaluate(&mut victim, rows, &suite, Schedule::Each, 1).unwrap();
    let cascade = evaluate(&mut victim, rows, &suite, Schedule::Cascade, 1).unwrap();
    assert_eq!(each.worst, cascade.worst);
    assert_eq!(cascade.entries.last().unwrap().accuracy, cascade.worst[0].1);
    let spent = |e: &Evaluation| e.entries.iter().map(|e| e.spent.forward_rows).sum::<u64>();
    assert!(spent(&cascade) < spent(&each));
    assert_eq!(each.failures.len(), 24 - (each.worst[0].1.value * 24.0).round() as usize);
}

#[test]
fn what_cannot_be_attacked_is_refused_with_the_reason() {
    let control = Control::new();
    let domain = Domain::boxed(Layout::Features { n: 4 }, 0.0, 1.0);
    let threat = Threat::new(Norm::L2, 0.1).unwrap();
    let model = mlp(&[], 4, 3, 1);
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let (u, labels) = (rows(2, 4), [0, 1]);
    let mut refused = |which: Attack, want: &str| {
        let error = attack(&mut victim, Rows { u: &u, labels: &labels }, None, threat, which, 0).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    };
    refused(Attack::ApgdT { steps: 1, restarts: 1, targets: 1 }, "needs four classes and the model has 3");
    refused(Attack::Square { queries: 1, restarts: 1 }, "pictures of at least 5 by 5");
    refused(Attack::Pgd { steps: 0, restarts: 1, step: None, loss: PgdLoss::Targeted }, "begin at 1");
    assert!(Threat::new(Norm::L2, 0.0).is_err() && Threat::new(Norm::L2, f64::NAN).is_err());
    let rows = Rows { u: &[0.5; 4], labels: &[3] };
    assert!(attack(&mut victim, rows, None, threat, Attack::Fgsm, 0).is_err());
    let cancelled = Control::new();
    cancelled.cancel();
    let mut victim = Victim::new(&model, &domain, &cancelled).unwrap();
    assert!(victim.answers(&u).is_err());
}

#[test]
fn no_attack_takes_more_rows_than_is_said_before_it_begins() {
    let (model, domain) = pictures();
    let control = Control::new();
    let mut victim = Victim::new(&model, &domain, &control).unwrap();
    let u = rows(12, 36);
    let labels = victim.answers(&u).unwrap();
    let all = all_attacks();
    for eps in [1e-6, 0.15] {
        let threat = Threat::new(Norm::Linf, eps).unwrap();
        for which in &all {
            let before = victim.spent();
            evaluate(&mut victim, Rows { u: &u, labels: &labels }, &[(threat, *which)], Schedule::Each, 3)
                .unwrap();
            let spent = victim.spent() - before;
            let (spent, most) = (spent.forward_rows + spent.backward_rows, rows_most(&[*which], 12, 5));
            assert!(spent <= most, "{}: {spent} of {most}", which.name());
            if eps < 0.1 && matches!(which, Attack::Pgd { .. }) {
                assert_eq!(spent, most, "{}: no row falls", which.name());
            }
        }
        let suite: Vec<_> = all.iter().map(|which| (threat, *which)).collect();
        let before = control.spent();
        evaluate(&mut victim, Rows { u: &u, labels: &labels }, &suite, Schedule::Cascade, 3).unwrap();
        assert!(control.spent() - before <= rows_most(&all, 12, 5));
    }
}
