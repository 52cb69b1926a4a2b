//! What explanations promise: they add up where the method says so, come from the model and from the input,
//! repeat for a seed, stay within their passes, and say when they are not faithful.

use crate::cases::{Case, families, fresh};
use lyceum_explain::{
    Baseline, Check, Device, ExplainError, Groups, Method, Pass, PassResult, Quantity, Request, Steps,
    ThisThread, attention, attribute,
};
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::{InputShape, Model, OutputShape};
use lyceum_nn::{Examples, ParamKind, Recording, Tape, Workspace};
use lyceum_types::control::{Control, Stop};
use serde_json::json;

fn values(case: &Case, method: Method, baseline: Baseline) -> Vec<f64> {
    case.explain(method, baseline).unwrap().attributions.iter().map(|a| a.value).collect()
}

#[test]
fn complete_methods_add_up_for_every_family() {
    let mut n = 0;
    for (family, case) in families() {
        let complete = [
            Method::IntegratedGradients { n_steps: Steps::Refined },
            Method::Relevance { epsilon: 1e-7 },
            Method::Shapley,
            Method::ShapleySampling { n_permutations: 4 },
            Method::KernelShap { n_samples: 40 },
            Method::LinearShap,
        ];
        for method in complete {
            let e = match case.explain(method, Baseline::Zeros) {
                Err(ExplainError::Unsupported { .. }) => continue,
                e => e.unwrap(),
            };
            let gap = e.checks.completeness_gap.unwrap();
            let size = (e.output - e.base_value.unwrap()).abs().max(1.0);
            assert!(gap <= 1e-3 * size, "{} of {family}: gap {gap} of {size}", e.method);
            assert_eq!(e.checks.complete, Some(true));
            n += 1;
        }
    }
    assert!(n > 60, "{n}");
}

#[test]
fn conductance_adds_up_where_all_flows_through_the_layer() {
    for (family, layer) in [
        ("mlp", "hidden.0"),
        ("mlp", "hidden.1"),
        ("cnn", "hidden.0"),
        ("encoder", "encoder.layers.0"),
        ("decoder", "decoder.layers.1"),
        ("rnn", "rnn.0"),
        ("lstm_language", "rnn.0"),
    ] {
        let (_, case) = families().into_iter().find(|(name, _)| *name == family).unwrap();
        let method = Method::Conductance { layer: layer.into(), n_steps: 1000 };
        let e = case.explain(method, Baseline::Zeros).unwrap();
        assert_eq!(e.checks.complete, Some(true), "{family} {layer}: {:?} of {}", e.checks, e.output);
    }
}

/// Spearman's rank correlation.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |x: &[f64]| {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&i, &j| x[i].total_cmp(&x[j]));
        let mut ranks = vec![0.0; x.len()];
        order.into_iter().enumerate().for_each(|(rank, i)| ranks[i] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() - 1) as f64 / 2.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

