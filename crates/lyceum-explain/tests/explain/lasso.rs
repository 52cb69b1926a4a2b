//! ContextCite's fit against scikit-learn's (`fixtures/scripts/contextcite.py`).

use lyceum_explain::contextcite::{ALPHA, fit, spearman};
use serde_json::Value;
use std::path::Path;

#[test]
fn the_fit_and_its_score_are_those_of_scikit_learn() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/contextcite.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    assert_eq!(cases.len(), 4);
    for case in &cases {
        let bits = |mask: &Value| mask.as_str().unwrap().bytes().map(|b| b == b'1').collect();
        let masks: Vec<Vec<bool>> = case["masks"].as_array().unwrap().iter().map(bits).collect();
        let values = numbers(&case["values"]);
        let found = fit(&masks, &values, case["tokens"].as_f64().unwrap(), ALPHA);
        let weights = numbers(&case["weights"]);
        for (found, want) in found.weights.iter().zip(&weights) {
            assert!((found - want).abs() < 1e-7, "{found}, scikit-learn has {want}");
            assert_eq!(*found == 0.0, *want == 0.0, "what is sparse there is sparse here");
        }
        let want = case["intercept"].as_f64().unwrap();
        assert!((found.intercept - want).abs() < 1e-7, "{} {want}", found.intercept);
        let said: Vec<f64> = masks.iter().map(|mask| found.predict(mask)).collect();
        let want = case["spearman"].as_f64().unwrap();
        assert!((spearman(&said, &values).unwrap() - want).abs() < 1e-9);
    }
    assert!(cases.iter().any(|case| numbers(&case["weights"]).contains(&0.0)), "the price is felt");
}
