//! Calibration, drift tests and conformal ranks beside torchmetrics and SciPy (`fixtures/scripts/robust_statistics.py`
//! made the numbers); prediction sets and intervals beside MAPIE's, smoothing beside Cohen's code
//! (`fixtures/scripts/robust_packages.py` ran both).

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_robust::calibrate::{probabilities, reliability, temperature};
use lyceum_robust::certify::smooth::{Smoothing, decide};
use lyceum_robust::conformal::{Intervals, Score, Sets};
use lyceum_robust::drift::{benjamini_hochberg, chi_squared, ks_two_samples, psi, wasserstein};
use serde_json::Value;
use std::path::Path;

fn fixture(part: &str) -> Value {
    read("robust_statistics.json", part)
}

fn read(file: &str, part: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(file);
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all[part].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn close(name: &str, ours: f64, theirs: &Value, tolerance: f64) {
    let theirs = theirs.as_f64().unwrap_or_else(|| panic!("the fixture has {name}"));
    assert!(
        (ours - theirs).abs() <= tolerance * (1.0 + theirs.abs()),
        "{name}: ours {ours}, theirs {theirs}"
    );
}

#[test]
fn calibration_equals_torchmetrics_and_scipys_minimum() {
    let f = fixture("calibration");
    let classes = f["classes"].as_u64().unwrap() as usize;
    let logits: Vec<f32> = numbers(&f["logits"]).into_iter().map(|x| x as f32).collect();
    let labels: Vec<u32> = numbers(&f["labels"]).into_iter().map(|x| x as u32).collect();
    let found = temperature(&logits, classes, &labels).unwrap();
    close("temperature", found.value, &f["temperature"], 1e-6);
    close("nll", found.nll_after, &f["nll"], 1e-9);
    let p = probabilities(&logits, classes, 1.0);
    for bins in [10, 15] {
        let found = reliability(&p, classes, &labels, bins).unwrap();
        close("ece", found.ece, &f[format!("ece_{bins}")], 1e-6);
        close("mce", found.mce, &f[format!("mce_{bins}")], 1e-6);
    }
    for score in [Score::Lac, Score::Aps] {
        for alpha in [0.05, 0.1, 0.2] {
            let sets = Sets::fit(&p, classes, &labels, score, alpha).unwrap();
            let name = format!("{}_{alpha}", score.name());
            close(&name, sets.threshold.unwrap(), &f[&name], 1e-6);
            // The set of a calibration row holds its label exactly where its score is within the threshold.
            for (p, &label) in p.chunks(classes).zip(&labels) {
                let inside = score.of(p)[label as usize] <= sets.threshold.unwrap() + 1e-12;
                assert_eq!(sets.labels(p).contains(&label), inside);
            }
        }
    }
}

#[test]
fn drift_statistics_equal_scipys() {
    let f = fixture("drift");
    for case in f["samples"].as_array().unwrap() {
        let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
        let found = ks_two_samples(&a, &b).unwrap();
        close("ks", found.statistic, &case["ks"], 1e-12);
        close("ks p", found.p_value, &case["ks_p"], 1e-9);
        close("wasserstein", wasserstein(&a, &b).unwrap(), &case["wasserstein"], 1e-12);
    }
    for table in f["tables"].as_array().unwrap() {
        let (a, b) = (numbers(&table["a"]), numbers(&table["b"]));
        let found = chi_squared(&a, &b).unwrap();
        close("chi2", found.statistic, &table["chi2"], 1e-12);
        close("chi2 p", found.p_value, &table["p"], 1e-10);
        close("psi", psi(&a, &b).unwrap(), &table["psi"], 1e-12);
    }
    for (ours, theirs) in benjamini_hochberg(&numbers(&f["p"])).into_iter().zip(f["bh"].as_array().unwrap()) {
        close("bh", ours, theirs, 1e-12);
    }
}

#[test]
fn smoothings_radius_and_abstention_are_those_of_cohens_code() {
    let of = |case: &Value, name: &str| case[name].as_f64().unwrap();
    for case in fixture("smoothing").as_array().unwrap() {
        let (n, k) = (of(case, "n") as u64, of(case, "k") as u64);
        let found = Smoothing::new(of(case, "sigma"), 10, n, of(case, "alpha")).unwrap().verdict(2, k);
        close("p", found.p_lower, &case["p"], 1e-10);
        match case["radius"].as_f64() {
            Some(_) => close("radius", found.radius, &case["radius"], 1e-7),
            None => assert_eq!((found.class, found.radius), (None, 0.0)),
        }
    }
}

#[test]
fn prediction_sets_are_mapies() {
    let f = read("robust_packages.json", "sets");
    let classes = f["classes"].as_u64().unwrap() as usize;
    let logits = |name: &str| numbers(&f[name]).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let labels: Vec<u32> = numbers(&f["labels"]).into_iter().map(|x| x as u32).collect();
    let (kept, fresh) =
        (probabilities(&logits("logits"), classes, 1.0), probabilities(&logits("fresh"), classes, 1.0));
    let mut n_empty = 0;
    for score in [Score::Lac, Score::Aps] {
        for (alpha, theirs) in numbers(&f["alphas"]).into_iter().zip(f[score.name()].as_array().unwrap()) {
            let sets = Sets::fit(&kept, classes, &labels, score, alpha).unwrap();
            for (row, theirs) in fresh.chunks(classes).zip(numbers(theirs).chunks(classes)) {
                let mut ours = sets.labels(row);
                ours.sort_unstable();
                let theirs: Vec<u32> = (0..classes as u32).filter(|&c| theirs[c as usize] == 1.0).collect();
                // Where even the likeliest label is above the threshold the set is empty; MAPIE's APS puts it in.
                if ours.is_empty() && score == Score::Aps {
                    n_empty += 1;
                    assert_eq!(theirs, [likeliest(row)]);
                } else {
                    assert_eq!(ours, theirs, "{} {alpha}: {row:?}", score.name());
                }
            }
        }
    }
    assert!(n_empty < 20, "{n_empty} of 200 sets are compared in no other way");
}

fn likeliest(row: &[f64]) -> u32 {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
}

#[test]
fn prediction_intervals_are_mapies() {
    let f = read("robust_packages.json", "intervals");
    let (answers, targets) = (numbers(&f["answers"]), numbers(&f["targets"]));
    for (alpha, theirs) in numbers(&f["alphas"]).into_iter().zip(f["found"].as_array().unwrap()) {
        let found = Intervals::fit(&answers, &targets, 1, alpha).unwrap();
        let at = f["at"].as_f64().unwrap();
        close("low", at - found.half_widths[0], &theirs[0], 1e-12);
        close("high", at + found.half_widths[0], &theirs[1], 1e-12);
    }
}

#[test]
fn certify_and_predict_say_what_cohens_code_says_of_the_same_counts() {
    for case in read("robust_packages.json", "cohen").as_array().unwrap() {
        let of = |name: &str| case[name].as_f64().unwrap();
        let counts = |name: &str| numbers(&case[name]).into_iter().map(|k| k as u64).collect::<Vec<_>>();
        let (first, counts) = (counts("first"), counts("counts"));
        let guess = (0..first.len()).rev().max_by_key(|&c| first[c]).unwrap();
        let smoothing = Smoothing::new(of("sigma"), 100, of("n") as u64, of("alpha")).unwrap();
        let found = smoothing.verdict(guess as u32, counts[guess]);
        let class = |value: f64| (value >= 0.0).then_some(value as u32);
        assert_eq!(found.class, class(of("class")), "{case}");
        close("radius", found.radius, &case["radius"], 1e-7);
        // argmax and argsort take the first and the last of equals; equals are an abstention for both.
        assert_eq!(decide(&counts, of("alpha")), class(of("predicted")), "{case}");
    }
}
