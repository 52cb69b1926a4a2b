use super::*;
use lyceum_types::control::Control;
use serde_json::Value;

fn reference() -> Value {
    serde_json::from_str(include_str!("../../../../fixtures/baseline.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    numbers(value).iter().map(|number| *number as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).iter().map(|number| *number as u32).collect()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{at}: {a} is not {b}");
    }
}

#[test]
fn logistic_regression_equals_scikit_learns() {
    let r = reference();
    let (x, labels) = (singles(&r["x"]), ids(&r["labels"]));
    let n = labels.len() - r["held"].as_u64().unwrap() as usize;
    let model = Logistic::fit(&x[..n * 5], 5, &labels[..n], 3, &Control::new()).unwrap();
    assert!(model.converged && model.iterations > 3, "{} iterations", model.iterations);
    let log_probs = model.log_probs(&x[n * 5..]);
    close(&log_probs, &numbers(&r["log_probs"]), 5e-3);
    for row in log_probs.chunks_exact(3) {
        close(&[row.iter().map(|value| value.exp()).sum::<f64>()], &[1.0], 1e-12);
    }
}

#[test]
fn ridge_regression_equals_scikit_learns_both_ways() {
    let r = reference();
    let (x, targets) = (singles(&r["x"]), singles(&r["targets"]));
    let n = x.len() / 5 - r["held"].as_u64().unwrap() as usize;
    let model = Linear::fit(&x[..n * 5], 5, &targets[..n * 2], 2, &Control::new()).unwrap();
    close(&model.predict(&x[n * 5..]), &numbers(&r["ridge"]), 1e-5);

    // Wide rows are solved iteratively.
    let mut state = 9u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let (rows, wide, narrow) = (40, 1600, 1500);
    let full: Vec<f32> = (0..rows * wide).map(|_| noise()).collect();
    let y: Vec<f32> = (0..rows).map(|_| noise()).collect();
    let wide_model = Linear::fit(&full, wide, &y, 1, &Control::new()).unwrap();
    // Zero columns change nothing, so the direct way can check the iterative one on the same columns.
    let mut padded = full.clone();
    let mut cut = Vec::new();
    for row in padded.chunks_exact_mut(wide) {
        row[narrow..].fill(0.0);
        cut.extend_from_slice(&row[..narrow]);
    }
    let iterative = Linear::fit(&padded, wide, &y, 1, &Control::new()).unwrap().predict(&padded);
    let direct = Linear::fit(&cut, narrow, &y, 1, &Control::new()).unwrap().predict(&cut);
    close(&iterative, &direct, 1e-4);
    assert_eq!(wide_model.predict(&full).len(), rows);
}

#[test]
fn tfidf_with_logistic_regression_equals_scikit_learns() {
    let r = reference();
    let (texts, labels) = (words(&r["texts"]), ids(&r["text_labels"]));
    let model = TfidfLogistic::fit(&texts, &labels, 3, &Control::new()).unwrap();
    assert!(model.converged);
    close(&model.log_probs(&words(&r["asked"])), &numbers(&r["tfidf_log_probs"]), 5e-3);
}

#[test]
fn the_same_rows_give_the_same_bits() {
    let r = reference();
    let (x, labels) = (singles(&r["x"]), ids(&r["labels"]));
    let fit = || Logistic::fit(&x, 5, &labels, 3, &Control::new()).unwrap();
    assert_eq!(fit(), fit());
    let (texts, labels) = (words(&r["texts"]), ids(&r["text_labels"]));
    let fit = || TfidfLogistic::fit(&texts, &labels, 3, &Control::new()).unwrap().log_probs(&texts);
    assert_eq!(fit(), fit());
}

#[test]
fn classes_that_training_lacks_are_unlikely_and_not_impossible() {
    let log_probs = Majority::fit(&[0, 0, 0, 1], 3).unwrap().log_probs(2);
    close(&log_probs[..3], &[(4f64 / 7.0).ln(), (2f64 / 7.0).ln(), (1f64 / 7.0).ln()], 1e-12);
    assert_eq!(log_probs[..3], log_probs[3..]);
    // The linear method as well: class 2 has no row.
    let model = Logistic::fit(&[0.0, 1.0, 0.0, 1.0], 1, &[0, 1, 0, 1], 3, &Control::new()).unwrap();
    assert!(model.log_probs(&[0.5]).iter().all(|value| value.is_finite()));
}

