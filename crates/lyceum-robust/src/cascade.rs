//! A cascade of two classifiers: the small one answers where its prediction set has exactly one label, else the question
//! goes to the large one.
//!
//! ```text
//! C(x)  = { y : s(x, y) ≤ q }        s the score of the small model, q its ⌈(n+1)(1−α)⌉-th smallest calibration score
//! small answers  ⇔  |C(x)| = 1      and says the one label of C(x)
//! ```
//!
//! **What holds.** Let the n calibration rows and the new row be exchangeable, and the model fixed before any of them was
//! seen. Then:
//!
//! 1. `P(Y ∉ C(X)) ≤ α` (split conformal prediction, [`crate::conformal`]): the rank of the new score among n + 1
//!    exchangeable ones is uniform where none tie, and ties only make the set larger.
//! 2. `P(small answers and is wrong) ≤ α`. If it answers, `C(X) = {ŷ}`; if ŷ ≠ Y, then Y ∉ C(X). So the event is part of
//!    the one of (1), whose probability is at most α.
//! 3. With a set `D(x)` of the large model at level β, fitted on the same rows: `P(Y ∉ what is given) ≤ α + β`, where
//!    what is given is {ŷ} or `D(X)`; and, where an escalated question is only answered if `|D(X)| = 1`,
//!    `P(something is answered and it is wrong) ≤ α + β`. Each event is part of `{Y ∉ C(X)} ∪ {Y ∉ D(X)}`, and a union is no
//!    likelier than the sum; nothing is assumed of how the two models err together.
//!
//! **What does not.** The probability is *joint* and *marginal*: over the draw of the calibration rows and of the new row
//! together. It is not the error among the answers of the small model: that is `P(wrong | answered) ≤ α / P(answered)`,
//! which says little where it seldom answers. It is not for each row, class or group, and it ends with exchangeability
//! (drift; rows that the model was trained on; thresholds chosen by looking at the result). Of an escalated answer without
//! a set nothing is promised. Given the calibration rows that there are, the miscoverage is itself random: at most (where
//! no scores tie, exactly) Beta(n + 1 − k, k) distributed, so with probability 1 − δ over them it is below
//! [`miscoverage_bound`] (Vovk 2012).

use crate::conformal::{Score, Sets, n_min, rank};
use crate::error::RobustError;
use crate::share;

/// What is said beside every answer of the small model.
pub const GUARANTEE: &str = "P(the small model answers and is wrong) <= alpha, for rows exchangeable with the calibration \
     rows and over their draw; not among the answered alone, not for each row or group, not after drift";

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The set has this label alone.
    Small(u32),
    /// What the set has, likeliest first: none, or more than one.
    Escalated(Vec<u32>),
}

/// The sets of one member, which must have a threshold: without one every set is full and nothing is ever answered.
///
/// # Errors
/// Too few rows for this level; rows that do not fit; alpha outside 0 to 1.
pub fn fit(probabilities: &[f64], n_classes: usize, labels: &[u32], alpha: f64) -> Result<Sets, RobustError> {
    let sets = Sets::fit(probabilities, n_classes, labels, Score::Lac, alpha)?;
    match sets.threshold {
        Some(_) => Ok(sets),
        None => Err(RobustError::unsupported(
            "a cascade",
            format!(
                "{} calibration rows are too few for alpha = {alpha}: every set would be full",
                labels.len()
            ),
            format!("give at least {} calibration rows, or a larger alpha", n_min(alpha)),
        )),
    }
}

/// Where the row with these probabilities of the small model goes.
pub fn route(sets: &Sets, probabilities: &[f64]) -> Route {
    let labels = sets.labels(probabilities);
    match labels[..] {
        [label] => Route::Small(label),
        _ => Route::Escalated(labels),
    }
}