#[test]
fn other_weights_destroy_attributions() {
    let spec = json!({ "family": "cnn", "conv": [{ "channels": 6, "kernel": 3, "padding": 1 }], "hidden": [8],
        "activation": "relu" });
    let new =
        |seed| fresh(&spec, InputShape::Image { shape: [2, 8, 8] }, OutputShape::Classes { n: 3 }, seed);
    let mut case = new(3);
    case.groups = Groups::each(128).unwrap();
    for method in [
        Method::GradientInput,
        Method::IntegratedGradients { n_steps: Steps::Fixed(10) },
        Method::Relevance { epsilon: 1e-6 },
        Method::Ablation,
        Method::ShapleySampling { n_permutations: 4 },
    ] {
        let own = values(&case, method.clone(), Baseline::Zeros);
        let correlation = |seed: u64| {
            let other = case.with_model((*new(seed).model).clone());
            rank_correlation(&own, &values(&other, method.clone(), Baseline::Zeros))
        };
        let mean = (100..112).map(correlation).sum::<f64>() / 12.0;
        assert!(mean.abs() < 0.15, "{}: rank correlation {mean}", method.name());
        assert!((rank_correlation(&own, &own) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn two_inputs_have_two_explanations() {
    for (family, mut case) in families() {
        for method in Method::all() {
            // A map over layers can be empty for one input; layers are named elsewhere.
            if matches!(
                method,
                Method::Conductance { .. } | Method::GradCam { .. } | Method::Occlusion { .. }
            ) {
                continue;
            }
            let Ok(one) = case.explain(method.clone(), Baseline::Zeros) else { continue };
            let before = case.input.clone();
            match &mut case.input {
                Input::Dense { data, .. } => data.iter_mut().for_each(|x| *x = (*x * 1.3).cos()),
                Input::Tokens(Tokens { ids, .. }) | Input::Pair { source: Tokens { ids, .. }, .. } => {
                    ids.reverse();
                }
            }
            let two = case.explain(method, Baseline::Zeros).unwrap();
            // A linear model's gradient is the same everywhere.
            let same = family == "linear" && one.method == "saliency";
            assert_eq!(one.attributions == two.attributions, same, "{} of {family}", one.method);
            case.input = before;
        }
    }
}

#[test]
fn sampled_values_repeat_for_a_seed_and_are_as_far_from_the_exact_ones_as_they_say() {
    let spec = json!({ "family": "mlp", "hidden": [12], "activation": "gelu" });
    let case = fresh(&spec, InputShape::Features { n: 10 }, OutputShape::Classes { n: 3 }, 4);
    let exact = values(&case, Method::Shapley, Baseline::Zeros);
    let subject = case.subject(Quantity::Logit).unwrap();
    for method in [Method::ShapleySampling { n_permutations: 200 }, Method::KernelShap { n_samples: 400 }] {
        let run = |seed| {
            let (subject, method) = (subject.clone(), method.clone());
            let request = Request {
                subject,
                method,
                baseline: Baseline::Zeros,
                evaluate: vec![],
                max_passes: 5000,
                seed,
            };
            attribute(&request, &mut ThisThread::new(), &Control::new()).unwrap()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).attributions, run(2).attributions);
        // Squared errors in units of the stated variance are about 1.
        let (mut sum, mut n) = (0.0, 0.0);
        for seed in 0..40 {
            for (a, exact) in run(seed).attributions.iter().zip(&exact) {
                sum += ((a.value - exact) / a.stderr.unwrap().max(1e-9)).powi(2);
                n += 1.0;
            }
        }
        assert!((0.5..2.0).contains(&(sum / n)), "{}: {}", method.name(), sum / n);
    }
}

/// Counts passes and their sizes.
#[derive(Default)]
struct Counter {
    inner: ThisThread,
    passes: usize,
    stop_after: Option<(usize, Control)>,
}

impl Device for Counter {
    fn run(&mut self, pass: Pass) -> Result<PassResult, ExplainError> {
        self.passes += 1;
        if let Some((after, control)) = &self.stop_after
            && self.passes == *after
        {
            control.cancel();
        }
        let result = self.inner.run(pass)?;
        assert!(result.scores.len() <= 16, "a pass of {} examples is not small", result.scores.len());
        Ok(result)
    }
}

#[test]
fn passes_are_bounded_before_they_are_spent_and_a_cancellation_ends_them() {
    let (_, case) = families().swap_remove(0);
    let request = |max_passes| Request {
        subject: case.subject(Quantity::Logit).unwrap(),
        method: Method::IntegratedGradients { n_steps: Steps::Fixed(50) },
        baseline: Baseline::Zeros,
        evaluate: vec![],
        max_passes,
        seed: 0,
    };
    let mut counter = Counter::default();
    let e = attribute(&request(52), &mut counter, &Control::new()).unwrap();
    assert_eq!((e.usage.forward_passes, e.usage.backward_passes), (52, 50));
    assert_eq!(counter.passes, 1 + 4 + 1, "50 examples in passes of 16");
    let mut counter = Counter::default();
    let error = attribute(&request(51), &mut counter, &Control::new()).unwrap_err();
    assert!(matches!(error, ExplainError::TooManyPasses { needed: 52, max_passes: 51, .. }), "{error}");
    assert_eq!(counter.passes, 1, "it said no before it spent any");
    let control = Control::new();
    let mut counter = Counter { stop_after: Some((3, control.clone())), ..Counter::default() };
    let error = attribute(&request(52), &mut counter, &control).unwrap_err();
    assert!(matches!(error, ExplainError::Stopped(Stop::Cancelled)));
    assert_eq!(counter.passes, 3);
}

#[test]
fn dropped_tokens_are_really_gone() {
    for name in ["gru", "encoder", "decoder", "lstm_language"] {
        let (_, mut case) = families().into_iter().find(|(n, _)| *n == name).unwrap();
        let Input::Tokens(tokens) = case.input.clone() else { panic!("tokens") };
        let n = tokens.ids.len();
        // The last token is read, so it stays.
        let group = |t: usize| (t + 1 < n).then_some(t as u32);
        case.groups = Groups::new((0..n).map(group).collect()).unwrap();
        let e = case.explain(Method::Ablation, Baseline::Drop).unwrap();
        let logit = |ids: &[u32]| {
            let mut ws = Workspace::new();
            let mut tape = Tape::new(&mut ws, &case.model.params, Recording::Off, Examples::Even(1));
            let f = case.model.forward(&mut tape, &Input::Tokens(Tokens::single(ids))).unwrap();
            let width = case.model.shape.output.width();
            let logits = tape.value(f.logits);
            f64::from(logits[logits.len() - width + case.target])
        };
        for (i, a) in e.attributions.iter().enumerate() {
            let mut left = tokens.ids.clone();
            left.remove(i);
            let want = logit(&tokens.ids) - logit(&left);
            assert!((a.value - want).abs() < 1e-5, "{name}[{i}]: {} {want}", a.value);
        }
    }
}

#[test]
fn faithful_attributions_beat_random_orders_and_empty_ones_do_not() {
    let all = [Check::Comprehensiveness, Check::Sufficiency, Check::DeletionAuc, Check::InsertionAuc];
    let spec = json!({ "family": "mlp", "hidden": [12], "activation": "tanh" });
    let case = fresh(&spec, InputShape::Features { n: 20 }, OutputShape::Classes { n: 3 }, 5);
    let ig = || Method::IntegratedGradients { n_steps: Steps::Fixed(50) };
    let e = case.explain_and(ig(), Baseline::Zeros, Quantity::Logit, &all).unwrap();
    let c = e.checks;
    assert_eq!((c.faithful, c.quantity), (Some(true), Some("probability")), "{c:?}");
    assert!(c.comprehensiveness.unwrap() > c.random_control.comprehensiveness.unwrap()[0]);
    assert!(c.deletion_auc.unwrap() < c.random_control.deletion_auc.unwrap()[0]);
    let not_asked = case.explain(ig(), Baseline::Zeros).unwrap().checks;
    assert_eq!((not_asked.faithful, not_asked.comprehensiveness), (None, None));

    // A model that does not look at its input has nothing to be faithful to.
    let mut blind: Model = (*case.model).clone();
    for id in blind.params.ids() {
        if blind.params.kind(id) == ParamKind::Weight && blind.params.name(id) == "hidden.0.weight" {
            blind.params.value_mut(id).fill(0.0);
        }
    }
    let e = case.with_model(blind).explain_and(ig(), Baseline::Zeros, Quantity::Logit, &all).unwrap();
    assert_eq!(e.checks.faithful, Some(false));
}

#[test]
fn infidelity_of_a_linear_model_is_nothing_and_its_sensitivity_small() {
    let (_, case) = families().swap_remove(1);
    let evaluate = [Check::Infidelity, Check::Sensitivity];
    let method = Method::GradientInput;
    let c = case.explain_and(method, Baseline::Zeros, Quantity::Logit, &evaluate).unwrap().checks;
    assert!(c.infidelity.unwrap() < 1e-9, "{c:?}");
    let sensitivity = c.sensitivity.unwrap();
    assert!(sensitivity > 0.0 && sensitivity < 0.2, "{c:?}");
    let (_, curved) = families().swap_remove(0);
    let method = Method::GradientInput;
    let c = curved.explain_and(method, Baseline::Zeros, Quantity::Logit, &evaluate).unwrap().checks;
    assert!(c.infidelity.unwrap() > 1e-6, "gradients do not follow curves: {c:?}");
    let saliency = curved.explain_and(Method::Saliency, Baseline::Zeros, Quantity::Logit, &evaluate);
    assert!(saliency.is_err(), "saliency is not in units of the output");
}

#[test]
fn attention_weights_are_distributions_over_what_a_query_may_see() {
    for (family, case) in families() {
        let subject = case.subject(Quantity::Logit).unwrap();
        let maps = attention::maps(&subject, &mut ThisThread::new(), &Control::new());
        let Ok(maps) = maps else {
            assert!(!family.contains("coder"), "{family} has attention");
            continue;
        };
        for map in &maps {
            for (i, row) in map.weights.chunks_exact(map.n_keys).enumerate() {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{family}: row {i} {row:?}");
                if family == "decoder" {
                    let t = i % map.n_queries;
                    assert!(row[t + 1..].iter().all(|&w| w == 0.0), "{family} looks ahead");
                }
            }
        }
        if family != "encoder_decoder" {
            let rollout = attention::rollout(&maps).unwrap();
            let n = maps[0].n_queries;
            assert!(rollout.chunks(n).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-4));
        }
    }
}
