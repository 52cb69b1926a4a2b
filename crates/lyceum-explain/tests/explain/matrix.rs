//! The whole matrix: every method on every family with every baseline either explains, or refuses with the
//! reason; nothing panics and nothing is made up.

use crate::cases::{Case, families};
use lyceum_explain::{Baseline, ExplainError, Groups, Method, Of, Quantity, Steps};
use lyceum_models::batch::Input;

fn baselines(case: &Case) -> Vec<Baseline> {
    let len = match &case.input {
        Input::Dense { data, .. } => data.len(),
        // Whatever the size of the entry, it is not 1.
        _ => 1,
    };
    vec![
        Baseline::Zeros,
        Baseline::Values(vec![0.5; len]),
        Baseline::Background(vec![vec![0.5; len], vec![-0.5; len]]),
        Baseline::Drop,
    ]
}

/// Whether this must be explained; None where only the model can say.
fn explains(family: &str, method: &Method, baseline: &Baseline, dense: bool) -> bool {
    let linear = family == "linear";
    let suits = match method {
        Method::GradCam { .. } => family.starts_with("cnn"),
        Method::Conductance { .. } => !linear,
        Method::LinearShap => linear,
        Method::Occlusion { .. } => !matches!(family, "mlp" | "linear" | "mlp_regression"),
        _ => true,
    };
    let single = !matches!(method, Method::Conductance { .. } | Method::Occlusion { .. });
    let uses_baseline = !matches!(
        method,
        Method::Saliency | Method::SmoothGrad { .. } | Method::GradCam { .. } | Method::Relevance { .. }
    );
    let fits = match baseline {
        Baseline::Zeros => true,
        Baseline::Values(_) => dense || !uses_baseline,
        Baseline::Background(_) => (dense && single) || !uses_baseline,
        Baseline::Drop => (!dense && method.can_drop()) || !uses_baseline,
    };
    suits && fits
}

#[test]
fn every_method_explains_or_refuses_every_family() {
    let (mut explained, mut refused) = (0, 0);
    for (family, case) in families() {
        let dense = matches!(case.input, Input::Dense { .. });
        for method in Method::all() {
            let method = match method {
                Method::Conductance { n_steps, .. } => {
                    let layer = match family {
                        "encoder_decoder" | "encoder" | "encoder_series" => "encoder.layers.0",
                        "decoder" => "decoder.layers.1",
                        f if f.starts_with("mlp") || f == "linear" => "hidden.0",
                        f if f.starts_with("cnn") => "conv.0",
                        _ => "rnn.0",
                    };
                    Method::Conductance { layer: layer.into(), n_steps }
                }
                // Small inputs have small windows.
                Method::Occlusion { .. } => Method::Occlusion { window: [2, 2], stride: [2, 1] },
                other => other,
            };
            for baseline in baselines(&case) {
                let what = format!("{} of {family} with {}", method.name(), baseline.name());
                let expected = explains(family, &method, &baseline, dense);
                match case.explain(method.clone(), baseline) {
                    Ok(e) => {
                        assert!(expected, "{what} explained what it cannot");
                        let finite = e.attributions.iter().all(|a| a.value.is_finite());
                        assert!(finite && e.output.is_finite(), "{what}");
                        if e.of == Of::Features {
                            assert_eq!(e.attributions.len(), case.groups.n(), "{what}");
                        }
                        assert!(e.usage.forward_passes > 0, "{what}");
                        explained += 1;
                    }
                    Err(ExplainError::Unsupported { .. } | ExplainError::Request { .. }) => {
                        assert!(!expected, "{what} refused what it can");
                        refused += 1;
                    }
                    Err(other) => panic!("{what}: {other}"),
                }
            }
        }
    }
    assert!(explained > 300 && refused > 100, "{explained} explained, {refused} refused");
}

#[test]
fn every_quantity_is_explained_or_refused_by_name() {
    for (family, case) in families() {
        for quantity in [Quantity::Probability, Quantity::LogProbability] {
            for method in [
                Method::IntegratedGradients { n_steps: Steps::Fixed(4) },
                Method::Relevance { epsilon: 1e-6 },
            ] {
                let numbers = family == "mlp_regression";
                let relevance = matches!(method, Method::Relevance { .. });
                let result = case.explain_and(method, Baseline::Zeros, quantity, &[]);
                assert_eq!(result.is_ok(), !relevance || numbers, "{family}: {quantity:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_the_input_is_refused_by_name() {
    let (_, mut case) = families().swap_remove(0);
    let refused = |case: &Case, method: Method, baseline: Baseline, word: &str| {
        let message = case.explain(method, baseline).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    let ig = || Method::IntegratedGradients { n_steps: Steps::Fixed(4) };
    refused(&case, ig(), Baseline::Values(vec![0.0; 5]), "the input has 6");
    refused(&case, ig(), Baseline::Background(vec![]), "no row");
    refused(&case, Method::IntegratedGradients { n_steps: Steps::Fixed(0) }, Baseline::Zeros, "n_steps");
    refused(&case, Method::KernelShap { n_samples: 3 }, Baseline::Zeros, "too few");
    refused(&case, Method::Relevance { epsilon: 0.0 }, Baseline::Zeros, "epsilon");
    let layer = Method::Conductance { layer: "conv.9".into(), n_steps: 4 };
    refused(&case, layer, Baseline::Zeros, "hidden.0, hidden.1");
    case.groups = Groups::each(5).unwrap();
    refused(&case, ig(), Baseline::Zeros, "the input has 6");
    case.groups = Groups::each(6).unwrap();
    case.target = 3;
    refused(&case, ig(), Baseline::Zeros, "outside the model's 3");
}
