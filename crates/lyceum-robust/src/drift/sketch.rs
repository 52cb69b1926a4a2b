//! New rows against the sketches that a model's manifest keeps of its training rows.
//!
//! A sketch knows a number's distribution function `F` at 15 points only, and there up to jumps: with `n` rows and
//! the quantile `q` between the order statistics `k` and `k + 1` (from 0), `F(q) ≥ (k + 1) / n` and
//! `F(q−) ≤ (k + [q > x_k]) / n`. The largest distance that these force is a lower bound of the
//! Kolmogorov–Smirnov statistic, and its p-value an upper bound: no drift is invented, and one between the points
//! can be missed. PSI and Wasserstein take the distribution as straight between the points.

use super::{Tested, benjamini_hochberg, chi_squared, holm, ks_p_value, psi};
use crate::error::RobustError;
use lyceum_types::manifest::{FeatureSketch, SKETCH_QUANTILES};
use std::collections::BTreeMap;

/// A name is joined with the rest where fewer rows than this would be expected of it.
const EXPECTED_MIN: f64 = 5.0;

/// The new values of one feature; None where missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Numbers(Vec<Option<f64>>),
    Names(Vec<Option<String>>),
}

/// What one feature's values say.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureDrift {
    pub name: String,
    /// `ks` (a lower bound, see the module) or `chi_squared`.
    pub test: &'static str,
    pub tested: Tested,
    /// After Holm's and after Benjamini and Hochberg's correction over all tests of the comparison.
    pub p_holm: f64,
    pub p_bh: f64,
    pub psi: f64,
    /// For numbers, in standard deviations of the training rows where these are known and not 0.
    pub wasserstein: Option<f64>,
    /// Whether values are missing more or less often, where any are.
    pub missing: Option<Tested>,
    pub n: u64,
    pub n_reference: u64,
}

/// Compares features with their sketches, in the order given.
///
/// # Errors
/// A feature without rows or without a sketch, or a sketch of another kind.
pub fn compare(
    sketches: &[FeatureSketch],
    features: &[(String, Values)],
) -> Result<Vec<FeatureDrift>, RobustError> {
    let mut found = Vec::new();
    for (name, values) in features {
        let sketch = find(sketches, name)?;
        let mut counter = Counter::new();
        match values {
            Values::Numbers(values) => {
                let present: Vec<f64> = values.iter().flatten().copied().collect();
                let x = super::distance::sorted(&present)
                    .map_err(|error| RobustError::Rows(format!("\"{name}\": {error}")))?;
                values.iter().for_each(|x| counter.number(sketch, *x));
                let mut drift = numbers(sketch, &counter)?;
                let moved = wasserstein(&sketch.quantiles, &x);
                drift.wasserstein = sketch.std.filter(|std| *std > 0.0).map(|std| moved / std);
                found.push(drift);
            }
            Values::Names(values) => {
                values.iter().for_each(|name| counter.name(sketch, name.as_deref()));
                found.push(names(sketch, &counter)?);
            }
        }
    }
    Ok(corrected(found))
}

/// Corrects for all tests of the comparison, those of missing values too.
fn corrected(mut found: Vec<FeatureDrift>) -> Vec<FeatureDrift> {
    let own = found.iter().map(|f| f.tested.p_value);
    let all: Vec<f64> = own.chain(found.iter().filter_map(|f| f.missing.map(|m| m.p_value))).collect();
    let (holm, bh) = (holm(&all), benjamini_hochberg(&all));
    for (i, f) in found.iter_mut().enumerate() {
        (f.p_holm, f.p_bh) = (holm[i], bh[i]);
    }
    found
}

/// Counts of one feature's values beside its sketch: all that a window of rows leaves behind, and none of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    n: u64,
    n_missing: u64,
    /// Values up to each of the sketch's points, and below it.
    up_to: [u64; SKETCH_QUANTILES.len()],
    below: [u64; SKETCH_QUANTILES.len()],
    /// Names that the sketch knows; the others together.
    names: BTreeMap<String, u64>,
    others: u64,
}

impl Counter {
    pub fn new() -> Self {
        Counter {
            n: 0,
            n_missing: 0,
            up_to: [0; SKETCH_QUANTILES.len()],
            below: [0; SKETCH_QUANTILES.len()],
            names: BTreeMap::new(),
            others: 0,
        }
    }

    pub fn n(&self) -> u64 {
        self.n
    }

    /// Counts a number; None where it is missing.
    pub fn number(&mut self, sketch: &FeatureSketch, x: Option<f64>) {
        self.n += 1;
        let Some(x) = x else {
            self.n_missing += 1;
            return;
        };
        for (i, q) in sketch.quantiles.iter().take(self.up_to.len()).enumerate() {
            self.up_to[i] += u64::from(x <= *q);
            self.below[i] += u64::from(x < *q);
        }
    }

