//! How unlike the training rows one row is: from its features, and from the model's own logits.

use crate::drift::sketch::{Values, tail};
use crate::error::RobustError;
use lyceum_types::manifest::FeatureSketch;

/// A score from the logits, larger for stranger rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScore {
    /// `1 − max_c p_c` (Hendrycks & Gimpel 2017).
    MaxProbability,
    /// `−lse(z)` (Liu et al. 2020).
    Energy,
}

impl LogitScore {
    pub fn of(self, logits: &[f32]) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|z| f64::from(z - max).exp()).sum();
        match self {
            LogitScore::MaxProbability => 1.0 - 1.0 / total,
            LogitScore::Energy => -(total.ln() + f64::from(max)),
        }
    }
}

/// Scores of rows that did not train the model, to compare with.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub score: LogitScore,
    sorted: Vec<f64>,
}

impl Reference {
    /// From logits `[n, classes]`.
    ///
    /// # Errors
    /// No rows, or logits that are not numbers.
    pub fn new(score: LogitScore, logits: &[f32], n_classes: usize) -> Result<Self, RobustError> {
        if n_classes == 0 || logits.is_empty() || !logits.len().is_multiple_of(n_classes) {
            return Err(RobustError::Rows(format!(
                "{} numbers are no logits of {n_classes} classes",
                logits.len()
            )));
        }
        if let Some(at) = logits.iter().position(|z| !z.is_finite()) {
            return Err(RobustError::NotFinite { row: at / n_classes });
        }
        let mut sorted: Vec<f64> = logits.chunks_exact(n_classes).map(|z| score.of(z)).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Ok(Reference { score, sorted })
    }

    pub fn n(&self) -> usize {
        self.sorted.len()
    }

    /// `(1 + #{reference rows at least as strange}) / (n + 1)`: for a row like the reference rows it is below any
    /// `α` with probability at most `α`.
    pub fn p_value(&self, logits: &[f32]) -> f64 {
        let own = self.score.of(logits);
        let stranger = self.sorted.len() - self.sorted.partition_point(|s| *s < own);
        (1 + stranger) as f64 / (self.sorted.len() + 1) as f64
    }
}

/// How strange a row's features are beside the training rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Strangeness {
    /// `1 − min(1, m · smallest tail)` over the `m` features: Bonferroni's correction of the strangest one.
    pub score: f64,
    /// The strangest feature and the share of training rows at least as far out.
    pub feature: String,
    pub tail: f64,
}

/// The strangeness of one row, each feature with one value.
///
/// # Errors
/// No features, or one without a sketch.
pub fn strangeness(
    sketches: &[FeatureSketch],
    features: &[(String, Values)],
) -> Result<Strangeness, RobustError> {
    let mut strangest: Option<(f64, &str)> = None;
    for (name, values) in features {
        let sketch = sketches
            .iter()
            .find(|s| &s.name == name)
            .ok_or_else(|| RobustError::Rows(format!("the manifest has no sketch of \"{name}\"")))?;
        let share = |count: u64| (count.max(1) as f64 / (sketch.n + 1) as f64).min(1.0);
        let tail = match values {
            Values::Numbers(values) => match values.first() {
                Some(Some(x)) => tail(sketch, *x),
                _ => share(sketch.n_missing),
            },
            Values::Names(values) => match values.first() {
                Some(Some(value)) => names_tail(sketch, value),
                _ => share(sketch.n_missing),
            },
        };
        if strangest.is_none_or(|(t, _)| tail < t) {
            strangest = Some((tail, name));
        }
    }
    let (tail, feature) = strangest.ok_or_else(|| RobustError::Rows("the row has no features".into()))?;
    let score = 1.0 - (features.len() as f64 * tail).min(1.0);
    Ok(Strangeness { score, feature: feature.to_owned(), tail })
}

/// The share of training rows whose name is at most as frequent.
fn names_tail(sketch: &FeatureSketch, value: &str) -> f64 {
    let own = sketch.counts.get(value).copied().unwrap_or(0);
    let rarer: u64 = sketch.counts.values().filter(|count| **count <= own).sum();
    let kept: u64 = sketch.counts.values().sum();
    // Names beyond the sketch's list are rarer than all on it.
    let beyond = (sketch.n - sketch.n_missing).saturating_sub(kept);
    let rows = if own > 0 { rarer + beyond } else { 0 };
    (rows.max(1) as f64 / (sketch.n - sketch.n_missing + 1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::space::gaussian;
    use lyceum_types::manifest::SKETCH_QUANTILES;
    use std::collections::BTreeMap;

    #[test]
    fn p_values_of_rows_like_the_reference_are_uniform_and_flat_logits_are_strange() {
        let mut rng = crate::generator(4, 0);
        let mut draw = |n: usize| -> Vec<f32> { (0..3 * n).map(|_| gaussian(&mut rng) * 3.0).collect() };
        for score in [LogitScore::MaxProbability, LogitScore::Energy] {
            let reference = Reference::new(score, &draw(400), 3).unwrap();
            let p: Vec<f64> = draw(500).chunks(3).map(|z| reference.p_value(z)).collect();
            let below = p.iter().filter(|p| **p <= 0.1).count() as f64 / 500.0;
            assert!((below - 0.1).abs() < 0.06, "{score:?}: {below}");
            assert!(reference.p_value(&[-9.0, -9.0, -9.0]) < 0.02, "{score:?}");
        }
        assert!((LogitScore::Energy.of(&[1.0, 1.0]) + 1.0 + 2f64.ln()).abs() < 1e-12);
        assert!(Reference::new(LogitScore::Energy, &[], 3).is_err());
    }

    #[test]
    fn the_strangest_feature_is_named() {
        let number = FeatureSketch {
            name: "age".into(),
            n: 999,
            n_missing: 0,
            mean: None,
            std: None,
            min: Some(0.0),
            max: Some(100.0),
            quantiles: SKETCH_QUANTILES.iter().map(|p| p * 100.0).collect(),
            counts: BTreeMap::new(),
        };
        let names = FeatureSketch {
            name: "zip".into(),
            quantiles: vec![],
            counts: BTreeMap::from([("a".into(), 900), ("b".into(), 99)]),
            ..number.clone()
        };
        let sketches = [number, names];
        let row = |age: f64, zip: &str| {
            vec![
                ("age".to_owned(), Values::Numbers(vec![Some(age)])),
                ("zip".to_owned(), Values::Names(vec![Some(zip.to_owned())])),
            ]
        };
        let usual = strangeness(&sketches, &row(50.0, "a")).unwrap();
        assert_eq!(usual.score, 0.0);
        let old = strangeness(&sketches, &row(400.0, "a")).unwrap();
        assert_eq!((old.feature.as_str(), old.tail), ("age", 1e-3));
        assert!((old.score - 0.998).abs() < 1e-12);
        let unseen = strangeness(&sketches, &row(50.0, "c")).unwrap();
        assert_eq!((unseen.feature.as_str(), unseen.tail), ("zip", 1e-3));
        assert!(strangeness(&sketches, &[]).is_err());
    }
}
