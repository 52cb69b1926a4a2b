//! Candidates on the same rows with the same seeds: how good each is, and whether two differ.
//!
//! A candidate is a recipe, not one lucky training, so both what rows and what seeds it met are chance. With the
//! loss `ℓ[s][i]` of seed s (of S) at row i (of n), the mean's variance is taken as
//! `σ²_rows / n + σ²_seeds / S`: the variance over rows of the means over seeds, and over seeds of the means over rows
//! (their interaction is counted twice, which errs on the careful side). Degrees of freedom are Satterthwaite's.
//! Rows that overlap in time are corrected with Bartlett's weights (Newey & West 1987). One seed of a classifier is
//! compared by McNemar's mid-p test.

use lyceum_train::eval::{self, EvalError};
use lyceum_types::manifest::Metric;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Below this a difference is called one.
pub const ALPHA: f64 = 0.05;
/// With which probability the rows that "would separate" two models would do so.
pub const POWER: f64 = 0.8;

/// What a row's number is; smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// 1 where the answer is wrong: reported as accuracy.
    Error,
    /// Squared, in the target's units: reported as its root.
    Squared,
    /// 1 where an answer is not the reference: reported as exact matches.
    Match,
    /// The share of an answer's tokens that are not the reference's: reported as token accuracy.
    Tokens,
    /// Nats a token of the reference: reported as perplexity.
    Nats,
}

impl Loss {
    /// The name of what is reported.
    pub fn metric(self) -> &'static str {
        match self {
            Loss::Error => "accuracy",
            Loss::Squared => "rmse",
            Loss::Match => "exact_match",
            Loss::Tokens => "token_accuracy",
            Loss::Nats => "perplexity",
        }
    }

    /// Reported as a share, of which more is better.
    pub fn is_share(self) -> bool {
        matches!(self, Loss::Error | Loss::Match | Loss::Tokens)
    }

    /// Each row is right or wrong.
    fn is_binary(self) -> bool {
        matches!(self, Loss::Error | Loss::Match)
    }

    /// A mean loss as the metric.
    pub fn of(self, mean: f64) -> f64 {
        match self {
            Loss::Error | Loss::Match | Loss::Tokens => 1.0 - mean,
            Loss::Squared => mean.max(0.0).sqrt(),
            Loss::Nats => mean.exp(),
        }
    }
}

/// A candidate's losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    pub loss: Loss,
    /// One list a seed, all of the same rows. A method without chance has one, which counts as every seed's.
    pub seeds: Vec<Vec<f64>>,
    /// How far rows depend on each other: `horizon − 1` for forecasts that overlap, else 0.
    pub lags: usize,
}

/// Whether two candidates differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// Mean loss of the first less the second's.
    pub difference: f64,
    /// 95 % interval of it.
    pub ci95: [f64; 2],
    /// Two-sided.
    pub p: f64,
    pub test: &'static str,
    /// Of one row's difference.
    pub row_std: f64,
}

/// What would tell two models apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separation {
    /// About so many rows (with [`POWER`]).
    Rows(u64),
    /// There are rows enough: more seeds would.
    Seeds,
    /// Nothing: they have the same mean.
    Nothing,
}

struct Spread {
    mean: f64,
    variance: f64,
    degrees: f64,
    row_variance: f64,
}

impl Scores {
    pub fn n_rows(&self) -> usize {
        self.seeds.first().map_or(0, Vec::len)
    }

    /// The mean over rows and seeds.
    pub fn mean(&self) -> f64 {
        let (sum, n) =
            self.seeds.iter().fold((0.0, 0), |(sum, n), s| (sum + s.iter().sum::<f64>(), n + s.len()));
        sum / n.max(1) as f64
    }

    /// The metric with its 95 % interval over rows and seeds.
    ///
    /// # Errors
    /// No rows.
    pub fn quality(&self) -> Result<Metric, EvalError> {
        let n = self.n_rows();
        if self.loss.is_binary() && self.seeds.len() == 1 {
            let right = self.seeds[0].iter().filter(|&&loss| loss == 0.0).count();
            return eval::wilson(right as u64, n as u64);
        }
        let spread = self.spread()?;
        let half = spread.half();
        let (low, high) = (spread.mean - half, spread.mean + half);
        let ci95 = match self.loss.is_share() {
            true => [(1.0 - high).max(0.0), (1.0 - low).min(1.0)],
            false => [self.loss.of(low), self.loss.of(high)],
        };
        Ok(Metric { value: self.loss.of(spread.mean), ci95, n: n as u64 })
    }