    /// Counts a name; None where it is missing.
    pub fn name(&mut self, sketch: &FeatureSketch, name: Option<&str>) {
        self.n += 1;
        match name {
            None => self.n_missing += 1,
            Some(name) if sketch.counts.contains_key(name) => {
                *self.names.entry(name.to_owned()).or_default() += 1;
            }
            Some(_) => self.others += 1,
        }
    }

    fn n_present(&self) -> u64 {
        self.n - self.n_missing
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

/// As [`compare`], from counts; without Wasserstein's distance, which needs the values.
///
/// # Errors
/// A feature without rows or without a sketch.
pub fn compare_counts(
    sketches: &[FeatureSketch],
    features: &[(String, Counter)],
) -> Result<Vec<FeatureDrift>, RobustError> {
    let found = features.iter().map(|(name, counter)| {
        let sketch = find(sketches, name)?;
        if sketch.quantiles.is_empty() { names(sketch, counter) } else { numbers(sketch, counter) }
    });
    Ok(corrected(found.collect::<Result<_, _>>()?))
}

fn find<'s>(sketches: &'s [FeatureSketch], name: &str) -> Result<&'s FeatureSketch, RobustError> {
    let found = sketches.iter().find(|s| s.name == name);
    found.ok_or_else(|| RobustError::Rows(format!("the manifest has no sketch of \"{name}\"")))
}

fn numbers(sketch: &FeatureSketch, counter: &Counter) -> Result<FeatureDrift, RobustError> {
    let n = counter.n_present();
    if n == 0 {
        return Err(RobustError::Rows(format!("\"{}\" has no values", sketch.name)));
    }
    if sketch.quantiles.len() != SKETCH_QUANTILES.len() {
        return Err(RobustError::Rows(format!("the sketch of \"{}\" is not one of numbers", sketch.name)));
    }
    let n_reference = sketch.n - sketch.n_missing;
    let statistic = distance_bound(n_reference, counter);
    let tested = Tested { statistic, p_value: ks_p_value(statistic, n_reference, n) };
    let (expected, actual) = decile_bins(&sketch.quantiles, counter);
    Ok(FeatureDrift {
        name: sketch.name.clone(),
        test: "ks",
        tested,
        p_holm: tested.p_value,
        p_bh: tested.p_value,
        psi: psi(&expected, &actual)?,
        wasserstein: None,
        missing: missing(sketch, counter)?,
        n: counter.n,
        n_reference: sketch.n,
    })
}

/// The largest distance of distribution functions that the sketch proves.
fn distance_bound(n_reference: u64, counter: &Counter) -> f64 {
    let (n, size) = (n_reference as f64, counter.n_present() as f64);
    let mut largest = 0.0f64;
    for (i, p) in SKETCH_QUANTILES.iter().enumerate() {
        let at = p * (n - 1.0);
        let (k, between) = (at.floor(), f64::from(u8::from(at.fract() > 0.0)));
        let (up_to, below) = (counter.up_to[i] as f64 / size, counter.below[i] as f64 / size);
        largest = largest.max((k + 1.0) / n - up_to).max(below - (k + between) / n);
    }
    largest
}

/// Training shares and new counts between the deciles; equal deciles are one edge.
fn decile_bins(quantiles: &[f64], counter: &Counter) -> (Vec<f64>, Vec<f64>) {
    // The share of training rows up to an edge, the edge, and new rows up to it.
    let mut edges: Vec<(f64, f64, u64)> = Vec::new();
    for (i, (&p, &q)) in SKETCH_QUANTILES.iter().zip(quantiles).enumerate() {
        let decile = (p * 10.0 - (p * 10.0).round()).abs() < 1e-9 && p > 0.0 && p < 1.0;
        match edges.last_mut() {
            Some(last) if decile && last.1 == q => last.0 = p,
            _ if decile => edges.push((p, q, counter.up_to[i])),
            _ => {}
        }
    }
    let (mut expected, mut actual) = (Vec::new(), Vec::new());
    let (mut p_before, mut n_before) = (0.0, 0);
    for (p, _, up_to) in edges.into_iter().chain([(1.0, f64::INFINITY, counter.n_present())]) {
        expected.push(p - p_before);
        actual.push((up_to - n_before) as f64);
        (p_before, n_before) = (p, up_to);
    }
    (expected, actual)
}