/// The miscoverage of these very calibration rows is below this with probability `1 − delta` over them: the `1 − delta`
/// point of Beta(n + 1 − k, k), k the rank.
pub fn miscoverage_bound(n: usize, alpha: f64, delta: f64) -> f64 {
    // Clopper and Pearson's upper bound after n − k of n is the same quantile.
    let k = rank(n, alpha).min(n);
    share::upper((n - k) as u64, n as u64, delta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::probabilities;
    use lyceum_models::space::gaussian;
    use rand::RngExt;

    const CLASSES: usize = 4;

    /// Rows of a world in which the small model sees a blurred copy of what decides, and the large one less blur.
    struct World {
        small: Vec<f64>,
        large: Vec<f64>,
        labels: Vec<u32>,
    }

    fn draw(rng: &mut rand_chacha::ChaCha8Rng, n: usize) -> World {
        let mut world = World { small: vec![], large: vec![], labels: vec![] };
        for _ in 0..n {
            let z: [f32; CLASSES] = std::array::from_fn(|_| gaussian(rng) * 2.0);
            let truth = probabilities(&z, CLASSES, 1.0);
            let mut at = rng.random::<f64>();
            let label = truth.iter().position(|p| {
                at -= p;
                at < 0.0
            });
            world.labels.push(label.unwrap_or(CLASSES - 1) as u32);
            let mut blurred = |by: f32| z.map(|z| z + by * gaussian(rng));
            // Both are too sure by far: nothing of the promise needs them to be right.
            world.small.extend(probabilities(&blurred(1.5), CLASSES, 0.4));
            world.large.extend(probabilities(&blurred(0.3), CLASSES, 0.6));
        }
        world
    }

    #[test]
    fn one_label_is_answered_and_none_or_more_go_on() {
        let sets = Sets { score: Score::Lac, alpha: 0.1, n_calibration: 9, threshold: Some(0.45) };
        assert_eq!(route(&sets, &[0.2, 0.7, 0.1]), Route::Small(1));
        assert_eq!(route(&sets, &[0.4, 0.3, 0.3]), Route::Escalated(vec![]), "nothing is likely enough");
        let wide = Sets { threshold: Some(0.65), ..sets.clone() };
        assert_eq!(route(&wide, &[0.4, 0.1, 0.5]), Route::Escalated(vec![2, 0]));
        let full = Sets { threshold: None, ..sets };
        assert_eq!(route(&full, &[0.9, 0.05, 0.05]), Route::Escalated(vec![0, 1, 2]));
    }

    #[test]
    fn too_few_rows_are_an_error_that_says_how_many() {
        let error = fit(&[0.9, 0.1].repeat(8), 2, &[0; 8], 0.1).unwrap_err();
        assert!(error.fix().contains("at least 9"), "{}", error.fix());
        assert!(fit(&[0.9, 0.1].repeat(9), 2, &[0; 9], 0.1).is_ok());
        for alpha in [0.0, 1.0, f64::NAN] {
            assert!(fit(&[0.9, 0.1].repeat(9), 2, &[0; 9], alpha).is_err(), "{alpha}");
        }
    }

    /// 400 seeded calibrations, 250 new rows each: the mean of every promised risk lies below its bound by more than four
    /// standard errors of chance could hide, and the miscoverage is the rank's own, so that a rank off by a little is seen.
    #[test]
    fn the_risks_are_below_what_is_promised_and_the_rank_is_exact() {
        const SPLITS: u64 = 400;
        const FRESH: usize = 250;
        for (n, alpha, beta) in [(40usize, 0.1, 0.1), (19, 0.05, 0.2), (99, 0.2, 0.05)] {
            let (mut missed, mut wrong, mut answered, mut either) = (0u64, 0u64, 0u64, 0u64);
            for seed in 0..SPLITS {
                let mut rng = crate::generator(seed, 3);
                let rows = draw(&mut rng, n);
                let small = fit(&rows.small, CLASSES, &rows.labels, alpha).unwrap();
                let large = fit(&rows.large, CLASSES, &rows.labels, beta).unwrap();
                let new = draw(&mut rng, FRESH);
                for i in 0..FRESH {
                    let of = |p: &[f64]| p[i * CLASSES..][..CLASSES].to_vec();
                    let truth = new.labels[i];
                    missed += u64::from(!small.labels(&of(&new.small)).contains(&truth));
                    match route(&small, &of(&new.small)) {
                        Route::Small(label) => {
                            answered += 1;
                            wrong += u64::from(label != truth);
                            either += u64::from(label != truth);
                        }
                        Route::Escalated(_) => {
                            either += u64::from(!large.labels(&of(&new.large)).contains(&truth));
                        }
                    }
                }
            }
            let total = (SPLITS as usize * FRESH) as f64;
            let share = |k: u64| k as f64 / total;
            let exact = 1.0 - rank(n, alpha) as f64 / (n + 1) as f64;
            let spread = 1.0 / (n + 2) as f64 + 1.0 / FRESH as f64;
            let four = |p: f64| 4.0 * (p * (1.0 - p) * spread / SPLITS as f64).sqrt();
            assert!(
                (share(missed) - exact).abs() < four(exact),
                "{n} {alpha}: {} is not {exact}",
                share(missed)
            );
            assert!(share(wrong) < alpha + four(alpha), "{n} {alpha}: {}", share(wrong));
            assert!(
                share(either) < alpha + beta + four(alpha + beta),
                "{n} {alpha} {beta}: {}",
                share(either)
            );
            // The promise is not kept by never answering, and what it does not say is not so: among the answered more are
            // wrong than alpha where few are answered.
            assert!(share(answered) > 0.02, "{n} {alpha}: {}", share(answered));
            assert!(wrong as f64 / answered as f64 > share(wrong));
        }
    }

    /// How often the miscoverage of a calibration exceeds its bound: no oftener than promised.
    #[test]
    fn the_bound_given_the_rows_holds_as_often_as_it_says() {
        let (n, alpha, delta) = (50usize, 0.1, 0.1);
        let bound = miscoverage_bound(n, alpha, delta);
        assert!(bound > alpha && bound < 0.2, "{bound}");
        let mut above = 0;
        const CALIBRATIONS: u64 = 400;
        for seed in 0..CALIBRATIONS {
            let mut rng = crate::generator(seed, 4);
            // A uniform score: the miscoverage of a threshold q is 1 − q.
            let mut scores: Vec<f64> = (0..n).map(|_| rng.random()).collect();
            scores.sort_by(f64::total_cmp);
            above += u64::from(1.0 - scores[rank(n, alpha) - 1] > bound);
        }
        let [low, high] = share::share(above, CALIBRATIONS).unwrap().ci95;
        assert!(low <= delta && delta <= high, "{above} of {CALIBRATIONS}");
        // scipy.stats.beta.ppf(0.9, 5, 46)
        assert!((bound - 0.153_548_151_904).abs() < 1e-9, "{bound}");
    }
}