#[test]
fn mean_last_value_and_season_are_what_they_say() {
    let mean = Mean::fit(&[1.0, 10.0, 3.0, 30.0], 2).unwrap();
    assert_eq!(mean.predict(2), [2.0, 20.0, 2.0, 20.0]);
    // Two channels, windows of four steps; the second channel is forecast.
    let windows = [0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 9.0, 5.0, 9.0, 6.0, 9.0, 7.0, 9.0, 8.0];
    assert_eq!(last_value(&windows, 4, 2, &[1], 2), [4.0, 4.0, 8.0, 8.0]);
    assert_eq!(last_value(&windows, 4, 2, &[1, 0], 1), [4.0, 0.0, 8.0, 9.0]);
    let season = seasonal_naive(&windows, 4, 2, &[1], 4, 3).unwrap();
    assert_eq!(season, [2.0, 3.0, 4.0, 2.0, 6.0, 7.0, 8.0, 6.0]);
    let error = seasonal_naive(&windows, 4, 2, &[1], 4, 5).unwrap_err();
    assert_eq!(error, BaselineError::Season { season: 5, window: 4 });
}

#[test]
fn pairs_and_triples_are_counted_as_their_formulas_say() {
    // 0 1 0 1 2, over 4 ids.
    let text: &[u32] = &[0, 1, 0, 1, 2];
    let bigram = Bigram::fit([text], 4).unwrap();
    let p = |loss: f64| (-loss).exp();
    close(&[p(bigram.loss(&[0], 1))], &[3.0 / 6.0], 1e-12);
    close(&[p(bigram.loss(&[1], 2))], &[2.0 / 6.0], 1e-12);
    close(&[p(bigram.loss(&[3], 2))], &[1.0 / 4.0], 1e-12);
    close(&[p(bigram.loss(&[], 0))], &[3.0 / 9.0], 1e-12);

    let trigram = Trigram::fit([text], 4).unwrap();
    // p(2) = (1 + 3/4) / 8; p(2|1) = (1 + 2 p(2)) / 4; p(2|01) = (1 + 2 p(2|1)) / 4.
    let single = 1.75 / 8.0;
    let pair = (1.0 + 2.0 * single) / 4.0;
    close(&[p(trigram.loss(&[1], 2))], &[pair], 1e-12);
    close(&[p(trigram.loss(&[0, 1], 2))], &[(1.0 + 2.0 * pair) / 4.0], 1e-12);
    close(&[p(trigram.loss(&[3, 1], 2))], &[pair], 1e-12);
    assert_eq!(trigram.losses(text).len(), 4);
    assert_eq!(trigram.losses(text)[3], trigram.loss(&[0, 1], 2));
    assert_eq!(bigram.greedy(&[2, 0], 2, 5), [1, 0, 1, 0, 1]);
    assert_eq!(Trigram::fit([&[0, 1, 2][..]], 3).unwrap().greedy(&[0], 2, 5), [1]);
}

#[test]
fn every_distribution_of_ids_sums_to_one() {
    let texts: Vec<Vec<u32>> = (0..20).map(|t| (0..30).map(|i| (i * i + t * 7 + i) % 11).collect()).collect();
    let slices = || texts.iter().map(Vec::as_slice);
    let (bigram, trigram) = (Bigram::fit(slices(), 13).unwrap(), Trigram::fit(slices(), 13).unwrap());
    for context in [&[][..], &[3], &[12], &[3, 5], &[12, 5], &[5, 12], &[1, 2, 3]] {
        let sum = |loss: &dyn Fn(u32) -> f64| (0..13).map(|token| (-loss(token)).exp()).sum::<f64>();
        close(&[sum(&|token| bigram.loss(context, token))], &[1.0], 1e-12);
        close(&[sum(&|token| trigram.loss(context, token))], &[1.0], 1e-12);
    }
}

#[test]
fn work_that_is_cancelled_stops_and_nothing_to_fit_is_said() {
    let control = Control::new();
    control.cancel();
    let stopped = |error: BaselineError| assert!(matches!(error, BaselineError::Stopped(_)), "{error}");
    stopped(Logistic::fit(&[0.0, 1.0], 1, &[0, 1], 2, &control).unwrap_err());
    stopped(Linear::fit(&[0.0, 1.0], 1, &[0.0, 1.0], 1, &control).unwrap_err());
    stopped(TfidfLogistic::fit(&["one word"], &[0], 2, &control).unwrap_err());
    assert_eq!(Majority::fit(&[], 2).unwrap_err(), BaselineError::Empty { baseline: "majority" });
    assert!(matches!(Mean::fit(&[], 1), Err(BaselineError::Empty { .. })));
    assert!(matches!(Bigram::fit([&[][..]], 3), Err(BaselineError::Empty { .. })));
    assert_eq!(TfidfLogistic::fit(&["a b"], &[0], 2, &Control::new()).unwrap_err(), BaselineError::NoWords);
}
