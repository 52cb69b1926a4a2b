//! Sets of labels and intervals of numbers that hold the truth with a stated probability (Vovk et al. 2005;
//! Angelopoulos & Bates 2021, arXiv:2107.07511).
//!
//! Split conformal prediction: scores `s_i` of `n` rows that did not train the model; with
//! `k = ⌈(n + 1)(1 − α)⌉` the threshold is the k-th smallest score, and
//! `1 − α ≤ P(Y in the set) < 1 − α + 1/(n + 1)` (the upper side where no scores tie).
//!
//! What this promises and what not: the coverage is **marginal**, over calibration rows and new rows together,
//! not for each row or group; and it needs **exchangeable** rows, so it ends where the data drifts. With `k > n`
//! there is no threshold: sets are full and intervals are refused.

use crate::error::{RobustError, probability};

/// What is said beside every set and interval.
pub const GUARANTEE: &str = "marginal coverage for rows exchangeable with the calibration rows; not for each row, group or after drift";

/// How unlikely a label looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// `1 − p_y` (Sadinle et al. 2019): the smallest sets on average.
    Lac,
    /// The probability of all labels at least as likely as `y` (Romano et al. 2020, without randomisation): sets
    /// that are larger for harder rows.
    Aps,
}

impl Score {
    pub fn name(self) -> &'static str {
        match self {
            Score::Lac => "lac",
            Score::Aps => "aps",
        }
    }

    /// The score of every label.
    pub fn of(self, probabilities: &[f64]) -> Vec<f64> {
        match self {
            Score::Lac => probabilities.iter().map(|p| 1.0 - p).collect(),
            Score::Aps => {
                let at_least = |p: f64| probabilities.iter().filter(|&&q| q >= p).sum::<f64>();
                probabilities.iter().map(|&p| at_least(p)).collect()
            }
        }
    }
}

/// The rank `⌈(n + 1)(1 − α)⌉`.
pub fn rank(n: usize, alpha: f64) -> usize {
    // A product that is whole but for rounding is whole.
    ((n + 1) as f64 * (1.0 - alpha) - 1e-9).ceil() as usize
}

/// The smallest number of calibration rows that gives a threshold at this level.
pub fn n_min(alpha: f64) -> usize {
    (1..).find(|&n| rank(n, alpha) <= n).expect("alpha is above 0: bug")
}

/// The threshold of some scores; None where there are too few.
fn threshold(mut scores: Vec<f64>, alpha: f64) -> Option<f64> {
    let k = rank(scores.len(), alpha);
    if k > scores.len() {
        return None;
    }
    scores.sort_unstable_by(f64::total_cmp);
    Some(scores[k.max(1) - 1])
}

/// Prediction sets of a classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Sets {
    pub score: Score,
    pub alpha: f64,
    pub n_calibration: usize,
    /// None: too few rows, every set is full.
    pub threshold: Option<f64>,
}

impl Sets {
    /// Fits on probabilities `[n, classes]`.
    ///
    /// # Errors
    /// Rows that do not fit, or alpha outside 0 to 1.
    pub fn fit(
        probabilities: &[f64],
        n_classes: usize,
        labels: &[u32],
        score: Score,
        alpha: f64,
    ) -> Result<Self, RobustError> {
        probability("alpha", alpha)?;
        let narrow: Vec<f32> = probabilities.iter().map(|p| *p as f32).collect();
        crate::calibrate::check(&narrow, n_classes, labels)?;
        let rows = probabilities.chunks_exact(n_classes).zip(labels);
        let scores = rows.map(|(p, &label)| score.of(p)[label as usize]).collect();
        Ok(Sets { score, alpha, n_calibration: labels.len(), threshold: threshold(scores, alpha) })
    }

    /// The labels of one row, likeliest first.
    pub fn labels(&self, probabilities: &[f64]) -> Vec<u32> {
        let scores = self.score.of(probabilities);
        // A sum of the same numbers may differ in its last digit.
        let inside = |c: &usize| self.threshold.is_none_or(|t| scores[*c] <= t + 1e-12);
        let mut labels: Vec<usize> = (0..probabilities.len()).filter(inside).collect();
        labels.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        labels.into_iter().map(|c| c as u32).collect()
    }
}

/// Prediction intervals of a regression: `ŷ ± width` for each of its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    pub alpha: f64,
    pub n_calibration: usize,
    /// Of each number that the model answers with, in the units of the predictions. Each holds by itself, not all
    /// together.
    pub half_widths: Vec<f64>,
}