/// `∫ |Q(p) − Q'(p)| dp` between a sample's steps and the sketch's straight pieces.
fn wasserstein(quantiles: &[f64], x: &[f64]) -> f64 {
    let n = x.len();
    let mut cuts: Vec<f64> = (0..=n).map(|i| i as f64 / n as f64).chain(SKETCH_QUANTILES).collect();
    cuts.sort_unstable_by(f64::total_cmp);
    let at = |p: f64| {
        let i = SKETCH_QUANTILES.partition_point(|q| *q <= p).clamp(1, SKETCH_QUANTILES.len() - 1);
        let (low, high) = (SKETCH_QUANTILES[i - 1], SKETCH_QUANTILES[i]);
        quantiles[i - 1] + (p - low) / (high - low) * (quantiles[i] - quantiles[i - 1])
    };
    let part = |cut: &[f64]| {
        let (from, to) = (cut[0], cut[1]);
        let own = x[((0.5 * (from + to) * n as f64) as usize).min(n - 1)];
        let (a, b) = (at(from) - own, at(to) - own);
        // A straight line that crosses 0 leaves two triangles.
        let mean = if a * b < 0.0 { (a * a + b * b) / (2.0 * (a - b).abs()) } else { (a + b).abs() / 2.0 };
        mean * (to - from)
    };
    cuts.windows(2).map(part).sum()
}

fn names(sketch: &FeatureSketch, counter: &Counter) -> Result<FeatureDrift, RobustError> {
    let n_present = counter.n_present();
    if n_present == 0 || !sketch.quantiles.is_empty() {
        let why = if n_present == 0 { "has no values" } else { "has a sketch of numbers" };
        return Err(RobustError::Rows(format!("\"{}\" {why}", sketch.name)));
    }
    let reference = (sketch.n - sketch.n_missing) as f64;
    let share = n_present as f64 / (n_present as f64 + reference);
    let known: u64 = sketch.counts.values().sum();
    // Rare names that the sketch left out, and names that training never saw.
    let (mut expected, mut actual) = (vec![(reference - known as f64).max(0.0)], vec![counter.others as f64]);
    for (name, &count) in &sketch.counts {
        let own = counter.names.get(name).copied().unwrap_or(0) as f64;
        if (count as f64 + own) * share.min(1.0 - share) < EXPECTED_MIN {
            expected[0] += count as f64;
            actual[0] += own;
        } else {
            expected.push(count as f64);
            actual.push(own);
        }
    }
    let tested = chi_squared(&expected, &actual)?;
    Ok(FeatureDrift {
        name: sketch.name.clone(),
        test: "chi_squared",
        tested,
        p_holm: tested.p_value,
        p_bh: tested.p_value,
        psi: psi(&expected, &actual)?,
        wasserstein: None,
        missing: missing(sketch, counter)?,
        n: counter.n,
        n_reference: sketch.n,
    })
}

fn missing(sketch: &FeatureSketch, counter: &Counter) -> Result<Option<Tested>, RobustError> {
    if sketch.n_missing == 0 && counter.n_missing == 0 {
        return Ok(None);
    }
    let before = [sketch.n_missing as f64, (sketch.n - sketch.n_missing) as f64];
    let now = [counter.n_missing as f64, counter.n_present() as f64];
    Ok(Some(chi_squared(&before, &now)?))
}

