use super::*;
use lyceum_types::manifest::Metric;
use serde_json::Value;

fn reference() -> Value {
    serde_json::from_str(include_str!("../../../../fixtures/eval.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn flags(value: &Value) -> Vec<bool> {
    value.as_array().unwrap().iter().map(|flag| flag.as_bool().unwrap()).collect()
}

#[track_caller]
fn near(value: f64, expected: f64) {
    assert!((value - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{value} is not {expected}");
}

#[track_caller]
fn check(metric: &Metric, value: &Value, interval: Option<&Value>, n: u64) {
    near(metric.value, value.as_f64().unwrap());
    assert!(metric.ci95[0] <= metric.value && metric.value <= metric.ci95[1], "{metric:?}");
    assert_eq!(metric.n, n);
    if let Some(interval) = interval {
        let interval = numbers(interval);
        near(metric.ci95[0], interval[0]);
        near(metric.ci95[1], interval[1]);
    }
}

fn measured(reference: &Value, seed: u64) -> Classification {
    let logits: Vec<f32> = numbers(&reference["logits"]).iter().map(|logit| *logit as f32).collect();
    let labels: Vec<u32> = numbers(&reference["labels"]).iter().map(|label| *label as u32).collect();
    classification(&log_softmax(&logits, 4), &labels, 4, seed).unwrap()
}

#[test]
fn a_classifiers_numbers_equal_scikit_learns() {
    let r = reference();
    let logits: Vec<f32> = numbers(&r["logits"]).iter().map(|logit| *logit as f32).collect();
    let labels: Vec<u32> = numbers(&r["labels"]).iter().map(|label| *label as u32).collect();
    // The logits of the file have three digits; f32 holds them to 1e-7.
    let measured = classification(&log_softmax(&logits, 4), &labels, 4, 1).unwrap();
    check(&measured.metrics["accuracy"], &r["accuracy"], None, 80);
    check(&measured.metrics["f1_macro"], &r["f1_macro"], None, 80);
    for (ours, theirs) in measured.f1_per_class.iter().zip(numbers(&r["f1_per_class"])) {
        near(ours.as_ref().unwrap().value, theirs);
    }
    let confusion: Vec<f64> = measured.confusion.iter().map(|count| *count as f64).collect();
    assert_eq!(confusion, numbers(&r["confusion"]));
    let close = |name: &str, expected: f64| {
        let value = measured.metrics[name].value;
        assert!((value - expected).abs() < 1e-6, "{name}: {value} is not {expected}");
    };
    close("log_loss", r["log_loss"].as_f64().unwrap());
    close("ece", r["ece"].as_f64().unwrap());
    let interval = numbers(&r["log_loss_interval"]);
    let ours = measured.metrics["log_loss"].ci95;
    assert!((ours[0] - interval[0]).abs() < 1e-6 && (ours[1] - interval[1]).abs() < 1e-6);
    assert_eq!(measured.metrics["loss"], measured.metrics["log_loss"]);
}

#[test]
fn a_regressors_numbers_equal_scikit_learns() {
    let r = reference();
    let measured = regression(&numbers(&r["predictions"]), &numbers(&r["targets"]), 2, 1).unwrap();
    check(&measured.metrics["rmse"], &r["rmse"], None, 50);
    check(&measured.metrics["mae"], &r["mae"], Some(&r["mae_interval"]), 50);
    check(&measured.metrics["r2"], &r["r2"], None, 50);
    // Targets that do not move have nothing to explain.
    let still = |prediction: f64| regression(&[prediction; 3], &[5.0; 3], 1, 1).unwrap().metrics["r2"].value;
    assert_eq!((still(5.0), still(4.0)), (1.0, 0.0));
}

#[test]
fn intervals_of_shares_and_ratios_equal_scipys() {
    let r = reference();
    for (name, interval) in [
        ("wilson", wilson as fn(u64, u64) -> Result<Metric, EvalError>),
        ("clopper_pearson", clopper_pearson),
    ] {
        for case in r[name].as_array().unwrap() {
            let case = numbers(case);
            let metric = interval(case[0] as u64, case[1] as u64).unwrap();
            near(metric.value, case[0] / case[1]);
            near(metric.ci95[0], case[2]);
            near(metric.ci95[1], case[3]);
        }
    }
    let metric = ratio("x", &numbers(&r["sums"]), &numbers(&r["sizes"])).unwrap();
    check(&metric, &r["ratio"], Some(&r["ratio_interval"]), 12);
}

#[test]
fn paired_tests_equal_scipys() {
    let r = reference();
    let test = mcnemar(&flags(&r["first"]), &flags(&r["second"])).unwrap();
    near(test.p_exact, r["mcnemar_exact"].as_f64().unwrap());
    near(test.p_mid, r["mcnemar_mid"].as_f64().unwrap());

    let errors =
        |name: &str| regression(&numbers(&r[name]), &numbers(&r["targets"]), 2, 1).unwrap().absolute_errors;
    let (ours, others) = (errors("predictions"), errors("others"));
    let (t, p) = paired_t(&ours, &others, 0).unwrap();
    near(t, r["t"].as_f64().unwrap());
    near(p, r["t_p"].as_f64().unwrap());
    let (dm, p) = paired_t(&ours, &others, 3).unwrap();
    near(dm, r["dm"].as_f64().unwrap());
    near(p, r["dm_p"].as_f64().unwrap());
    let rounded = numbers(&r["rounded"]);
    let p = wilcoxon_signed_rank(&rounded, &vec![0.0; rounded.len()]).unwrap();
    near(p, r["wilcoxon_p"].as_f64().unwrap());
}

#[test]
fn a_seed_gives_the_same_intervals_and_another_seed_nearly_the_same() {
    let r = reference();
    let (a, b, other) = (measured(&r, 5), measured(&r, 5), measured(&r, 6));
    assert_eq!(a, b);
    assert_ne!(a.metrics["f1_macro"].ci95, other.metrics["f1_macro"].ci95);
    for side in 0..2 {
        let gap = a.metrics["f1_macro"].ci95[side] - other.metrics["f1_macro"].ci95[side];
        assert!(gap.abs() < 0.04, "{gap}");
    }
}

#[test]
fn the_bootstrap_agrees_with_the_interval_of_a_mean() {
    // RMSE of errors that are all of one sign and output is near √mean: compare on squares.
    let errors: Vec<f64> = (0..400).map(|row| 1.0 + (f64::from(row) * 0.37).sin()).collect();
    let measured = regression(&errors, &vec![0.0; 400], 1, 3).unwrap();
    let squares = mean("squares", &measured.squared_errors).unwrap();
    let rmse = &measured.metrics["rmse"];
    for side in 0..2 {
        let gap = rmse.ci95[side].powi(2) - squares.ci95[side];
        assert!(gap.abs() < 0.06, "{rmse:?} {squares:?}");
    }
}

#[test]
fn text_metrics_count_letters_words_and_bytes() {
    let metric = exact_match(&["12", "7", "40"], &["12", "8", "40"]).unwrap();
    near(metric.value, 2.0 / 3.0);
    // 2 of 2, 0 of 1, 2 of 3 positions (one letter is surplus).
    near(char_accuracy(&["12", "7", "401"], &["12", "8", "40"]).unwrap().value, 4.0 / 6.0);
    near(char_accuracy(&["é1"], &["é2"]).unwrap().value, 0.5);
    // One substitution, one deletion, two insertions in 6 words.
    let rate =
        word_error_rate(&["the cat sat", "on mat", "a b c"], &["the cat sits", "on the", "a"]).unwrap();
    near(rate.value, (1.0 + 1.0 + 2.0) / 6.0);
    assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
    assert_eq!(edit_distance::<u8>(b"", b"abc"), 3);

    // A uniform model over 8 symbols: perplexity 8, 3 bits a symbol.
    let nats: Vec<f64> = [10u64, 20, 30].iter().map(|tokens| *tokens as f64 * 8f64.ln()).collect();
    let perplexity = perplexity(&nats, &[10, 20, 30]).unwrap();
    near(perplexity.value, 8.0);
    near(perplexity.ci95[0], 8.0);
    near(bits_per_byte(&nats, &[20, 40, 60]).unwrap().value, 1.5);
}

#[test]
fn verdicts_are_said_in_words() {
    let correct = |right: usize| (0..1000).map(|row| row < right).collect::<Vec<_>>();
    let verdict = compare_classifiers("logistic", &correct(971), &correct(930)).unwrap();
    assert_eq!(verdict.outcome, Outcome::Better);
    assert_eq!(verdict.sentence, "beats the logistic baseline: 97.1 % against 93.0 %, McNemar p < 0.001");
    let verdict = compare_classifiers("logistic", &correct(930), &correct(971)).unwrap();
    assert_eq!(verdict.outcome, Outcome::Worse);
    assert!(verdict.sentence.starts_with("does not beat the logistic baseline: 93.0 % against 97.1 %"));
    let verdict = compare_classifiers("majority", &correct(931), &correct(930)).unwrap();
    assert_eq!(verdict.outcome, Outcome::Tie);
    assert_eq!(
        verdict.sentence,
        "is not distinguishable from the majority baseline: 93.1 % against 93.0 %, McNemar p = 0.500"
    );

    let ours: Vec<f64> = (0..30).map(|row| 1.0 + 0.1 * f64::from(row % 7)).collect();
    let theirs: Vec<f64> = (0..30).map(|row| 1.5 + 0.1 * f64::from(row % 5)).collect();
    let verdict = compare_losses("seasonal naive", "MAE", &ours, &theirs, 2).unwrap();
    assert_eq!((verdict.outcome, verdict.test), (Outcome::Better, "diebold_mariano"));
    assert!(verdict.sentence.starts_with("beats the seasonal naive baseline: MAE 1.283 against 1.700"));
    let same = compare_losses("linear", "MAE", &ours, &ours, 0).unwrap();
    assert_eq!((same.outcome, same.p), (Outcome::Tie, 1.0));
}

#[test]
fn a_tie_is_called_a_difference_no_more_often_than_it_should_be() {
    // Two classifiers that are right with the same chance, 400 times: about 5 % of verdicts may err.
    let mut state = 1u64;
    let mut coin = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % 10 < 8
    };
    let mut false_alarms = 0;
    for _ in 0..400 {
        let first: Vec<bool> = (0..200).map(|_| coin()).collect();
        let second: Vec<bool> = (0..200).map(|_| coin()).collect();
        false_alarms += u32::from(compare_classifiers("x", &first, &second).unwrap().outcome != Outcome::Tie);
    }
    assert!((5..=36).contains(&false_alarms), "{false_alarms} of 400");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    assert_eq!(wilson(0, 0).unwrap_err(), EvalError::Empty { metric: "share" });
    assert!(matches!(classification(&[], &[], 2, 0), Err(EvalError::Empty { .. })));
    assert!(matches!(classification(&[0.0; 3], &[0, 1], 2, 0), Err(EvalError::Lengths { .. })));
    let label = classification(&[-0.7; 4], &[0, 2], 2, 0).unwrap_err();
    assert_eq!(label.to_string(), "classification: row 1 has the label 2, and there are 2 classes");
    let nan = classification(&[-0.7, -0.7, f64::NAN, -0.7], &[0, 1], 2, 0).unwrap_err();
    assert!(matches!(nan, EvalError::NotFinite { row: 1, .. }));
    let infinite = classification(&[0.0, f64::NEG_INFINITY], &[1], 2, 0).unwrap_err();
    assert!(matches!(infinite, EvalError::NotFinite { row: 0, .. }));
    assert!(matches!(
        regression(&[1.0, f64::NAN], &[1.0, 1.0], 1, 0),
        Err(EvalError::NotFinite { row: 1, .. })
    ));
    assert!(matches!(word_error_rate(&[""], &[""]), Err(EvalError::Empty { .. })));
    assert!(matches!(paired_t(&[1.0], &[1.0], 0), Err(EvalError::Empty { .. })));
    // One row says nothing about its spread, and the manifest can still be written and read.
    let one = mean("loss", &[2.0]).unwrap();
    assert_eq!(one.ci95, [f64::MIN, f64::MAX]);
    assert_eq!(serde_json::from_str::<Metric>(&serde_json::to_string(&one).unwrap()).unwrap(), one);
}