impl Intervals {
    /// Fits on predictions and targets `[n, width]`.
    ///
    /// # Errors
    /// Rows that do not fit, alpha outside 0 to 1, or too few rows for a finite interval.
    pub fn fit(predictions: &[f64], targets: &[f64], width: usize, alpha: f64) -> Result<Self, RobustError> {
        probability("alpha", alpha)?;
        if width == 0 || predictions.len() != targets.len() || !targets.len().is_multiple_of(width) {
            let text = format!("{} predictions of {} targets", predictions.len(), targets.len());
            return Err(RobustError::Rows(text));
        }
        if let Some(at) = (0..targets.len()).find(|&i| !(predictions[i] - targets[i]).is_finite()) {
            return Err(RobustError::NotFinite { row: at / width });
        }
        let n = targets.len() / width;
        let residuals =
            |w: usize| (0..n).map(|i| (predictions[i * width + w] - targets[i * width + w]).abs()).collect();
        let half_widths: Option<Vec<f64>> = (0..width).map(|w| threshold(residuals(w), alpha)).collect();
        match half_widths {
            Some(half_widths) => Ok(Intervals { alpha, n_calibration: n, half_widths }),
            None => Err(RobustError::unsupported(
                "a prediction interval",
                format!("{n} calibration rows are too few for alpha = {alpha}: it would be infinite"),
                format!("give at least {} validation rows, or a larger alpha", n_min(alpha)),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::probabilities;
    use lyceum_models::space::gaussian;
    use rand::RngExt;

    #[test]
    fn ranks_are_the_finite_sample_ones() {
        for (n, alpha, k) in
            [(9, 0.1, 9), (10, 0.1, 10), (99, 0.05, 95), (100, 0.05, 96), (19, 0.05, 19), (5, 0.1, 6)]
        {
            assert_eq!(rank(n, alpha), k, "{n} {alpha}");
        }
        assert_eq!((n_min(0.1), n_min(0.05), n_min(0.01)), (9, 19, 99));
    }

    #[test]
    fn too_few_rows_give_the_full_set_or_an_error() {
        let sets = Sets::fit(&[0.9, 0.1].repeat(8), 2, &[0; 8], Score::Lac, 0.1).unwrap();
        assert_eq!((sets.threshold, sets.labels(&[0.3, 0.7])), (None, vec![1, 0]));
        let error = Intervals::fit(&[1.0; 8], &[1.5; 8], 1, 0.1).unwrap_err();
        assert!(error.fix().contains("at least 9"), "{}", error.fix());
        assert_eq!(Intervals::fit(&[1.0; 9], &[1.5; 9], 1, 0.1).unwrap().half_widths, [0.5]);
    }

    /// Coverage over 200 seeded splits: its mean lies where the theorem says.
    #[test]
    fn coverage_holds_over_two_hundred_splits() {
        const N: usize = 60;
        const FRESH: usize = 200;
        for (score, alpha) in [(Score::Lac, 0.1), (Score::Aps, 0.1), (Score::Lac, 0.25)] {
            let mut covered = 0;
            for seed in 0..200 {
                let mut rng = crate::generator(seed, 1);
                let mut draw = |n: usize| {
                    let (mut p, mut labels) = (Vec::new(), Vec::new());
                    for _ in 0..n {
                        let z: [f32; 5] = std::array::from_fn(|_| gaussian(&mut rng) * 1.5);
                        let truth = probabilities(&z, 5, 1.0);
                        let mut at = rng.random::<f64>();
                        labels.push(
                            truth
                                .iter()
                                .position(|p| {
                                    at -= p;
                                    at < 0.0
                                })
                                .unwrap_or(4) as u32,
                        );
                        // The model is three times too sure: coverage does not need it to be right.
                        p.extend(probabilities(&z, 5, 1.0 / 3.0));
                    }
                    (p, labels)
                };
                let (p, labels) = draw(N);
                let sets = Sets::fit(&p, 5, &labels, score, alpha).unwrap();
                let (p, labels) = draw(FRESH);
                let inside = |(p, label): (&[f64], &u32)| sets.labels(p).contains(label);
                covered += p.chunks(5).zip(&labels).filter(|&row| inside(row)).count();
            }
            let coverage = covered as f64 / (200 * FRESH) as f64;
            let exact = rank(N, alpha) as f64 / (N + 1) as f64;
            // Four standard errors of the mean of 200 splits (Beta(k, n + 1 − k) and the binomial's).
            let error =
                4.0 * (exact * (1.0 - exact) * (1.0 / (N + 2) as f64 + 1.0 / FRESH as f64) / 200.0).sqrt();
            assert!(coverage > 1.0 - alpha - error, "{score:?} {alpha}: {coverage}");
            // Only APS may be wider: where it ties at 1, sets hold more than they must.
            assert!(score == Score::Aps || (coverage - exact).abs() < error, "{score:?}: {coverage} {exact}");
        }
    }

    #[test]
    fn intervals_cover_over_two_hundred_splits() {
        let (n, alpha) = (39, 0.1);
        let mut covered = 0;
        for seed in 0..200 {
            let mut rng = crate::generator(seed, 2);
            let mut draw =
                |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(gaussian(&mut rng)).powi(3)).collect() };
            let found = Intervals::fit(&vec![0.0; n], &draw(n), 1, alpha).unwrap();
            covered += draw(100).iter().filter(|y| y.abs() <= found.half_widths[0]).count();
        }
        let coverage = covered as f64 / 20_000.0;
        assert!((coverage - 36.0 / 40.0).abs() < 0.016, "{coverage}");
    }
}
