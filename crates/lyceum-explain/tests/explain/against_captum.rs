//! The same weights, the same input, the same numbers as Captum 0.9 and SHAP 0.51
//! (`fixtures/scripts/explain.py`): an MLP, a CNN, an LSTM, a Transformer and a linear model.

use crate::cases::{Case, Fixture};
use lyceum_explain::{Baseline, Explanation, Method, Steps};

/// Both sides round: Captum in float64, the engine in float32.
const TOLERANCE: f64 = 2e-5;

fn same(what: &str, got: &[f64], want: &[f32], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(0.0f64, |m, w| m.max(f64::from(w.abs()))).max(1.0);
    for (i, (got, &want)) in got.iter().zip(want).enumerate() {
        let difference = (got - f64::from(want)).abs();
        assert!(difference <= tolerance * scale, "{what}[{i}]: {got}, the reference has {want}");
    }
}

fn elements(e: &Explanation) -> Vec<f64> {
    e.elements.as_ref().unwrap().iter().map(|&x| f64::from(x)).collect()
}

fn values(e: &Explanation) -> Vec<f64> {
    e.attributions.iter().map(|a| a.value).collect()
}

/// Compares one attribution and counts it.
fn compare(
    fixture: &Fixture,
    name: &str,
    tensor: &str,
    case: &Case,
    method: Method,
    baseline: Baseline,
    tolerance: f64,
) -> usize {
    let Some(want) = fixture.find(name, tensor) else { return 0 };
    let e = case.explain(method, baseline).unwrap_or_else(|e| panic!("{name}.{tensor}: {e}"));
    let got = if e.elements.is_some() { elements(&e) } else { values(&e) };
    same(&format!("{name}.{tensor}"), &got, &want.data, tolerance);
    1
}

#[test]
fn attributions_are_those_of_captum_and_shap() {
    let fixture = Fixture::read();
    let mut compared = 0;
    for name in fixture.names() {
        let case = fixture.case(&name);
        let rows = |tensor: &str, width: usize| {
            fixture.find(&name, tensor).map(|t| t.data.chunks(width).map(<[f32]>::to_vec).collect::<Vec<_>>())
        };
        let zeros = || Baseline::Zeros;
        let mut check = |tensor: &str, method: Method, baseline: Baseline, tolerance: f64| {
            compared += compare(&fixture, &name, tensor, &case, method, baseline, tolerance);
        };
        let ig = || Method::IntegratedGradients { n_steps: Steps::Fixed(50) };
        check("saliency", Method::Saliency, zeros(), TOLERANCE);
        check("gradient_x_input", Method::GradientInput, zeros(), TOLERANCE);
        check("integrated_gradients", ig(), zeros(), TOLERANCE);
        if let Some(baseline) = fixture.find(&name, "baseline") {
            check("integrated_gradients_values", ig(), Baseline::Values(baseline.data.clone()), TOLERANCE);
        }
        check("relevance", Method::Relevance { epsilon: 1e-9 }, zeros(), TOLERANCE);
        check("feature_ablation", Method::Ablation, zeros(), TOLERANCE);
        check("occlusion", Method::Occlusion { window: [3, 3], stride: [2, 2] }, zeros(), TOLERANCE);
        check("captum_shapley", Method::Shapley, zeros(), TOLERANCE);
        check("shapley", Method::Shapley, zeros(), TOLERANCE);
        // Every coalition: least squares with SHAP's weights is exact.
        check("shapley", Method::KernelShap { n_samples: 2048 }, zeros(), TOLERANCE);
        for layer in ["conv.0", "conv.1"] {
            let method = Method::GradCam { layer: Some(layer.into()) };
            check(&format!("grad_cam.{layer}"), method, zeros(), TOLERANCE);
        }
        for layer in ["hidden.0", "hidden.1"] {
            // Two quadratures of one integral.
            let method = Method::Conductance { layer: layer.into(), n_steps: 1000 };
            check(&format!("conductance.{layer}"), method, zeros(), 2e-3);
        }
        if let Some(background) = rows("background", 6) {
            check("linear_shap", Method::LinearShap, Baseline::Background(background), TOLERANCE);
        }
    }
    assert_eq!(compared, held(&fixture), "every attribution of the file was compared");
}

/// Attributions that the fixture holds; `shapley` counts twice (exact, and KernelSHAP).
fn held(fixture: &Fixture) -> usize {
    let kinds = [
        "saliency",
        "gradient_x_input",
        "integrated_gradients",
        "relevance",
        "feature_ablation",
        "occlusion",
        "captum_shapley",
        "grad_cam",
        "conductance",
        "linear_shap",
    ];
    let all: usize =
        fixture.names().iter().map(|n| kinds.iter().map(|k| fixture.count(n, k)).sum::<usize>()).sum();
    let shapley = fixture.names().iter().filter(|n| fixture.find(n, "shapley").is_some()).count();
    all + 2 * shapley
}

#[test]
fn shapley_values_over_a_background_are_those_of_shap() {
    let fixture = Fixture::read();
    for name in ["mlp", "mlp_relu"] {
        let mut case = fixture.case(name);
        case.groups = lyceum_explain::Groups::each(6).unwrap();
        let rows: Vec<Vec<f32>> =
            fixture.numbers(name, "background").chunks(6).map(<[f32]>::to_vec).collect();
        let want = fixture.numbers(name, "shapley_background");
        for method in [Method::Shapley, Method::KernelShap { n_samples: 100 }] {
            let e = case.explain(method, Baseline::Background(rows.clone())).unwrap();
            same(name, &values(&e), want, TOLERANCE);
            assert!(e.exact && e.checks.completeness_gap.unwrap() < 1e-5, "{name}: {:?}", e.checks);
        }
    }
}