/// How far in the tails of a number's training values `x` lies: the two-sided share of training rows at least as
/// far out, never below `1 / (n + 1)`, straight between the sketch's points.
pub fn tail(sketch: &FeatureSketch, x: f64) -> f64 {
    let q = &sketch.quantiles;
    let least = 1.0 / (sketch.n - sketch.n_missing + 1) as f64;
    if q.len() != SKETCH_QUANTILES.len() {
        return least;
    }
    let share = if x < q[0] {
        0.0
    } else if x > q[q.len() - 1] {
        1.0
    } else {
        // Of equal points the ones that say "more usual".
        let (first, last) = (q.partition_point(|q| *q < x), q.partition_point(|q| *q <= x));
        if last > first {
            let (low, high) = (SKETCH_QUANTILES[first], SKETCH_QUANTILES[last - 1]);
            0.5f64.clamp(low, high)
        } else {
            let (low, high) = (q[first - 1], q[first]);
            let (p_low, p_high) = (SKETCH_QUANTILES[first - 1], SKETCH_QUANTILES[first]);
            p_low + (x - low) / (high - low) * (p_high - p_low)
        }
    };
    (2.0 * share.min(1.0 - share)).clamp(least, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::ks_two_samples;
    use lyceum_models::space::gaussian;

    /// As training makes it.
    fn sketch(name: &str, x: &[f64]) -> FeatureSketch {
        let mut x = x.to_vec();
        x.sort_unstable_by(f64::total_cmp);
        let n = x.len();
        let mean = x.iter().sum::<f64>() / n as f64;
        let quantile = |p: &f64| {
            let at = p * (n - 1) as f64;
            let low = at.floor() as usize;
            x[low] + at.fract() * (x[(low + 1).min(n - 1)] - x[low])
        };
        FeatureSketch {
            name: name.into(),
            n: n as u64,
            n_missing: 0,
            mean: Some(mean),
            std: Some((x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt()),
            min: x.first().copied(),
            max: x.last().copied(),
            quantiles: SKETCH_QUANTILES.iter().map(quantile).collect(),
            counts: BTreeMap::new(),
        }
    }

    fn normal(seed: u64, n: usize, shift: f64) -> Vec<f64> {
        let mut rng = crate::generator(seed, 0);
        (0..n).map(|_| f64::from(gaussian(&mut rng)) + shift).collect()
    }

    #[test]
    fn a_sketch_never_claims_more_than_the_rows_and_finds_a_shift() {
        let train = normal(1, 700, 0.0);
        // Numbers with many ties too: rounding them makes jumps at the quantiles.
        for round in [f64::NAN, 1.0, 2.0] {
            let rounded = |v: Vec<f64>| -> Vec<f64> {
                v.into_iter().map(|x| if round.is_nan() { x } else { (x * round).round() / round }).collect()
            };
            let train = rounded(train.clone());
            let sketch = sketch("x", &train);
            for (seed, shift) in [(2, 0.0), (3, 0.1), (4, 0.5), (5, -2.0)] {
                let new = rounded(normal(seed, 300, shift));
                let full = ks_two_samples(&train, &new).unwrap();
                let values = Values::Numbers(new.iter().map(|x| Some(*x)).collect());
                let found = &compare(std::slice::from_ref(&sketch), &[("x".into(), values)]).unwrap()[0];
                assert!(found.tested.statistic <= full.statistic + 1e-12, "{round} {shift}");
                assert!(found.tested.p_value >= full.p_value - 1e-12);
                // Where rows tie at the quantiles the bound is weaker: it finds what is large.
                let small = if round.is_nan() { 0.4 } else { 1.0 };
                assert!(shift.abs() < small || found.p_holm < 1e-3, "{round} {shift}: {found:?}");
                if round.is_nan() {
                    let exact = crate::drift::wasserstein(&train, &new).unwrap();
                    let moved = found.wasserstein.unwrap() * sketch.std.unwrap();
                    assert!((moved - exact).abs() < 0.05, "{shift}: {moved} {exact}");
                    assert!((found.psi < 0.1) == (shift < 0.4 && shift > -0.4), "{shift}: {}", found.psi);
                }
            }
        }
    }

    #[test]
    fn false_alarms_over_many_windows_stay_below_their_level() {
        let sketch = sketch("x", &normal(1, 2000, 0.0));
        let alarm = |seed: &u64| {
            let values = Values::Numbers(normal(100 + seed, 150, 0.0).into_iter().map(Some).collect());
            let found = compare(std::slice::from_ref(&sketch), &[("x".into(), values)]).unwrap();
            found[0].p_holm < 0.05
        };
        let n_alarms = (0..200).filter(alarm).count();
        assert!(n_alarms <= 18, "{n_alarms} of 200");
    }

    #[test]
    fn names_that_training_never_saw_and_missing_values_are_drift() {
        let mut sketch = sketch("zip", &[1.0]);
        (sketch.quantiles, sketch.n, sketch.n_missing) = (vec![], 200, 0);
        sketch.counts = BTreeMap::from([("a".into(), 100), ("b".into(), 100)]);
        let run = |names: &[Option<&str>]| {
            let names = names.iter().map(|n| n.map(str::to_owned)).collect();
            compare(std::slice::from_ref(&sketch), &[("zip".into(), Values::Names(names))]).unwrap().remove(0)
        };
        let same = run(&[Some("a"), Some("b")].repeat(30));
        assert!(same.tested.p_value > 0.99 && same.missing.is_none() && same.psi < 1e-9);
        let unseen = run(&[Some("a"), Some("c")].repeat(30));
        assert!(unseen.p_holm < 1e-6 && unseen.psi > 1.0, "{unseen:?}");
        let gaps = run(&[Some("a"), Some("b"), None].repeat(20));
        assert!(gaps.missing.unwrap().p_value < 1e-6 && gaps.tested.p_value > 0.99);
        let wrong = Values::Numbers(vec![Some(1.0)]);
        assert!(compare(std::slice::from_ref(&sketch), &[("zip".into(), wrong.clone())]).is_err());
        assert!(compare(std::slice::from_ref(&sketch), &[("other".into(), wrong)]).is_err());
    }

    #[test]
    fn tails_are_shares_of_training_rows() {
        let x: Vec<f64> = (0..=1000).map(f64::from).collect();
        let sketch = sketch("x", &x);
        for (x, share) in [(500.0, 1.0), (50.0, 0.1), (990.0, 0.02), (250.0, 0.5)] {
            assert!((tail(&sketch, x) - share).abs() < 2e-3, "{x}: {}", tail(&sketch, x));
        }
        assert_eq!(tail(&sketch, 5000.0), 1.0 / 1002.0);
    }
}