    /// The paired test on the rows and seeds that both have.
    ///
    /// # Errors
    /// No rows, or candidates that saw different ones.
    pub fn compare(&self, other: &Scores) -> Result<Paired, EvalError> {
        let metric = "paired test";
        if self.n_rows() != other.n_rows() {
            return Err(EvalError::Lengths { metric, left: self.n_rows(), right: other.n_rows() });
        }
        let n_seeds = match (self.seeds.len(), other.seeds.len()) {
            (a, 1) | (1, a) => a,
            (a, b) => a.min(b),
        };
        let of = |scores: &Scores, s: usize| if scores.seeds.len() == 1 { 0 } else { s };
        let differences = |s: usize| {
            let (a, b) = (&self.seeds[of(self, s)], &other.seeds[of(other, s)]);
            a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>()
        };
        let both =
            Scores { loss: self.loss, seeds: (0..n_seeds).map(differences).collect(), lags: self.lags };
        let spread = both.spread()?;
        let half = spread.half();
        let ci95 = [spread.mean - half, spread.mean + half];
        let row_std = spread.row_variance.sqrt();
        if self.loss.is_binary() && n_seeds == 1 {
            let right = |scores: &Scores| scores.seeds[0].iter().map(|&loss| loss == 0.0).collect::<Vec<_>>();
            let p = eval::mcnemar(&right(self), &right(other))?.p_mid;
            return Ok(Paired { difference: spread.mean, ci95, p, test: "mcnemar_mid_p", row_std });
        }
        let test = match (n_seeds, self.lags) {
            (1, 0) => "paired_t",
            (1, _) => "diebold_mariano",
            (_, 0) => "paired_t_rows_and_seeds",
            (_, _) => "diebold_mariano_rows_and_seeds",
        };
        Ok(Paired { difference: spread.mean, ci95, p: spread.p(), test, row_std })
    }

    fn spread(&self) -> Result<Spread, EvalError> {
        let (n, n_seeds) = (self.n_rows(), self.seeds.len());
        if n < 2 {
            return Err(EvalError::Empty { metric: "paired test" });
        }
        if let Some(row) = self.seeds.iter().flatten().position(|loss| !loss.is_finite()) {
            return Err(EvalError::NotFinite { metric: "paired test", row: row % n });
        }
        let rows: Vec<f64> =
            (0..n).map(|i| self.seeds.iter().map(|s| s[i]).sum::<f64>() / n_seeds as f64).collect();
        let mean = rows.iter().sum::<f64>() / n as f64;
        let covariance = |lag: usize| {
            rows[lag..].iter().zip(&rows).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / (n - 1) as f64
        };
        let lags = self.lags.min(n - 1);
        let weighed = |lag: usize| 2.0 * (1.0 - lag as f64 / (lags + 1) as f64) * covariance(lag);
        let row_variance = (covariance(0) + (1..=lags).map(weighed).sum::<f64>()).max(0.0);
        let of_rows = row_variance / n as f64;
        let of_seeds = if n_seeds < 2 {
            0.0
        } else {
            let means = self.seeds.iter().map(|s| s.iter().sum::<f64>() / n as f64);
            means.map(|m| (m - mean).powi(2)).sum::<f64>() / (n_seeds - 1) as f64 / n_seeds as f64
        };
        let variance = of_rows + of_seeds;
        let seeds_part = if n_seeds < 2 { 0.0 } else { of_seeds.powi(2) / (n_seeds - 1) as f64 };
        let degrees = variance.powi(2) / (of_rows.powi(2) / (n - 1) as f64 + seeds_part);
        Ok(Spread { mean, variance, degrees, row_variance })
    }
}

impl Spread {
    /// Half of the 95 % interval.
    fn half(&self) -> f64 {
        if self.variance <= 0.0 { 0.0 } else { self.student().inverse_cdf(0.975) * self.variance.sqrt() }
    }

    fn p(&self) -> f64 {
        if self.variance <= 0.0 {
            // Every difference is the same: no doubt about its sign, or none to have.
            return if self.mean == 0.0 { 1.0 } else { 0.0 };
        }
        (2.0 * self.student().sf((self.mean / self.variance.sqrt()).abs())).min(1.0)
    }

    fn student(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.degrees.max(1.0)).expect("degrees of freedom are above 0: bug")
    }
}

impl Paired {
    /// What would tell the two apart at [`ALPHA`] over `n_comparisons` (Bonferroni's bound), from
    /// `n = ((z_{1−α/2m} + z_power) · σ / δ)²`.
    pub fn separation(&self, n_rows: usize, n_comparisons: usize) -> Separation {
        if self.difference == 0.0 {
            return Separation::Nothing;
        }
        let normal = Normal::standard();
        let alpha = ALPHA / n_comparisons.max(1) as f64;
        let z = normal.inverse_cdf(1.0 - alpha / 2.0) + normal.inverse_cdf(POWER);
        let rows = (z * self.row_std / self.difference).powi(2).ceil();
        if rows <= n_rows as f64 { Separation::Seeds } else { Separation::Rows(rows.min(1e18) as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};

    fn squared(seeds: Vec<Vec<f64>>) -> Scores {
        Scores { loss: Loss::Squared, seeds, lags: 0 }
    }

    #[test]
    fn one_seed_is_students_paired_t_test_and_mcnemars() {
        let (a, b) = (vec![1.0, 2.0, 3.5, 0.5, 2.0], vec![1.5, 1.0, 4.0, 1.5, 3.0]);
        let paired = squared(vec![a.clone()]).compare(&squared(vec![b.clone()])).unwrap();
        let (_, p) = eval::paired_t(&a, &b, 0).unwrap();
        assert!((paired.p - p).abs() < 1e-9, "{} {p}", paired.p);
        let errors = |bits: &[u8]| Scores {
            loss: Loss::Error,
            seeds: vec![bits.iter().map(|&b| f64::from(b)).collect()],
            lags: 0,
        };
        let (a, b) = (errors(&[0, 0, 1, 0, 0, 1]), errors(&[1, 1, 1, 1, 0, 0]));
        let paired = a.compare(&b).unwrap();
        assert_eq!(paired.test, "mcnemar_mid_p");
        assert!((paired.difference + 2.0 / 6.0).abs() < 1e-12);
        // scipy.stats.binomtest(1, 4).pvalue − binom.pmf(1, 4, 0.5)
        assert!((paired.p - (0.625 - 0.25)).abs() < 1e-12, "{}", paired.p);
    }

    /// The careful variance holds its level where both rows and seeds scatter: a null of equal recipes.
    #[test]
    fn equal_recipes_are_called_different_no_more_often_than_alpha() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut called = 0;
        for _ in 0..400 {
            let rows: Vec<f64> = (0..200).map(|_| rng.random::<f64>()).collect();
            let mut recipe = || {
                let seeds = (0..5).map(|_| {
                    let shift = 0.3 * rng.random::<f64>();
                    rows.iter().map(|row| row + shift + 0.5 * rng.random::<f64>()).collect()
                });
                squared(seeds.collect())
            };
            let (a, b) = (recipe(), recipe());
            called += usize::from(a.compare(&b).unwrap().p < ALPHA);
        }
        assert!(called <= 32, "{called} of 400");
    }

    #[test]
    fn the_rows_that_would_separate_do_so_about_as_often_as_the_power_says() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(6);
        let mut pair = |n: usize| {
            let differ = |_| {
                if rng.random::<f64>() < 0.1 {
                    (1.0, 0.0)
                } else if rng.random::<f64>() < 0.05 {
                    (0.0, 1.0)
                } else {
                    (0.0, 0.0)
                }
            };
            let (a, b): (Vec<f64>, Vec<f64>) = (0..n).map(differ).unzip();
            let of = |seed| Scores { loss: Loss::Error, seeds: vec![seed], lags: 0 };
            of(a).compare(&of(b)).unwrap()
        };
        let truth = Paired {
            difference: 0.055,
            ci95: [0.0; 2],
            p: 1.0,
            test: "",
            row_std: (0.1f64 + 0.9 * 0.05 - 0.055 * 0.055).sqrt(),
        };
        let Separation::Rows(n) = truth.separation(10, 1) else { panic!() };
        let found = (0..200).filter(|_| pair(n as usize).p < ALPHA).count();
        assert!((140..=185).contains(&found), "{found} of 200 with {n} rows");
    }

    proptest! {
        #[test]
        fn a_comparison_turned_round_says_the_same(
            a in prop::collection::vec(prop::collection::vec(0.0f64..3.0, 12), 1..4),
            b in prop::collection::vec(prop::collection::vec(0.0f64..3.0, 12), 1..4),
        ) {
            let (a, b) = (squared(a), squared(b));
            let (one, two) = (a.compare(&b).unwrap(), b.compare(&a).unwrap());
            prop_assert!((one.difference + two.difference).abs() < 1e-12);
            prop_assert!((one.p - two.p).abs() < 1e-9);
            prop_assert!(one.ci95[0] <= one.difference && one.difference <= one.ci95[1]);
            let quality = a.quality().unwrap();
            prop_assert!(quality.ci95[0] <= quality.value && quality.value <= quality.ci95[1]);
        }

        #[test]
        fn a_candidate_ties_with_itself(a in prop::collection::vec(prop::collection::vec(0.0f64..3.0, 9), 1..4)) {
            let a = squared(a);
            let paired = a.compare(&a).unwrap();
            prop_assert_eq!(paired.p, 1.0);
            prop_assert_eq!(paired.separation(9, 1), Separation::Nothing);
        }
    }
}
